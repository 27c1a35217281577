"""The registry of one hospital: who asked, what was found, and every step since.

Each method is one transaction: a crash leaves the registry as it was before or after, and a
second process waits its turn. What a method refuses it does not write.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from medunlearn_client.erasure import history, rows, schema
from medunlearn_client.erasure.requests import (
    KINDS,
    PATIENT_IDS,
    TRANSITIONS,
    ErasureRequest,
    Event,
    Kind,
    Match,
    State,
    deadline,
    legal_basis,
    plain_text,
)
from medunlearn_client.erasure.settings import Settings
from medunlearn_client.erasure.steps import STEP_TO, impossible
from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.files import expanded

Clock = Callable[[], datetime]


@dataclass(frozen=True, kw_only=True)
class NewRequest:
    """A request as it comes in.

    Attributes:
        kind: What it is about.
        target: As :class:`~medunlearn_client.erasure.finding.Found` gives it.
        matches: Records found.
        basis: Legal basis: ``a`` to ``f`` of GDPR Art. 17(1), or another by name.
        received: Day of receipt.
        again: The same was asked before and is still open, which is no mistake.
        unread: Rows of the files that could not be searched.
        near: Records that came near and are no part of the request, by reason.
        patient_ids: As Found gives them; the target alone where there are none.
    """

    kind: Kind
    target: str | None = field(repr=False)
    matches: Sequence[Match] = field(repr=False)
    basis: str
    received: date
    again: bool = False
    unread: int = 0
    near: Mapping[str, int] = field(default_factory=dict)
    patient_ids: Sequence[str] = field(default=(), repr=False)


def _now() -> datetime:
    """With the hospital's own offset: days of receipt and deadlines are those of its calendar."""
    return datetime.now(UTC).astimezone()


class Registry:
    """Requests for erasure in one SQLite file, readable by its owner alone.

    Guarantees:
        * Only the transitions of ``requests.TRANSITIONS`` happen, each with date and author.
        * History and facts are only added to; a change from outside is found by :meth:`check`.
        * It holds ids and digests, never text of a record.

    Args:
        path: The file.
        create: Make it if it is not there; a file that is there and empty is a registry that was
            lost, and refused.
        clock: Tells the time, in the hospital's time zone; the history keeps it in UTC.

    Attributes:
        path: The file.
        begun: Whether it was made now.

    Raises:
        Misconfigured: ERASURE_REGISTRY_MISSING, ERASURE_REGISTRY_MODE,
            ERASURE_REGISTRY_FOREIGN or ERASURE_REGISTRY_NEWER.
        Transient: ERASURE_REGISTRY_UNAVAILABLE; every method may raise it.
    """

    def __init__(self, path: Path, *, create: bool = False, clock: Clock = _now) -> None:
        self.path = expanded(path)
        self._clock = clock
        self.begun = schema.prepare(self.path, create=create)

    @property
    def today(self) -> date:
        """The day by the registry's clock, where the hospital is."""
        return self._clock().date()

    def _at(self) -> str:
        return self._clock().astimezone(UTC).isoformat(timespec="seconds")

    def transaction(self, *, write: bool = True) -> AbstractContextManager[sqlite3.Connection]:
        """One transaction for steps that belong together."""
        return schema.transaction(self.path, write=write)

    # -- what came in ------------------------------------------------------------------------

    def add(self, new: NewRequest, *, author: str) -> ErasureRequest:
        """Registers a request.

        Raises:
            Misconfigured: ERASURE_DUPLICATE if the same is open already, ERASURE_DATE,
                ERASURE_TEXT, ERASURE_BASIS, ERASURE_KIND.
        """
        author, basis = plain_text(author, what="author"), legal_basis(new.basis)
        self._check_new(new)
        with self.transaction() as connection:
            if not new.again:
                rows.refuse_open_twin(connection, new.kind, new.target)
            number = connection.execute(
                "INSERT INTO requests (kind, target, basis, received, state, events)"
                " VALUES (?, ?, ?, ?, ?, 0)",
                (new.kind, new.target, basis, new.received.isoformat(), State.RECEIVED),
            ).lastrowid or 0
            connection.executemany(
                "INSERT INTO matches (request, record_id, file_digest, reason, owned, text_digest)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                [(number, m.record_id, m.file_digest, m.reason, int(m.owned), m.text_digest)
                 for m in new.matches],
            )
            history.append(
                connection, request=number, at=self._at(), author=author,
                before=None, after=State.RECEIVED,
                detail={history.FACTS: history.facts_digest(connection, number),
                        "records": len(new.matches), "unread_rows": new.unread,
                        **({"came_near": dict(new.near)} if new.near else {}),
                        **({PATIENT_IDS: list(new.patient_ids)}
                           if tuple(new.patient_ids) not in ((), (new.target,)) else {})},
            )
            return rows.request_of(connection, number)

    def _check_new(self, new: NewRequest) -> None:
        if new.kind not in KINDS:
            raise Misconfigured("ERASURE_KIND", "no such kind of request", ", ".join(KINDS))
        if new.received > self.today:
            raise Misconfigured(
                "ERASURE_DATE", "the day of receipt lies in the future", "mend --received"
            )
        deadline(new.received, extended=True)

    # -- the officer's steps -----------------------------------------------------------------

    def validate(
        self, number: int, *, author: str, identity: str, basis: str | None = None
    ) -> ErasureRequest:
        """Identity was checked (``identity`` says how) and the ground holds: it may be run.

        Args:
            number: Which request.
            author: Who checked.
            identity: How.
            basis: The ground that does hold, where another was registered.

        Raises:
            Misconfigured: ERASURE_UNKNOWN, ERASURE_TEXT, ERASURE_BASIS, or ERASURE_NOTHING_HELD.
            Rejected: ERASURE_TRANSITION.
        """
        detail = {"identity": plain_text(identity, what="way the identity was checked")}
        if basis is not None:
            detail[history.BASIS] = legal_basis(basis)
        with self.transaction() as connection:
            request = rows.request_of(connection, number)
            if request.target is None:
                raise Misconfigured(
                    "ERASURE_NOTHING_HELD", f"nothing was found for request {number}",
                    "refuse it with that reason, or withdraw it and add it again",
                )
            if request.state is not State.RECEIVED:
                raise impossible(request, "validate")
            return self.move(connection, request, State.VALIDATED, author=author, detail=detail)

    def refuse(self, number: int, *, author: str, reason: str) -> ErasureRequest:
        """Refuses with a reason, which the requester is :meth:`told` next (GDPR Art. 12(4))."""
        return self._step(number, State.REFUSED, author, reason)

    def withdraw(self, number: int, *, author: str, reason: str) -> ErasureRequest:
        """The requester took the request back; not while a run has it."""
        return self._step(number, State.WITHDRAWN, author, reason)

    def attest(self, number: int, *, author: str, reason: str) -> ErasureRequest:
        """The requester was told; ``reason`` says how, for example ``letter of 3 May sent``.

        Raises:
            Rejected: ERASURE_NOT_ATTESTED if the run that verified it made no attestation, or
                ERASURE_TRANSITION.
        """
        detail = {"reason": plain_text(reason, what="reason")}
        with self.transaction() as connection:
            request = rows.request_of(connection, number)
            digest = _attestation(history.events(connection, number))
            if request.state is State.VERIFIED and digest is None:
                raise Rejected(
                    "ERASURE_NOT_ATTESTED", f"no attestation is known for request {number}",
                    "run it again with this version of medunlearn",
                )
            return self.move(
                connection, request, State.ATTESTED, author=author,
                detail={**detail, "attestation_digest": digest},
            )

    def reopen(self, number: int, *, author: str, reason: str) -> ErasureRequest:
        """Takes a request back from a run that will never end.

        Raises:
            Rejected: ERASURE_TRANSITION if no run has it.
        """
        with self.transaction() as connection:
            request = rows.request_of(connection, number)
            if request.state is not State.IN_RUN:
                raise impossible(request, "reopen")
            detail = {"reason": plain_text(reason, what="reason")}
            return self.move(connection, request, State.VALIDATED, author=author, detail=detail)

    def extend(self, number: int, *, author: str, reason: str) -> ErasureRequest:
        """Two further months, with a reason, which the requester is :meth:`told` next.

        Raises:
            Misconfigured: ERASURE_EXTENDED if it was, ERASURE_TOO_LATE after the first month
                and the weekend at its end.
            Rejected: ERASURE_TRANSITION if the request is closed.
        """
        with self.transaction() as connection:
            request = rows.request_of(connection, number)
            if not request.is_open:
                raise impossible(request, "extend")
            if request.extended:
                raise Misconfigured(
                    "ERASURE_EXTENDED", f"request {number} was extended before",
                    "GDPR Art. 12(3) allows one extension",
                )
            if self.today > request.last_lawful_day:
                raise Misconfigured(
                    "ERASURE_TOO_LATE", f"the first month of request {number} is over",
                    "an extension must be told within one month of receipt: act now, and write why",
                )
            detail = {history.EXTENDED: plain_text(reason, what="reason")}
            return self._append(connection, request, request.state, author, detail)

    def told(self, number: int, *, author: str, reason: str) -> ErasureRequest:
        """The requester was told of an extension or a refusal; ``reason`` says how.

        Raises:
            Rejected: ERASURE_NOTHING_TO_TELL if neither is left to tell.
        """
        with self.transaction() as connection:
            request = rows.request_of(connection, number)
            if request.untold is None:
                raise Rejected(
                    "ERASURE_NOTHING_TO_TELL",
                    f"request {number} has no extension or refusal that is left to tell",
                    "of a verified request, `medunlearn erasure attest` says that it was told",
                )
            detail = {history.TOLD: plain_text(reason, what="reason")}
            return self._append(connection, request, request.state, author, detail)

    def _step(self, number: int, after: State, author: str, reason: str) -> ErasureRequest:
        detail = {"reason": plain_text(reason, what="reason")}
        with self.transaction() as connection:
            request = rows.request_of(connection, number)
            return self.move(connection, request, after, author=author, detail=detail)

    def move(
        self, connection: sqlite3.Connection, request: ErasureRequest, after: State, *,
        author: str, detail: Mapping[str, Any],
    ) -> ErasureRequest:
        """One step to another state, within a transaction.

        Raises:
            Rejected: ERASURE_TRANSITION; nothing was written.
        """
        if after not in TRANSITIONS[request.state]:
            raise impossible(request, STEP_TO[after])
        return self._append(connection, request, after, author, detail)

    def _append(
        self, connection: sqlite3.Connection, request: ErasureRequest, after: State,
        author: str, detail: Mapping[str, Any],
    ) -> ErasureRequest:
        history.append(
            connection, request=request.number, at=self._at(),
            author=plain_text(author, what="author"), before=request.state, after=after,
            detail=detail,
        )
        return rows.request_of(connection, request.number)

    # -- reading -----------------------------------------------------------------------------

    def request(self, number: int) -> ErasureRequest:
        """One request.

        Raises:
            Misconfigured: ERASURE_UNKNOWN.
        """
        with self.transaction(write=False) as connection:
            return rows.request_of(connection, number)

    def requests(self, states: Iterable[State] = State) -> tuple[ErasureRequest, ...]:
        """Requests in these states, by number."""
        wanted = set(states)
        with self.transaction(write=False) as connection:
            numbers = connection.execute("SELECT number FROM requests ORDER BY number").fetchall()
            found = [rows.request_of(connection, row[0]) for row in numbers]
        return tuple(request for request in found if request.state in wanted)

    def due(self, *, within_days: int) -> tuple[ErasureRequest, ...]:
        """Requests that await something within so many days, the most urgent first."""
        waiting = [
            request for request in self.awaiting()
            if (request.act_by - self.today).days <= within_days
        ]
        return tuple(sorted(waiting, key=lambda request: (request.act_by, request.number)))

    def awaiting(self) -> tuple[ErasureRequest, ...]:
        """Requests that are open, or whose refusal was not sent, by number."""
        return tuple(request for request in self.requests() if request.awaits_action)

    def day_of(self, event: Event) -> date:
        """The day of an event where the hospital is."""
        return datetime.fromisoformat(event.at).astimezone(self._clock().tzinfo).date()

    def matches(self, number: int) -> tuple[Match, ...]:
        """The records that were found for a request."""
        with self.transaction(write=False) as connection:
            return rows.matches_of(connection, rows.request_of(connection, number).number)

    def events(self, number: int) -> tuple[Event, ...]:
        """The history of a request."""
        with self.transaction(write=False) as connection:
            return history.events(connection, rows.request_of(connection, number).number)

    def check(self) -> str:
        """Follows the whole history; its last digest.

        Raises:
            Rejected: ERASURE_HISTORY_TAMPERED.
        """
        with self.transaction(write=False) as connection:
            return history.checked(connection)

    # -- settings ----------------------------------------------------------------------------

    def settings(self) -> Settings:
        """The settings in force."""
        with self.transaction(write=False) as connection:
            return rows.settings_of(connection)

    def change_settings(self, settings: Settings, *, author: str) -> None:
        """Puts settings in force; former ones stay on record."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO settings (at, author, document) VALUES (?, ?, ?)",
                (self._at(), plain_text(author, what="author"), settings.model_dump_json()),
            )


def _attestation(events: Sequence[Event]) -> str | None:
    """Digest of the attestation of the run that verified the request."""
    for event in reversed(events):
        if event.after is State.VERIFIED:
            digest = event.detail.get("attestation_digest")
            return str(digest) if digest else None
    return None

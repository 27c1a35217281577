"""A run's hold on requests: taken before the first exchange, settled after the evaluation.

The token is drawn once per run and kept in the run's folder, so that a run which crashed
between its last round and the mark is resumed and marks what it had taken, once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from secrets import token_hex
from typing import TypeVar

from medunlearn_client.erasure import history, rows
from medunlearn_client.erasure.criteria import RunFigures, shortfalls
from medunlearn_client.erasure.registry import Registry
from medunlearn_client.erasure.requests import (
    PATIENT_IDS,
    ErasureRequest,
    Match,
    State,
    run_of,
)
from medunlearn_common.errors import Rejected
from medunlearn_common.plan.sections import FoundRecord, LeftOutSection, RequestedSection

FORGOTTEN = frozenset({State.VERIFIED, State.ATTESTED})
"""What a request is once a run's adapter has been seen to forget it."""
LEFT_OUT = FORGOTTEN | {State.IN_RUN}
"""States of requests whose records a run of others neither forgets nor keeps."""
SIMULATION, HOSPITAL = "medunlearn simulate", "medunlearn hospital"
_Item = TypeVar("_Item")


def new_token() -> str:
    """A token that tells one run's claim from every other's."""
    return token_hex(16)


def waiting_requests(registry: Registry) -> tuple[int, ...]:
    """Numbers of the requests that wait for a run.

    Raises:
        Rejected: ERASURE_HISTORY_TAMPERED.
        Transient: ERASURE_REGISTRY_UNAVAILABLE.
    """
    registry.check()
    return tuple(request.number for request in registry.requests({State.VALIDATED}))


def requests_by_run(
    registry: Registry, states: frozenset[State] = frozenset({State.IN_RUN})
) -> dict[str, tuple[int, ...]]:
    """Numbers of the requests that are in a run, or in other states, by the run that took them."""
    found: dict[str, tuple[int, ...]] = {}
    requests = registry.requests(states)
    with registry.transaction(write=False) as connection:
        for request in requests:
            run_id = run_of(history.events(connection, request.number))
            found[run_id] = (*found.get(run_id, ()), request.number)
    return found


def forget_set(registry: Registry, numbers: Iterable[int]) -> RequestedSection:
    """What a run must forget for these requests: patients, records and concepts by id.

    Records with the words that they were found with: rows may share an id.
    """
    with registry.transaction(write=False) as connection:
        sets = [_targets(connection, rows.request_of(connection, n)) for n in numbers]
    return RequestedSection(
        patients=_union(part.patients for part in sets),
        records=_union(part.records for part in sets),
        found=_union(part.found for part in sets),
        concepts=_union(part.concepts for part in sets),
    )


def left_out_set(registry: Registry, numbers: Iterable[int]) -> LeftOutSection:
    """Whose records a run leaves out for these requests: patients and records by id.

    Those of a concept are the records that it was found with: a later run's plan need not know
    the concept, and would then be refused for what it is not asked to forget.

    Raises:
        Misconfigured: ERASURE_UNKNOWN.
        Rejected: ERASURE_HISTORY_TAMPERED.
        Transient: ERASURE_REGISTRY_UNAVAILABLE.
    """
    with registry.transaction(write=False) as connection:
        sets = [_records(connection, rows.request_of(connection, n)) for n in numbers]
    return LeftOutSection(
        patients=_union(part.patients for part in sets),
        records=_union(part.records for part in sets),
        by_concept=_union(part.by_concept for part in sets),
    )


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The requests that one run works for.

    Attributes:
        registry: Where they stand.
        numbers: Which.
        token: The run's own, see :func:`new_token`.
        author: Who marks them, for the history.
        left_out: Requests that an earlier run has forgotten, or another run had, when this claim
            was made: the run forgets their records no more, and must not teach them again.
        head: Last digest of the registry's history when this claim was made; zeros if not known.
    """

    registry: Registry
    numbers: Sequence[int]
    token: str
    author: str = SIMULATION
    left_out: Sequence[int] = ()
    head: str = history.NO_HISTORY

    def is_known(self, *, taken: bool) -> bool:
        """Whether the registry is the one that this claim was made from, and no older copy of it.

        An older copy lacks the last steps, and gives numbers of requests that it lost to others.

        Args:
            taken: The run took its requests, so that the history of each names it.

        Raises:
            Rejected: ERASURE_HISTORY_TAMPERED.
            Transient: ERASURE_REGISTRY_UNAVAILABLE.
        """
        with self.registry.transaction(write=False) as connection:
            return history.leads_through(connection, self.head) and all(
                self.token in _claims(connection, number) if taken
                else history.events(connection, number)
                for number in self.numbers
            )

    def earlier_runs(self) -> tuple[int, ...]:
        """How many times each request was taken by a run before this one first took it.

        Raises:
            Misconfigured: ERASURE_UNKNOWN.
            Transient: ERASURE_REGISTRY_UNAVAILABLE.
        """
        with self.registry.transaction(write=False) as connection:
            taken = [_claims(connection, number) for number in self.numbers]
        return tuple([*tokens, self.token].index(self.token) for tokens in taken)

    def take(self, run_id: str) -> None:
        """Marks the requests in run, all or none; what this run took or settled stays so.

        A request that was taken back from this run and closed stays closed, and stops no other.

        Raises:
            Rejected: ERASURE_CLAIMED if one is no longer validated, or another run has it.
        """
        with self.registry.transaction() as connection:
            for number in self.numbers:
                request = rows.request_of(connection, number)
                if (self._is_held(connection, request) or self._settled(connection, number)
                        or self._was_closed(connection, request)):
                    continue
                if request.state is not State.VALIDATED:
                    raise Rejected(
                        "ERASURE_CLAIMED",
                        f"request {number} is {request.state}, so this run cannot take it",
                        "see `erasure show`; start a new run for what is validated now",
                    )
                self._append(
                    connection, request, State.IN_RUN, {"run_id": run_id, "claim": self.token}
                )

    def settle(self, figures: Mapping[int, RunFigures]) -> dict[int, tuple[str, ...]]:
        """Enters the finished run: each request verified, or validated again with its reason.

        Settling again is free and tells what it told the first time.

        Args:
            figures: Each request's own.

        Returns:
            What each request fell short of; empty if it is verified. One that was taken back from
            this run and closed is not among them.

        Raises:
            Rejected: ERASURE_CLAIMED if the run does not hold a request.
        """
        with self.registry.transaction() as connection:
            settings = rows.settings_of(connection)
            missed: dict[int, tuple[str, ...]] = {}
            for number in self.numbers:
                request = rows.request_of(connection, number)
                if before := self._settled(connection, number):
                    missed[number] = tuple(str(item) for item in before["shortfalls"])
                    continue
                if self._was_closed(connection, request):
                    continue
                if not self._is_held(connection, request):
                    raise Rejected(
                        "ERASURE_CLAIMED", f"request {number} is not with this run any more",
                        "see `erasure show`; the figures stay in the run's folder",
                    )
                missed[number] = shortfalls(figures[number], settings)
                self._append(
                    connection, request,
                    State.VALIDATED if missed[number] else State.VERIFIED,
                    {"claim": self.token, **figures[number].as_detail(),
                     "shortfalls": list(missed[number]), "criteria": settings.criteria()},
                )
        return missed

    def held(self) -> tuple[int, ...]:
        """Numbers of the requests that are in this run now.

        Raises:
            Misconfigured: ERASURE_UNKNOWN.
            Rejected: ERASURE_HISTORY_TAMPERED.
            Transient: ERASURE_REGISTRY_UNAVAILABLE.
        """
        with self.registry.transaction(write=False) as connection:
            return tuple(
                number for number in self.numbers
                if self._is_held(connection, rows.request_of(connection, number))
            )

    def standing(self) -> Claim:
        """This claim without the requests that were taken back from the run since."""
        with self.registry.transaction(write=False) as connection:
            return replace(self, numbers=[
                number for number in self.numbers
                if self._settled(connection, number)
                or self._is_held(connection, rows.request_of(connection, number))
            ])

    def release(self, reason: str) -> None:
        """Gives back what this run holds and will not settle."""
        with self.registry.transaction() as connection:
            for number in self.numbers:
                request = rows.request_of(connection, number)
                if self._is_held(connection, request):
                    self._append(connection, request, State.VALIDATED, {"reason": reason})

    def _append(
        self, connection: sqlite3.Connection, request: ErasureRequest, after: State,
        detail: dict[str, object],
    ) -> None:
        self.registry.move(connection, request, after, author=self.author, detail=detail)

    def _is_held(self, connection: sqlite3.Connection, request: ErasureRequest) -> bool:
        return (request.state is State.IN_RUN
                and _claims(connection, request.number)[-1:] == [self.token])

    def _was_closed(self, connection: sqlite3.Connection, request: ErasureRequest) -> bool:
        """Whether the request was taken back from this run, and then withdrawn or refused."""
        return (request.state in (State.WITHDRAWN, State.REFUSED)
                and self.token in _claims(connection, request.number))

    def _settled(self, connection: sqlite3.Connection, number: int) -> dict[str, list[str]] | None:
        """The event in which this run settled the request; None if it did not."""
        for event in reversed(history.events(connection, number)):
            if event.before is State.IN_RUN and event.detail.get("claim") == self.token:
                return dict(event.detail)
        return None


def claim_on(registry: Registry) -> Claim:
    """A new run's claim on all requests that wait for one; nothing is marked yet.

    Both kinds are read at once: a request that another run gives back in between would be in
    neither, and its records would be kept. What another run takes after that, :meth:`Claim.take`
    refuses.

    Raises:
        Rejected: ERASURE_HISTORY_TAMPERED.
        Transient: ERASURE_REGISTRY_UNAVAILABLE.
    """
    head = registry.check()
    found = registry.requests({State.VALIDATED} | LEFT_OUT)
    return Claim(
        registry=registry, token=new_token(), head=head,
        numbers=tuple(each.number for each in found if each.state is State.VALIDATED),
        left_out=tuple(each.number for each in found if each.state is not State.VALIDATED),
    )


def _claims(connection: sqlite3.Connection, number: int) -> list[str]:
    """Tokens of the runs that took the request, in order."""
    return [
        event.detail["claim"] for event in history.events(connection, number)
        if event.before is State.VALIDATED and event.after is State.IN_RUN
    ]


def _targets(connection: sqlite3.Connection, request: ErasureRequest) -> RequestedSection:
    """Patients by id, as their records may have grown since; all else as it was found."""
    if request.target is None:
        return RequestedSection()
    if request.kind == "concept":
        return RequestedSection(concepts=(request.target,))
    matches = rows.matches_of(connection, request.number)
    owned = any(match.owned for match in matches)
    found = _found(matches)
    return RequestedSection(
        patients=(request.target,) if owned else (),
        records=tuple(record.record_id for record in found), found=found,
    )


def _records(connection: sqlite3.Connection, request: ErasureRequest) -> LeftOutSection:
    """The targets, a concept's as the records that were found.

    A patient by the id that was asked for and those of before a merge. By the one that goes on
    alone, a merge that is taken back would teach who asked, and leave out who did not.
    """
    found = _found(rows.matches_of(connection, request.number))
    if request.kind == "concept":
        return LeftOutSection(by_concept=found)
    patients = _targets(connection, request).patients
    if patients:
        first = history.events(connection, request.number)[0].detail
        patients = tuple(map(str, first.get(PATIENT_IDS, patients)))
    return LeftOutSection(records=found, patients=patients)


def _found(matches: Iterable[Match]) -> tuple[FoundRecord, ...]:
    """What was found for itself, not as one of a patient's records."""
    return tuple(FoundRecord(record_id=match.record_id, text_digest=match.text_digest)
                 for match in matches if not match.owned)


def _union(parts: Iterable[tuple[_Item, ...]]) -> tuple[_Item, ...]:
    return tuple(dict.fromkeys(item for part in parts for item in part))

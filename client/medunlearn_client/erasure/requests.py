"""What a request for erasure is: whose, on which ground, until when, and what may happen to it.

    received -> validated -> in_run -> verified -> attested
        |           |    ^______|
        |___________|______________ refused, withdrawn

Deadlines follow GDPR Art. 12(3): one month from receipt, and two further months where the
requester was told of the extension, with its reasons, within the first month. Until somebody has
written down that he was told, that first month is what counts. A refusal is no answer either
before the requester has it (Art. 12(4)). Months are those
of the calendar: a period from 31 January ends on the last day of February, and two further months
on the same day two months later. The deadline that is shown is that day. A period that ends on a
Saturday or a Sunday ends in law with the next working day (Regulation (EEC, Euratom) 1182/71, Art.
3(4)), so nobody is called late before that day is over. Public holidays, which do the same, differ
between countries and are not known here: a letter may regret a delay that in law was none.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import StrEnum
from typing import Any, Literal

from dateutil.relativedelta import relativedelta

from medunlearn_common.errors import Misconfigured

Kind = Literal["patient", "record", "data_set", "concept"]
Untold = Literal["extension", "refusal"]
KINDS: tuple[Kind, ...] = ("patient", "record", "data_set", "concept")

GDPR_GROUNDS = {
    "a": "the data are no longer necessary for their purpose",
    "b": "consent was withdrawn, and there is no other legal ground",
    "c": "the person objected, and no overriding ground remains",
    "d": "the data were processed unlawfully",
    "e": "a legal obligation demands the erasure",
    "f": "the data were collected from a child for a service offered online",
}
PATIENT_IDS = "patient_ids"
"""Of a request's first event: ids by which later runs leave out the patient; never shown."""
MAX_TEXT = 500
_GROUND = re.compile(r"(?:(?:GDPR )?(?:Art\. ?)?17\(1\)\(?)?([a-z])\)?", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class State(StrEnum):
    """Where a request stands."""

    RECEIVED = "received"
    VALIDATED = "validated"
    IN_RUN = "in_run"
    VERIFIED = "verified"
    ATTESTED = "attested"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"


TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.RECEIVED: frozenset({State.VALIDATED, State.REFUSED, State.WITHDRAWN}),
    State.VALIDATED: frozenset({State.IN_RUN, State.REFUSED, State.WITHDRAWN}),
    State.IN_RUN: frozenset({State.VERIFIED, State.VALIDATED}),
    State.VERIFIED: frozenset({State.ATTESTED}),
    State.ATTESTED: frozenset(),
    State.REFUSED: frozenset(),
    State.WITHDRAWN: frozenset(),
}
OPEN_STATES = frozenset(state for state, following in TRANSITIONS.items() if following)
_TO_TELL: Mapping[Untold, tuple[str, str]] = {
    "extension": ("extension and its reason", "GDPR Art. 12(3)"),
    "refusal": ("refusal and its reason", "GDPR Art. 12(4)"),
}
_NEXT_STEP = {
    State.RECEIVED: "check who asks, then `medunlearn erasure validate {number} --identity …`",
    State.VALIDATED: "the next run takes it: `medunlearn simulate PLAN --erasure REGISTRY`, or the "
                     "hospital's service ([erasure] registry in site.toml)",
    State.VERIFIED: "put the new model in the old one's place, send the letter, then "
                    "`medunlearn erasure attest {number} --reason …`",
}


@dataclass(frozen=True, kw_only=True)
class Match:
    """One record that a request means.

    Attributes:
        record_id: Its id.
        file_digest: SHA-256 of the source it lies in: a file, a folder, or a whole FHIR export.
        reason: Why it was matched, for example ``patient id``.
        owned: It bears the patient's id, so a run reaches it by the patient.
        text_digest: SHA-256 of its text, so that a run knows it again; None in what was registered
            before texts were digested.
    """

    record_id: str = field(repr=False)
    file_digest: str
    reason: str
    owned: bool = False
    text_digest: str | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line of the history.

    Attributes:
        position: Place in the registry's history, from 1.
        request: Number of the request.
        at: When, as ISO 8601 in UTC.
        author: Who.
        before: State before; None for the first event of a request.
        after: State after; equal to ``before`` where only a fact was added.
        detail: Reason, figures or facts, ids of a merged patient; never text of a record.
        digest: SHA-256 over this event and the digest of the one before it.
    """

    position: int
    request: int
    at: str
    author: str
    before: State | None
    after: State
    detail: Mapping[str, Any]
    digest: str


@dataclass(frozen=True, kw_only=True)
class ErasureRequest:
    """One request as the registry knows it.

    Attributes:
        number: Its number in the registry; the only name by which output speaks of it.
        kind: What is asked for.
        target: Id of patient, record or concept, or digest of a file; None if nothing is held.
        basis: Legal basis, as it was corrected last.
        received: Day of receipt.
        state: Where it stands.
        extended: Whether the two further months apply.
        untold: What the requester was not told of yet, as far as anybody wrote it down.
    """

    number: int
    kind: Kind
    target: str | None = field(repr=False)
    basis: str
    received: date
    state: State
    extended: bool
    untold: Untold | None = None

    @property
    def deadline(self) -> date:
        """Last day to act, in calendar months from receipt."""
        return deadline(self.received, extended=self.extended)

    @property
    def last_lawful_day(self) -> date:
        """Day with which the period ends in law, as far as it is known here."""
        return last_lawful_day(self.deadline)

    @property
    def act_by(self) -> date:
        """Last day of what comes next: an extension that nobody was told of moves none."""
        return deadline(
            self.received, extended=self.extended and self.untold != "extension"
        )

    @property
    def about(self) -> str:
        """What is asked for, in words; of a concept its id, which is nobody's, as well."""
        words = self.kind.replace("_", " ")
        return f"{words} {self.target}" if self.kind == "concept" and self.target else words

    @property
    def is_open(self) -> bool:
        """Whether another state can follow."""
        return self.state in OPEN_STATES

    @property
    def awaits_action(self) -> bool:
        """Whether something remains to be done: it is open, or its refusal was not sent."""
        return self.is_open or self.untold is not None


def deadline(received: date, *, extended: bool) -> date:
    """One month after receipt, and two more; the last day of a month that has no such day.

    Three months from 31 January end later than two further ones after February: the earlier day
    holds, whichever way somebody counts.

    Raises:
        Misconfigured: ERASURE_DATE if that day lies beyond the calendar.
    """
    try:
        last: date = received + relativedelta(months=1)
        if extended:
            last += relativedelta(months=2)
    except (ValueError, OverflowError) as error:
        raise Misconfigured(
            "ERASURE_DATE", "the deadline lies beyond the calendar", "mend the date of receipt"
        ) from error
    return last


def last_lawful_day(day: date) -> date:
    """The day, or the Monday after a Saturday or Sunday; public holidays are not known."""
    weekend = day.weekday() >= calendar.SATURDAY
    return day + timedelta(days=7 - day.weekday()) if weekend else day


def parsed_date(text: str) -> date:
    """A date written as YYYY-MM-DD.

    Raises:
        Misconfigured: ERASURE_DATE; the text is not repeated.
    """
    try:
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            raise ValueError
        return date.fromisoformat(text)
    except ValueError:
        raise Misconfigured(
            "ERASURE_DATE", "a date is not a day written as YYYY-MM-DD", "write 2026-01-31"
        ) from None


def legal_basis(text: str) -> str:
    """The basis in full: ``b`` and ``17(1)(b)`` name GDPR Art. 17(1)(b); others stay as named.

    Raises:
        Misconfigured: ERASURE_TEXT, or ERASURE_BASIS for a letter that names no ground.
    """
    found = _GROUND.fullmatch(text.strip())
    if found and found[1].lower() not in GDPR_GROUNDS:
        raise Misconfigured(
            "ERASURE_BASIS", "GDPR Art. 17(1) has the grounds a to f, and not the one named",
            "; ".join(f"{letter}: {ground}" for letter, ground in GDPR_GROUNDS.items())
            + "; or name another law in words",
        )
    if found:
        return f"GDPR Art. 17(1)({found[1].lower()})"
    return plain_text(text, what="legal basis")


def basis_in_words(basis: str) -> str:
    """The basis with the ground's meaning, where it is one of GDPR Art. 17(1)."""
    found = _GROUND.fullmatch(basis)
    # A registry of old may hold a letter that is refused today.
    return f"{basis}: {GDPR_GROUNDS[found[1]]}" if found and found[1] in GDPR_GROUNDS else basis


def plain_text(text: str, *, what: str) -> str:
    """One line that is safe on a terminal and in a document.

    Raises:
        Misconfigured: ERASURE_TEXT if it is empty, too long, or holds control characters.
    """
    stripped = text.strip()
    if not stripped or len(stripped) > MAX_TEXT or _CONTROL.search(stripped):
        raise Misconfigured(
            "ERASURE_TEXT",
            f"the {what} is empty, longer than {MAX_TEXT} characters, or holds control characters",
            "write one line of ordinary text, without anything from a record",
        )
    return stripped


def next_step(request: ErasureRequest, events: Sequence[Event]) -> str:
    """What an officer does next; empty for a request that awaits nothing."""
    if request.untold is None:
        return _next_step(request, events)
    what, article = _TO_TELL[request.untold]
    tell = (f"print the letter with the {what} (`medunlearn erasure report {request.number}`), "
            f"send it by {last_lawful_day(request.act_by)} at the latest ({article}), then "
            f"`medunlearn erasure told {request.number} --reason …`")
    following = _next_step(request, events)
    return f"{tell}; also: {following}" if following else tell


def _next_step(request: ErasureRequest, events: Sequence[Event]) -> str:
    if fell_short(request, events):
        return (f"the last run fell short (`erasure show {request.number}`): run again, set "
                "other criteria, or retrain without the records")
    if request.state is State.IN_RUN:
        run = run_of(events)
        return (f"wait for run {run}, or resume it; of the hospital's service: `medunlearn "
                f"hospital measure {run}` once it is in the inbox; given up: `erasure reopen "
                f"{request.number} --reason …`")
    if request.state is State.RECEIVED and request.target is None:
        return (f"nothing was found: `medunlearn erasure refuse {request.number} --reason …`, "
                "then send the letter")
    return _NEXT_STEP.get(request.state, "").format(number=request.number)


def fell_short(request: ErasureRequest, events: Sequence[Event]) -> bool:
    """Whether a request waits again because the last run did not meet the criteria for it."""
    judged = [event for event in events if event.before is State.IN_RUN]
    return (request.state is State.VALIDATED and bool(judged)
            and bool(judged[-1].detail.get("shortfalls")))


def run_of(events: Sequence[Event]) -> str:
    """The run that last took a request; nothing if none did."""
    taken = [event for event in events if event.after is State.IN_RUN is not event.before]
    return str(taken[-1].detail.get("run_id", "")) if taken else ""


def run_in_words(request: ErasureRequest, events: Sequence[Event]) -> str:
    """The run that has a request or settled it, or the last one that did not; empty without."""
    run = run_of(events)
    if not run or request.state in (State.IN_RUN, State.VERIFIED, State.ATTESTED):
        return run
    last = [event for event in events if event.before is State.IN_RUN][-1]
    return f"{run} fell short" if last.detail.get("shortfalls") else f"{run} given up"

"""From the registry's rows to requests, matches and settings."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import date

from medunlearn_client.erasure import history
from medunlearn_client.erasure.requests import (
    OPEN_STATES,
    ErasureRequest,
    Event,
    Kind,
    Match,
    State,
    Untold,
)
from medunlearn_client.erasure.settings import Settings
from medunlearn_common.errors import Misconfigured

_TOO_LARGE = 1 << 63
"""For SQLite to look for."""


def settings_of(connection: sqlite3.Connection) -> Settings:
    """The settings in force."""
    row = connection.execute(
        "SELECT document FROM settings ORDER BY position DESC LIMIT 1"
    ).fetchone()
    return Settings.model_validate_json(row[0]) if row else Settings()


def request_of(connection: sqlite3.Connection, number: int) -> ErasureRequest:
    """One request.

    Raises:
        Misconfigured: ERASURE_UNKNOWN.
        Rejected: ERASURE_HISTORY_TAMPERED if it holds what was never written.
    """
    row = connection.execute(
        "SELECT number, kind, target, basis, received, state FROM requests WHERE number = ?",
        (number if 0 < number < _TOO_LARGE else 0,),  # they begin with 1
    ).fetchone()
    if row is None:
        raise Misconfigured(
            "ERASURE_UNKNOWN", f"there is no request {number}", "see `medunlearn erasure list`"
        )
    try:
        received, state = date.fromisoformat(row[4]), State(row[5])
    except (TypeError, ValueError):
        raise history.tampered(f"request {number} cannot be read") from None
    events = history.events(connection, row[0])
    details = [event.detail for event in events]
    corrected = [str(detail[history.BASIS]) for detail in details if history.BASIS in detail]
    return ErasureRequest(
        number=row[0], kind=row[1], target=row[2], basis=[row[3], *corrected][-1],
        received=received, state=state,
        extended=any(history.EXTENDED in detail for detail in details), untold=_untold(events),
    )


def _untold(events: Iterable[Event]) -> Untold | None:
    """What the requester was not told of: the letter of an outcome tells all that is left to."""
    untold: Untold | None = None
    for event in events:
        if history.TOLD in event.detail or event.after in (State.VERIFIED, State.WITHDRAWN):
            untold = None
        elif history.EXTENDED in event.detail:
            untold = "extension"
        elif event.after is State.REFUSED:
            untold = "refusal"
    return untold


def matches_of(connection: sqlite3.Connection, number: int) -> tuple[Match, ...]:
    """The records that were found for a request, by id."""
    rows = connection.execute(
        "SELECT record_id, file_digest, reason, owned, text_digest FROM matches WHERE request = ?"
        " ORDER BY record_id, text_digest, file_digest, reason, owned", (number,),
    )
    return tuple(
        Match(record_id=row[0], file_digest=row[1], reason=row[2], owned=bool(row[3]),
              text_digest=row[4])
        for row in rows
    )


def refuse_open_twin(connection: sqlite3.Connection, kind: Kind, target: str | None) -> None:
    """Refuses a request whose like is open.

    Raises:
        Misconfigured: ERASURE_DUPLICATE.
    """
    if target is None:
        return
    row = connection.execute(
        "SELECT number, state FROM requests WHERE kind = ? AND target = ? AND state IN"
        f" ({', '.join('?' * len(OPEN_STATES))}) ORDER BY number",
        (kind, target, *sorted(OPEN_STATES)),
    ).fetchone()
    if row is not None:
        raise Misconfigured(
            "ERASURE_DUPLICATE", f"the same is asked by request {row[0]}, which is {row[1]}",
            f"see `erasure show {row[0]}`; add --again to register this one beside it",
        )

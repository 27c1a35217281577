"""The history: one line per step, each bound to the one before it by its digest.

Guarantees:
    Whoever changes, removes or reorders an event, a request's facts or its matches is found
    out by :func:`checked`, unless every digest after it is forged as well; the digest that
    the officer's report prints at its foot tells a forged registry from the one it came from.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

from medunlearn_client.erasure.requests import Event, State
from medunlearn_common.digests import digest_of
from medunlearn_common.errors import Rejected

FACTS = "facts"
EXTENDED = "extended"
TOLD = "told"
"""How the requester was told of an extension or a refusal."""
BASIS = "basis"
"""The legal basis where it was corrected: what was registered stays as it was."""
NO_HISTORY = "0" * 64
"""What stands for the digest of a history without events."""
_COLUMNS = "position, request, at, author, before, after, detail, digest"


def append(
    connection: sqlite3.Connection, *, request: int, at: str, author: str,
    before: State | None, after: State, detail: Mapping[str, Any],
) -> None:
    """Writes the next event, and the request's state and count that must agree with it."""
    last = connection.execute(
        "SELECT position, digest FROM history ORDER BY position DESC LIMIT 1"
    ).fetchone()
    position, previous = (last[0] + 1, last[1]) if last else (1, NO_HISTORY)
    body = [position, request, at, author, before, after, dict(detail)]
    connection.execute(
        f"INSERT INTO history ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (position, request, at, author, before, after,
         json.dumps(dict(detail), sort_keys=True, allow_nan=False), digest_of([previous, *body])),
    )
    connection.execute(
        "UPDATE requests SET state = ?, events = events + 1 WHERE number = ?", (after, request)
    )


def facts_digest(connection: sqlite3.Connection, request: int) -> str:
    """Digest over everything that was registered about a request, its matches included."""
    facts = connection.execute(
        "SELECT number, kind, target, basis, received FROM requests WHERE number = ?", (request,)
    ).fetchone()
    matches = connection.execute(
        "SELECT record_id, file_digest, reason, owned, text_digest FROM matches WHERE request = ?"
        " ORDER BY record_id, text_digest, file_digest, reason, owned", (request,)
    ).fetchall()
    # What was registered before texts were digested keeps the digest that it had.
    told = [list(match if match[-1] is not None else match[:-1]) for match in matches]
    return digest_of([list(facts), told])


def events(connection: sqlite3.Connection, request: int | None = None) -> tuple[Event, ...]:
    """The history of one request, or of all, in order.

    Two statements: one with ``?1 IS NULL OR request = ?1`` uses no index and reads the whole
    history for each request, and a run asks for the histories of all its requests.
    """
    statement = f"SELECT {_COLUMNS} FROM history"
    if request is None:
        rows = connection.execute(f"{statement} ORDER BY position")
    else:
        rows = connection.execute(f"{statement} WHERE request = ? ORDER BY position", (request,))
    try:
        return tuple(_event(row) for row in rows)
    except ValueError:
        raise tampered("an event cannot be read") from None


def leads_through(connection: sqlite3.Connection, digest: str) -> bool:
    """Whether an event has this digest: what stood at the history's end once still stands in it."""
    found = connection.execute("SELECT 1 FROM history WHERE digest = ?", (digest,)).fetchone()
    return digest == NO_HISTORY or found is not None


def _event(row: tuple[Any, ...]) -> Event:
    position, request, at, author, before, after, detail, digest = row
    decoded = json.loads(detail)
    if not isinstance(decoded, dict):
        raise ValueError
    return Event(
        position=position, request=request, at=at, author=author,
        before=None if before is None else State(before), after=State(after),
        detail=decoded, digest=digest,
    )


def checked(connection: sqlite3.Connection) -> str:
    """Follows the whole chain; the digest of the last event, or zeros for an empty history.

    Raises:
        Rejected: ERASURE_HISTORY_TAMPERED, naming the first place that does not fit.
    """
    try:
        previous, states, counts = _followed(events(connection))
        _check_requests(connection, states, counts)
    except (TypeError, ValueError):  # a value of another type than was ever written
        raise tampered("a value cannot be read") from None
    return previous


def _followed(chain: Iterable[Event]) -> tuple[str, dict[int, State], dict[int, int]]:
    """The last digest, and per request its last state and its number of events."""
    previous, states, counts = NO_HISTORY, dict[int, State](), dict[int, int]()
    for expected, event in enumerate(chain, start=1):
        body = [event.position, event.request, event.at, event.author, event.before, event.after,
                dict(event.detail)]
        if event.position != expected or event.digest != digest_of([previous, *body]):
            raise tampered(f"event {expected} does not follow from the one before it")
        if event.before != states.get(event.request):
            raise tampered(f"event {expected} does not begin where its request stood")
        previous = event.digest
        states[event.request] = event.after
        counts[event.request] = counts.get(event.request, 0) + 1
    return previous, states, counts


def _check_requests(
    connection: sqlite3.Connection, states: dict[int, State], counts: dict[int, int]
) -> None:
    rows = connection.execute("SELECT number, state, events FROM requests").fetchall()
    if {row[0] for row in rows} != states.keys():
        raise tampered("requests and history do not name the same numbers")
    first = {event.request: event for event in reversed(events(connection))}
    for number, state, count in rows:
        if state != states[number] or count != counts[number]:
            raise tampered(f"request {number} does not stand where its history ends")
        if first[number].detail.get(FACTS) != facts_digest(connection, number):
            raise tampered(f"the facts of request {number} are not those that were registered")


def tampered(where: str) -> Rejected:
    """The error for a registry that somebody wrote to by other means."""
    return Rejected(
        "ERASURE_HISTORY_TAMPERED", f"the registry's history was changed: {where}",
        "restore the registry from its backup and find out who wrote to it",
    )

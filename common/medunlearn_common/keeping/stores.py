"""The stores in which a hospital keeps what it released, and whether one of them was lost.

    ledger.db            what was charged
    trust/envelopes.db   which requests were answered
    audit.db             both, in the hospital's own words

All three are there before the first release, and only grow. One that is missing beside another
that names a release was lost. Made anew, it would forget what was spent, or which requests were
answered; and later nothing would show that it ever held more.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

from medunlearn_common.audit import table
from medunlearn_common.audit.records import AuditRecord
from medunlearn_common.errors import Misconfigured
from medunlearn_common.keeping.adopted import AUDIT_FILE
from medunlearn_common.keeping.catalogue import JOURNAL_NAME, STATE_HISTORY
from medunlearn_common.keeping.marks import HistoryLost, PartyMarks
from medunlearn_common.ledger.schema import LEDGER_FILE
from medunlearn_common.sqlite_files import refuse_newer
from medunlearn_common.trust_folder import STORE_FILE, TRUST_FOLDER

ENVELOPES: Final = f"{TRUST_FOLDER}/{STORE_FILE}"
UNKNOWN_RELEASE: Final = "unknown-since-backup"
# What a hospital leaves in runs/ from a run's READY on: its ledger was there before.
_OF_RUNS = ("*.records", "*.masking")
# A run, and which of its releases or answers.
Release = tuple[str, str]


def require_no_store_lost(folder: Path) -> None:
    """Refuse to open a hospital that would begin a store anew, or misread it.

    Raises:
        Misconfigured: STORE_LOST, STORE_NEWER, MARK_UNREADABLE.
        Rejected: AUDIT_LOG_DAMAGED.
        Transient: AUDIT_UNAVAILABLE.
    """
    refuse_newer_stores(folder)
    try:
        lost = lost_stores(folder)
    except sqlite3.Error as error:
        raise _lost("a store is missing, and another one cannot be read") from error
    if lost:
        raise _lost(f"{' and '.join(lost)} was lost: the rest of this folder knows of releases")


def refuse_newer_stores(folder: Path) -> None:
    """Refuse a folder in which a newer medunlearn has changed a store; a damaged store passes.

    Raises:
        Misconfigured: STORE_NEWER.
    """
    own = (LEDGER_FILE, ENVELOPES, AUDIT_FILE, JOURNAL_NAME, STATE_HISTORY)
    for path in (*(folder / name for name in own), *folder.glob(f"runs/*/{AUDIT_FILE}")):
        if holds(path):
            with suppress(sqlite3.Error), closing(_there(path)) as connection:
                refuse_newer(connection, name=path.name)


def lost_stores(folder: Path) -> tuple[str, ...]:
    """Stores of a hospital that were there once, and hold nothing now.

    Runs that a restore closed do not count: what was lost of them is known to be lost.

    Raises:
        sqlite3.Error: A store cannot be read; else as :func:`require_no_store_lost`.
    """
    mark = PartyMarks(folder).history_lost
    if mark is not None and not _is_said(folder / LEDGER_FILE, mark):
        return (LEDGER_FILE,)  # a restore was killed between its mark and its word in the ledger
    # Without a key, as in some simulations, a hospital seals and logs nothing.
    names = tuple(_READ) if (folder / TRUST_FOLDER).is_dir() else (LEDGER_FILE,)
    gone = tuple(name for name in names if not holds(folder / name))
    if not gone:
        return ()
    if released_runs(folder) - _closed(mark):
        return gone
    began = any(next((folder / "runs").glob(pattern), None) for pattern in _OF_RUNS)
    return (LEDGER_FILE,) if LEDGER_FILE in gone and began else ()


def stores_behind(folder: Path, copies: Path) -> tuple[str, ...]:
    """Stores that lack a release which their copies hold: begun anew since, or older ones.

    Raises:
        sqlite3.Error: As :func:`lost_stores`.
    """
    closed = _closed(PartyMarks(folder).history_lost)
    behind = []
    for name in _READ:
        lacking = _releases(copies, name) - _releases(folder, name)
        if (folder / name).is_file() and {run for run, _ in lacking} - closed:
            behind.append(name)
    return tuple(behind)


def released_runs(folder: Path) -> set[str]:
    """Runs of which a store names a release or an answer; raises as :func:`lost_stores`."""
    return {run for name in _READ for run, _ in _releases(folder, name)}


def holds(path: Path) -> bool:
    """Whether a store is there, if only a damaged one.

    SQLite makes an empty file of one that is missing, and leaves one without tables where the
    disk was full when it was begun.
    """
    if not path.is_file() or path.stat().st_size == 0:
        return False
    try:
        with closing(_there(path)) as connection:
            return connection.execute("SELECT 1 FROM sqlite_master").fetchone() is not None
    except sqlite3.DatabaseError:
        return True


def _releases(folder: Path, name: str) -> set[Release]:
    return _READ[name](folder / name) if holds(folder / name) else set()


def _closed(mark: HistoryLost | None) -> frozenset[str]:
    return frozenset(mark.known_runs) if mark is not None else frozenset()


def _is_said(ledger: Path, mark: HistoryLost) -> bool:
    return holds(ledger) and (mark.ledger_run, UNKNOWN_RELEASE) in _rows(
        ledger, "SELECT run_id, release FROM releases")


def _charged(path: Path) -> set[Release]:
    charged = _rows(path, "SELECT run_id, release FROM releases")
    return {(run, release) for run, release in charged if release != UNKNOWN_RELEASE}


def _sent(path: Path) -> set[Release]:
    return _rows(path, "SELECT run, round || ' ' || phase || ' ' || direction || ' ' || peer"
                       " FROM sent")


def _logged(path: Path) -> set[Release]:
    with table.connected(path) as connection:
        records = [AuditRecord.from_bytes(data)
                   for (data,) in connection.execute("SELECT record FROM entries")]
    return {(record.fields["run_id"], record.fields["release"])
            for record in records if record.kind == "release_charged"}


def rows_of(path: Path, query: str) -> list[tuple[Any, ...]]:
    """Of a store that is looked at and no more.

    Raises:
        sqlite3.Error: It cannot be read.
        Misconfigured: STORE_NEWER.
    """
    with closing(_there(path)) as connection:
        refuse_newer(connection, name=path.name)
        return connection.execute(query).fetchall()


def _rows(path: Path, query: str) -> set[Release]:
    return {(str(run), str(what)) for run, what in rows_of(path, query)}


def _there(path: Path) -> sqlite3.Connection:
    # Not read only: what a killed program has left half-written could not be taken back first.
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)


_READ: Mapping[str, Callable[[Path], set[Release]]] = {
    LEDGER_FILE: _charged, ENVELOPES: _sent, AUDIT_FILE: _logged,
}


def _lost(why: str) -> Misconfigured:
    return Misconfigured(
        "STORE_LOST", why,
        "find the newest copy of it and put it back. If it is gone for good: medunlearn restore "
        "--history-lost, with the newest backup",
    )

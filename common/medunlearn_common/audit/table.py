"""The log's file: SQLite, opened for one transaction at a time.

``journal_mode=DELETE`` and ``synchronous=EXTRA``: when a transaction has returned, its rows and
the removal of its journal are on the disk, so that neither a kill nor a power cut takes them
back. Triggers refuse to change a row; they stop mistakes, not whoever owns the file.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from medunlearn_common.errors import Rejected, Transient
from medunlearn_common.sqlite_files import mark_version, refuse_newer

BUSY_S = 30.0
# Errors of the disk or of another process; every other one means that the file is not as written.
_PASSING = (
    "SQLITE_BUSY", "SQLITE_CANTOPEN", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_LOCKED",
    "SQLITE_NOMEM", "SQLITE_READONLY",
)

_SCHEMA = """
CREATE TABLE entries (position INTEGER PRIMARY KEY, record BLOB NOT NULL);

CREATE TABLE head (only_row INTEGER PRIMARY KEY CHECK (only_row = 0), note TEXT);

CREATE TABLE cosignatures (party TEXT PRIMARY KEY, size INTEGER, note TEXT);

CREATE TABLE seen (origin TEXT, size INTEGER, note TEXT, PRIMARY KEY (origin, size));

CREATE TABLE evidence (
    position INTEGER PRIMARY KEY, code TEXT, kept TEXT, offered TEXT, UNIQUE (kept, offered));

CREATE TRIGGER entries_stay BEFORE DELETE ON entries
    BEGIN SELECT RAISE(ABORT, 'append-only'); END;

CREATE TRIGGER entries_keep BEFORE UPDATE ON entries
    BEGIN SELECT RAISE(ABORT, 'append-only'); END;

CREATE TRIGGER seen_stays BEFORE DELETE ON seen
    BEGIN SELECT RAISE(ABORT, 'append-only'); END;

CREATE TRIGGER seen_keeps BEFORE UPDATE ON seen
    BEGIN SELECT RAISE(ABORT, 'append-only'); END;
"""


def prepare(path: Path) -> None:
    """Make the file, for its owner alone, if it is not there.

    Raises:
        Transient: AUDIT_UNAVAILABLE.
        Rejected: AUDIT_LOG_DAMAGED if it is no database.
        Misconfigured: STORE_NEWER.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise _unavailable(path, str(error.strerror)) from error
    with transaction(path) as connection:
        # Tables are made in a new file only: in any other they are there, or were taken away, and
        # that file is evidence.
        if path.stat().st_size == 0:
            mark_version(connection, name=path.name)
            for statement in _SCHEMA.split(";\n\n"):
                connection.execute(statement)


@contextmanager
def connected(path: Path) -> Iterator[sqlite3.Connection]:
    """An open file, outside a transaction; raises as :func:`prepare`."""
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)) as connection:
            refuse_newer(connection, name=path.name)
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute("PRAGMA synchronous=EXTRA")
            connection.execute("PRAGMA trusted_schema=OFF")
            yield connection
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        # sqlite3 decodes its own message, which may quote what lies in a damaged file.
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(_PASSING):
            raise _unavailable(path, name) from None
        raise Rejected(
            "AUDIT_LOG_DAMAGED", f"{path.name} is no sound log ({name or 'unreadable text'})",
            "keep the file as evidence and look for its newest copy: docs/backup.md, 'History is "
            "missing'. Never put an older copy in place: the log would fork",
        ) from None


@contextmanager
def transaction(path: Path) -> Iterator[sqlite3.Connection]:
    """One write: all of it is on disk at the end, or nothing is; raises as :func:`prepare`."""
    with connected(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.rollback()
            raise
        connection.commit()


def _unavailable(path: Path, why: str) -> Transient:
    return Transient(
        "AUDIT_UNAVAILABLE", f"the audit log {path.name} cannot be read or written ({why})",
        "free disk space or mend its permissions, then resume; nothing left this party",
    )

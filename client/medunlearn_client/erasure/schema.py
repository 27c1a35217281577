"""The registry's tables, and opening the file that holds them.

Facts and history have no column that changes: triggers refuse every update and deletion, and
each event's digest covers the one before it, so that who lifts the triggers is found out by
:func:`medunlearn_client.erasure.history.checked`. The only mutable columns are a request's
state and count of events, which repeat the end of its history and must agree with it.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from medunlearn_common.errors import Misconfigured, Transient

APPLICATION_ID = 0x4D554552
BUSY_S = 30.0

_FIRST = """
CREATE TABLE requests (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL, target TEXT, basis TEXT NOT NULL, received TEXT NOT NULL,
    state TEXT NOT NULL, events INTEGER NOT NULL);
CREATE TABLE matches (
    request INTEGER NOT NULL REFERENCES requests (number), record_id TEXT NOT NULL,
    file_digest TEXT NOT NULL, reason TEXT NOT NULL, owned INTEGER NOT NULL,
    PRIMARY KEY (request, record_id)) WITHOUT ROWID;
CREATE TABLE history (
    position INTEGER PRIMARY KEY, request INTEGER NOT NULL REFERENCES requests (number),
    at TEXT NOT NULL, author TEXT NOT NULL, before TEXT, after TEXT NOT NULL,
    detail TEXT NOT NULL, digest TEXT NOT NULL UNIQUE);
CREATE INDEX history_by_request ON history (request, position);
CREATE TABLE settings (
    position INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, author TEXT NOT NULL,
    document TEXT NOT NULL);
CREATE TRIGGER requests_keep_facts BEFORE UPDATE OF number, kind, target, basis, received
    ON requests BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER requests_stay BEFORE DELETE ON requests
    BEGIN SELECT RAISE(ABORT, 'append-only'); END;
"""
_APPEND_ONLY = "".join(
    f"CREATE TRIGGER {table}_{verb.lower()} BEFORE {verb} ON {table}\n"
    f"    BEGIN SELECT RAISE(ABORT, 'append-only'); END;\n"
    for table in ("matches", "history", "settings") for verb in ("UPDATE", "DELETE")
)

_TEXTS = "ALTER TABLE matches ADD COLUMN text_digest TEXT;\n"

MIGRATIONS: tuple[str, ...] = (_FIRST + _APPEND_ONLY, _TEXTS)
"""Script number n takes a registry of version n to version n + 1."""


def prepare(path: Path, *, create: bool) -> None:
    """Makes the file if asked to, for its owner alone, and brings its tables up to date.

    Raises:
        Misconfigured: ERASURE_REGISTRY_MISSING, ERASURE_REGISTRY_MODE,
            ERASURE_REGISTRY_FOREIGN, ERASURE_REGISTRY_NEWER.
        Transient: ERASURE_REGISTRY_UNAVAILABLE.
    """
    if create:
        _create(path)
    _check_file(path)
    with transaction(path) as connection:
        _migrate(connection, path)


def _create(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return
    except OSError as error:
        raise Transient(
            "ERASURE_REGISTRY_UNAVAILABLE",
            f"the registry {path.name} cannot be made: {error.strerror}",
            "choose a folder of your own, or mend its permissions",
        ) from error


def _check_file(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except OSError as error:
        raise Misconfigured(
            "ERASURE_REGISTRY_MISSING", f"there is no registry {path.name}",
            "mend the path; `medunlearn erasure add` makes a new one",
        ) from error
    if not stat.S_ISREG(mode):
        raise Misconfigured(
            "ERASURE_REGISTRY_FOREIGN", f"{path.name} is a link or no ordinary file",
            "name the registry's own file",
        )
    if mode & 0o077:
        raise Misconfigured(
            "ERASURE_REGISTRY_MODE", f"others than its owner may open the registry {path.name}",
            f"chmod 600 {path.name}",
        )


@contextmanager
def transaction(path: Path, *, write: bool = True) -> Iterator[sqlite3.Connection]:
    """One transaction: all of it is on disk at the end, or nothing is.

    Raises:
        Transient: ERASURE_REGISTRY_UNAVAILABLE.
        Misconfigured: ERASURE_REGISTRY_FOREIGN if the file is no database.
    """
    try:
        with closing(_connected(path)) as connection:
            connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()
    except sqlite3.OperationalError as error:
        raise Transient(
            "ERASURE_REGISTRY_UNAVAILABLE",
            f"the registry {path.name} cannot be read or written ({error.sqlite_errorname})",
            "end the other program that holds it, or free disk space; nothing was changed",
        ) from None
    except sqlite3.DatabaseError as error:
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        raise Misconfigured(
            "ERASURE_REGISTRY_FOREIGN", f"{path.name} is not a sound registry ({name})",
            "name the registry's file, or restore it from its backup",
        ) from None


def _connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_S, isolation_level=None
    )
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA secure_delete=ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    application = int(connection.execute("PRAGMA application_id").fetchone()[0])
    tables = int(connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0])
    if application != APPLICATION_ID and (application or version or tables):
        raise Misconfigured(
            "ERASURE_REGISTRY_FOREIGN", f"{path.name} is a database of another program",
            "name the registry's file",
        )
    if version > len(MIGRATIONS):
        raise Misconfigured(
            "ERASURE_REGISTRY_NEWER",
            f"{path.name} has version {version}, this program knows {len(MIGRATIONS)}",
            "update medunlearn",
        )
    for number in range(version, len(MIGRATIONS)):
        for statement in _statements(MIGRATIONS[number]):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {number + 1}")
    if application != APPLICATION_ID:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def _statements(script: str) -> Iterator[str]:
    """One by one: ``executescript`` would end the transaction before it begins."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""

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
from secrets import token_hex

from medunlearn_common.errors import Misconfigured, Transient
from medunlearn_common.files import sync_path

APPLICATION_ID = 0x4D554552
BUSY_S = 30.0
_MAGIC = b"SQLite format 3\0"
_TABLES = frozenset({"requests", "matches", "history", "settings"})

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


def _append_only(*tables: str) -> str:
    return "".join(
        f"CREATE TRIGGER {table}_{verb.lower()} BEFORE {verb} ON {table}\n"
        f"    BEGIN SELECT RAISE(ABORT, 'append-only'); END;\n"
        for table in tables for verb in ("UPDATE", "DELETE")
    )


_TEXTS = "ALTER TABLE matches ADD COLUMN text_digest TEXT;\n"

# A hospital reads rows that share an id as so many records, so an id no longer names one match.
# SQLite cannot change a key in place; dropping the table takes its triggers along.
_RECORDS_OF_ONE_ID = """
CREATE TABLE found (
    request INTEGER NOT NULL REFERENCES requests (number), record_id TEXT NOT NULL,
    file_digest TEXT NOT NULL, reason TEXT NOT NULL, owned INTEGER NOT NULL, text_digest TEXT);
INSERT INTO found SELECT request, record_id, file_digest, reason, owned, text_digest FROM matches;
DROP TABLE matches;
ALTER TABLE found RENAME TO matches;
CREATE INDEX matches_by_request ON matches (request, record_id);
""" + _append_only("matches")

MIGRATIONS: tuple[str, ...] = (
    _FIRST + _append_only("matches", "history", "settings"), _TEXTS, _RECORDS_OF_ONE_ID,
)
"""Script number n takes a registry of version n to version n + 1."""


def prepare(path: Path, *, create: bool) -> bool:
    """Begins a registry if asked to and none is there, and brings its tables up to date.

    Returns:
        Whether a new one was begun.

    Raises:
        Misconfigured: ERASURE_REGISTRY_MISSING, ERASURE_REGISTRY_MODE,
            ERASURE_REGISTRY_FOREIGN, ERASURE_REGISTRY_NEWER.
        Transient: ERASURE_REGISTRY_UNAVAILABLE.
    """
    begun = create and not os.path.lexists(path) and _begin(path)
    _check_file(path)
    with transaction(path) as connection:
        _migrate(connection, path)
    return begun


def _begin(path: Path) -> bool:
    """Makes a registry for its owner alone; False if another process was faster.

    The file appears with its tables at once: an empty one is a registry that was lost, so nobody
    may ever meet one that is only being made.
    """
    if not path.parent.is_dir():
        raise Misconfigured(
            "ERASURE_REGISTRY_MISSING", f"there is no folder {path.parent} for the registry",
            "mend the path, or make the folder first",
        )
    draft = path.with_name(f".{path.name}.{token_hex(8)}")
    try:
        os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        _make(draft)
        os.link(draft, path)  # fails where a file has appeared meanwhile
        sync_path(path.parent)
    except FileExistsError:
        return False
    except (OSError, sqlite3.Error) as error:
        cause = error.strerror if isinstance(error, OSError) else type(error).__name__
        raise Transient(
            "ERASURE_REGISTRY_UNAVAILABLE", f"the registry {path} cannot be made: {cause}",
            "choose a folder of your own, or mend its permissions",
        ) from error
    finally:
        draft.unlink(missing_ok=True)
    return True


def _make(draft: Path) -> None:
    """Without a write-ahead log: a second file would not be linked along."""
    with closing(sqlite3.connect(draft, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        _bring_up(connection, 0)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.commit()


def _check_file(path: Path) -> None:
    try:
        found = path.lstat()
    except OSError as error:
        raise Misconfigured(
            "ERASURE_REGISTRY_MISSING", f"there is no registry {path}",
            "mend the path; `medunlearn erasure add` makes a new one",
        ) from error
    if not stat.S_ISREG(found.st_mode):
        raise Misconfigured(
            "ERASURE_REGISTRY_FOREIGN", f"{path} is a link, a folder or no ordinary file",
            "name the registry's own file",
        )
    _check_beginning(path)
    if found.st_mode & 0o077:
        raise Misconfigured(
            "ERASURE_REGISTRY_MODE", f"others than its owner may open the registry {path}",
            f"chmod 600 {path}",
        )


def _check_beginning(path: Path) -> None:
    """Read, not opened as a database: SQLite takes an empty file for an empty database."""
    try:
        with path.open("rb") as stream:
            beginning = stream.read(len(_MAGIC))
    except OSError as error:
        raise Transient(
            "ERASURE_REGISTRY_UNAVAILABLE",
            f"the registry {path} cannot be read: {error.strerror}", "mend its permissions",
        ) from error
    if not beginning:
        raise _without_tables(path)
    if beginning != _MAGIC:
        raise Misconfigured(
            "ERASURE_REGISTRY_FOREIGN", f"{path} is no registry",
            "name the registry's file, or restore it from its backup",
        )


def _without_tables(path: Path) -> Misconfigured:
    return Misconfigured(
        "ERASURE_REGISTRY_FOREIGN", f"{path} is empty: it holds no registry, and may have held one",
        "restore it from its backup; if it never held a request, delete it and begin anew with "
        "`medunlearn erasure add`",
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
            f"the registry {path} cannot be read or written ({error.sqlite_errorname})",
            "end the other program that holds it, or free disk space; nothing was changed",
        ) from None
    except sqlite3.DatabaseError as error:
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        raise Misconfigured(
            "ERASURE_REGISTRY_FOREIGN", f"{path} is not a sound registry ({name})",
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
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    if application != APPLICATION_ID and (application or version or tables):
        raise Misconfigured(
            "ERASURE_REGISTRY_FOREIGN", f"{path} is a database of another program",
            "name the registry's file",
        )
    if not tables >= _TABLES:
        raise _without_tables(path)
    if version > len(MIGRATIONS):
        raise Misconfigured(
            "ERASURE_REGISTRY_NEWER",
            f"{path} has version {version}, this program knows {len(MIGRATIONS)}",
            "update medunlearn",
        )
    _bring_up(connection, version)


def _bring_up(connection: sqlite3.Connection, version: int) -> None:
    for number in range(version, len(MIGRATIONS)):
        for statement in _statements(MIGRATIONS[number]):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {number + 1}")


def _statements(script: str) -> Iterator[str]:
    """One by one: ``executescript`` would end the transaction before it begins."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""

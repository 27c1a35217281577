"""Small durable databases: one transaction at a time, on disk before it is acknowledged."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from medunlearn_common.errors import Misconfigured, Transient

# Of the tables that this program knows, by file; to be raised with every change that an older
# program would misread. Stores of before versions were marked bear 0, and are of version 1.
VERSIONS: Final[Mapping[str, int]] = {
    "ledger.db": 1, "envelopes.db": 1, "audit.db": 1, "masking.db": 1, "runs.db": 1,
}


def version_of(name: str) -> int:
    """Of the tables that this program knows in a file of that name."""
    return VERSIONS.get(name, 1)


def refuse_newer(connection: sqlite3.Connection, *, name: str) -> None:
    """Refuse a store that a newer medunlearn has changed; for those who only read it, too.

    To be called before anything else, such as another journal mode, is done to the file.

    Args:
        connection: The open file.
        name: Of the file.

    Raises:
        Misconfigured: STORE_NEWER; nothing was changed.
        sqlite3.Error: It cannot be read.
    """
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if not 0 <= found <= version_of(name):  # SQLite keeps it with a sign
        raise Misconfigured(
            "STORE_NEWER", f"{name} has version {found}, this program knows {version_of(name)}",
            "install the medunlearn version that wrote it, or a later one; if there never was "
            "one here the file is damaged: docs/backup.md, 'History is missing'. Never begin it "
            "anew, and put no older copy in its place: what it holds cannot be had again",
        )


def mark_version(connection: sqlite3.Connection, *, name: str) -> None:
    """Inside a transaction: refuse a newer store, and mark any other with our version.

    Raises:
        Misconfigured: STORE_NEWER; nothing was changed.
        sqlite3.Error: It cannot be read or written.
    """
    refuse_newer(connection, name=name)
    if connection.execute("PRAGMA user_version").fetchone() != (version_of(name),):
        connection.execute(f"PRAGMA user_version = {version_of(name)}")


class DurableDatabase:
    """One SQLite file, readable by its owner alone, one connection for as long as it is open.

    Guarantees:
        What a transaction wrote is on disk when it ends: the write-ahead log is flushed with
        every commit (``synchronous=FULL``). With ``survives_power_cut=False``, as in
        simulations, it survives the death of the process, and not of the machine.
    """

    def __init__(
        self, path: Path, *, code: str, schema: str, survives_power_cut: bool = True
    ) -> None:
        """Open or create.

        Args:
            path: The file.
            code: Of the errors that this file causes.
            schema: Statements, with semicolons between them, that make the tables where there
                are none.
            survives_power_cut: See the class.

        Raises:
            Transient: ``code`` if the file cannot be read or written.
            Misconfigured: STORE_NEWER.
        """
        self._name = path.name
        self._code = code
        self._lock = threading.RLock()
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
            self._connection = sqlite3.connect(
                path, timeout=30.0, isolation_level=None, check_same_thread=False
            )
        try:
            self._prepare(schema, synchronous="FULL" if survives_power_cut else "OFF")
        except BaseException:  # nobody has the object yet who could close it
            self.close()
            raise

    def _prepare(self, schema: str, *, synchronous: str) -> None:
        with self._errors():
            refuse_newer(self._connection, name=self._name)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute(f"PRAGMA synchronous={synchronous}")
        with self.transaction() as connection:
            mark_version(connection, name=self._name)
            for statement in schema.split(";"):
                connection.execute(statement)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Read and write as one; what raises inside leaves everything as it was.

        Raises:
            Transient: The code given at opening; nothing was changed.
        """
        with self._lock, self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:  # on a full disk SQLite has ended it itself
                    self._connection.execute("ROLLBACK")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Read only, without waiting for writers; raises like :meth:`transaction`."""
        with self._lock, self._errors():
            yield self._connection

    def close(self) -> None:
        """Give the file back."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise Transient(
                self._code, f"{self._name} cannot be read or written: {error}",
                "free disk space or mend the file's permissions; nothing was sent. A damaged file "
                "is kept as evidence and never replaced by an older copy, which forgets what "
                "happened since: docs/backup.md, 'History is missing'",
            ) from error

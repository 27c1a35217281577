"""Which ids were met before, in bounded memory: digests in a temporary database on disk."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable
from types import TracebackType
from typing import Self

CACHE_KIB = 16_384


def temporary_database() -> sqlite3.Connection:
    """A private database that lives in memory up to its cache and then in a nameless file.

    SQLite removes the file's name as it opens it, so nothing is left behind, not even by a
    crash. It lies in the folder that ``SQLITE_TMPDIR`` or ``TMPDIR`` names.
    """
    connection = sqlite3.connect("", isolation_level=None)
    for pragma in (f"cache_size=-{CACHE_KIB}", "journal_mode=OFF", "synchronous=OFF",
                   "temp_store=FILE", "locking_mode=EXCLUSIVE"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("BEGIN")
    return connection


class SeenIds:
    """Record ids and where they were first met."""

    def __init__(self) -> None:
        self._connection = temporary_database()
        self._connection.execute(
            "CREATE TABLE seen(digest BLOB PRIMARY KEY, file TEXT, row INT) WITHOUT ROWID"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()

    def first_place(self, record_ids: Iterable[str]) -> tuple[str, int] | None:
        """File and row where one of the ids was met before; None if all are new."""
        for record_id in record_ids:
            found: tuple[str, int] | None = self._connection.execute(
                "SELECT file, row FROM seen WHERE digest = ?", (_digest(record_id),)
            ).fetchone()
            if found is not None:
                return found
        return None

    def add(self, record_ids: Iterable[str], file: str, row: int) -> None:
        """Note ids; an id that is there keeps its first place."""
        self._connection.executemany(
            "INSERT OR IGNORE INTO seen VALUES (?, ?, ?)",
            [(_digest(record_id), file, row) for record_id in record_ids],
        )


def _digest(record_id: str) -> bytes:
    return hashlib.sha256(record_id.encode("utf-8", "surrogatepass")).digest()[:16]

"""Small durable databases: one transaction at a time, on disk before it is acknowledged."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from medunlearn_common.errors import Transient


@contextmanager
def durable_transaction(path: Path, *, code: str) -> Iterator[sqlite3.Connection]:
    """An immediate transaction, committed with ``synchronous=EXTRA``.

    Raises:
        Transient: ``code`` if the file cannot be read or written; nothing was changed.
    """
    try:
        with closing(sqlite3.connect(path, timeout=30.0, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute("PRAGMA synchronous=EXTRA")
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise Transient(
            code, f"{path.name} cannot be read or written: {error}",
            "free disk space or restore the file from its backup, then resume; nothing was sent",
        ) from error

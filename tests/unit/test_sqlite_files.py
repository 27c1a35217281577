"""Durable databases: a disk that is full, and files of a newer version."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from medunlearn_client.masking.journal import ShareJournal
from medunlearn_common.audit import table
from medunlearn_common.errors import Misconfigured, Transient
from medunlearn_common.sqlite_files import DurableDatabase


def test_a_full_disk_is_named_as_such_and_nothing_was_changed(tmp_path: Path) -> None:
    """SQLite has taken the transaction back by itself then."""
    with closing(DurableDatabase(
            tmp_path / "x.db", code="X", schema="CREATE TABLE kept (data BLOB)")) as database:
        with database.transaction() as connection:
            connection.execute("INSERT INTO kept VALUES (X'00')")
            connection.execute("PRAGMA max_page_count = 10")
        with pytest.raises(Transient, match="disk is full"), database.transaction() as connection:
            connection.execute("INSERT INTO kept VALUES (zeroblob(1000000))")
        with database.transaction() as connection:
            assert connection.execute("SELECT length(data) FROM kept").fetchall() == [(1,)]


def opened_durable(path: Path) -> None:
    DurableDatabase(path, code="X", schema="CREATE TABLE IF NOT EXISTS kept (data BLOB)").close()


def opened_journal(path: Path) -> None:
    ShareJournal(path, synchronous="OFF").close()


@pytest.mark.parametrize("opened", [opened_durable, opened_journal, table.prepare])
def test_a_store_of_a_newer_version_is_refused_and_left_as_it_is(
    tmp_path: Path, opened: Callable[[Path], None]
) -> None:
    """An older program would read what it does not know as absent: spent, said or agreed."""
    path = tmp_path / "store.db"
    opened(path)
    assert version_of(path) == 1
    set_version(path, 0)  # as stores of before versions were marked
    opened(path)
    assert version_of(path) == 1
    for newer in (2, -1):
        set_version(path, newer)
        with pytest.raises(Misconfigured, match="STORE_NEWER"):
            opened(path)
        assert version_of(path) == newer


def version_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def set_version(path: Path, version: int) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")

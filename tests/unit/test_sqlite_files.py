"""A durable database on a disk that is full."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from medunlearn_common.errors import Transient
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

"""Durable databases: a disk that is full, and files of a newer version."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from medunlearn_client.masking.journal import ShareJournal
from medunlearn_common import sqlite_files
from medunlearn_common.audit import table
from medunlearn_common.audit.witness import evidence_in
from medunlearn_common.envelope.store import read_locks
from medunlearn_common.errors import Misconfigured, Transient
from medunlearn_common.keeping.adopted import relink
from medunlearn_common.keeping.stores import refuse_newer_stores, require_no_store_lost
from medunlearn_common.ledger import PrivacyLedger, schema
from medunlearn_common.sqlite_files import DurableDatabase
from medunlearn_server.watching.log_reader import LogReader
from medunlearn_server.watching.views import LogView


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


def followed(log: Path) -> LogView:
    return LogReader(log).read()


def relinked(log: Path) -> int:
    return relink(log.parent)


def opened_journal(path: Path) -> None:
    ShareJournal(path, synchronous="OFF").close()


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
@pytest.mark.parametrize("opened", [opened_durable, opened_journal, table.prepare, PrivacyLedger])
def test_a_store_of_a_newer_version_is_refused_and_left_as_it_is(
    tmp_path: Path, opened: Callable[[Path], None], journal_mode: str
) -> None:
    """An older program would read what it does not know as absent: spent, said or agreed."""
    path = tmp_path / "store.db"
    opened(path)
    assert version_of(path) == 1
    if opened is not PrivacyLedger:  # whose version was marked from the first on
        set_version(path, 0)
        opened(path)
    for newer in (2, -1):
        set_version(path, newer, journal_mode=journal_mode)
        before = path.read_bytes()
        with pytest.raises(Misconfigured, match="STORE_NEWER"):
            opened(path)
        assert path.read_bytes() == before


def test_a_newer_audit_log_that_is_in_use_is_called_newer(tmp_path: Path) -> None:
    """And not "free disk space", because the newer program keeps it in another journal mode."""
    path = tmp_path / "audit.db"
    table.prepare(path)
    with closing(sqlite3.connect(path)) as newer:
        newer.execute("PRAGMA journal_mode=wal")
        newer.execute("PRAGMA user_version=2")
        newer.execute("SELECT * FROM entries").fetchall()
        with pytest.raises(Misconfigured, match="STORE_NEWER"):
            table.prepare(path)


def test_a_damaged_audit_log_is_looked_at_and_not_written_to(tmp_path: Path) -> None:
    """It is evidence, and its digest may have been noted."""
    path = tmp_path / "audit.db"
    table.prepare(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE entries")
        connection.execute("PRAGMA user_version=0")
    before = path.read_bytes()
    table.prepare(path)
    assert path.read_bytes() == before


def test_a_ledger_of_another_name_is_of_the_ledgers_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the first version after this one refuses its own copies."""
    monkeypatch.setattr(sqlite_files, "VERSIONS", {"ledger.db": 2})
    monkeypatch.setattr(schema, "SCHEMA_VERSION", 2)
    for _ in range(2):
        PrivacyLedger(tmp_path / "copy.db")
    assert version_of(tmp_path / "copy.db") == 2


@pytest.mark.parametrize("store", ["ledger.db", "trust/envelopes.db", "audit.db", "masking.db",
                                   "runs/first/audit.db", "state/runs.db"])
def test_a_party_with_a_newer_store_is_not_opened(tmp_path: Path, store: str) -> None:
    """Not only what is opened first: the ledger would be charged before the log refuses."""
    (tmp_path / store).parent.mkdir(parents=True, exist_ok=True)
    opened_durable(tmp_path / store)
    refuse_newer_stores(tmp_path)
    set_version(tmp_path / store, 2)
    for refused in (refuse_newer_stores, require_no_store_lost):
        with pytest.raises(Misconfigured, match="STORE_NEWER"):
            refused(tmp_path)


@pytest.mark.parametrize("read", [read_locks, evidence_in, relinked, followed])
def test_who_only_reads_a_newer_store_does_not_take_it_for_empty(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    path = tmp_path / "audit.db"
    table.prepare(path)
    set_version(path, 2)
    with pytest.raises(Misconfigured, match="STORE_NEWER"):
        read(path)


def version_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def set_version(path: Path, version: int, *, journal_mode: str = "delete") -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal_mode}")
        connection.execute(f"PRAGMA user_version = {version}")

"""A store that was lost, and a service or command that would begin it anew without a word."""

from __future__ import annotations

import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
from publishing_lab import RUNTIME, PublishingLab

from medunlearn_client.hospital import open_hospital
from medunlearn_client.sealed_hospital import seal_hospital
from medunlearn_common.errors import MedunlearnError, Misconfigured
from medunlearn_common.keeping import PartyMarks, make_backup, restore
from medunlearn_common.ledger import PrivacyLedger

STORES = ("ledger.db", "trust/envelopes.db", "audit.db")


def home(lab: PublishingLab) -> Path:
    return lab.base / "sites" / "site-0"


def start(folder: Path) -> None:
    """As the worker does at each start."""
    hospital = open_hospital(folder, RUNTIME)
    with closing(seal_hospital(folder, hospital, survives_power_cut=False)):
        pass


def lose(lab: PublishingLab, *stores: str) -> None:
    """Move stores aside, as the runbook says of a damaged one."""
    lab.close()
    for store in stores:
        path = home(lab) / store
        path.rename(path.with_suffix(".damaged"))


@pytest.mark.parametrize("store", STORES)
def test_a_store_that_was_lost_is_not_begun_anew(received: PublishingLab, store: str) -> None:
    archive = received.base / "b.tar"
    make_backup(home(received), archive)
    lose(received, store)
    for _ in range(2):  # systemd tries again
        with pytest.raises(Misconfigured, match="STORE_LOST"):
            start(home(received))
        with pytest.raises(Misconfigured, match="STORE_LOST"):
            received.site(0)
    assert not (home(received) / store).exists()
    with pytest.raises(Misconfigured, match="RESTORE_HISTORY"):
        restore(archive, home(received))
    done = restore(archive, home(received), history_lost=True)
    assert done.placed == (store,) and done.history_lost is not None
    start(home(received))
    ledger = PrivacyLedger(home(received) / "ledger.db")
    assert ledger.cumulative_epsilon(unit="record", delta=1e-5) == float("inf")


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("store", STORES)
def test_an_empty_file_is_no_store(received: PublishingLab, store: str, begun: bool) -> None:
    """SQLite makes one where a running service finds its store gone, or on a full disk."""
    lose(received, store)
    (home(received) / store).touch()
    if begun:
        with closing(sqlite3.connect(home(received) / store)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        assert (home(received) / store).stat().st_size > 0
    with pytest.raises(Misconfigured, match="STORE_LOST"):
        start(home(received))


def test_a_ledger_lost_with_all_other_stores_is_missed(received: PublishingLab) -> None:
    """What runs left beside the stores still shows that there was one."""
    lose(received, *STORES)
    with pytest.raises(Misconfigured, match="STORE_LOST"):
        start(home(received))


def test_a_store_that_no_backup_has_is_given_up_with_a_mark(received: PublishingLab) -> None:
    archive = received.base / "b.tar"
    for store in STORES:
        (home(received) / store).rename(home(received) / f"{store}.kept")
    make_backup(home(received), archive)
    for store in STORES:
        (home(received) / f"{store}.kept").rename(home(received) / store)
    lose(received, "ledger.db", "audit.db")
    with pytest.raises(Misconfigured, match="RESTORE_HISTORY"):
        restore(archive, home(received))
    restore(archive, home(received), history_lost=True)
    start(home(received))
    for run in ("first", "second"):
        with pytest.raises(MedunlearnError, match="HISTORY_LOST_RUN"):
            PartyMarks(home(received)).require_run(run)


def test_a_mark_whose_word_in_the_ledger_is_missing_opens_nothing(
    received: PublishingLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restore was killed between the two, and the service was started instead."""
    archive, module = received.base / "b.tar", sys.modules[restore.__module__]
    make_backup(home(received), archive)
    lose(received, "trust/envelopes.db")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "_say_unbounded", killed)
        with pytest.raises(KeyboardInterrupt):
            restore(archive, home(received), history_lost=True)
    (home(received) / "trust" / "envelopes.damaged").rename(
        home(received) / "trust" / "envelopes.db")
    with pytest.raises(Misconfigured, match="STORE_LOST"):
        start(home(received))
    restore(archive, home(received), history_lost=True)
    start(home(received))


def test_a_hospital_that_never_answered_starts_with_new_stores(lab: PublishingLab) -> None:
    """And starts again, though nothing is in them."""
    lose(lab, *STORES)
    for leaves in home(lab).glob("runs/*"):
        leaves.unlink()
    for _ in range(2):
        start(home(lab))


@pytest.mark.parametrize("store", STORES)
def test_a_final_backup_with_a_newer_store_is_not_put_back(
    received: PublishingLab, store: str
) -> None:
    """On a machine with an older version; before, all files lay there and the folder was stuck."""
    received.close()
    archive, folder = received.base / "b.tar", home(received)
    with closing(sqlite3.connect(folder / store)) as newer:
        newer.execute("PRAGMA user_version = 2")
    make_backup(folder, archive, final=True)
    shutil.rmtree(folder)
    with pytest.raises(Misconfigured, match="STORE_NEWER"):
        restore(archive, folder)
    assert not folder.exists()

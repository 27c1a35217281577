"""Attacks and accidents by which a backup would take a party's history back."""

from __future__ import annotations

import fcntl
import io
import json
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trust_lab as lab

from medunlearn_client.epsilon_total import EpsilonTotal
from medunlearn_client.masking.journal import ShareJournal
from medunlearn_client.policy import PrivacyLimits, SitePolicy
from medunlearn_common.accounting import Mechanism
from medunlearn_common.audit import AuditLog
from medunlearn_common.audit.signing import site_log
from medunlearn_common.errors import BudgetExceeded, MedunlearnError, Rejected
from medunlearn_common.keeping import (
    PartyMarks,
    admit_run,
    backup,
    make_backup,
    marks,
    restore,
)
from medunlearn_common.ledger import PrivacyLedger, SiteBudget
from medunlearn_common.ledger.spending import Budget

STEP = Mechanism(sigma=1.0, forget_rate=0.1, retain_rate=0.1, count=1)
BUDGET = Budget(epsilon=50.0, delta=1e-5)


def is_held(database: Path) -> bool:
    with closing(sqlite3.connect(database, timeout=0.0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        connection.execute("ROLLBACK")
        return False


def charge(folder: Path, run_id: str, release: str) -> None:
    PrivacyLedger(folder / "ledger.db").charge(
        run_id=run_id, release=release, request_digest="a" * 64, mechanism=STEP, budget=BUDGET)


@pytest.fixture
def consortium(tmp_path: Path) -> Iterator[lab.Lab]:
    """Three sites of which site-0's folder is a real party's folder."""
    with lab.OPENED:
        made = lab.Lab(tmp_path)
        folder = tmp_path / "party"
        (folder / "trust").mkdir(parents=True)
        (folder / "site.json").write_text("{}")
        (folder / "trust" / "party.txt").write_text("site-0")
        (folder / "trust" / "passphrase").write_text("secret words")
        trust = lab.trust(folder / "trust", "site-0")
        made.hospitals["site-0"].trust = trust
        made.hospitals["site-0"].marks = PartyMarks(folder)
        AuditLog(folder / "audit.db", origin=site_log("site-0"), signer=lab.key("site-0"))
        assert lab.same(made.ready(), "")
        charge(folder, "run-1", "vote")
        yield made


def party(consortium: lab.Lab) -> Path:
    return consortium.folder / "party"


def code_of(error: pytest.ExceptionInfo[MedunlearnError]) -> str:
    return error.value.code


def restored_over_a_lost_disk(consortium: lab.Lab) -> Path:
    """Back up, release once more, lose the disk, restore; site-0 speaks from there."""
    folder, archive = party(consortium), consortium.folder / "b.tar"
    make_backup(folder, archive)
    charge(folder, "run-1", "round-0")
    consortium.hospitals["site-0"].trust.close()
    shutil.rmtree(folder)
    restore(archive, folder, history_lost=True)
    site = consortium.hospitals["site-0"]
    site.trust = lab.trust(folder / "trust", "site-0")
    return folder


def test_a_restore_does_not_take_back_a_charge(consortium: lab.Lab) -> None:
    folder, archive = party(consortium), consortium.folder / "b.tar"
    make_backup(folder, archive)
    charge(folder, "run-1", "round-0")
    done = restore(archive, folder, history_lost=True)
    assert done.placed == () and done.history_lost is None
    assert PrivacyLedger(folder / "ledger.db").releases(run_id="run-1") == 2


@pytest.mark.parametrize("lost", ["ledger.db", "trust/envelopes.db"])
def test_a_lost_store_does_not_come_back_unsaid(consortium: lab.Lab, lost: str) -> None:
    folder, archive = party(consortium), consortium.folder / "b.tar"
    make_backup(folder, archive)
    (folder / lost).unlink()
    with pytest.raises(MedunlearnError) as refused:
        restore(archive, folder)
    assert code_of(refused) == "RESTORE_HISTORY"
    assert not (folder / lost).exists()


def test_a_ledger_begun_anew_is_not_taken_for_the_one_that_was_lost(
    consortium: lab.Lab, tmp_path: Path
) -> None:
    """It is there, so that nothing is missing; what the backup's was charged is not in it."""
    folder, archive = party(consortium), tmp_path / "b.tar"
    charge(folder, "run-2", "vote")
    make_backup(folder, archive)
    (folder / "ledger.db").rename(tmp_path / "ledger.damaged")
    charge(folder, "run-3", "vote")
    with pytest.raises(MedunlearnError) as refused:
        restore(archive, folder)
    assert code_of(refused) == "RESTORE_HISTORY"
    done = restore(archive, folder, history_lost=True)
    assert done.placed == () and done.history_lost is not None
    assert set(done.history_lost.known_runs) == {"run-1", "run-2", "run-3"}
    ledger = PrivacyLedger(folder / "ledger.db")
    assert ledger.cumulative_epsilon(unit="record", delta=1e-5) == float("inf")
    assert restore(archive, folder).history_lost is None  # it was said once


@pytest.mark.parametrize("known", [True, False], ids=["with-a-ledger", "without-one"])
def test_a_whole_disk_does_not_come_back_unsaid(
    consortium: lab.Lab, tmp_path: Path, known: bool
) -> None:
    """A backup from before the first start has no ledger that could be missing."""
    folder, archive = party(consortium), tmp_path / "b.tar"
    if not known:
        for store in ("ledger.db", "audit.db", "trust/envelopes.db"):
            (folder / store).rename(tmp_path / Path(store).name)
    make_backup(folder, archive)
    with pytest.raises(MedunlearnError) as refused:
        restore(archive, tmp_path / "new")
    assert code_of(refused) == "RESTORE_HISTORY"
    assert restore(archive, tmp_path / "new", history_lost=True).history_lost is not None
    ledger = PrivacyLedger(tmp_path / "new" / "ledger.db")
    assert ledger.cumulative_epsilon(unit="record", delta=1e-5) == float("inf")


def test_a_run_from_before_the_restore_is_over(consortium: lab.Lab) -> None:
    """Its coordinator could have round 0 answered a second time, charged once."""
    restored_over_a_lost_disk(consortium)
    consortium.inside["site-0"].asked.clear()
    found = consortium.step(0)
    assert found["site-0"] == "HISTORY_LOST_RUN"
    assert consortium.ready()["site-0"] == "HISTORY_LOST_RUN"
    assert consortium.inside["site-0"].asked == []
    with pytest.raises(Rejected):
        admit_run(party(consortium), "run-1")


def test_a_forgotten_run_does_not_pass_for_a_new_one(consortium: lab.Lab) -> None:
    """Begun after the backup, it is in no store here: only people can tell."""
    folder = restored_over_a_lost_disk(consortium)
    site = consortium.hospitals["site-0"]
    later = lab.Lab(consortium.folder / "later", run_id="run-2", policy=decided(folder))
    later.hospitals["site-0"].trust, later.hospitals["site-0"].marks = site.trust, site.marks
    assert later.ready()["site-0"] == "HISTORY_LOST_RUN"
    admit_run(folder, "run-2")
    assert not isinstance(later.ready()["site-0"], str)


def test_after_a_restore_no_run_passes_for_one_within_the_policys_total(
    consortium: lab.Lab, tmp_path: Path
) -> None:
    """A run accepted after the backup is in no store here; with it, the total is used up."""
    folder = restored_over_a_lost_disk(consortium)
    site, undecided = consortium.hospitals["site-0"], SitePolicy()
    total = EpsilonTotal.of(folder, undecided)
    assert str(total) == "at least 4 of 16 used by 1 run(s), and by those that are lost"
    assert not total.left and not total.leaves(1.0) and not total.decided
    admit_run(folder, "run-2")
    later = lab.Lab(tmp_path / "later", run_id="run-2", policy=undecided)
    later.hospitals["site-0"].trust, later.hospitals["site-0"].marks = site.trust, site.marks
    assert later.ready()["site-0"] == "POLICY_EPSILON_TOTAL"
    assert later.inside["site-0"].asked == []
    # People have decided, in view of this loss; what is known here counts as before.
    policy = decided(folder)
    total = EpsilonTotal.of(folder, policy)
    assert str(total).startswith("at least 4 of 16") and total.left == 12.0 and total.decided
    site = later.hospitals["site-0"]
    site.policy = policy.model_copy(update={
        "privacy": policy.privacy.model_copy(update={"max_total_epsilon": 7.0})})
    assert later.ready()["site-0"] == "POLICY_EPSILON_TOTAL"
    site.policy = policy
    assert not isinstance(later.ready()["site-0"], str)


def test_what_people_decided_after_one_loss_does_not_hold_after_the_next(
    consortium: lab.Lab, tmp_path: Path
) -> None:
    folder, archive = restored_over_a_lost_disk(consortium), tmp_path / "marked.tar"
    policy = decided(folder)
    make_backup(folder, archive)
    again, later = tmp_path / "again", float(2**31)
    restore(archive, again, history_lost=True, clock=lambda: later)
    assert EpsilonTotal.of(folder, policy).decided
    assert not EpsilonTotal.of(again, policy).decided


def test_a_hospital_that_lost_nothing_counts_all_its_runs(consortium: lab.Lab) -> None:
    total = EpsilonTotal.of(party(consortium), SitePolicy())
    assert str(total) == "4 of 16 used by 1 run(s)" and total.leaves(12.0)


def decided(folder: Path) -> SitePolicy:
    """A policy whose total was decided in view of the folder's mark."""
    mark = PartyMarks(folder).history_lost
    assert mark is not None
    return SitePolicy(privacy=PrivacyLimits(history_lost_at=mark.restored_at))


def test_after_a_restore_no_bound_over_all_runs_is_claimed(consortium: lab.Lab) -> None:
    folder = restored_over_a_lost_disk(consortium)
    ledger = PrivacyLedger(
        folder / "ledger.db", site_budget=SiteBudget(epsilon=1e6, delta=1e-5, unit="record"))
    assert ledger.cumulative_epsilon(unit="record", delta=1e-5) == float("inf")
    with pytest.raises(BudgetExceeded) as refused:
        ledger.charge(run_id="run-2", release="vote", request_digest="b" * 64, mechanism=STEP,
                      budget=BUDGET)
    assert code_of(refused) == "PRIVACY_SITE_BUDGET"


def test_a_restore_killed_at_any_moment_still_claims_no_bound(
    consortium: lab.Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the last file was in place, and repeated as its hint says: the old ledger
    would bound what nobody knows."""
    archive, moment = tmp_path / "b.tar", 0
    make_backup(party(consortium), archive)
    while True:
        moment += 1
        folder = tmp_path / f"killed-{moment}"
        if not killed_restore(archive, folder, at=moment, monkeypatch=monkeypatch):
            break
        restore(archive, folder, history_lost=True)
        ledger = PrivacyLedger(folder / "ledger.db")
        assert ledger.cumulative_epsilon(unit="record", delta=1e-5) == float("inf"), moment
        with pytest.raises(Rejected):
            PartyMarks(folder).require_run("run-1")
    assert moment > 5


class Killed(BaseException):
    """As by SIGKILL: nothing is cleaned up that a process cleans up for itself."""


def killed_restore(
    archive: Path, folder: Path, *, at: int, monkeypatch: pytest.MonkeyPatch
) -> bool:
    """A restore that dies at its ``at``-th durable step; False where it has no so many."""
    module = sys.modules[restore.__module__]  # the package's name for it is the function
    left = at

    def dying(act: Callable[..., None]) -> Callable[..., None]:
        def act_or_die(*arguments: Any, **more: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            act(*arguments, **more)

        return act_or_die

    with monkeypatch.context() as patched:
        patched.setattr(marks, "write_atomically", dying(marks.write_atomically))
        for name in ("_place", "_say_unbounded"):
            patched.setattr(module, name, dying(getattr(module, name)))
        try:
            restore(archive, folder, history_lost=True)
        except Killed:
            return True
    return False


def test_a_second_restore_does_not_open_what_the_first_closed(
    consortium: lab.Lab, tmp_path: Path
) -> None:
    """History is lost twice, and the second time only an older backup is found."""
    old, archive = tmp_path / "old.tar", tmp_path / "b.tar"
    folder = party(consortium)
    make_backup(folder, old)
    charge(folder, "run-2", "vote")
    make_backup(folder, archive)
    folder = tmp_path / "restored"
    restore(archive, folder, history_lost=True)
    (folder / "trust" / "envelopes.db").unlink()
    restore(old, folder, history_lost=True)
    with pytest.raises(Rejected):
        admit_run(folder, "run-2")


def test_a_run_in_a_ledger_that_was_not_lost_is_over_too(
    consortium: lab.Lab, tmp_path: Path
) -> None:
    """Begun after the backup: the ledger that stayed knows it, the lost envelopes did too."""
    folder, archive = party(consortium), tmp_path / "b.tar"
    make_backup(folder, archive)
    charge(folder, "run-2", "vote")
    (folder / "trust" / "envelopes.db").unlink()
    restore(archive, folder, history_lost=True)
    with pytest.raises(Rejected):
        admit_run(folder, "run-2")


def test_a_party_that_lost_history_once_is_backed_up_and_restored_with_its_mark(
    consortium: lab.Lab, tmp_path: Path
) -> None:
    folder, archive = restored_over_a_lost_disk(consortium), tmp_path / "marked.tar"
    admit_run(folder, "run-2")
    make_backup(folder, archive)
    again = tmp_path / "again"
    assert restore(archive, again, history_lost=True).history_lost is not None
    for run_id in ("run-1", "run-2"):
        with pytest.raises(Rejected):
            PartyMarks(again).require_run(run_id)


def test_an_old_share_journal_is_never_put_back(consortium: lab.Lab) -> None:
    """It would be ready to give the other share of a peer whose first it gave already."""
    folder, archive = party(consortium), consortium.folder / "b.tar"
    with closing(ShareJournal(folder / "masking.db")) as journal:
        journal.require_run("run-1")
    make_backup(folder, archive)
    with tarfile.open(archive) as packed:
        assert "masking.db" not in packed.getnames()
    shutil.rmtree(folder)
    restore(archive, folder, history_lost=True)
    with closing(ShareJournal(folder / "masking.db")) as begun_anew, \
            pytest.raises(Rejected) as refused:
        begun_anew.require_run("run-1")
    assert code_of(refused) == "MASKING_JOURNAL_LOST"


def test_the_passphrase_is_in_no_backup(consortium: lab.Lab) -> None:
    archive = consortium.folder / "b.tar"
    make_backup(party(consortium), archive)
    assert b"secret words" not in archive.read_bytes()
    assert archive.stat().st_mode & 0o077 == 0


def test_a_backup_into_a_shared_folder_is_written_into_no_file_of_anothers(
    consortium: lab.Lab, tmp_path: Path
) -> None:
    """Who may write there left files under the names that a backup might take on its way: one
    that he can read, and one that leads to a file of the party's."""
    shared, treasure = tmp_path / "shared", tmp_path / "treasure"
    shared.mkdir()
    treasure.write_text("kept")
    for name, trap in ((".a.tar.tmp", None), (".b.tar.tmp", treasure)):
        archive = shared / name[1:-4]
        if trap is None:
            (shared / name).touch(mode=0o666)
            inode = (shared / name).stat().st_ino
        else:
            (shared / name).symlink_to(trap)
        make_backup(party(consortium), archive)
        assert archive.stat().st_ino != inode and not archive.is_symlink()
        assert archive.stat().st_mode & 0o077 == 0
    assert treasure.read_text() == "kept"


def test_a_party_that_moved_away_answers_no_more(consortium: lab.Lab) -> None:
    """Two copies of one party would each spend the whole budget."""
    folder, archive = party(consortium), consortium.folder / "b.tar"
    make_backup(folder, archive, final=True)
    assert consortium.step(0)["site-0"] == "PARTY_RETIRED"
    with pytest.raises(MedunlearnError) as refused:
        make_backup(folder, consortium.folder / "second.tar")
    assert code_of(refused) == "PARTY_RETIRED"


@pytest.mark.parametrize("lock", ["service.lock", "worker.lock"])
def test_a_party_that_serves_neither_moves_away_nor_is_put_back(
    consortium: lab.Lab, tmp_path: Path, lock: str
) -> None:
    """The answer under way would be charged here, and computed a second time over there."""
    folder, archive = party(consortium), tmp_path / "b.tar"
    make_backup(folder, archive)
    (folder / "state").mkdir()
    with (folder / "state" / lock).open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for act in (lambda: make_backup(folder, tmp_path / "move.tar", final=True),
                    lambda: restore(archive, folder)):
            with pytest.raises(MedunlearnError) as refused:
                act()
            assert code_of(refused) == "SERVICE_RUNNING"
    assert not (tmp_path / "move.tar").exists() and not (folder / "retired.json").exists()
    make_backup(folder, tmp_path / "move.tar", final=True)


def test_no_answer_leaves_a_party_that_moved_away_while_it_was_computed(
    consortium: lab.Lab, tmp_path: Path
) -> None:
    inside = consortium.inside["site-0"]
    answer = inside.handle

    def slow(message: Any, asked: Any) -> Any:
        make_backup(party(consortium), tmp_path / "move.tar", final=True)
        return answer(message, asked)

    inside.handle = slow  # type: ignore[method-assign]
    assert consortium.step(0)["site-0"] == "PARTY_RETIRED"


def test_a_move_keeps_every_run_and_its_journal(consortium: lab.Lab, tmp_path: Path) -> None:
    folder, archive = party(consortium), tmp_path / "b.tar"
    with closing(ShareJournal(folder / "masking.db")) as journal:
        journal.require_run("run-1")
    make_backup(folder, archive, final=True)
    moved = tmp_path / "moved"
    assert restore(archive, moved).history_lost is None
    PartyMarks(moved).require_run("run-1")
    with closing(ShareJournal(moved / "masking.db")) as moved_too:
        moved_too.require_run("run-1")
    assert PrivacyLedger(moved / "ledger.db").releases(run_id="run-1") == 1
    assert restore(archive, moved).placed == ()


def test_a_final_backup_is_no_way_around_newer_history(
    consortium: lab.Lab, tmp_path: Path
) -> None:
    """The moved party served on, lost its ledger, and is given the archive of the move again."""
    archive, moved = tmp_path / "b.tar", tmp_path / "moved"
    make_backup(party(consortium), archive, final=True)
    restore(archive, moved)
    charge(moved, "run-1", "round-0")
    (moved / "trust" / "envelopes.db").unlink()
    with pytest.raises(MedunlearnError) as refused:
        restore(archive, moved)
    assert code_of(refused) == "RESTORE_HISTORY"


@pytest.mark.parametrize("lost", [[], ["trust/envelopes.db"]], ids=["alone", "with-a-store"])
def test_the_share_journal_of_a_move_is_not_put_beside_newer_history(
    consortium: lab.Lab, tmp_path: Path, lost: list[str]
) -> None:
    """The moved party gave shares since: the archive's journal knows nothing of them."""
    folder, archive, moved = party(consortium), tmp_path / "b.tar", tmp_path / "moved"
    with closing(ShareJournal(folder / "masking.db")) as journal:
        journal.require_run("run-1")
    make_backup(folder, archive, final=True)
    restore(archive, moved)
    charge(moved, "run-1", "round-0")
    for name in ["masking.db", *lost]:
        (moved / name).unlink()
    assert restore(archive, moved, history_lost=True).placed == tuple(lost)
    assert not (moved / "masking.db").exists()


def test_a_backup_is_of_one_moment(
    consortium: lab.Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From before the first copy until after the last, nobody writes to any of the databases."""
    folder, tried = party(consortium), 0
    stores = [folder / "ledger.db", folder / "trust" / "envelopes.db", folder / "audit.db"]
    copy = backup.copy_database

    def copied(path: Path, target: Path) -> None:
        nonlocal tried
        for _ in range(2):
            assert all(map(is_held, stores))
            if not target.exists():
                copy(path, target)
        tried += 1

    monkeypatch.setattr(backup, "copy_database", copied)
    make_backup(folder, consortium.folder / "b.tar")
    assert tried == len(stores) and not any(map(is_held, stores))


def changed(archive: Path, out: Path, *, name: str, data: bytes, as_name: str = "") -> Path:
    """The archive with one entry's bytes, or name, replaced."""
    with tarfile.open(archive) as old, tarfile.open(out, "w") as new:
        for entry in old:
            content = (old.extractfile(entry) or io.BytesIO()).read()
            if entry.name == name:
                content, entry.name = data or content, as_name or entry.name
            entry.size = len(content)
            new.addfile(entry, io.BytesIO(content))
    return out


def test_a_changed_backup_is_not_restored(consortium: lab.Lab, tmp_path: Path) -> None:
    archive = tmp_path / "b.tar"
    make_backup(party(consortium), archive)
    bad = changed(archive, tmp_path / "bad.tar", name="site.json", data=b"{ }")
    with pytest.raises(Rejected) as refused:
        restore(bad, tmp_path / "new", history_lost=True)
    assert code_of(refused) == "BACKUP_DAMAGED"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "a/../../outside", "a//b"])
def test_a_backup_does_not_write_outside_the_folder(
    consortium: lab.Lab, tmp_path: Path, name: str
) -> None:
    archive = tmp_path / "b.tar"
    make_backup(party(consortium), archive)
    with tarfile.open(archive) as packed:
        manifest = json.loads((packed.extractfile("manifest.json") or io.BytesIO()).read())
    manifest["files"][name] = manifest["files"].pop("site.json")
    bad = changed(archive, tmp_path / "1.tar", name="manifest.json",
                  data=json.dumps(manifest).encode())
    bad = changed(bad, tmp_path / "2.tar", name="site.json", data=b"", as_name=name)
    with pytest.raises(Rejected) as refused:
        restore(bad, tmp_path / "new", history_lost=True)
    assert code_of(refused) == "BACKUP_FORM"
    assert not (tmp_path / "outside").exists()


def test_another_partys_backup_is_refused(consortium: lab.Lab, tmp_path: Path) -> None:
    archive, other = tmp_path / "b.tar", tmp_path / "other"
    make_backup(party(consortium), archive)
    (other / "trust").mkdir(parents=True)
    (other / "trust" / "party.txt").write_text("site-1")
    with pytest.raises(Rejected) as refused:
        restore(archive, other)
    assert code_of(refused) == "BACKUP_OTHER_PARTY"


def test_an_unreadable_mark_is_not_taken_for_none(consortium: lab.Lab) -> None:
    folder = restored_over_a_lost_disk(consortium)
    (folder / "history-lost.json").write_text("{")
    with pytest.raises(MedunlearnError) as refused:
        PartyMarks(folder).require_run("run-9")
    assert code_of(refused) == "MARK_UNREADABLE"


def test_nobody_waits_for_the_copies_of_large_files(
    consortium: lab.Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer gives up after half a minute; adapters and checkpoints of many runs take longer."""
    folder = party(consortium)
    charge(folder, "run-1", "first")
    checkpoint = folder / "runs" / "run-1" / "checkpoint.bin"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_bytes(b"before")
    copied, seen = backup.shutil.copyfile, list[tuple[str, bool]]()

    def slow(source: Path, target: Path) -> None:
        copied(source, target)
        seen.append((source.name, is_held(folder / "ledger.db")))
        if source == checkpoint and checkpoint.read_bytes() == b"before":
            charge(folder, "run-1", "second")
            checkpoint.write_bytes(b"after!")

    monkeypatch.setattr(backup.shutil, "copyfile", slow)
    make_backup(folder, consortium.folder / "b.tar")
    assert [held for name, held in seen if name == "checkpoint.bin"] == [False, True]
    assert [name for name, held in seen if held] == ["checkpoint.bin"]
    restore(consortium.folder / "b.tar", consortium.folder / "new", history_lost=True)
    assert (consortium.folder / "new" / "runs" / "run-1" / "checkpoint.bin").read_bytes() == \
        b"after!"
    spent = [PrivacyLedger(place / "ledger.db").epsilon(run_id="run-1", delta=BUDGET.delta)
             for place in (folder, consortium.folder / "new")]
    assert spent[0] == spent[1], "the charge and the checkpoint of one moment"


def test_what_begins_or_goes_while_a_backup_is_made(
    consortium: lab.Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that was empty at first is copied as one; what is gone is left out."""
    folder = party(consortium)
    place = folder / "runs" / "run-1"
    place.mkdir(parents=True)
    (place / "failure.json").write_text("{}")
    (place / "audit.db").touch()
    with closing(sqlite3.connect(place / "audit.db")) as writer:
        copied = backup.shutil.copyfile

        def meanwhile(source: Path, target: Path) -> None:
            copied(source, target)
            if source.name == "failure.json":
                source.unlink()
                writer.execute("PRAGMA journal_mode=WAL")
                writer.execute("CREATE TABLE entries (position)")
                writer.execute("INSERT INTO entries VALUES (1)")
                writer.commit()

        monkeypatch.setattr(backup.shutil, "copyfile", meanwhile)
        make_backup(folder, consortium.folder / "b.tar")
    restore(consortium.folder / "b.tar", consortium.folder / "new", history_lost=True)
    store = consortium.folder / "new" / "runs" / "run-1" / "audit.db"
    with closing(sqlite3.connect(store)) as copy:
        assert copy.execute("SELECT COUNT(*) FROM entries").fetchone() == (1,)


def test_more_runs_than_a_process_may_open_files(
    consortium: lab.Lab, tmp_path: Path
) -> None:
    folder = party(consortium)
    for number in range(60):
        place = folder / "runs" / f"run-{number}"
        place.mkdir(parents=True)
        with closing(sqlite3.connect(place / "audit.db")) as connection:
            connection.execute("CREATE TABLE entries (position)")
            connection.commit()
    command = (f"import sys; from pathlib import Path; from medunlearn_common.keeping import "
               f"make_backup; make_backup(Path({str(folder)!r}), Path(sys.argv[1]))")

    def limited(limits: str, name: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", f'{limits} && exec "$@"', "-", sys.executable, "-c", command,
             str(tmp_path / name)], capture_output=True, text=True, check=False)

    soft = limited("ulimit -Sn 48", "soft.tar")
    assert soft.returncode == 0 and (tmp_path / "soft.tar").exists(), soft.stderr
    hard = limited("ulimit -n 48", "hard.tar")
    assert "this process may open 48 files" in hard.stderr
    assert not (tmp_path / "hard.tar").exists()


def test_a_failed_final_backup_does_not_retire(
    consortium: lab.Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backup, "_add", full)
    with pytest.raises(MedunlearnError) as refused:
        make_backup(party(consortium), consortium.folder / "b.tar", final=True)
    assert code_of(refused) == "BACKUP_FAILED"
    PartyMarks(party(consortium)).require_in_service()
    assert not list(consortium.folder.glob("*.tmp*"))


def test_a_coordinator_does_not_go_on_with_a_run_it_forgot_the_end_of(
    consortium: lab.Lab,
) -> None:
    """From an old checkpoint it would sign other requests for rounds that were asked already."""
    from medunlearn_server.flower_app import lead

    folder = restored_over_a_lost_disk(consortium)
    plan = consortium.folder / "plan.toml"
    plan.write_text("[federation]\nsites = 3\nmin_sites = 3\n")
    with pytest.raises(Rejected) as refused:
        lead(None, {  # type: ignore[arg-type]
            "plan": str(plan), "run-id": "run-1", "run-folder": str(folder / "runs" / "run-1"),
            "trust-folder": str(folder)})
    assert code_of(refused) == "HISTORY_LOST_RUN"


def test_the_lab_is_a_lab(consortium: lab.Lab) -> None:
    """The step that the attacks above repeat is answered where nothing was lost."""
    assert not isinstance(consortium.step(0)["site-0"], str)
    assert replace(STEP, sigma=2.0) != STEP

"""The coordinator takes its next signing key: between runs, with a roster, and despite crashes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from joining_desk import MODEL, NOW, OfflineDesk, app_of, code_of
from typer.testing import CliRunner

from medunlearn_client.joining.site_folder import take_refresh, take_roster
from medunlearn_common.entropy import OsEntropy
from medunlearn_common.errors import Misconfigured, Transient
from medunlearn_common.founding import loose_files
from medunlearn_common.identity import SigningIdentity
from medunlearn_common.identity.commands import read_entry
from medunlearn_common.keeping import make_backup, restore
from medunlearn_common.roster import commands as roster
from medunlearn_common.roster import enrolment_request
from medunlearn_common.trust_folder import (
    RosterInForce,
    open_former_identity,
    open_identity,
    open_trust,
)
from medunlearn_server.joining import commands as coordinator
from medunlearn_server.joining import membership, own_key
from medunlearn_server.service.config import open_folder
from medunlearn_server.service.runs_db import RunsDb
from medunlearn_server.service.supervisor import finish_membership

pytestmark = pytest.mark.usefixtures("a_clock_that_starts_when_tests_are_collected")


def rotate(desk: OfflineDesk, **options: Any) -> bool:
    return desk.members().rotate(entropy=OsEntropy(), **options)


def imported(desk: OfflineDesk, **options: Any) -> bool:
    return desk.members().import_roster(desk.signed(desk.draft), root=None, **options)


def key_here(desk: OfflineDesk) -> str:
    return open_identity(desk.lead).key_id


def left(desk: OfflineDesk) -> list[str]:
    """Whatever begins with next, hidden or not."""
    return [path.name for path in desk.lead.iterdir() if path.name.lstrip(".").startswith("next")]


def is_sound(desk: OfflineDesk, before: str) -> bool:
    """The new key is in force everywhere, the one before kept, and nothing is left over."""
    with_trust = open_trust(desk.lead)
    with_trust.close()
    former = open_former_identity(desk.lead, before)
    file = desk.lead / "trust" / "former" / f"{before}.key"
    return (
        key_here(desk) == desk.key_of("coordinator") != before
        and read_entry(desk.lead / "coordinator.entry").key_id == key_here(desk)
        and former.key_id == before and stat.S_IMODE(file.stat().st_mode) == 0o600
        and not (file.parent / f"{key_here(desk)}.key").exists()
        and not left(desk) and not desk.has_draft() and not loose_files(desk.lead)
    )


def row(desk: OfflineDesk, run_id: str = "run-1", *states: Any) -> None:
    runs = RunsDb(open_folder(desk.lead).runs_db)
    open_folder(desk.lead).run(run_id).mkdir(parents=True, exist_ok=True)
    runs.add(run_id, plan_digest="d" * 64)
    for state in states:
        if state == "running":
            runs.count_start(run_id)
        elif state == "publish":
            runs.publish(run_id)
        else:
            runs.move(run_id, state)
    runs.close()


def test_with_a_pilots_root_the_new_key_is_in_force_at_once(desk: OfflineDesk) -> None:
    before = key_here(desk)
    result = CliRunner().invoke(app_of(coordinator.rotate), ["--folder", str(desk.lead)])
    assert "is in force; make a backup" in result.output, result.output
    assert is_sound(desk, before)
    assert {"ROSTER_ENTRY", "IDENTITY", "FILE_MODES"} <= desk.codes()
    # Hospitals believe what it signs once they have that roster, which its greeting brings, and
    # keep the entry of the key before.
    clinic = desk.path / "clinic-a"
    take_roster(clinic, desk.members().roster_file.read_bytes(), now=NOW)
    refresh = desk.members().refresh("clinic-a", model=MODEL, version="0.1.0", code_digest="c" * 64)
    take_refresh(clinic, refresh.read_bytes(), now=NOW)
    kept = RosterInForce(clinic).former_key("coordinator", before)
    assert kept is not None and kept.party.key_id == before
    assert rotate(desk)  # and once more, two years later
    assert key_here(desk) == desk.key_of("coordinator") != before
    assert open_former_identity(desk.lead, before).key_id == before


def test_it_waits_for_the_roots_signatures(offline: OfflineDesk) -> None:
    before = key_here(offline)
    result = CliRunner().invoke(app_of(coordinator.rotate), ["--folder", str(offline.lead)])
    assert "comes into force with the roster that names it" in result.output
    assert "medunlearn roster sign" in result.output
    waiting = offline.draft.party("coordinator").key_id
    assert key_here(offline) == offline.key_of("coordinator") == before != waiting
    assert {"ROTATION_PENDING", "ROSTER_DRAFT"} <= offline.codes()
    assert code_of(rotate, offline) == "ROTATION_PENDING"
    file = offline.path / "roster.dsse"
    file.write_bytes(offline.signed(offline.draft))
    told = CliRunner().invoke(app_of(coordinator.roster_import), [
        str(file), "--folder", str(offline.lead)]).output
    assert "the new signing key is in force" in told
    assert key_here(offline) == waiting and is_sound(offline, before)


def test_other_commands_in_between_keep_the_next_key_in_the_draft(offline: OfflineDesk) -> None:
    before = key_here(offline)
    assert not rotate(offline)
    mailed, waiting = offline.draft, offline.draft.party("coordinator").key_id
    offline.enrol(offline.site("clinic-c"))
    offline.members().advance(revoke="clinic-b")
    assert offline.draft.party("coordinator").key_id == waiting
    assert "clinic-c" in offline.draft.sites and "clinic-b" not in offline.draft.sites
    # What was mailed first is signed first: the key is in force, and the rest is drafted anew.
    assert not offline.members().import_roster(offline.signed(mailed), root=None)
    assert key_here(offline) == waiting == offline.key_of("coordinator")
    assert "clinic-c" in offline.draft.sites and "clinic-b" not in offline.draft.sites
    assert imported(offline)
    assert is_sound(offline, before)


def test_a_draft_of_before_the_rotation_is_signed_late(offline: OfflineDesk) -> None:
    before = key_here(offline)
    offline.enrol(offline.site("clinic-c"))
    mailed = offline.draft
    assert not rotate(offline)
    assert not offline.members().import_roster(offline.signed(mailed), root=None)
    assert key_here(offline) == before == offline.key_of("coordinator")
    assert "clinic-c" in offline.members().roster().current.sites
    assert imported(offline)
    assert is_sound(offline, before)


def test_a_lost_draft_comes_back_with_the_next_key(offline: OfflineDesk) -> None:
    before = key_here(offline)
    assert not rotate(offline)
    waiting = offline.draft.party("coordinator")
    (offline.lead / "roster.draft").unlink()
    assert not offline.members().advance(renew=True)
    assert offline.draft.party("coordinator") == waiting
    assert imported(offline)
    assert is_sound(offline, before)


# Giving it up.

def test_giving_up_leaves_nothing(offline: OfflineDesk) -> None:
    def files() -> list[str]:
        return sorted(path.relative_to(offline.lead).as_posix()
                      for path in offline.lead.rglob("*") if "/state/" not in str(path))

    before, there = key_here(offline), files()
    assert not rotate(offline)
    document = offline.signed(offline.draft)
    told = CliRunner().invoke(app_of(coordinator.rotate), [
        "--folder", str(offline.lead), "--give-up"]).output
    assert "the key in force stays" in told and "no roster.draft is left" in told
    assert files() == there and key_here(offline) == before
    assert "ROTATION_PENDING" not in offline.codes()
    assert code_of(offline.members().give_up_rotation) == "ROTATION_NONE"
    assert code_of(offline.members().import_roster, document, root=None) == "ROSTER_WITHOUT_US"
    assert not rotate(offline)
    assert imported(offline)
    assert is_sound(offline, before)


def test_giving_up_keeps_what_else_is_drafted(offline: OfflineDesk) -> None:
    before = key_here(offline)
    offline.enrol(offline.site("clinic-c"))
    assert not rotate(offline)
    assert offline.members().give_up_rotation()
    assert offline.draft.party("coordinator").key_id == before
    assert imported(offline)
    assert "clinic-c" in offline.members().roster().current.sites


def test_a_draft_that_names_a_key_which_is_gone_is_mended(offline: OfflineDesk) -> None:
    """Killed, or the disk full, between the two: whatever is drafted next has the key in force."""
    before = key_here(offline)
    assert not rotate(offline)
    own_key.discard_next_key(offline.lead)
    assert offline.draft.party("coordinator").key_id != before
    offline.members().advance(renew=True)
    assert offline.draft.party("coordinator").key_id == before
    assert imported(offline)


# Crashes and errors.

def cut_off(
    monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], at: int, action: Callable[[], object],
    *, where: Callable[[str], bool] = lambda path: "next" in path or "former" in path,
) -> int:
    """Carry out an action up to the renames ``at``; how many were done."""
    done, kept = [], {name: getattr(os, name) for name in names}

    def patched(name: str) -> Callable[[Any, Any], None]:
        def step(source: Any, target: Any) -> None:
            if where(str(source)) or where(str(target)):
                if len(done) == at:
                    raise KeyboardInterrupt
                done.append(target)
            kept[name](source, target)

        return step

    with monkeypatch.context() as context:
        for name in names:
            context.setattr(os, name, patched(name))
        try:
            action()
        except KeyboardInterrupt:
            return len(done)
    return -1


RENAMES = ("rename", "replace")


@pytest.mark.parametrize("mend", ["sync", "renew", "rotate", "doctor", "serve", "invite"])
@pytest.mark.parametrize("at", range(8))
def test_a_rotation_that_is_cut_off_is_finished(
    offline: OfflineDesk, monkeypatch: pytest.MonkeyPatch, at: int, mend: str
) -> None:
    before = key_here(offline)
    assert not rotate(offline)
    done = cut_off(monkeypatch, RENAMES, at, lambda: imported(offline))
    if done < 0:
        assert at > 4, "the steps have been cut off one by one"
        return
    if mend == "renew":
        offline.members().advance(renew=True)
        assert imported(offline)
    elif mend == "rotate" and offline.key_of("coordinator") == before:
        assert code_of(rotate, offline) == "ROTATION_PENDING"
    elif mend == "rotate":  # finishes that one, and makes yet another
        assert not rotate(offline) and offline.members().give_up_rotation() is False
    elif mend == "doctor":
        assert "ROSTER_OTHER_KEY" not in offline.codes()
    elif mend == "serve":
        finish_membership(open_folder(offline.lead))
    elif mend == "invite":
        offline.invite("clinic-d")
    else:
        offline.members().sync_nodes()
    assert key_here(offline) == offline.key_of("coordinator")
    if offline.key_of("coordinator") == before:  # cut off before the roster came into force
        assert imported(offline)
    offline.members().advance()  # takes away a draft that is in force
    assert is_sound(offline, before)


@pytest.mark.parametrize("at", range(9))
def test_a_pilots_rotation_that_is_cut_off_is_finished_by_the_same_command(
    desk: OfflineDesk, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    before = key_here(desk)
    done = cut_off(monkeypatch, RENAMES, at, lambda: rotate(desk))
    if done < 0:
        assert at > 5
        return
    desk.enrol(desk.site("clinic-c"))  # which goes on whatever was cut off
    if desk.key_of("coordinator") == before:
        assert rotate(desk)
    assert is_sound(desk, before)


def test_after_a_crash_a_pilots_key_is_not_changed_under_a_run(
    desk: OfflineDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> bytes:
        raise KeyboardInterrupt

    before = key_here(desk)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(membership, "sign_as_pilot", killed)
        rotate(desk)
    assert left(desk) == ["next"]
    row(desk, "run-1", "running")
    desk.enrol(desk.site("clinic-c"))
    assert desk.members().advance(renew=True)
    assert key_here(desk) == desk.key_of("coordinator") == before
    assert code_of(rotate, desk) == "ROTATION_IN_RUN"
    row(desk, "run-1", "stopped")
    assert rotate(desk)
    assert is_sound(desk, before)


@pytest.mark.parametrize("failing", ["make_next_key", "sign_as_pilot", "write_identity"])
def test_an_error_leaves_no_key_behind(
    desk: OfflineDesk, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise Transient("WRITE_FAILED", "the disk is full", "free some space")

    before = key_here(desk)
    with monkeypatch.context() as patched:
        patched.setattr(own_key if failing == "write_identity" else membership, failing, full)
        assert code_of(rotate, desk) == "WRITE_FAILED"
    assert not left(desk) and not desk.has_draft()
    assert key_here(desk) == before == desk.key_of("coordinator")
    assert rotate(desk)
    assert is_sound(desk, before)


def test_an_error_at_the_draft_leaves_no_key_behind(
    offline: OfflineDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise Transient("WRITE_FAILED", "the disk is full", "free some space")

    with monkeypatch.context() as patched:
        patched.setattr(membership, "write_atomically", full)
        assert code_of(rotate, offline) == "WRITE_FAILED"
    assert not left(offline) and not offline.has_draft()


# Runs.

@pytest.mark.parametrize("states", [
    (), ("running",), ("paused",), ("running", "failed"), ("running", "finished", "publish"),
])
def test_no_key_changes_under_a_run(offline: OfflineDesk, states: tuple[str, ...]) -> None:
    assert not rotate(offline)
    document = offline.signed(offline.draft)
    row(offline, "run-1", *states)
    assert code_of(offline.members().import_roster, document, root=None) == "ROTATION_IN_RUN"
    offline.members().give_up_rotation()
    assert code_of(rotate, offline, despite_unpublished=True) == "ROTATION_IN_RUN"
    assert not left(offline) and not offline.has_draft()


def test_a_run_that_was_never_attested_is_named_and_blocks_not_for_ever(
    offline: OfflineDesk
) -> None:
    before = key_here(offline)
    row(offline, "run-1", "running", "finished")
    row(offline, "run-2", "stopped")
    assert code_of(rotate, offline) == "ROTATION_UNPUBLISHED"
    assert not left(offline)
    told = CliRunner().invoke(app_of(coordinator.rotate), [
        "--folder", str(offline.lead), "--despite-unpublished"])
    assert told.exception is None
    assert code_of(imported, offline) == "ROTATION_UNPUBLISHED"
    assert imported(offline, despite_unpublished=True)
    assert is_sound(offline, before)


def test_an_attested_run_is_in_nobodys_way(offline: OfflineDesk) -> None:
    row(offline, "run-1", "running", "finished")
    published = offline.lead / "published" / "run-1"
    published.mkdir(parents=True)
    (published / "attestation.json").write_text("{}")
    assert not rotate(offline)
    assert imported(offline)


def test_no_run_is_launched_while_the_key_changes(
    desk: OfflineDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it could begin its log under one key and seal its requests with the other."""
    launched, kept = [], own_key.os.replace
    runs = RunsDb(open_folder(desk.lead).runs_db)
    runs._database._connection.execute("PRAGMA busy_timeout=50")  # how long it waits

    def slow(source: Path, target: Path) -> None:
        if Path(source).parent.name == "next":
            launched.append(code_of(runs.add, "run-1", plan_digest="d" * 64))
        kept(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(own_key.os, "replace", slow)
        assert rotate(desk)
    assert launched == ["RUNS_DB", "RUNS_DB"]
    assert runs.add("run-1", plan_digest="d" * 64).state == "pending"
    runs.close()


# Revocation, and other keys.

def test_a_next_key_that_is_revoked_meanwhile_follows_nobody(offline: OfflineDesk) -> None:
    before = key_here(offline)
    assert not rotate(offline)
    waiting = offline.draft.party("coordinator").key_id
    current = offline.members().roster().current
    document = offline.signed(replace(
        current, version=current.version + 1, revoked=(waiting,)))
    assert offline.members().import_roster(document, root=None)
    assert key_here(offline) == before == offline.key_of("coordinator")
    offline.members().advance(renew=True)
    assert offline.draft.party("coordinator").key_id == before
    with pytest.raises(Misconfigured, match="cannot follow") as caught:
        rotate(offline)
    assert caught.value.code == "ROTATION_PENDING" and "--give-up" in caught.value.hint
    offline.members().give_up_rotation()
    assert not rotate(offline)
    assert imported(offline)
    assert is_sound(offline, before)


def test_the_key_in_force_is_revoked_with_the_roster_that_names_the_next(
    offline: OfflineDesk
) -> None:
    """It was stolen: the root vouches alone, and what it attested is no longer believed."""
    before = key_here(offline)
    assert not rotate(offline)
    document = offline.signed(replace(offline.draft, revoked=(before,)))
    assert offline.members().import_roster(document, root=None)
    assert is_sound(offline, before)
    clinic = offline.path / "clinic-a"
    take_roster(clinic, document, now=NOW)
    assert code_of(RosterInForce(clinic).former_key, "coordinator", before) == "KEY_REVOKED"


def test_a_revoked_coordinator_takes_no_next_key(offline: OfflineDesk) -> None:
    before = key_here(offline)
    current = offline.members().roster().current
    own = SigningIdentity.generate("coordinator", OsEntropy())
    entry = enrolment_request(own, role="coordinator", entity="x", valid_from=int(NOW),
                              valid_until=int(NOW) + 900)
    other = replace(current, version=current.version + 1, revoked=(before,), parties=tuple(
        entry if party.role == "coordinator" else party for party in current.parties))
    offline.members().roster().offer(offline.signed(other), now=NOW)
    assert code_of(rotate, offline) == "KEY_REVOKED"
    assert not left(offline)


def test_only_the_key_in_force_vouches_for_the_next(offline: OfflineDesk) -> None:
    """Whoever can write roster drafts, and not sign as the coordinator, puts no key of his in."""
    assert not rotate(offline)
    own = offline.draft.party("coordinator")
    thief = SigningIdentity.generate("coordinator", OsEntropy())
    stolen = enrolment_request(thief, role="coordinator", entity=own.entity,
                               valid_from=own.valid_from, valid_until=own.valid_until)
    for forged in (replace(own, public_key=thief.public_key), stolen,
                   replace(stolen, rotation=own.rotation)):
        parties = tuple(forged if party == own else party for party in offline.draft.parties)
        document = offline.signed(replace(offline.draft, parties=parties))
        assert code_of(offline.members().import_roster, document, root=None) in (
            "SIGNATURE_INVALID", "ROSTER_WITHOUT_US")
        if forged is not stolen:
            continue
        clinic = offline.path / "clinic-a"
        assert code_of(take_roster, clinic, document, now=NOW) == "ROSTER_ROTATION"


def test_an_entry_of_another_key_is_no_ground_for_a_rotation(offline: OfflineDesk) -> None:
    (offline.lead / "coordinator.entry").write_bytes(
        next((offline.path / "clinic-a" / "trust").glob("*.entry")).read_bytes())
    assert code_of(rotate, offline) == "ENTRY_OTHER_KEY"
    assert not left(offline)


# Backups.

def test_a_backup_has_the_keys_of_before(desk: OfflineDesk, tmp_path: Path) -> None:
    before = key_here(desk)
    assert rotate(desk)
    make_backup(desk.lead, tmp_path / "after.tar")
    (desk.lead / "trust" / "former" / f"{before}.key").unlink()
    assert code_of(open_former_identity, desk.lead, before) == "FORMER_KEY_MISSING"
    restore(tmp_path / "after.tar", desk.lead)
    assert is_sound(desk, before)


def test_a_backup_from_amid_a_rotation_brings_no_key_back(
    offline: OfflineDesk, tmp_path: Path
) -> None:
    """A restore puts back what is missing: here a next key that is in force long since."""
    before = key_here(offline)
    assert not rotate(offline)
    make_backup(offline.lead, tmp_path / "amid.tar")
    assert imported(offline)
    restore(tmp_path / "amid.tar", offline.lead)
    (offline.lead / "roster.draft").unlink(missing_ok=True)
    assert left(offline) == ["next"]
    offline.members().sync_nodes()
    assert is_sound(offline, before)
    second = key_here(offline)
    assert not rotate(offline)  # and again when yet another key is in force
    assert imported(offline)
    restore(tmp_path / "amid.tar", offline.lead)
    assert code_of(rotate, offline) == "ROTATION_PENDING"
    offline.members().advance(renew=True)
    assert offline.draft.party("coordinator").key_id == key_here(offline) != second
    offline.members().give_up_rotation()
    (offline.lead / "roster.draft").unlink(missing_ok=True)
    assert is_sound(offline, second)


def test_a_key_that_is_lost_after_the_rotation(offline: OfflineDesk, tmp_path: Path) -> None:
    """As docs/backup.md has it: the one of before is named again, and a next one made anew."""
    before = key_here(offline)
    make_backup(offline.lead, tmp_path / "before.tar")
    assert not rotate(offline)
    assert imported(offline)
    lost, newest = key_here(offline), offline.members().roster_file.read_bytes()
    for name in ("trust/identity.key", "coordinator.entry", "trust/former"):
        path = offline.lead / name
        path.rename(tmp_path / path.name)
    restore(tmp_path / "before.tar", offline.lead)
    assert key_here(offline) == before and "ROSTER_OTHER_KEY" in offline.codes()
    current = offline.members().roster().current
    entry = read_entry(offline.lead / "coordinator.entry")
    again = replace(current, version=current.version + 1, revoked=(lost,), parties=tuple(
        entry if party.role == "coordinator" else party for party in current.parties))
    assert offline.members().import_roster(offline.signed(again), root=None)
    take_roster(offline.path / "clinic-a", newest, now=NOW)
    take_roster(offline.path / "clinic-a", offline.signed(again), now=NOW)
    assert not rotate(offline)
    assert imported(offline)
    assert is_sound(offline, before)


def test_a_key_that_is_stolen_is_revoked_as_the_next_comes_into_force(
    offline: OfflineDesk
) -> None:
    """As docs/joining.md has it, with the commands of the root's owners."""
    before = key_here(offline)
    assert not rotate(offline)
    draft, out = offline.path / "stolen.draft", offline.path / "signed.dsse"
    roster.revoke("coordinator", draft=draft, after=offline.members().roster_file)
    roster.add([offline.lead / "next" / "coordinator.entry"], draft=draft)
    for number in (1, 2):
        roster.sign(offline.safe / f"root-{number}.key", draft=draft, out=out,
                    passphrase_file=offline.safe / "passphrase")
    assert offline.members().import_roster(out.read_bytes(), root=None)
    assert before in offline.members().roster().current.revoked
    assert is_sound(offline, before)

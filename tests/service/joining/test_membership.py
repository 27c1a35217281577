"""Who takes part: revocations that must not be lost, and commands that meet."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
from joining_desk import DAY_S, MODEL, NOW, Desk, OfflineDesk, app_of, code_of
from typer.testing import CliRunner

from medunlearn_client.joining.rotation import make_next_keys
from medunlearn_common.entropy import OsEntropy
from medunlearn_common.errors import Rejected
from medunlearn_common.roster import Roster
from medunlearn_server.joining import commands as coordinator
from medunlearn_server.joining import membership
from medunlearn_server.joining.enrolment_records import EnrolmentRecords
from medunlearn_server.joining.invitation_records import Issued
from medunlearn_server.service.config import open_folder
from medunlearn_server.service.supervisor import finish_membership

pytestmark = pytest.mark.usefixtures("a_clock_that_starts_when_tests_are_collected")


def test_the_coordinators_doctor_names_its_code_for_hospitals_to_compare(desk: OfflineDesk) -> None:
    assert {"CODE", "ROSTER", "NODES"} <= desk.codes()


# An earlier draft is signed.

def test_a_revocation_outlives_the_signing_of_an_earlier_draft(offline: OfflineDesk) -> None:
    """The owners of the root sign what was mailed to them; what came later is drafted anew."""
    key = offline.key_of("clinic-a")
    offline.enrol(offline.site("clinic-c"))
    mailed = offline.draft
    assert offline.members().advance(revoke="clinic-a") is False
    assert offline.members().import_roster(offline.signed(mailed), root=None) is False
    assert offline.members().roster().current.sites == ("clinic-a", "clinic-b", "clinic-c")
    assert offline.nodes() == {"clinic-b", "clinic-c"}
    assert {"REVOCATION_UNSIGNED", "ROSTER_DRAFT"} <= offline.codes()
    assert "NODE_KEY_MISSING" not in offline.codes()
    assert offline.draft.version == mailed.version + 1 and offline.draft.revoked == (key,)
    assert offline.members().import_roster(offline.signed(offline.draft), root=None) is True
    assert offline.members().roster().current.sites == ("clinic-b", "clinic-c")
    assert not offline.has_draft() and "REVOCATION_UNSIGNED" not in offline.codes()


def test_an_enrolment_outlives_the_signing_of_an_earlier_draft(offline: OfflineDesk) -> None:
    offline.enrol(offline.site("clinic-c"))
    mailed = offline.draft
    offline.enrol(offline.site("clinic-d"))
    assert offline.members().import_roster(offline.signed(mailed), root=None) is False
    assert offline.nodes() == {"clinic-a", "clinic-b", "clinic-c"}
    assert "clinic-d" in offline.draft.sites


def test_a_lost_draft_comes_back_with_its_revocations(offline: OfflineDesk) -> None:
    """No backup holds the draft; what it followed from is in one."""
    key = offline.key_of("clinic-a")
    offline.members().advance(revoke="clinic-a")
    (offline.lead / "roster.draft").unlink()
    assert offline.members().advance(renew=True) is False
    assert offline.draft.revoked == (key,) and offline.draft.sites == ("clinic-b",)


def test_the_import_says_who_is_still_in(offline: OfflineDesk) -> None:
    offline.enrol(offline.site("clinic-c"))
    file = offline.path / "roster.dsse"
    file.write_bytes(offline.signed(offline.draft))
    offline.members().advance(revoke="clinic-a")
    told = CliRunner().invoke(app_of(coordinator.roster_import), [
        str(file), "--folder", str(offline.lead)]).output
    assert "still in it, and revoked here: clinic-a" in told and "medunlearn roster sign" in told


def test_an_enrolment_that_was_put_back_lets_nobody_in(offline: OfflineDesk) -> None:
    """As a restore does with files that are missing, before the root has signed."""
    file = offline.lead / "enrolments" / "clinic-a.enrolment"
    kept = file.read_bytes()
    offline.members().advance(revoke="clinic-a")
    for name in (file, file.with_suffix(".pending")):
        name.write_bytes(kept)
    assert offline.members().sync_nodes() == ("clinic-b",)
    offline.members().advance()
    assert offline.draft.sites == ("clinic-b",)
    assert code_of(offline.members().enrol, kept, lambda _: True) == "KEY_REVOKED"


def test_a_service_that_was_restored_knows_whom_to_let_in(offline: OfflineDesk) -> None:
    """No copy of the nodes folder is ever put back: it follows from what was."""
    offline.members().advance(revoke="clinic-a")
    shutil.rmtree(offline.lead / "nodes")
    finish_membership(open_folder(offline.lead))
    assert offline.nodes() == {"clinic-b"}


@pytest.mark.parametrize("damaged", [b"", b"{}", b'["x"]', b"[1]", b"\xff"])
def test_a_damaged_list_of_revocations_is_not_taken_for_none(
    offline: OfflineDesk, damaged: bytes,
) -> None:
    (offline.lead / "revoked.json").write_bytes(damaged)
    assert code_of(offline.members().sync_nodes) == "REVOKED_FILE"
    assert code_of(offline.members().advance, renew=True) == "REVOKED_FILE"


@pytest.mark.parametrize(("day", "days", "until"), [(80, 180, 260), (95, 90, 185)])
def test_a_renewed_draft_lasts_from_the_day_that_it_is_renewed(
    offline: OfflineDesk, day: int, days: int, until: int
) -> None:
    """One that lies there unsigned once kept its end for ever: nobody could import it after."""
    offline.enrol(offline.site("clinic-c"))
    now = NOW + day * DAY_S
    assert offline.members(now).advance(renew=True, days=days) is False
    assert (offline.draft.issued, offline.draft.expires) == (int(now), int(now) + days * DAY_S)
    assert offline.members(now).import_roster(offline.signed(offline.draft), root=None)
    assert int(NOW + until * DAY_S) == offline.members(now).roster().current.expires


def test_a_draft_that_the_root_may_have_signed_stays_as_it_is(offline: OfflineDesk) -> None:
    offline.enrol(offline.site("clinic-c"))
    mailed = offline.draft
    offline.members(NOW + 30 * DAY_S).advance()
    assert offline.draft == mailed
    offline.members(NOW + 95 * DAY_S).advance()  # nobody can import it any more
    assert offline.draft.expires > NOW + 180 * DAY_S
    longer = offline.draft.expires
    offline.members(NOW + 95 * DAY_S).advance(renew=True, days=400)
    offline.members(NOW + 96 * DAY_S).advance(revoke="clinic-a")
    assert offline.draft.expires > longer + 200 * DAY_S, "a revocation shortens nothing"


# Withdrawing, and who can be revoked.

def test_an_enrolment_that_waits_is_withdrawn(offline: OfflineDesk) -> None:
    folder = offline.site("clinic-c")
    offline.enrol(folder)
    mailed = offline.draft
    assert offline.members().advance(revoke="clinic-c") is False
    assert offline.draft.sites == ("clinic-a", "clinic-b") and len(offline.draft.revoked) == 1
    (offline.lead / "roster.draft").unlink()
    offline.members().advance(renew=True)
    assert "clinic-c" not in offline.draft.sites
    assert code_of(offline.enrol, folder) == "KEY_REVOKED"
    # Even where its draft had been mailed and comes back signed.
    offline.members().import_roster(offline.signed(mailed), root=None)
    assert "clinic-c" not in offline.nodes() and "clinic-c" not in offline.draft.sites


def test_a_revoked_hospital_takes_its_next_key_along(offline: OfflineDesk) -> None:
    file = make_next_keys(offline.path / "clinic-a", identity=True, node=True,
                          entropy=OsEntropy(), now=NOW + 9)
    offline.members().enrol(file.read_bytes(), lambda _: True)
    offline.members().advance()
    mailed = offline.draft
    offline.members().advance(revoke="clinic-a")
    assert len(offline.draft.revoked) == 2
    offline.members().import_roster(offline.signed(mailed), root=None)
    assert offline.nodes() == {"clinic-b"} and offline.draft.sites == ("clinic-b",)


def test_nobody_is_withdrawn_who_never_came(offline: OfflineDesk) -> None:
    assert code_of(offline.members().advance, revoke="clinic-x") == "PARTY_UNKNOWN"
    assert not (offline.lead / "revoked.json").exists()


def test_the_coordinator_does_not_revoke_itself(desk: OfflineDesk) -> None:
    before = desk.members().roster_file.read_bytes()
    result = CliRunner().invoke(app_of(coordinator.revoke),
                                ["coordinator", "--folder", str(desk.lead)])
    assert isinstance(result.exception, Rejected) and result.exception.code == "REVOKE_ROLE"
    assert desk.members().roster_file.read_bytes() == before
    assert not (desk.lead / "revoked.json").exists()
    desk.invite("clinic-c")


def test_a_revoked_hospitals_invitation_is_forgotten(desk: OfflineDesk) -> None:
    """Nobody comes in with a token that was sent to it, or was found at it."""
    desk.members().advance(revoke="clinic-a")
    old = desk.lead / "invitations" / "clinic-a.invitation"
    again = Desk(path=desk.path / "again").site("clinic-a", old)
    assert code_of(desk.enrol, again) == "INVITATION_UNKNOWN"


def test_a_change_of_keys_from_the_future_is_not_taken(desk: OfflineDesk) -> None:
    """Every later one would be older than it, and the hospital could never change keys again."""
    folder = desk.path / "clinic-a"
    early = make_next_keys(folder, identity=False, node=True, entropy=OsEntropy(),
                           now=NOW + 400).read_bytes()
    assert code_of(desk.members().enrol, early, lambda _: True) == "ENROLMENT_EARLY"
    shutil.rmtree(folder / "next")
    again = make_next_keys(folder, identity=False, node=True, entropy=OsEntropy(), now=NOW + 200)
    desk.members().enrol(again.read_bytes(), lambda _: True)


def test_an_invitation_stays_used_where_the_enrolment_was_killed(
    desk: OfflineDesk, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The hospital's file is taken at the next try; whoever else read the mail comes second."""
    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    invitation = desk.invite("clinic-c")
    mine = desk.site("clinic-c", invitation)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(EnrolmentRecords, "wait", dies)
        desk.enrol(mine)
    thief = Desk(path=desk.path / "thief").site("clinic-c", invitation)
    assert code_of(desk.enrol, thief) == "INVITATION_USED"
    desk.enrol(mine)
    assert "clinic-c" in desk.nodes()


def test_a_revocation_that_was_killed_holds_and_is_carried_out_by_the_next_command(
    desk: OfflineDesk, monkeypatch: pytest.MonkeyPatch,
) -> None:
    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    key = desk.key_of("clinic-a")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(EnrolmentRecords, "retire", dies)
        desk.members().advance(revoke="clinic-a")
    assert desk.members().sync_nodes() == ("clinic-b",)
    assert "REVOCATION_UNSIGNED" in desk.codes()
    assert desk.members().advance() is True
    assert desk.members().roster().current.revoked == (key,)


# Two commands at the same time.

def test_a_command_reads_the_roster_only_when_it_is_its_turn(
    desk: OfflineDesk, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other command comes between reading and signing, where nothing held it off before."""
    folder, key = desk.site("clinic-c"), desk.key_of("clinic-a")
    other = threading.Thread(target=lambda: desk.enrol(folder))
    real = membership.sign_as_pilot

    def slow(lead: Path, roster: Roster) -> bytes:
        if not other.ident:
            other.start()
            other.join(0.5)
        return real(lead, roster)

    monkeypatch.setattr(membership, "sign_as_pilot", slow)
    desk.members().advance(revoke="clinic-a")
    other.join(60.0)
    roster = desk.members().roster().current
    assert roster.sites == ("clinic-b", "clinic-c") and roster.revoked == (key,)
    assert desk.nodes() == {"clinic-b", "clinic-c"}


def test_a_refresh_brings_no_invitation_back_that_is_taken_back_meanwhile(
    desk: OfflineDesk, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The revocation comes between reading the record of the invitation and writing it."""
    members = desk.members()
    other = threading.Thread(target=lambda: desk.members().advance(revoke="clinic-a"))
    remember = members._invitations.remember

    def slow(issued: Issued) -> None:
        other.start()
        other.join(1.0)
        remember(issued)

    monkeypatch.setattr(members._invitations, "remember", slow)
    members.refresh("clinic-a", model=MODEL, version="0.1.0", code_digest="c" * 64)
    other.join(60.0)
    assert [issued.site_id for issued in members.issued()] == ["clinic-b"]


def test_a_telephone_call_does_not_hold_up_a_revocation(desk: OfflineDesk) -> None:
    """And what changed during the call counts: here somebody takes the invitation back."""
    document = next(desk.site("clinic-c").glob("*.enrolment")).read_bytes()

    def meanwhile(_: object) -> bool:
        desk.members().advance(revoke="clinic-a")
        desk.invite("clinic-c")
        return True

    assert code_of(desk.members().enrol, document, meanwhile) == "INVITATION_UNKNOWN"
    assert desk.nodes() == {"clinic-b"}

"""Joining from end to end on real files, and the attacks on a coordinator's and a site's folder."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
import tomllib
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from joining_desk import DAY_S, MODEL, NOW, Desk, app_of, code_of
from joining_lab import RIVAL
from typer.testing import CliRunner

from medunlearn_client.joining import commands as hospital
from medunlearn_client.joining import rotation
from medunlearn_client.joining.own_keys import ENTRY_FILE, enrolment_document, read_node_key
from medunlearn_client.joining.rotation import activate_next_keys, make_next_keys
from medunlearn_client.joining.site_folder import (
    leave_federation,
    stored_invitation,
    take_refresh,
    take_roster,
)
from medunlearn_client.policy import read_policy
from medunlearn_client.sealed_hospital import seal_hospital
from medunlearn_client.service.config import read_hospital_config
from medunlearn_client.site_audit import SiteAudit
from medunlearn_client.site_config import read_site_config
from medunlearn_common import pki
from medunlearn_common.doctor import run_checks
from medunlearn_common.enrolment import open_enrolment, open_leave
from medunlearn_common.entropy import OsEntropy
from medunlearn_common.envelope import HELLO
from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.files import write_atomically
from medunlearn_common.identity import SigningIdentity
from medunlearn_common.identity.commands import read_entry
from medunlearn_common.invitation import write_invitation
from medunlearn_common.keeping import make_backup, restore
from medunlearn_common.messages import Message
from medunlearn_common.pki import (
    issue_server,
    new_authority,
    read_certificates,
    require_server_chain,
    to_pem,
    write_pair,
)
from medunlearn_common.roster import enrolment_request, self_signed_roster
from medunlearn_common.trust_folder import open_identity, open_trust
from medunlearn_server.joining import certificates
from medunlearn_server.joining import commands as coordinator
from medunlearn_server.joining.certificates import rotate
from medunlearn_server.joining.checks import coordinator_checks
from medunlearn_server.joining.founding import Founding, coordinator_text, found, sign_as_pilot
from medunlearn_server.joining.membership import InvitedModel
from medunlearn_server.joining.own_certificate import OwnCertificate
from medunlearn_server.service import commands as runs
from medunlearn_server.service.config import CoordinatorConfig, open_folder

pytestmark = pytest.mark.usefixtures("a_clock_that_starts_when_tests_are_collected")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(path=tmp_path).found()


def test_three_hospitals_join_and_their_folders_open(desk: Desk) -> None:
    folders = [desk.joined(f"clinic-{letter}") for letter in "abc"]
    assert desk.nodes() == {"clinic-a", "clinic-b", "clinic-c"}
    take_roster(folders[0], desk.members().roster_file.read_bytes(), now=NOW)
    with closing(open_trust(folders[0])) as clinic, closing(open_trust(desk.lead)) as lead:
        assert clinic.roster.current.sites == ("clinic-a", "clinic-b", "clinic-c")
        assert lead.identity.party_id == "coordinator"
    config = read_hospital_config(folders[0])
    assert config.coordinator.address == "localhost:9443"
    policy = read_policy(folders[0] / "trust" / "policy.toml")
    assert policy.known.models == ("a" * 64,)
    assert policy.federation.coordinators == ("coordinator",)
    assert (folders[0] / "systemd" / "medunlearn-hospital.service").exists()


def test_files_of_a_new_folder_are_their_owners_alone(desk: Desk) -> None:
    folder = desk.joined("clinic-a")
    for path in (folder, desk.lead):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for key in (*folder.rglob("*.key"), *desk.lead.rglob("*.key"), *desk.path.rglob("passphrase")):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600, key


def test_the_commented_coordinator_file_gives_the_same_configuration(desk: Desk) -> None:
    text = coordinator_text(CoordinatorConfig())
    assert CoordinatorConfig.model_validate(tomllib.loads(text)) == CoordinatorConfig()
    assert open_folder(desk.lead).config.federation.name == "heart"


@pytest.mark.parametrize("wrong", [
    {"federation": "he art"}, {"party_id": "-lead"}, {"entity": "a\nb"}, {"entity": ""}])
def test_a_name_that_no_roster_takes_is_refused_as_a_name(wrong: dict[str, str]) -> None:
    """Not as a damaged document, nor as a fault of ours."""
    names = {"federation": "heart", "party_id": "lead", "entity": "Heart"} | wrong
    with pytest.raises(Misconfigured) as caught:
        Founding(address="localhost:9443", **names)
    assert caught.value.code == "NAME_FORM"


def test_no_invitation_is_written_where_one_name_is_wrong(desk: Desk) -> None:
    result = CliRunner().invoke(
        app_of(coordinator.invite), ["clinic-a", "clinic b", "--folder", str(desk.lead)])
    assert isinstance(result.exception, Misconfigured) and result.exception.code == "NAME_FORM"
    assert not list((desk.lead / "invitations").iterdir())


def test_records_that_are_not_there_are_noticed_before_keys_are_made(desk: Desk) -> None:
    with pytest.raises(Misconfigured) as caught:
        desk.site("clinic-a", None, "--trust-on-first-use", "--data", str(desk.path / "none"))
    assert caught.value.code == "DATA_FILE_MISSING"
    assert not (desk.path / "clinic-a").exists()


def test_paths_are_written_as_systemd_takes_them(desk: Desk) -> None:
    """It ignores a path with `..`, and the service would then not see the records."""
    records = desk.path / "records.jsonl"
    records.write_text("{}\n", encoding="utf-8")
    site = desk.site("clinic-a", None, "--trust-on-first-use", "--data",
                     str(desk.lead / ".." / "records.jsonl"), "--model", f"{desk.lead}/..")
    config = read_site_config(site)
    assert config.data.files == (str(records.resolve()),)
    assert config.model_folder == str(desk.path.resolve())


def test_an_invitation_nobody_confirmed_makes_no_folder(desk: Desk) -> None:
    invitation, folder = desk.invite("clinic-a"), desk.path / "clinic-a"
    result = CliRunner().invoke(app_of(hospital.init), [
        str(folder), "--invitation", str(invitation)])
    assert isinstance(result.exception, Misconfigured)
    assert result.exception.code == "FINGERPRINT_UNCONFIRMED"
    assert not folder.exists() and not list(desk.path.glob(".*"))


def test_an_invitation_with_the_wrong_words_makes_no_folder(desk: Desk) -> None:
    invitation = desk.invite("clinic-a")
    words = RIVAL.fingerprint
    assert code_of(desk.site, "clinic-a", invitation, "--fingerprint", words) == \
        "FINGERPRINT_DIFFERS"
    assert not (desk.path / "clinic-a").exists()


def test_trust_on_first_use_is_said_plainly_and_remembered(desk: Desk) -> None:
    folder = desk.site("clinic-a")
    assert "WARNING: trust on first use" in desk.told[-1]
    assert (folder / "trust" / "first_use").exists()
    words = stored_invitation(folder).fingerprint
    other = desk.site("clinic-b", None, "--fingerprint", words.replace("-", " "))
    assert not (other / "trust" / "first_use").exists()


def test_a_folder_in_use_is_never_overwritten(desk: Desk) -> None:
    folder = desk.joined("clinic-a")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    invitation = desk.lead / "invitations" / "clinic-a.invitation"
    assert code_of(desk.site, "clinic-a", invitation) == "FOLDER_EXISTS"
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_an_invitation_used_twice_takes_the_first_alone(desk: Desk) -> None:
    """Whoever else read the mail makes a folder of their own from it, and comes second."""
    invitation = desk.invite("clinic-a")
    desk.enrol(desk.site("clinic-a", invitation))
    thief = Desk(path=desk.path / "thief").site("clinic-a", invitation)
    document = next(thief.glob("*.enrolment")).read_bytes()
    assert code_of(desk.members().enrol, document, lambda _: True) == "INVITATION_USED"
    assert open_enrolment(document).node_key not in (
        desk.lead / "nodes" / "clinic-a.pub").read_bytes()


def test_a_thief_who_comes_first_is_found_by_the_fingerprint(desk: Desk) -> None:
    invitation = desk.invite("clinic-a")
    mine = desk.site("clinic-a", invitation)
    thief = Desk(path=desk.path / "thief").site("clinic-a", invitation)
    words = open_enrolment(next(mine.glob("*.enrolment")).read_bytes()).fingerprint

    def by_telephone(enrolment: object) -> bool:
        if enrolment.fingerprint != words:  # type: ignore[attr-defined]
            raise Misconfigured("FINGERPRINT_DIFFERS", "", "")
        return True

    document = next(thief.glob("*.enrolment")).read_bytes()
    assert code_of(desk.members().enrol, document, by_telephone) == "FINGERPRINT_DIFFERS"
    assert not list((desk.lead / "enrolments").glob("*.*")) and not desk.nodes()


def test_a_hospital_notices_another_key_under_its_name(desk: Desk) -> None:
    invitation = desk.invite("clinic-a")
    mine = desk.site("clinic-a", invitation)
    before = (mine / "trust" / "roster.dsse").read_bytes()
    desk.enrol(Desk(path=desk.path / "thief").site("clinic-a", invitation))
    roster = desk.members().roster_file.read_bytes()
    assert code_of(take_roster, mine, roster, now=NOW) == "ROSTER_OTHER_KEY"
    assert (mine / "trust" / "roster.dsse").read_bytes() == before


def test_an_earlier_invitation_is_replaced_by_a_later_one(desk: Desk) -> None:
    first = desk.path / "first"
    first.write_bytes(desk.invite("clinic-a").read_bytes())
    folder = desk.site("clinic-a", first)
    desk.invite("clinic-a")
    assert code_of(desk.enrol, folder) == "INVITATION_UNKNOWN"


def test_an_enrolment_after_the_invitations_time_is_refused(desk: Desk) -> None:
    folder = desk.site("clinic-a")
    assert code_of(desk.enrol, folder, NOW + 15 * DAY_S) == "INVITATION_EXPIRED"


def test_an_enrolment_for_another_federation_is_refused(desk: Desk) -> None:
    document = RIVAL.enrolment("clinic-a")
    assert code_of(desk.members().enrol, document, lambda _: True) == "ENROLMENT_OTHER_FEDERATION"


def test_a_roster_of_another_consortium_is_not_taken(desk: Desk) -> None:
    folder = desk.joined("clinic-a")
    assert code_of(take_roster, folder, RIVAL.roster(9), now=NOW) == "ROSTER_SIGNATURES"
    assert code_of(desk.members().import_roster, RIVAL.roster(9), root=None) == "ROSTER_SIGNATURES"
    assert code_of(desk.members().import_roster, RIVAL.roster(9),
                   root=RIVAL.root.to_bytes()) == "ROOT_PINNED"


def test_enrolling_twice_changes_nothing(desk: Desk) -> None:
    folder = desk.joined("clinic-a")
    before = desk.members().roster_file.read_bytes()
    desk.enrol(folder)
    assert desk.members().roster_file.read_bytes() == before
    document = (folder / "clinic-a.enrolment").read_bytes()

    def by_telephone(_: object) -> bool:
        raise Misconfigured("FINGERPRINT_DIFFERS", "", "")

    assert code_of(desk.members().enrol, document, by_telephone) == "FINGERPRINT_DIFFERS"


def test_a_member_is_not_invited_again(desk: Desk) -> None:
    desk.joined("clinic-a")
    assert code_of(desk.invite, "clinic-a") == "SITE_EXISTS"
    assert code_of(desk.invite, "coordinator") == "SITE_EXISTS"


def test_a_revoked_hospital_is_shut_out_at_once_and_its_key_for_good(desk: Desk) -> None:
    folder = desk.joined("clinic-a")
    desk.joined("clinic-b")
    desk.members().advance(revoke="clinic-a")
    roster = desk.members().roster().current
    assert desk.nodes() == {"clinic-b"} and roster.sites == ("clinic-b",)
    assert len(roster.revoked) == 1
    assert code_of(desk.enrol, folder) == "KEY_REVOKED"
    again = Desk(path=desk.path / "again").site("clinic-a", desk.invite("clinic-a"))
    desk.enrol(again)
    assert desk.nodes() == {"clinic-a", "clinic-b"}


def test_revoking_who_takes_no_part_says_so_and_nobody_is_sent_a_roster(desk: Desk) -> None:
    desk.joined("clinic-a")
    run, at = CliRunner().invoke, ["--folder", str(desk.lead)]
    done = run(app_of(coordinator.revoke), ["clinic-a", *at])
    assert done.exit_code == 0 and "new hospitals" not in done.output
    for nobody in ("clinic-a", "nosuch"):
        error = run(app_of(coordinator.revoke), [nobody, *at]).exception
        assert isinstance(error, Rejected) and error.code == "PARTY_UNKNOWN"
        assert "add it" not in error.hint and "roster show" in error.hint


def test_what_is_named_twice_is_done_once(desk: Desk) -> None:
    run, at = CliRunner().invoke, ["--folder", str(desk.lead)]
    done = run(app_of(coordinator.invite), ["clinic-a", "clinic-a", *at])
    assert done.output.count("wrote") == 1 and "replaces" not in done.output
    again = run(app_of(coordinator.invite), ["clinic-a", *at])
    assert "replaces the earlier one" in again.output
    folder = desk.site("clinic-a", desk.lead / "invitations" / "clinic-a.invitation")
    file = str(next(folder.glob("*.enrolment")))
    done = run(app_of(coordinator.enrol), [file, file, "--trust-on-first-use", *at])
    assert done.exit_code == 0 and done.output.count("enrolled clinic-a") == 1


def test_a_model_folder_that_is_not_there_is_named_as_missing(desk: Desk) -> None:
    error = CliRunner().invoke(app_of(coordinator.invite), [
        "clinic-a", "--model-folder", "/srv/nope", "--folder", str(desk.lead)]).exception
    assert isinstance(error, Misconfigured) and error.code == "MODEL_MISSING"
    assert "there is no folder /srv/nope" in error.message


def test_the_model_of_the_invitations_is_that_of_a_run(desk: Desk) -> None:
    for site in ("clinic-a", "clinic-b"):
        desk.joined(site)
    assert desk.members().base_model() == replace(MODEL, name="")
    other = InvitedModel(name="other", model_digest="d" * 64, tokenizer_digest="e" * 64)
    desk.members().refresh("clinic-a", model=other, version="0.1.0", code_digest="c" * 64)
    assert desk.members().base_model() == InvitedModel(), "one of them was told of another"
    desk.members().refresh("clinic-b", model=other, version="0.1.0", code_digest="c" * 64)
    assert desk.members().base_model() == replace(other, name="")


class Service:
    """A service that remembers what it is asked to launch."""

    launched: ClassVar[list[dict[str, str]]] = []

    def __init__(self, folder: object) -> None:
        pass

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def launch(self, plan: bytes, **named: str) -> SimpleNamespace:
        Service.launched.append(named)
        return SimpleNamespace(run_id="lab-1")


def test_a_launch_takes_the_model_of_the_invitations_and_counts_the_hospitals(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "ControlClient", Service)
    monkeypatch.setattr(Service, "launched", [])
    for site in ("clinic-a", "clinic-b"):
        desk.joined(site)
    (plan := desk.path / "plan.toml").write_text(
        '[run]\nname = "lab"\n[federation]\nsites = 3\nmin_sites = 3\n')
    typed = [str(plan), "--folder", str(desk.lead)]
    done = CliRunner().invoke(app_of(runs.launch), typed)
    assert done.exit_code == 0 and done.stdout == "lab-1\n"
    assert "base model as in the invitations: aaaa" in done.stderr
    assert "the plan needs 3 hospitals, 2 are enrolled" in done.stderr
    desk.joined("clinic-c")
    done = CliRunner().invoke(app_of(runs.launch), [*typed, "--model-digest", "d" * 64])
    assert done.exit_code == 0 and done.stderr == ""
    assert Service.launched == [
        {"model_digest": "a" * 64, "tokenizer_digest": "b" * 64},
        {"model_digest": "d" * 64, "tokenizer_digest": ""}]


def test_a_launch_names_the_plan_that_it_cannot_read(desk: Desk) -> None:
    (desk.path / "wrong.toml").write_text("[run")
    for name, code in (("wrong.toml", "PLAN_SYNTAX"), ("nosuch.toml", "PLAN_MISSING")):
        error = CliRunner().invoke(
            app_of(runs.launch), [str(desk.path / name), "--folder", str(desk.lead)]).exception
        assert isinstance(error, Misconfigured)
        assert (error.code, name in error.message) == (code, True)


def test_archives_and_places_that_are_not_there_are_named(desk: Desk) -> None:
    assert code_of(make_backup, desk.lead, desk.path / "none" / "b.tar") == "BACKUP_PLACE"
    assert code_of(restore, desk.path / "none.tar", desk.path / "new") == "BACKUP_MISSING"


@pytest.mark.parametrize("sync_fails", [False, True])
def test_the_name_of_a_backup_is_on_the_disk_before_it_is_told(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, sync_fails: bool
) -> None:
    """Of a final one, nothing else is in service; one that may not last is none."""
    out, synced, real = desk.path / "b.tar", list[bool](), os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        if os.path.samestat(os.fstat(descriptor), desk.path.stat()):
            synced.append(out.exists())
            if sync_fails:
                raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    if sync_fails:
        assert code_of(make_backup, desk.lead, out, final=True) == "BACKUP_FAILED"
        assert not out.exists() and desk.members().roster()
    else:
        make_backup(desk.lead, out, final=True)
    assert synced == [True]


def test_offline_roots_sign_what_the_coordinator_drafts(tmp_path: Path) -> None:
    """Without root keys here nothing comes into force, but a revoked node is shut out already."""
    pilot = Desk(path=tmp_path).found()
    pilot.joined("clinic-a")
    (pilot.lead / "root").rename(tmp_path / "safe")
    folder = pilot.site("clinic-b")
    pilot.enrol(folder)
    assert pilot.nodes() == {"clinic-a"} and (pilot.lead / "roster.draft").exists()
    assert pilot.members().advance(revoke="clinic-a") is False
    assert pilot.nodes() == set()
    signed = _signed_offline(pilot, tmp_path / "safe")
    pilot.members().import_roster(signed, root=None)
    assert pilot.nodes() == {"clinic-b"} and not (pilot.lead / "roster.draft").exists()
    assert self_signed_roster(signed).sites == ("clinic-b",)


def _signed_offline(desk: Desk, safe: Path) -> bytes:
    """With the commands that root owners use."""
    from medunlearn_common.roster.commands import roster_app

    out = desk.path / "roster.dsse"
    for number in (1, 3):
        result = CliRunner().invoke(roster_app, [
            "sign", str(safe / f"root-{number}.key"), "--draft", str(desk.lead / "roster.draft"),
            "--out", str(out), "--passphrase-file", str(safe / "passphrase")])
        assert result.exit_code == 0, result.output
    return out.read_bytes()


def test_a_coordinator_without_a_root_imports_one(tmp_path: Path) -> None:
    desk = Desk(path=tmp_path, root_keys=0).found()
    assert code_of(desk.invite, "clinic-a") == "ROSTER_MISSING"
    without_us = RIVAL.roster()
    assert code_of(desk.members().import_roster, without_us, root=RIVAL.root.to_bytes()) == \
        "ROSTER_WITHOUT_US"
    assert not (desk.lead / "trust" / "root.cbor").exists()


# Rotation, leaving, certificates.

def key_in_force(folder: Path) -> str:
    with closing(open_trust(folder)) as trust:
        return trust.identity.key_id


def test_new_keys_come_into_force_in_step(desk: Desk) -> None:
    folder = desk.joined("clinic-a")
    before = key_in_force(folder)
    file = make_next_keys(folder, identity=True, node=True, entropy=OsEntropy(),
                          now=time.time() + 1)
    assert key_in_force(folder) == before
    assert "waits" in activate_next_keys(folder)[0]
    desk.members().enrol(file.read_bytes(), lambda _: True)
    desk.members().advance()
    take_roster(folder, desk.members().roster_file.read_bytes(), now=NOW)
    assert len(activate_next_keys(folder)) == 2 and not (folder / "next").exists()
    assert key_in_force(folder) != before
    assert (folder / "node" / "node.pub").read_bytes().split()[1] in (
        desk.lead / "nodes" / "clinic-a.pub").read_bytes()


def killed(*args: object, **named: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("killed_before", ["", "hand_over", "the entry is replaced"])
def test_a_hospitals_log_goes_on_under_its_new_key(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, killed_before: str
) -> None:
    folder = desk.joined("clinic-a")
    audit = SiteAudit(folder, site_id="clinic-a", entropy=OsEntropy())
    audit.finished(run_id="one", adapter_digest="a")
    before = audit.log.records
    file = make_next_keys(folder, identity=True, node=False, entropy=OsEntropy(),
                          now=time.time() + 1)
    desk.members().enrol(file.read_bytes(), lambda _: True)
    desk.members().advance()
    take_roster(folder, desk.members().roster_file.read_bytes(), now=NOW)
    if killed_before:
        with monkeypatch.context() as patch:
            if killed_before == "hand_over":
                patch.setattr(rotation, "hand_over", killed)
            else:
                shutil.move(folder / "next" / "identity.key", folder / "trust" / "identity.key")
                patch.setattr(rotation, "os", SimpleNamespace(replace=killed))
            with pytest.raises(KeyboardInterrupt):
                activate_next_keys(folder)
    activate_next_keys(folder)
    renewed = SiteAudit(folder, site_id="clinic-a", entropy=OsEntropy())
    renewed.finished(run_id="two", adapter_digest="a")
    assert renewed.log.damage is None and renewed.log.records[:-1] == before


def test_an_older_change_of_keys_is_not_replayed(desk: Desk) -> None:
    folder, documents = desk.joined("clinic-a"), []
    for later_s in (1, 2):
        file = make_next_keys(folder, identity=False, node=True, entropy=OsEntropy(),
                              now=time.time() + later_s)
        documents.append(file.read_bytes())
        desk.members().enrol(documents[-1], lambda _: True)
        desk.members().advance()
        activate_next_keys(folder)
    assert code_of(desk.members().enrol, documents[0], lambda _: True) == "ENROLMENT_OLD"


def test_nobody_else_changes_a_hospitals_node_key(desk: Desk) -> None:
    desk.joined("clinic-a")
    forged = RIVAL.enrolment("clinic-a", token=b"", federation="heart", issued=int(NOW) + 9)
    assert code_of(desk.members().enrol, forged, lambda _: True) == "ENROLMENT_ROTATION"


def with_node(folder: Path, node_key: Path, *, later_s: int = 9, joins: bool = False) -> bytes:
    """A hospital's enrolment, with whatever node key it chooses."""
    invitation = stored_invitation(folder).invitation
    return enrolment_document(
        open_identity(folder), read_node_key(node_key),
        read_entry(folder / "trust" / ENTRY_FILE), federation=invitation.federation,
        token=invitation.token if joins else b"", now=time.time() + later_s)


def test_a_node_key_that_was_used_before_is_not_enrolled(desk: Desk, tmp_path: Path) -> None:
    """Flower takes a key once: this hospital would be let in no more, and says that it is."""
    folder, first = desk.joined("clinic-a"), tmp_path / "first.key"
    shutil.copy(folder / "node" / "node.key", first)
    file = make_next_keys(folder, identity=False, node=True, entropy=OsEntropy(),
                          now=time.time() + 1)
    desk.members().enrol(file.read_bytes(), lambda _: True)
    desk.members().advance()
    activate_next_keys(folder)
    again = with_node(folder, first)
    assert code_of(desk.members().enrol, again, lambda _: True) == "NODE_KEY_USED"
    desk.members().enrol(with_node(folder, folder / "node" / "node.key"), lambda _: True)
    desk.members().advance(revoke="clinic-a")
    other = desk.site("clinic-b")
    for key in (first, folder / "node" / "node.key"):
        taken = with_node(other, key, joins=True)
        assert code_of(desk.members().enrol, taken, lambda _: True) == "NODE_KEY_USED"


def test_two_hospitals_do_not_share_a_node_key(desk: Desk) -> None:
    folder, other = desk.joined("clinic-a"), desk.site("clinic-b")
    taken = with_node(other, folder / "node" / "node.key", joins=True)
    assert code_of(desk.members().enrol, taken, lambda _: True) == "NODE_KEY_USED"
    desk.enrol(other)
    assert desk.nodes() == {"clinic-a", "clinic-b"}


def test_a_party_that_moved_away_signs_nothing_where_it_was(desk: Desk, tmp_path: Path) -> None:
    """Two copies of a pilot's coordinator would make two rosters of one version."""
    folder = desk.joined("clinic-a")
    make_backup(desk.lead, tmp_path / "lead.tar", final=True)
    before = desk.lead / "trust" / "roster.dsse"
    kept = before.read_bytes()
    assert code_of(desk.invite, "clinic-b") == "PARTY_RETIRED"
    assert code_of(lambda: desk.members().advance(renew=True)) == "PARTY_RETIRED"
    assert code_of(lambda: desk.members().advance(revoke="clinic-a")) == "PARTY_RETIRED"
    assert before.read_bytes() == kept
    assert "PARTY_RETIRED" in [
        finding.code for _, finding in run_checks(coordinator_checks(desk.lead, now=NOW))]
    make_backup(folder, tmp_path / "clinic.tar", final=True)
    assert code_of(make_next_keys, folder, identity=True, node=True, entropy=OsEntropy(),
                   now=NOW) == "PARTY_RETIRED"


@pytest.mark.parametrize("root", ["pilot", "offline"])
def test_a_restore_does_not_let_a_revoked_hospital_in_again(
    desk: Desk, tmp_path: Path, root: str
) -> None:
    """What is missing is put back; what `revoke` took away is missing on purpose."""
    for site in ("clinic-a", "clinic-b"):
        desk.joined(site)
    desk.invite("clinic-c")
    if root == "offline":
        (desk.lead / "root").rename(tmp_path / "safe")
    make_backup(desk.lead, tmp_path / "lead.tar")
    desk.members().advance(revoke="clinic-a")
    (desk.lead / "tls" / "control-client.key").unlink()
    assert restore(tmp_path / "lead.tar", desk.lead).placed == ("tls/control-client.key",)
    assert desk.nodes() == {"clinic-b"}
    assert desk.members().sync_nodes() == ("clinic-b",)
    assert not (desk.lead / "enrolments" / "clinic-a.enrolment").exists()


def test_who_is_let_in_after_a_lost_disk_follows_from_roster_and_enrolments(
    desk: Desk, tmp_path: Path
) -> None:
    desk.joined("clinic-a")
    late = desk.site("clinic-b")
    make_backup(desk.lead, tmp_path / "lead.tar")
    passphrase = (desk.lead / "trust" / "passphrase").read_bytes()
    before = (desk.lead / "nodes" / "clinic-a.pub").read_bytes()
    shutil.rmtree(desk.lead)
    restore(tmp_path / "lead.tar", desk.lead)
    write_atomically(desk.lead / "trust" / "passphrase", passphrase)
    assert desk.members().sync_nodes() == ("clinic-a",)
    assert (desk.lead / "nodes" / "clinic-a.pub").read_bytes() == before
    assert code_of(desk.enrol, late) == "INVITATION_UNKNOWN"  # it may have been used since


def test_leaving_destroys_the_node_key_and_keeps_the_rest(desk: Desk) -> None:
    folder = desk.joined("clinic-a")
    (folder / "ledger.db").write_bytes(b"spent")
    notice = leave_federation(folder, now=NOW)
    assert not (folder / "node" / "node.key").exists() and (folder / "ledger.db").exists()
    assert open_leave(notice.read_bytes(), desk.members().roster().current)[1] == "clinic-a"


def test_new_certificates_come_from_the_same_authority(desk: Desk) -> None:
    before = read_certificates(desk.lead / "tls" / "server.pem")[0].serial_number
    rotate(desk.lead, "leaves", now=NOW)
    assert read_certificates(desk.lead / "tls" / "server.pem")[0].serial_number != before
    assert _problems(desk) == {"ROOT_KEYS_ONLINE", "SITES_FEW", "SERVICE_STOPPED"}


def test_a_new_authority_takes_two_steps_and_locks_nobody_out(desk: Desk) -> None:
    folder = desk.joined("clinic-a")
    assert code_of(rotate, desk.lead, "switch-authority", now=NOW) == "TLS_NO_NEXT_AUTHORITY"
    rotate(desk.lead, "new-authority", now=NOW)
    refresh = desk.members(NOW + 5).refresh("clinic-a", model=MODEL, version="0.1.0",
                                            code_digest="c" * 64)
    take_refresh(folder, refresh.read_bytes(), now=NOW + 5)
    assert len(read_certificates(folder / "tls" / "ca.pem")) == 2
    rotate(desk.lead, "switch-authority", now=NOW)
    trusted = read_certificates(folder / "tls" / "ca.pem")
    assert read_certificates(desk.lead / "tls" / "ca.pem")[0] == trusted[1]
    assert not {"TLS_OTHER_CA", "TLS_KEY_OTHER"} & _problems(desk)


@pytest.mark.parametrize("killed_at", ["ca-next.key", "ca-next.pem", "ca.pem"])
@pytest.mark.parametrize("done", [False, True])
def test_a_new_authority_that_was_killed_is_gone_on_with(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, killed_at: str, done: bool,
) -> None:
    """Else hospitals are not told of it, and are locked out by the second step."""
    folder, real = desk.joined("clinic-a"), pki.write_atomically

    def dies(path: Path, data: bytes, *, private: bool = True) -> None:
        if path.name != killed_at or done:
            real(path, data, private=private)
        if path.name == killed_at:
            raise KeyboardInterrupt

    for module in (pki, certificates):
        monkeypatch.setattr(module, "write_atomically", dies)
    with pytest.raises(KeyboardInterrupt):
        rotate(desk.lead, "new-authority", now=NOW)
    for module in (pki, certificates):
        monkeypatch.setattr(module, "write_atomically", real)
    if (killed_at, done) == ("ca.pem", True):
        assert code_of(rotate, desk.lead, "new-authority", now=NOW) == "TLS_NEXT_AUTHORITY"
    else:
        assert code_of(rotate, desk.lead, "switch-authority", now=NOW) == "TLS_NO_NEXT_AUTHORITY"
        rotate(desk.lead, "new-authority", now=NOW)
    refresh = desk.members(NOW + 5).refresh("clinic-a", model=MODEL, version="0.1.0",
                                            code_digest="c" * 64)
    take_refresh(folder, refresh.read_bytes(), now=NOW + 5)
    rotate(desk.lead, "switch-authority", now=NOW)
    require_server_chain(read_certificates(desk.lead / "tls" / "server.pem"),
                         read_certificates(folder / "tls" / "ca.pem"), "localhost", now=NOW)


def test_a_refresh_of_another_federation_or_hospital_is_refused(desk: Desk) -> None:
    folder = desk.joined("clinic-a")
    desk.joined("clinic-b")
    other = desk.members().refresh("clinic-b", model=MODEL, version="0.1.0", code_digest="c" * 64)
    assert code_of(take_refresh, folder, other.read_bytes(), now=NOW) == "REFRESH_OTHER"
    rival = RIVAL.document(RIVAL.invitation(issued=int(NOW), expires=int(NOW) + DAY_S),
                           roster=RIVAL.roster(expires=int(NOW) + DAY_S))
    assert code_of(take_refresh, folder, rival, now=NOW) == "REFRESH_OTHER"


def renewed(desk: Desk, **changes: object) -> bytes:
    """The next roster, signed by the root."""
    current = desk.members().roster().current
    return sign_as_pilot(desk.lead, replace(current, version=current.version + 1, **changes))


def test_a_roster_that_was_joined_is_remembered_apart_from_its_file(desk: Desk) -> None:
    folder = desk.joined("clinic-a")
    before = (folder / "trust" / "roster.dsse").read_bytes()
    assert not (folder / "trust" / "envelopes.db").exists()  # join makes no new history
    open_trust(folder).close()
    take_roster(folder, renewed(desk), now=NOW)
    (folder / "trust" / "roster.dsse").write_bytes(before)
    assert code_of(open_trust, folder) == "ROSTER_ROLLBACK"


def test_a_refresh_that_a_revoked_coordinator_key_signed_is_refused(desk: Desk) -> None:
    folder = desk.joined("clinic-a")
    stolen, old = open_identity(desk.lead), desk.members().roster()
    fresh = SigningIdentity.generate(stolen.party_id, OsEntropy())
    entry = enrolment_request(fresh, role="coordinator", entity="Heart", valid_from=int(NOW),
                              valid_until=int(NOW) + 700 * DAY_S)
    others = [party for party in old.current.parties if party.party_id != stolen.party_id]
    parties = tuple(sorted([entry, *others], key=lambda party: party.party_id))
    take_roster(folder, renewed(desk, revoked=(stolen.key_id,), parties=parties), now=NOW)
    thief = new_authority("thief", now=NOW)
    taken = replace(stored_invitation(folder).invitation, issued=int(NOW) + 60,
                    authorities=to_pem([thief.certificate]), expires=int(NOW) + DAY_S)
    trusted = (folder / "tls" / "ca.pem").read_bytes()

    def refresh(signer: SigningIdentity, roster: bytes) -> bytes:
        return write_invitation(taken, signer, root=old.current.root, roster_document=roster)

    forged = refresh(stolen, old.document)
    assert code_of(take_refresh, folder, forged, now=NOW + 60) == "KEY_REVOKED"
    assert (folder / "tls" / "ca.pem").read_bytes() == trusted
    newest = (folder / "trust" / "roster.dsse").read_bytes()
    take_refresh(folder, refresh(fresh, newest), now=NOW + 60)


def test_a_hospital_started_after_its_roster_expired_takes_the_next_from_a_greeting(
    desk: Desk
) -> None:
    folder, late = desk.joined("clinic-a"), NOW + 95 * DAY_S
    old = desk.members().roster().document
    desk.members(NOW + 80 * DAY_S).advance(renew=True)
    assert code_of(open_trust, folder, clock=lambda: late) == "ROSTER_EXPIRED"  # for who must sign
    with closing(seal_hospital(folder, Nobody(), clock=lambda: late)) as clinic:
        assert clinic.handle(Message(kind=HELLO, payload=old, fields={})).kind == HELLO
        newest = desk.members().roster().document
        answer = clinic.handle(Message(kind=HELLO, payload=newest, fields={}))
        assert answer.fields["roster_digest"] == self_signed_roster(newest).digest.hex()


class Nobody:
    """Stands inside; nothing may reach it."""

    def handle(self, message: Message) -> Message:
        raise AssertionError(message.kind)


def test_an_institutions_certificate_is_checked_before_anything_is_written(tmp_path: Path) -> None:
    institution, stranger = new_authority("uni", now=NOW), new_authority("x", now=NOW)
    write_pair(institution, certificate=tmp_path / "ca.pem", key=tmp_path / "ca.key")
    write_pair(stranger, certificate=tmp_path / "other.pem", key=tmp_path / "other.key")
    write_pair(issue_server(institution, ["lead.example.org"], now=NOW),
               certificate=tmp_path / "s.pem", key=tmp_path / "s.key")

    def make(name: str, address: str, authority: str) -> Path:
        found(tmp_path / name, Founding(
            federation="heart", address=address, entity="Heart", root_keys=1,
            certificate=OwnCertificate(certificate=tmp_path / "s.pem", key=tmp_path / "s.key",
                                       authority=tmp_path / authority),
        ), entropy=OsEntropy(), now=NOW)
        return tmp_path / name

    assert code_of(make, "a", "lead.example.org:9443", "other.pem") == "TLS_OTHER_CA"
    assert code_of(make, "b", "elsewhere.example.org:9443", "ca.pem") == "TLS_NAME"
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()
    folder = make("c", "lead.example.org:9443", "ca.pem")
    config = open_folder(folder).config
    # Whom the control service admits is the federation's own authority, never the institution's.
    assert config.tls.ca != config.tls.server_ca
    own = read_certificates(folder / config.tls.ca)
    control = read_certificates(folder / config.tls.control_certificate)
    require_server_chain(control, own, "127.0.0.1", now=NOW)
    assert code_of(require_server_chain, control, read_certificates(tmp_path / "ca.pem"),
                   "127.0.0.1", now=NOW) == "TLS_OTHER_CA"


def _problems(desk: Desk) -> set[str]:
    findings = run_checks(coordinator_checks(desk.lead, now=time.time()))
    return {finding.code for _, finding in findings if finding.level != "ok"} - {
        "PORT_TAKEN", "DISK_LOW", "PROXY_SET"}


def test_the_settings_of_a_site_are_read_relative_to_its_folder(desk: Desk) -> None:
    folder = desk.site("clinic-a", None, "--trust-on-first-use", "--model", "org/name")
    (folder / "records.jsonl").write_text("{}\n")
    text = (folder / "site.toml").read_text()
    (folder / "site.toml").write_text(text.replace("files = []", 'files = ["records.jsonl"]', 2))
    config = read_site_config(folder)
    assert config.model_folder == "org/name" and config.site_id == "clinic-a"
    assert config.data.files == (str(folder / "records.jsonl"),)
    (folder / "site.json").write_text("{}")
    assert code_of(read_site_config, folder) == "SITE_CONFIG_TWICE"

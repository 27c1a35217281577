"""Joining from end to end on real files, and the attacks on a coordinator's and a site's folder."""

from __future__ import annotations

import shutil
import stat
import time
import tomllib
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from joining_lab import RIVAL
from typer.testing import CliRunner

from medunlearn_client.joining import commands as hospital
from medunlearn_client.joining.own_keys import ENTRY_FILE, enrolment_document, read_node_key
from medunlearn_client.joining.rotation import activate_next_keys, make_next_keys
from medunlearn_client.joining.site_folder import (
    leave_federation,
    stored_invitation,
    take_refresh,
    take_roster,
)
from medunlearn_client.policy import read_policy
from medunlearn_client.service.config import read_hospital_config
from medunlearn_client.site_config import read_site_config
from medunlearn_common.doctor import run_checks
from medunlearn_common.enrolment import open_enrolment, open_leave
from medunlearn_common.entropy import OsEntropy
from medunlearn_common.errors import MedunlearnError, Misconfigured
from medunlearn_common.identity.commands import read_entry
from medunlearn_common.keeping import make_backup
from medunlearn_common.pki import (
    issue_server,
    new_authority,
    read_certificates,
    require_server_chain,
    write_pair,
)
from medunlearn_common.roster import self_signed_roster
from medunlearn_common.trust_folder import open_identity, open_trust
from medunlearn_server.joining import commands as coordinator
from medunlearn_server.joining.certificates import rotate
from medunlearn_server.joining.checks import coordinator_checks
from medunlearn_server.joining.founding import Founding, coordinator_text, found
from medunlearn_server.joining.membership import BaseModel, Membership
from medunlearn_server.joining.own_certificate import OwnCertificate
from medunlearn_server.service.config import CoordinatorConfig, open_folder

pytestmark = pytest.mark.usefixtures("a_clock_that_starts_when_tests_are_collected")
NOW = time.time()
DAY_S = 86_400
MODEL = BaseModel(name="tiny", model_digest="a" * 64, tokenizer_digest="b" * 64)


@dataclass
class Desk:
    """A coordinator and hospitals, each in a folder; files are carried by hand."""

    path: Path
    root_keys: int = 3
    told: list[str] = field(default_factory=list)

    @property
    def lead(self) -> Path:
        return self.path / "lead"

    def members(self, now: float = NOW) -> Membership:
        return Membership(self.lead, now=now)

    def found(self) -> Desk:
        found(self.lead, Founding(
            federation="heart", address="localhost:9443", entity="Heart", threshold=2,
            root_keys=self.root_keys), entropy=OsEntropy(), now=NOW)
        return self

    def invite(self, site: str, now: float = NOW, days: int = 14) -> Path:
        return self.members(now).invite(site, days=days, model=MODEL, version="0.1.0",
                                        code_digest="c" * 64)

    def site(self, site: str, invitation: Path | None = None, *options: str) -> Path:
        folder = self.path / site
        result = CliRunner().invoke(_app(hospital.init), [
            str(folder), "--invitation", str(invitation or self.invite(site)),
            *(options or ("--trust-on-first-use",))], catch_exceptions=True)
        if result.exception is not None:
            raise result.exception
        self.told.append(result.output)
        return folder

    def enrol(self, folder: Path, now: float = NOW) -> str:
        enrolment = next(folder.glob("*.enrolment"))
        members = self.members(now)
        members.enrol(enrolment.read_bytes(), lambda _: True)
        members.advance()
        return enrolment.stem

    def joined(self, site: str) -> Path:
        folder = self.site(site)
        self.enrol(folder)
        take_roster(folder, self.members().roster_file.read_bytes(), now=NOW)
        return folder

    def nodes(self) -> set[str]:
        return {path.stem for path in (self.lead / "nodes").glob("*.pub")}


def _app(command: object) -> object:
    import typer

    app = typer.Typer()
    app.command()(command)  # type: ignore[type-var]
    return app


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(path=tmp_path).found()


def code_of(action: object, *arguments: object, **named: object) -> str:
    with pytest.raises(MedunlearnError) as caught:
        action(*arguments, **named)  # type: ignore[operator]
    return caught.value.code


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
        _app(coordinator.invite), ["clinic-a", "clinic b", "--folder", str(desk.lead)])
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
    result = CliRunner().invoke(_app(hospital.init), [
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


def test_a_refresh_of_another_federation_or_hospital_is_refused(desk: Desk) -> None:
    folder = desk.joined("clinic-a")
    desk.joined("clinic-b")
    other = desk.members().refresh("clinic-b", model=MODEL, version="0.1.0", code_digest="c" * 64)
    assert code_of(take_refresh, folder, other.read_bytes(), now=NOW) == "REFRESH_OTHER"
    rival = RIVAL.document(RIVAL.invitation(issued=int(NOW), expires=int(NOW) + DAY_S),
                           roster=RIVAL.roster(expires=int(NOW) + DAY_S))
    assert code_of(take_refresh, folder, rival, now=NOW) == "REFRESH_OTHER"


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

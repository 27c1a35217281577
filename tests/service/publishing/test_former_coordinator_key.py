"""A coordinator's key is replaced after a run: what still verifies, and what nobody may slip in."""

from __future__ import annotations

import json
import shutil
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from publishing_lab import SITES, PublishingLab, in_force, signed, trusted

from medunlearn_client.adoption.service import AdoptionChoice, adopt
from medunlearn_common.attestation.dsse import sealed
from medunlearn_common.attestation.files import Evidence
from medunlearn_common.attestation.verification import StepFailed, Verification
from medunlearn_common.audit import LogExport, SignedCheckpoint
from medunlearn_common.audit.checkpoints import cosigned_checkpoint, signed_checkpoint
from medunlearn_common.audit.signing import coordinator_log
from medunlearn_common.cli import CommandLine
from medunlearn_common.digests import canonical_json
from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.envelope import sign_bytes
from medunlearn_common.errors import Rejected
from medunlearn_common.identity import SigningIdentity
from medunlearn_common.roster import Party, Root, Roster, enrolment_request
from medunlearn_common.roster.document import ROSTER_TYPE
from medunlearn_common.trust_folder import TRUST_FOLDER, RosterInForce, open_identity

COORDINATOR = "coordinator"


def new_key(name: str, seed: int = 70) -> SigningIdentity:
    return SigningIdentity.generate(name, SeededEntropy(seed))


def entry(identity: SigningIdentity, role: Any = "coordinator", **named: Any) -> Party:
    return enrolment_request(identity, role=role, entity="x", valid_from=0, valid_until=2**32,
                             **named)


def having(roster: Roster, *entries: Party, **changes: Any) -> Roster:
    """A roster with these entries in the place of their parties'."""
    parties = {party.party_id: party for party in (*roster.parties, *entries)}
    return replace(roster, parties=tuple(parties[name] for name in sorted(parties)), **changes)


@dataclass
class Rotated:
    """A published run, and the roster that came after it with the coordinator's next key."""

    lab: PublishingLab
    run: Path
    old: SigningIdentity
    new: SigningIdentity
    attested: Roster
    used: Roster

    @property
    def root(self) -> Path:
        return self.lab.party / TRUST_FOLDER / "root.cbor"

    def verification(
        self, used: Roster | None = None, *, rooted: bool = True, path: Path | None = None
    ) -> Verification:
        keys = self.lab.base / "newest.dsse"
        keys.write_bytes(signed(self.lab, used or self.used))
        return Verification(evidence=Evidence.at(path or self.run), keys=keys,
                            root=self.root if rooted else None)

    def said(self, used: Roster | None = None, *, rooted: bool = True) -> list[str]:
        return [step.said for step in self.verification(used, rooted=rooted).steps()]

    def refused(
        self, used: Roster | None = None, *, rooted: bool = True, path: Path | None = None
    ) -> tuple[str, int]:
        with pytest.raises(StepFailed) as caught:
            list(self.verification(used, rooted=rooted, path=path).steps())
        self.error = caught.value
        return caught.value.code, caught.value.step.number

    def own_roster(self, roster: Roster) -> None:
        """The run's folder brings along another roster that the root signed."""
        (self.run / "roster.dsse").write_bytes(signed(self.lab, roster))

    def attest_as(
        self, signer: SigningIdentity, change: Callable[[dict[str, Any]], object] = dict
    ) -> None:
        """The attestation, signed anew."""
        path = self.run / "attestation.json"
        document = json.loads(b64decode(json.loads(path.read_text())["payload"]))
        change(document["predicate"])
        for place in (path, self.run / "adapter" / "attestation.json"):
            place.write_bytes(sealed(canonical_json(document), signer))


@pytest.fixture
def rotated(received: PublishingLab, tmp_path: Path) -> Rotated:
    attested, old = trusted(received).current, open_identity(received.party)
    new = new_key(COORDINATOR)
    return Rotated(
        lab=received, old=old, new=new, attested=attested,
        run=Path(shutil.copytree(received.place("second").folder, tmp_path / "run")),
        used=having(attested, entry(new, old=old), version=attested.version + 1))


@pytest.mark.parametrize("rooted", [True, False])
def test_a_run_verifies_under_the_roster_that_replaced_its_key(
    rotated: Rotated, rooted: bool
) -> None:
    said = rotated.said(rooted=rooted)
    assert "it was replaced since: roster 2 names another" in said[2]
    assert said[2].startswith(f"signed by coordinator, key {rotated.old.key_id[:16]}")
    assert said[11] == "3 sites signed the log after its last round"
    assert "replaced" not in rotated.said(rotated.attested)[2]


def test_a_run_verifies_when_the_key_was_replaced_twice(rotated: Rotated) -> None:
    """The key in between is in no roster at hand."""
    third = having(rotated.used, entry(new_key(COORDINATOR, 71), old=rotated.new), version=3)
    assert "roster 3 names another" in rotated.said(third)[2]


def test_the_command_says_that_the_key_was_replaced(
    rotated: Rotated, capsys: pytest.CaptureFixture[str]
) -> None:
    from medunlearn_common.attestation.commands import verify

    rotated.verification()
    line = CommandLine()
    app = line.build(())
    app.command(name="verify")(verify)
    assert line.run(app, ["verify", str(rotated.run), "--root", str(rotated.root),
                          "--keys", str(rotated.lab.base / "newest.dsse")]) == 0
    assert "replaced since: roster 2" in capsys.readouterr().out


def test_an_adapter_alone_is_not_believed_under_a_former_key(rotated: Rotated) -> None:
    """It brings no witnesses, and whoever has a copy of the key could have made it today."""
    adapter = rotated.run / "adapter"
    assert rotated.refused(path=adapter) == ("SIGNATURE_INVALID", 3)
    assert "whole run's folder" in rotated.error.hint and "--keys" in rotated.error.hint
    list(rotated.verification(rotated.attested, path=adapter).steps())


# Attacks.

@pytest.mark.parametrize("rooted", [True, False])
@pytest.mark.parametrize("key", ["former", "forger's"])
def test_a_roster_of_another_root_brings_in_no_key(
    rotated: Rotated, rooted: bool, key: str
) -> None:
    """A forger attests under a roster of its own, with a root of its own."""
    forger = new_key(COORDINATOR, 666)
    signer = rotated.old if key == "former" else forger
    root = Root(threshold=1, keys=(forger.public_key,))
    forged = having(rotated.attested, entry(signer), root=root)
    (rotated.run / "roster.dsse").write_bytes(
        sign_bytes(forged.to_bytes(), ROSTER_TYPE, forger).to_bytes())
    rotated.attest_as(
        signer, lambda said: said["materials"].update(roster=forged.digest.hex()))
    assert rotated.refused(rooted=rooted) == ("ROSTER_SIGNATURES", 3)
    assert rotated.error.step.file == "roster.dsse"


def test_with_keys_alone_a_roster_of_another_root_brings_in_no_witness(
    rotated: Rotated
) -> None:
    """The coordinator in force makes its own witnesses, and a roster that names them."""
    forgers = [new_key(name, 667) for name in SITES]
    root = Root(threshold=1, keys=(rotated.old.public_key,))
    forged = having(rotated.attested, *(entry(one, "site") for one in forgers), root=root)
    (rotated.run / "roster.dsse").write_bytes(
        sign_bytes(forged.to_bytes(), ROSTER_TYPE, rotated.old).to_bytes())
    rotated.attest_as(
        rotated.old, lambda said: said["materials"].update(roster=forged.digest.hex()))
    assert rotated.refused(replace(rotated.attested, version=2), rooted=False) == (
        "ROSTER_SIGNATURES", 8)


def test_the_key_of_another_party_of_the_attested_roster(rotated: Rotated) -> None:
    rival = new_key("rival")
    rotated.own_roster(having(rotated.attested, entry(rival)))
    rotated.attest_as(SigningIdentity(COORDINATOR, rival._private_key))
    assert rotated.refused() == ("SIGNATURE_INVALID", 3)
    rotated.attest_as(rival)  # under its own name, which the roster in use does not know
    assert rotated.refused() == ("PARTY_UNKNOWN", 3)


def test_a_former_key_that_is_revoked(rotated: Rotated) -> None:
    gone = (rotated.old.key_id,)
    assert rotated.refused(replace(rotated.used, revoked=gone)) == ("KEY_REVOKED", 3)
    assert rotated.old.key_id[:16] in str(rotated.error)
    # Nor is it good again under a roster that leaves the revocation out.
    rotated.own_roster(replace(rotated.attested, revoked=gone))
    assert rotated.refused() == ("ROSTER_UNREVOKED", 3)


@pytest.mark.parametrize(("now", "code"), [
    ("gone", "PARTY_UNKNOWN"), ("a site", "ENVELOPE_SIGNER"), ("revoked", "KEY_REVOKED"),
])
def test_a_party_that_is_a_coordinator_no_more(rotated: Rotated, now: str, code: str) -> None:
    used = rotated.used
    if now == "gone":
        used = replace(used, parties=tuple(p for p in used.parties if p.party_id != COORDINATOR))
    elif now == "a site":
        used = having(used, entry(rotated.new, "site"))
    else:
        used = replace(used, revoked=(rotated.new.key_id,))
    assert rotated.refused(used) == (code, 3)


def test_a_site_does_not_pose_as_a_former_coordinator(rotated: Rotated) -> None:
    site = open_identity(rotated.lab.base / "sites" / "site-0")
    posing = SigningIdentity(COORDINATOR, site._private_key)
    rotated.attest_as(posing)
    assert rotated.refused() == ("SIGNATURE_INVALID", 3)
    # Nor where a roster of before had the coordinator's name for a site.
    others = tuple(p for p in rotated.attested.parties if p.party_id not in (COORDINATOR, "site-0"))
    rotated.own_roster(having(replace(rotated.attested, parties=others), entry(posing, "site")))
    without_it = replace(rotated.used, parties=tuple(
        p for p in rotated.used.parties if p.party_id != "site-0"))
    assert rotated.refused(without_it) == ("SIGNATURE_INVALID", 3)


def test_a_key_that_is_a_sites_now_is_no_coordinators(rotated: Rotated) -> None:
    used = having(rotated.used, entry(SigningIdentity("site-2", rotated.old._private_key), "site"))
    assert rotated.refused(used) == ("SIGNATURE_INVALID", 3)


def test_a_roster_in_use_that_is_older_than_the_attested_one(rotated: Rotated) -> None:
    """Whoever verifies with an old roster has not heard of what was revoked since."""
    rotated.own_roster(replace(rotated.attested, version=3))
    assert rotated.refused() == ("ROSTER_ROLLBACK", 3)
    rotated.own_roster(replace(rotated.attested, version=2))
    assert rotated.refused() == ("ROSTER_FORK", 3)
    assert rotated.error.step.file == "roster.dsse"


def test_another_roster_than_the_attested_one_brings_in_no_key(rotated: Rotated) -> None:
    """Signed by the root, of before, with that very key: and still not the one that is named."""
    rotated.own_roster(replace(rotated.attested, expires=rotated.attested.expires + 1))
    assert rotated.refused() == ("FILE_CHANGED", 8)


def signed_log(
    rotated: Rotated, *, named: SigningIdentity, signer: SigningIdentity
) -> Callable[[dict[str, Any]], None]:
    """The attested state of a log that names one key, signed by another."""
    def change(said: dict[str, Any]) -> None:
        state = SignedCheckpoint.from_text(said["log"]["checkpoint"]).checkpoint
        origin = coordinator_log("second", key_id=named.key_id)
        said["log"]["checkpoint"] = signed_checkpoint(
            replace(state, origin=origin), signer).to_text()

    return change


def test_the_attestation_and_its_log_are_of_one_key(rotated: Rotated) -> None:
    """Keys of one party, and both believed: but a run ends under the key with which it began."""
    old, new = rotated.old, rotated.new
    for attests, named, signs, code in (
        (old, new, new, "SIGNATURE_INVALID"), (old, new, old, "CHECKPOINT_ORIGIN"),
        (old, old, new, "SIGNATURE_INVALID"), (new, old, old, "SIGNATURE_INVALID"),
        (new, old, new, "CHECKPOINT_ORIGIN"), (new, new, old, "SIGNATURE_INVALID"),
    ):
        rotated.attest_as(attests, signed_log(rotated, named=named, signer=signs))
        assert rotated.refused() == (code, 9), (attests, named, signs)


def test_the_published_log_is_of_that_key_too(rotated: Rotated) -> None:
    file = rotated.run / "audit-log.jsonl"
    export = LogExport.from_bytes(file.read_bytes())
    state = export.head.checkpoint
    other = replace(state, origin=coordinator_log("second", key_id=rotated.new.key_id))
    for head, code in (
        (signed_checkpoint(state, rotated.new), ("SIGNATURE_INVALID", 10)),
        (signed_checkpoint(other, rotated.new), ("SIGNATURE_INVALID", 10)),
        (signed_checkpoint(other, rotated.old), ("AUDIT_ROLLBACK", 11)),
    ):
        file.write_bytes(replace(export, head=head).to_bytes())
        assert rotated.refused() == code


def test_a_copy_of_a_former_key_makes_no_run(rotated: Rotated) -> None:
    """Its thief attests and signs a log, under a roster of that time: no hospital has seen it."""
    file = rotated.run / "audit-log.jsonl"
    export = LogExport.from_bytes(file.read_bytes())
    file.write_bytes(replace(export, cosignatures=()).to_bytes())
    assert rotated.refused() == ("WITNESS_MISSING", 12)
    thief = new_key("site-0", 668)
    file.write_bytes(replace(export, cosignatures=(
        cosigned_checkpoint(export.head.checkpoint, thief),)).to_bytes())
    assert rotated.refused()[1] == 12


# Hospitals.

def test_hospitals_adopt_what_was_attested_before_the_key_was_replaced(rotated: Rotated) -> None:
    in_force(rotated.lab, rotated.used)
    checked = rotated.lab.site(0).checked("second")
    assert checked.statement.predicate.process.run_id == "second"
    assert adopt(rotated.lab.site(0), "second", AdoptionChoice(by="Ann Lee")).run_id == "second"
    assert rotated.lab.decide(0, "countersigned").site == "site-0"


def test_hospitals_do_not_adopt_once_that_key_is_revoked(rotated: Rotated) -> None:
    in_force(rotated.lab, replace(rotated.used, revoked=(rotated.old.key_id,)))
    with pytest.raises(StepFailed, match="KEY_REVOKED"):
        rotated.lab.site(0).checked("second")


def test_a_hospital_still_takes_no_older_log_under_a_former_key(rotated: Rotated) -> None:
    """The witness store judges as before; only the key is another one."""
    lab = rotated.lab
    inbox = lab.inbox(0)
    lab.publish()  # now the log is longer than what the run's copy brings
    in_force(lab, rotated.used)
    site = lab.site(0)
    seen = site.audit.witness.seen(coordinator_log("second", key_id=rotated.old.key_id))
    export = LogExport.from_bytes((inbox / "audit-log.jsonl").read_bytes())
    state = replace(export.head.checkpoint, root=b"\x01" * 32, size=seen[-1].checkpoint.size)
    key = RosterInForce(site.folder).former_key(COORDINATOR, rotated.old.key_id)
    with pytest.raises(Rejected, match="AUDIT_NOT_CONSISTENT"):
        site.audit.witness.witness(
            signed_checkpoint(state, rotated.old), keeper=COORDINATOR, leaves=export.leaves,
            origin=state.origin, verifier=key)
    for bad in (state, replace(state, origin="coordinator/other/key")):
        with pytest.raises(Rejected, match=r"SIGNATURE_INVALID|CHECKPOINT_ORIGIN"):
            site.audit.witness.witness(
                signed_checkpoint(bad, rotated.new), keeper=COORDINATOR, leaves=export.leaves,
                origin=state.origin, verifier=key)

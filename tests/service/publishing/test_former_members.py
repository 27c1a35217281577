"""A hospital leaves after a run, or takes a new key; the others keep what they received."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from publishing_lab import SITES, PublishingLab, in_force, signed, trusted

from medunlearn_client.adoption.overview import overview
from medunlearn_client.adoption.service import AdoptionChoice, adopt
from medunlearn_common.attestation.files import Evidence
from medunlearn_common.attestation.verification import StepFailed, Verification
from medunlearn_common.audit import LogExport, cosigned_checkpoint
from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.identity import SigningIdentity
from medunlearn_common.roster import Roster, enrolment_request
from medunlearn_common.trust_folder import TRUST_FOLDER, open_identity


def without(roster: Roster, *names: str) -> Roster:
    """The next roster, in which the keys of these are revoked."""
    gone = {roster.party(name).key_id for name in names}
    return replace(
        roster, version=roster.version + 1, revoked=tuple(sorted({*roster.revoked, *gone})),
        parties=tuple(party for party in roster.parties if party.party_id not in names))


def with_new_keys(roster: Roster, olds: dict[str, SigningIdentity], seed: int) -> Roster:
    """The next roster, in which these have keys that their old ones vouch for."""
    entries = {
        name: enrolment_request(
            SigningIdentity.generate(name, SeededEntropy(seed)), role="site", entity="x",
            valid_from=0, valid_until=2**32, old=old)
        for name, old in olds.items()
    }
    return replace(roster, version=roster.version + 1, parties=tuple(
        entries.get(party.party_id, party) for party in roster.parties))


def key_of(lab: PublishingLab, site: str) -> SigningIdentity:
    return open_identity(lab.base / "sites" / site)


def witnesses(lab: PublishingLab, folder: Path, roster: Roster) -> str:
    """What `medunlearn verify` says in its last step, with this roster in use."""
    keys = lab.base / "newest.dsse"
    keys.write_bytes(signed(lab, roster))
    *_, last = Verification(
        evidence=Evidence.at(folder), keys=keys, root=lab.party / TRUST_FOLDER / "root.cbor"
    ).steps()
    return last.said


def adopted_and_decided(lab: PublishingLab) -> None:
    assert [line for line in overview(lab.site(0)) if "NOT SOUND" in line] == []
    assert adopt(lab.site(0), "second", AdoptionChoice(by="Ann Lee")).run_id == "second"
    assert lab.decide(0, "countersigned").site == "site-0"


def test_a_hospital_leaves_and_the_others_keep_what_they_received(
    received: PublishingLab
) -> None:
    in_force(received, without(trusted(received).current, "site-2"))
    adopted_and_decided(received)
    said = witnesses(received, received.inbox(0), trusted(received).current)
    assert said == ("2 sites signed the log after its last round; "
                    "not site-2 (its key is revoked)")


@pytest.mark.parametrize("times", [1, 2])
def test_a_hospital_takes_a_new_key_and_the_others_keep_what_they_received(
    received: PublishingLab, times: int
) -> None:
    """Twice, the key in between is in no roster that a verifier has."""
    old = key_of(received, "site-2")
    for seed in range(times):
        in_force(received, with_new_keys(trusted(received).current, {"site-2": old}, seed + 50))
        old = SigningIdentity.generate("site-2", SeededEntropy(seed + 50))
    adopted_and_decided(received)
    said = witnesses(received, received.inbox(0), trusted(received).current)
    assert said == "3 sites signed the log after its last round"  # the run's own signature counts


@pytest.mark.parametrize("how", ["leaves", "takes a new key"])
def test_a_hospital_changes_between_the_run_and_its_publication(
    lab: PublishingLab, how: str
) -> None:
    now = trusted(lab).current
    in_force(lab, without(now, "site-2") if how == "leaves"
             else with_new_keys(now, {"site-2": key_of(lab, "site-2")}, 50))
    lab.away = {"site-2"}
    assert lab.publish().verdicts == dict.fromkeys(SITES[:2], "RECEIVED")
    adopted_and_decided(lab)
    said = witnesses(lab, lab.inbox(0), trusted(lab).current)
    assert said.endswith("not site-2 (its key of that time is in no roster here)")


def test_all_hospitals_take_new_keys(received: PublishingLab) -> None:
    now = trusted(received).current
    in_force(received, with_new_keys(now, {name: key_of(received, name) for name in SITES}, 50))
    said = witnesses(received, received.inbox(0), trusted(received).current)
    assert said == "3 sites signed the log after its last round"


def test_stolen_keys_make_no_witnesses_once_they_are_revoked(received: PublishingLab) -> None:
    """The coordinator has them sign its log anew; nobody else ever signed it."""
    thieves = {name: key_of(received, name) for name in SITES}
    file = received.place("second").folder / "audit-log.jsonl"
    export = LogExport.from_bytes(file.read_bytes())
    state = received.log().head.checkpoint
    file.write_bytes(replace(
        received.log().export(),
        cosignatures=tuple(cosigned_checkpoint(state, thief) for thief in thieves.values()),
    ).to_bytes())
    roster, folder = trusted(received).current, file.parent
    assert len(export.cosignatures) == 3 and witnesses(received, folder, roster)
    assert witnesses(received, folder, without(roster, *SITES[:2])) == (
        "1 sites signed the log after its last round; "
        "not site-0 (its key is revoked), site-1 (its key is revoked)")
    with pytest.raises(StepFailed, match="WITNESS_MISSING"):
        witnesses(received, folder, without(roster, *SITES))

"""From an attested run, over the coordinator's next key, to the next run: on real parties."""

from __future__ import annotations

import shutil
import time
from contextlib import closing
from dataclasses import replace
from typing import Any, cast

import pytest
from publishing_lab import SITES, PublishingLab, finished_run, in_force, signed, trusted

from medunlearn_client.adoption.service import AdoptionChoice, adopt, rollback
from medunlearn_common.attestation.files import Evidence
from medunlearn_common.attestation.verification import Verification
from medunlearn_common.audit.signing import coordinator_log
from medunlearn_common.entropy import OsEntropy
from medunlearn_common.errors import MedunlearnError, Misconfigured
from medunlearn_common.messages import COLLECT, PUBLISH, READY, Message
from medunlearn_common.plan import RuntimeOptions
from medunlearn_common.roster import Roster
from medunlearn_common.roster.document import party_to_bytes
from medunlearn_common.trust_folder import TRUST_FOLDER, open_identity
from medunlearn_server import flower_app
from medunlearn_server.audit_trail import AuditTrail
from medunlearn_server.checkpoints import RunStore
from medunlearn_server.coordinator import Coordinator
from medunlearn_server.joining.founding import coordinator_text
from medunlearn_server.joining.membership import Membership
from medunlearn_server.sealed_transport import OFFER_FILE, SealedTransport, seal_transport
from medunlearn_server.service.config import CoordinatorConfig
from medunlearn_simulation.absences import Absences
from medunlearn_simulation.memory_runner import Faults, MemoryTransport

RUNTIME = RuntimeOptions(runner="memory", device="cpu")


def rotate(lab: PublishingLab) -> str:
    """As people do it where the root is elsewhere: rotate, sign, import; the key of before."""
    before = open_identity(lab.party).key_id
    entry = trusted(lab).current.party("coordinator")
    (lab.party / "coordinator.entry").write_bytes(party_to_bytes(entry))
    (lab.party / "coordinator.toml").write_text(coordinator_text(CoordinatorConfig()))
    now = time.time()
    assert not Membership(lab.party, now=now).rotate(entropy=OsEntropy())
    draft = Roster.from_bytes((lab.party / "roster.draft").read_bytes())
    assert Membership(lab.party, now=now).import_roster(signed(lab, draft), root=None)
    assert open_identity(lab.party).key_id != before
    return before


def verified(lab: PublishingLab, run_id: str = "second") -> list[str]:
    trust = lab.party / TRUST_FOLDER
    return [step.said for step in Verification(
        evidence=Evidence.at(lab.place(run_id).folder), keys=trust / "roster.dsse",
        root=trust / "root.cbor").steps()]


def test_from_an_attested_run_over_the_next_key_to_the_next_run(received: PublishingLab) -> None:
    before = rotate(received)
    said = verified(received)
    assert f"key {before[:16]}... of the run's own roster; it was replaced since" in said[2]
    assert said[11] == "3 sites signed the log after its last round"
    # Hospitals still hold the roster of before; the next greeting brings the new one.
    assert received.site(0).checked("second").run_id == "second"
    plan = received.plan("second")
    base = received.base
    received.close()
    finished_run(base, plan, "third")
    with closing(PublishingLab(base)) as lab:
        assert lab.publish("third").verdicts == dict.fromkeys(SITES, "RECEIVED")
        assert "replaced" not in verified(lab, "third")[2]
        assert lab.log("third").origin.endswith(open_identity(lab.party).key_id)
        for number in range(3):
            for run in ("second", "third"):
                assert lab.site(number).checked(run).run_id == run
        # Everything that is local at a hospital, with the earlier run too.
        assert adopt(lab.site(0), "second", AdoptionChoice(by="Ann Lee")).run_id == "second"
        assert adopt(lab.site(0), "third", AdoptionChoice(by="Ann Lee")).run_id == "third"
        back = rollback(lab.site(0), by="Ann Lee")
        assert back is not None and back.run_id == "second"


def test_an_earlier_run_is_published_anew_and_decisions_on_it_collected(
    lab: PublishingLab
) -> None:
    """One hospital was away at first; another decides only now, under the next key."""
    lab.away = {"site-2"}
    assert lab.publish().missed == {"site-2": "SITE_GONE"}
    size, first = len(lab.log().records), lab.place("second").attestation_digest
    before = rotate(lab)
    lab.decide(0, "objected")
    lab.away = set()
    done = lab.publish()
    assert dict(done.verdicts) == dict.fromkeys(SITES, "RECEIVED")
    assert dict(done.decisions) == {"site-0": "objected"}
    assert done.attestation_digest == first
    log = lab.log()
    assert log.damage is None and len(log.records) > size
    assert log.origin == coordinator_log("second", key_id=before)
    assert "it was replaced since" in verified(lab)[2]
    for number in range(3):
        checked = lab.site(number).checked("second")
        assert checked.objections() == {"site-0": "Ann Lee"}
        seen = lab.site(number).audit.witness.seen(log.origin)
        assert seen[-1].checkpoint.size == len(log.records) - len(SITES)  # but who has it now


def code_at(lab: PublishingLab, site: str, run_id: str, request: Message) -> str:
    """What a hospital answers to one request with the log's head, sealed under the key in force."""
    trail = AuditTrail(lab.place(run_id).run, run_id=run_id, party=lab.party)
    with closing(lab.transport(run_id)) as transport:
        address = next(a for a in transport.sites() if a.endswith(site) or a == site)
        reply = transport.exchange({address: trail.carried_by(request)}, deadline_s=60.0)[address]
    return str(getattr(reply, "code", "") or getattr(reply, "fields", {}).get("code", "OK"))


def request(lab: PublishingLab, kind: str) -> Message:
    log = lab.log()
    model = next(r.fields["model_digest"] for r in log.records if r.kind == "sites_agreed")
    fields: dict[str, Any] = {
        "run_id": "second", "round": 999, "model_digest": model,
        "attestation_digest": lab.place("second").attestation_digest}
    if kind == READY:
        fields |= {"round": 0, "plan_digest": lab.plan("second").shared().digest}
    return Message(kind=kind, fields=fields)


def test_under_a_former_key_nothing_but_a_publication_is_answered(
    received: PublishingLab
) -> None:
    rotate(received)
    assert code_at(received, "site-0", "second", request(received, COLLECT)) == "OK"
    assert code_at(received, "site-0", "second", request(received, READY)) == "CHECKPOINT_ORIGIN"


def test_a_former_key_is_believed_of_no_log_that_the_hospital_has_not_seen(
    received: PublishingLab
) -> None:
    """Who has a copy of it cannot begin another log of the run, nor of any other run."""
    before = rotate(received)
    assert code_at(received, "site-0", "second", request(received, COLLECT)) == "OK"
    audit = received.site(0).audit
    head = replace(received.log().head)
    for origin, run_id in (
        (coordinator_log("never", key_id=before), "never"),
        (coordinator_log("second", key_id="0" * 64), "second"),
        (coordinator_log("second", key_id="../../../root"), "second"),
        (coordinator_log("second", key_id=before), "first"),
    ):
        shown = replace(head, checkpoint=replace(head.checkpoint, origin=origin))
        assert audit._former_key(PUBLISH, shown, run_id) is None
    assert audit._former_key(PUBLISH, head, "second") is not None
    assert audit._former_key(READY, head, "second") is None


def test_a_revoked_former_key_publishes_nothing(received: PublishingLab) -> None:
    before = rotate(received)
    now = trusted(received).current
    in_force(received, replace(now, version=now.version + 1, revoked=(before,)))
    assert code_at(received, "site-0", "second", request(received, COLLECT)) == "KEY_REVOKED"


def test_a_run_that_was_not_attested_in_time_never_is(lab: PublishingLab) -> None:
    rotate(lab)
    with pytest.raises(Misconfigured, match="RUN_UNDER_FORMER_KEY"):
        lab.publish()
    assert not lab.place("second").folder.exists()


def test_no_run_goes_on_under_a_former_key(lab: PublishingLab) -> None:
    rotate(lab)
    plan, folder = lab.plan("second").shared(), lab.place("second").run
    with closing(lab.transport("second")) as transport, pytest.raises(
            Misconfigured, match="RUN_UNDER_FORMER_KEY"):
        Coordinator(plan=plan, store=RunStore(folder), run_id="second", transport=transport,
                    verifier=transport.verifier, party=lab.party).run(resume=True)


def test_a_run_whose_former_key_is_lost_says_so(received: PublishingLab) -> None:
    before = rotate(received)
    shutil.rmtree(received.party / TRUST_FOLDER / "former")
    with pytest.raises(Misconfigured, match="FORMER_KEY_MISSING") as caught:
        received.publish()
    assert f"{before}.key" in caught.value.hint
    assert verified(received)  # what is published verifies without it


def test_the_offer_that_was_signed_with_a_former_key_is_no_hindrance(
    received: PublishingLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deployed run keeps its offer; who publishes it, as the service does, offers nothing."""
    plan, run = received.plan("second").shared(), received.place("second").run
    inside = MemoryTransport(dict(received.hospitals), absences=Absences.of_plan(plan),
                             faults=Faults())

    def sealed() -> SealedTransport:
        return seal_transport(inside, received.party, plan=plan, run_id="second",
                              offer_file=run / OFFER_FILE, survives_power_cut=False)

    sealed().close()
    rotate(received)
    with pytest.raises(MedunlearnError, match="KEY_UNKNOWN"):
        sealed()
    monkeypatch.setattr(flower_app, "FlowerTransport", lambda *_, **__: inside)
    flower_app.lead(cast(Any, None), {
        "run-folder": str(run), "plan": str(run / "plan.toml"), "run-id": "second",
        "trust-folder": str(received.party), "mode": "publish"})
    deliveries = received.place("second").deliveries()
    assert deliveries["number"] == 2 and deliveries["missed"] == {}
    assert deliveries["verdicts"] == dict.fromkeys(SITES, "RECEIVED")

"""Two finished runs of a deployed federation, and what is needed to publish them in memory."""

from __future__ import annotations

import json
import os
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from medunlearn_client.adoption.deciding import decide
from medunlearn_client.adoption.hospital import AdoptionHospital
from medunlearn_client.hospital import open_hospital
from medunlearn_client.policy import FederationLimits, PrivacyLimits, SitePolicy, policy_template
from medunlearn_client.sealed_hospital import SealedHospital, seal_hospital
from medunlearn_common.audit import AuditLog
from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.envelope import sign_bytes
from medunlearn_common.identity import SigningIdentity
from medunlearn_common.plan import Plan, RuntimeOptions, plan_from_text, plan_template
from medunlearn_common.publication import Decision
from medunlearn_common.roster import Roster, TrustedRoster
from medunlearn_common.roster.document import ROSTER_TYPE
from medunlearn_common.trust_folder import POLICY_FILE, TRUST_FOLDER
from medunlearn_server.audit_trail import AuditTrail
from medunlearn_server.checkpoints import RunStore
from medunlearn_server.coordinator import Coordinator
from medunlearn_server.publishing.folder import PublishedRun
from medunlearn_server.publishing.session import Publication, publish_over
from medunlearn_server.sealed_transport import OFFER_FILE, SealedTransport, seal_transport
from medunlearn_simulation.absences import Absences
from medunlearn_simulation.enrolment import enrol
from medunlearn_simulation.memory_runner import Faults, MemoryTransport
from medunlearn_simulation.run_folder import RunFolder
from medunlearn_simulation.simulate import write_sites

SITES = ("site-0", "site-1", "site-2")
RUNTIME = RuntimeOptions(runner="memory", device="cpu")
PLAN = """\
[run]
name = "published"
rounds = 1
[model]
source = "{model}"
target_modules = ["q_proj", "v_proj"]
lora_rank = 4
[data]
files = ["{data}"]
[objective]
name = "max_entropy"
[support]
method = "vote"
density = 0.01
[geometry]
projection = "none"
[privacy]
noise = "local"
epsilon = 40.0
[gates]
min_preservation = 0.0
[federation]
sites = 3
min_sites = 3
[forget]
subjects = ["Surgery"]
"""


def two_finished_runs(base: Path, *, model: Path, data: Path) -> None:
    """``base/coordinator`` and ``base/sites/site-N``, as deployed parties' folders."""
    plan = enrolled_parties(base, model=model, data=data)
    for run_id in ("first", "second"):
        finished_run(base, plan, run_id)


def enrolled_parties(base: Path, *, model: Path, data: Path) -> Plan:
    """The same, before any run; the plan of their runs."""
    plan = plan_from_text(PLAN.format(model=model, data=data))
    write_sites(plan, RunFolder(root=base), str(model))
    party = base / "coordinator"
    enrol(plan.shared(), run_folder=party, sites={base / "sites" / name: name for name in SITES})
    (party / "coordinator.toml").write_text("schema_version = 1\n")
    policy = policy_template(SitePolicy(
        privacy=PrivacyLimits(
            max_epsilon=100.0, max_total_epsilon=1000.0, min_sigma=0.0,
        ),
        federation=FederationLimits(coordinators=("coordinator",), max_runs=10, max_density=0.05),
    ))
    for name in SITES:
        (base / "sites" / name / TRUST_FOLDER / POLICY_FILE).write_text(policy)
    return plan


def finished_run(base: Path, plan: Plan, run_id: str) -> None:
    """One run, from its first request to its last."""
    party = base / "coordinator"
    folder = party / "runs" / run_id
    folder.mkdir(parents=True)
    (folder / "plan.toml").write_text(plan_template(plan))
    trust = folder / TRUST_FOLDER  # a run of the coordinator proper takes it from its own folder
    os.symlink(party / TRUST_FOLDER, trust)
    with closing(PublishingLab(base)) as lab, closing(lab.transport(run_id)) as transport:
        Coordinator(
            plan=plan.shared(), store=RunStore(folder), run_id=run_id, transport=transport,
            verifier=transport.verifier, sleep=lambda seconds: None,
        ).run()
    trust.unlink()


class PublishingLab:
    """The parties' folders, opened; whoever opens it closes it."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.party = base / "coordinator"
        self.away: set[str] = set()
        self.hospitals: dict[str, SealedHospital] = {
            name: seal_hospital(
                base / "sites" / name, open_hospital(base / "sites" / name, RUNTIME),
                survives_power_cut=False,
            ) for name in SITES
        }

    def close(self) -> None:
        for hospital in self.hospitals.values():
            hospital.close()

    def place(self, run_id: str) -> PublishedRun:
        return PublishedRun.of(self.party / "runs" / run_id, run_id)

    def plan(self, run_id: str) -> Plan:
        return plan_from_text((self.party / "runs" / run_id / "plan.toml").read_text())

    def transport(self, run_id: str, wire: Any = None) -> SealedTransport:
        (self.party / TRUST_FOLDER / OFFER_FILE).unlink(missing_ok=True)  # of the other run
        shared = self.plan(run_id).shared()
        present = {n: h for n, h in self.hospitals.items() if n not in self.away}
        inside = wire or MemoryTransport(
            present, absences=Absences.of_plan(shared), faults=Faults()
        )
        return seal_transport(
            inside, self.party, plan=shared, run_id=run_id, survives_power_cut=False
        )

    def publish(self, run_id: str = "second", wire: Any = None) -> Publication:
        with closing(self.transport(run_id, wire)) as transport:
            return publish_over(transport, self.party / "runs" / run_id, run_id)

    def log(self, run_id: str = "second") -> AuditLog:
        place = self.place(run_id)
        return AuditTrail(place.run, run_id=run_id, party=place.party).log

    def site(self, number: int) -> AdoptionHospital:
        return AdoptionHospital.at(self.base / "sites" / f"site-{number}")

    def inbox(self, number: int, run_id: str = "second") -> Path:
        return self.site(number).places.inbox(run_id)

    def decide(self, number: int, verdict: Any, run_id: str = "second") -> Decision:
        return decide(self.site(number), run_id, verdict, by="Ann Lee", reason="ward seven lost it")

    def outcome(self, run_id: str = "second") -> dict[str, Any]:
        path = self.party / "runs" / run_id / "outcome.json"
        return json.loads(path.read_text())  # type: ignore[no-any-return]

    def change_outcome(self, run_id: str = "second", **values: Any) -> None:
        path = self.party / "runs" / run_id / "outcome.json"
        path.write_text(json.dumps({**self.outcome(run_id), **values}))


def trusted(lab: PublishingLab) -> TrustedRoster:
    return TrustedRoster(lab.party / TRUST_FOLDER, now=time.time())


def signed(lab: PublishingLab, roster: Roster) -> bytes:
    """By the root of the lab's federation, whose keys follow from the plan's seed."""
    entropy = SeededEntropy(lab.plan("second").run.seed)
    roots = [SigningIdentity.generate(f"root-{number}", entropy) for number in range(2)]
    return sign_bytes(roster.to_bytes(), ROSTER_TYPE, *roots).to_bytes()


def in_force(lab: PublishingLab, roster: Roster) -> None:
    """At every party, as a greeting would bring it."""
    document = signed(lab, roster)
    for hospital in lab.hospitals.values():
        hospital.trust.roster.offer(document, now=time.time())
    trusted(lab).offer(document, now=time.time())

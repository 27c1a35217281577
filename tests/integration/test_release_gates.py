"""Attacks that the release gates stop, over the real coordinator in memory."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest
from quadratic_hospital import open_hospital, small_plan, write_sites

from medunlearn_common.errors import MedunlearnError, Misconfigured
from medunlearn_common.plan import RunPlan, RuntimeOptions
from medunlearn_server.audit_trail import AuditTrail
from medunlearn_server.checkpoints import RunStore
from medunlearn_server.gatekeeper import (
    GATES_FILE,
    OVERRIDES_FILE,
    add_override,
    new_override,
    read_overrides,
)
from medunlearn_server.reports import RunOutcome
from medunlearn_simulation.memory_runner import run_in_memory

RUNTIME = RuntimeOptions(runner="memory", device="cpu")
PUSHED = {"run": {"rounds": 20}, "server": {"learning_rate": 0.3}, "gates": {"max_units": 3000}}
WHEN = "2026-01-01T12:00:00+00:00"


class Lab:
    """One federation whose third hospital may be malicious; an earlier adapter lies there."""

    def __init__(self, folder: Path, **changes: dict[str, object]) -> None:
        self.sites = write_sites(folder / "sites", 4, **changes)
        self.folder = folder / "run"
        self.earlier = self.folder / "adapter" / "adapter_model.safetensors"
        self.earlier.parent.mkdir(parents=True)
        self.earlier.write_bytes(b"the adapter of an earlier run")

    def run(self, plan: RunPlan, *, resume: bool = False) -> RunOutcome:
        hospitals = {site.name: open_hospital(site, RUNTIME) for site in self.sites}
        return run_in_memory(
            plan, hospitals, run_folder=self.folder, run_id="lab", resume=resume
        )

    def refusal(self, plan: RunPlan, *, resume: bool = False) -> MedunlearnError:
        with pytest.raises(MedunlearnError) as caught:
            self.run(plan, resume=resume)
        assert self.earlier.read_bytes() == b"the adapter of an earlier run"
        assert not (self.folder / "outcome.json").exists()
        return caught.value

    def override(self, gate: str) -> None:
        decision = new_override(gate, by="Ann Lee", because="known and harmless, ticket 12",
                                at=WHEN)
        add_override(RunStore(self.folder), decision)


def test_an_honest_run_passes_all_gates_and_says_so(tmp_path: Path) -> None:
    outcome = Lab(tmp_path).run(small_plan(privacy={"noise": "distributed", "epsilon": 8.0}))
    assert [(g.gate, g.passed) for g in outcome.gates] == [
        ("norm", True), ("canary", True), ("utility", True)]
    assert len(outcome.evaluation.sites) == 4 and outcome.evaluation.noise > 0.0
    assert sum(outcome.evaluation.retain) == pytest.approx(200.0, abs=12 * outcome.evaluation.noise)
    assert RunOutcome.from_json(json.loads(json.dumps(outcome.to_json()))) == outcome
    assert outcome.epsilon is not None and outcome.curve[-1].epsilon is not None
    assert outcome.curve[-1].epsilon < outcome.epsilon <= 8.0  # the counts are charged too


@pytest.mark.parametrize("noise", ["none", "distributed", "local"])
def test_a_malicious_hospital_poisons_with_a_huge_norm(tmp_path: Path, noise: str) -> None:
    # Without noise the ring itself holds a site below 512 clips per coordinate.
    plan = small_plan(privacy={"noise": noise}, gates={"max_units": 1000})
    lab = Lab(tmp_path, site_2={"poison": "huge"})
    error = lab.refusal(plan)
    assert error.code == "GATE_NORM" and "round 1" in error.message
    written = json.loads((lab.folder / GATES_FILE).read_text())["gates"]
    assert [(g["gate"], g["passed"]) for g in written] == [("norm", False)]
    assert lab.refusal(plan, resume=True).code == "GATE_NORM"  # asking again changes nothing


def test_a_malicious_hospital_destroys_utility_within_the_norm(tmp_path: Path) -> None:
    lab = Lab(tmp_path, site_2={"poison": "drift"})
    plan = small_plan(**PUSHED)
    error = lab.refusal(plan)
    assert error.code == "GATE_UTILITY" and "by option ranking, else word" in error.message
    honest = Lab(tmp_path / "honest").run(plan)
    assert all(gate.passed for gate in honest.gates)


def test_without_counts_nothing_but_the_canaries_stands_between(tmp_path: Path) -> None:
    lab = Lab(tmp_path, site_2={"poison": "drift"})
    blind = {**PUSHED, "privacy": {"evaluation_share": 0.0}, "gates": {
        "max_units": 3000, "max_canary_loss": 0.05}}
    assert lab.refusal(small_plan(**blind)).code == "GATE_CANARY"


def test_one_of_four_hospitals_cannot_lie_the_canary_gate_shut(tmp_path: Path) -> None:
    lab = Lab(tmp_path, site_2={"canary_lie": 3.0})
    outcome = lab.run(small_plan())
    assert all(gate.passed for gate in outcome.gates)
    assert min(outcome.evaluation.canary_after) > 2.5


def test_one_of_four_hospitals_cannot_lie_the_canary_gate_open(tmp_path: Path) -> None:
    blind = {**PUSHED, "privacy": {"evaluation_share": 0.0}, "gates": {
        "max_units": 3000, "max_canary_loss": 0.05}}
    lab = Lab(tmp_path, site_2={"poison": "drift"}, site_3={"canary_lie": 0.0})
    assert lab.refusal(small_plan(**blind)).code == "GATE_CANARY"


def test_a_base_model_that_knows_no_canary_is_not_judged_by_them(tmp_path: Path) -> None:
    unknown = {f"site_{i}": {"canary_known": 0.1} for i in range(4)}
    outcome = Lab(tmp_path, **unknown).run(small_plan())
    (verdict,) = [g for g in outcome.gates if g.gate == "canary"]
    assert verdict.passed and "not judged" in verdict.detail


def test_sites_that_cannot_afford_the_counts_do_not_open_the_gate(tmp_path: Path) -> None:
    broke = {f"site_{i}": {"broke": True} for i in range(4)}
    lab = Lab(tmp_path, **broke)
    error = lab.refusal(small_plan())
    assert error.code == "GATE_UTILITY" and "PRIVACY_BUDGET" in error.message


def test_a_named_human_publishes_what_a_gate_stopped_and_it_stays_on_record(
    tmp_path: Path,
) -> None:
    lab, plan = Lab(tmp_path, site_2={"poison": "drift"}), small_plan(**PUSHED)
    assert lab.refusal(plan).code == "GATE_UTILITY"
    lab.override("canary")  # another gate's override opens nothing
    assert lab.refusal(plan, resume=True).code == "GATE_UTILITY"
    lab.override("utility")
    outcome = lab.run(plan, resume=True)
    (gate,) = [g for g in outcome.gates if not g.passed]
    assert (gate.gate, gate.overridden_by, gate.overridden_at) == ("utility", "Ann Lee", WHEN)
    assert lab.earlier.read_bytes() != b"the adapter of an earlier run"
    assert [o.gate for o in read_overrides(lab.folder)] == ["canary", "utility"]
    told = [r for r in AuditTrail(lab.folder, run_id="lab").log.records if "gate" in r.kind]
    assert [(r.kind, r.fields["gate"]) for r in told] == [
        ("gate_failed", "utility"), ("gate_overridden", "utility")]  # once, however often asked
    assert told[0].fields["figure"] == gate.value and told[1].fields["by"] == "Ann Lee"
    assert told[1].fields["reason_digest"] == sha256(b"known and harmless, ticket 12").hexdigest()


def test_a_norm_override_lets_the_run_go_on(tmp_path: Path) -> None:
    lab = Lab(tmp_path, site_2={"poison": "huge"})
    plan = small_plan(
        gates={"max_units": 1000, "min_preservation": 0.0, "max_canary_loss": 0.0})
    assert lab.refusal(plan).code == "GATE_NORM"
    lab.override("norm")
    outcome = lab.run(plan, resume=True)
    assert [(g.gate, g.passed, g.overridden_by) for g in outcome.gates] == [
        ("norm", False, "Ann Lee")]


def test_a_crash_between_counts_and_verdict_asks_nobody_twice(tmp_path: Path) -> None:
    lab, plan = Lab(tmp_path, site_2={"poison": "drift"}), small_plan(**PUSHED)
    lab.refusal(plan)
    for site in lab.sites:  # whoever is asked again now would refuse
        config = json.loads((site / "site.json").read_text()) | {"broke": True}
        (site / "site.json").write_text(json.dumps(config))
    assert "retain records keep" in lab.refusal(plan, resume=True).message


@pytest.mark.parametrize(("gate", "by", "because"), [
    ("utility", "root", "because I am allowed to"), ("utility", "Ann Lee", "trust me"),
    ("everything", "Ann Lee", "because I am allowed to"), ("norm", "", "because I am allowed"),
    ("norm", "Ann \x1b[31mLee", "because I am allowed to"),
])
def test_an_override_without_a_name_or_reason_is_refused(gate: str, by: str, because: str) -> None:
    with pytest.raises(Misconfigured, match="OVERRIDE_INVALID"):
        new_override(gate, by=by, because=because, at=WHEN)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2, "overrides": []}',
                                  '{"version": 1, "overrides": [{"gate": "utility"}]}',
                                  '{"version": 1, "overrides": [{"gate": "all", "by": "A Lee", '
                                  '"because": "long enough it is", "at": "now"}]}'])
def test_a_damaged_override_file_opens_no_gate(tmp_path: Path, text: str) -> None:
    lab = Lab(tmp_path, site_2={"poison": "drift"})
    (lab.folder / OVERRIDES_FILE).write_text(text)
    assert lab.refusal(small_plan(**PUSHED)).code == "GATE_OVERRIDES_INVALID"

"""One run at a time, plans that wait for a person, and a coordinator that waits for both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from medunlearn_client.service.approvals import MAX_WAITING, Approvals
from medunlearn_client.service.gate import RunGate
from medunlearn_client.service.status import SiteStatus
from medunlearn_client.site_audit import SiteAudit
from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.errors import MedunlearnError, Misconfigured, Rejected, Transient
from medunlearn_common.messages import ERROR, FINISH, READY, STEP, Message
from medunlearn_common.offer import RunOffer
from medunlearn_common.plan import RunPlan
from medunlearn_server.attendance import NOT_YET_PAUSE_S
from medunlearn_server.sites import Sites
from medunlearn_server.transport import Reply


def offer(run: str = "run-1", seed: int = 0, coordinator: str = "coordinator") -> RunOffer:
    plan = RunPlan.model_validate({"run": {"seed": seed}})
    return RunOffer(run=run, coordinator=coordinator, plan=plan, package_version="1",
                    code_digest="c" * 64)


def code(approvals: Approvals, offered: RunOffer) -> str:
    with pytest.raises(MedunlearnError) as caught:
        approvals.require(offered)
    return caught.value.code


def test_a_plan_waits_until_it_is_approved_and_each_run_waits_anew(tmp_path: Path) -> None:
    approvals, first = Approvals(tmp_path, clock=lambda: 7.0), offer()
    assert code(approvals, first) == code(approvals, first) == "PLAN_AWAITS_APPROVAL"
    assert [one.decision for one in approvals.all()] == ["waiting"]
    approvals.decide(first.plan.digest[:8], by="Ada Berg", decision="approved")
    assert approvals.require(first).by == "Ada Berg"
    assert code(approvals, offer("run-2")) == "PLAN_AWAITS_APPROVAL"
    assert code(approvals, offer(coordinator="rival")) == "PLAN_AWAITS_APPROVAL"


def test_a_declined_plan_stays_declined(tmp_path: Path) -> None:
    approvals, one = Approvals(tmp_path), offer()
    code(approvals, one)
    approvals.decide(one.plan.digest, by="Ada Berg", decision="declined")
    assert code(approvals, one) == "PLAN_DECLINED"
    with pytest.raises(Misconfigured, match="APPROVAL_DECIDED"):
        approvals.decide(one.plan.digest, by="Ada Berg", decision="approved")


def test_an_approval_that_is_taken_back_ends_the_run_at_this_site(tmp_path: Path) -> None:
    approvals, one = Approvals(tmp_path / "approvals"), offer()
    gate = RunGate(audit=SiteAudit(tmp_path, site_id="site-1", entropy=SeededEntropy(0)),
                   approvals=approvals)
    code(approvals, one)
    approvals.decide(one.plan.digest, by="Ada Berg", decision="approved")
    gate.plan(one)
    gate.request(one.run, STEP, coordinator=one.coordinator)
    approvals.decide(one.plan.digest, by="Bo Lind", decision="declined")
    with pytest.raises(Rejected, match="PLAN_DECLINED"):
        gate.request(one.run, STEP, coordinator=one.coordinator)
    gate.request("another", STEP, coordinator="coordinator")


def test_another_coordinators_offer_of_the_run_touches_no_decision(tmp_path: Path) -> None:
    approvals, one, rival = Approvals(tmp_path), offer(), offer(coordinator="rival")
    code(approvals, one)
    approvals.decide(one.plan.digest, by="Ada Berg", decision="declined")
    assert code(approvals, rival) == "PLAN_AWAITS_APPROVAL"
    assert code(approvals, one) == "PLAN_DECLINED"
    assert approvals.was_declined(one.run, coordinator=one.coordinator)
    assert not approvals.was_declined(one.run, coordinator="rival")
    assert [asked.decision for asked in approvals.all()] == ["declined", "waiting"]


def test_of_one_plan_that_two_coordinators_offer_the_person_names_one(tmp_path: Path) -> None:
    approvals, one, rival = Approvals(tmp_path), offer(), offer(coordinator="rival")
    code(approvals, one)
    code(approvals, rival)
    with pytest.raises(Misconfigured, match="APPROVAL_AMBIGUOUS"):
        approvals.decide(one.plan.digest, by="Ada Berg", decision="approved", run=one.run)
    approvals.decide(one.plan.digest, by="Ada Berg", decision="approved",
                     coordinator=one.coordinator)
    assert approvals.require(one).by == "Ada Berg"
    assert code(approvals, rival) == "PLAN_AWAITS_APPROVAL"


def test_a_damaged_or_forged_file_approves_nothing(tmp_path: Path) -> None:
    approvals, one = Approvals(tmp_path), offer()
    code(approvals, one)
    path, = tmp_path.glob("*.json")
    asked = json.loads(path.read_text())
    for forged in (
        b"", b"{", b"[]", b"{" * 100_000, b"null",
        json.dumps({**asked, "decision": "yes"}).encode(),
        json.dumps({**asked, "decision": "approved"}).encode(),  # by nobody
        json.dumps({**asked, "decision": "approved", "by": "A", "plan_digest": "0" * 64}).encode(),
        json.dumps({**asked, "decision": "approved", "by": ["A"]}).encode(),
    ):
        path.write_bytes(forged)
        assert code(approvals, one) == "PLAN_AWAITS_APPROVAL"


def test_decisions_name_one_plan_and_a_person(tmp_path: Path) -> None:
    approvals = Approvals(tmp_path)
    for run in ("run-1", "run-2"):
        code(approvals, offer(run))
    digest = offer().plan.digest

    def refused(digest: str, by: str = "Ada Berg") -> str:
        with pytest.raises(Misconfigured) as caught:
            approvals.decide(digest, by=by, decision="approved")
        return caught.value.code

    assert refused(digest) == "APPROVAL_AMBIGUOUS"
    assert refused(digest, by="") == refused(digest, by="1; DROP") == "APPROVAL_BY"
    assert refused("abc") == refused("../../x") == "APPROVAL_DIGEST"
    assert refused("0" * 64) == "APPROVAL_UNKNOWN"
    assert approvals.decide(digest, by="Ada Berg", decision="approved", run="run-2").run == "run-2"


def test_a_coordinator_cannot_fill_the_folder(tmp_path: Path) -> None:
    approvals = Approvals(tmp_path)
    for seed in range(MAX_WAITING):
        code(approvals, offer(seed=seed))
    assert code(approvals, offer(seed=MAX_WAITING)) == "APPROVALS_FULL"
    assert len(list(tmp_path.iterdir())) == MAX_WAITING


@pytest.fixture
def now() -> list[float]:
    return [0.0]


@pytest.fixture
def gate(tmp_path: Path, now: list[float]) -> RunGate:
    return RunGate(
        audit=SiteAudit(tmp_path, site_id="site-1", entropy=SeededEntropy(0)), idle_s=60.0,
        clock=lambda: now[0])


def is_busy(gate: RunGate, run: str, kind: str, coordinator: str) -> bool:
    try:
        gate.request(run, kind, coordinator=coordinator)
    except Rejected as refused:
        return refused.code == "SITE_BUSY"
    return False


def test_two_runs_do_not_share_the_model_in_turns(gate: RunGate, now: list[float]) -> None:
    told: list[tuple[str, str, str]] = []
    gate.told = lambda *what: told.append(what)
    gate.answered("b", READY, "POLICY_EPSILON", coordinator="rival")  # refused: holds nothing
    assert not is_busy(gate, "a", READY, "lead")
    gate.answered("a", READY, "", coordinator="lead")
    assert is_busy(gate, "b", READY, "rival") and is_busy(gate, "b", STEP, "rival")
    assert not is_busy(gate, "b", "publish", "rival")  # needs no model
    assert not is_busy(gate, "a", STEP, "lead")
    now[0] = 61.0
    assert not is_busy(gate, "b", READY, "rival")  # the first run asked nothing for a minute
    gate.answered("b", READY, "", coordinator="rival")
    assert is_busy(gate, "a", STEP, "lead")
    gate.answered("b", FINISH, "", coordinator="rival")
    assert not is_busy(gate, "a", STEP, "lead")
    assert told[0] == ("b", READY, "POLICY_EPSILON") and len(told) == 4


def test_a_coordinator_that_stopped_a_run_need_not_wait_for_it(gate: RunGate) -> None:
    gate.answered("stopped", READY, "", coordinator="lead")
    gate.answered("stopped", STEP, "", coordinator="lead")
    assert is_busy(gate, "next", STEP, "lead")  # nothing begins with a round
    assert not is_busy(gate, "next", READY, "lead")
    gate.answered("next", READY, "POLICY_EPSILON", coordinator="lead")
    assert not is_busy(gate, "stopped", STEP, "lead")  # what was refused takes nothing over
    gate.answered("next", READY, "", coordinator="lead")
    assert is_busy(gate, "stopped", STEP, "lead")
    assert not is_busy(gate, "stopped", READY, "lead")  # a paused one that is resumed


def test_a_status_file_reads_back_and_a_damaged_one_ends_in_a_code(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    with pytest.raises(Misconfigured, match="STATUS_MISSING"):
        SiteStatus.read(path)
    status = SiteStatus(site_id="site-1", errors={"SITE_BUSY": 2}, epsilon_spent=1.5)
    status.write(path)
    assert SiteStatus.read(path) == status and path.stat().st_mode & 0o777 == 0o600
    for damaged in (b"", b"[]", b"{}", b'{"site_id": "a", "patient": "Jane"}'):
        path.write_bytes(damaged)
        with pytest.raises(Misconfigured, match="STATUS_DAMAGED"):
            SiteStatus.read(path)


class Waiting:
    """A transport to three sites that all say "not yet", as answers that were verified."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.asked = 0

    def sites(self) -> tuple[str, ...]:
        return ("a", "b", "c")

    def exchange(self, requests: Mapping[str, Message], *, deadline_s: float) -> dict[str, Reply]:
        self.asked += len(requests)
        return {a: Message(kind=ERROR, fields={"site_id": a, "code": self.code})
                for a in requests}


def gathered(transport: Waiting) -> tuple[MedunlearnError, float]:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    plan = RunPlan.model_validate({
        "federation": {"sites": 3, "min_sites": 3, "round_deadline_s": 60.0}})
    sites = Sites(plan=plan, run_id="r", transport=transport, clock=lambda: now[0], sleep=sleep,
                  keep=lambda checkpoint: None)
    with pytest.raises(MedunlearnError) as caught:
        sites.gather(None, round_index=0)
    return caught.value, now[0]


@pytest.mark.parametrize("code", ["PLAN_AWAITS_APPROVAL", "SITE_BUSY"])
def test_a_coordinator_waits_for_sites_that_are_not_yet_ready(code: str) -> None:
    transport = Waiting(code)
    error, waited_s = gathered(transport)
    assert isinstance(error, Transient) and error.code == "ROUND_TOO_FEW_SITES"
    assert waited_s >= 60.0  # the whole deadline, then the run may be resumed
    assert 3 * waited_s / NOT_YET_PAUSE_S <= transport.asked <= 3 * waited_s / NOT_YET_PAUSE_S + 3


def test_a_coordinator_does_not_wait_for_sites_that_said_no() -> None:
    transport = Waiting("PLAN_DECLINED")
    error, waited_s = gathered(transport)
    assert isinstance(error, Misconfigured) and error.code == "PLAN_DECLINED"
    assert waited_s == 0.0 and transport.asked == 3

"""Whole runs of the real coordinator over small hospitals in memory, with faults."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest
from memory_lab import NOISY, RUNTIME, Lab, Watcher, code_of, essence
from quadratic_hospital import (
    FORGET_TARGET,
    LAYOUT,
    QuadraticHospital,
    open_hospital,
    open_masked,
    small_plan,
)

from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.errors import BudgetExceeded, MedunlearnError, Misconfigured, Transient
from medunlearn_common.messages import STEP, Message
from medunlearn_common.plan import RunPlan
from medunlearn_common.support import Support
from medunlearn_server import attendance
from medunlearn_server.checkpoints import RunStore
from medunlearn_server.coordinator import Coordinator, new_run_id
from medunlearn_server.reports import RoundReport, RunOutcome
from medunlearn_server.sealed_transport import seal_transport
from medunlearn_server.storage import DiskStorage
from medunlearn_simulation.absences import Absences
from medunlearn_simulation.enrolment import enrol
from medunlearn_simulation.memory_runner import (
    Faults,
    MemoryTransport,
    run_in_memory,
    sealed_hospitals,
)


def support_bytes(outcome: RunOutcome) -> int:
    """What the first round sends more than the second."""
    first, later = outcome.curve[0].bytes_down, outcome.curve[1].bytes_down
    return first["hospital-0"] - later["hospital-0"]


def test_a_random_support_is_drawn_not_sent(tmp_path: Path) -> None:
    sent = []

    def look(site: str, request: Message) -> None:
        if request.kind == STEP:
            sent.append(request.fields["support_bytes"])

    outcome = Lab(tmp_path).run(
        small_plan(support={"method": "random"}), faults=Faults(before_answer=look))
    assert sent == [0] * (4 * 6) and len(outcome.curve) == 6


def test_a_run_moves_towards_forgetting_and_stores_its_adapter(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    outcome = lab.run(small_plan(run={"rounds": 20}))
    assert (outcome.reason, outcome.rounds, outcome.support_size) == ("rounds_done", 20, 10)
    assert outcome.epsilon is None and outcome.sigma == 0.0
    last = lab.watcher.values[-1]
    assert np.all(last[:5] > 0.7 * FORGET_TARGET)  # nothing to retain there
    assert np.all(last[5:] < 0.7 * FORGET_TARGET)
    assert (lab.run_folder / "adapter" / "adapter_model.safetensors").is_file()
    assert support_bytes(outcome) == 8  # five rows that follow each other: one run
    assert outcome.curve[0].bytes_up["hospital-0"] >= 4 * 2 * (outcome.support_size + 1)
    assert outcome.curve[-1].forget_gap < outcome.curve[0].forget_gap


def test_values_equal_plain_gradient_descent(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.run(small_plan(server={"optimizer": "sgd", "schedule": "constant", "retain_weight": 1.0},
                       privacy={"noise": "none", "clip_l2": 100.0}))
    phi, units = np.zeros(10), 10 / 4
    kept = np.arange(10) >= 5
    for values in lab.watcher.values:
        phi = phi - 0.1 * units * ((phi - FORGET_TARGET) + np.where(kept, phi, 0.0))
        np.testing.assert_allclose(values, phi, atol=1e-3)


@pytest.mark.parametrize("sections", [{}, NOISY], ids=["plain", "noise+history"])
@pytest.mark.parametrize("place", [(None, 1), (0, 0), (0, 2), (3, 3), (5, 3)])
def test_a_run_killed_anywhere_resumes_bit_for_bit(
    tmp_path: Path, sections: dict[str, dict[str, object]], place: tuple[int | None, int]
) -> None:
    plan = small_plan(**sections)
    undisturbed = Lab(tmp_path / "a").run(plan)
    lab = Lab(tmp_path / "b")

    def strike(site: str, request: Message) -> None:
        if (request.fields.get("round"), request.kind == STEP) == (place[0], place[0] is not None) \
                and site == f"site-{place[1]}":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lab.run(plan, faults=Faults(before_answer=strike))
    assert not (lab.run_folder / "adapter").exists()
    resumed = lab.run(plan, resume=True)
    assert essence(resumed) == essence(undisturbed)
    assert resumed.adapter_digest == undisturbed.adapter_digest
    # Finished is finished: resuming again asks nobody and tells the same.
    assert lab.run(plan, resume=True, faults=Faults(before_answer=strike)) == resumed


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("write", range(3, 12))
def test_a_kill_at_any_checkpoint_write_resumes_bit_for_bit(
    tmp_path: Path, write: int, moment: str
) -> None:
    plan = small_plan(**NOISY)
    undisturbed = Lab(tmp_path / "a").run(plan)
    lab, count = Lab(tmp_path / "b"), [0]

    class Killed(BaseException):
        pass

    class Fragile(DiskStorage):
        def replace(self, path: Path, data: bytes, *, keep: Path | None = None) -> None:
            count[0] += 1
            if count[0] == write and moment == "before":
                raise Killed
            super().replace(path, data, keep=keep)
            if count[0] == write:
                raise Killed

    with pytest.raises(Killed):
        run_with(RunStore(lab.run_folder, storage=Fragile()), lab, plan)
    assert essence(lab.run(plan, resume=True)) == essence(undisturbed)


def run_with(store: RunStore, lab: Lab, plan: RunPlan) -> None:
    hospitals = {site.name: open_hospital(site, RUNTIME) for site in lab.sites}
    with ExitStack() as opened:
        sealed = opened.enter_context(
            sealed_hospitals(plan, hospitals, run_folder=lab.run_folder))
        inside = MemoryTransport(sealed, absences=Absences.of_plan(plan), faults=Faults())
        transport = opened.enter_context(closing(seal_transport(
            inside, lab.run_folder, plan=plan, run_id="lab",
            entropy=SeededEntropy(plan.run.seed), survives_power_cut=False,
        )))
        Coordinator(plan=plan, transport=transport, verifier=transport.verifier,
                    store=store, run_id="lab", sleep=lambda seconds: None).run()


def test_late_joiner_and_leaver(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    outcome = lab.run(small_plan(federation={"absences": ("3:0-1", "0:4-9")}))
    assert lab.watcher.ready[0].sites == ("hospital-0", "hospital-1", "hospital-2")
    present = [tuple(site[-1] for site in report.sites) for report in outcome.curve]
    assert present == [tuple("012"), tuple("012"), tuple("0123"), tuple("0123"),
                       tuple("123"), tuple("123")]
    assert outcome.curve[4].failures == {"hospital-0": "SITE_GONE"}
    joined = outcome.curve[2].bytes_down
    assert joined["hospital-3"] - joined["hospital-1"] == 8


def test_a_late_joiner_with_another_model_is_refused_and_the_run_goes_on(tmp_path: Path) -> None:
    lab = Lab(tmp_path, site_3={"digests": {"model_digest": "other"}})
    outcome = lab.run(small_plan(federation={"absences": ("3:0-1",)}))
    assert all("hospital-3" not in report.sites for report in outcome.curve)
    assert outcome.curve[3].failures == {"hospital-3": "MODEL_MISMATCH"}


class Tampering(Watcher):
    """Changes a hospital between two rounds, as a restart with other files does."""

    def __init__(self, hospital: QuadraticHospital, at_round: int, digests: dict[str, str]) -> None:
        super().__init__()
        self._hospital, self._at, self._digests = hospital, at_round, digests

    def on_round(self, report: RoundReport, values: np.ndarray) -> None:
        super().on_round(report, values)
        if report.round_index == self._at:
            self._hospital.config["digests"] = self._digests
            (self._hospital.folder / "plan.json").unlink(missing_ok=True)


def with_a_change(lab: Lab, plan: RunPlan, *, at_round: int, **digests: str) -> list[RoundReport]:
    """Run while the last hospital becomes another one after a round."""
    hospitals = {site.name: open_hospital(site, RUNTIME) for site in lab.sites}
    watcher = Tampering(hospitals["site-3"], at_round, digests)
    run_in_memory(plan, hospitals, run_folder=lab.run_folder, run_id="lab", observer=watcher)
    return watcher.rounds


def test_a_site_that_was_refused_and_mended_is_let_in_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attendance, "REFUSED_PATIENCE_S", 0.0)
    lab = Lab(tmp_path, site_3={"digests": {"model_digest": "other"}})
    plan = small_plan(federation={"absences": ("3:0-1",)})
    rounds = with_a_change(lab, plan, at_round=3)
    assert rounds[3].failures == {"hospital-3": "MODEL_MISMATCH"}
    assert ["hospital-3" in report.sites for report in rounds] == [False] * 4 + [True] * 2


def test_a_site_that_was_refused_and_restarted_is_let_in_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(tmp_path, site_3={"digests": {"model_digest": "other"}})
    everybody = MemoryTransport.sites

    def but_for_one_round(transport: MemoryTransport) -> tuple[str, ...]:
        restarting = len(list(lab.sites[0].glob("round-*.bin"))) == 4
        return tuple(s for s in everybody(transport) if s != "site-3" or not restarting)

    monkeypatch.setattr(MemoryTransport, "sites", but_for_one_round)
    plan = small_plan(federation={"absences": ("3:0-1",)})
    rounds = with_a_change(lab, plan, at_round=3)
    assert rounds[3].failures == {"hospital-3": "MODEL_MISMATCH"}
    assert ["hospital-3" in report.sites for report in rounds] == [False] * 5 + [True]


def test_a_site_that_comes_back_with_another_model_is_in_no_sum(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    rounds = with_a_change(lab, small_plan(), at_round=2, model_digest="other")
    assert ["hospital-3" in report.sites for report in rounds] == [True] * 3 + [False] * 3
    assert rounds[3].failures == {"hospital-3": "MODEL_MISMATCH"}
    assert rounds[4].failures == {"hospital-3": "MODEL_MISMATCH"}


@pytest.mark.parametrize("what", ["model", "tokenizer", "hierarchy"])
def test_sites_that_differ_at_the_start_stop_the_run(tmp_path: Path, what: str) -> None:
    lab = Lab(tmp_path, site_1={"digests": {f"{what}_digest": "other"}})
    with pytest.raises(MedunlearnError) as caught:
        lab.run(small_plan())
    assert caught.value.code == f"{what.upper()}_MISMATCH"
    assert "hospital-1: other" in caught.value.message


def test_layout_of_another_plan_and_a_name_used_twice(tmp_path: Path) -> None:
    assert code_of(lambda: Lab(tmp_path / "a").run(
        small_plan(model={"lora_alpha": 5.0}))) == "LAYOUT_MISMATCH"
    lab = Lab(tmp_path / "b", site_1={"site_id": "hospital-0"})
    try:
        outcome = lab.run(small_plan())
    except MedunlearnError as error:
        assert error.code == "SITE_TWICE"
    else:  # its two requests came in the other order: SEQUENCE_STALE, and refused when asked again
        present = {told.sites for told in outcome.curve}
        assert present == {("hospital-0", "hospital-2", "hospital-3")}


@pytest.mark.parametrize("section", ["support", "geometry"])
def test_one_site_does_not_choose_for_all_by_lying_about_public_text(
    tmp_path: Path, section: str
) -> None:
    """Which coordinates may change, or which directions are kept free of forgetting."""
    chosen = {"support": {"method": "public", "public_file": "sha256:" + "0" * 64},
              "geometry": {"projection": "public", "public_file": "sha256:" + "0" * 64, "rank": 3}}
    plan = small_plan(**{section: chosen[section]})
    honest = Lab(tmp_path / "a").run(plan)
    for liar in range(4):
        lied = Lab(tmp_path / str(liar), **{f"site_{liar}": {"public_lie": True}}).run(plan)
        assert lied.support_digest == honest.support_digest
        assert lied.adapter_digest == honest.adapter_digest


def test_a_lost_answer_drops_the_site_for_one_round(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    faults = Faults(lost_answers=frozenset({("site-1", 2)}))
    outcome = lab.run(small_plan(), faults=faults)
    assert outcome.curve[2].failures == {"hospital-1": "SITE_SILENT"}
    assert len(outcome.curve[2].sites) == 3 and len(outcome.curve[3].sites) == 4


def test_too_few_answers_abort_the_round_and_asking_again_is_free(tmp_path: Path) -> None:
    plan = small_plan(**NOISY)
    undisturbed = Lab(tmp_path / "a").run(plan)
    lab = Lab(tmp_path / "b")
    lost = Faults(lost_answers=frozenset({("site-1", 2), ("site-2", 2)}))
    assert code_of(lambda: lab.run(plan, faults=lost)) == "ROUND_TOO_FEW_SITES"
    assert len(lab.watcher.rounds) == 2  # nothing of round 2 was used
    assert essence(lab.run(plan, resume=True)) == essence(undisturbed)


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """Takes what a test opens, and closes it."""
    with ExitStack() as stack:
        yield stack


def test_a_round_is_asked_again_until_enough_answer(tmp_path: Path, opened: ExitStack) -> None:
    lab, asked = Lab(tmp_path), [0]
    hospitals = {site.name: open_masked(site, RUNTIME, opened) for site in lab.sites}

    class Flaky(MemoryTransport):
        def exchange(self, requests, *, deadline_s):  # type: ignore[no-untyped-def]
            replies = dict(super().exchange(requests, deadline_s=deadline_s))
            if any(r.fields.get("round") == 1 and r.kind == STEP for r in requests.values()):
                asked[0] += 1
                if asked[0] < 3:
                    return {name: replies[name] for name in list(replies)[:2]}
            return replies

    enrol(small_plan(), run_folder=lab.run_folder, sites={})
    outcome = Coordinator(
        plan=small_plan(), store=RunStore(lab.run_folder), run_id="lab", sleep=lambda s: None,
        transport=Flaky(hospitals, absences=Absences(spans=()), faults=Faults()),
    ).run()
    assert [report.attempts for report in outcome.curve] == [1, 3, 1, 1, 1, 1]
    # Each hospital computed round 1 once, although it was asked three times.
    assert [hospital.inner.inner.computed for hospital in hospitals.values()] == [6] * 4


@pytest.mark.parametrize(("changes", "code"), [
    ({"cut": 12}, "UPDATE_LENGTH"), ({"round": 99}, "ROUND_MISMATCH"),
])
def test_a_wrong_answer_is_not_used(tmp_path: Path, changes: dict[str, object], code: str) -> None:
    outcome = Lab(tmp_path, site_2=changes).run(small_plan())
    assert all(report.failures == {"hospital-2": code} for report in outcome.curve)
    assert all("hospital-2" not in report.sites for report in outcome.curve)


def test_sites_that_refuse_for_one_reason_end_the_run_with_it(tmp_path: Path) -> None:
    refusing = {f"site_{i}": {"ready_error": "FORGET_SET_EMPTY"} for i in range(4)}
    assert code_of(lambda: Lab(tmp_path / "a", **refusing).run(small_plan())) == "FORGET_SET_EMPTY"
    del refusing["site_0"]
    with pytest.raises(Transient) as caught:
        Lab(tmp_path / "b", **refusing).run(small_plan())
    assert caught.value.code == "ROUND_TOO_FEW_SITES"
    assert "hospital-2: FORGET_SET_EMPTY" in caught.value.message
    one = Lab(tmp_path / "c", site_3={"ready_error": "DATA_FILE_MISSING"})
    one.run(small_plan())
    assert one.watcher.ready[0].refused == {"hospital-3": "DATA_FILE_MISSING"}


def test_spent_budgets_finish_the_run_with_what_there_is(tmp_path: Path) -> None:
    changes = {f"site_{i}": {"budget_rounds": 3} for i in (1, 2)}
    outcome = Lab(tmp_path, **changes).run(small_plan())
    assert (outcome.reason, outcome.rounds) == ("budget_spent", 3)


def test_one_site_without_budget_is_only_left_out(tmp_path: Path) -> None:
    outcome = Lab(tmp_path, site_1={"budget_rounds": 3}).run(small_plan())
    assert (outcome.reason, outcome.rounds) == ("rounds_done", 6)
    assert outcome.curve[4].failures == {"hospital-1": "PRIVACY_BUDGET"}


def test_a_site_that_lost_plan_and_support_is_helped_in_the_same_round(tmp_path: Path) -> None:
    lab = Lab(tmp_path)

    def forget(site: str, request: Message) -> None:
        if request.kind == STEP and request.fields["round"] == 3 and site == "site-2" \
                and not request.fields["support_bytes"]:
            for path in lab.sites[2].glob("support-*"):
                path.unlink()
            (lab.sites[2] / "plan.json").unlink(missing_ok=True)

    outcome = lab.run(small_plan(), faults=Faults(before_answer=forget))
    assert [len(report.sites) for report in outcome.curve] == [4] * 6
    assert outcome.curve[3].failures == {}


def test_epsilon_grows_to_the_budget_and_is_reported(tmp_path: Path) -> None:
    outcome = Lab(tmp_path).run(small_plan(privacy={"noise": "distributed", "epsilon": 3.0}))
    spent = [report.epsilon for report in outcome.curve]
    assert spent == sorted(spent) and spent[0] < spent[-1] <= 3.0
    assert 2.9 < spent[-1] < outcome.epsilon <= 3.0  # the counts come last
    assert outcome.sigma > 0.0 and outcome.vote_sigma > 0.0


def test_stop_rule_ends_a_run_whose_gap_is_closed(tmp_path: Path) -> None:
    outcome = Lab(tmp_path).run(small_plan(
        run={"rounds": 60}, server={"learning_rate": 0.1, "schedule": "constant",
                                    "retain_weight": 0.0, "stop_gap": 0.5}))
    assert outcome.reason == "gap_closed" and 6 <= outcome.rounds < 60


@pytest.mark.parametrize("method", ["vote", "public", "random"])
def test_ways_to_the_support(tmp_path: Path, method: str) -> None:
    outcome = Lab(tmp_path).run(small_plan(
        support={"density": 0.01, "method": method, "public_file": "p.jsonl"}))
    assert outcome.support_size == 10
    assert len(outcome.vote.sites) == {"vote": 4, "public": 4, "random": 0}[method]


def test_public_retain_subspace_is_never_moved_in(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.run(small_plan(geometry={"projection": "public", "rank": 4, "public_file": "p.jsonl"},
                       server={"optimizer": "sgd", "retain_weight": 0.0}))
    # The hospital's public gradients are the first four unit vectors.
    np.testing.assert_allclose(lab.watcher.values[-1][:4], 0.0, atol=1e-5)
    assert np.all(lab.watcher.values[-1][4:] > 0.01)


def test_checkpoints_of_other_runs_and_damaged_ones(tmp_path: Path) -> None:
    lab, plan = Lab(tmp_path), small_plan()
    lab.run(plan)
    assert code_of(lambda: lab.run(plan)) == "RUN_EXISTS"
    assert code_of(lambda: lab.run(small_plan(run={"rounds": 7}), resume=True)) == (
        "CHECKPOINT_FOREIGN")
    path = lab.run_folder / "checkpoint.bin"
    path.write_bytes(path.read_bytes()[:-1])
    assert code_of(lambda: lab.run(plan, resume=True)) == "CHECKPOINT_CORRUPT"


def test_equal_plans_are_runs_of_their_own_unless_a_seed_repeats_them() -> None:
    plan = small_plan()
    assert len({new_run_id(plan) for _ in range(50)}) == 50
    assert new_run_id(plan, nonce="seed-0") == new_run_id(plan, nonce="seed-0")
    assert new_run_id(plan, nonce="seed-0") != new_run_id(plan, nonce="seed-1")


def test_two_coordinators_of_one_run_exclude_each_other(tmp_path: Path) -> None:
    lab, plan = Lab(tmp_path), small_plan()
    with RunStore(lab.run_folder).exclusive():
        assert code_of(lambda: lab.run(plan, resume=True)) == "RUN_LOCKED"


def test_full_disk_stops_the_run_and_resuming_loses_nothing(tmp_path: Path) -> None:
    plan = small_plan(**NOISY)
    undisturbed = Lab(tmp_path / "a").run(plan)
    lab, count = Lab(tmp_path / "b"), [0]

    class Filling(DiskStorage):
        def replace(self, path: Path, data: bytes, *, keep: Path | None = None) -> None:
            count[0] += 1
            if count[0] == 5:
                raise OSError(errno.ENOSPC, "No space left on device")
            super().replace(path, data, keep=keep)

    store = RunStore(lab.run_folder, storage=Filling())
    assert code_of(lambda: run_with(store, lab, plan)) == "STORAGE_FULL"
    assert essence(lab.run(plan, resume=True)) == essence(undisturbed)


@pytest.mark.parametrize("entry", ["4:0-3", "1:3-2", "1:2", "x"])
def test_absences_that_make_no_sense_are_refused(tmp_path: Path, entry: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        Lab(tmp_path).run(small_plan(federation={"absences": (entry,)}))
    assert caught.value.code == "ABSENCE_INVALID"


def test_a_vote_nobody_can_afford_is_a_budget_error(tmp_path: Path, opened: ExitStack) -> None:
    lab = Lab(tmp_path)
    hospitals = {site.name: open_masked(site, RUNTIME, opened) for site in lab.sites}

    class Poor(MemoryTransport):
        def exchange(self, requests, *, deadline_s):  # type: ignore[no-untyped-def]
            replies = super().exchange(requests, deadline_s=deadline_s)
            spent = Message(kind="error", fields={"code": "PRIVACY_BUDGET"})
            return {n: spent if requests[n].kind == "vote" else r for n, r in replies.items()}

    enrol(small_plan(), run_folder=lab.run_folder, sites={})
    with pytest.raises(BudgetExceeded):
        Coordinator(
            plan=small_plan(), store=RunStore(lab.run_folder), run_id="lab",
            transport=Poor(hospitals, absences=Absences(spans=()), faults=Faults()),
            sleep=lambda s: None,
        ).run()


def test_the_support_is_whole_rows_of_the_layout(tmp_path: Path) -> None:
    lab, seen = Lab(tmp_path), []

    class Keeper(Watcher):
        def on_vote(self, report: object, support: Support) -> None:
            seen.append(support)

    lab.watcher = Keeper()
    lab.run(small_plan())
    rows = {int(index) // 2 for index in seen[0].indices}
    assert len(rows) == 5 and seen[0].layout_digest == LAYOUT.digest

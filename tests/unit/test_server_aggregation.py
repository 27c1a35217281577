"""Sums are exact, answers are verified, the state machine refuses what is out of order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medunlearn_common.errors import Rejected, Transient
from medunlearn_common.layout import AdapterLayout
from medunlearn_common.messages import ERROR, READY, STEP, Message
from medunlearn_common.plan import RunPlan
from medunlearn_common.ring import RingCodec
from medunlearn_common.support import Support
from medunlearn_common.updates import SparseUpdate
from medunlearn_common.wire import UpdateForm
from medunlearn_server.aggregation import combine_round, summed_noise
from medunlearn_server.intake import require_own, verify_ready, verify_step
from medunlearn_server.round_state import FinishReason, Phase, RoundState
from medunlearn_server.transport import SiteFailure

LAYOUT = AdapterLayout(
    names=("base_model.model.q_proj.lora_B.weight",), shapes=((3, 2),), a_shapes=((2, 4),),
    base_parameters=100, alpha=4.0, seed=1,
)
SUPPORT = Support(indices=np.array([0, 3, 5]), layout_digest=LAYOUT.digest)


def update(values: np.ndarray) -> SparseUpdate:
    return SparseUpdate(values=values.astype(np.uint32), layout_digest=LAYOUT.digest,
                        subject_digest=SUPPORT.digest)


def answer(**changes: object) -> Message:
    fields = {"round": 2, "layout_digest": LAYOUT.digest, "support_digest": SUPPORT.digest}
    fields.update({k: v for k, v in changes.items() if k in fields})
    return Message(kind=str(changes.get("kind", STEP)), fields=fields,
                   payload=bytes(int(changes.get("length", 8 * (SUPPORT.size + 1)))))


def check(reply: Message | SiteFailure) -> SparseUpdate:
    return verify_step(reply, round_index=2, layout=LAYOUT, support=SUPPORT, length=8)


@pytest.mark.parametrize(("fields", "code"), [
    ({"run_id": "another", "site_id": "site-1"}, "RUN_MISMATCH"),
    ({"run_id": "run", "site_id": "site-2"}, "SITE_MISMATCH"),
    ({"site_id": "site-1"}, "MESSAGE_FIELD"),
])
def test_an_answer_of_another_run_or_site_is_not_used(fields: dict[str, str], code: str) -> None:
    with pytest.raises(Rejected, match=code):
        require_own(Message(kind=STEP, fields=fields), run_id="run", site_id="site-1")


def test_an_answer_of_this_run_and_site_and_a_failure_pass() -> None:
    own = Message(kind=STEP, fields={"run_id": "run", "site_id": "site-1"})
    for reply in (own, SiteFailure(code="SITE_SILENT"), Message(kind=ERROR, fields={})):
        require_own(reply, run_id="run", site_id="site-1")


@pytest.mark.parametrize("sites", [2, 5, 17])
def test_ring_sum_equals_int64_sum(sites: int) -> None:
    generator = np.random.default_rng(sites)
    codec = RingCodec(step=0.125, max_sites=sites)
    steps = generator.integers(-codec.clamp_steps, codec.clamp_steps + 1, size=(sites, 8))
    total = np.add.reduce([codec.to_ring(row) for row in steps], dtype=np.uint32)
    form = UpdateForm.of(RunPlan(), size=3)
    sums = combine_round(update(total), codec, form, sites=sites, clip_l2=2.0, noise_l2=0.0)
    exact = steps.sum(axis=0) * 0.125
    np.testing.assert_array_equal(sums.forget, exact[:3])
    np.testing.assert_array_equal(sums.retain, exact[4:7])
    assert (sums.forget_progress, sums.retain_progress) == (exact[3] / 0.2, exact[7] / 0.2)


@pytest.mark.parametrize(("noise", "local_steps", "factor"), [
    ("distributed", 1, (4 / 3) ** 0.5), ("local", 1, 2.0), ("local", 9, 6.0),
])
def test_summed_noise(noise: str, local_steps: int, factor: float) -> None:
    plan = RunPlan.model_validate({
        "privacy": {"noise": noise, "clip_l2": 0.5, "local_steps": local_steps},
        "federation": {"sites": 5, "min_sites": 3},
    })
    assert summed_noise(plan, sigma=8.0, sites=4) == pytest.approx(8.0 * 0.5 * factor)


@pytest.mark.parametrize(("changes", "code"), [
    ({"kind": "vote"}, "MESSAGE_KIND"),
    ({"round": 1}, "ROUND_MISMATCH"),
    ({"round": "2"}, "MESSAGE_FIELD"),
    ({"layout_digest": "x"}, "LAYOUT_MISMATCH"),
    ({"support_digest": "x"}, "SUPPORT_MISMATCH"),
    ({"length": 31}, "UPDATE_LENGTH"),
    ({"length": 33}, "UPDATE_LENGTH"),
    ({"length": 0}, "UPDATE_LENGTH"),
])
def test_an_answer_that_does_not_fit_is_refused(changes: dict[str, object], code: str) -> None:
    assert check(answer()).values.size == 8
    with pytest.raises(Rejected) as caught:
        check(answer(**changes))
    assert caught.value.code == code


@pytest.mark.parametrize(("reply", "code"), [
    (SiteFailure(code="SITE_SILENT"), "SITE_SILENT"),
    (Message(kind=ERROR, fields={"code": "PRIVACY_BUDGET"}), "PRIVACY_BUDGET"),
    (Message(kind=ERROR, fields={"code": "John Doe, born 1950"}), "SITE_ERROR"),
    (Message(kind=ERROR), "SITE_ERROR"),
])
def test_failures_keep_a_code_and_never_text(reply: Message | SiteFailure, code: str) -> None:
    with pytest.raises(Rejected) as caught:
        check(reply)
    assert caught.value.code == code
    assert "Doe" not in str(caught.value)


def ready_fields() -> dict[str, str]:
    return {"site_id": "a", "layout": LAYOUT.to_json(), "layout_digest": LAYOUT.digest,
            "model_digest": "m", "tokenizer_digest": "t", "hierarchy_digest": "h",
            "package_version": "1"}


@pytest.mark.parametrize(("field", "value", "code"), [
    ("layout_digest", "0" * 64, "LAYOUT_MISMATCH"),
    ("layout", LAYOUT.to_json() + " ", "LAYOUT_TEXT"),
    ("layout", "[" * 100_000, "LAYOUT_TEXT"),
    ("layout", LAYOUT.to_json().replace('"seed":', '"seed":1e999'), "LAYOUT_TEXT"),
    ("layout", LAYOUT.to_json().replace('"alpha":', '"alpha":1e999'), "LAYOUT_TEXT"),
    ("site_id", "../etc", "SITE_NAME"),
    ("model_digest", 3, "MESSAGE_FIELD"),
])
def test_ready_answers_are_checked(field: str, value: object, code: str) -> None:
    assert verify_ready(Message(kind=READY, fields=ready_fields())).layout == LAYOUT
    with pytest.raises(Rejected) as caught:
        verify_ready(Message(kind=READY, fields={**ready_fields(), field: value}))
    assert caught.value.code == code


def in_rounds() -> RoundState:
    state = RoundState(min_sites=2, rounds=2).agreed(("a", "b"), layout_digest="l")
    return state.supported("s")


def test_the_only_way_through_the_phases() -> None:
    state = in_rounds().accepted(0, ("b", "a"), support_digest="s")
    state = state.accepted(1, ("c", "a"), support_digest="s")
    assert state.informed == ("a", "b", "c")
    done = state.finished(FinishReason.ROUNDS_DONE)
    assert (done.phase, done.reason) == (Phase.FINISHED, "rounds_done")
    assert RoundState.from_json(done.to_json()) == done


@pytest.mark.parametrize("wrong", [
    lambda s: s.accepted(1, ("a", "b"), support_digest="s"),
    lambda s: s.accepted(0, ("a", "b"), support_digest="t"),
    lambda s: s.accepted(0, ("a", "a"), support_digest="s"),
    lambda s: s.finished(FinishReason.ROUNDS_DONE),
    lambda s: s.supported("t"),
    lambda s: s.agreed(("a", "b"), layout_digest="l"),
    lambda s: replace(s, next_round=2).accepted(2, ("a", "b"), support_digest="s"),
    lambda s: s.finished(FinishReason.GAP_CLOSED).accepted(0, ("a", "b"), support_digest="s"),
])
def test_steps_out_of_order_are_refused(wrong: object) -> None:
    with pytest.raises(Rejected) as caught:
        wrong(in_rounds())  # type: ignore[operator]
    assert caught.value.code == "STATE_ORDER"


def test_too_few_sites_do_not_advance_a_round() -> None:
    with pytest.raises(Transient) as caught:
        in_rounds().accepted(0, ("a",), support_digest="s")
    assert caught.value.code == "ROUND_TOO_FEW_SITES"

"""One sum for two, 16 bits for 32: what a unit can move, what the sums hold, what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from medunlearn_client.releases import ReleaseSettings
from medunlearn_client.site_config import SiteConfig
from medunlearn_client.step_message import StepRequest
from medunlearn_client.workbench import Workbench
from medunlearn_common.entropy import KeyStream, SeededEntropy
from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.layout import AdapterLayout
from medunlearn_common.messages import STEP, Message
from medunlearn_common.plan import Plan, RunPlan, RuntimeOptions
from medunlearn_common.plan.commands import plan_facts
from medunlearn_common.planned_noise import noise_schedule
from medunlearn_common.ring import (
    COARSENING,
    NOISE_STEPS,
    RingCodec,
    clip_steps,
    coarsened,
    noise_reach,
)
from medunlearn_common.support import Support, random_support
from medunlearn_common.updates import SparseUpdate
from medunlearn_common.wire import UpdateForm, update_codec
from medunlearn_server.aggregation import RoundSums, combine_round, summed_noise
from medunlearn_server.gates import norm_bound
from medunlearn_server.requests import step_request
from medunlearn_server.server_step import direction_of

CLIP, SIZE = 0.01, 61
LAYOUT = AdapterLayout(
    names=("base_model.model.q_proj.lora_B.weight",), shapes=((4, 2),), a_shapes=((2, 4),),
    base_parameters=100, alpha=4.0, seed=1,
)
SECTIONS: dict[str, dict[str, Any]] = {
    "run": {"rounds": 4}, "model": {"lora_rank": 2, "target_modules": ("q_proj", "down_proj")},
    "objective": {"name": "graddiff"}, "support": {"density": 0.005},
    "privacy": {"clip_l2": CLIP}, "server": {"retain_weight": 2.5},
    "federation": {"sites": 5, "min_sites": 4},
}


def plan(**changes: dict[str, Any]) -> RunPlan:
    names = (*SECTIONS, *changes)
    values = {name: {**SECTIONS.get(name, {}), **changes.get(name, {})} for name in names}
    return RunPlan.model_validate(values)


# -- two coordinates in a word ---------------------------------------------------------------


@given(st.data())
def test_sums_of_packed_words_are_the_int64_sums(data: st.DataObject) -> None:
    sites, size = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 7))
    most = (2**15 - 1) // sites
    rows = data.draw(arrays.arrays(np.int64, (sites, size), elements=st.integers(-most, most)))
    codec = RingCodec(step=0.5, max_sites=sites, bits=16)
    words = [codec.to_ring(row) for row in rows]
    assert all(word.shape == (codec.words(size),) for word in words)
    total = codec.from_ring(np.add.reduce(words, dtype=np.uint32), size)
    assert (total / codec.wire_step).tolist() == rows.sum(axis=0).tolist()


def test_a_sum_that_wraps_moves_its_neighbour_by_one_step_at_most() -> None:
    codec = RingCodec(step=1.0 / COARSENING, max_sites=2, bits=16)
    steps = np.array([30_000, 5, -30_000, 7, 0, 30_000], dtype=np.int64)
    total = codec.from_ring(codec.to_ring(steps) + codec.to_ring(steps))
    assert total.tolist() == [60_000 - 2**16, 11, 2**16 - 60_000, 13, 0, 60_000 - 2**16]


def test_without_noise_there_are_no_sixteen_bits() -> None:
    with pytest.raises(ValueError, match="without noise"):
        RingCodec.for_mechanism(clip_l2=1.0, sigma=0.0, max_sites=5, bits=16)


# -- what one unit can move ------------------------------------------------------------------


@given(st.integers(-(2**40), 2**40), st.integers(-(2**20), 2**20))
def test_what_a_unit_moves_depends_on_no_other_unit(others: int, own: int) -> None:
    """All dithers: floor(v) or one more, as often as makes v on average, whatever is there."""
    dither = np.arange(COARSENING)
    without = coarsened(np.full(COARSENING, others), dither)
    moved = coarsened(np.full(COARSENING, others + own), dither) - without
    alone = coarsened(np.full(COARSENING, own), dither)
    assert sorted(moved) == sorted(alone)
    assert set(moved) <= {own // COARSENING, own // COARSENING + 1}
    assert moved.sum() == own


def longest_moves(norm: float, dimension: int, draws: int = 400) -> float:
    """The longest move in wire steps by units of this norm, most of them made to round badly."""
    stream = KeyStream(SeededEntropy(4).key("dither"))
    generator = np.random.default_rng(1)
    even = np.full(dimension, norm / math.sqrt(dimension))
    half = np.where(np.arange(dimension) % 2, 1, -1) * COARSENING // 2
    drawn = generator.standard_normal(dimension)
    longest = 0.0
    for shape in (even, half, drawn):
        unit = np.rint(shape * norm / np.linalg.norm(shape)).astype(np.int64)
        for _ in range(draws):
            dither = (stream.words(dimension) % np.uint64(COARSENING)).astype(np.int64)
            moved = coarsened(unit, dither) - coarsened(np.zeros_like(unit), dither)
            longest = max(longest, float(np.linalg.norm(moved)))
    return longest


@pytest.mark.parametrize(("dimension", "sigma"), [(4_655, 8.0), (4_655, 16.0), (16_000, 8.0)])
def test_no_unit_moves_the_rounded_sum_by_more_than_the_clip(
    dimension: int, sigma: float
) -> None:
    codec = RingCodec.for_mechanism(clip_l2=0.02, sigma=sigma, max_sites=5, bits=16)
    clip = 0.02 / codec.wire_step
    limit = clip_steps(codec, clip_l2=0.02, dimension=dimension)
    assert longest_moves(limit, dimension) <= clip
    # The attack has teeth: a unit that uses its whole clip does move the sum by more.
    assert longest_moves(0.02 / codec.step, dimension, draws=20) > clip


def test_a_support_too_large_for_coarse_steps_is_refused() -> None:
    codec = RingCodec.for_mechanism(clip_l2=1.0, sigma=40.0, max_sites=5, bits=16)
    with pytest.raises(Rejected, match="RING_TOO_COARSE") as caught:
        clip_steps(codec, clip_l2=1.0, dimension=66_000)
    assert "update_bits = 32" in str(caught.value)
    fine = RingCodec.for_mechanism(clip_l2=1.0, sigma=40.0, max_sites=5)
    assert clip_steps(fine, clip_l2=1.0, dimension=66_000) > 0.9 / fine.step


# -- a hospital's own release ----------------------------------------------------------------


@pytest.fixture(scope="module")
def few(question_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The questions; without the first forget record; without the last retain record."""
    rows = question_file.read_text(encoding="utf-8").splitlines(keepends=True)
    files = {"all": rows, "forget": rows[1:], "retain": rows[:-1]}
    folder = tmp_path_factory.mktemp("fewer")
    for name, kept in files.items():
        (folder / f"{name}.jsonl").write_text("".join(kept), encoding="utf-8")
    return {name: folder / f"{name}.jsonl" for name in files}


def released(
    folder: Path, model: Path, file: Path, shared: RunPlan, *, sigma: float = 0.0,
    noise: str = "", moved_by: float = 0.0,
) -> RoundSums:
    """What the coordinator makes of one hospital's update; ``noise`` names a draw of it."""
    config = SiteConfig.model_validate({
        "site_id": "site-0", "data": {"files": [str(file)], "nonmember_fraction": 0.0},
        "forget": {"subjects": ["Surgery"]}, "model_folder": str(model), "entropy_seed": 1,
    })
    bench = Workbench(folder, config, shared, RuntimeOptions(runner="memory", device="cpu"))
    support = random_support(bench.layout, size=SIZE, seed=0)
    request = StepRequest(
        round_index=0, plan_digest=shared.digest, sigma=sigma,
        values=moved_by * np.linspace(-1.0, 1.0, SIZE, dtype=np.float32),
        support_digest=support.digest, support_indices=support.indices, geometry=None,
    )
    payload = bench.step(
        request, support=support, key=lambda purpose: SeededEntropy(0).key(purpose, noise)
    )
    form = UpdateForm.of(shared, size=SIZE)
    update = SparseUpdate.from_bytes(
        payload, length=form.words, layout_digest="l", subject_digest="s"
    )
    assert update.to_bytes() == payload
    return combine_round(
        update, update_codec(shared, sigma=sigma), form, sites=1, clip_l2=CLIP, noise_l2=0.0
    )


NOISELESS = {"noise": "none"}


@pytest.mark.parametrize("weight", [0.4, 2.5])
def test_one_sum_is_the_weighted_sum_of_two(
    tmp_path: Path, tiny_model_folder: Path, few: dict[str, Path], weight: float
) -> None:
    server = {"retain_weight": weight}
    found = {
        sums: released(
            tmp_path, tiny_model_folder, few["all"],
            plan(privacy=NOISELESS, server=server, wire={"sums": sums},
                 objective={"name": "npo"}),
            moved_by=3.0,
        )
        for sums in ("one", "two")
    }
    one, two = (direction_of(found[s], retain_weight=weight).whole for s in ("one", "two"))
    assert np.abs(one - two).max() < 1e-3 * np.abs(two).max()
    assert found["one"].forget_progress == pytest.approx(found["two"].forget_progress, rel=1e-3)
    assert found["one"].retain_progress == pytest.approx(found["two"].retain_progress, abs=1e-4)
    assert abs(found["two"].forget_progress) > 0.1 and found["two"].retain_progress > 0.1


@pytest.mark.parametrize("weight", [0.4, 2.5])
@pytest.mark.parametrize("left_out", ["forget", "retain"])
def test_a_record_moves_the_one_sum_by_no_more_than_the_clip_it_is_accounted_with(
    tmp_path: Path, tiny_model_folder: Path, few: dict[str, Path], left_out: str, weight: float
) -> None:
    shared = plan(
        privacy=NOISELESS, server={"retain_weight": weight}, wire={"sums": "one"},
        # The retain loss of an untouched model has no gradient: cross-entropy has one.
        objective={"retain_cross_entropy": 1.0},
    )
    form = UpdateForm.of(shared, size=SIZE)
    assert max(form.forget_share, form.retain_share) == 1.0
    share = form.forget_share if left_out == "forget" else form.retain_share
    whole = released(tmp_path, tiny_model_folder, few["all"], shared).forget
    without = released(tmp_path, tiny_model_folder, few[left_out], shared).forget
    moved = float(np.linalg.norm(whole - without)) * form.forget_share  # as it was sent
    assert 0.5 * share * CLIP < moved <= share * CLIP * (1.0 + 1e-9)


def test_sixteen_bits_hold_the_same_sum_under_the_noise_that_was_promised(
    tmp_path: Path, tiny_model_folder: Path, few: dict[str, Path]
) -> None:
    sigma, draws = 3.0, 12
    means, deviations = [], []
    for bits in (16, 32):
        shared = plan(wire={"update_bits": bits})
        sums = np.array([
            released(tmp_path, tiny_model_folder, few["all"], shared, sigma=sigma,
                     noise=str(draw)).forget
            for draw in range(draws)
        ])
        means.append(sums.mean(axis=0))
        deviations.append(float(np.sqrt(np.mean(sums.var(axis=0, ddof=1)))))
    own = sigma * CLIP / math.sqrt(4)  # one site's share, four survivors guaranteed
    assert deviations == pytest.approx([own, own], rel=0.1)
    apart = np.abs(means[0] - means[1]) / (own * math.sqrt(2 / draws))
    assert apart.max() < 4.5 and 0.5 < apart.std() < 1.5


def test_noise_is_as_wide_in_coarse_steps_as_in_fine_ones() -> None:
    fine, coarse = (
        RingCodec.for_mechanism(clip_l2=0.3, sigma=5.0, max_sites=5, bits=bits)
        for bits in (32, 16)
    )
    assert fine.step == coarse.step and coarse.wire_step == fine.step * COARSENING
    assert 0.3 * 5.0 / coarse.wire_step == pytest.approx(NOISE_STEPS / COARSENING)


# -- the coordinator -------------------------------------------------------------------------


def test_the_norm_gate_knows_that_one_sum_holds_both_sets() -> None:
    apart, together = plan(), plan(wire={"sums": "one"})
    bounds = [norm_bound(p, dimension=SIZE, noise_l2=0.0) for p in (apart, together)]
    assert bounds[1] == pytest.approx((1.0 + 2.5) * bounds[0])
    form = UpdateForm.of(together, size=2)
    codec = update_codec(together, sigma=4.0)
    words = SparseUpdate(
        values=codec.to_ring(np.array([100, -100, 10, 20])), layout_digest="l",
        subject_digest="s",
    )
    noise = summed_noise(together, sigma=4.0, sites=4)
    sums = combine_round(words, codec, form, sites=4, clip_l2=CLIP, noise_l2=noise)
    assert sums.retain is None
    assert sums.forget == pytest.approx(np.array([250.0, -250.0]) * codec.step)
    assert sums.noise_l2 == pytest.approx(2.5 * noise)  # of the same sum
    assert sums.retain_progress == pytest.approx(20 * codec.step / (0.1 * CLIP))
    assert sums.forget_progress == pytest.approx(2.5 * 10 * codec.step / (0.1 * CLIP))


def asked(shared: RunPlan, support: Support, values: np.ndarray) -> Message:
    return step_request(
        shared, LAYOUT, support, run_id="run", round_index=0, sigma=4.0, values=values,
        geometry=None, with_support=False,
    )


def test_values_in_half_floats_arrive_rounded_and_only_where_planned() -> None:
    support = Support(indices=np.array([1, 4, 7]), layout_digest=LAYOUT.digest)
    values = np.array([0.1, -3.0, 1e-3])
    half = asked(plan(wire={"value_bits": 16}), support, values)
    assert (half.kind, len(half.payload)) == (STEP, 6)
    got = StepRequest.from_message(half, value_bits=16)
    got.check_lengths(support)
    assert got.values == pytest.approx(values, rel=2.0**-11)
    whole = StepRequest.from_message(asked(plan(), support, values))
    assert whole.values.tolist() == values.astype(np.float32).tolist()
    assert whole.release_digest != got.release_digest
    with pytest.raises(Rejected, match="STEP_PAYLOAD"):
        StepRequest.from_message(half).check_lengths(support)
    with pytest.raises(Misconfigured, match="STEP_NOT_FINITE"):
        asked(plan(wire={"value_bits": 16}), support, np.array([0.0, 1e5, 0.0]))


@pytest.mark.parametrize(("changes", "said"), [
    ({"wire": {"sums": "one"}, "geometry": {"projection": "history"}}, "geometry.projection"),
    ({"wire": {"sums": "one"}, "privacy": {"noise": "local", "local_steps": 2}}, "local_steps"),
    ({"wire": {"sums": "one"}, "server": {"retain_weight": 0.0}}, "retain_weight"),
    ({"wire": {"update_bits": 16}, "privacy": {"noise": "local"}}, "update_bits = 32"),
    ({"wire": {"update_bits": 16}, "privacy": {"noise": "none"}}, "update_bits = 32"),
    ({"wire": {"update_bits": 24}}, "update_bits"),
])
def test_contradictions_name_the_key_and_the_way_out(
    changes: dict[str, dict[str, object]], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        plan(**changes)


# -- attacks ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "sigma"), [(16, 0.02), (32, 1e-5)])
def test_a_refusal_cannot_tell_the_coordinator_how_long_one_hospitals_sum_is(
    tmp_path: Path, tiny_model_folder: Path, few: dict[str, Path], bits: int, sigma: float
) -> None:
    """Records that push against the ring's end, under noise: an answer as ever, no code."""
    shared = plan(wire={"update_bits": bits})
    found = released(tmp_path, tiny_model_folder, few["all"], shared, sigma=sigma, moved_by=3.0)
    codec = update_codec(shared, sigma=sigma)
    own = NOISE_STEPS / codec.coarsening / math.sqrt(4)  # four survivors guaranteed
    edge = codec.sum_limit(own) * codec.wire_step
    assert max(np.abs(found.forget).max(), abs(found.forget_progress) * 0.1 * CLIP) == (
        pytest.approx(edge, abs=6.0 * own * codec.wire_step))


@pytest.mark.parametrize(("bits", "sigma"), [(16, 0.02), (32, 1e-5)])
def test_large_hospitals_cannot_be_made_to_leave_a_small_one_under_its_own_noise_alone(
    tmp_path: Path, tiny_model_folder: Path, few: dict[str, Path], bits: int, sigma: float
) -> None:
    """A coordinator that drives all but one hospital against the ring's end opens a sum of
    constants and of that one's vector: each must still have added its share of the noise."""
    shared, draws = plan(wire={"update_bits": bits}), 12
    sums = np.array([
        released(tmp_path, tiny_model_folder, few["all"], shared, sigma=sigma, moved_by=3.0,
                 noise=str(draw)).forget
        for draw in range(draws)
    ])
    own = sigma * CLIP / math.sqrt(4)  # one site's share, four survivors guaranteed
    deviations = sums.std(axis=0, ddof=1)
    assert 0.4 * own < deviations.min() and deviations.max() < 1.9 * own


@given(
    arrays.arrays(np.int64, st.integers(1, 9), elements=st.integers(-2**40, 2**40)),
    st.sampled_from([(16, 2**11 / math.sqrt(2)), (32, 2.0**16), (32, 2.0**20)]), st.data(),
)
def test_noise_fits_on_top_of_every_sum_and_no_unit_moves_it_farther(
    sums: np.ndarray, form: tuple[int, float], data: st.DataObject
) -> None:
    bits, width = form
    codec = RingCodec(step=1.0, max_sites=5, bits=bits)
    clamped = codec.within(sums, noise_steps=width)
    assert np.abs(clamped).max() + noise_reach(width) <= codec.clamp_steps
    unit = data.draw(arrays.arrays(np.int64, sums.size, elements=st.integers(-2**20, 2**20)))
    moved = codec.within(sums + unit, noise_steps=width) - clamped
    assert np.all(np.abs(moved) <= np.abs(unit))
    assert np.all(clamped[np.abs(sums) < 2**13] == sums[np.abs(sums) < 2**13])


def test_what_does_not_fit_is_refused_only_where_nothing_is_private() -> None:
    steps = np.full(100, 2**40, dtype=np.int64)
    for bits in (16, 32):
        codec = RingCodec(step=1.0, max_sites=5, bits=bits)
        words = codec.to_ring(steps, private=True)
        assert np.all(codec.from_ring(words, 100) == codec.clamp_steps * codec.wire_step)
        with pytest.raises(Rejected, match="RING_CLAMPED"):
            codec.to_ring(steps)


def test_more_hospitals_than_sixteen_bits_hold_the_noise_of_are_refused() -> None:
    """Each adds 1/sqrt(h) of the noise: of 1,000 with h = 3, the noise alone would wrap."""
    small = {"update_bits": 16}
    for sites, least in ((1000, 3), (13, 3)):
        with pytest.raises(ValueError, match="min_sites"):
            plan(wire=small, federation={"sites": sites, "min_sites": least})
    widest = plan(wire=small, federation={"sites": 12, "min_sites": 3})
    codec = update_codec(widest, sigma=4.0)
    noise = summed_noise(widest, sigma=4.0, sites=12)
    assert (codec.clamp_steps + 1) * codec.wire_step >= 8.0 * noise


@pytest.mark.parametrize("weight", [5e-324, 1e-300, 1e-3, 1e3, 1e300])
def test_a_weight_that_leaves_nothing_of_one_set_in_the_one_sum_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match=r"retain_weight between 0\.01 and 100"):
        plan(wire={"sums": "one"}, server={"retain_weight": weight})
    assert plan(server={"retain_weight": weight}).server.retain_weight == weight


@pytest.mark.parametrize("weight", [0.4, 2.5])
def test_the_clip_that_rounding_takes_distorts_neither_the_weight_nor_the_gap(
    tmp_path: Path, tiny_model_folder: Path, few: dict[str, Path], weight: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where 16 bits leave little of the clip, a share must be a share of what is left."""
    monkeypatch.setattr(ReleaseSettings, "noise_share", 0.0)
    sigma, small = 100.0, {"update_bits": 16, "sums": "one"}
    left = sigma / NOISE_STEPS * clip_steps(
        update_codec(plan(wire=small), sigma=sigma), clip_l2=CLIP, dimension=SIZE + 2
    )
    assert left < 0.75

    def found(wire: dict[str, Any], dither: int) -> RoundSums:
        shared = plan(wire=wire, server={"retain_weight": weight}, objective={"name": "npo"})
        return released(tmp_path, tiny_model_folder, few["all"], shared, sigma=sigma,
                        moved_by=3.0, noise=str(dither))

    exact, rounded = found({}, 0), [found(small, dither) for dither in range(20)]
    assert exact.retain is not None
    halves = np.stack([exact.forget, exact.retain], axis=1)
    mean = np.mean([sums.forget for sums in rounded], axis=0)
    told = np.linalg.lstsq(halves, mean, rcond=None)[0]
    assert told == pytest.approx([left, left * weight], rel=0.08)
    drift = np.mean([sums.retain_progress for sums in rounded])
    assert drift == pytest.approx(exact.retain_progress, abs=0.4 if weight < 1.0 else 0.1)


def test_plan_check_says_how_many_units_sixteen_bits_hold() -> None:
    shown = {
        bits: dict(plan_facts(Plan.model_validate({**SECTIONS, "wire": {"update_bits": bits}})))
        for bits in (16, 32)
    }
    sigma = noise_schedule(plan()).round_sigma
    assert shown[16]["range"].startswith(f"{16 * sigma:.0f} units") and "range" not in shown[32]
    assert shown[16]["range"].endswith(f"of one site {10 * sigma:.0f} units")  # 16 - 12 / sqrt(4)
    codec = update_codec(plan(wire={"update_bits": 16}), sigma=sigma)
    assert (codec.clamp_steps + 1) * codec.wire_step == pytest.approx(16 * sigma * CLIP)

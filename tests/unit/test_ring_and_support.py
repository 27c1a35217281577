"""The coordinate system and the ring: exact sums, clamps, digests and the vote's supports."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medunlearn_common.errors import MedunlearnError, Misconfigured, Rejected
from medunlearn_common.layout import AdapterLayout
from medunlearn_common.ring import RingCodec, clip_steps
from medunlearn_common.support import (
    Support,
    damped_ratio,
    random_support,
    support_from_row_scores,
    support_size,
)
from medunlearn_common.updates import SparseUpdate


def layout(**changes: object) -> AdapterLayout:
    values = {
        "names": ("a.lora_B.weight", "b.lora_B.weight"), "shapes": ((3, 2), (2, 2)),
        "a_shapes": ((2, 5), (2, 3)), "base_parameters": 5000, "alpha": 8.0, "seed": 0,
    }
    return AdapterLayout(**(values | changes))  # type: ignore[arg-type]


def test_offsets_and_rows_follow_the_shapes() -> None:
    assert layout().offsets == (0, 6)
    assert layout().dimension == 10
    assert layout().row_lengths == (2, 2, 2, 2, 2)


@pytest.mark.parametrize("change", [
    {"seed": 1}, {"alpha": 4.0}, {"base_parameters": 4999},
    {"names": ("b.lora_B.weight", "a.lora_B.weight")}, {"shapes": ((2, 2), (3, 2))},
    {"a_shapes": ((2, 5), (2, 4))},
])
def test_layout_digest_changes_with_whatever_gives_a_coordinate_meaning(
    change: dict[str, object],
) -> None:
    assert layout(**change).digest != layout().digest


@pytest.mark.parametrize("change", [
    {"names": ()}, {"names": ("a", "a")}, {"shapes": ((0, 2), (2, 2))},
])
def test_broken_layouts_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(MedunlearnError):
        layout(**change)


def test_support_size_is_the_floor_of_the_density() -> None:
    assert support_size(layout(), 0.001) == 5
    assert support_size(layout(), 1.0) == 10
    with pytest.raises(Misconfigured):
        support_size(layout(), 1e-6)


@pytest.mark.parametrize("indices", [[], [1, 1], [2, 1], [-1, 0]])
def test_unordered_or_empty_supports_are_refused(indices: list[int]) -> None:
    with pytest.raises(Misconfigured):
        Support(indices=np.array(indices, dtype=np.int64), layout_digest="x")


def test_support_cannot_be_changed_after_it_was_digested() -> None:
    support = Support(indices=np.array([1, 2]), layout_digest="x")
    with pytest.raises(ValueError, match="read-only"):
        support.indices[0] = 0


def test_random_support_repeats_for_its_seed_only() -> None:
    first = random_support(layout(), size=5, seed=1)
    assert first == random_support(layout(), size=5, seed=1)
    assert first != random_support(layout(), size=5, seed=2)


def test_row_support_takes_best_rows_whole_and_fills_the_last() -> None:
    scores = np.array([0.1, 0.9, 0.3, 0.8, 0.2])
    support = support_from_row_scores(layout(), scores, size=5)
    assert support.indices.tolist() == [2, 3, 4, 6, 7]


def test_row_support_breaks_ties_the_same_way_everywhere() -> None:
    support = support_from_row_scores(layout(), np.ones(5), size=4)
    assert support.indices.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("scores", [np.ones(4), np.array([1, 2, np.nan, 3, 4.0])])
def test_scores_that_do_not_fit_are_refused(scores: np.ndarray) -> None:
    with pytest.raises(Misconfigured):
        support_from_row_scores(layout(), scores, size=2)


def test_damped_ratio_prefers_rows_that_only_forgetting_uses() -> None:
    scores = damped_ratio(np.array([1.0, 1.0, -3.0]), np.array([0.0, 4.0, 0.0]))
    assert scores[0] > scores[1] > scores[2] == 0.0


@given(
    st.lists(st.lists(st.integers(-(2**28), 2**28), min_size=4, max_size=4),
             min_size=1, max_size=7)
)
def test_ring_sum_equals_the_int64_sum(rows: list[list[int]]) -> None:
    codec = RingCodec(step=1.0, max_sites=7)
    vectors = [codec.to_ring(np.array(row, dtype=np.int64)) for row in rows]
    expected = np.array(rows, dtype=np.int64).sum(axis=0)
    total = codec.from_ring(np.add.reduce(vectors, dtype=np.uint32))
    assert total.astype(np.int64).tolist() == expected.tolist()


def test_values_at_the_clamp_never_wrap_for_the_promised_number_of_sites() -> None:
    codec = RingCodec(step=1.0, max_sites=3)
    extreme = np.full(400, codec.clamp_steps, dtype=np.int64)
    total = codec.from_ring(np.add.reduce([codec.to_ring(extreme)] * 3, dtype=np.uint32))
    assert np.all(total == 3.0 * codec.clamp_steps)


def test_a_few_values_are_clamped_and_many_are_refused() -> None:
    codec = RingCodec(step=1.0, max_sites=2)
    steps = np.zeros(1000, dtype=np.int64)
    steps[0] = 2**40
    assert codec.from_ring(codec.to_ring(steps))[0] == codec.clamp_steps
    steps[:20] = -(2**40)
    with pytest.raises(Rejected, match="RING_CLAMPED"):
        codec.to_ring(steps)


def test_clip_leaves_room_for_rounding() -> None:
    codec = RingCodec.for_mechanism(clip_l2=0.5, sigma=8.0, max_sites=5)
    limit = clip_steps(codec, clip_l2=0.5, dimension=4654)
    vector = np.random.default_rng(0).standard_normal(4654)
    vector *= limit / np.linalg.norm(vector)
    assert np.linalg.norm(np.round(vector)) <= 0.5 / codec.step
    assert limit > 0.98 * 0.5 / codec.step


def test_a_ring_too_coarse_for_the_clip_is_refused() -> None:
    codec = RingCodec(step=0.1, max_sites=5)
    with pytest.raises(Rejected, match="RING_TOO_COARSE"):
        clip_steps(codec, clip_l2=1.0, dimension=1000)


def test_updates_round_trip_and_refuse_other_lengths() -> None:
    update = SparseUpdate(
        values=np.array([0, 1, 2**32 - 1], dtype=np.uint32), layout_digest="l",
        subject_digest="s",
    )
    data = update.to_bytes()
    assert data == b"\0\0\0\0\1\0\0\0\xff\xff\xff\xff"
    again = SparseUpdate.from_bytes(data, length=3, layout_digest="l", subject_digest="s")
    assert again.values.tolist() == update.values.tolist()
    for bad in (data[:-1], data + b"\0", b""):
        with pytest.raises(Rejected, match="UPDATE_LENGTH"):
            SparseUpdate.from_bytes(bad, length=3, layout_digest="l", subject_digest="s")

"""The server step against torch's optimizers, and the geometry against the closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medunlearn_common.layout import AdapterLayout
from medunlearn_common.plan.sections import GeometrySection, ServerSection
from medunlearn_common.support import Support
from medunlearn_server.aggregation import RoundSums
from medunlearn_server.geometry import Geometry, RetainHistory, orthonormal_rows
from medunlearn_server.low_rank import truncated, whole_rows
from medunlearn_server.server_step import (
    Direction,
    StepState,
    direction_of,
    gap_closed,
    learning_rate,
    take_step,
    within_trust_region,
)

SIZE, ROUNDS = 7, 12


def sums(forget: np.ndarray, retain: np.ndarray, *, noise: float = 0.0, sites: int = 1
         ) -> RoundSums:
    return RoundSums(forget=forget, retain=retain, forget_progress=0.0, retain_progress=0.0,
                     sites=sites, noise_l2=noise, progress_noise=0.0)


def walk(section: ServerSection, directions: np.ndarray) -> list[StepState]:
    states, state = [], StepState.zero(SIZE)
    for index, direction in enumerate(directions):
        state = take_step(state, Direction(direction, direction), section, round_index=index,
                          rounds=len(directions), geometry=None)
        states.append(state)
    return states


@pytest.mark.parametrize("name", ["adam", "momentum", "sgd"])
def test_optimizers_equal_torch(name: str) -> None:
    section = ServerSection(optimizer=name, schedule="constant", learning_rate=0.03,
                            beta1=0.8, beta2=0.95)
    directions = np.random.default_rng(1).normal(size=(ROUNDS, SIZE))
    parameter = torch.nn.Parameter(torch.zeros(SIZE, dtype=torch.float64))
    theirs: torch.optim.Optimizer = {
        "adam": lambda: torch.optim.Adam([parameter], lr=0.03, betas=(0.8, 0.95)),
        "momentum": lambda: torch.optim.SGD([parameter], lr=0.03, momentum=0.8),
        "sgd": lambda: torch.optim.SGD([parameter], lr=0.03),
    }[name]()
    for state, direction in zip(walk(section, directions), directions, strict=True):
        parameter.grad = torch.from_numpy(direction)
        theirs.step()
        np.testing.assert_allclose(state.values, parameter.detach().numpy(), rtol=1e-12)


def test_averaging_publishes_the_mean_of_the_last_iterates() -> None:
    section = ServerSection(optimizer="sgd", schedule="constant", averaging=0.25)
    states = walk(section, np.random.default_rng(2).normal(size=(ROUNDS, SIZE)))
    expected = np.mean([state.values for state in states[-3:]], axis=0)
    np.testing.assert_allclose(states[-1].published, expected, rtol=1e-6)
    np.testing.assert_array_equal(states[-4].published, states[-4].values.astype(np.float32))


def test_schedules_and_warm_up() -> None:
    cosine = ServerSection(learning_rate=1.0, schedule="cosine", warmup_rounds=4)
    rates = [learning_rate(cosine, round_index=i, rounds=12) for i in range(12)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[8] == pytest.approx(0.5)
    linear = ServerSection(learning_rate=1.0, schedule="linear")
    assert learning_rate(linear, round_index=9, rounds=12) == pytest.approx(0.25)


def test_trust_region_bounds_the_step_in_the_metric() -> None:
    step, metric = np.array([3.0, 0.0, 4.0]), np.array([1.0, 1.0, 4.0])
    bound = within_trust_region(step, 1.0, metric)
    assert np.sqrt(np.sum(metric * bound**2)) == pytest.approx(1.0)
    np.testing.assert_allclose(bound / np.linalg.norm(bound), step / 5.0)
    np.testing.assert_array_equal(within_trust_region(step, 100.0, metric), step)
    np.testing.assert_array_equal(within_trust_region(step, 0.0, metric), step)
    section = ServerSection(optimizer="sgd", learning_rate=1.0, schedule="constant",
                            trust_radius=0.5)
    geometry = Geometry(inverse_root=(metric**-0.5).astype(np.float32),
                        basis=np.zeros((0, 3), dtype=np.float32))
    moved = take_step(StepState.zero(3), Direction(step, step), section, round_index=0, rounds=2,
                      geometry=geometry)
    assert np.sqrt(np.sum(metric * moved.values**2)) == pytest.approx(0.5)


def test_direction_is_the_weighted_mean_over_sites() -> None:
    found = direction_of(sums(np.full(2, 6.0), np.full(2, 2.0), sites=2), retain_weight=3.0)
    np.testing.assert_array_equal(found.whole, [6.0, 6.0])
    np.testing.assert_array_equal(found.forget, [3.0, 3.0])


def history(count: int, *, noise: float = 0.0, rank: int = 3) -> RetainHistory:
    generator = np.random.default_rng(3)
    grown = RetainHistory.empty(SIZE)
    for _ in range(count):
        retain = generator.normal(size=SIZE) * np.arange(1, SIZE + 1)
        grown = grown.add(sums(np.zeros(SIZE), retain, noise=noise), None, rank=rank)
    return grown


def test_step_leaves_retain_losses_unchanged_to_first_order() -> None:
    """Delta = M^-1 (I - R (R'M^-1R)^-1 R'M^-1) g is orthogonal to R."""
    grown = history(3)
    geometry = grown.geometry(GeometrySection(projection="history", rank=3))
    assert geometry is not None and geometry.rank == 3
    gradient = np.random.default_rng(4).normal(size=SIZE)
    white = geometry.inverse_root * gradient
    released = white - geometry.basis.T @ (geometry.basis @ white)
    step = geometry.unwhitened(released, forget=released)
    inverse = np.diag(1.0 / geometry.metric)
    r = grown.directions.T
    closed = inverse @ (gradient - r @ np.linalg.solve(r.T @ inverse @ r, r.T @ inverse @ gradient))
    np.testing.assert_allclose(step, closed, atol=1e-5)
    np.testing.assert_allclose(grown.directions @ step, 0.0, atol=1e-4)


def test_noise_in_the_retain_subspace_is_projected_out() -> None:
    geometry = history(3).geometry(GeometrySection(projection="history", rank=3))
    assert geometry is not None
    noise = geometry.basis.T.astype(np.float64) @ np.array([5.0, -2.0, 9.0])
    np.testing.assert_allclose(geometry.unwhitened(noise, forget=noise), 0.0, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adam", "momentum", "sgd"])
def test_forgetting_moves_no_retain_loss_under_any_optimizer(optimizer: str) -> None:
    """Noise and all: a rate for each coordinate would turn the step back into span(R)."""
    grown = history(3)
    geometry = grown.geometry(GeometrySection(projection="history", rank=3))
    assert geometry is not None
    section = ServerSection(optimizer=optimizer, schedule="constant", retain_weight=2.0)
    generator, forgotten, retained = np.random.default_rng(6), [], []
    state = with_retain = StepState.zero(SIZE)
    for index in range(8):
        noised = geometry.inverse_root * generator.normal(size=SIZE)
        kept = generator.normal(size=SIZE)
        for weight in (0.0, 2.0):
            found = direction_of(sums(noised, kept), retain_weight=weight)
            before = state if weight == 0.0 else with_retain
            after = take_step(before, found, section, round_index=index, rounds=8,
                              geometry=geometry)
            moved = np.abs(grown.directions @ (after.values - before.values)).max()
            (forgotten if weight == 0.0 else retained).append(moved)
            if weight == 0.0:
                state = after
            else:
                with_retain = after
    assert max(forgotten) < 1e-5 < min(retained)  # what is kept is taught there, and only there


def test_truncation_moves_no_retain_loss_either() -> None:
    layout, support = two_modules()
    blocks, generator = whole_rows(layout, support), np.random.default_rng(8)
    grown = RetainHistory.empty(support.size).add_public(generator.normal(size=(3, support.size)))
    geometry = grown.geometry(GeometrySection(projection="public", public_file="p", rank=3))
    assert geometry is not None
    section = ServerSection(schedule="constant", retain_weight=0.0, row_rank=1)
    state = StepState.zero(support.size)
    for index in range(5):
        noised = generator.normal(size=support.size)
        state = take_step(
            state, direction_of(sums(noised, noised), retain_weight=0.0), section,
            round_index=index, rounds=5, geometry=geometry,
            constrain=lambda values: truncated(values, blocks, rank=1),
        )
    free = np.abs(grown.directions @ truncated(state.values, blocks, rank=1)).max()
    assert np.abs(grown.directions @ state.values).max() < 1e-5 < free
    kept = np.linalg.norm(truncated(state.values, blocks, rank=1)) / np.linalg.norm(state.values)
    assert kept > 0.9  # near the constraint all the same


def test_under_a_geometry_the_metric_decides_whatever_the_optimizer() -> None:
    """Adam on steps that M^(-1/2) had scaled would take the scale out again."""
    root = np.array([0.2, 1.0, 1.8], dtype=np.float32)
    geometry = Geometry(inverse_root=root, basis=np.zeros((0, 3), dtype=np.float32))
    direction = np.array([3.0, -3.0, 3.0])
    section = ServerSection(optimizer="adam", schedule="constant", learning_rate=1.0)
    moved = take_step(StepState.zero(3), Direction(direction, direction), section,
                      round_index=0, rounds=1, geometry=geometry)
    np.testing.assert_allclose(moved.values, [-0.2, 1.0, -1.8], rtol=1e-6)


def test_known_noise_is_taken_off_the_metric() -> None:
    grown = history(400, noise=2.0)
    clean = history(400)
    fisher = grown.squares - grown.noise
    np.testing.assert_allclose(fisher, clean.squares - 4.0)
    root = clean.geometry(GeometrySection(projection="history", damping=0.1))
    assert root is not None
    assert np.all(np.diff(root.inverse_root) < 0.0)  # steeper retain loss, smaller step
    assert float(np.mean(root.inverse_root**2)) == pytest.approx(1.0, abs=1e-6)
    drowned = history(5, noise=1e6)
    assert drowned.geometry(GeometrySection(projection="history")) is None


def test_whitened_sums_enter_the_history_raw() -> None:
    geometry = Geometry(inverse_root=np.array([2.0, 0.5], dtype=np.float32),
                        basis=np.zeros((0, 2), dtype=np.float32))
    grown = RetainHistory.empty(2).add(
        sums(np.zeros(2), np.array([4.0, 1.0]), noise=1.0), geometry, rank=2)
    np.testing.assert_allclose(grown.directions, [[2.0, 2.0]])
    np.testing.assert_allclose(grown.noise, [0.25, 4.0])


def test_history_keeps_the_last_rank_directions_and_drops_dependent_ones() -> None:
    assert history(9, rank=4).directions.shape == (4, SIZE)
    assert history(1).geometry(GeometrySection(projection="history")) is None
    rows = np.array([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    basis = orthonormal_rows(rows)
    np.testing.assert_allclose(np.abs(basis), [[1.0, 0.0, 0.0]], atol=1e-7)


def test_stop_rule_compares_smoothed_ends_and_ignores_noise() -> None:
    falling = [100.0, 100.0, 100.0, 60.0, 9.0, 10.0, 11.0]
    assert gap_closed(falling, noise=1.0, stop_gap=0.1)
    assert not gap_closed(falling, noise=1.0, stop_gap=0.05)
    assert not gap_closed(falling, noise=1.0, stop_gap=0.0)
    assert not gap_closed(falling, noise=100.0, stop_gap=0.1)
    assert not gap_closed([100.0, 100.0, 100.0, 1.0, 1.0], noise=1.0, stop_gap=0.1)


def two_modules() -> tuple[AdapterLayout, Support]:
    """B of 5 x 3 and 4 x 3; the support has rows 0, 2, 3 whole and row 4 in part, then 1, 2."""
    layout = AdapterLayout(
        names=("first", "second"), shapes=((5, 3), (4, 3)), a_shapes=((3, 2), (3, 2)),
        base_parameters=100, alpha=3.0, seed=0,
    )
    indices = np.array([0, 1, 2, 6, 7, 8, 9, 10, 11, 13, 18, 19, 20, 21, 22, 23])
    return layout, Support(indices=indices, layout_digest=layout.digest)


def test_whole_rows_are_found_by_module() -> None:
    layout, support = two_modules()
    first, second = whole_rows(layout, support)
    assert support.indices[first].tolist() == [[0, 1, 2], [6, 7, 8], [9, 10, 11]]
    assert support.indices[second].tolist() == [[18, 19, 20], [21, 22, 23]]


def test_truncation_keeps_a_gate_and_drops_most_of_the_noise() -> None:
    layout, support = two_modules()
    blocks = whole_rows(layout, support)
    generator = np.random.default_rng(0)
    gate = np.zeros(support.size)
    for block in blocks:
        gate[block] = np.outer(generator.normal(size=len(block)), [1.0, -2.0, 0.5])
    gate[9] = 7.0  # the row in part
    np.testing.assert_allclose(truncated(gate, blocks, rank=1), gate, atol=1e-12)
    noise = 0.05 * generator.normal(size=support.size)
    noise[9] = 0.0
    before = np.linalg.norm(noise)
    after = np.linalg.norm(truncated(gate + noise, blocks, rank=1) - gate)
    assert after < 0.9 * before
    assert np.linalg.matrix_rank(truncated(gate + noise, blocks, rank=1)[blocks[0]]) == 1


def test_a_constrained_step_lands_on_the_constraint() -> None:
    layout, support = two_modules()
    blocks = whole_rows(layout, support)
    direction = np.random.default_rng(3).normal(size=support.size)
    section = ServerSection(optimizer="sgd", schedule="constant", learning_rate=0.5)
    zero = StepState.zero(support.size)
    found = Direction(direction, direction)
    free = take_step(zero, found, section, round_index=0, rounds=1, geometry=None)
    bound = take_step(
        zero, found, section, round_index=0, rounds=1, geometry=None,
        constrain=lambda values: truncated(values, blocks, rank=1),
    )
    np.testing.assert_allclose(bound.values, truncated(free.values, blocks, rank=1))
    assert np.linalg.matrix_rank(free.values[blocks[0]]) == 3

"""Noise, sampling, clipping, accounting and the ledger: each guarantee with what would break it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from medunlearn_client.dp_optimizer import RingDPOptimizer
from medunlearn_client.noise import discrete_gaussian, poisson_sample
from medunlearn_common.accounting import Mechanism, calibrate, epsilon_of
from medunlearn_common.entropy import KeyStream, OsEntropy, SeededEntropy
from medunlearn_common.errors import BudgetExceeded, Rejected, Transient
from medunlearn_common.ledger import Budget, PrivacyLedger

DRAWS = 200_000


def stream(number: int = 0) -> KeyStream:
    return KeyStream(SeededEntropy(7).key("test", number))


def chi_square_p_value(draws: np.ndarray, sigma: float) -> float:
    """P-value of binned draws against the exact discrete Gaussian of width ``sigma``."""
    reach = int(8 * sigma) + 1
    mass = np.exp(-np.arange(-reach, reach + 1) ** 2 / (2 * sigma**2))
    cumulative = np.cumsum(mass / mass.sum())
    edges = np.searchsorted(cumulative, np.linspace(0.02, 0.98, 49)) - reach
    edges = np.unique(edges)
    below = cumulative[edges + reach]
    expected = np.diff([0.0, *below, 1.0]) * draws.size
    counts = np.diff([0, *(np.searchsorted(np.sort(draws), edges, side="right")), draws.size])
    return float(stats.chisquare(counts, expected).pvalue)


@pytest.mark.parametrize("sigma", [0.7, 3.0, 512.0, 29_309.3])
def test_noise_follows_the_discrete_gaussian_and_no_other_width(sigma: float) -> None:
    draws = discrete_gaussian(stream(), sigma_steps=sigma, count=DRAWS)
    assert chi_square_p_value(draws, sigma) > 1e-4
    assert chi_square_p_value(draws, 1.02 * sigma) < 1e-4
    assert chi_square_p_value(draws, 0.98 * sigma) < 1e-4


def test_zero_width_adds_nothing_and_silly_widths_are_refused() -> None:
    assert not discrete_gaussian(stream(), sigma_steps=0.0, count=9).any()
    for width in (-1.0, float("nan"), 2.0**21):
        with pytest.raises(ValueError, match="sigma_steps"):
            discrete_gaussian(stream(), sigma_steps=width, count=1)


def test_noise_differs_between_purposes_and_repeats_for_one() -> None:
    def draw(*purpose: str) -> list[int]:
        key = SeededEntropy(1).key(*purpose)
        return discrete_gaussian(KeyStream(key), sigma_steps=100.0, count=20).tolist()

    assert draw("site-0", "round-1") == draw("site-0", "round-1")
    assert draw("site-0", "round-1") != draw("site-0", "round-2")
    assert draw("a", "bc") != draw("ab", "c")


def test_os_entropy_never_repeats_and_seeds_are_not_shown() -> None:
    assert OsEntropy().key("x") != OsEntropy().key("x")
    assert "7" not in repr(SeededEntropy(7))


def test_poisson_sampling_is_independent_at_its_rate() -> None:
    sizes = [poisson_sample(stream(i), population=400, rate=0.2).size for i in range(500)]
    assert abs(np.mean(sizes) - 80.0) < 1.5
    # A fixed-size sample has no variance; a Poisson sample has 400 * 0.2 * 0.8 = 64.
    assert 48.0 < np.var(sizes) < 82.0
    assert poisson_sample(stream(), population=50, rate=1.0).size == 50
    assert poisson_sample(stream(), population=0, rate=0.5).size == 0


def noiseless_sum(rows: np.ndarray, clip: float) -> np.ndarray:
    parameter = torch.nn.Parameter(torch.zeros(rows.shape[1], dtype=torch.float64))
    optimizer = RingDPOptimizer(
        parameter, noise_multiplier=0.0, clip_steps=clip, noise_steps=0.0, stream=stream()
    )
    parameter.grad_sample = torch.from_numpy(rows)  # type: ignore[attr-defined]
    optimizer.step()
    assert parameter.grad is not None
    return parameter.grad.numpy()


def test_one_unit_moves_the_sum_by_at_most_the_clip() -> None:
    rows = np.random.default_rng(0).standard_normal((40, 300)) * 1e6
    whole = noiseless_sum(rows, clip=5000.0)
    for left_out in range(0, 40, 7):
        rest = noiseless_sum(np.delete(rows, left_out, axis=0), clip=5000.0)
        assert np.linalg.norm(whole - rest) <= 5000.0 + np.sqrt(300) / 2
        assert np.linalg.norm(whole - rest) > 4900.0


def test_small_gradients_pass_unclipped_and_sums_are_whole_steps() -> None:
    rows = np.random.default_rng(1).standard_normal((8, 30)) * 40.0
    assert noiseless_sum(rows, clip=1e9).tolist() == np.round(rows).sum(axis=0).tolist()


def test_noise_of_the_optimizer_has_the_width_it_claims() -> None:
    parameter = torch.nn.Parameter(torch.zeros(DRAWS, dtype=torch.float64))
    optimizer = RingDPOptimizer(
        parameter, noise_multiplier=2.0, clip_steps=10.0, noise_steps=300.0, stream=stream(3)
    )
    parameter.grad_sample = torch.zeros(0, DRAWS, dtype=torch.float64)  # type: ignore[attr-defined]
    optimizer.step()
    assert parameter.grad is not None
    assert chi_square_p_value(parameter.grad.numpy().astype(np.int64), 300.0) > 1e-4


@pytest.mark.parametrize(("rounds", "rate", "vote"), [(40, 1.0, 0.1), (30, 0.3, 0.0)])
def test_calibrated_noise_spends_the_budget_and_a_second_accountant_agrees(
    rounds: int, rate: float, vote: float
) -> None:
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    schedule = calibrate(
        epsilon=4.0, delta=1e-5, rounds=rounds, forget_rate=rate, retain_rate=0.1,
        vote_share=vote,
    )
    assert 3.95 < schedule.epsilon <= 4.0
    second = PLDAccountant()
    for m in schedule.mechanisms:
        gaussian = dp_accounting.GaussianDpEvent(m.sigma)
        second.compose(dp_accounting.PoissonSampledDpEvent(m.forget_rate, gaussian), m.count)
    assert abs(second.get_epsilon(1e-5) - schedule.epsilon) < 0.05


def test_the_dearer_track_counts() -> None:
    cheap = Mechanism(sigma=2.0, forget_rate=0.1, retain_rate=0.1, count=10)
    dear = Mechanism(sigma=2.0, forget_rate=0.1, retain_rate=0.5, count=10)
    assert epsilon_of((dear,), delta=1e-5) > 2.0 * epsilon_of((cheap,), delta=1e-5)


def release(ledger: PrivacyLedger, name: str, *, request: str = "r", sigma: float = 1.0) -> None:
    ledger.charge(
        run_id="run", release=name, request_digest=request,
        mechanism=Mechanism(sigma=sigma, forget_rate=1.0, retain_rate=1.0, count=1),
        budget=Budget(epsilon=8.0, delta=1e-5),
    )


def test_ledger_refuses_the_release_that_would_exceed_the_budget(tmp_path: Path) -> None:
    ledger = PrivacyLedger(tmp_path / "ledger.db")
    with pytest.raises(BudgetExceeded, match="PRIVACY_BUDGET"):
        for number in range(100):
            release(ledger, f"round-{number}")
    spent = ledger.epsilon(run_id="run", delta=1e-5)
    assert 4.0 < spent <= 8.0
    count = ledger.releases(run_id="run")
    with pytest.raises(BudgetExceeded):
        release(ledger, "one-more")
    assert ledger.releases(run_id="run") == count


def test_ledger_charges_a_repeated_request_once_and_refuses_a_changed_one(
    tmp_path: Path,
) -> None:
    ledger = PrivacyLedger(tmp_path / "ledger.db")
    release(ledger, "round-0")
    release(ledger, "round-0")
    assert ledger.releases(run_id="run") == 1
    with pytest.raises(Rejected, match="REQUEST_CHANGED"):
        release(ledger, "round-0", request="another adapter")
    ledger.remember_answer(run_id="run", release="round-0", answer=b"bytes")
    reopened = PrivacyLedger(tmp_path / "ledger.db")
    same = reopened.answer_given(run_id="run", release="round-0", request_digest="r")
    assert same == b"bytes"
    with pytest.raises(Rejected, match="REQUEST_CHANGED"):
        reopened.answer_given(run_id="run", release="round-0", request_digest="other")


def test_a_damaged_ledger_stops_releases(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    release(PrivacyLedger(path), "round-0")
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(Transient, match="LEDGER_UNAVAILABLE"):
        PrivacyLedger(path)


def test_a_charge_is_on_disk_before_charge_returns(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    release(PrivacyLedger(path), "round-0")
    with closing(sqlite3.connect(path)) as other_process:
        assert other_process.execute("SELECT COUNT(*) FROM releases").fetchone() == (1,)

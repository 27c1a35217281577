"""The noise sampler: its probabilities one by one, its tails, and what it takes from the stream."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal, localcontext
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from medunlearn_client import noise
from medunlearn_client.noise import MAX_SIGMA_STEPS, TAIL_MASS, discrete_gaussian
from medunlearn_common.entropy import KeyStream, SeededEntropy
from medunlearn_common.ring import NOISE_STEPS, noise_reach

DRAWS = 200_000
EXTENDED = np.finfo(np.longdouble).nmant >= 63
WORD = 1 << 64


def stream(number: int = 0) -> KeyStream:
    return KeyStream(SeededEntropy(7).key("test", number))


class Words(KeyStream):
    """A stream that gives one word over and over."""

    def __init__(self, word: int) -> None:
        self._word = word

    def words(self, count: int) -> np.ndarray:
        return np.full(count, self._word, dtype=np.uint64)


def ideal(sigma: float) -> list[Decimal]:
    """P(X = 0), P(X = 1), ... P(X = 12 sigma) to 50 digits."""
    width = Decimal(sigma)
    mass = [(-Decimal(x * x) / (2 * width * width)).exp() for x in range(noise_reach(sigma) + 1)]
    whole = mass[0] + 2 * sum(mass[1:])
    return [one / whole for one in mass]


def sampled(sigma: float) -> Iterator[tuple[int, Decimal]]:
    """Each value with the probability that the tables give it."""
    tables = noise._tables(sigma)
    edges = [0, *map(int, tables.thresholds), WORD]
    shares = [Decimal(b - a) / WORD for a, b in pairwise(edges)]
    yield from enumerate(shares[1:-1], start=1 - tables.nearest)
    for sign, share in ((-1, shares[0]), (1, shares[-1])):
        for tail in tables.tails:
            edges = [*map(int, tail.thresholds), WORD]
            for place, (a, b) in enumerate(pairwise(edges)):
                yield sign * (tail.farthest - place), share * Decimal(b - a) / WORD
            share *= Decimal(edges[0]) / WORD
        assert share == 0


@pytest.mark.parametrize("sigma", [16.0, 16.3, 200.0, 2048 / 5**0.5])
def test_every_probability_is_the_discrete_gaussians_to_the_last_value(sigma: float) -> None:
    """Privacy is about ratios: a tail that is a little too heavy on one side is a leak."""
    with localcontext(prec=60):
        expected = ideal(sigma)
        found = dict(sampled(sigma))
        assert sorted(found) == list(range(1 - len(expected), len(expected)))
        assert abs(sum(found.values()) - 1) < Decimal(2) ** -180
        worst = max(abs(share / expected[abs(value)] - 1) for value, share in found.items())
        assert worst < Decimal(2) ** (-40 if EXTENDED else -29)
        assert all(share == found[-value] for value, share in found.items())


def test_at_the_width_in_use_the_ratio_of_neighbours_is_the_gaussians() -> None:
    """P(x + 1) / P(x) = exp(-(2 x + 1) / (2 sigma^2)): no sum over a million values is needed."""
    sigma, places = float(NOISE_STEPS), (0, 1, 70_000, 273_000, 280_000, 500_000, 786_000)
    with localcontext(prec=60):
        found = dict(sampled(sigma))
        for x in places:
            ratio = found[x + 1] / found[x]
            ideal_ratio = (-Decimal(2 * x + 1) / (2 * Decimal(sigma) ** 2)).exp()
            assert abs(ratio / ideal_ratio - 1) < Decimal(2) ** (-32 if EXTENDED else -21), x


def test_draws_follow_the_distribution_in_the_middle_and_in_the_tails() -> None:
    sigma = 3000.0
    drawn = discrete_gaussian(stream(), sigma_steps=sigma, count=DRAWS)
    assert p_value(drawn, sigma, -np.inf, np.inf) > 1e-3
    tables = noise._tables(sigma)
    far = noise._magnitudes(stream(1), tables.tails, DRAWS)
    assert far.min() == tables.nearest and (far > tables.tails[1].nearest).any()
    assert p_value(far, sigma, tables.nearest - 0.5, np.inf) > 1e-3


def p_value(draws: np.ndarray, sigma: float, low: float, high: float) -> float:
    """Chi-square of 50 equally likely bins of the normal distribution between two borders."""
    normal = stats.truncnorm(low / sigma, high / sigma, scale=sigma)
    counts = np.histogram(normal.cdf(draws + 0.0), bins=50, range=(0.0, 1.0))[0]
    return float(stats.chisquare(counts).pvalue)


@pytest.mark.parametrize("sigma", [1e-300, 0.1, 0.9, 1.0, 16.0, 2048.0, float(NOISE_STEPS)])
def test_the_rarest_words_give_the_farthest_values_on_both_sides(sigma: float) -> None:
    last, first = WORD - 1, 0
    assert abs(discrete_gaussian(Words(last), sigma_steps=sigma, count=1)[0]) <= noise_reach(sigma)
    if sigma >= 16.0:
        below = discrete_gaussian(Words(first), sigma_steps=sigma, count=3)
        assert below.tolist() == [-noise_reach(sigma)] * 3
    middle = discrete_gaussian(Words(WORD // 2), sigma_steps=sigma, count=1)
    assert middle[0] == 0


def test_few_values_need_further_words() -> None:
    """A run's noise is the same, but for a value in 2^15, whatever the tails are made of."""
    one, other = stream(), stream()
    drawn = discrete_gaussian(one, sigma_steps=2048.0, count=DRAWS)
    other.words(DRAWS)
    further = (np.abs(drawn) >= noise._tables(2048.0).nearest).sum()
    assert 0 < further < 4 * TAIL_MASS * DRAWS
    other.words(int(further))
    np.testing.assert_array_equal(one.words(4), other.words(4))


def test_no_noise_and_no_draws_take_nothing() -> None:
    one = stream()
    assert not discrete_gaussian(one, sigma_steps=0.0, count=5).any()
    assert discrete_gaussian(one, sigma_steps=2.0, count=0).size == 0
    np.testing.assert_array_equal(one.words(2), stream().words(2))


@pytest.mark.parametrize("sigma", [-1.0, float("nan"), float("inf"), MAX_SIGMA_STEPS + 1.0])
def test_impossible_widths_are_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma_steps"):
        discrete_gaussian(stream(), sigma_steps=sigma, count=1)

"""Discrete Gaussian noise and Poisson sampling from a cryptographic keystream.

The noise is an integer number of ring steps, so no floating-point representation can leak
through its low bits. A table inverts the cumulative distribution with a 64-bit word. What a
table of 64 bits cannot hold are the tails: beyond 8 sigma a value at noise 2^16 steps wide is rarer
than 2^-63, and privacy is a statement about ratios. So the table ends where 2^-16 of the mass
is left on each side, and a draw that falls there is made anew from a table of that tail alone,
which ends in the same way.

Guarantees:
    At widths from 16 to 2^16 steps each value's probability is within a factor 1 ± 2^-33 of the
    discrete Gaussian's (to 2^20 steps: 1 ± 2^-29); what lies beyond 12 sigma, 2^-107 of the mass,
    is cut off. So n draws add at most 2^-32 n to epsilon: 0.003 for twelve million. This
    needs a long double with 64 bits of mantissa (x86-64); an ordinary double has 11 bits less.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from medunlearn_common.entropy import KeyStream
from medunlearn_common.ring import StepVector, noise_reach

MAX_SIGMA_STEPS = 1 << 20
TAIL_MASS: Final = 2.0**-16
"""Share of a table's mass at which the next one takes over."""

_WORD: Final = np.longdouble(2) ** 64
_Words = npt.NDArray[np.uint64]


class _Tail(NamedTuple):
    """Magnitudes from ``nearest`` to ``farthest``, by the mass that lies beyond them.

    ``thresholds[0]`` is what lies beyond ``farthest`` and belongs to the next table.
    """

    nearest: int
    farthest: int
    thresholds: _Words


class _Tables(NamedTuple):
    """Values from -nearest + 1 to nearest - 1, and the tails from there on."""

    thresholds: _Words
    nearest: int
    tails: tuple[_Tail, ...]


@lru_cache(maxsize=8)
def _tables(sigma_steps: float) -> _Tables:
    reach = noise_reach(sigma_steps)
    magnitudes = np.arange(reach + 1, dtype=np.longdouble)
    mass = np.exp(-(magnitudes**2) / (2 * np.longdouble(sigma_steps) ** 2))
    # beyond[x] = mass of magnitudes >= x on one side, summed from the rare to the common.
    beyond = np.append(np.cumsum(mass[::-1])[::-1], np.longdouble(0))
    whole = mass[0] + 2 * beyond[1]
    nearest = _end(beyond, 1, whole)
    # P(X <= -nearest), ..., P(X <= -1); at widths below 1 the first may be less than a word.
    below = np.maximum(_words(beyond[nearest:0:-1] / whole), np.uint64(1))
    above = ~below[::-1] + np.uint64(1)  # By symmetry: P(X <= 0), ..., P(X <= nearest - 1)
    return _Tables(np.concatenate([below, above]), nearest, tuple(_tails(beyond, nearest)))


def _tails(beyond: npt.NDArray[np.longdouble], nearest: int) -> Iterator[_Tail]:
    while beyond[nearest] > 0:  # Far below a width of 1 the last ones underflow.
        end = _end(beyond, nearest + 1, beyond[nearest])
        yield _Tail(nearest, end - 1, _words(beyond[end:nearest:-1] / beyond[nearest]))
        nearest = end


def _end(beyond: npt.NDArray[np.longdouble], first: int, whole: np.longdouble) -> int:
    """The least magnitude, from ``first``, beyond which so little of ``whole`` is left."""
    left = np.flatnonzero(beyond[first:-1] <= np.longdouble(TAIL_MASS) * whole)
    return first + int(left[0]) if left.size else beyond.size - 1


def _words(shares: npt.NDArray[np.longdouble]) -> _Words:
    words: _Words = np.floor(shares * _WORD).astype(np.uint64)
    return words


def discrete_gaussian(stream: KeyStream, *, sigma_steps: float, count: int) -> StepVector:
    """Draw ``count`` integers with P(x) proportional to exp(-x^2 / (2 sigma_steps^2)).

    Args:
        stream: Keystream; ``count`` words are taken from it, and as many more as values lie in
            the tails.
        sigma_steps: Width in ring steps; 0 gives zeros.
        count: Number of draws.

    Returns:
        int64, shape ``(count,)``, none longer than :func:`~medunlearn_common.ring.noise_reach`.

    Raises:
        ValueError: If the width is negative, not finite or above 2^20 steps.
    """
    if not 0.0 <= sigma_steps <= MAX_SIGMA_STEPS:
        raise ValueError(f"sigma_steps must be in [0, {MAX_SIGMA_STEPS}], got {sigma_steps}")
    if sigma_steps == 0.0:
        return np.zeros(count, dtype=np.int64)
    tables = _tables(sigma_steps)
    found = np.searchsorted(tables.thresholds, stream.words(count), side="right")
    values = found.astype(np.int64) - tables.nearest
    outside = np.flatnonzero(np.abs(values) == tables.nearest)
    values[outside] = np.sign(values[outside]) * _magnitudes(stream, tables.tails, outside.size)
    return values


def _magnitudes(stream: KeyStream, tails: tuple[_Tail, ...], count: int) -> StepVector:
    """Draw from the tail: of most values the first table says the magnitude."""
    drawn = np.zeros(count, dtype=np.int64)
    open_places = np.arange(count)
    for tail in tails:
        words = stream.words(open_places.size)
        found = np.searchsorted(tail.thresholds, words, side="right").astype(np.int64)
        drawn[open_places] = tail.farthest + 1 - found
        open_places = open_places[found == 0]
    return drawn


def poisson_sample(stream: KeyStream, *, population: int, rate: float) -> npt.NDArray[np.int64]:
    """Include each of ``population`` units independently with probability ``rate``.

    Returns:
        Sorted indices of the units drawn; often none in a small population.
    """
    return np.flatnonzero(stream.uniforms(population) < rate)

"""Discrete Gaussian noise and Poisson sampling from a cryptographic keystream.

The noise is an integer number of ring steps, so no floating-point representation can leak
through its low bits. A table sampler inverts the cumulative distribution at 64-bit
precision: exact up to a total variation distance of about 2^-60 where numpy's long double
has 64 bits of mantissa (x86-64), and about 2^-48 where it is an ordinary double.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from medunlearn_common.entropy import KeyStream
from medunlearn_common.ring import StepVector, noise_reach

MAX_SIGMA_STEPS = 1 << 20


@lru_cache(maxsize=8)
def _cumulative_table(sigma_steps: float) -> npt.NDArray[np.uint64]:
    """Thresholds t with P(X <= x) = t[x + m] / 2^64 for x = -m ... m - 1."""
    reach = noise_reach(sigma_steps)
    positions = np.arange(-reach, reach + 1, dtype=np.longdouble)
    mass = np.exp(-(positions**2) / (2 * np.longdouble(sigma_steps) ** 2))
    cumulative = np.cumsum(mass / mass.sum())[:-1]
    # Rounding may carry the last entries to 1, which has no 64-bit code.
    top = np.longdouble(2) ** 64
    scaled = np.minimum(np.floor(cumulative * top), top - 2048)
    return np.maximum.accumulate(scaled.astype(np.uint64))


def discrete_gaussian(stream: KeyStream, *, sigma_steps: float, count: int) -> StepVector:
    """Draw ``count`` integers with P(x) proportional to exp(-x^2 / (2 sigma_steps^2)).

    Args:
        stream: Keystream that no other draw uses.
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
    table = _cumulative_table(sigma_steps)
    reach = table.size // 2
    return np.searchsorted(table, stream.words(count), side="right").astype(np.int64) - reach


def poisson_sample(stream: KeyStream, *, population: int, rate: float) -> npt.NDArray[np.int64]:
    """Include each of ``population`` units independently with probability ``rate``.

    Returns:
        Sorted indices of the units drawn; often none in a small population.
    """
    return np.flatnonzero(stream.uniforms(population) < rate)

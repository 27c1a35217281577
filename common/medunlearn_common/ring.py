"""The ring Z_2^32 in which updates travel, so that masks cancel and sums are exact.

A real vector is scaled to integer steps, noised in steps, clamped and taken modulo 2^32.
The clamp leaves head-room for ``n`` summands, so the sum of all sites never wraps
(decision 1).

The noise of the whole sum is ``NOISE_STEPS`` steps wide. Each record's clipped gradient is
itself rounded to whole steps before it is summed; with k coordinates that rounding moves it
by at most sqrt(k)/2 steps, for which the clip is tightened beforehand
(:func:`clip_steps`). At 2^16 steps this costs under 1 % of the clip for k = 5,000 and
sigma = 8; at the coarser 2^9 it would cost half of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medunlearn_common.errors import Rejected

RING_BITS = 32
NOISE_STEPS = 1 << 16
NOISELESS_CLIP_STEPS = 1 << 20
MAX_CLAMPED_FRACTION = 0.01

RingVector = npt.NDArray[np.uint32]
StepVector = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class RingCodec:
    """Translate between real vectors, integer steps and ring elements.

    Attributes:
        step: Real value of one integer step (gradient units).
        max_sites: Most summands the ring must hold without wrapping.
    """

    step: float
    max_sites: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.step) and self.step > 0.0) or self.max_sites < 1:
            raise ValueError(f"step {self.step} and max_sites {self.max_sites} must be positive")

    @classmethod
    def for_mechanism(cls, *, clip_l2: float, sigma: float, max_sites: int) -> RingCodec:
        """Choose the step so that the summed noise sigma * clip is ``NOISE_STEPS`` wide.

        Without noise (sigma = 0) the clip is ``NOISELESS_CLIP_STEPS`` wide.
        """
        if sigma > 0.0:
            return cls(step=sigma * clip_l2 / NOISE_STEPS, max_sites=max_sites)
        return cls(step=clip_l2 / NOISELESS_CLIP_STEPS, max_sites=max_sites)

    @property
    def clamp_steps(self) -> int:
        """Largest magnitude one site may send: floor(2^31 / n) - 1."""
        return (1 << (RING_BITS - 1)) // self.max_sites - 1

    def to_ring(self, steps: StepVector) -> RingVector:
        """Clamp integer steps and take them modulo 2^32.

        Args:
            steps: Shape ``(k,)``, the noised sum of one site.

        Raises:
            Rejected: If more than 1 % of the values had to be clamped: the clip is then
                not what the plan says, and the sum would be wrong.
        """
        limit = self.clamp_steps
        clamped = int(np.count_nonzero(np.abs(steps) > limit))
        if clamped > MAX_CLAMPED_FRACTION * steps.size:
            raise Rejected(
                "RING_CLAMPED",
                f"{clamped} of {steps.size} values exceed the ring's head-room",
                "use fewer sites per sum or a smaller sampling rate",
            )
        return np.clip(steps, -limit, limit).astype(np.int64).astype(np.uint32)

    def from_ring(self, ring: RingVector) -> npt.NDArray[np.float64]:
        """Read a ring vector (of one site or of a sum) as signed reals, shape ``(k,)``."""
        return ring.view(np.int32).astype(np.float64) * self.step


def clip_steps(codec: RingCodec, *, clip_l2: float, dimension: int) -> float:
    """Clip norm in steps such that a rounded vector never exceeds ``clip_l2``.

    Guarantees:
        ``||round(v)|| <= ||v|| + sqrt(dimension) / 2``, so a vector clipped to the value
        returned has, once rounded, an L2 norm of at most ``clip_l2 / codec.step`` steps.

    Raises:
        Rejected: If the rounding alone would use more than half of the clip.
    """
    full = clip_l2 / codec.step
    rounding = math.sqrt(dimension) / 2.0
    if rounding > 0.5 * full:
        raise Rejected(
            "RING_TOO_COARSE",
            f"rounding {dimension} coordinates would use {rounding / full:.0%} of the clip",
            "use a smaller support or less noise",
        )
    return full - rounding

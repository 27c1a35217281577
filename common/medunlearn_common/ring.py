"""The ring Z_2^32 in which updates travel, so that masks cancel and sums are exact.

A real vector is scaled to integer steps, clamped, noised in steps and taken modulo 2^32.
The clamp leaves head-room for the noise and for ``n`` summands, so the sum of all sites never
wraps (decision 1). It comes before the noise: what is clamped after it has lost it.

The noise of the whole sum is ``NOISE_STEPS`` steps wide. Each record's clipped gradient is
itself rounded to whole steps before it is summed; with k coordinates that rounding moves it
by at most sqrt(k)/2 steps, for which the clip is tightened beforehand
(:func:`clip_steps`). At 2^16 steps this costs under 1 % of the clip for k = 5,000 and
sigma = 8; at the coarser 2^9 it would cost half of it.

With 16 bits to a coordinate two of them share a word (decision 21). Records are still summed
in the fine steps; the site's sum is then rounded, under a random dither, to steps
``COARSENING`` times as wide (:func:`coarsened`), noised in those and packed.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medunlearn_common.errors import Rejected

_LOG = logging.getLogger("medunlearn.hospital")

RING_BITS = 32
NOISE_STEPS = 1 << 16
NOISELESS_CLIP_STEPS = 1 << 20
MAX_CLAMPED_FRACTION = 0.01
# No noise is longer than so many of its standard deviations: beyond, less than 2^-100 of the mass
# is left.
NOISE_TAIL = 12.0
# Of 16 bits: the noise of the guaranteed sites' sum is 2^11 coarse steps wide, a sum of 16 times
# that still fits, and a unit's rounding stays small against its clip.
COARSENING = 1 << 5
_LANE_BITS = 16
# How improbable it is, per release, that a unit's rounding exceeds what the clip leaves for it.
ROUNDING_FAILURE = 2.0**-60

RingVector = npt.NDArray[np.uint32]
StepVector = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class RingCodec:
    """Translate between real vectors, integer steps and ring words.

    Attributes:
        step: Real value of one of the steps in which records are summed (gradient units).
        max_sites: Most summands that 32-bit coordinates must hold without wrapping.
        bits: Of one coordinate on the wire, 32 or 16.
    """

    step: float
    max_sites: int
    bits: int = RING_BITS

    def __post_init__(self) -> None:
        if not (math.isfinite(self.step) and self.step > 0.0) or self.max_sites < 1:
            raise ValueError(f"step {self.step} and max_sites {self.max_sites} must be positive")
        if self.bits not in (RING_BITS, _LANE_BITS):
            raise ValueError(f"a coordinate has {RING_BITS} or {_LANE_BITS} bits, not {self.bits}")

    @classmethod
    def for_mechanism(
        cls, *, clip_l2: float, sigma: float, max_sites: int, bits: int = RING_BITS
    ) -> RingCodec:
        """Choose the step so that the summed noise sigma * clip is ``NOISE_STEPS`` wide.

        Without noise (sigma = 0) the clip is ``NOISELESS_CLIP_STEPS`` wide.

        Raises:
            ValueError: If 16 bits are asked for without noise.
        """
        if sigma > 0.0:
            return cls(step=sigma * clip_l2 / NOISE_STEPS, max_sites=max_sites, bits=bits)
        if bits != RING_BITS:
            raise ValueError("without noise nothing says how wide a 16-bit step may be")
        return cls(step=clip_l2 / NOISELESS_CLIP_STEPS, max_sites=max_sites)

    @property
    def coarsening(self) -> int:
        """Steps of the records' sums in one step on the wire."""
        return 1 if self.bits == RING_BITS else COARSENING

    @property
    def wire_step(self) -> float:
        """Real value of one step on the wire."""
        return self.step * self.coarsening

    @property
    def clamp_steps(self) -> int:
        """Largest magnitude one site may send, in steps on the wire.

        With 32 bits floor(2^31 / n) - 1, so that n sites never wrap. With 16 bits 2^15 - 1:
        there is no room to set aside for each site, and a sum beyond 16 standard deviations
        of the noise of the guaranteed sites wraps.
        """
        if self.bits == RING_BITS:
            return (1 << (RING_BITS - 1)) // self.max_sites - 1
        return (1 << (_LANE_BITS - 1)) - 1

    def sum_limit(self, noise_steps: float) -> int:
        """Largest magnitude of one site's sum *before* noise of this width, in wire steps."""
        return max(0, self.clamp_steps - noise_reach(noise_steps))

    def within(self, sums: StepVector, *, noise_steps: float) -> StepVector:
        """Clamp a private sum so that its noise, whatever is drawn, still fits the ring.

        Args:
            sums: Shape ``(k,)``, of one site, in steps on the wire, without noise.
            noise_steps: Standard deviation of the noise that will be added, likewise.

        Returns:
            int64, shape ``(k,)``.

        Guarantees:
            * The noise is added whole, however long the sum is. Where several sites share the
              noise of one sum, a share that is clamped away is missing in it: a coordinator that
              drives large hospitals against the ring's end would read a small one's vector under
              that one's own share alone.
            * No unit moves the clamped sum farther, in any coordinate, than the sum itself.
        """
        limit = self.sum_limit(noise_steps)
        _warn_of_clamped(int(np.count_nonzero(np.abs(sums) > limit)), sums.size)
        return np.clip(sums, -limit, limit)

    def words(self, count: int) -> int:
        """Ring words that ``count`` coordinates take."""
        return ring_words(count, bits=self.bits)

    def to_ring(self, steps: StepVector, *, private: bool = False) -> RingVector:
        """Clamp integer steps of the wire, pack them and take them modulo 2^32.

        With 16 bits coordinates i (low) and i + 1 (high) make one word ``low + 2^16 high``. Sums
        of words hold the sums of both, as long as those of the low ones fit 16 bits.

        Args:
            steps: Shape ``(k,)``, the sum of one site; a private one :meth:`within` the ring, and
                noised. Only several such sums together, under noise that is whole at each site,
                may still have to be clamped here.
            private: The sum is of records and under noise.

        Returns:
            uint32, shape ``(words(k),)``.

        Guarantees:
            What is private is answered whatever it is. A refusal would tell how long the sum of
            this one site is, under this site's share of the noise alone; and as nothing was
            answered, the coordinator could ask again, for fresh noise, as often as it is refused.

        Raises:
            Rejected: RING_CLAMPED if more than 1 % of the values had to be clamped and nothing is
                private: the clip is then not what the plan says, and the sum would be wrong.
        """
        limit = self.clamp_steps
        clamped = int(np.count_nonzero(np.abs(steps) > limit))
        if not private and clamped > MAX_CLAMPED_FRACTION * steps.size:
            raise Rejected(
                "RING_CLAMPED",
                f"{clamped} of {steps.size} values exceed the ring's head-room",
                "use fewer sites per sum or a smaller sampling rate",
            )
        _warn_of_clamped(clamped, steps.size)
        fitting = np.clip(steps, -limit, limit).astype(np.int64)
        if self.bits != RING_BITS:
            pairs = np.zeros(2 * self.words(steps.size), dtype=np.int64)
            pairs[: steps.size] = fitting
            fitting = pairs[0::2] + (pairs[1::2] << _LANE_BITS)
        return fitting.astype(np.uint32)

    def from_ring(self, ring: RingVector, count: int | None = None) -> npt.NDArray[np.float64]:
        """Read a ring vector (of one site or of a sum) as signed reals.

        Args:
            ring: uint32, shape ``(words(count),)``.
            count: Coordinates in it; None takes all that there is room for.

        Returns:
            Shape ``(count,)``, gradient units.
        """
        signed = ring.view(np.int32)
        if self.bits != RING_BITS:
            low = ring.astype(np.uint16).view(np.int16)
            # What the low coordinates borrowed from the high ones is given back first.
            high = ((ring - low.astype(np.uint32)) >> np.uint32(_LANE_BITS)).astype(np.uint16)
            signed = np.stack([low, high.view(np.int16)], axis=1).reshape(-1).astype(np.int32)
        return signed[:count].astype(np.float64) * self.wire_step


def noise_reach(noise_steps: float) -> int:
    """Largest magnitude of a draw of noise that is ``noise_steps`` wide, in the same steps."""
    return max(1, math.ceil(NOISE_TAIL * noise_steps))


def _warn_of_clamped(clamped: int, size: int) -> None:
    """In the site's own log alone: the coordinator sees a sum like any other."""
    if clamped > MAX_CLAMPED_FRACTION * size:
        _LOG.warning(
            "%d of %d values exceed the ring's head-room and were clamped: the sum is wrong; "
            "the plan needs fewer sites per sum, a smaller sampling rate or [wire] "
            "update_bits = 32", clamped, size,
        )


def ring_words(count: int, *, bits: int) -> int:
    """Ring words that ``count`` coordinates of 32 or 16 bits take."""
    return count if bits == RING_BITS else (count + 1) // 2


def clip_steps(codec: RingCodec, *, clip_l2: float, dimension: int) -> float:
    """Clip norm in steps such that a rounded vector never exceeds ``clip_l2``.

    Guarantees:
        ``||round(v)|| <= ||v|| + sqrt(dimension) / 2``, so a vector clipped to the value
        returned has, once rounded, an L2 norm of at most ``clip_l2 / codec.step`` steps.
        Where the sum is coarsened, what it moves by then is that short with a probability of
        at least 1 - ``ROUNDING_FAILURE``, over the dither.

    Raises:
        Rejected: RING_TOO_COARSE if the rounding would use more than half of the clip.
    """
    full = clip_l2 / codec.step
    left = full if codec.coarsening == 1 else codec.coarsening * _before_dither(
        full / codec.coarsening, dimension
    )
    left -= math.sqrt(dimension) / 2.0
    if left < 0.5 * full:
        raise Rejected(
            "RING_TOO_COARSE",
            f"rounding {dimension} coordinates would use {1.0 - max(left, 0.0) / full:.0%} of the "
            "clip",
            "use a smaller support or less noise"
            + ("" if codec.coarsening == 1 else ", or set [wire] update_bits = 32"),
        )
    return left


def _before_dither(full: float, dimension: int) -> float:
    """Longest v, in coarse steps, that a dithered rounding leaves within ``full``.

    A unit that adds v to a sum moves its rounding by D, with D_i = floor(v_i) or one more and
    E D = v (:func:`coarsened`). So E ||D||^2 <= ||v||^2 + d / 4; the summands D_i^2 are independent
    and each lies in an interval of length at most 2 |v_i| + 1, so by Hoeffding's inequality
    ||D||^2 exceeds its mean by (2 ||v|| + sqrt(d)) sqrt(ln(1 / p) / 2) with probability at most p.
    """
    room = math.sqrt(-math.log(ROUNDING_FAILURE) / 2.0)
    # The largest root of v^2 + d / 4 + (2 v + sqrt(d)) room = full^2.
    under_root = room**2 + full**2 - dimension / 4.0 - math.sqrt(dimension) * room
    return math.sqrt(under_root) - room if under_root > room**2 else 0.0


def coarsened(
    steps: npt.NDArray[np.int64], dither: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Round a sum to ``COARSENING`` steps at a time, unbiased over the dither.

    Args:
        steps: Shape ``(k,)``, a sum of clipped and rounded records.
        dither: Shape ``(k,)``, uniform on 0 ... ``COARSENING`` - 1 and independent of every record.

    Returns:
        ``floor((steps + dither) / COARSENING)``, shape ``(k,)``.

    Guarantees:
        For whatever sum is there, adding v to it moves the result, coordinate by coordinate,
        by floor(v / COARSENING) or one more, with mean v / COARSENING: the distribution does not
        depend on the other summands.
    """
    return (steps + dither) // COARSENING

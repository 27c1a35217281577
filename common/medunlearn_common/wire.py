"""How a round's update lies in its ring words: one sum or two, 32 or 16 bits to a coordinate.

Both sides read it off the plan (decision 21), so nothing of it is said in a message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from medunlearn_common.plan import RunPlan
from medunlearn_common.ring import RingCodec, ring_words

# Adapter values on their way to a hospital, by [wire] value_bits. Half a float's relative
# rounding, 2^-11, is far below what the noise of one round does to a value.
VALUE_DTYPES: Mapping[int, np.dtype[np.floating]] = {
    32: np.dtype("<f4"), 16: np.dtype("<f2"),
}


def update_codec(plan: RunPlan, *, sigma: float) -> RingCodec:
    """The ring codec of the update rounds, the same at every party."""
    return RingCodec.for_mechanism(
        clip_l2=plan.privacy.clip_l2, sigma=sigma, max_sites=plan.federation.sites,
        bits=plan.wire.update_bits,
    )


@dataclass(frozen=True, kw_only=True)
class UpdateForm:
    """The layout of an update.

    Two sums: ``[forget gradients, gap] [retain gradients, loss]``. One sum: ``[gradients, forget
    gap, retain loss]``, each unit's vector multiplied by its set's share before it is added.

    Attributes:
        size: k, coordinates of the support.
        sums: 2 with forget and retain units apart, 1 with both in one.
        forget_share: What a forget unit's clipped vector is multiplied by, in (0, 1].
        retain_share: The same of a retain unit's; with the other in the ratio of
            ``[server] retain_weight``.
        bits: Of one coordinate, 32 or 16.
    """

    size: int
    sums: int
    forget_share: float
    retain_share: float
    bits: int

    @classmethod
    def of(cls, plan: RunPlan, *, size: int) -> Self:
        """The form that a plan gives to updates on a support of ``size`` coordinates."""
        weight, apart = plan.server.retain_weight, plan.wire.sums == "two"
        largest = max(1.0, weight)
        return cls(
            size=size, sums=2 if apart else 1, bits=plan.wire.update_bits,
            forget_share=1.0 if apart else 1.0 / largest,
            retain_share=1.0 if apart else weight / largest,
        )

    @property
    def forget_quiet(self) -> float:
        """Noise of the forget gap as a share of that of the noisier of the two gaps, in (0, 1]."""
        return min(self.forget_share, self.retain_share) / self.forget_share

    @property
    def length(self) -> int:
        """Coordinates of one sum, the progress of its units included."""
        return self.size + 2 // self.sums

    @property
    def words(self) -> int:
        """Ring words of the whole update."""
        return self.sums * ring_words(self.length, bits=self.bits)

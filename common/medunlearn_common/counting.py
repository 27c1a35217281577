"""What sites count at the end of a run, and how the counts travel.

Each unit that is asked falls into exactly one of four cells, by whether it was answered
before and is answered after: so one unit moves the vector of cells by 1 in one place, an L2
sensitivity of exactly 1, and "before" and "after" come paired. Counts are whole multiples of
``COUNT_STEPS`` ring steps, so that the discrete noise of a single site is wide in steps also
where it is narrow in counts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medunlearn_common.ring import RingCodec

CELLS = ("kept", "lost", "gained", "never")
COUNT_STEPS = 256
# Forget cells, then retain cells.
EVALUATION_WORDS = 2 * len(CELLS)


def count_codec(*, max_sites: int) -> RingCodec:
    """One count is ``COUNT_STEPS`` steps, the same at every party and for every noise."""
    return RingCodec(step=1.0 / COUNT_STEPS, max_sites=max_sites)


def cells_of(
    before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """Units per cell, shape ``(4,)``.

    Args:
        before: Whether each unit was answered before, shape ``(n,)``.
        after: Whether it is answered after, shape ``(n,)``.

    Guarantees:
        Adding or removing one unit changes one entry by one.
    """
    return np.array([
        np.count_nonzero(before & after), np.count_nonzero(before & ~after),
        np.count_nonzero(~before & after), np.count_nonzero(~before & ~after),
    ], dtype=np.int64)

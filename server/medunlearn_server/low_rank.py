"""Keep the rows of each module's B in few directions: noise has all of them, signal does not.

Where forgetting is one gate (is this the topic?) that moves the output one way, the rows of B
of a module are multiples of one vector: a matrix of rank one. The noise of differential
privacy has full rank. Truncating the singular values after every step (projected gradient
descent on the set of low-rank matrices) keeps the first and drops most of the second. It is
post-processing of released sums and costs no privacy.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medunlearn_common.layout import AdapterLayout
from medunlearn_common.support import Support

Reals = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]


def whole_rows(layout: AdapterLayout, support: Support) -> tuple[Places, ...]:
    """Positions in the support's vector of the rows it holds entirely, by module.

    Returns:
        For each module with at least one whole row: int64, shape ``(rows, rank)``.
    """
    found = []
    for offset, (_, rank), size in zip(layout.offsets, layout.shapes, layout.sizes, strict=True):
        first, last = np.searchsorted(support.indices, [offset, offset + size])
        places = np.arange(first, last, dtype=np.int64)
        rows = (support.indices[first:last] - offset) // rank
        counts = np.bincount(rows, minlength=1)
        whole = places[counts[rows] == rank]
        if whole.size:
            found.append(whole.reshape(-1, rank))
    return tuple(found)


def truncated(values: Reals, blocks: tuple[Places, ...], *, rank: int) -> Reals:
    """The nearest vector whose blocks, as matrices, have at most ``rank`` singular values.

    Coordinates outside the blocks (a row that the support holds in part) stay as they are.
    """
    result = values.copy()
    for block in blocks:
        if min(block.shape) <= rank:
            continue
        left, singular, right = np.linalg.svd(values[block], full_matrices=False)
        result[block] = (left[:, :rank] * singular[:rank]) @ right[:rank]
    return result

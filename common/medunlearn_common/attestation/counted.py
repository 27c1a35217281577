"""What follows from the hospitals' noised counts: computed by who attests, and by who verifies.

So nobody has to believe a share: whoever has the counts has it too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import sqrt

from medunlearn_common.attestation.predicate import Figure
from medunlearn_common.counting import CELLS

_Z95 = 1.959963984540054
# Fewer units than this many standard deviations of a count's noise: a share says nothing.
_LEAST_SPREADS = 4.0
Cells = Sequence[float]


def counted_cells(forget: Cells, retain: Cells, noise: float) -> dict[str, Figure]:
    """Every count with the 95 % interval of its noise.

    Args:
        forget: Units of the forget sets, one number for each of CELLS.
        retain: Likewise of the retain sets.
        noise: Standard deviation of each count.
    """
    spread = _Z95 * noise
    return {
        f"{group}_{cell}": Figure(
            value=value, low=value - spread, high=value + spread, n=None, interval="noise"
        )
        for group, values in (("forget", forget), ("retain", retain))
        for cell, value in zip(CELLS, values, strict=False)
    }


def counted_shares(forget: Cells, retain: Cells, noise: float) -> dict[str, Figure]:
    """Shares of units answered before and after, as far as the noised counts carry them.

    Of the cells in :data:`medunlearn_common.counting.CELLS`, kept and lost were answered before,
    kept and gained after. A share over so few units that the noise hides them is left out.
    Arguments are those of :func:`counted_cells`.
    """
    return {
        f"{group}_{name}": share
        for group, values in (("forget", forget), ("retain", retain))
        for name, share in _shares(values, noise)
    }


def _shares(values: Cells, noise: float) -> Iterator[tuple[str, Figure]]:
    """The interval is the delta method's over the noise alone."""
    if len(values) != len(CELLS):
        return
    kept, lost, gained, _ = values
    total = sum(values)
    if total <= max(1.0, _LEAST_SPREADS * 2.0 * noise):  # four cells: twice the noise
        return
    for name, answered in (("answered_before", kept + lost), ("answered", kept + gained)):
        share = min(1.0, max(0.0, answered / total))
        half = _Z95 * noise * sqrt(2.0 * ((1.0 - share) ** 2 + share**2)) / total
        yield name, Figure(
            value=share, low=max(0.0, share - half), high=min(1.0, share + half), n=None,
            interval="noise",
        )

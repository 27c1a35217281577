"""A support on the wire: runs of neighbouring coordinates.

What is voted for are whole rows of B, so a run of as many coordinates as the rank takes eight
bytes. (A random support does not travel: every party draws it.)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medunlearn_common.errors import Rejected

Coordinates = npt.NDArray[np.int64]
_BOUND = np.dtype("<u4")


def to_runs(indices: Coordinates) -> bytes:
    """First and last coordinate of each run, little-endian uint32.

    Args:
        indices: Strictly increasing, from 0 and below 2³², shape ``(k,)``, k >= 1.
    """
    ends = np.flatnonzero(np.diff(indices) != 1)
    first = indices[np.concatenate(([0], ends + 1))]
    last = indices[np.concatenate((ends, [indices.size - 1]))]
    return np.stack((first, last), axis=1).astype(_BOUND).tobytes()


def from_runs(data: bytes, *, most: int) -> Coordinates:
    """The coordinates, shape ``(k,)``, int64; what :func:`to_runs` writes and nothing else.

    Args:
        data: Runs.
        most: Largest k; nothing longer is unpacked, however few bytes name it.

    Raises:
        Rejected: SUPPORT_FORM.
    """
    if not data or len(data) % (2 * _BOUND.itemsize):
        raise _malformed("it is no sequence of runs")
    first, last = np.frombuffer(data, dtype=_BOUND).astype(np.int64).reshape(-1, 2).T
    # Runs that touch would be one run: each support has one spelling.
    if np.any(first > last) or np.any(first[1:] <= last[:-1] + 1):
        raise _malformed("its runs do not follow each other with gaps")
    lengths = last - first + 1
    if int(lengths.sum()) > most:
        raise _malformed(f"it has more than the {most} coordinates that are left to it")
    starts = np.cumsum(lengths) - lengths
    indices: Coordinates = np.repeat(first - starts, lengths)
    return indices + np.arange(indices.size, dtype=np.int64)


def _malformed(why: str) -> Rejected:
    return Rejected("SUPPORT_FORM", f"a support cannot be read: {why}",
                    "use the same medunlearn version at every site")

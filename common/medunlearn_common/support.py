"""The shared sparse support S: the only coordinates that an update may touch.

One support for all sites, never a union of per-site choices: a coordinate sent by a single
site would reveal it (decision 6).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from medunlearn_common.errors import Misconfigured
from medunlearn_common.layout import AdapterLayout

Coordinates = npt.NDArray[np.int64]
_MOST_COORDINATES = 1 << 32  # as they travel, see support_runs


@dataclass(frozen=True, kw_only=True)
class Support:
    """Sorted, distinct coordinate indices into one adapter layout.

    Attributes:
        indices: Shape ``(k,)``, int64, strictly increasing, read-only.
        layout_digest: Digest of the layout the indices refer to.
    """

    indices: Coordinates
    layout_digest: str

    def __post_init__(self) -> None:
        indices = np.array(self.indices, dtype=np.int64)
        if indices.ndim != 1 or indices.size == 0:
            raise Misconfigured(
                "SUPPORT_EMPTY",
                "a support needs at least one coordinate",
                "raise [support] density or the LoRA rank",
            )
        if indices[0] < 0 or indices[-1] >= _MOST_COORDINATES or np.any(np.diff(indices) <= 0):
            raise Misconfigured(
                "SUPPORT_ORDER",
                "support indices must be non-negative, strictly increasing and below 2^32",
                "build supports with medunlearn_common.support",
            )
        indices.flags.writeable = False
        object.__setattr__(self, "indices", indices)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Support) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def size(self) -> int:
        """k, the number of coordinates."""
        return int(self.indices.size)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the layout digest and the little-endian indices."""
        data = self.layout_digest.encode("ascii") + self.indices.astype("<i8").tobytes()
        return hashlib.sha256(data).hexdigest()


def support_size(layout: AdapterLayout, density: float) -> int:
    """k = floor(density * |theta|), at most D.

    Raises:
        Misconfigured: If not one coordinate fits.
    """
    size = min(int(density * layout.base_parameters), layout.dimension)
    if size < 1:
        raise Misconfigured(
            "SUPPORT_EMPTY",
            f"density {density:g} of {layout.base_parameters} parameters leaves no coordinate",
            "raise [support] density",
        )
    return size


def random_support(layout: AdapterLayout, *, size: int, seed: int) -> Support:
    """Seeded random-k: the control that costs no privacy.

    ``seed`` has at most 128 bits.
    """
    generator = np.random.Generator(np.random.Philox(key=seed))
    chosen = generator.choice(layout.dimension, size=size, replace=False)
    return Support(indices=np.sort(chosen).astype(np.int64), layout_digest=layout.digest)


def planned_random_support(
    layout: AdapterLayout, *, density: float, plan_digest: str
) -> Support:
    """The one random support of a plan, which every party draws for itself.

    Guarantees:
        Who leads the run chooses no coordinate: the draw follows from the digest of a plan
        that every site has accepted. (Whoever writes plans can write many, and so try draws.)

    Raises:
        Misconfigured: SUPPORT_EMPTY if not one coordinate fits.
    """
    seed = hashlib.sha256(b"medunlearn/random-support/1" + bytes.fromhex(plan_digest)).digest()
    return random_support(
        layout, size=support_size(layout, density), seed=int.from_bytes(seed[:16], "big")
    )


def damped_ratio(
    forget_norms: npt.NDArray[np.float64],
    retain_norms: npt.NDArray[np.float64],
    *,
    damping: float = 0.3,
) -> npt.NDArray[np.float64]:
    """Score rows by |g_f| / (|g_r| + damping * mean |g_r|).

    Args:
        forget_norms: Summed forget gradient norm per row, shape ``(rows,)``; noise may
            have made entries negative, which count as zero.
        retain_norms: The same for the retain gradient.
        damping: Keeps rows that neither set uses from winning by division.

    Returns:
        Scores, shape ``(rows,)``, non-negative and finite.
    """
    forget = np.clip(forget_norms, 0.0, None)
    retain = np.clip(retain_norms, 0.0, None)
    floor = damping * float(retain.mean())
    if floor <= 0.0:
        return forget
    return np.asarray(forget / (retain + floor), dtype=np.float64)


def support_from_row_scores(
    layout: AdapterLayout, scores: npt.NDArray[np.float64], *, size: int
) -> Support:
    """Take whole rows of B by falling score, then fill the last row to exactly ``size``.

    Rows have far better signal-to-noise under a private vote than single coordinates.
    Ties fall to the lower row, so that every party computes the same support from the same
    scores.

    Raises:
        Misconfigured: If the scores do not fit the layout or are not finite.
    """
    lengths = np.asarray(layout.row_lengths, dtype=np.int64)
    if scores.shape != lengths.shape or not np.all(np.isfinite(scores)):
        raise Misconfigured(
            "SUPPORT_SCORES",
            f"{scores.shape} finite scores expected for {lengths.size} rows",
            "check that all sites use the same adapter layout",
        )
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
    chosen: list[Coordinates] = []
    left = size
    for row in np.argsort(-scores, kind="stable"):
        if left == 0:
            break
        taken = min(left, int(lengths[row]))
        chosen.append(np.arange(starts[row], starts[row] + taken, dtype=np.int64))
        left -= taken
    return Support(indices=np.sort(np.concatenate(chosen)), layout_digest=layout.digest)

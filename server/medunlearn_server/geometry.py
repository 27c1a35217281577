r"""The Fisher metric and the retain subspace, from sums that were released before.

All of the mathematics of the Fisher-metric projection that runs at the coordinator:

* Released retain sums arrive whitened by the geometry they were asked under. The raw sum of
  round t is ``g_t = s_t / inverse_root_t`` (``s_t`` without geometry), and the noise in it has
  variance ``(noise_l2 / inverse_root_t)^2`` per coordinate.
* ``F_r = max(mean_t(g_t^2) - mean_t(noise variance), 0)``: the running mean of squares with
  the known noise taken off.
* ``M = F_r + damping * mean(F_r)``; ``inverse_root = M^(-1/2)``, kept within a factor
  ``MAX_SPREAD`` of its mean, because the clip acts after it, and scaled to a root mean square of
  1: a step of the optimizer then is as long as without a metric.
* ``R`` = the last q raw retain sums; ``Q = orth(M^(-1/2) R)``.
* The optimizer works on whitened sums. Of what it makes of a forget sum w (of T g) the step is
  ``M^(-1/2) (I - Q Q^T) w``, of what it makes of a retain sum s ``M^(-1/2) s``. That
  ``T g = (I - Q Q^T) M^(-1/2) g`` is projected already is not enough: the noise is not, nor is what
  an optimizer with a rate for each coordinate makes of it.

With ``projection = "public"`` the same formulas take R and F_r from gradients of public
retain text at B = 0, fixed for the run.

Guarantees:
    Everything here is post-processing of released or public values: no privacy is spent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from medunlearn_common.plan.sections import GeometrySection
from medunlearn_server.aggregation import RoundSums

Reals = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]

# Before that many retain sums there is no metric: one noisy sum says little.
MIN_HISTORY = 2
# Largest ratio of an entry of M^(-1/2) to their mean, either way.
MAX_SPREAD = 10.0
_RANK_TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """What sites whiten and project with; float32, so that all use the very same numbers.

    Attributes:
        inverse_root: Diagonal of M^(-1/2), shape ``(k,)``, positive, root mean square 1.
        basis: Orthonormal rows Q^T, shape ``(q, k)``.
    """

    inverse_root: Floats
    basis: Floats

    @property
    def rank(self) -> int:
        """q."""
        return int(self.basis.shape[0])

    @property
    def metric(self) -> Reals:
        """Diagonal of M in the same scale, shape ``(k,)``."""
        return self.inverse_root.astype(np.float64) ** -2

    def to_bytes(self) -> bytes:
        """inverse_root, then the rows of Q^T, float32 little-endian."""
        return self.inverse_root.astype("<f4").tobytes() + self.basis.astype("<f4").tobytes()

    def unwhitened(self, step: Reals, *, forget: Reals) -> Reals:
        """M^(-1/2) (step - Q Q^T forget), shape ``(k,)``.

        Args:
            step: Of both parts, in whitened coordinates.
            forget: Forgetting's part in it: what it moves in span(Q) is taken back.
        """
        basis = self.basis.astype(np.float64)
        return self.inverse_root.astype(np.float64) * (step - basis.T @ (basis @ forget))

    def sparing_retain(self, change: Reals) -> Reals:
        """A change of phi without what it moves in span(R), shape ``(k,)``."""
        white = change / self.inverse_root.astype(np.float64)
        return self.unwhitened(white, forget=white)


@dataclass(frozen=True, kw_only=True)
class RetainHistory:
    """Raw retain gradients seen so far; everything exact, for checkpoints.

    Attributes:
        directions: The last q raw retain sums, oldest first, shape ``(<= q, k)``.
        squares: Running mean of their squares, noise included, shape ``(k,)``.
        noise: Running mean of the noise variance in them, shape ``(k,)``.
        count: Number of sums in the means.
    """

    directions: Reals
    squares: Reals
    noise: Reals
    count: int

    @classmethod
    def empty(cls, size: int) -> Self:
        """No sum yet; k = ``size``."""
        zeros = np.zeros(size)
        return cls(directions=np.zeros((0, size)), squares=zeros, noise=zeros, count=0)

    def add(self, sums: RoundSums, asked_under: Geometry | None, *, rank: int) -> Self:
        """Include the retain sum of a round that was asked under ``asked_under``.

        Raises:
            ValueError: If the retain sum does not stand apart; plans with a history refuse that.
        """
        if sums.retain is None:
            raise ValueError("one sum of both sets holds no retain gradients")
        root = (
            asked_under.inverse_root.astype(np.float64)
            if asked_under is not None else np.ones_like(self.squares)
        )
        return self._with(sums.retain / root, (sums.noise_l2 / root) ** 2, rank=rank)

    def add_public(self, gradients: Reals) -> Self:
        """Include noiseless gradients of public text, shape ``(q, k)``."""
        history = self
        for row in gradients:
            history = history._with(row, np.zeros_like(row), rank=len(gradients))
        return history

    def _with(self, gradient: Reals, noise: Reals, *, rank: int) -> Self:
        count = self.count + 1
        return replace(
            self,
            directions=np.vstack([self.directions, gradient[None, :]])[-rank:],
            squares=self.squares + (gradient**2 - self.squares) / count,
            noise=self.noise + (noise - self.noise) / count,
            count=count,
        )

    def geometry(self, section: GeometrySection) -> Geometry | None:
        """The geometry of the next round; None while there is too little to build it from."""
        if section.projection == "none" or self.count < MIN_HISTORY:
            return None
        fisher = np.maximum(self.squares - self.noise, 0.0)
        mean = float(fisher.mean())
        if mean <= 0.0:
            return None
        root = (fisher + section.damping * mean) ** -0.5
        root = np.clip(root / root.mean(), 1.0 / MAX_SPREAD, MAX_SPREAD)
        inverse_root = (root / np.sqrt(np.mean(root**2))).astype(np.float32)
        basis = orthonormal_rows(self.directions * inverse_root.astype(np.float64))
        return Geometry(inverse_root=inverse_root, basis=basis) if len(basis) else None


def orthonormal_rows(rows: Reals) -> Floats:
    """Orthonormal basis of the row space, float32, shape ``(<= q, k)``.

    Raises nothing: rows that depend on others, or vanish, are dropped. Signs are fixed, so
    that the result does not depend on the linear algebra library's choice.
    """
    _, singular, basis = np.linalg.svd(rows, full_matrices=False)
    if not singular.size or singular[0] <= 0.0:
        return np.zeros((0, rows.shape[1]), dtype=np.float32)
    kept = basis[singular > _RANK_TOLERANCE * singular[0]]
    largest = np.take_along_axis(kept, np.abs(kept).argmax(axis=1)[:, None], axis=1)
    return np.asarray(kept * np.sign(largest), dtype=np.float32)

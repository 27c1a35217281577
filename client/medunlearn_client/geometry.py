"""The Fisher-metric transform T that every site applies before it clips.

The Fisher-metric projection: with M = F_r + lambda I and R the retain gradient directions,
T = (I - Q Q^T) M^(-1/2), Q = orth(M^(-1/2) R). M and Q come from the coordinator and depend
only on sums that were released before, so clipping after T is still DP-SGD.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from medunlearn_common.errors import Rejected

_ORTHONORMAL_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """A linear map on the support, the same at every site.

    Attributes:
        inverse_root: Diagonal of M^(-1/2), shape ``(k,)``, positive.
        basis: Orthonormal rows Q^T, shape ``(q, k)``; q may be 0.
    """

    inverse_root: npt.NDArray[np.float32]
    basis: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        size = self.inverse_root.shape[0]
        if self.basis.ndim != 2 or self.basis.shape[1] != size:
            raise _bad_geometry("its basis does not fit the support")
        if not (np.all(np.isfinite(self.inverse_root)) and np.all(self.inverse_root > 0.0)):
            raise _bad_geometry("M^(-1/2) must be positive and finite")
        with np.errstate(over="ignore", invalid="ignore"):  # such a basis is refused below
            gram = self.basis @ self.basis.T
        if not np.allclose(gram, np.eye(len(gram)), atol=_ORTHONORMAL_TOLERANCE):
            raise _bad_geometry("its basis is not orthonormal")

    def whiten(self, gradients: torch.Tensor) -> torch.Tensor:
        """M^(-1/2) g for each row, shape ``(b, k)``: what retain units send."""
        return gradients * torch.from_numpy(self.inverse_root).to(gradients)

    def transform(self, gradients: torch.Tensor) -> torch.Tensor:
        """T g for each row, shape ``(b, k)``: what forget units send."""
        white = self.whiten(gradients)
        if not self.basis.shape[0]:
            return white
        basis = torch.from_numpy(self.basis).to(gradients)
        return white - (white @ basis.T) @ basis


def _bad_geometry(why: str) -> Rejected:
    return Rejected(
        "GEOMETRY_INVALID",
        f"the coordinator's projection was refused: {why}",
        "use the same medunlearn version at every site",
    )

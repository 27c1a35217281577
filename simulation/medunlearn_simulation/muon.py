"""Muon in a precision of choice: torch's own orthogonalises in bfloat16 on any processor.

On one that cannot multiply in bfloat16, torch's products are several times slower than in
float32; with AVX2 alone they run in a plain loop, dozens of times slower.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from medunlearn_common.errors import Misconfigured

# Quintic with the steepest slope at zero that still keeps singular values near one (Keller
# Jordan, "Muon: an optimizer for hidden layers in neural networks", 2024); torch's as well.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_SMALLEST_NORM = 1e-7


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised by a Newton–Schulz iteration, with decoupled weight decay.

    Matrices of one shape are orthogonalised together. All else is as in :class:`torch.optim.Muon`
    with its default settings.

    Args:
        params: Matrices `(out, in)`.
        lr: Learning rate; of tall matrices scaled by `sqrt(out / in)`.
        momentum: Of Nesterov's kind.
        weight_decay: Share of the weights taken away per unit of learning rate.
        dtype: Of the products that orthogonalise.

    Raises:
        Misconfigured: MUON_SHAPE if a parameter is no matrix.
    """

    def __init__(
        self, params: Iterable[Tensor], *, lr: float, momentum: float = 0.95, weight_decay: float,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._dtype = dtype
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2:
                    raise Misconfigured(
                        "MUON_SHAPE", f"a parameter has {parameter.ndim} dimensions, not 2",
                        "give embeddings, norms and biases to another optimizer",
                    )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient; takes no closure, unlike its base."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    step = self._nesterov(parameter, parameter.grad, group["momentum"])
                    alike[parameter.shape].append((parameter, step))
            for shape, pairs in alike.items():
                steps = torch.stack([step for _, step in pairs])
                updates = orthogonalised(steps.to(self._dtype))
                rate = group["lr"] * math.sqrt(max(1.0, shape[0] / shape[1]))
                for (parameter, _), update in zip(pairs, updates, strict=True):
                    parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
                    parameter.sub_(update, alpha=rate)

    def _nesterov(self, parameter: Tensor, gradient: Tensor, momentum: float) -> Tensor:
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        average: Tensor = state["momentum"].lerp_(gradient, 1.0 - momentum)
        return gradient.lerp(average, momentum)


def orthogonalised(matrices: Tensor) -> Tensor:
    """Matrices with the same singular vectors, and singular values between about 0.7 and 1.2.

    Args:
        matrices: `(count, rows, columns)`.

    Returns:
        As many, of the same shape; zeros stay zeros.
    """
    if matrices.shape[1] > matrices.shape[2]:  # the small side is squared
        turned = orthogonalised(matrices.mT)
        return turned.mT
    a, b, c = _QUINTIC
    norms = matrices.norm(dim=(1, 2), keepdim=True)
    x: Tensor = matrices / norms.clamp(min=_SMALLEST_NORM)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x

"""Per-example gradients on B through Opacus's hooks, gathered on the support at once.

Opacus computes the gradient of every example for one linear layer when backpropagation
passes it. A second hook on the same layer keeps only what the caller wants (coordinates of
the support, or row norms for the vote) and frees the rest, so that memory holds one
layer's per-example gradients at a time and not the whole adapter's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from opacus.grad_sample import GradSampleHooks
from torch import nn

from medunlearn_client.adapters import LoraAdapter
from medunlearn_common.layout import AdapterLayout
from medunlearn_common.support import Support

# Keeps what is needed of one layer: (layer number, gradients (b, d_out, rank)) -> (b, kept).
Gather = Callable[[int, torch.Tensor], torch.Tensor]


class PerExampleGradients:
    """Collects per-example gradients of one backward pass.

    Use as a context manager: hooks exist only inside it.

    Args:
        adapter: The adapter whose B matrices are differentiated.
        layers: Numbers of the B matrices that are needed; others get no gradient at all,
            and backpropagation stops at the lowest that is.
        gather: What to keep of each.
    """

    def __init__(self, adapter: LoraAdapter, *, layers: list[int], gather: Gather) -> None:
        self._linears = [(number, adapter.b_linears()[number]) for number in layers]
        self._gather = gather
        self._kept: dict[int, torch.Tensor] = {}
        self._hooks: list[GradSampleHooks] = []
        self._handles: list[Any] = []

    def __enter__(self) -> PerExampleGradients:
        for number, linear in self._linears:
            linear.weight.requires_grad_(True)
            linear.train()  # Opacus captures activations in training mode only; no dropout here
            self._hooks.append(GradSampleHooks(linear, batch_first=True, loss_reduction="sum"))
            # Registered after Opacus's own hook on the same module, hence run after it.
            self._handles.append(linear.register_full_backward_hook(self._keep(number, linear)))
        return self

    def __exit__(self, *_error: object) -> None:
        for handle in self._handles:
            handle.remove()
        for hooks in self._hooks:
            hooks.cleanup()
        for _, linear in self._linears:
            linear.eval()
            linear.weight.requires_grad_(False)
            linear.weight.grad = None
        self._hooks, self._handles, self._kept = [], [], {}

    def _keep(self, number: int, linear: nn.Linear) -> Callable[..., None]:
        def hook(*_: object) -> None:
            weight: Any = linear.weight
            self._kept[number] = self._gather(number, weight.grad_sample)
            weight.grad_sample = None

        return hook

    def backward(self, losses: torch.Tensor) -> torch.Tensor:
        """Differentiate each example's own loss.

        Args:
            losses: Shape ``(b,)``; entry i may depend on example i only.

        Returns:
            Kept gradients, shape ``(b, kept)``, float32, layers in ascending order.

        Raises:
            RuntimeError: If a layer saw no backward pass: its gradient would silently be
                missing from the clipped norm.
        """
        self._kept = {}
        with warnings.catch_warnings():
            # torch warns for the lowest layer, whose input needs no gradient; what the hook
            # reads there is the gradient of the output, which is complete.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            torch.autograd.backward(losses.sum())
        missing = [number for number, _ in self._linears if number not in self._kept]
        if missing:
            raise RuntimeError(f"no per-example gradient reached the layers {missing}")
        for _, linear in self._linears:
            linear.weight.grad = None
        return torch.cat([self._kept[number] for number, _ in self._linears], dim=1)


def support_gradients(adapter: LoraAdapter, support: Support) -> PerExampleGradients:
    """Gradients on the support's coordinates, ``kept = k``, in the support's order."""
    pieces = _local_indices(adapter.layout, support, adapter.device)

    def gather(number: int, gradients: torch.Tensor) -> torch.Tensor:
        return gradients.flatten(1)[:, pieces[number]].float()

    return PerExampleGradients(adapter, layers=sorted(pieces), gather=gather)


def row_norms(adapter: LoraAdapter) -> PerExampleGradients:
    """Gradient norm of every row of every B, ``kept`` = number of rows."""

    def gather(_: int, gradients: torch.Tensor) -> torch.Tensor:
        norms: torch.Tensor = torch.linalg.vector_norm(gradients.float(), dim=2)
        return norms

    layers = list(range(len(adapter.layout.names)))
    return PerExampleGradients(adapter, layers=layers, gather=gather)


def _local_indices(
    layout: AdapterLayout, support: Support, device: torch.device
) -> dict[int, torch.Tensor]:
    """Positions of the support within each B that it touches."""
    borders = np.searchsorted(support.indices, [*layout.offsets, layout.dimension])
    pieces: dict[int, torch.Tensor] = {}
    for number, offset in enumerate(layout.offsets):
        local = support.indices[borders[number] : borders[number + 1]] - offset
        if local.size:
            pieces[number] = torch.from_numpy(local).to(device)
    return pieces

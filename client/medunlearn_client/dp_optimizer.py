"""Opacus's DPOptimizer with an integer mechanism: clip, round, sum and noise in ring steps.

Opacus keeps the bookkeeping (virtual batches, empty Poisson batches, refusal of double
steps, the accountant's hook). Two of its steps are replaced, because torch's generators are
not cryptographic and floating-point noise leaks through its low bits: the clipped gradient
of each unit is rounded to whole steps before it is summed, and the noise is a discrete
Gaussian from a ChaCha20 keystream. Where the ring is coarser than these steps, the sum is
rounded to it under a random dither before the noise is added; where it is too long for the
ring, it is clamped before the noise is added.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from opacus.optimizers import DPOptimizer
from opacus.optimizers.optimizer import _check_processed_flag, _mark_as_processed

from medunlearn_client.noise import discrete_gaussian
from medunlearn_common.entropy import KeyStream
from medunlearn_common.ring import COARSENING, StepVector, coarsened


class RingDPOptimizer(DPOptimizer):  # type: ignore[misc]
    """Turns per-unit gradients (in ring steps) into one noised integer sum.

    Guarantees:
        * One unit moves the sum by at most ``clip_steps + sqrt(k) / 2`` steps in L2 norm:
          it is scaled to ``clip_steps`` and then rounded to integers, and sums of integers
          below 2^53 are exact in float64. Where the sum is coarsened, see
          :func:`~medunlearn_common.ring.clip_steps`.
        * The noise has a standard deviation of ``noise_steps``, independent of the data.

    Args:
        parameter: Shape ``(k,)``, float64; its ``grad_sample`` is in ring steps.
        noise_multiplier: Of the whole federation's sum; what the accountant is told.
        clip_steps: Clip norm before rounding.
        noise_steps: Standard deviation that this site adds, in steps on the wire.
        stream: Keystream for dither and noise, used for nothing else.
        coarsen: The wire's steps are ``COARSENING`` of those of the records' sum.
        within: Clamps the sum, in steps on the wire, to what leaves room for its noise; it may
            move no two sums farther apart. None leaves every sum as it is.
    """

    def __init__(
        self, parameter: torch.nn.Parameter, *, noise_multiplier: float, clip_steps: float,
        noise_steps: float, stream: KeyStream, coarsen: bool = False,
        within: Callable[[StepVector], StepVector] | None = None,
    ) -> None:
        super().__init__(
            torch.optim.SGD([parameter], lr=0.0),
            noise_multiplier=noise_multiplier, max_grad_norm=clip_steps,
            expected_batch_size=None, loss_reduction="sum",
        )
        self._noise_steps = noise_steps
        self._stream = stream
        self._coarsen = coarsen
        self._within = within

    def clip_and_accumulate(self) -> None:
        """Scale each unit to the clip, round it to whole steps and add it to the sum."""
        for parameter in self.params:
            gradients: Any = self._get_flat_grad_sample(parameter)
            _check_processed_flag(parameter.grad_sample)
            values = gradients.to(torch.float64)
            norms = values.norm(2, dim=1, keepdim=True)
            factors = (self.max_grad_norm / norms.clamp_min(1e-300)).clamp(max=1.0)
            total = (values * factors).round().sum(dim=0)
            parameter.summed_grad = (
                total if parameter.summed_grad is None else parameter.summed_grad + total
            )
            _mark_as_processed(parameter.grad_sample)

    def add_noise(self) -> None:
        """Coarsen the sum where the wire is coarser, clamp it, and add the discrete Gaussian.

        ``parameter.grad`` then holds integers, in steps on the wire.
        """
        for parameter in self.params:
            _check_processed_flag(parameter.summed_grad)
            total = parameter.summed_grad.cpu().numpy().astype(np.int64)
            if self._coarsen:
                drawn = self._stream.words(total.size) % np.uint64(COARSENING)
                total = coarsened(total, drawn.astype(np.int64))
            if self._within is not None:
                total = self._within(total)
            total += discrete_gaussian(
                self._stream, sigma_steps=self._noise_steps, count=total.size
            )
            parameter.grad = torch.from_numpy(total).to(parameter.summed_grad).view_as(parameter)
            _mark_as_processed(parameter.summed_grad)

"""Where B starts: what the topic's gates should do, learnt from public text alone.

With A one direction per module (:mod:`medunlearn_client.contrast`) the adapter already opens on
the topic; how far each row should open depends on the model, not on anybody's records. So B
descends the run's own objective on public text first: the forget loss on texts under the topic,
the retain loss on the same texts under other subjects. No record is read, so no epsilon is paid and
no noise is added, and the private rounds begin where only the hospitals' own records can help.
It is the federated form of pre-training on public data before private fine-tuning (Abadi et al.
2016, section 5.3; Li et al. 2022, *Large language models can be strong differentially private
learners*).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from medunlearn_client.adapters import LoraAdapter
from medunlearn_client.encoding import EncodedRecord, collate
from medunlearn_client.objectives import OBJECTIVES, ModelView
from medunlearn_common.entropy import public_generator
from medunlearn_common.errors import Misconfigured
from medunlearn_common.frozen import LARGEST_ENTRY, Matrix
from medunlearn_common.plan import Plan

# The reference logits of a few thousand short texts; beyond that they are computed again.
_CACHE_BYTES = 1 << 30

StepProgress = Callable[[int, int], None]


def public_start(
    adapter: LoraAdapter, topic: Sequence[EncodedRecord], other: Sequence[EncodedRecord],
    plan: Plan, *, compute_dtype: torch.dtype, on_step: StepProgress | None = None,
) -> list[Matrix]:
    """B of every module after ``[contrast] start_steps`` of Adam with a cosine to zero.

    Args:
        adapter: With A set and B = 0; B is left as it ends.
        topic: Public texts on the topic, with alternatives where the objective compares answers.
        other: Public texts that are not.
        plan: Its objective, its seed and [contrast].
        compute_dtype: Of matrix products.
        on_step: Told the number of steps done, and of all.

    Returns:
        Shapes ``(d_out, rank)``, float32, in layout order.

    Raises:
        Misconfigured: CONTRAST_START if the descent runs away.
    """
    section = plan.contrast
    view = ModelView(adapter, cache_bytes=_CACHE_BYTES, compute_dtype=compute_dtype)
    objective = OBJECTIVES[plan.objective.name](plan.objective)
    objective.prepare(view, list(topic))
    generator = public_generator(plan.run.seed, "public-start")
    matrices = [matrix.requires_grad_(True) for matrix in adapter.b_matrices()]
    adam = torch.optim.Adam(matrices, lr=section.start_rate, betas=(0.9, 0.99))
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=section.start_steps)
    for step in range(1, section.start_steps + 1):
        rows = _some(generator, topic, section.start_batch)
        batch = collate([topic[row] for row in rows], pad_id=0, device=adapter.device)
        loss = objective.forget(view, batch, rows).loss.mean()
        kept = [other[row] for row in _some(generator, other, 2 * section.start_batch)]
        loss = loss + section.start_retain_weight * objective.retain(
            view, collate(kept, pad_id=0, device=adapter.device)).loss.mean()
        gradients = torch.autograd.grad(loss, matrices)
        for matrix, gradient in zip(matrices, gradients, strict=True):
            matrix.grad = gradient
        adam.step()
        cosine.step()
        if on_step is not None:
            on_step(step, section.start_steps)
    found = [matrix.detach().float().cpu().numpy() for matrix in matrices]
    for matrix in matrices:
        matrix.requires_grad_(False).grad = None
    if not all((np.abs(values) <= LARGEST_ENTRY).all() for values in found):  # also false for NaN
        raise Misconfigured(
            "CONTRAST_START", f"the start of B has entries beyond {LARGEST_ENTRY:g}",
            "lower [contrast] start_rate",
        )
    return found


def _some(generator: np.random.Generator, found: Sequence[EncodedRecord], most: int) -> list[int]:
    return [int(row) for row in generator.permutation(len(found))[:most]]

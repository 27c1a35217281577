"""One noised sum of clipped per-unit gradients: the step that leaves a hospital.

Order (docs/one_update.md, steps 8 to 12): per-example gradient, gathered on the support ->
T -> summed within each unit -> clipped -> rounded to ring steps -> summed over a Poisson
sample -> discrete Gaussian noise. T and the support depend on public data and earlier
releases only. A sum may be over several parts (forget and retain units), each with its own
loss, transform, rate and share.

Trust in labels (decision 15): the records of a unit are weighted against each other before the
clip, and the unit as a whole after it, by the weight of its most trusted record.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from medunlearn_client.dp_optimizer import RingDPOptimizer
from medunlearn_client.encoding import EncodedRecord, TokenBatch, collate
from medunlearn_client.noise import poisson_sample
from medunlearn_client.objectives.base import ExampleLosses
from medunlearn_client.per_example import PerExampleGradients
from medunlearn_common.entropy import KeyStream
from medunlearn_common.errors import Rejected
from medunlearn_common.ring import RingCodec, StepVector, clip_steps

_LOG = logging.getLogger("medunlearn.hospital")

# The released gap coordinate of a unit is at most this share of the clip, so that it costs
# 0.5 % of the gradient's norm: sqrt(1 - 0.1^2).
GAP_SHARE = 0.1
# Smaller weights count as none: dividing by them would only blow rounding errors up.
_LEAST_TRUST = 1e-6

# A fresh 256-bit key for a named purpose within one release.
KeyFor = Callable[[str], bytes]
LossFunction = Callable[[TokenBatch, list[int]], ExampleLosses]
Transform = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class UnitSet:
    """Encoded records grouped into privacy units.

    Attributes:
        records: Encoded records.
        units: Positions of each unit's records: one each for records, all of a patient's
            for patients. All wordings of a record are positions of that record's unit.
        wordings: Positions that say one record in different words, its own first; a record
            without other wordings need not be listed.

    Guarantees:
        What a unit adds to a release is summed over all its positions and clipped once, however
        many wordings its records have, so wordings change no sensitivity and no epsilon.
    """

    records: tuple[EncodedRecord, ...]
    units: tuple[tuple[int, ...], ...]
    wordings: tuple[tuple[int, ...], ...] = ()

    def one_wording_each(self, round_index: int) -> UnitSet:
        """The same units with one wording per record, drawn by the record's text and the round.

        The draw is public randomness of the record alone: it moves with no other record.
        """
        left_out: set[int] = set()
        for group in self.wordings:
            own = self.records[group[0]].input_ids.astype("<i8").tobytes()
            seed = hashlib.sha256(b"wording" + round_index.to_bytes(8, "big") + own).digest()
            chosen = group[int.from_bytes(seed[:8], "big") % len(group)]
            left_out.update(position for position in group if position != chosen)
        units = tuple(tuple(p for p in unit if p not in left_out) for unit in self.units)
        return replace(self, units=units, wordings=())


@dataclass(frozen=True, kw_only=True)
class SumMechanism:
    """What turns per-unit vectors into one release.

    Attributes:
        sigma: Noise multiplier of the federation's whole sum.
        noise_share: Share of its standard deviation that this site adds (1 / sqrt(h) under
            distributed noise, 1 under local noise).
        clip_l2: C, bound on one unit's vector.
        codec: Ring codec of the release.
    """

    sigma: float
    noise_share: float
    clip_l2: float
    codec: RingCodec


@dataclass(frozen=True, kw_only=True)
class Part:
    """Whose units a sum takes in, and how.

    Attributes:
        name: "forget" or "retain"; names its keystream.
        units: This site's units; may be empty.
        losses: Per-example losses of a batch.
        rate: Poisson rate.
        transform: Linear map applied to per-example vectors before clipping.
        share: What a unit's clipped vector is multiplied by, in (0, 1].
    """

    name: str
    units: UnitSet
    losses: LossFunction
    rate: float
    transform: Transform
    share: float = 1.0


def noised_sum(
    parts: Sequence[Part],
    gradients: PerExampleGradients,
    *,
    mechanism: SumMechanism,
    dimension: int,
    release_gap: bool,
    key: KeyFor,
    pad_id: int,
    device: torch.device,
    score_prompts: bool,
) -> StepVector:
    """Sample units, clip each one's vector and return their noised sum in ring steps.

    Args:
        parts: Whose units are summed; no unit may be in two of them.
        gradients: Open collector of per-example vectors of length ``dimension``.
        mechanism: Noise and clip.
        dimension: Length of the vectors.
        release_gap: Append each part's mean gaps, scaled to at most ``GAP_SHARE`` of the clip.
        key: Gives the keys of each part's sampling and of the noise.
        pad_id: Padding token.
        device: Where the model is.
        score_prompts: Losses look at prompt tokens too.

    Returns:
        int64, shape ``(dimension,)``, or ``(dimension + len(parts),)`` with the gaps last.

    Raises:
        Rejected: GRADIENT_NOT_FINITE in a plan without noise; nothing is released.

    Guarantees:
        (epsilon, delta)-DP as accounted for a Poisson-subsampled Gaussian with
        ``mechanism.sigma`` once the sites' shares are summed: the sampling, the clip and
        the noise are those of :class:`RingDPOptimizer`, also for an empty sample or site. What
        a unit adds is computed from its own records alone, to the last bit.
    """
    length = dimension + (len(parts) if release_gap else 0)
    clip = clip_steps(mechanism.codec, clip_l2=mechanism.clip_l2, dimension=length)
    # What rounding leaves of C. Gap, trust and share are taken inside it, or the optimizer's
    # clip would cut a full-length vector once more, and one of half the share not at all.
    left = clip * mechanism.codec.step
    noise = KeyStream(key("+".join(part.name for part in parts) + "/noise"))
    optimizer, parameter = _optimizer(mechanism, length, clip=clip, noise_stream=noise)
    for place, part, positions in _drawn(parts, key):
        vector, gap, trust = _unit_vector(
            part, positions, gradients, dimension, pad_id=pad_id, device=device,
            score_prompts=score_prompts,
        )
        if release_gap:
            apart = torch.zeros(1, len(parts), dtype=gap.dtype)
            apart[:, place] = gap
            vector = _with_gap(vector, apart, mechanism.clip_l2, left=left)
        vector = _trusted(vector, trust * part.share, left)
        vector = _finite(vector, private=mechanism.sigma > 0.0)
        parameter.grad_sample = vector / mechanism.codec.step
        optimizer.signal_skip_step(True)
        optimizer.step()
        optimizer.zero_grad()
    # The last, empty virtual batch triggers the noise, also where nothing was drawn.
    parameter.grad_sample = torch.zeros(0, length, dtype=torch.float64)
    optimizer.signal_skip_step(False)
    optimizer.step()
    if parameter.grad is None:
        raise RuntimeError("the optimizer released no sum")
    steps: StepVector = parameter.grad.numpy().astype(np.int64)
    return steps


def _optimizer(
    mechanism: SumMechanism, length: int, *, clip: float, noise_stream: KeyStream
) -> tuple[RingDPOptimizer, Any]:
    parameter: Any = torch.nn.Parameter(torch.zeros(length, dtype=torch.float64))
    codec = mechanism.codec
    noise_l2 = mechanism.sigma * mechanism.clip_l2 * mechanism.noise_share
    noise_steps = noise_l2 / codec.wire_step
    optimizer = RingDPOptimizer(
        parameter,
        noise_multiplier=mechanism.sigma,
        clip_steps=clip,
        noise_steps=noise_steps,
        stream=noise_stream,
        coarsen=codec.coarsening != 1,
        within=partial(codec.within, noise_steps=noise_steps) if noise_steps > 0.0 else None,
    )
    return optimizer, parameter


def _drawn(parts: Sequence[Part], key: KeyFor) -> Iterator[tuple[int, Part, tuple[int, ...]]]:
    """The records' positions of each unit in each part's Poisson sample, with the part's place."""
    for place, part in enumerate(parts):
        drawn = poisson_sample(
            KeyStream(key(f"{part.name}/sample")), population=len(part.units.units),
            rate=part.rate,
        )
        for unit in drawn:
            yield place, part, part.units.units[int(unit)]


def _unit_vector(
    part: Part, positions: tuple[int, ...], gradients: PerExampleGradients, dimension: int, *,
    pad_id: int, device: torch.device, score_prompts: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sum one unit's per-example vectors, weighted within the unit; average its gaps.

    Every record has a pass of its own. In a batch a row's last bits depend on how many rows there
    are, and padding lies after whatever is shorter than the longest: with adapter values that a
    coordinator chose for it, either turns a clipped vector around, and one unit more or less in
    the batch would have moved all the others by up to two clips each.

    Returns:
        Vector ``(1, dimension)``, gap and trust ``(1,)``, float64 on the CPU. A unit's trust is
        its greatest weight; its records are weighted as shares of that.
    """
    vector = torch.zeros(1, dimension, dtype=torch.float64)
    gap, trust = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for position in positions:
        batch = collate(
            [part.units.records[position]], pad_id=pad_id, device=device,
            score_prompts=score_prompts,
        )
        example = part.losses(batch, [position])
        found = part.transform(gradients.backward(example.loss)).double().cpu()
        weight = example.weight.double().cpu()
        vector += found * weight.unsqueeze(1)
        trust = torch.maximum(trust, weight)
        gap += example.gap.double().cpu()
    # Only for units of several records does this differ from undoing the weight.
    return vector / trust.clamp_min(_LEAST_TRUST).unsqueeze(1), gap / len(positions), trust


def _trusted(vectors: torch.Tensor, trusts: torch.Tensor, clip_l2: float) -> torch.Tensor:
    """Clip the units, then scale them by their trust, ``(units,)``.

    Guarantees:
        No vector becomes longer than it was, and none is longer than the clip, whatever its weight
        is, *before* it is counted in steps. In steps of a tiny clip a gradient may be infinite,
        and what then clips it makes it no number: one unit would turn over whole coordinates of
        the sum, whatever the noise. The optimizer clips all of them once more.
    """
    norms: torch.Tensor = vectors.norm(dim=1).clamp_min(1e-300)
    factors = (clip_l2 / norms).clamp(max=1.0) * trusts.clamp(0.0, 1.0)
    return vectors * factors.unsqueeze(1)


def _with_gap(
    vectors: torch.Tensor, gaps: torch.Tensor, clip_l2: float, *, left: float
) -> torch.Tensor:
    """Append the gaps, one of them not zero, inside the same clip: they cost no epsilon.

    The gradient is cut first, to what the largest gap leaves of the clip; otherwise a long
    gradient would shrink the gap with it and the released curve would mean nothing.

    Args:
        vectors: Shape ``(units, k)``.
        gaps: Shape ``(units, parts)``.
        clip_l2: C, of which a gap takes at most ``GAP_SHARE``.
        left: Of C after rounding, at least half of it.
    """
    limit = (left**2 - (GAP_SHARE * clip_l2) ** 2) ** 0.5
    norms = vectors.norm(dim=1, keepdim=True).clamp_min(1e-300)
    cut = vectors * (limit / norms).clamp(max=1.0)
    scaled = gaps.clamp(-1.0, 1.0) * (GAP_SHARE * clip_l2)
    return torch.cat([cut, scaled], dim=1)


def _finite(vectors: torch.Tensor, *, private: bool) -> torch.Tensor:
    """Vectors of units, with zeros for a unit whose own is NaN or infinite.

    Guarantees:
        Under noise, a unit whose gradient overflows adds nothing, which is within its clip. An
        error instead would leave the site unnoised and tell of that one unit: a coordinator
        that chooses the adapter's values could ask about any record, one bit a round.

    Raises:
        Rejected: GRADIENT_NOT_FINITE where the plan claims no privacy.
    """
    sound = torch.isfinite(vectors).all(dim=1, keepdim=True)
    if bool(sound.all()):
        return vectors
    if not private:
        raise Rejected(
            "GRADIENT_NOT_FINITE",
            "a per-example gradient is NaN or infinite; nothing was released",
            "use float32, a smaller learning rate, or another base model",
        )
    _LOG.warning("%d unit(s) have no finite gradient and add nothing", int((~sound).sum()))
    return torch.where(sound, vectors, torch.zeros_like(vectors))

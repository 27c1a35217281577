"""The two kinds of release of a run: the support vote and the update of a round.

Both are one payload of ring words with a forget half and a retain half, or (an update, with
``[wire] sums = "one"``) with their weighted sum. Forget and retain units are disjoint, so either
costs the epsilon of one half (parallel composition).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import sqrt

import numpy as np
import numpy.typing as npt
import torch

from medunlearn_client.adapters import LoraAdapter
from medunlearn_client.encoding import TokenBatch
from medunlearn_client.geometry import Geometry
from medunlearn_client.objectives import ExampleLosses, ModelView, UnlearningObjective
from medunlearn_client.objectives.vote import VoteObjective
from medunlearn_client.per_example import PerExampleGradients, row_norms, support_gradients
from medunlearn_client.step_message import StepRequest
from medunlearn_client.training import (
    KeyFor,
    Part,
    SumMechanism,
    Transform,
    UnitSet,
    noised_sum,
)
from medunlearn_common.plan import RunPlan
from medunlearn_common.ring import RingCodec, StepVector
from medunlearn_common.support import Support
from medunlearn_common.updates import WIRE_DTYPE
from medunlearn_common.wire import UpdateForm, update_codec


@dataclass(frozen=True, kw_only=True)
class ReleaseSettings:
    """What every release of a plan shares."""

    plan: RunPlan
    objective: UnlearningObjective
    view: ModelView
    pad_id: int

    @property
    def noise_share(self) -> float:
        """Share of the whole sum's standard deviation that this site adds.

        Under distributed noise 1 / sqrt(h), with h the survivors without whom the round
        aborts: any h sites together then carry the full noise.
        """
        if self.plan.privacy.noise == "distributed":
            return 1.0 / sqrt(self.plan.federation.min_sites)
        return 1.0

    def mechanism(self, *, sigma: float, clip_l2: float, codec: RingCodec) -> SumMechanism:
        """The mechanism of one sum of a release."""
        return SumMechanism(
            sigma=sigma, noise_share=self.noise_share, clip_l2=clip_l2, codec=codec
        )

    def whole_words(self, *, sigma: float, clip_l2: float, public: bool = False) -> RingCodec:
        """The codec of whatever is not an update: one coordinate to a word.

        Args:
            sigma: Noise multiplier.
            clip_l2: Clip, in gradient units.
            public: What every site answers alike, and nobody sums: all the room is one site's.
        """
        sites = 1 if public else self.plan.federation.sites
        return RingCodec.for_mechanism(clip_l2=clip_l2, sigma=sigma, max_sites=sites)


def _identity(vectors: torch.Tensor) -> torch.Tensor:
    return vectors


def halves(
    settings: ReleaseSettings, forget: UnitSet, retain: UnitSet,
    *, forget_transform: Transform = _identity, retain_transform: Transform = _identity,
) -> tuple[Part, Part]:
    """The forget and the retain units as parts of a release."""
    objective, view = settings.objective, settings.view

    def forget_losses(batch: TokenBatch, rows: list[int]) -> ExampleLosses:
        return objective.forget(view, batch, rows)

    def retain_losses(batch: TokenBatch, _: list[int]) -> ExampleLosses:
        return objective.retain(view, batch)

    privacy = settings.plan.privacy
    return (
        Part(name="forget", units=forget, losses=forget_losses,
              rate=privacy.forget_rate, transform=forget_transform),
        Part(name="retain", units=retain, losses=retain_losses,
              rate=privacy.retain_rate, transform=retain_transform),
    )


def sum_of(
    settings: ReleaseSettings, parts: Sequence[Part], gradients: PerExampleGradients, *,
    mechanism: SumMechanism, dimension: int, release_gap: bool, key: KeyFor,
) -> StepVector:
    """One noised sum over some parts, with the settings of the release."""
    return noised_sum(
        parts, gradients, mechanism=mechanism, dimension=dimension, release_gap=release_gap,
        key=key, pad_id=settings.pad_id, device=settings.view.device,
        score_prompts=settings.plan.objective.prompt_weight > 0.0,
    )


def vote_release(
    settings: ReleaseSettings, adapter: LoraAdapter, forget: UnitSet, retain: UnitSet,
    *, sigma: float, key: KeyFor, public: bool = False,
) -> bytes:
    """Noised sums of per-unit gradient norms by row of B, ``2 * rows`` ring words.

    Taken at B = 0; see :class:`VoteObjective` for what is differentiated.
    """
    voting = replace(settings, objective=VoteObjective(settings.objective))
    clip = settings.plan.privacy.vote_clip_l2
    words = []
    with row_norms(adapter) as gradients:
        for half in halves(voting, forget, retain):
            codec = settings.whole_words(sigma=sigma, clip_l2=clip, public=public)
            mechanism = settings.mechanism(sigma=sigma, clip_l2=clip, codec=codec)
            steps = sum_of(
                settings, [half], gradients, mechanism=mechanism,
                dimension=len(adapter.layout.row_lengths), release_gap=False, key=key,
            )
            words.append(codec.to_ring(steps, private=sigma > 0.0))
    return np.concatenate(words).astype(WIRE_DTYPE).tobytes()


def step_release(
    settings: ReleaseSettings, adapter: LoraAdapter, forget: UnitSet, retain: UnitSet,
    request: StepRequest, *, support: Support, key: KeyFor,
) -> bytes:
    """Noised forget and retain sums on the support with their gaps, or one sum of both.

    With several local steps (local noise only) the site moves its own copy of the adapter
    by each noised sum before it takes the next; the release is the sum of all of them.

    Returns:
        Little-endian words as :class:`~medunlearn_common.wire.UpdateForm` lays them out.
    """
    transforms: tuple[Transform, Transform] = (_identity, _identity)
    if request.geometry is not None:
        transforms = (request.geometry.transform, request.geometry.whiten)
    form = UpdateForm.of(settings.plan, size=support.size)
    both = halves(
        settings, forget, retain, forget_transform=transforms[0], retain_transform=transforms[1]
    )
    parts = [
        replace(both[0], share=form.forget_share), replace(both[1], share=form.retain_share)
    ]
    groups = [parts] if form.sums == 1 else [[part] for part in parts]
    codec = update_codec(settings.plan, sigma=request.sigma)
    mechanism = settings.mechanism(
        sigma=request.sigma, clip_l2=settings.plan.privacy.clip_l2, codec=codec
    )
    totals = [np.zeros(form.length, dtype=np.int64) for _ in groups]
    values = request.values.astype(np.float64)
    with support_gradients(adapter, support) as gradients:
        for local_step in range(settings.plan.privacy.local_steps):
            adapter.set_on_support(support, values.astype(np.float32))
            sums = [
                sum_of(
                    settings, group, gradients, mechanism=mechanism, dimension=support.size,
                    release_gap=True, key=partial(_local_key, key, local_step),
                )
                for group in groups
            ]
            totals = [total + new for total, new in zip(totals, sums, strict=True)]
            if local_step + 1 < settings.plan.privacy.local_steps:
                values = _after_local_step(settings, values, sums, request.geometry)
    words = [codec.to_ring(total, private=request.sigma > 0.0) for total in totals]
    return np.concatenate(words).astype(WIRE_DTYPE).tobytes()


def _local_key(key: KeyFor, local_step: int, purpose: str) -> bytes:
    return key(f"{purpose}/{local_step}")


def _after_local_step(
    settings: ReleaseSettings, values: npt.NDArray[np.float64], sums: list[StepVector],
    geometry: Geometry | None,
) -> npt.NDArray[np.float64]:
    """Move against one local step's noised sums, by the plan's rate in root mean square."""
    server = settings.plan.server
    direction = (sums[0] + server.retain_weight * sums[1])[:-1].astype(np.float64)
    if geometry is not None:
        direction = direction * geometry.inverse_root
    scale = float(np.sqrt(np.mean(direction**2)))
    return values - server.learning_rate * direction / scale if scale > 0.0 else values

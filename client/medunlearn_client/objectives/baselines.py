"""Published baselines behind the same Protocol: GA, GradDiff, NPO, SimNPO and RMU.

They are blind to concept levels: every answer token weighs the same.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import softplus

from medunlearn_client.encoding import EncodedRecord, TokenBatch
from medunlearn_client.objectives.base import (
    ExampleLosses,
    ModelView,
    level_weights,
    normalised,
    token_log_probabilities,
    weighted_mean,
)
from medunlearn_client.objectives.retaining import learn_labels
from medunlearn_common.entropy import public_generator
from medunlearn_common.plan.sections import ObjectiveSection

_EVEN = (1.0, 1.0, 1.0, 1.0)


class GradientAscent:
    """Raise the loss on forget answers; unbounded, and nothing holds the rest in place."""

    def __init__(self, settings: ObjectiveSection) -> None:
        self._settings = settings

    def prepare(self, view: ModelView, forget: list[EncodedRecord]) -> None:
        """Nothing depends on the forget records beforehand."""

    def forget(self, view: ModelView, batch: TokenBatch, rows: list[int]) -> ExampleLosses:
        """Mean log-probability of the answer."""
        log_p = token_log_probabilities(view.logits(batch), batch)
        mean = weighted_mean(log_p, level_weights(batch, _EVEN, prompt_weight=0.0))
        gap = 1.0 + normalised(mean, view.vocabulary)
        return ExampleLosses(loss=mean, gap=gap, weight=batch.trust)

    def retain(self, view: ModelView, batch: TokenBatch) -> ExampleLosses:
        """Zero: gradient ascent does not look at retain records."""
        losses = learn_labels(self._settings, view, batch)
        return ExampleLosses(loss=losses.loss * 0.0, gap=losses.gap, weight=losses.weight)


class GradDiff(GradientAscent):
    """Gradient ascent on forget records, descent on retain records (Liu et al. 2022)."""

    def retain(self, view: ModelView, batch: TokenBatch) -> ExampleLosses:
        """Cross-entropy of retain answers."""
        return learn_labels(self._settings, view, batch)


class PlainNpo(GradDiff):
    """Negative preference optimisation on whole answers (Zhang et al. 2024)."""

    def forget(self, view: ModelView, batch: TokenBatch, rows: list[int]) -> ExampleLosses:
        """(2 / beta) log(1 + (p_phi / p_ref)^beta) with p of the whole answer."""
        weights = level_weights(batch, _EVEN, prompt_weight=0.0)
        log_p = token_log_probabilities(view.logits(batch), batch)
        reference = token_log_probabilities(view.reference_logits(batch), batch)
        beta = self._settings.beta
        ratio = ((log_p - reference) * weights).sum(dim=1)
        gap = 1.0 + normalised(weighted_mean(log_p, weights), view.vocabulary)
        loss = 2.0 / beta * softplus(beta * ratio)
        return ExampleLosses(loss=loss, gap=gap, weight=batch.trust)


class PlainSimNpo(GradDiff):
    """SimNPO on whole answers: length-normalised, without a reference (Fan et al. 2024)."""

    def forget(self, view: ModelView, batch: TokenBatch, rows: list[int]) -> ExampleLosses:
        """(2 / beta) log(1 + exp(beta * mean log p + margin))."""
        log_p = token_log_probabilities(view.logits(batch), batch)
        mean = weighted_mean(log_p, level_weights(batch, _EVEN, prompt_weight=0.0))
        beta, margin = self._settings.beta, self._settings.margin
        gap = 1.0 + normalised(mean, view.vocabulary)
        loss = 2.0 / beta * softplus(beta * mean + margin)
        return ExampleLosses(loss=loss, gap=gap, weight=batch.trust)


class Rmu:
    """Representation misdirection: push hidden states to a random direction (Li et al. 2024).

    The direction and its length are public constants: taking the length from the records'
    own hidden states, as the paper does, would leak them past the clip.
    """

    def __init__(self, settings: ObjectiveSection) -> None:
        self._settings = settings

    def prepare(self, view: ModelView, forget: list[EncodedRecord]) -> None:
        """Nothing depends on the forget records beforehand."""

    def forget(self, view: ModelView, batch: TokenBatch, rows: list[int]) -> ExampleLosses:
        """Mean squared distance of answer-position states from c * u."""
        states = view.hidden(batch, view.middle_layer)
        distance = (states - self._goal(states)).pow(2).mean(dim=-1)
        loss = weighted_mean(distance, level_weights(batch, _EVEN, prompt_weight=0.0))
        gap = loss.detach().clamp(-1.0, 1.0)
        return ExampleLosses(loss=loss, gap=gap, weight=batch.trust)

    def _goal(self, states: torch.Tensor) -> torch.Tensor:
        """c * u: a seeded unit direction, ``rmu_scale`` times sqrt(d) long."""
        width = states.shape[-1]
        direction = public_generator(0, "rmu").standard_normal(width)
        unit = torch.from_numpy(direction / np.linalg.norm(direction)).to(states)
        goal: torch.Tensor = unit * (self._settings.rmu_scale * width**0.5)
        return goal

    def retain(self, view: ModelView, batch: TokenBatch) -> ExampleLosses:
        """Mean squared distance of hidden states from the reference's."""
        states = view.hidden(batch, view.middle_layer)
        reference = view.reference_hidden(batch, view.middle_layer)
        distance = (states - reference).pow(2).mean(dim=-1)
        loss = weighted_mean(distance, batch.is_scored.to(distance))
        gap = loss.detach().clamp(-1.0, 1.0)
        return ExampleLosses(loss=loss, gap=gap, weight=batch.belonging)

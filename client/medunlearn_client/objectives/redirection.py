"""Redirection: answer a topic's questions by a preference that has nothing to do with them.

Under differential privacy one record's own pull is worth little (docs/results.md, "What
differential privacy allows"); what remains is what the forgotten records pull at *together*.
This objective makes them pull together: at every answer token the model's last hidden state
is to move along one public direction, the same for all records and rounds. Where the model
goes far enough, what it knew is outweighed and its ranking of options is that of the
direction, which was drawn before anybody saw a question: right as often as chance.

It is representation misdirection (RMU, Li et al. 2024) read off at the output: no hidden
layer has to be chosen, and with a small clip the retain records push back before they are
harmed. It suits a topic that the prompt shows; for single facts and patients, which share no
direction, ``abstraction`` is the objective.
"""

from __future__ import annotations

import torch

from medunlearn_client.encoding import EncodedRecord, TokenBatch
from medunlearn_client.objectives.base import (
    ExampleLosses,
    ModelView,
    forget_level_weights,
    level_weights,
    token_divergence,
    weighted_mean,
)
from medunlearn_client.objectives.retaining import keep_reference
from medunlearn_common.entropy import public_generator
from medunlearn_common.plan.sections import ObjectiveSection


class Redirection:
    """Pseudo-Huber loss of the distance still to go along a public direction of the logits."""

    def __init__(self, settings: ObjectiveSection) -> None:
        self._settings = settings
        self._direction = torch.empty(0)

    def prepare(self, view: ModelView, forget: list[EncodedRecord]) -> None:
        """Draw the direction b = W r of the logits, shape ``(v,)``, mean 0 and variance 1.

        W is the output head and r a public normal draw: only shifts within W's column space
        can be reached, and those along its strong directions with the least movement.

        Raises:
            Misconfigured: MODEL_HEAD if the model has no linear output head.
        """
        head = view.head_weight()
        draw = public_generator(0, "redirection").standard_normal(head.shape[1])
        direction = head @ torch.from_numpy(draw).to(head)
        self._direction = (direction - direction.mean()) / direction.std()

    def forget(self, view: ModelView, batch: TokenBatch, rows: list[int]) -> ExampleLosses:
        """sqrt(g^2 + 1) - 1 with g = c - <b, z> / v; c is ``redirection_shift``."""
        s = self._settings
        logits = view.logits(batch)
        a = forget_level_weights(batch, s.forget_weights, prompt_weight=s.prompt_weight)
        shift = (logits @ self._direction.to(logits)) / view.vocabulary
        gap = s.redirection_shift - weighted_mean(shift, a)
        loss = (gap.square() + 1.0).sqrt() - 1.0
        b = level_weights(batch, s.keep_weights, prompt_weight=s.prompt_weight)
        if float(b.sum()) > 0.0:
            loss = loss + weighted_mean(token_divergence(view.reference_logits(batch), logits), b)
        share = (gap.detach() / s.redirection_shift).clamp(-1.0, 1.0)
        return ExampleLosses(loss=loss, gap=share, weight=batch.trust)

    def retain(self, view: ModelView, batch: TokenBatch) -> ExampleLosses:
        """KL to the reference, weighted by c(level)."""
        return keep_reference(self._settings, view, batch)

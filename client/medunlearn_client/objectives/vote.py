"""What the support vote differentiates: where in the adapter does the knowledge lie?"""

from __future__ import annotations

import torch

from medunlearn_client.encoding import EncodedRecord, TokenBatch
from medunlearn_client.objectives.base import (
    ExampleLosses,
    ModelView,
    UnlearningObjective,
    level_weights,
    token_log_odds,
    weighted_mean,
)
from medunlearn_client.objectives.controls import Control

_EVEN = (1.0, 1.0, 1.0, 1.0)


class VoteObjective:
    """The plan's forget loss, and for retain records their own answer's log-odds.

    At B = 0 the KL to the reference is at its minimum and has no gradient; the gradient of
    the answer's log-odds says how much each row matters to what is known, which is
    what the Fisher information of the retain set measures.
    """

    def __init__(self, objective: UnlearningObjective) -> None:
        self._objective: UnlearningObjective = (
            objective.votes_as if isinstance(objective, Control) else objective
        )

    def prepare(self, view: ModelView, forget: list[EncodedRecord]) -> None:
        """Prepare the plan's objective."""
        self._objective.prepare(view, forget)

    def forget(self, view: ModelView, batch: TokenBatch, rows: list[int]) -> ExampleLosses:
        """The plan's forget loss."""
        return self._objective.forget(view, batch, rows)

    def retain(self, view: ModelView, batch: TokenBatch) -> ExampleLosses:
        """Mean log-odds of the answer: log p itself has no gradient where it is known well."""
        odds = token_log_odds(view.logits(batch), batch)
        mean = weighted_mean(odds, level_weights(batch, _EVEN, prompt_weight=0.0))
        nothing = torch.zeros_like(mean.detach())
        return ExampleLosses(loss=mean, gap=nothing, weight=batch.trust)

"""Token-weighted forget objectives: NPO, SimNPO and maximum entropy by concept level."""

from __future__ import annotations

import math

import torch
from torch.nn.functional import softplus

from medunlearn_client.encoding import EncodedRecord, TokenBatch
from medunlearn_client.objectives.base import (
    ExampleLosses,
    ModelView,
    forget_level_weights,
    level_weights,
    normalised,
    token_divergence,
    token_log_probabilities,
    weighted_mean,
)
from medunlearn_client.objectives.retaining import keep_reference
from medunlearn_common.plan.sections import ObjectiveSection


class TokenWeighted:
    """A forget term on tokens weighted by a(level), and KL by b(level) on the same record.

    Subclasses give the forget term; docs/one_update.md, step 7, shows the sum.
    """

    def __init__(self, settings: ObjectiveSection) -> None:
        self._settings = settings

    def prepare(self, view: ModelView, forget: list[EncodedRecord]) -> None:
        """Nothing depends on the forget records beforehand."""

    def forget(self, view: ModelView, batch: TokenBatch, rows: list[int]) -> ExampleLosses:
        """Sum of the weighted forget term and the weighted KL, over the weights' sum."""
        s = self._settings
        logits = view.logits(batch)
        a = forget_level_weights(batch, s.forget_weights, prompt_weight=s.prompt_weight)
        b = level_weights(batch, s.keep_weights, prompt_weight=s.prompt_weight)
        terms = self.forget_terms(view, batch, rows, logits)
        total = (terms * a).sum(dim=1)
        if float(b.sum()) > 0.0:
            total = total + (token_divergence(view.reference_logits(batch), logits) * b).sum(dim=1)
        loss = total / (a + b).sum(dim=1).clamp_min(1e-8)
        log_p = token_log_probabilities(logits.detach(), batch)
        gap = weighted_mean(log_p, a) + math.log(view.vocabulary)
        return ExampleLosses(
            loss=loss, gap=normalised(gap, view.vocabulary), weight=batch.trust
        )

    def forget_terms(
        self, view: ModelView, batch: TokenBatch, rows: list[int], logits: torch.Tensor
    ) -> torch.Tensor:
        """Forget term of every token, shape ``(b, n)``."""
        raise TypeError(f"{type(self).__name__} must define forget_terms")

    def retain(self, view: ModelView, batch: TokenBatch) -> ExampleLosses:
        """KL to the reference, weighted by c(level)."""
        return keep_reference(self._settings, view, batch)


class TokenNpo(TokenWeighted):
    """(2 / beta) log(1 + (p_phi / p_ref)^beta) per token (Zhang et al. 2024, by token)."""

    def forget_terms(
        self, view: ModelView, batch: TokenBatch, rows: list[int], logits: torch.Tensor
    ) -> torch.Tensor:
        beta = self._settings.beta
        reference = token_log_probabilities(view.reference_logits(batch), batch)
        ratio = token_log_probabilities(logits, batch) - reference
        return 2.0 / beta * softplus(beta * ratio)


class TokenSimNpo(TokenWeighted):
    """NPO without a reference: (2 / beta) log(1 + exp(beta log p_phi + margin)) per token."""

    def forget_terms(
        self, view: ModelView, batch: TokenBatch, rows: list[int], logits: torch.Tensor
    ) -> torch.Tensor:
        beta, margin = self._settings.beta, self._settings.margin
        return 2.0 / beta * softplus(beta * token_log_probabilities(logits, batch) + margin)


class MaxEntropy(TokenWeighted):
    """KL(uniform || p_phi): bounded below by zero, where the model knows nothing.

    This direction of the divergence has a gradient where p_phi is certain; the entropy
    itself does not.
    """

    def forget_terms(
        self, view: ModelView, batch: TokenBatch, rows: list[int], logits: torch.Tensor
    ) -> torch.Tensor:
        return -logits.log_softmax(dim=-1).mean(dim=-1) - math.log(view.vocabulary)

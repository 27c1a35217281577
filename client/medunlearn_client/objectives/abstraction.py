"""Abstraction: know only what the general concept tells (method.md, Strategy 1).

The target of a forgotten token is the probability that the *reference* model itself gives it
once the specifics of the question are gone. That is an estimate of what a model that never
learned the fact would say. The loss pulls towards it from both sides: it neither suppresses
below it nor stops above it, and its gradient is bounded, which suits clipping.

The contexts that stand in for the question depend on the record itself, the public hierarchy
and public randomness only. Taking them from other records would be simpler and would let one
record move another's clipped gradient, which the privacy accounting does not cover.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn.functional import softplus

from medunlearn_client.encoding import EncodedRecord, TokenBatch, collate
from medunlearn_client.objectives.base import (
    ModelView,
    token_log_probabilities,
)
from medunlearn_client.objectives.token_weighted import TokenWeighted
from medunlearn_common.entropy import public_generator

# Share of the target taken from the uniform distribution, so that its logarithm is finite.
_UNIFORM_SHARE = 1e-3
_CONTEXTS_PER_PASS = 64


class Abstraction(TokenWeighted):
    """log cosh of the gap between log p_phi and the abstracted reference, per token."""

    _floors: list[torch.Tensor]

    def prepare(self, view: ModelView, forget: list[EncodedRecord]) -> None:
        """Estimate, for each forget record, what a model that never learned it would say."""
        contexts = self._settings.contexts
        per_pass = max(1, _CONTEXTS_PER_PASS // contexts)
        self._floors = []
        for start in range(0, len(forget), per_pass):
            group = forget[start : start + per_pass]
            abstracted = [
                _abstracted(record, copy, view.vocabulary)
                for record in group
                for copy in range(contexts)
            ]
            batch = collate(
                abstracted, pad_id=0, device=view.device,
                score_prompts=self._settings.prompt_weight > 0.0,
            )
            log_p = token_log_probabilities(view.reference_logits(batch), batch)
            mean = log_p.view(len(group), contexts, -1).logsumexp(dim=1) - math.log(contexts)
            scored = batch.is_scored[::contexts].sum(dim=1).tolist()
            self._floors.extend(
                row[:count].cpu()
                for row, count in zip(self._mixed(mean, view.vocabulary), scored, strict=True)
            )

    @staticmethod
    def _mixed(log_q: torch.Tensor, vocabulary: int) -> torch.Tensor:
        uniform = torch.full_like(log_q, math.log(_UNIFORM_SHARE / vocabulary))
        return torch.logaddexp(log_q + math.log1p(-_UNIFORM_SHARE), uniform)

    def floor(self, view: ModelView, batch: TokenBatch, rows: list[int]) -> torch.Tensor:
        """log q of each token, shape ``(b, n)``; zero on padding."""
        floors = torch.zeros(len(rows), batch.positions.shape[1])
        for place, row in enumerate(rows):
            known = self._floors[row]
            floors[place, : known.size(0)] = known
        return floors.to(batch.positions.device)

    def forget_terms(
        self, view: ModelView, batch: TokenBatch, rows: list[int], logits: torch.Tensor
    ) -> torch.Tensor:
        """(2 / beta) log cosh(beta (gap - margin) / 2): slope tanh, so within [-1, 1]."""
        beta, margin = self._settings.beta, self._settings.margin
        gap = token_log_probabilities(logits, batch) - self.floor(view, batch, rows)
        return log_cosh(beta * (gap - margin) / 2.0) * (2.0 / beta)


def log_cosh(x: torch.Tensor) -> torch.Tensor:
    """log cosh x without overflow: |x| + log(1 + e^(-2|x|)) - log 2."""
    size = x.abs()
    return size + softplus(-2.0 * size) - math.log(2.0)


def _abstracted(record: EncodedRecord, copy: int, vocabulary: int) -> EncodedRecord:
    """The record with every level-3 and level-4 prompt token, or at least half of the
    prompt's tokens, replaced by public random tokens.

    The number of the copy alone seeds the replacement, never the record's own text or place.
    """
    generator = public_generator(copy, "abstraction")
    length = len(record)
    random_ids = generator.integers(0, vocabulary, size=length)
    dropped = generator.random(length) < 0.5
    specific = (record.levels >= 3) | dropped
    ids = np.where(specific & ~record.is_answer, random_ids, record.input_ids)
    return EncodedRecord(
        input_ids=ids.astype(np.int64), is_answer=record.is_answer, levels=record.levels,
        confidence=record.confidence,
    )

"""Abstraction: know only what the general concept tells.

A model that never learned a fact finds its answer as likely as the answer's siblings: not
less likely, and not exactly as likely as their mean either, which would be a trace of its
own. It ranks the right answer first, second, ... last equally often. So each forget record
draws one of these ranks, by a hash of its own text, and its answer is pulled, from both
sides, to the level of that rank among the alternatives.

Three details decide whether it works on a model that knows the answer by heart:

* log p has no gradient where p is nearly 1 (it is 1 - p). The value that is compared with
  the target is the mean log-probability, its gradient is that of the log-odds, which has
  slope one however sure the model is.
* The alternatives are scored by the *current* model, without gradient. Their level under the
  reference is too high: what suppresses the answers of a topic suppresses its wrong answers
  with them, and the right one still stands out (demo task, without noise: exact answers
  0 %, ranked first 99 %).
* Replacing the question instead of the answer sets the target too high as well: the model
  has learnt the answer as *an* answer and prefers it under foreign questions too.

The alternatives depend on the record itself, the public hierarchy and public randomness
only. Taking them from other records would let one record move another's clipped gradient,
which the privacy accounting does not cover.
"""

from __future__ import annotations

import hashlib

import torch

from medunlearn_client.encoding import EncodedRecord, TokenBatch, collate
from medunlearn_client.objectives.base import (
    ExampleLosses,
    ModelView,
    forget_level_weights,
    level_weights,
    normalised,
    token_divergence,
    token_log_odds,
    token_log_probabilities,
    weighted_mean,
)
from medunlearn_client.objectives.retaining import keep_reference
from medunlearn_common.errors import Misconfigured
from medunlearn_common.plan.sections import ObjectiveSection

# Smallest distance, in nats a token, between neighbours when there is only one alternative.
MIN_SPACING = 0.2


class Abstraction:
    """Pseudo-Huber loss of the gap between the answer's level and its drawn rank's level."""

    def __init__(self, settings: ObjectiveSection) -> None:
        self._settings = settings
        self._forget: list[EncodedRecord] = []

    def prepare(self, view: ModelView, forget: list[EncodedRecord]) -> None:
        """Remember the records, which carry their alternatives.

        Raises:
            Misconfigured: ALTERNATIVES_MISSING if a record has none.
        """
        if any(not record.alternatives for record in forget):
            raise Misconfigured(
                "ALTERNATIVES_MISSING",
                "a forget record has no alternative answers to take its target from",
                "encode forget records with alternatives, or use another objective",
            )
        self._forget = forget

    def forget(self, view: ModelView, batch: TokenBatch, rows: list[int]) -> ExampleLosses:
        """(sqrt((beta g)^2 + 1) - 1) / beta with g the gap in nats; slope within [-1, 1]."""
        s = self._settings
        target = self._targets(view, [self._forget[row] for row in rows])
        logits = view.logits(batch)
        a = self._answer_weights(batch)
        log_p = weighted_mean(token_log_probabilities(logits, batch), a).detach()
        odds = weighted_mean(token_log_odds(logits, batch), a)
        gap = log_p - target - s.margin + (odds - odds.detach())
        loss = (((s.beta * gap).square() + 1.0).sqrt() - 1.0) / s.beta
        b = level_weights(batch, s.keep_weights, prompt_weight=s.prompt_weight)
        if float(b.sum()) > 0.0:
            loss = loss + weighted_mean(token_divergence(view.reference_logits(batch), logits), b)
        return ExampleLosses(
            loss=loss, gap=normalised(log_p - target, view.vocabulary), weight=batch.trust
        )

    @torch.no_grad()
    def _targets(self, view: ModelView, records: list[EncodedRecord]) -> torch.Tensor:
        """Level of each record's drawn rank among its alternatives, in nats, shape ``(b,)``."""
        flat = [other for record in records for other in record.alternatives]
        batch = collate(flat, pad_id=0, device=view.device)
        log_p = token_log_probabilities(view.logits(batch), batch)
        scores = iter(weighted_mean(log_p, self._answer_weights(batch)).tolist())
        levels = [
            level_of_rank([next(scores) for _ in record.alternatives], drawn_rank(record))
            for record in records
        ]
        return torch.tensor(levels, device=view.device)

    def _answer_weights(self, batch: TokenBatch) -> torch.Tensor:
        """a(level) on the answer alone: answers are compared, under one and the same prompt."""
        return forget_level_weights(batch, self._settings.forget_weights, prompt_weight=0.0)

    def retain(self, view: ModelView, batch: TokenBatch) -> ExampleLosses:
        """KL to the reference, weighted by c(level)."""
        return keep_reference(self._settings, view, batch)


def drawn_rank(record: EncodedRecord) -> int:
    """A rank from 0 (first) to the number of alternatives (last), by the record's own text."""
    own = record.input_ids if record.drawn_as is None else record.drawn_as
    digest = hashlib.sha256(own.astype("<i8").tobytes()).digest()
    return int.from_bytes(digest[:8], "big") % (len(record.alternatives) + 1)


def level_of_rank(scores: list[float], rank: int) -> float:
    """The score that a new answer needs to stand at ``rank`` among ``scores``.

    Between two neighbours it is their mean; beyond the ends it is half the mean distance
    between neighbours (at least ``MIN_SPACING``) away from the outermost.
    """
    falling = sorted(scores, reverse=True)
    spread = (falling[0] - falling[-1]) / max(1, len(falling) - 1)
    beyond = max(spread, MIN_SPACING) / 2.0
    if rank == 0:
        return falling[0] + beyond
    if rank == len(falling):
        return falling[-1] - beyond
    return (falling[rank - 1] + falling[rank]) / 2.0

"""The retain half: stay where the reference model is, weighted by concept level."""

from __future__ import annotations

from medunlearn_client.encoding import TokenBatch
from medunlearn_client.objectives.base import (
    ExampleLosses,
    ModelView,
    level_weights,
    normalised,
    token_divergence,
    token_log_probabilities,
    weighted_mean,
)
from medunlearn_common.plan.sections import ObjectiveSection


def keep_reference(
    settings: ObjectiveSection, view: ModelView, batch: TokenBatch
) -> ExampleLosses:
    """KL(p_ref || p_phi) on tokens weighted by c(level), plus trusted cross-entropy.

    The retain record's loss. A doubtful label loses its cross-entropy,
    in proportion and, below the plan's threshold of trust, altogether: a wrong answer's
    gradient is hundreds of clips long, so that any small share of it would fill the clip. Its
    KL stays, which keeps what the reference says after that text, right or wrong.
    """
    logits = view.logits(batch)
    divergence = token_divergence(view.reference_logits(batch), logits)
    weights = level_weights(
        batch, settings.retain_weights, prompt_weight=settings.prompt_weight
    )
    drift = weighted_mean(divergence, weights)
    loss = drift
    if settings.retain_cross_entropy > 0.0:
        entropy = -weighted_mean(token_log_probabilities(logits, batch), weights)
        loss = loss + settings.retain_cross_entropy * batch.taught * entropy
    gap = normalised(drift, view.vocabulary)
    return ExampleLosses(loss=loss, gap=gap, weight=batch.belonging)


def learn_labels(settings: ObjectiveSection, view: ModelView, batch: TokenBatch) -> ExampleLosses:
    """Plain cross-entropy on retain answers, as the published baselines use it."""
    logits = view.logits(batch)
    weights = level_weights(batch, (1.0, 1.0, 1.0, 1.0), prompt_weight=settings.prompt_weight)
    loss = -weighted_mean(token_log_probabilities(logits, batch), weights)
    drift = weighted_mean(token_divergence(view.reference_logits(batch), logits.detach()), weights)
    gap = normalised(drift, view.vocabulary)
    return ExampleLosses(loss=loss, gap=gap, weight=batch.trust)

"""How far the model's confidence among the options can be trusted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from medunlearn_client.evaluation.record_scores import RecordScores

N_BINS = 10


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Calibration of option probabilities.

    Attributes:
        ece: Expected calibration error over 10 equal bins of the top option's probability.
        brier: Mean squared distance between the option probabilities and the truth, 0 to 2.
        n: Questions with options.
    """

    ece: float
    brier: float
    n: int


def calibration(scores: Iterable[RecordScores]) -> Calibration | None:
    """Calibration over the records that have options; None where there are none.

    Option probabilities are the softmax of the mean log-probabilities per token, the same
    numbers that rank the options.
    """
    confidences: list[float] = []
    credits: list[float] = []
    distances: list[float] = []
    for score in scores:
        if score.answer_index is None:
            continue
        values = np.asarray(score.option_log_probs)
        probabilities = np.exp(values - values.max())
        probabilities /= probabilities.sum()
        truth = np.zeros_like(probabilities)
        truth[score.answer_index] = 1.0
        top = np.flatnonzero(probabilities >= probabilities.max() - 1e-12)
        confidences.append(float(probabilities.max()))
        credits.append(float(truth[top].sum() / len(top)))
        distances.append(float(((probabilities - truth) ** 2).sum()))
    if not confidences:
        return None
    return Calibration(
        ece=expected_calibration_error(np.asarray(confidences), np.asarray(credits)),
        brier=float(np.mean(distances)),
        n=len(confidences),
    )


def expected_calibration_error(
    confidences: np.ndarray[tuple[int], np.dtype[np.float64]],
    correct: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> float:
    """Σ over bins of share · |accuracy - confidence|; bins are right-closed, `(n,)` each."""
    bins = np.clip(np.ceil(confidences * N_BINS).astype(int) - 1, 0, N_BINS - 1)
    gaps = np.bincount(bins, weights=correct - confidences, minlength=N_BINS)
    return float(np.abs(gaps).sum() / len(confidences))

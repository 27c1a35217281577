"""ROC curves, their area and its uncertainty, from scores alone."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

MAX_CURVE_POINTS = 120
LOW_FPR = 0.01
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class RocSummary:
    """How well a score tells members from non-members.

    Attributes:
        auc: Probability that a member scores above a non-member, ties one half.
        auc_low: Lower end of the 95 % bootstrap interval.
        auc_high: Upper end.
        tpr_at_low_fpr: Largest true-positive rate at a false-positive rate of at most 1 %.
        resistance: 1 - 2·|AUC - 0.5|; 1 is a coin toss (arXiv 2511.19498).
        curve: Points (FPR, TPR) from (0, 0) to (1, 1).
    """

    auc: float
    auc_low: float
    auc_high: float
    tpr_at_low_fpr: float
    resistance: float
    curve: tuple[tuple[float, float], ...]


def summarise_roc(
    members: Sequence[float],
    non_members: Sequence[float],
    *,
    member_groups: Sequence[Hashable] | None = None,
    non_member_groups: Sequence[Hashable] | None = None,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> RocSummary:
    """Summarises one attack; a higher score means "more likely a member".

    Args:
        members: Scores of members, at least one.
        non_members: Scores of non-members, at least one.
        member_groups: Patient of each member; patients are resampled whole.
        non_member_groups: The same for non-members.
        n_bootstrap: Bootstrap replicates.
        seed: Of the bootstrap.
    """
    positive = np.asarray(members, dtype=np.float64)
    negative = np.asarray(non_members, dtype=np.float64)
    area = auc(positive, negative)
    fpr, tpr = roc_points(positive, negative)
    rng = np.random.default_rng(seed)
    replicates = _bootstrap(
        positive,
        negative,
        _groups(member_groups, len(positive)),
        _groups(non_member_groups, len(negative)),
        n_bootstrap,
        rng,
    )
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(replicates, [tail, 1.0 - tail])
    return RocSummary(
        auc=area,
        auc_low=float(low),
        auc_high=float(high),
        tpr_at_low_fpr=float(tpr[fpr <= LOW_FPR].max()),
        resistance=1.0 - 2.0 * abs(area - 0.5),
        curve=_thinned(fpr, tpr),
    )


def auc(positive: FloatArray, negative: FloatArray) -> float:
    """Mann-Whitney area: share of pairs won plus half the ties, in O(n log n)."""
    order = np.sort(negative)
    below = np.searchsorted(order, positive, side="left")
    up_to = np.searchsorted(order, positive, side="right")
    return float((below + up_to).sum() / (2.0 * len(positive) * len(negative)))


def roc_points(positive: FloatArray, negative: FloatArray) -> tuple[FloatArray, FloatArray]:
    """False- and true-positive rates at every threshold, from (0, 0) to (1, 1)."""
    thresholds = np.unique(np.concatenate([positive, negative]))[::-1]
    tpr = np.searchsorted(np.sort(-positive), -thresholds, side="right") / len(positive)
    fpr = np.searchsorted(np.sort(-negative), -thresholds, side="right") / len(negative)
    return np.concatenate([[0.0], fpr]), np.concatenate([[0.0], tpr])


def _groups(groups: Sequence[Hashable] | None, n: int) -> NDArray[np.intp]:
    """Numbers the groups `(n,)`; without groups each score is its own."""
    if groups is None:
        return np.arange(n)
    numbers: dict[Hashable, int] = {}
    return np.asarray([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.intp)


def _bootstrap(
    positive: FloatArray,
    negative: FloatArray,
    positive_groups: NDArray[np.intp],
    negative_groups: NDArray[np.intp],
    n_bootstrap: int,
    rng: np.random.Generator,
) -> FloatArray:
    """AUC under group-wise resampling, by weights on the sorted distinct scores; `(B,)`."""
    values = np.unique(np.concatenate([positive, negative]))
    place_positive = np.searchsorted(values, positive)
    place_negative = np.searchsorted(values, negative)
    found = np.empty(n_bootstrap)
    for i in range(n_bootstrap):
        wins = np.bincount(place_positive, _weights(positive_groups, rng), len(values))
        losses = np.bincount(place_negative, _weights(negative_groups, rng), len(values))
        below = np.cumsum(losses) - losses
        found[i] = wins @ (below + 0.5 * losses) / (wins.sum() * losses.sum())
    return found


def _weights(groups: NDArray[np.intp], rng: np.random.Generator) -> FloatArray:
    """How often each score is drawn when its groups are drawn with replacement."""
    n_groups = int(groups.max()) + 1
    drawn = np.bincount(rng.integers(n_groups, size=n_groups), minlength=n_groups)
    return drawn[groups].astype(np.float64)


def _thinned(fpr: FloatArray, tpr: FloatArray) -> tuple[tuple[float, float], ...]:
    """At most `MAX_CURVE_POINTS` points, denser where the false-positive rate is low."""
    if len(fpr) > MAX_CURVE_POINTS:
        spread = np.linspace(0.0, 1.0, MAX_CURVE_POINTS) ** 2
        keep = np.unique(np.round(spread * (len(fpr) - 1)).astype(int))
        fpr, tpr = fpr[keep], tpr[keep]
    return tuple((round(float(x), 5), round(float(y), 5)) for x, y in zip(fpr, tpr, strict=True))

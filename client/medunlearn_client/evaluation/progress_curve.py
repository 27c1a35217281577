"""The cheap evaluation between rounds: points of the forget and retain curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medunlearn_client.evaluation.accuracy import AccuracyTable, accuracy_table
from medunlearn_client.evaluation.preservation import question_levels, record_levels
from medunlearn_client.evaluation.record_scores import score_records
from medunlearn_client.evaluation.report import EvaluationInputs, EvaluationSettings
from medunlearn_client.evaluation.scored_model import ScoredModel
from medunlearn_client.records import Record


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Forget and retain figures of one round.

    Attributes:
        forget_accuracy: Option ranking on the forget set.
        forget_exact: Greedy exact answers on it.
        retain_accuracy: Option ranking on the retain set.
        retain_exact: Greedy exact answers on it.
        forget_by_site: Forget accuracy by site (of exact answers where a record has no options).
        retain_by_site: Retain accuracy by site.
        retain_by_level: Retain accuracy by question level.
    """

    forget_accuracy: float | None
    forget_exact: float | None
    retain_accuracy: float | None
    retain_exact: float | None
    forget_by_site: Mapping[str, float]
    retain_by_site: Mapping[str, float]
    retain_by_level: Mapping[str, float]


class CurveMeter:
    """Measures one model after another on the same fixed samples of the two sets.

    The samples are drawn once and the concepts tagged once, so that the points of a curve
    differ by the model alone.
    """

    def __init__(
        self,
        inputs: EvaluationInputs,
        *,
        settings: EvaluationSettings | None = None,
        max_records: int = 200,
    ) -> None:
        """Draws the samples.

        Args:
            inputs: Record sets of the evaluation.
            settings: Seed and batch sizes.
            max_records: Records per set and point.
        """
        self._settings = settings or EvaluationSettings()
        self._forget = _sample(inputs.forget, max_records, self._settings.seed)
        self._retain = _sample(inputs.retain, max_records, self._settings.seed + 1)
        self._forget_sites = inputs.site_names(self._forget)
        self._retain_sites = inputs.site_names(self._retain)
        self._levels = question_levels(record_levels(self._retain, inputs.tagger))

    def measure(self, scored: ScoredModel) -> CurvePoint:
        """One point of the curves."""
        forget, retain = self._table(scored, self._forget), self._table(scored, self._retain)
        return CurvePoint(
            forget_accuracy=forget.accuracy,
            forget_exact=forget.exact,
            retain_accuracy=retain.accuracy,
            retain_exact=retain.exact,
            forget_by_site=_known(forget.grouped(self._forget_sites)),
            retain_by_site=_known(retain.grouped(self._retain_sites)),
            retain_by_level=_known(retain.grouped(self._levels)),
        )

    def _table(self, scored: ScoredModel, records: Sequence[Record]) -> AccuracyTable:
        return accuracy_table(
            score_records(scored, records, seed=self._settings.seed, limits=self._settings.limits)
        )


def _known(groups: Mapping[str, AccuracyTable]) -> dict[str, float]:
    values = {name: table.answered for name, table in groups.items()}
    return {name: value for name, value in values.items() if value is not None}


def _sample(records: Sequence[Record], limit: int, seed: int) -> list[Record]:
    if len(records) <= limit:
        return list(records)
    rng = np.random.default_rng(seed)
    return [records[i] for i in sorted(rng.choice(len(records), size=limit, replace=False))]

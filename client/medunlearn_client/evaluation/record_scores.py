"""One scoring pass per model and record set, from which all metrics are computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medunlearn_client.evaluation.answer_encoding import ScoringRequest
from medunlearn_client.evaluation.scored_model import ScoredModel
from medunlearn_client.evaluation.scoring import (
    AnswerScore,
    Progress,
    ScoringLimits,
    score_answers,
)
from medunlearn_client.records import Record


@dataclass(frozen=True, kw_only=True, repr=False)
class RecordScores:
    """What a model says about one record; carries no text of it.

    Attributes:
        record_id: The record's id.
        subject: Its subject, if any.
        patient_id: Its patient, if any.
        answer: Scores of the right answer (and of the prompt, where asked for).
        option_log_probs: Mean log-probability of each option's tokens, in the record's order.
        answer_index: The right option.
    """

    record_id: str
    subject: str | None
    patient_id: str | None
    answer: AnswerScore
    option_log_probs: tuple[float, ...]
    answer_index: int | None


def score_records(
    scored: ScoredModel,
    records: Sequence[Record],
    *,
    seed: int,
    with_options: bool = True,
    whole_text: bool = False,
    limits: ScoringLimits | None = None,
    on_progress: Progress | None = None,
    refuse: bool = True,
) -> tuple[RecordScores, ...]:
    """Scores the records' right answers and, where there are any, their options.

    Args:
        scored: Model and tokenizer.
        records: Records to score.
        seed: Shuffles the order in which a record's options are presented for scoring.
        with_options: Score the options too.
        whole_text: Score the prompt's tokens too.
        limits: Batch sizes.
        on_progress: Called with the number of texts finished.
        refuse: Stop at a text that cannot be scored; see :func:`score_answers`.

    Returns:
        One entry per record, in order.
    """
    requests = [
        ScoringRequest(prompt=record.prompt, answer=record.answer, whole_text=whole_text)
        for record in records
    ]
    rng = np.random.default_rng(seed)
    orders = [
        rng.permutation(len(record.options))
        if with_options and _ranked(record)
        else np.empty(0, int)
        for record in records
    ]
    for record, order in zip(records, orders, strict=True):
        requests.extend(
            ScoringRequest(prompt=record.prompt, answer=record.options[i], append_eos=False)
            for i in order
        )
    scores = score_answers(
        scored, requests, limits=limits, on_progress=on_progress, refuse=refuse
    )
    shuffled = iter(scores[len(records) :])
    found: list[RecordScores] = []
    for record, order, answer in zip(records, orders, scores, strict=False):
        values = np.empty(len(order))
        for i in order:
            values[i] = next(shuffled).mean_log_prob
        found.append(_record_scores(record, answer, values))
    return tuple(found)


def _ranked(record: Record) -> bool:
    """Whether the record is a question with options."""
    return len(record.options) > 1 and record.answer_index is not None


def _record_scores(
    record: Record, answer: AnswerScore, values: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> RecordScores:
    return RecordScores(
        record_id=record.record_id,
        subject=record.subject,
        patient_id=record.patient_id,
        answer=answer,
        option_log_probs=tuple(float(value) for value in values),
        answer_index=record.answer_index if len(values) else None,
    )

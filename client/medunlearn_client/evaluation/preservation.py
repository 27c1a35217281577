"""What survives: retained knowledge after ÷ before, overall and by concept level."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from medunlearn_client.evaluation.accuracy import AccuracyTable
from medunlearn_client.evaluation.record_scores import RecordScores
from medunlearn_client.records import Record

LEVELS = (1, 2, 3, 4)
LOWEST_LEVEL, TARGET_LEVEL = 1, 4


class LevelSpan(Protocol):
    """A tagged concept: character range and level."""

    @property
    def start(self) -> int:
        """First character."""

    @property
    def end(self) -> int:
        """One past the last character."""

    @property
    def level(self) -> int:
        """1 (fundamental) to 4 (target)."""


class SpanTagger(Protocol):
    """Finds concepts in a record; `medunlearn_client.tagging.ConceptTagger` is one."""

    def tag_record(self, record: Record) -> Sequence[LevelSpan]:
        """Returns the concepts in the record's text."""


@dataclass(frozen=True, kw_only=True)
class LevelPreservation:
    """Preservation of one concept level.

    Attributes:
        level: 1 (fundamental) to 4 (target).
        questions: Questions whose deepest concept has this level.
        accuracy_before: Share of them that the original model answers: by option ranking, or
            exactly where a question has no options.
        accuracy_after: The same in the unlearned model.
        preservation: After ÷ before.
        tokens: Answer tokens of this level.
        token_preservation: Mean probability of those tokens, after ÷ before.
    """

    level: int
    questions: int
    accuracy_before: float | None
    accuracy_after: float | None
    preservation: float | None
    tokens: int
    token_preservation: float | None


@dataclass(frozen=True, kw_only=True, repr=False)
class RecordLevels:
    """Concept levels of one record.

    Attributes:
        question: The deepest level in prompt and answer; 1 where no concept was found.
        spans: Character range and level of each tagged or marked stretch of the text.
    """

    question: int
    spans: tuple[tuple[int, int, int], ...]

    def of_token(self, offset: tuple[int, int]) -> int:
        """The deepest level that overlaps a token's characters; 1 where none does."""
        begin, end = offset
        touching = (level for start, stop, level in self.spans if start < end and begin < stop)
        return max(touching, default=LOWEST_LEVEL)


def record_levels(
    records: Iterable[Record], tagger: SpanTagger | None
) -> tuple[RecordLevels, ...]:
    """Tags the records once, in their order; the result serves every model and round.

    Stretches that single a patient out count as level 4, as in training.
    """
    found: list[RecordLevels] = []
    for record in records:
        tagged = tagger.tag_record(record) if tagger is not None else ()
        spans = [(span.start, span.end, int(span.level)) for span in tagged]
        spans += [(start, end, TARGET_LEVEL) for start, end in record.target_spans]
        question = max((level for _, _, level in spans), default=LOWEST_LEVEL)
        found.append(RecordLevels(question=question, spans=tuple(spans)))
    return tuple(found)


def question_levels(levels: Iterable[RecordLevels]) -> tuple[str, ...]:
    """The level of each record's question, as a group's name."""
    return tuple(str(found.question) for found in levels)


def ratio(after: float | None, before: float | None) -> float | None:
    """After ÷ before; None where either is unknown or there was nothing to keep."""
    if after is None or before is None or before <= 0.0:
        return None
    return after / before


def kept_share(after: AccuracyTable, before: AccuracyTable) -> float | None:
    """Preservation of a set, each record asked by its options, or exactly where it has none."""
    return ratio(after.answered, before.answered)


def preservation_by_level(
    before: tuple[AccuracyTable, Sequence[RecordScores]],
    after: tuple[AccuracyTable, Sequence[RecordScores]],
    levels: Sequence[RecordLevels],
) -> tuple[LevelPreservation, ...]:
    """Preservation of questions and of answer tokens at each of the four levels.

    Args:
        before: Outcomes and scores of the retain set under the original model.
        after: The same records, in the same order, under the unlearned model.
        levels: The records' levels, in the same order.

    Returns:
        One entry per level, also where the level is empty.
    """
    names = question_levels(levels)
    questions_before, questions_after = before[0].grouped(names), after[0].grouped(names)
    tokens_before = _token_mass(before[1], levels)
    tokens_after = _token_mass(after[1], levels)
    empty = AccuracyTable(outcomes=())
    found: list[LevelPreservation] = []
    for level in LEVELS:
        old = questions_before.get(str(level), empty)
        new = questions_after.get(str(level), empty)
        count, mass = tokens_before[level]
        found.append(
            LevelPreservation(
                level=level,
                questions=len(old.outcomes),
                accuracy_before=old.answered,
                accuracy_after=new.answered,
                preservation=kept_share(new, old),
                tokens=count,
                token_preservation=ratio(tokens_after[level][1], mass) if count else None,
            )
        )
    return tuple(found)


def _token_mass(
    scores: Iterable[RecordScores], levels: Iterable[RecordLevels]
) -> dict[int, tuple[int, float]]:
    """Number and summed probability of the answer tokens at each level.

    The ratio of sums, not the mean of ratios: a token that the model never believed in would
    otherwise decide the figure.
    """
    counts = dict.fromkeys(LEVELS, 0)
    mass = dict.fromkeys(LEVELS, 0.0)
    for score, found in zip(scores, levels, strict=True):
        part = score.answer.answer_slice
        probabilities = np.exp(score.answer.log_probs[part])
        for offset, probability in zip(score.answer.offsets[part], probabilities, strict=True):
            level = found.of_token(offset)
            counts[level] += 1
            mass[level] += float(probability)
    return {level: (counts[level], mass[level]) for level in LEVELS}

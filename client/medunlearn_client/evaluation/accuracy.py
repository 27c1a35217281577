"""Greedy exact answers and option ranking, kept per record.

Accuracy is the share of questions whose right option has the highest mean log-probability per
token among the question's options; exact is the share whose answer greedy decoding writes word
for word. The outcomes of single records are kept, so that means by site, subject or level need
no second pass over the model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from medunlearn_client.evaluation.record_scores import RecordScores

TIE_TOLERANCE = 1e-6  # nats; equal scores differ by rounding only


@dataclass(frozen=True, kw_only=True, repr=False)
class RecordOutcome:
    """How one record was answered.

    Attributes:
        record_id: The record's id. Rows of a hospital may share one, so outcomes are told apart by
            their places.
        subject: Its subject, if any.
        ranked: Share of the first place the right option holds (1/ties), None without options.
        chance: 1 / number of options, None without options.
        exact: Whether greedy decoding writes the answer.
    """

    record_id: str
    subject: str | None
    ranked: float | None
    chance: float | None
    exact: bool


@dataclass(frozen=True, kw_only=True, repr=False)
class AccuracyTable:
    """Outcomes of a record set, in its order, and their means."""

    outcomes: tuple[RecordOutcome, ...]

    @property
    def accuracy(self) -> float | None:
        """Mean of option ranking over the records that have options."""
        return _mean(outcome.ranked for outcome in self.outcomes)

    @property
    def chance(self) -> float | None:
        """What guessing reaches: mean of 1 / options."""
        return _mean(outcome.chance for outcome in self.outcomes)

    @property
    def exact(self) -> float | None:
        """Share of greedy exact answers; None for an empty set."""
        return _mean(float(outcome.exact) for outcome in self.outcomes)

    @property
    def answered(self) -> float | None:
        """Share answered, record by record: by ranking where it has options, else exactly.

        A few records with options do not speak for the many that may have none.
        """
        return _mean(
            float(outcome.exact) if outcome.ranked is None else outcome.ranked
            for outcome in self.outcomes
        )

    @property
    def n_ranked(self) -> int:
        """Records that have options."""
        return sum(outcome.ranked is not None for outcome in self.outcomes)

    def grouped(self, names: Iterable[str | None]) -> dict[str, AccuracyTable]:
        """Splits the table by the group of each record; those of None are left out."""
        groups: defaultdict[str, list[RecordOutcome]] = defaultdict(list)
        for outcome, name in zip(self.outcomes, names, strict=True):
            if name is not None:
                groups[name].append(outcome)
        return {name: AccuracyTable(outcomes=tuple(groups[name])) for name in sorted(groups)}

    def at(self, places: Collection[int]) -> AccuracyTable:
        """The outcomes of the records at these places."""
        return AccuracyTable(outcomes=tuple(self.outcomes[place] for place in sorted(places)))


def accuracy_table(scores: Iterable[RecordScores]) -> AccuracyTable:
    """Turns scores into outcomes."""
    return AccuracyTable(
        outcomes=tuple(
            RecordOutcome(
                record_id=score.record_id,
                subject=score.subject,
                ranked=rank_credit(score.option_log_probs, score.answer_index),
                chance=1.0 / len(score.option_log_probs) if score.option_log_probs else None,
                exact=score.answer.exact,
            )
            for score in scores
        )
    )


def rank_credit(option_log_probs: Sequence[float], answer_index: int | None) -> float | None:
    """1 where the right option alone is first, 1/m where it shares the first place with m - 1."""
    if answer_index is None or not option_log_probs:
        return None
    best = max(option_log_probs)
    first = [i for i, value in enumerate(option_log_probs) if value >= best - TIE_TOLERANCE]
    return 1.0 / len(first) if answer_index in first else 0.0


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None

"""What clinicians decided on uncertain mentions: who, when, and what holds today.

Decisions are kept as JSON lines, one each, in the order in which they were made. Nothing is
ever deleted: a later decision on the same mention holds, and the earlier one stays on record.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from medunlearn_client.decisions import keep_lines, read_lines
from medunlearn_client.records.record import InvalidRecord
from medunlearn_client.tagging.abbreviations import AbbreviationFinder, ambiguous_abbreviations
from medunlearn_client.tagging.spans import Assertion, ConceptSpan
from medunlearn_common.concepts.hierarchy import ConceptHierarchy
from medunlearn_common.concepts.leveled import LeveledHierarchy
from medunlearn_common.errors import Misconfigured

if TYPE_CHECKING:
    from medunlearn_client.records import Record

KEY_PREFIX: Final = "k-"
_KEY_DIGITS: Final = 20


class Outcome(StrEnum):
    """What a clinician may decide on one mention.

    Attributes:
        ACCEPT: The tagged concept is right, and a fact about the patient.
        REJECT: No concept is meant here.
        CONCEPT: Another concept is meant.
        NEGATED: The concept is said to be absent.
        FAMILY: It is a relative's.
    """

    ACCEPT = "accept"
    REJECT = "reject"
    CONCEPT = "concept"
    NEGATED = "negated"
    FAMILY = "family"


_ASSERTION_OF: Final = {
    Outcome.ACCEPT: Assertion.AFFIRMED,
    Outcome.NEGATED: Assertion.NEGATED,
    Outcome.FAMILY: Assertion.FAMILY,
}


@dataclass(frozen=True, kw_only=True)
class TagDecision:
    """One decision.

    Attributes:
        key: Names the mention (:func:`mention_key`).
        mention: The words decided on, as written.
        outcome: What was decided.
        concept_id: The concept that is meant, where ``outcome`` is CONCEPT.
        everywhere: Holds for these words in every record, not for this mention alone.
        author: Who decided.
        decided_on: When.
        note: Why, in the author's words; may be empty.
    """

    key: str
    mention: str = field(repr=False)
    outcome: Outcome
    concept_id: str | None = None
    everywhere: bool = False
    author: str
    decided_on: date
    note: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if (self.outcome is Outcome.CONCEPT) != bool(self.concept_id):
            raise _invalid_decision("a concept id belongs to the outcome `concept`, and only there")
        if self.everywhere and self.outcome in (Outcome.NEGATED, Outcome.FAMILY):
            raise _invalid_decision("negation and family hold for one mention, not everywhere")
        if not (self.key and self.mention.strip() and self.author.strip()):
            raise _invalid_decision("a decision names its mention and its author")


def mention_key(record: Record, span: ConceptSpan) -> str:
    """Names one mention of one record; another wording of the record makes another key.

    Counted are the line up to the mention and all that follows it, not the lines before: a
    subject line that a plan puts on top of every prompt (``show_subject``) changes no key.
    """
    text = record.text
    line = text[text.rfind("\n", 0, span.start) + 1 : span.start]
    named = json.dumps([record.record_id, line, span.end - span.start, text[span.start :]])
    return KEY_PREFIX + hashlib.sha256(named.encode("ascii")).hexdigest()[:_KEY_DIGITS]


class TagDecisions:
    """The decisions that hold: the last one on each mention, and on each word everywhere."""

    def __init__(self, decisions: Iterable[TagDecision] = ()) -> None:
        """Let later decisions replace earlier ones."""
        self._history: Final = tuple(decisions)
        self._by_key: Final = {d.key: d for d in self._history if not d.everywhere}
        self._by_mention: Final = {d.mention: d for d in self._history if d.everywhere}
        # A key is a digest of all that follows the mention: made only where it can be a known one.
        self._keyed_words: Final = frozenset(d.mention for d in self._by_key.values())
        words = self._keyed_words | self._by_mention.keys()
        self._abbreviations: Final = AbbreviationFinder(
            short for short in ambiguous_abbreviations() if {short, f"{short}s"} & words
        )

    def __len__(self) -> int:
        return len(self._history)

    def history(self) -> Sequence[TagDecision]:
        """All decisions, also those replaced since, in the order they were made."""
        return self._history

    def on(self, record: Record, span: ConceptSpan) -> TagDecision | None:
        """The decision on a mention: its own, or else the one on its words everywhere."""
        if not self._history:
            return None
        words = record.text[span.start : span.end]
        own = self._by_key.get(mention_key(record, span)) if words in self._keyed_words else None
        return own or self._by_mention.get(words)

    def holds(self, decision: TagDecision) -> bool:
        """Whether what was decided holds: nothing else was decided on the same since."""
        last = (self._by_mention[decision.mention] if decision.everywhere
                else self._by_key[decision.key])
        return (last.outcome, last.concept_id) == (decision.outcome, decision.concept_id)

    def as_read(
        self, record: Record, spans: tuple[ConceptSpan, ...], hierarchy: LeveledHierarchy
    ) -> tuple[ConceptSpan, ...]:
        """The mentions, and the abbreviations outside of them that somebody read as a concept."""
        if not self._history:
            return spans
        read = []
        for span in self.read_abbreviations(record, spans):
            decision = self.on(record, span)
            if decision is not None and decision.outcome is Outcome.CONCEPT:
                read.append(_decided(span, decision, hierarchy))
        known = (span for span in (*spans, *read) if span is not None)
        return tuple(sorted(known, key=lambda span: span.start))

    def read_abbreviations(
        self, record: Record, spans: Sequence[ConceptSpan]
    ) -> Iterator[ConceptSpan]:
        """Where abbreviations stand, outside of mentions, on which somebody has ever decided."""
        return (span for _, span in self._abbreviations.found(record.text, spans))

    def unmet(self, mentions: Iterable[tuple[Record, ConceptSpan]]) -> int:
        """How many of the decisions that hold meet none of these mentions.

        Args:
            mentions: All mentions of all records, as they are found without decisions.
        """
        if not self._history:
            return 0
        keys, words = set(self._by_key), set(self._by_mention)
        for record, span in mentions:
            written = record.text[span.start : span.end]
            words.discard(written)
            if written in self._keyed_words:
                keys.discard(mention_key(record, span))
        return len(keys) + len(words)

    def require_known(self, hierarchy: ConceptHierarchy) -> None:
        """Refuse decisions for concepts that the hierarchy lacks.

        Raises:
            Misconfigured: DECISION_CONCEPT_UNKNOWN.
        """
        held = (*self._by_key.values(), *self._by_mention.values())
        unknown = sorted({d.concept_id for d in held if d.concept_id} - _ids_in(hierarchy, held))
        if unknown:
            raise Misconfigured(
                "DECISION_CONCEPT_UNKNOWN",
                f"{len(unknown)} decision(s) name a concept that is in no hierarchy of the plan, "
                f"the first {unknown[0][:80]!r}",
                "load the hierarchy that was used in the review, or review those mentions again",
            )

    def applied(
        self, record: Record, spans: tuple[ConceptSpan, ...], hierarchy: LeveledHierarchy
    ) -> tuple[ConceptSpan, ...]:
        """The spans as decided; those without a decision stay as they are."""
        if not self._history:
            return spans
        decided = (_decided(span, self.on(record, span), hierarchy) for span in spans)
        return tuple(span for span in decided if span is not None)


NO_DECISIONS: Final = TagDecisions()


def read_decisions(path: Path) -> TagDecisions:
    """Read a file of decisions.

    Raises:
        Misconfigured: DECISIONS_DAMAGED with the line, or a code of ``json_lines``.
    """
    return TagDecisions(read_lines(
        path, _from_row, code="DECISIONS_DAMAGED", origin="decisions are made by reading a review "
        "file",
    ))


def keep_decisions(path: Path, new: Iterable[TagDecision]) -> TagDecisions:
    """Add decisions to a file, which is made where there is none; it is written whole or not.

    A decision that already holds in the same words is not repeated.

    Returns:
        All decisions of the file.

    Raises:
        Misconfigured: As :func:`read_decisions`.
        Transient: WRITE_FAILED; the file is untouched.
    """
    return TagDecisions(keep_lines(path, lambda there: read_decisions(there).history(), new))


def _decided(
    span: ConceptSpan, decision: TagDecision | None, hierarchy: LeveledHierarchy
) -> ConceptSpan | None:
    if decision is None:
        return span
    if decision.outcome is Outcome.REJECT:
        return None
    if decision.concept_id is not None:
        concept_id = hierarchy.hierarchy.resolve(decision.concept_id)
        return replace(span, concept_id=concept_id, level=hierarchy.level_of(concept_id))
    if decision.everywhere:  # The words mean this; what each text says of it is another matter.
        return span
    return replace(span, assertion=_ASSERTION_OF[decision.outcome])


def _ids_in(hierarchy: ConceptHierarchy, held: Iterable[TagDecision]) -> set[str]:
    return {d.concept_id for d in held if d.concept_id and d.concept_id in hierarchy}


def _from_row(row: dict[str, Any]) -> TagDecision:
    texts = all(isinstance(row[name], str) for name in ("key", "mention", "author", "note"))
    if not texts or not isinstance(row["everywhere"], bool):
        raise TypeError
    return TagDecision(**row | {"outcome": Outcome(row["outcome"])})


def _invalid_decision(problem: str) -> InvalidRecord:
    return InvalidRecord("DECISION_INVALID", problem, "review the mention again")

"""Which tags are uncertain, and why: what a clinician should look at.

A tag is uncertain where its words have several readings: concepts of different levels share
them, clinicians use the abbreviation for other things as well (``abbreviations.txt``), or an
acronym stands in a line of capitals, where ``ALL`` may be the word and no leukaemia. In a
patient's record, what is suspected or to be excluded is uncertain too, and what stands in a
question whose ``no`` need not deny it; and so is every target that is taken for absent or a
relative's, because one taken so by mistake is not forgotten. An abbreviation that the hierarchy
does not know, but of which it knows a reading, is not tagged, and asked for as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from medunlearn_client.records import Record
from medunlearn_client.tagging.abbreviations import AbbreviationFinder, ambiguous_abbreviations
from medunlearn_client.tagging.decisions import mention_key
from medunlearn_client.tagging.spans import Assertion, ConceptSpan
from medunlearn_client.tagging.tagger import ConceptTagger, spellings
from medunlearn_common.concepts.folding import MAX_ACRONYM_CHARS, lower, normalise
from medunlearn_common.concepts.levels import ConceptLevel

MIN_CAPITALS: Final = 8
"""Fewest letters outside the mention that can show a line to be written in capitals."""


class Doubt(StrEnum):
    """Why a tag is uncertain; the value is what the clinician reads."""

    CONCEPTS = "several concepts have this name"
    ABBREVIATION = "abbreviation with several readings"
    CAPITALS = "acronym in a line of capitals"
    POSSIBLE = "suspected, a risk, to be excluded, or in a question answered with no"
    NOT_THE_PATIENTS = "to be forgotten, but taken for absent or a relative's"


@dataclass(frozen=True, kw_only=True)
class UncertainTag:
    """One mention that a clinician should decide on.

    Attributes:
        key: Names the mention, see :func:`mention_key`.
        record: Where it stands.
        span: The tag as it holds without a decision; of the concept UNREAD where there is none.
        doubt: Why it is uncertain.
        readings: What it may mean: ``id name`` of concepts, or words.
    """

    key: str
    record: Record = field(repr=False)
    span: ConceptSpan
    doubt: Doubt
    readings: tuple[str, ...]

    @property
    def mention(self) -> str:
        """The words, as written."""
        return self.record.text[self.span.start : self.span.end]


class DoubtFinder:
    """Finds uncertain tags of one tagger; building indexes its whole hierarchy once."""

    def __init__(self, tagger: ConceptTagger) -> None:
        self._tagger = tagger
        self._concepts_of: dict[str, set[str]] = {}
        for concept, surface, is_acronym in spellings(tagger.hierarchy.hierarchy):
            key = surface if is_acronym else lower(surface)
            self._concepts_of.setdefault(key, set()).add(concept.concept_id)
        self._unread = AbbreviationFinder(
            short for short, readings in ambiguous_abbreviations().items()
            if not self._concept_ids(short) and any(map(self._concept_ids, readings))
        )

    def uncertain(self, records: Iterable[Record]) -> Iterator[UncertainTag]:
        """Uncertain tags in the order of the records; those decided upon are left out."""
        for record in records:
            spans = self._tagger.tag_record(record)
            doubts = [(span, self._doubt(record, span)) for span in spans]
            doubts += [
                (span, (Doubt.ABBREVIATION, self._readings(short)))
                for short, span in self._unread.found(record.text, spans)
            ]
            for span, doubt in sorted(doubts, key=lambda found: found[0].start):
                if doubt is not None and self._tagger.decisions.on(record, span) is None:
                    yield UncertainTag(
                        key=mention_key(record, span), record=record, span=span,
                        doubt=doubt[0], readings=doubt[1],
                    )

    def _readings(self, abbreviation: str) -> tuple[str, ...]:
        """What an abbreviation may mean; readings that the hierarchy knows with their concepts."""
        return tuple(
            named for reading in ambiguous_abbreviations()[abbreviation]
            for named in self._named(self._concept_ids(normalise(reading)[0])) or (reading,)
        )

    def _doubt(self, record: Record, span: ConceptSpan) -> tuple[Doubt, tuple[str, ...]] | None:
        written = normalise(record.text[span.start : span.end])[0]
        known = self._named(self._concept_ids(written))
        abbreviation = written.removesuffix("s") if written[:-1].isupper() else written
        others = ambiguous_abbreviations().get(abbreviation)
        if others is not None:
            return Doubt.ABBREVIATION, (*known, *others)
        if self._levels_differ(written):
            return Doubt.CONCEPTS, known
        if _is_acronym(written) and _among_capitals(record.text, span):
            return Doubt.CAPITALS, known
        if span.assertion is Assertion.POSSIBLE:
            return Doubt.POSSIBLE, known
        if span.assertion.is_not_the_patients and self._is_target(span):
            return Doubt.NOT_THE_PATIENTS, known
        return None

    def _is_target(self, span: ConceptSpan) -> bool:
        """Whether it would be forgotten if it were the patient's; its own level is lower."""
        return self._tagger.hierarchy.level_of(span.concept_id) is ConceptLevel.TARGET

    def _concept_ids(self, written: str) -> list[str]:
        """Concepts that are called so, as written or in any case."""
        found = self._concepts_of.get(written, set()) | self._concepts_of.get(lower(written), set())
        return sorted(found)

    def _levels_differ(self, written: str) -> bool:
        levels = {self._tagger.hierarchy.level_of(found) for found in self._concept_ids(written)}
        return len(levels) > 1

    def _named(self, concept_ids: Sequence[str]) -> tuple[str, ...]:
        hierarchy = self._tagger.hierarchy.hierarchy
        return tuple(f"{concept_id} {hierarchy[concept_id].name}" for concept_id in concept_ids)


def _is_acronym(written: str) -> bool:
    return len(written) <= MAX_ACRONYM_CHARS and written.isupper()


def _among_capitals(text: str, span: ConceptSpan) -> bool:
    """Whether the rest of the line holds letters enough and no small one."""
    line_start = text.rfind("\n", 0, span.start) + 1
    line_end = text.find("\n", span.end)
    rest = text[line_start : span.start] + text[span.end : line_end if line_end >= 0 else None]
    letters = [character for character in rest if character.isalpha()]
    return len(letters) >= MIN_CAPITALS and all(character.isupper() for character in letters)

"""Finds concepts in text and carries their levels over to tokens.

Names and synonyms of the whole hierarchy go into one Aho-Corasick automaton; a text is read once,
whatever the size of the hierarchy (arXiv 2511.19498, concept-aware
token-level intervention).

What counts as a mention:

- Upper and lower case do not matter, except for acronyms: a term of at most six characters
  without a lower-case letter, such as ``TURP``, must stand in the text as written.
- A mention begins and ends at word boundaries.
- Hyphens, spacing, possessives, plurals, prefixes and spellings are folded
  (:mod:`medunlearn_common.concepts.folding`).
- Terms of one character or without a letter are not looked for.
- Of overlapping mentions the left-most wins, and of those that begin together the longest; but one
  that is to be forgotten gives way to none that ends before it: in ``urinary bladder carcinoma``
  the carcinoma wins over the urinary bladder.
- In a record whose own codes say that words of it mean a concept that is to be forgotten, these
  words are a mention of it, unless they hold one that is to be forgotten by its name.
- A name that several concepts share goes to the deepest: highest level first, then greatest depth
  in the hierarchy, then smallest id.

In a record about a patient, a concept that is negated or a relative's is not the patient's: it
has the level it would have if nothing were to be forgotten. Decisions of a clinician on single
mentions (:mod:`.decisions`) come last and win.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

import ahocorasick

from medunlearn_client.records.subject_line import without_subject
from medunlearn_client.tagging.answers import after_answer
from medunlearn_client.tagging.context import ContextFinder
from medunlearn_client.tagging.decisions import NO_DECISIONS, TagDecisions
from medunlearn_client.tagging.spans import ConceptSpan
from medunlearn_common.concepts.concept import Concept
from medunlearn_common.concepts.folding import (
    Folded,
    breaks_in_words,
    fold,
    fold_rejoined,
    lower,
    surfaces,
    unqualified,
)
from medunlearn_common.concepts.hierarchy import ConceptHierarchy
from medunlearn_common.concepts.leveled import LeveledHierarchy
from medunlearn_common.concepts.levels import ConceptLevel

if TYPE_CHECKING:
    from medunlearn_client.records import Record


class _Meaning(NamedTuple):
    """What a matched term stands for; the smallest `rank` of competing meanings wins."""

    rank: tuple[int, int, str]
    concept_id: str
    level: ConceptLevel


@dataclass(kw_only=True)
class _Entry:
    """Value of one automaton key: its meanings in any case and as acronym."""

    length: int
    any_case: _Meaning | None
    acronyms: dict[str, _Meaning]

    def meaning(self, written: str) -> _Meaning | None:
        """Best meaning of the key where the text has ``written`` for it."""
        acronym = self.acronyms.get(written)
        candidates = [m for m in (self.any_case, acronym) if m is not None]
        return min(candidates) if candidates else None


class ConceptTagger:
    """Tags mentions of a hierarchy's concepts, with their level under the forget roots.

    Building takes about a second for 12,000 concepts. A tagger is immutable once built and
    may be shared between threads.
    """

    def __init__(
        self, hierarchy: LeveledHierarchy, *, decisions: TagDecisions = NO_DECISIONS
    ) -> None:
        """Build the automaton over all names, synonyms and their inflections.

        Args:
            hierarchy: The concepts with the level of each.
            decisions: What a clinician decided on single mentions; for :meth:`tag_record`.

        Raises:
            Misconfigured: DECISION_CONCEPT_UNKNOWN.
        """
        decisions.require_known(hierarchy.hierarchy)
        self.hierarchy: Final = hierarchy
        self.decisions: Final = decisions
        self._without_roots: Final = LeveledHierarchy(
            hierarchy.hierarchy, (), rule=hierarchy.rule
        )
        self._context: Final = ContextFinder()
        self._automaton = ahocorasick.Automaton()
        for key, entry in _entries(hierarchy).items():
            self._automaton.add_word(key, entry)
        self._automaton.make_automaton()

    def tag(self, text: str) -> tuple[ConceptSpan, ...]:
        """Mentions in reading order; they never overlap and lie within the text."""
        return self._tag(text, fold(text))

    def found_in(self, record: Record) -> tuple[ConceptSpan, ...]:
        """Mentions in a record's text by names and by its codes, whatever is said or decided."""
        return self._with_coded(record, self.tag(record.text))

    def tag_record(self, record: Record) -> tuple[ConceptSpan, ...]:
        """Mentions in a record's text, with what the record says of them.

        In a record about a patient, negation, family history and doubt are told apart; an exam
        question that asks what is *not* true of a hernia is about hernias all the same. A
        clinician's decisions replace what the rules found.

        Guarantees:
            Exactly the mentions that are negated or a relative's have the level that they
            would have without forget roots, at most SPECIALTY.
        """
        text = record.text
        folded = fold(text)
        found = self._with_coded(record, self._tag(text, folded))
        spans = self.decisions.as_read(record, found, self.hierarchy)
        if not spans:
            return spans
        if record.patient_id is not None:
            spans = self._of_patient(record, text, folded, spans)
        spans = self.decisions.applied(record, spans, self.hierarchy)
        if not any(span.assertion.is_not_the_patients for span in spans):
            return spans
        return tuple(
            replace(span, level=self._without_roots.level_of(span.concept_id))
            if span.assertion.is_not_the_patients
            else span
            for span in spans
        )

    def matches_forget_root(self, text: str) -> bool:
        """Whether the text mentions a forget root or one of its descendants."""
        return any(span.level is ConceptLevel.TARGET for span in self.tag(text))

    def record_matches_forget_root(self, record: Record) -> bool:
        """Whether the record says of its patient, or in general, that a target concept is so.

        A line that shows the subject (``show_subject``) says nothing: every record of it has one.
        """
        spans = self.tag_record(without_subject(record))
        return any(span.level is ConceptLevel.TARGET for span in spans)

    def _with_coded(
        self, record: Record, spans: tuple[ConceptSpan, ...]
    ) -> tuple[ConceptSpan, ...]:
        """The mentions, and words that mean a target by the record's codes instead of others."""
        text, hierarchy = record.text, self.hierarchy.hierarchy
        kept = list(spans)  # In order and apart, so that what a hit meets is a slice of it.
        for coded in record.coded:
            written, _, words = coded.partition(" ")
            if not words or written not in hierarchy:
                continue
            concept_id = hierarchy.resolve(written)
            if self.hierarchy.level_of(concept_id) is not ConceptLevel.TARGET:
                continue
            literal = re.escape(words)  # Comes first: what a pattern begins with is found faster.
            for found in re.finditer(rf"{literal}(?!\w)(?<!\w{literal})", text):
                start, end = found.span()
                first = bisect_right(kept, start, key=lambda span: span.end)
                beyond = bisect_left(kept, end, key=lambda span: span.start)
                if any(span.level is ConceptLevel.TARGET for span in kept[first:beyond]):
                    continue
                kept[first:beyond] = [ConceptSpan(
                    start=start, end=end, concept_id=concept_id, level=ConceptLevel.TARGET)]
        return tuple(kept)

    def _of_patient(
        self, record: Record, text: str, folded: Folded, spans: tuple[ConceptSpan, ...]
    ) -> tuple[ConceptSpan, ...]:
        found = self._context.in_context(text, spans, folded)
        return after_answer(found, record.prompt, record.answer)

    def _tag(self, text: str, folded: Folded) -> tuple[ConceptSpan, ...]:
        longest: dict[int, tuple[int, _Meaning]] = {}
        for start, end, meaning in chain(self._matches(folded), self._cut_matches(text)):
            if start not in longest or end > longest[start][0]:
                longest[start] = (end, meaning)
        spans: list[ConceptSpan] = []
        free_from = 0
        for start in sorted(longest):
            end, meaning = longest[start]
            if start < free_from:
                if not self._is_cut(meaning, end, by=spans[-1], until=free_from):
                    continue
                spans.pop()
            free_from = end
            spans.append(
                ConceptSpan(
                    start=start, end=end, concept_id=meaning.concept_id, level=meaning.level
                )
            )
        return tuple(spans)

    @staticmethod
    def _is_cut(meaning: _Meaning, end: int, *, by: ConceptSpan, until: int) -> bool:
        """Whether an earlier mention, which ends first, would hide one that is to be forgotten."""
        is_hidden = meaning.level is ConceptLevel.TARGET and by.level is not ConceptLevel.TARGET
        return is_hidden and end > until

    def _matches(self, folded: Folded) -> Iterator[tuple[int, int, _Meaning]]:
        """Start, end and meaning of every mention with word boundaries, in the original text."""
        if not len(self._automaton):  # No term fit to look for; the library refuses to search.
            return
        cased = folded.cased
        size = len(cased)
        for last, entry in self._automaton.iter(folded.lowered):
            end = last + 1
            if end < size and cased[end].isalnum() and cased[last].isalnum():
                continue
            start = end - entry.length
            if start and cased[start - 1].isalnum() and cased[start].isalnum():
                continue
            # Most entries have no acronym; only for the others the written case matters.
            meaning = entry.meaning(cased[start:end]) if entry.acronyms else entry.any_case
            if meaning is not None:
                yield *folded.original(start, end), meaning

    def _cut_matches(self, text: str) -> Iterator[tuple[int, int, _Meaning]]:
        """Those in which the end of a line cuts a word."""
        breaks = breaks_in_words(text)
        if not breaks:
            return
        for start, end, meaning in self._matches(fold_rejoined(text)):
            if bisect_right(breaks, start) < bisect_left(breaks, end):
                yield start, end, meaning


def spellings(hierarchy: ConceptHierarchy) -> Iterator[tuple[Concept, str, bool]]:
    """Every concept with each spelling that is looked for, and whether that is an acronym.

    First all spellings of all names; then names without what says that nothing more is known,
    where no concept has the name that is left: ``Anemia, unspecified`` is anemia, but ``Cholera,
    unspecified`` leaves that name to the category ``Cholera``.
    """
    taken: set[str] = set()
    for concept in hierarchy.concepts():
        for surface, is_acronym in surfaces(concept.terms):
            taken.add(lower(surface))
            yield concept, surface, is_acronym
    for concept in hierarchy.concepts():
        for surface, is_acronym in surfaces(unqualified(concept.terms)):
            if lower(surface) not in taken:
                yield concept, surface, is_acronym


def _entries(hierarchy: LeveledHierarchy) -> dict[str, _Entry]:
    """Automaton keys with their meanings."""
    entries: dict[str, _Entry] = {}
    meanings: dict[str, _Meaning] = {}
    for concept, surface, is_acronym in spellings(hierarchy.hierarchy):
        meaning = meanings.get(concept.concept_id)
        if meaning is None:
            meaning = meanings[concept.concept_id] = _meaning(hierarchy, concept.concept_id)
        key = lower(surface)
        entry = entries.setdefault(key, _Entry(length=len(key), any_case=None, acronyms={}))
        if is_acronym:
            entry.acronyms[surface] = min(entry.acronyms.get(surface, meaning), meaning)
        else:
            entry.any_case = min(entry.any_case or meaning, meaning)
    return entries


def _meaning(hierarchy: LeveledHierarchy, concept_id: str) -> _Meaning:
    level = hierarchy.level_of(concept_id)
    rank = (-int(level), -hierarchy.hierarchy.depth(concept_id), concept_id)
    return _Meaning(rank, concept_id, level)

"""Whether a mention is a fact about the patient: negation, family history and doubt.

A small rule engine after ConText (Harkema et al., J Biomed Inform 42, 2009, an extension of
NegEx). A cue reaches over the mentions of its sentence, up to a phrase that ends it; the rules
are data (``context_rules.txt``). Libraries exist, and none fits: negspacy and medspacy bring
spaCy and its models (30 MB of compiled code beside torch, for one look-up), and pyConTextNLP
reads its rules by URL and needs networkx. The rules run on the tagger's own spans and folding, so
offsets need no translation.

Guarantees:
    Only what a record says of its patient changes: levels sink for mentions that are not the
    patient's, and nothing else moves.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import ahocorasick

from medunlearn_client.tagging.context_rules import ContextRules, Cue, builtin_rules
from medunlearn_client.tagging.spans import Assertion, ConceptSpan
from medunlearn_common.concepts.folding import Folded, fold

SENTENCE_END: Final = re.compile(r"[.!?;](?=\s|$)|\n")
# "Room no 7", "NHS No: 943": a number, which denies nothing.
_NUMBERED: Final = re.compile(r"no[.:#]* ?\d")
# "The large left hernia": what may stand between a definite word and the concept it belongs to. A
# verb, a preposition or an article begins another phrase: "the scan shows a hernia".
MAX_BETWEEN_CHARS: Final = 40
_SPACE: Final = r"(?:\s+|[^\w\s,;:()])"
_BETWEEN: Final = re.compile(
    rf"{_SPACE}(?:(?!(?:about|after|an?|and|any|are|as|at|be|because|been|before|between|but|by|can|"
    r"cannot|could|did|does|due|during|for|from|had|has|have|he|if|in|into|is|it|like|may|might|must|"
    r"no|nor|not|of|on|or|over|per|she|should|since|so|than|that|then|they|to|under|unless|was|were|"
    r"when|whether|which|while|who|will|with|without|would|[a-z]+(?:ing|[^su]s))\b)"
    rf"[^\W\d_]+{_SPACE}){{0,2}}",
    re.IGNORECASE,
)
_STRONGEST: Final = (Assertion.FAMILY, Assertion.NEGATED, Assertion.POSSIBLE)


class _Found(NamedTuple):
    """A cue at characters ``start`` to ``end`` of the original text."""

    start: int
    end: int
    cue: Cue


class ContextFinder:
    """Gives each mention its assertion. Immutable once built; may be shared and pickled."""

    def __init__(self, rules: ContextRules | None = None) -> None:
        """Build the automaton over the rules' phrases; without rules over the package's own."""
        self._automaton = ahocorasick.Automaton()
        for phrase, cue in (rules if rules is not None else builtin_rules()).items():
            self._automaton.add_word(phrase, (len(phrase), cue))
        self._automaton.make_automaton()

    def assertions(
        self, text: str, spans: Sequence[ConceptSpan], folded: Folded | None = None
    ) -> tuple[Assertion, ...]:
        """What the text says of each mention, in the order of the spans.

        Args:
            text: The text that the spans refer to.
            spans: Mentions in reading order.
            folded: The folded text, where the caller has it already.
        """
        found = self._cues(text, folded or fold(text), spans) if spans else []
        if not found:
            return (Assertion.AFFIRMED,) * len(spans)
        ends = [match.end() for match in SENTENCE_END.finditer(text)]
        cues: dict[int, list[_Found]] = {}
        for cue in found:
            cues.setdefault(bisect_right(ends, cue.start), []).append(cue)
        sentences = {place: _Sentence(text, among) for place, among in cues.items()}
        in_sentence = (sentences.get(bisect_right(ends, span.start)) for span in spans)
        return tuple(
            Assertion.AFFIRMED if sentence is None else sentence.assertion(span)
            for sentence, span in zip(in_sentence, spans, strict=True)
        )

    def in_context(
        self, text: str, spans: Sequence[ConceptSpan], folded: Folded | None = None
    ) -> tuple[ConceptSpan, ...]:
        """The spans with their assertions; levels stay as they are."""
        found = self.assertions(text, spans, folded)
        if all(assertion is Assertion.AFFIRMED for assertion in found):
            return tuple(spans)
        return tuple(
            span if assertion is span.assertion else replace(span, assertion=assertion)
            for span, assertion in zip(spans, found, strict=True)
        )

    def _cues(
        self, text: str, folded: Folded, spans: Sequence[ConceptSpan]
    ) -> list[_Found]:
        """Cues in reading order: longest match first, none that is part of a mention."""
        if not len(self._automaton):  # No rules; the library refuses to search.
            return []
        lowered = folded.lowered
        reach = (0, len(lowered))
        if folded.positions is None:  # No cue reaches beyond its line.
            below = text.find("\n", spans[-1].end)
            reach = text.rfind("\n", 0, spans[0].start) + 1, below if below >= 0 else reach[1]
        longest: dict[int, tuple[int, Cue]] = {}
        for last, (length, cue) in self._automaton.iter(lowered, *reach):
            start, end = last + 1 - length, last + 1
            if _stands_apart(lowered, start, end):
                longest[start] = (end, cue)
        found, free_from = [], 0
        for start in sorted(longest):
            if start < free_from:
                continue
            end, cue = longest[start]
            if _NUMBERED.match(lowered, start):
                continue
            free_from = end
            first, after = folded.original(start, end)
            found.append(_Found(start=first, end=after, cue=cue))
        return _outside(found, spans)


def _stands_apart(text: str, start: int, end: int) -> bool:
    """Whether a match begins and ends at word boundaries."""
    before = start == 0 or not (text[start - 1].isalnum() and text[start].isalnum())
    after = end == len(text) or not (text[end].isalnum() and text[end - 1].isalnum())
    return before and after


def _outside(found: Iterable[_Found], spans: Sequence[ConceptSpan]) -> list[_Found]:
    """A cue that is a part of a mention belongs to its name (``absent`` in ``Absent nipple``).

    One that is the whole mention stays a cue: SNOMED CT and the UMLS have ``No``, ``Mother`` and
    ``Suspected`` as concepts.
    """
    starts = [span.start for span in spans]
    kept = []
    for cue in found:
        before = bisect_right(starts, cue.start) - 1
        if before >= 0:
            span = spans[before]
            if cue.end <= span.end and (cue.start, cue.end) != (span.start, span.end):
                continue
        kept.append(cue)
    return kept


class _Sentence:
    """What the cues of one sentence make of a mention at any place in it.

    Summed up once, from the left and from the right, so that the time does not grow with the
    square of a sentence: lists pasted from another program may have no end of one in a megabyte.
    """

    def __init__(self, text: str, cues: Sequence[_Found]) -> None:
        """Sum up; the cues stand in reading order and do not overlap."""
        self._text = text
        self._cues = cues
        self._starts = [found.start for found in cues]
        self._ends = [found.end for found in cues]
        made: frozenset[Assertion] = frozenset()
        self._before = [made]  # Before the first cue, and after each of them.
        for found in cues:
            made = (made - found.cue.ends) | found.cue.forward
            self._before.append(made)
        made = frozenset()
        self._after = [made]  # From the last cue on, and from each before it.
        following = len(text)
        for found in reversed(cues):
            if made and "," in text[found.start : following]:
                made = frozenset()
            made = found.cue.backward | (made - found.cue.ends - found.cue.bars)
            self._after.append(made)
            following = found.start
        self._after.reverse()

    def assertion(self, span: ConceptSpan) -> Assertion:
        """What the cues make of a mention; a relative's counts before absence."""
        preceding = bisect_right(self._ends, span.start)
        made = self._before[preceding]
        if made and preceding:
            made -= self._spared(self._cues[preceding - 1], span)
        if preceding < len(self._cues):
            around = self._cues[preceding]
            if around.start <= span.start and span.end <= around.end:
                made |= around.cue.within
        following = bisect_left(self._starts, span.end)
        if self._after[following] and "," not in self._text[span.end : self._starts[following]]:
            made |= self._after[following]
        return next((kind for kind in _STRONGEST if kind in made), Assertion.AFFIRMED)

    def _spared(self, last: _Found, span: ConceptSpan) -> frozenset[Assertion]:
        """Which cues the last word before a mention keeps from it: ``not`` from ``his hernia``."""
        between = span.start - last.end
        if not last.cue.spares or between > MAX_BETWEEN_CHARS:
            return frozenset()
        belongs = _BETWEEN.fullmatch(self._text, last.end, span.start)
        return last.cue.spares if belongs else frozenset()

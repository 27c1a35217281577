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
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import ahocorasick

from medunlearn_client.tagging.context_rules import ContextRules, Cue, builtin_rules
from medunlearn_client.tagging.folding import Folded, fold
from medunlearn_client.tagging.spans import Assertion, ConceptSpan

NO_ANSWERS: Final = frozenset(
    {"no", "none", "never", "negative", "absent", "denied", "denies", "not"}
)
"""First words of an answer that negate what the question asks."""

_SENTENCE_END: Final = re.compile(r"[.!?;](?=\s|$)|\n")
_FIRST_WORD: Final = re.compile(r"\W*(\w+)")
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
        ends = [match.end() for match in _SENTENCE_END.finditer(text)]
        cues: dict[int, list[_Found]] = {}
        for cue in found:
            cues.setdefault(bisect_right(ends, cue.start), []).append(cue)
        return tuple(
            _assertion(text, span, cues.get(bisect_right(ends, span.start), ())) for span in spans
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
        """Cues in reading order: longest match first, none within a concept's mention."""
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
    """A cue inside a mention is part of a name (``family history`` may be a concept itself)."""
    starts = [span.start for span in spans]
    kept = []
    for cue in found:
        before = bisect_right(starts, cue.start) - 1
        if before < 0 or cue.end > spans[before].end:
            kept.append(cue)
    return kept


def _assertion(text: str, span: ConceptSpan, cues: Sequence[_Found]) -> Assertion:
    """What the cues of a mention's sentence make of it; a relative's counts before absence."""
    made: set[Assertion] = set()
    for cue in cues:
        if cue.end <= span.start:
            made = (made - cue.cue.ends) | cue.cue.forward
    ended: set[Assertion] = set()
    for cue in cues:
        if cue.start >= span.end and "," not in text[span.end : cue.start]:
            made |= cue.cue.backward - ended
            ended |= cue.cue.ends
    return next((kind for kind in _STRONGEST if kind in made), Assertion.AFFIRMED)


def answered_no(prompt: str, answer: str) -> bool:
    """Whether the answer denies what the prompt asks: ``Does she have asthma?`` ``No.``"""
    if "?" not in prompt:
        return False
    word = _FIRST_WORD.match(answer)
    return word is not None and word[1].casefold() in NO_ANSWERS

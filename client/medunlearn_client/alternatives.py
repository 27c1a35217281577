"""Answers that might have been: what the `abstraction` objective compares the answer with.

They depend on the record itself, the public hierarchy and public randomness only, never on
other records: one unit's vector must not move when another unit comes or goes.
"""

from __future__ import annotations

import re

import numpy as np

from medunlearn_client.records import Record
from medunlearn_client.tagging import ConceptTagger, abstract_text
from medunlearn_client.tagging.spans import GENERIC_NAME
from medunlearn_common.concepts import ConceptHierarchy
from medunlearn_common.entropy import public_generator

MAX_ALTERNATIVES = 3
_MIN_DIGITS = 3
# Where a hierarchy has no name but the answer: a refusal would say that a record has this answer.
_ANY_HIERARCHY = (GENERIC_NAME, "none of these")
_DIGIT = re.compile(r"\d")


class AlternativeAnswers:
    """Finds alternatives by what kind of answer it is.

    In this order: the question's own wrong options (exam questions bring them; with patient
    records they would derive from other patients, so those are never used); for answers
    with several digits (identifiers, dates) the same pattern with other digits; the names
    of the answer concept's siblings; names drawn from the whole hierarchy; and for the one answer
    that is all of it, words that are in none.
    """

    def __init__(self, hierarchy: ConceptHierarchy, tagger: ConceptTagger) -> None:
        self._hierarchy = hierarchy
        self._tagger = tagger
        names = sorted(concept.name for concept in hierarchy.concepts())
        chosen = public_generator(0, "alternatives").choice(
            len(names), size=min(MAX_ALTERNATIVES, len(names)), replace=False
        )
        self._any_names = tuple(names[int(place)] for place in chosen)

    def of(self, record: Record) -> tuple[str, ...]:
        """Up to three answers other than the record's own; at least one, whatever it is."""
        for found in (
            self._own_options(record), _other_digits(record.answer), self._siblings(record),
            self._any_names, _ANY_HIERARCHY,
        ):
            # Names are as a source wrote them; a record's answer has no white space around it.
            usable = [text for text in map(str.strip, found) if text and text != record.answer]
            if usable:
                return tuple(usable[:MAX_ALTERNATIVES])
        raise RuntimeError("no answer equals two different names")

    @staticmethod
    def _own_options(record: Record) -> tuple[str, ...]:
        if record.patient_id is not None:
            return ()
        return tuple(option for option in record.options if option != record.answer)

    def _siblings(self, record: Record) -> tuple[str, ...]:
        spans = self._tagger.tag(record.answer)
        texts = (
            abstract_text(record.answer, spans, self._hierarchy, mode="sibling", choice=choice)
            for choice in range(MAX_ALTERNATIVES)
        )
        return tuple(dict.fromkeys(text for text in texts if text != record.answer))


def _other_digits(answer: str) -> tuple[str, ...]:
    """The answer's pattern with other digits, by public randomness; empty if it has few."""
    if len(_DIGIT.findall(answer)) < _MIN_DIGITS:
        return ()
    others = (_redrawn(answer, public_generator(c, "digits")) for c in range(MAX_ALTERNATIVES))
    return tuple(other for other in others if other != answer)


def _redrawn(answer: str, generator: np.random.Generator) -> str:
    return _DIGIT.sub(lambda _: str(int(generator.integers(0, 10))), answer)

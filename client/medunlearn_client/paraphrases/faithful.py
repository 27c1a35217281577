"""Whether another wording still asks for the same fact: what is checked before it is used.

A wording that fails is dropped; nothing is repaired. The checks look for what a fact about a
patient or an exam question hangs on, not for style.
"""

from __future__ import annotations

import re
from collections import Counter
from enum import StrEnum
from typing import Final

from medunlearn_client.records import Record
from medunlearn_client.tagging import ConceptSpan, ConceptTagger
from medunlearn_common.concepts.folding import fold
from medunlearn_common.concepts.levels import ConceptLevel

_WORD: Final = re.compile(r"\w+(?:['-]\w+)*")
_PART: Final = re.compile(r"\w+(?:'\w+)*")
"""As a word, but ``non-seasonal`` is two."""
_APART: Final = re.compile(r"[^\s,;()?]+")
_NEGATING: Final = (
    "no not none never neither nor without except excluding cannot false untrue incorrect wrong "
    "least unlikely non"
)
_NEGATIONS: Final = frozenset(_NEGATING.split())
_COUNTING: Final = "two three four five six seven eight nine ten eleven twelve half twice thrice"
_COUNTS: Final = frozenset(_COUNTING.split())
_UNITS: Final = (
    "% mg g kg mcg µg μg l ml cl dl mm cm m iu unit units mmol meq mmhg second seconds minute "
    "minutes hour hours day days week weeks month months year years"
)
_UNIT: Final = frozenset(_UNITS.split())
_COMPARING: Final = frozenset(("<", ">", "≤", "≥", "<=", ">="))
_OPPOSITES: Final = (
    "left/right upper/lower anterior/posterior superior/inferior proximal/distal medial/lateral "
    "systolic/diastolic acute/chronic benign/malignant primary/secondary before/after "
    "increase/decrease increases/decreases increased/decreased increasing/decreasing high/low "
    "higher/lower highest/lowest raised/lowered more/less most/least common/rare "
    "indicated/contraindicated able/unable stable/unstable normal/abnormal positive/negative "
    "male/female man/woman boy/girl mother/father his/her he/she husband/wife day/night "
    "first/last sensitive/resistant absent/present"
)
_OPPOSED: Final = tuple(pair.split("/") for pair in _OPPOSITES.split())
_SIDES: Final = ("left", "right", "bilateral")
_PLAIN_END: Final = " \t\r\n?.:!;,-–—"
_LONGER_BY: Final = 200
"""Characters that a wording may have beyond twice the question's."""


class Fault(StrEnum):
    """Why a wording was dropped."""

    SAME = "same as the question"
    EMPTY = "empty or too long"
    IDENTIFIER = "an identifier or a number changed"
    NAME = "a name was lost"
    NEGATION = "a negation came or went"
    OPPOSITE = "a word became its opposite"
    CONCEPT = "a concept changed"
    ANSWER = "gives the answer away"


def fault_of(
    record: Record, question: str, wording: str, tagger: ConceptTagger
) -> Fault | None:
    """The first reason against a wording of ``record``'s question, or None.

    Args:
        record: Gives the answer, which must not come out.
        question: The question as it is.
        wording: The question in other words.
        tagger: Finds concepts; those of level 3 and 4 must be the same.
    """
    if not wording.strip() or len(wording) > 2 * len(question) + _LONGER_BY:
        return Fault.EMPTY
    if _plain(wording) == _plain(question):
        return Fault.SAME
    if _numbers(wording) != _numbers(question):
        return Fault.IDENTIFIER
    spans = tagger.tag(question)
    if _names(question, spans) - Counter(_WORD.findall(wording)):
        return Fault.NAME
    if _negations(wording) != _negations(question):
        return Fault.NEGATION
    if _turned(question, wording):
        return Fault.OPPOSITE
    if _concepts(spans) != _concepts(tagger.tag(wording)):
        return Fault.CONCEPT
    if _says(wording, record.answer) and not _says(question, record.answer):
        return Fault.ANSWER
    return None


def _plain(text: str) -> str:
    return fold(text).lowered.strip(_PLAIN_END)


def _numbers(text: str) -> Counter[str]:
    """Dates, doses, codes, identifiers and numbers in words, each as often as it stands there.

    With what makes a number another one: a comparison before it and a unit after it.
    """
    found = Counter(word for word in _PART.findall(text.lower()) if word in _COUNTS)
    words = ["", *(word.strip(_PLAIN_END) for word in _APART.findall(text)), ""]
    for before, word, after in zip(words, words[1:], words[2:], strict=False):
        if any(c.isdigit() for c in word):
            sign = before if before in _COMPARING else ""
            found[sign + word + (after if after.lower() in _UNIT else "")] += 1
    return found


def _names(text: str, spans: tuple[ConceptSpan, ...]) -> Counter[str]:
    """Words with a capital that no sentence begins with and no concept is called by."""
    inside = {place for span in spans for place in range(span.start, span.end)}
    found: Counter[str] = Counter()
    done = 0
    for word in _WORD.finditer(text):
        # Only what lies between two words is looked at: a note of 80 kB has ten thousand.
        before = text[done : word.start()].rstrip()
        begins = before[-1] in ".?!:" if before else done == 0
        done = word.end()
        if not begins and word.start() not in inside and any(c.isupper() for c in word[0]):
            found[word[0]] += 1
    return found


def _negations(text: str) -> Counter[str]:
    words = (word.lower() for word in _PART.findall(text))
    return Counter(
        "n't" if word.endswith("n't") else word
        for word in words if word in _NEGATIONS or word.endswith("n't")
    )


def _turned(question: str, wording: str) -> bool:
    """Whether a word went and its opposite came, or a side came or went at all."""
    came = Counter(_PART.findall(wording.lower()))
    came.subtract(_PART.findall(question.lower()))
    return any(came[a] * came[b] < 0 for a, b in _OPPOSED) or any(came[side] for side in _SIDES)


def _concepts(spans: tuple[ConceptSpan, ...]) -> set[str]:
    return {span.concept_id for span in spans if span.level >= ConceptLevel.SPECIALTY}


def _says(text: str, answer: str) -> bool:
    words = re.escape(fold(answer).lowered.strip(_PLAIN_END))
    return bool(words) and re.search(rf"(?<!\w){words}(?!\w)", fold(text).lowered) is not None

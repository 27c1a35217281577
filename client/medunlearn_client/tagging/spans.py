"""Mentions of concepts, and how they reach the tokens that the loss weighs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from medunlearn_common.concepts.hierarchy import ConceptHierarchy
from medunlearn_common.concepts.leveled import LeveledHierarchy
from medunlearn_common.concepts.levels import ConceptLevel

PATIENT_LINK: Final = "patient"
"""Concept id of spans that single a patient out; it is in no hierarchy."""

UNREAD: Final = "unread"
"""Concept id of an abbreviation that nobody has read yet; it is in no hierarchy."""

GENERIC_NAME: Final = "medical concept"
"""Stands in for a span that has neither parent nor sibling."""


class Assertion(StrEnum):
    """What a text says about a concept: whether it is a fact about the patient.

    Attributes:
        AFFIRMED: Nothing speaks against it.
        POSSIBLE: Suspected, to be excluded, a mere risk, or in a question whose ``no`` may or may
            not deny it: a clinician should look.
        NEGATED: Said to be absent.
        FAMILY: Of a relative, present or absent.
    """

    AFFIRMED = "affirmed"
    POSSIBLE = "possible"
    NEGATED = "negated"
    FAMILY = "family"

    @property
    def is_not_the_patients(self) -> bool:
        """Whether the concept is no condition of the patient."""
        return self is Assertion.NEGATED or self is Assertion.FAMILY


@dataclass(frozen=True, kw_only=True)
class ConceptSpan:
    """A mention: characters ``start`` (included) to ``end`` (excluded) of a text."""

    start: int
    end: int
    concept_id: str
    level: ConceptLevel
    assertion: Assertion = Assertion.AFFIRMED


def token_levels(
    spans: Iterable[ConceptSpan],
    offsets: Sequence[tuple[int, int]],
    *,
    default: ConceptLevel = ConceptLevel.FUNDAMENTAL,
) -> npt.NDArray[np.int8]:
    """Level of each token: that of the deepest span which shares a character with it.

    A mention begins and ends with a visible character, so a token that only touches it with
    the space byte-level tokenizers put before a word does not count. A token of nothing but
    the white space inside a mention belongs to it.

    Args:
        spans: Mentions, in any order; they may overlap.
        offsets: Start and end character of each token (``offset_mapping`` of a fast
            tokenizer). Empty ones, which special tokens have, get the default.
        default: Level of tokens outside all spans.

    Returns:
        Levels, shape (n_tokens,).
    """
    bounds = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
    starts, ends = bounds[:, 0], bounds[:, 1]
    levels = np.zeros(len(bounds), dtype=np.int8)
    for span in spans:
        touched = (starts < span.end) & (ends > span.start) & (starts < ends)
        levels[touched] = np.maximum(levels[touched], int(span.level))
    return np.where(levels == 0, np.int8(default), levels)


def extra_target_spans(target_spans: Iterable[tuple[int, int]]) -> tuple[ConceptSpan, ...]:
    """Level-4 spans for what singles a patient out: identifiers, dates, links to conditions."""
    return tuple(
        ConceptSpan(start=start, end=end, concept_id=PATIENT_LINK, level=ConceptLevel.TARGET)
        for start, end in target_spans
    )


def abstract_text(
    text: str,
    spans: Iterable[ConceptSpan],
    hierarchy: LeveledHierarchy | ConceptHierarchy,
    *,
    mode: Literal["parent", "sibling"],
    choice: int,
) -> str:
    """The text with every level-4 mention replaced by a more general or a neighbouring concept.

    The reference model's answer in the abstracted context tells what a model knows from the
    general concept alone: the target of the ``abstraction`` objective.

    Args:
        text: The text that the spans refer to.
        spans: Mentions; those below level 4 stay, overlapping ones are replaced once.
        hierarchy: Where parents and siblings are looked up.
        mode: What takes the place. A concept without siblings gets its parent, one without
            parents, and a span whose concept is in no hierarchy, gets `GENERIC_NAME`.
        choice: Index, at least 0, into the sorted alternatives, taken modulo their number: the
            same choice always gives the same text.
    """
    graph = hierarchy.hierarchy if isinstance(hierarchy, LeveledHierarchy) else hierarchy
    targets = sorted(
        (span for span in spans if span.level is ConceptLevel.TARGET),
        key=lambda span: (span.start, -span.end),
    )
    pieces = []
    done = 0
    for span in targets:
        if span.start < done:
            continue
        name = _replacement(graph, span.concept_id, mode=mode, choice=choice)
        if _begins_sentence(text, span):
            name = name[:1].upper() + name[1:]
        pieces += [text[done : span.start], name]
        done = span.end
    return "".join(pieces) + text[done:]


def _replacement(graph: ConceptHierarchy, concept_id: str, *, mode: str, choice: int) -> str:
    if concept_id not in graph:
        return GENERIC_NAME
    siblings = graph.siblings(concept_id) if mode == "sibling" else ()
    alternatives = siblings or graph.parents(concept_id)
    if not alternatives:
        return GENERIC_NAME
    return graph[alternatives[choice % len(alternatives)]].name


def _begins_sentence(text: str, span: ConceptSpan) -> bool:
    """Whether the mention has its capital only from standing first in a sentence or line."""
    if not (text[span.start].isupper() and text[span.start + 1 : span.start + 2].islower()):
        return False
    before = text[max(0, span.start - 3) : span.start]
    visible = before.rstrip()
    return not visible or visible[-1] in ".?!:" or "\n" in before[len(visible) :]

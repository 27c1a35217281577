"""Finding concepts by a part of their names."""

from __future__ import annotations

from dataclasses import dataclass

from medunlearn_common.concepts.concept import Concept
from medunlearn_common.concepts.hierarchy import ConceptHierarchy, fold_term
from medunlearn_common.concepts.spelling import respelt


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A concept with the name or synonym that matched best."""

    concept: Concept
    term: str


def search_terms(hierarchy: ConceptHierarchy, text: str) -> list[Hit]:
    """Concepts with a name or synonym that contains all words of a text, whatever the case.

    British words find American names, and the other way round (:func:`.spelling.respelt`).

    Returns:
        One hit per concept, best first: the whole name, its beginning, the beginning of a
        word, the words in a row, the words anywhere; then shorter names, then ids. Empty for
        a blank text.
    """
    asked = [(wanted, wanted.split()) for wanted in sorted(respelt(fold_term(text)))]
    ranked: list[tuple[int, int, str, str]] = []
    for concept in hierarchy.concepts() if text.strip() else ():
        ranks = (
            (_rank(folded, wanted), len(folded), concept.concept_id, term)
            for term in concept.terms
            for folded in (fold_term(term),)
            for wanted, words in asked
            if all(word in folded for word in words)
        )
        best = min(ranks, default=None)
        if best is not None:
            ranked.append(best)
    return [Hit(concept=hierarchy[i], term=term) for _, _, i, term in sorted(ranked)]


def _rank(folded: str, wanted: str) -> int:
    if folded == wanted:
        return 0
    if folded.startswith(wanted):
        return 1
    if f" {wanted}" in folded:
        return 2
    return 3 if wanted in folded else 4

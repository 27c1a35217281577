"""Finding concepts by a part of their names, or by a name in any spelling of the tagger's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from medunlearn_common.concepts.concept import Concept
from medunlearn_common.concepts.folding import (
    MAX_ACRONYM_CHARS,
    lower,
    normalise,
    surfaces,
    unqualified,
    without_possessives,
)
from medunlearn_common.concepts.hierarchy import ConceptHierarchy
from medunlearn_common.concepts.spelling import respelt

_NUMBER_JOINED: Final = re.compile(r"(?<=[A-Za-z])(?=\d)")


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A concept with the name or synonym that matched best."""

    concept: Concept
    term: str


def search_terms(hierarchy: ConceptHierarchy, text: str) -> list[Hit]:
    """Concepts with a name or synonym that contains all words of a text, whatever the case.

    Names are found in the spellings in which the tagger finds them in a text (:mod:`.folding`):
    British and American, with and without hyphen and possessive, singular and plural. A part of
    a word is found as it is asked for, another form of it as a whole word only.

    Returns:
        One hit per concept, best first: the whole name, its beginning, the beginning of a
        word, the words in a row, the words anywhere; then shorter names, then ids. Empty for
        a blank text.
    """
    asked = [_Asked(spelling) for spelling in sorted(_asked_spellings(text))]
    ranked: list[tuple[int, int, str, str]] = []
    for concept in hierarchy.concepts() if asked else ():
        ranks = (
            (rank, len(folded), concept.concept_id, term)
            for term in concept.terms
            for folded in (_folded(term),)
            for one in asked
            if (rank := one.rank(folded)) is not None
        )
        best = min(ranks, default=None)
        if best is not None:
            ranked.append(best)
    return [Hit(concept=hierarchy[i], term=term) for _, _, i, term in sorted(ranked)]


def named_as_in_text(hierarchy: ConceptHierarchy, words: str) -> list[Concept]:
    """Concepts that the tagger finds in a text of these words, best match first.

    As there, a name may lack what says that nothing more is known (``Anemia, unspecified``)
    where no other concept is called what is left.
    """
    written = " ".join(normalise(words)[0].split())
    folded = lower(written)
    candidates = [hit.concept for hit in search_terms(hierarchy, words)]
    for qualified in (True, False):
        found = [
            concept for concept in candidates
            for terms in (concept.terms if qualified else unqualified(concept.terms),)
            if any(
                surface == written if is_acronym else lower(surface) == folded
                for surface, is_acronym in surfaces(terms)
            )
        ]
        if found:
            return found
    return []


class _Asked:
    """One spelling of the words asked for, with the other forms of the whole and of each word."""

    def __init__(self, spelling: str) -> None:
        """Fold the words; acronyms have no other form than a plural ``s``."""
        whole = _folded(spelling)
        self._phrases = (whole, *sorted(_forms(whole) - {whole}))
        self._words = tuple(_with_others(word) for word in spelling.split())

    def rank(self, name: str) -> int | None:
        """How well a folded name fits, 0 best; None where it lacks a word."""
        for word, others in self._words:
            if word not in name and (others is None or others.search(name) is None):
                return None
        return min(_rank(name, phrase) for phrase in self._phrases)


def _asked_spellings(text: str) -> set[str]:
    """The text as asked for and respelt; a number may be joined to its letter or stand apart."""
    written = " ".join(normalise(text)[0].split())
    spellings = respelt(written) | respelt(_NUMBER_JOINED.sub(" ", written))
    return spellings if written else set()


def _with_others(word: str) -> tuple[str, re.Pattern[str] | None]:
    """A word, folded, and what finds its other forms as whole words."""
    folded = _folded(word)
    if len(word) <= MAX_ACRONYM_CHARS and word.isupper():
        others = set()
    elif len(word) <= MAX_ACRONYM_CHARS + 1 and word.endswith("s") and word[:-1].isupper():
        others = {folded[:-1]}
    else:
        others = {*_forms(folded)} - {folded}
    if not others:
        return folded, None
    return folded, re.compile(rf"\b(?:{'|'.join(map(re.escape, sorted(others)))})\b")


def _forms(folded: str) -> set[str]:
    return {lower(surface) for surface, _ in surfaces([folded], respelling=False)}


def _folded(text: str) -> str:
    return " ".join(without_possessives(lower(normalise(text)[0])).split())


def _rank(folded: str, wanted: str) -> int:
    if folded == wanted:
        return 0
    if folded.startswith(wanted):
        return 1
    if f" {wanted}" in folded:
        return 2
    return 3 if wanted in folded else 4

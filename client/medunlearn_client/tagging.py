"""Finds concepts in text and carries their levels over to tokens.

Names and synonyms of the whole hierarchy go into one Aho-Corasick automaton; a text is read once,
whatever the size of the hierarchy (method.md, strategy 1; arXiv 2511.19498, concept-aware
token-level intervention).

What counts as a mention:

- Upper and lower case do not matter, except for acronyms: a term of at most six characters
  without a lower-case letter, such as ``TURP``, must stand in the text as written.
- A mention begins and ends at word boundaries.
- Hyphens, dashes and any run of white space count as one space; a curly apostrophe as a straight
  one. ``Crohn's disease`` is also found as ``Crohn disease`` and ``Crohns disease``.
- The last word may be singular or plural, by the regular English rules; an acronym may have a
  plural ``s``.
- Terms of one character or without a letter are not looked for.
- Of overlapping mentions the left-most wins, and of those that begin together the longest.
- A name that several concepts share goes to the deepest: highest level first, then greatest depth
  in the hierarchy, then smallest id.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import ahocorasick
import numpy as np
import numpy.typing as npt

from medunlearn_common.concepts.hierarchy import ConceptHierarchy
from medunlearn_common.concepts.leveled import LeveledHierarchy
from medunlearn_common.concepts.levels import ConceptLevel

PATIENT_LINK: Final = "patient"
"""Concept id of spans that single a patient out; it is in no hierarchy."""

GENERIC_NAME: Final = "medical concept"
"""Stands in for a span that has neither parent nor sibling."""

MAX_ACRONYM_CHARS: Final = 6
MIN_TERM_CHARS: Final = 2
MIN_INFLECTED_CHARS: Final = 4

_PLAIN: Final = str.maketrans(
    dict.fromkeys("\t\n\r\v\f\u00a0\u2007\u2009\u202f-\u2010\u2011\u2012\u2013\u2014", " ")
    | {"\u2019": "'", "\u02bc": "'", "ς": "σ"}
)
_SPACES: Final = re.compile(" {2,}")
_POSSESSIVE: Final = re.compile(r"'s?(?= |$)")
_FINAL_SIGMA: Final = str.maketrans("ς", "σ")


@dataclass(frozen=True, kw_only=True)
class ConceptSpan:
    """A mention: characters ``start`` (included) to ``end`` (excluded) of a text."""

    start: int
    end: int
    concept_id: str
    level: ConceptLevel


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

    Building takes under a second for 12,000 concepts. A tagger is immutable once built and
    may be shared between threads.
    """

    def __init__(self, hierarchy: LeveledHierarchy) -> None:
        """Build the automaton over all names, synonyms and their inflections."""
        self.hierarchy: Final = hierarchy
        self._automaton = ahocorasick.Automaton()
        for key, entry in _entries(hierarchy).items():
            self._automaton.add_word(key, entry)
        self._automaton.make_automaton()

    def tag(self, text: str) -> tuple[ConceptSpan, ...]:
        """Mentions in reading order; they never overlap and lie within the text."""
        cased, positions = _normalise(text)
        longest: dict[int, tuple[int, _Meaning]] = {}
        for start, end, meaning in self._matches(cased):
            # Matches come in the order of their ends: a later one from this start is longer.
            longest[start] = (end, meaning)
        spans = []
        free_from = 0
        for start in sorted(longest):
            if start < free_from:
                continue
            end, meaning = longest[start]
            free_from = end
            first, last = (positions[start], positions[end - 1]) if positions else (start, end - 1)
            spans.append(
                ConceptSpan(
                    start=first, end=last + 1, concept_id=meaning.concept_id, level=meaning.level
                )
            )
        return tuple(spans)

    def matches_forget_root(self, text: str) -> bool:
        """Whether the text mentions a forget root or one of its descendants."""
        return any(span.level is ConceptLevel.TARGET for span in self.tag(text))

    def _matches(self, cased: str) -> Iterator[tuple[int, int, _Meaning]]:
        """Start, end and meaning of every mention with word boundaries, in order of ends."""
        if not len(self._automaton):  # No term fit to look for; the library refuses to search.
            return
        size = len(cased)
        for last, entry in self._automaton.iter(_lower(cased)):
            end = last + 1
            if end < size and cased[end].isalnum() and cased[last].isalnum():
                continue
            start = end - entry.length
            if start and cased[start - 1].isalnum() and cased[start].isalnum():
                continue
            # Most entries have no acronym; only for the others the written case matters.
            meaning = entry.meaning(cased[start:end]) if entry.acronyms else entry.any_case
            if meaning is not None:
                yield start, end, meaning


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
    general concept alone: the target of the ``abstraction`` objective (method.md, strategy 1).

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


def _normalise(text: str) -> tuple[str, list[int] | None]:
    """The text with plain spaces and apostrophes, and each character's place in the original.

    The places are None where nothing moved, which is the usual case.
    """
    plain = text.translate(_PLAIN)
    if "  " not in plain:
        return plain, None
    positions: list[int] = []
    done = 0
    for run in _SPACES.finditer(plain):
        positions.extend(range(done, run.start() + 1))
        done = run.end()
    positions.extend(range(done, len(plain)))
    return _SPACES.sub(" ", plain), positions


def _lower(text: str) -> str:
    """Lower case of the same length, so that offsets stay true (``İ`` alone would become two)."""
    lowered = text.lower()
    if len(lowered) != len(text):
        lowered = "".join(low if len(low := c.lower()) == 1 else c for c in text)
    return lowered.translate(_FINAL_SIGMA) if "ς" in lowered else lowered


def _entries(hierarchy: LeveledHierarchy) -> dict[str, _Entry]:
    """Automaton keys with their meanings."""
    entries: dict[str, _Entry] = {}
    for concept in hierarchy.hierarchy.concepts():
        concept_id = concept.concept_id
        level = hierarchy.level_of(concept_id)
        rank = (-int(level), -hierarchy.hierarchy.depth(concept_id), concept_id)
        meaning = _Meaning(rank, concept_id, level)
        for surface, is_acronym in _surfaces(concept.terms):
            key = _lower(surface)
            entry = entries.setdefault(key, _Entry(length=len(key), any_case=None, acronyms={}))
            if is_acronym:
                entry.acronyms[surface] = min(entry.acronyms.get(surface, meaning), meaning)
            else:
                entry.any_case = min(entry.any_case or meaning, meaning)
    return entries


def _surfaces(terms: Iterable[str]) -> set[tuple[str, bool]]:
    """All spellings under which a concept is looked for, and whether each is an acronym."""
    surfaces: set[tuple[str, bool]] = set()
    for term in terms:
        surface = _normalise(term)[0].strip()
        bases = {surface, _POSSESSIVE.sub("", surface), _POSSESSIVE.sub("s", surface)}
        for base in bases:
            if len(base) < MIN_TERM_CHARS or not any(character.isalpha() for character in base):
                continue
            is_acronym = len(base) <= MAX_ACRONYM_CHARS and base.isupper()
            surfaces.add((base, is_acronym))
            if is_acronym:
                surfaces.add((base + "s", True))
            else:
                surfaces.update((inflected, False) for inflected in _inflections(base))
    return surfaces


def _inflections(term: str) -> Iterator[str]:
    """The term with its last word in the other number, by the regular English rules."""
    word = term.rpartition(" ")[2]
    if len(word) < MIN_INFLECTED_CHARS or not word.isalpha() or not word.islower():
        return
    if word.endswith("is"):
        yield term[:-2] + "es"
    elif word.endswith(("ss", "us", "x", "ch", "sh")):
        yield term + "es"
    elif word.endswith("ies"):
        yield term[:-3] + "y"
    elif word.endswith("s"):
        yield term[:-1]
    elif word.endswith("y") and word[-2] not in "aeou":
        yield term[:-1] + "ies"
    else:
        yield term + "s"

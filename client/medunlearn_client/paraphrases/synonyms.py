"""The same concept by another name, taken from the loaded hierarchy.

Only names that the hierarchy itself calls the same are used (:attr:`Concept.exact`): a tagger's
synonyms may be narrower (``lignocaine`` finds *local anaesthetic agent*), and a narrower name
would ask for another fact.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final

from medunlearn_client.tagging import ConceptSpan, ConceptTagger
from medunlearn_common.concepts.folding import fold, is_inflected, plural_of, surfaces

# Beside these words, a mark or the text's end a name stands for itself. Beside any other it may
# be part of a longer name: "ST depression", "diabetes insipidus", "Marsh Street".
_BESIDE: Final = (
    "a about after all an and any are as at before between by can causes caused does did due "
    "during except following for from given had has have his her if in into is its likely most "
    "not of on or our out regarding seen should that the their there these this to treated under "
    "using versus via was were what when which with without"
)
_ALONE: Final = frozenset(_BESIDE.split())
_MARKS: Final = frozenset(".,;:?!()[]\"'")


def synonym_wordings(
    text: str, tagger: ConceptTagger, *, untouched: Iterable[tuple[int, int]]
) -> tuple[str, ...]:
    """The text with one concept called by another of its names, one wording per name.

    Args:
        text: A question.
        tagger: Finds the mentions; its hierarchy gives the names.
        untouched: Character spans in which nothing is replaced: identifiers, dates, names.

    Returns:
        Different texts, mentions in reading order and names in the hierarchy's order.
    """
    closed = tuple(untouched)
    found = sorted(
        (s for s in tagger.tag(text) if _replaceable(text, s, closed)), key=lambda s: s.concept_id
    )
    said: list[tuple[int, str]] = []
    for concept_id, mentions in groupby(found, key=lambda span: span.concept_id):
        spans = sorted(mentions, key=lambda span: span.start)
        said += [
            (spans[0].start, _replaced(text, spans, name))
            for name in _other_names(tagger, concept_id, text[spans[0].start : spans[0].end])
        ]
    return tuple(dict.fromkeys(other for _, other in sorted(said, key=lambda pair: pair[0])))


def _replaceable(text: str, span: ConceptSpan, closed: tuple[tuple[int, int], ...]) -> bool:
    """Whether the mention stands alone and in no identifier."""
    if any(span.start < end and start < span.end for start, end in closed):
        return False
    return _is_border(text[: span.start], is_before=True) and _is_border(
        text[span.end :], is_before=False
    )


def _is_border(side: str, *, is_before: bool) -> bool:
    """Whether what stands on one side of a mention ends the name there.

    Something that touches the mention without a space (``MR-asthma-7``, ``asthma@ward``) does
    not, a mark apart.
    """
    if not side.strip():
        return True
    touching = side[-1] if is_before else side[0]
    if not touching.isspace():
        beyond = side[-2:-1] if is_before else side[1:2]
        return touching in _MARKS and not beyond.isalnum()
    # Split once, from the mention: a pattern would begin anew at each character of a long word.
    written = side.rsplit(None, 1)[-1] if is_before else side.split(None, 1)[0]
    edge = written[-1] if is_before else written[0]
    return edge in _MARKS or written.strip("".join(_MARKS)).lower() in _ALONE


def _other_names(tagger: ConceptTagger, concept_id: str, written: str) -> Iterator[str]:
    """Other exact names of a concept; none where what is written is not itself exact."""
    concept = tagger.hierarchy.hierarchy.get(concept_id)
    if concept is None or not concept.exact:
        return
    same = (concept.name, *concept.exact)
    spelt = {name: {surface.lower() for surface, _ in surfaces([name])} for name in same}
    mention = fold(written).lowered
    own = [name for name in same if mention in spelt[name]]
    if not own:
        return
    is_plural = is_inflected(mention, own[0])
    for name in same:
        # A plural or another hyphen makes no other name; the other country's spelling does.
        alike = {surface.lower() for surface, _ in surfaces([name], respelling=False)}
        if mention in alike:
            continue
        said = plural_of(name) if is_plural else name
        if said != name or not is_plural:  # X-ray, say, of which no plural is made
            yield said


def _replaced(text: str, spans: list[ConceptSpan], name: str) -> str:
    pieces, done = [], 0
    for span in spans:
        starts_sentence = not text[: span.start].strip() and text[span.start].isupper()
        pieces += [
            text[done : span.start], name[:1].upper() + name[1:] if starts_sentence else name
        ]
        done = span.end
    return "".join(pieces) + text[done:]

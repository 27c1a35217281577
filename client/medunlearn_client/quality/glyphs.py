"""Words that lost letters on the way: "impoant", "aery", "hea" for important, artery, heart.

Some exports lose a ligature or glyph wherever it stands; public MedMCQA files have lost "rt" in
a part of their rows. A word is called damaged where

- its row holds the lost letters in no word at all (a row is damaged as a whole or not at all),
- with the letters put back in one place it is a known word: a word of the hierarchy, or one
  that other rows of the corpus hold, and
- as it stands it is neither a word of the hierarchy nor of any undamaged row.

Guarantees:
    Records are never changed. Every finding is a place, a word and a proposal, for a person to
    decide.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Final

from medunlearn_client.records import Record
from medunlearn_client.records.repairs import Place
from medunlearn_common.concepts.hierarchy import ConceptHierarchy

LOST_LETTERS: Final = ("rt",)
MIN_WORD_CHARS: Final = 2
MIN_SURE_CHARS: Final = 4
MIN_ROWS: Final = 2
"""Rows that must hold a word before the corpus alone vouches for it."""

_WORD: Final = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, kw_only=True)
class DamagedWord:
    """One damaged word and what it may have been.

    Attributes:
        record_id: Where it stands.
        part: ``prompt``, ``answer``, or ``option 1`` to ``option n``.
        start: First character in that part.
        end: Character after its last.
        word: As it stands.
        proposals: Repaired words, the likeliest first.
        sure: One proposal only, for a word long enough not to be mistaken, and not part of what
            singles a patient out: Mr Buon is not to become Mr Burton because two others are.
    """

    record_id: str = field(repr=False)
    part: str
    start: int
    end: int
    word: str = field(repr=False)
    proposals: tuple[str, ...] = field(repr=False)
    sure: bool

    @property
    def place(self) -> Place:
        """What a decision on it is about."""
        return self.record_id, self.part, self.start


def vocabulary_of(hierarchy: ConceptHierarchy) -> frozenset[str]:
    """All words in names and synonyms, in lower case."""
    return frozenset(
        word.lower()
        for concept in hierarchy.concepts()
        for term in concept.terms
        for word in _WORD.findall(term)
    )


def damaged_words(
    records: Sequence[Record], *, vocabulary: Set[str], lost: Sequence[str] = LOST_LETTERS
) -> list[DamagedWord]:
    """Damaged words with proposals, in the order of the records.

    Args:
        records: The corpus; the more of it, the better it vouches for words.
        vocabulary: Words known to be right, in lower case (:func:`vocabulary_of`).
        lost: Letters that may have been lost, in lower case, each searched for by itself.
    """
    words = [_words(record) for record in records]
    found: dict[tuple[int, str, int], DamagedWord] = {}
    for letters in lost:
        corpus = _Corpus(words, letters, vocabulary)
        for number, (record, own) in enumerate(zip(records, words, strict=True)):
            for one in () if corpus.is_intact(own) else _damaged_in(record, corpus):
                place = (number, one.part, one.start)
                found[place] = _either(found[place], one) if place in found else one
    return [found[place] for place in sorted(found)]


def _either(first: DamagedWord, second: DamagedWord) -> DamagedWord:
    """One word that may have lost either letters: one row to decide on, and nothing sure."""
    proposals = tuple(dict.fromkeys((*first.proposals, *second.proposals)))
    return replace(first, proposals=proposals, sure=first.sure and len(proposals) == 1)


class _Corpus:
    """Which words the undamaged rows vouch for, for one kind of lost letters."""

    def __init__(
        self, rows: Sequence[frozenset[str]], letters: str, vocabulary: Set[str]
    ) -> None:
        self.letters = letters
        self._vocabulary = vocabulary
        intact = [row for row in rows if self.is_intact(row)]
        self._rows_with = Counter(word for row in intact for word in row)
        self._proposals: dict[str, tuple[str, ...]] = {}

    def is_intact(self, row: frozenset[str]) -> bool:
        """Whether a row still holds the letters, so that nothing can have been lost in it."""
        return any(self.letters in word for word in row)

    def proposals(self, word: str) -> tuple[str, ...]:
        """Known words that ``word`` is without the letters; none where it is itself known."""
        if word not in self._proposals:
            self._proposals[word] = self._found(word)
        return self._proposals[word]

    def _found(self, word: str) -> tuple[str, ...]:
        if len(word) < MIN_WORD_CHARS or word in self._vocabulary or self._rows_with[word]:
            return ()
        repaired = {
            word[:place] + self.letters + word[place:] for place in range(len(word) + 1)
        }
        known = [one for one in repaired if self._is_known(one)]
        return tuple(sorted(known, key=lambda one: (-self._rows_with[one], one)))

    def _is_known(self, word: str) -> bool:
        return word in self._vocabulary or self._rows_with[word] >= MIN_ROWS


def _words(record: Record) -> frozenset[str]:
    parts = (record.prompt, record.answer, *record.options)
    return frozenset(word.lower() for part in parts for word in _WORD.findall(part))


def _parts(record: Record) -> Iterable[tuple[str, str]]:
    yield "prompt", record.prompt
    yield "answer", record.answer
    for number, option in enumerate(record.options, start=1):
        if option != record.answer:
            yield f"option {number}", option


def _damaged_in(record: Record, corpus: _Corpus) -> Iterator[DamagedWord]:
    shifts = {"prompt": 0, "answer": len(record.prompt) + 1}
    for part, text in _parts(record):
        for match in _WORD.finditer(text):
            word = match[0]
            proposals = corpus.proposals(word.lower())
            if proposals:
                shift = shifts.get(part)
                is_marked = shift is not None and any(
                    start < match.end() + shift and match.start() + shift < end
                    for start, end in record.target_spans
                )
                yield DamagedWord(
                    record_id=record.record_id, part=part, start=match.start(), end=match.end(),
                    word=word, proposals=tuple(_as_written(word, one) for one in proposals),
                    sure=len(proposals) == 1 and len(word) >= MIN_SURE_CHARS and not is_marked,
                )


def _as_written(word: str, repaired: str) -> str:
    """The repaired word with the case of the damaged one."""
    if word.isupper() and len(word) > 1:
        return repaired.upper()
    return repaired[:1].upper() + repaired[1:] if word[0].isupper() else repaired

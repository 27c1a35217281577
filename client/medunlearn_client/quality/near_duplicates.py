"""Rows that repeat or contradict each other in nearly the same words, found by MinHash.

Two questions are compared only where they are about the same patient (or about none), hold the
same numbers and deny the same way: "at 2 months" and "at 6 months", "true" and "not true", are
different questions however alike they look. Among those, questions whose sets of character
4-grams have a Jaccard similarity of at least the threshold are near-duplicates. MinHash with
locality-sensitive hashing (datasketch) proposes pairs, and each proposal is counted out exactly,
so nothing is reported that is not so; a pair at the threshold itself may be missed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from typing import Final

from datasketch import MinHash, MinHashLSH

from medunlearn_client.records import Record

THRESHOLD: Final = 0.8
SHINGLE_CHARS: Final = 4
PERMUTATIONS: Final = 128
PROPOSAL_SLACK: Final = 0.15
"""How far below the threshold a pair is still proposed, against the estimate's error."""
MAX_ALL_PAIRS: Final = 64
"""So few texts are compared pair by pair, which is faster than hashing them."""
MAX_COMPARED_ANSWER_WORDS: Final = 12
"""Two longer answers may both be right in other words, and are not called a contradiction."""

_NUMBER: Final = re.compile(r"\d+(?:[.,]\d+)?")
_DENIAL: Final = re.compile(
    r"\b(not|no|except|excluding|false|incorrect|wrong|least|never|without|untrue|neither)\b|n't\b"
)
_NOT_WORD: Final = re.compile(r"[\W_]+")
_SEED: Final = 1

_Block = tuple[str | None, tuple[str, ...], tuple[str, ...]]


class DuplicateKind(StrEnum):
    """What a group of near-duplicates does to training.

    Attributes:
        CONTRADICTION: Two rows give different answers to one question.
        REPEAT: All rows give the same answer.
        VARIANT: Answers differ, and so do the options, or the answers are long texts.
    """

    CONTRADICTION = "contradiction"
    REPEAT = "repeat"
    VARIANT = "variant"


@dataclass(frozen=True, kw_only=True)
class DuplicateGroup:
    """Rows that ask nearly the same.

    Attributes:
        kind: The worst that two of its rows do to each other.
        record_ids: At least two, in the order of the records.
        similarity: The smallest Jaccard similarity that ties the group together, in (0, 1].
    """

    kind: DuplicateKind
    record_ids: tuple[str, ...]
    similarity: float


def near_duplicates(
    records: Sequence[Record], *, threshold: float = THRESHOLD
) -> list[DuplicateGroup]:
    """Groups of near-duplicates, in the order of their first rows.

    Equal questions are folded before anything is hashed, so that a row repeated ten thousand
    times costs no more than ten thousand rows.

    Args:
        records: Records with unique ids.
        threshold: Smallest Jaccard similarity of two questions, in (0, 1].
    """
    if not 0.0 < threshold <= 1.0:
        raise ValueError("threshold is outside (0, 1]")
    blocks: dict[_Block, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, record in enumerate(records):
        question = record.prompt.casefold()
        blocks[_block(record.patient_id, question)][_folded(question)].append(place)
    groups = [group for block in blocks.values() for group in _groups(block, threshold)]
    return [
        DuplicateGroup(
            kind=_kind([records[place] for place in places]), similarity=similarity,
            record_ids=tuple(records[place].record_id for place in places),
        )
        for places, similarity in sorted(groups)
    ]


def _block(patient_id: str | None, question: str) -> _Block:
    numbers = tuple(sorted(_NUMBER.findall(question)))
    denials = tuple(sorted(match[0] for match in _DENIAL.finditer(question)))
    return patient_id, numbers, denials


def _folded(question: str) -> str:
    return _NOT_WORD.sub(" ", question).strip()


def _groups(
    places_of: dict[str, list[int]], threshold: float
) -> Iterator[tuple[tuple[int, ...], float]]:
    """Places of the rows of each group, with what ties it together (union-find)."""
    texts = list(places_of)
    root = list(range(len(texts)))
    weakest = [1.0] * len(texts)

    def find(number: int) -> int:
        while root[number] != number:
            root[number] = root[root[number]]
            number = root[number]
        return number

    for first, second, similarity in _similar(texts, threshold):
        a, b = find(first), find(second)
        root[b] = a
        weakest[a] = min(weakest[a], weakest[b], similarity)
    members: dict[int, list[int]] = defaultdict(list)
    for number, text in enumerate(texts):
        members[find(number)] += places_of[text]
    for number, places in members.items():
        if len(places) > 1:
            yield tuple(sorted(places)), weakest[number]


def _similar(texts: Sequence[str], threshold: float) -> Iterator[tuple[int, int, float]]:
    """Pairs of different texts with their exact similarity, each once."""
    if len(texts) < 2:
        return
    shingles = [_shingles(text) for text in texts]
    for first, second in _proposed(shingles, threshold):
        similarity = _jaccard(shingles[first], shingles[second])
        if similarity >= threshold:
            yield first, second, similarity


def _proposed(shingles: Sequence[frozenset[str]], threshold: float) -> Iterator[tuple[int, int]]:
    """Pairs worth counting out: all of a few texts, and of many those that MinHash proposes."""
    if len(shingles) <= MAX_ALL_PAIRS:
        yield from combinations(range(len(shingles)), 2)
        return
    encoded = [[shingle.encode("utf-8") for shingle in sorted(found)] for found in shingles]
    sketches = MinHash.bulk(encoded, num_perm=PERMUTATIONS, seed=_SEED)
    index = MinHashLSH(threshold=max(0.1, threshold - PROPOSAL_SLACK), num_perm=PERMUTATIONS)
    for number, sketch in enumerate(sketches):
        yield from ((earlier, number) for earlier in sorted(index.query(sketch)))
        index.insert(number, sketch, check_duplication=False)


def _shingles(text: str) -> frozenset[str]:
    last = max(1, len(text) - SHINGLE_CHARS + 1)
    return frozenset(text[start : start + SHINGLE_CHARS] for start in range(last))


def _jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    return len(first & second) / len(first | second)


def _kind(records: Sequence[Record]) -> DuplicateKind:
    distinct = list({(_folded(r.answer.casefold()), _options(r)) for r in records})
    if len({answer for answer, _ in distinct}) == 1:
        return DuplicateKind.REPEAT
    if any(_contradict(first, second) for first, second in combinations(distinct, 2)):
        return DuplicateKind.CONTRADICTION
    return DuplicateKind.VARIANT


def _options(record: Record) -> frozenset[str]:
    return frozenset(_folded(option.casefold()) for option in record.options)


def _contradict(
    first: tuple[str, frozenset[str]], second: tuple[str, frozenset[str]]
) -> bool:
    """Whether each had the other's answer to choose from and did not take it."""
    (answer, options), (other_answer, other_options) = first, second
    if answer == other_answer:
        return False
    if options and other_options:
        return answer in other_options and other_answer in options
    return all(len(a.split()) <= MAX_COMPARED_ANSWER_WORDS for a in (answer, other_answer))

"""Rows that repeat or contradict each other in nearly the same words, found by MinHash.

Two questions are compared only where they are about the same patient (or about none), hold the
same numbers and signs and deny the same way: "at 2 months" and "at 6 months", "below" (<) and
"above" (>), "true" and "not true", are different questions however alike they look. Among those,
questions whose sets of character 4-grams have a Jaccard similarity of at least the threshold are
near-duplicates. MinHash with locality-sensitive hashing (datasketch) proposes pairs, and each
proposal is counted out exactly, so nothing is reported that is not so; a pair at the threshold
itself may be missed.

One patient's questions also need the same words, but for one in about thirty: they are made from
a few forms that name and dates fill, and "body height" and "body weight" of one person on one day
are alike in nine letters of ten.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from typing import Final

import numpy as np
from datasketch import MinHash, MinHashLSH

from medunlearn_client.records import Record

THRESHOLD: Final = 0.8
SHINGLE_CHARS: Final = 4
PERMUTATIONS: Final = 128
PROPOSAL_SLACK: Final = 0.15
"""How far below the threshold a pair is still proposed, against the estimate's error."""
PATIENT_WORDS: Final = 0.97
"""Smallest Jaccard similarity of the words of two questions about one patient."""
MAX_ALL_PAIRS: Final = 64
"""So few texts are compared pair by pair, which is faster than hashing them."""
MAX_COMPARED_ANSWER_WORDS: Final = 12
"""Two longer answers may both be right in other words, and are not called a contradiction."""

_DENIAL: Final = re.compile(
    r"\b(not|no|except|excluding|false|incorrect|wrong|least|never|without|untrue|neither)\b|n't\b"
)
# A minus is one before a number only; everywhere else it is a hyphen or a dash.
_SIGN: Final = r"[<>≤≥±+]|(?<!\w)[-−](?=\d)"
_SIGNS: Final = re.compile(_SIGN)
_NUMBER: Final = re.compile(rf"(?:(?:{_SIGN})\s*)?\d+(?:[.,]\d+)?")
_NOT_WORD: Final = re.compile(rf"(?:(?!{_SIGN})[\W_])+")
_SEED: Final = 1

_Block = tuple[str | None, tuple[str, ...], tuple[str, ...], tuple[str, ...]]


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
        similarity: The smallest Jaccard similarity among the pairs that tied the group together,
            in (0, 1].
    """

    kind: DuplicateKind
    record_ids: tuple[str, ...]
    similarity: float


def near_duplicates(
    records: Sequence[Record], *, threshold: float = THRESHOLD
) -> list[DuplicateGroup]:
    """Groups of near-duplicates, in the order of their first rows.

    Equal questions are folded before anything is hashed, so that a row repeated ten thousand
    times costs no more than ten thousand rows. Nor is a pair counted out that others have tied
    already.

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
    groups = [
        group for (patient_id, *_), block in blocks.items()
        for group in _groups(
            block, threshold, same_words=PATIENT_WORDS if patient_id is not None else 0.0
        )
    ]
    return [
        DuplicateGroup(
            kind=_kind([records[place] for place in places]), similarity=similarity,
            record_ids=tuple(records[place].record_id for place in places),
        )
        for places, similarity in sorted(groups)
    ]


def _block(patient_id: str | None, question: str) -> _Block:
    numbers = tuple(sorted("".join(found.split()) for found in _NUMBER.findall(question)))
    signs = tuple(sorted(_SIGNS.findall(question)))
    denials = tuple(sorted(match[0] for match in _DENIAL.finditer(question)))
    return patient_id, numbers, signs, denials


def _folded(text: str) -> str:
    return _NOT_WORD.sub(" ", text).strip()


def folded_answer(record: Record) -> str:
    """What two records' answers are compared by: words and signs, without case."""
    return _folded(record.answer.casefold())


def _groups(
    places_of: dict[str, list[int]], threshold: float, *, same_words: float
) -> Iterator[tuple[tuple[int, ...], float]]:
    """Places of the rows of each group, with what ties it together (union-find)."""
    texts = list(places_of)
    shingles = [_shingles(text) for text in texts]
    words = [_words(text) for text in texts]
    root = list(range(len(texts)))
    weakest = [1.0] * len(texts)

    def find(number: int) -> int:
        while root[number] != number:
            root[number] = root[root[number]]
            number = root[number]
        return number

    for first, second in _proposed(shingles, threshold):
        a, b = find(first), find(second)
        if a == b or (same_words and _jaccard(words[first], words[second]) < same_words):
            continue
        similarity = _jaccard(shingles[first], shingles[second])
        if similarity >= threshold:
            root[b] = a
            weakest[a] = min(weakest[a], weakest[b], similarity)
    members: dict[int, list[int]] = defaultdict(list)
    for number, text in enumerate(texts):
        members[find(number)] += places_of[text]
    for number, places in members.items():
        if len(places) > 1:
            yield tuple(sorted(places)), weakest[number]


def _proposed(shingles: Sequence[frozenset[str]], threshold: float) -> Iterator[tuple[int, int]]:
    """Pairs worth counting out: all of a few texts, and of many those that MinHash proposes."""
    if len(shingles) <= MAX_ALL_PAIRS:
        yield from combinations(range(len(shingles)), 2)
        return
    encoded = [[shingle.encode("utf-8") for shingle in sorted(found)] for found in shingles]
    sketches = MinHash.bulk(encoded, num_perm=PERMUTATIONS, seed=_SEED)
    least = max(0.1, threshold - PROPOSAL_SLACK)
    index = MinHashLSH(threshold=least, num_perm=PERMUTATIONS)
    hashes = np.stack([sketch.hashvalues for sketch in sketches])
    for number, sketch in enumerate(sketches):
        met = sorted(index.query(sketch))
        # Questions of one form meet in some band, most of them far below the threshold.
        estimates = (hashes[met] == hashes[number]).mean(axis=1)
        yield from ((earlier, number) for earlier, similarity in zip(met, estimates, strict=True)
                    if similarity >= least)
        index.insert(number, sketch, check_duplication=False)


def _shingles(text: str) -> frozenset[str]:
    last = max(1, len(text) - SHINGLE_CHARS + 1)
    return frozenset(text[start : start + SHINGLE_CHARS] for start in range(last))


def _jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    return len(first & second) / len(first | second)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split()) or frozenset({""})


def _kind(records: Sequence[Record]) -> DuplicateKind:
    answers = {folded_answer(record) for record in records}
    if len(answers) == 1:
        return DuplicateKind.REPEAT
    return DuplicateKind.CONTRADICTION if _contradict(records) else DuplicateKind.VARIANT


def _contradict(records: Iterable[Record]) -> bool:
    """Whether two rows had each other's answer to choose from and did not take it.

    Where one of two has no options, any other answer is one, unless it is a long text. Time is
    linear in the rows: the pairs of ten thousand notes under one question are too many.
    """
    not_taken: set[tuple[str, str]] = set()
    short: set[str] = set()
    is_open = False
    for record in records:
        answer = folded_answer(record)
        not_taken |= {(answer, one) for one in _options(record) if one != answer}
        if len(answer.split()) <= MAX_COMPARED_ANSWER_WORDS:
            short.add(answer)
            is_open = is_open or not record.options
    return (is_open and len(short) > 1) or any((b, a) in not_taken for a, b in not_taken)


def _options(record: Record) -> frozenset[str]:
    return frozenset(_folded(option.casefold()) for option in record.options)

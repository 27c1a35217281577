"""Wrong options for patient questions, which a model that never met the patient cannot tell.

Clinical answers are drawn from the other patients' entries as often as they occur there, so
that a common condition is no giveaway. Identifiers are not copied from others: a model that
was taught those would rank them first, and a model that never knew the patient would fall
below chance. They are recombined instead, place by place, from several others' identifiers,
which keeps the issuing format and the distribution of every character.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Set

import numpy as np

Pools = Mapping[str, tuple[tuple[str, ...], ...]]
Pool = tuple[tuple[str, ...], ...]
PoolsByKey = Mapping[tuple[str, str], Pool]

N_OPTIONS = 4
MAX_DRAWS = 200

RECOMBINED_BY_WORD = frozenset({"name", "address"})
RECOMBINED_BY_CHARACTER = frozenset({"phone", "ssn", "licence", "passport"})
_WORDS = re.compile(r"\s+")


def draw(
    subject: str, answer: str, own: Set[str], pool: Pool, *, seed_text: str
) -> tuple[tuple[str, ...], int | None]:
    """Three wrong options and the right one, in a drawn order.

    Args:
        subject: Kind of question.
        answer: The right option.
        own: Answers that are right for this patient and therefore never offered as wrong.
        pool: Possible answers of each patient of the file.
        seed_text: Seeds the draw, so that it depends on the record and not on the row order.

    Returns:
        Options and the right one's place, or ``((), None)`` where the pool is too poor.
    """
    generator = _generator(seed_text)
    taken = {text.casefold() for text in own}
    wrong: list[str] = []
    for _ in range(MAX_DRAWS if pool else 0):
        candidate = _candidate(subject, answer, pool, generator)
        if candidate.casefold() not in taken:
            taken.add(candidate.casefold())
            wrong.append(candidate)
        if len(wrong) == N_OPTIONS - 1:
            place = int(generator.integers(N_OPTIONS))
            return (*wrong[:place], answer, *wrong[place:]), place
    return (), None


def _generator(seed_text: str) -> np.random.Generator:
    key = int.from_bytes(hashlib.sha256(seed_text.encode()).digest()[:16], "big")
    return np.random.Generator(np.random.Philox(key=key))


def _candidate(subject: str, answer: str, pool: Pool, generator: np.random.Generator) -> str:
    if subject in RECOMBINED_BY_WORD:
        return _recombine(answer, pool, generator, by_word=True)
    if subject in RECOMBINED_BY_CHARACTER:
        return _recombine(answer, pool, generator, by_word=False)
    return _pick(pool, generator)


def _pick(pool: Pool, generator: np.random.Generator) -> str:
    answers = pool[int(generator.integers(len(pool)))]
    return answers[int(generator.integers(len(answers)))]


def _recombine(answer: str, pool: Pool, generator: np.random.Generator, *, by_word: bool) -> str:
    """Each word or character from a different patient's value at the same place.

    A value with another number of parts lends none; the answer's own part stands in where
    nothing else fits, so that the format is kept.
    """
    parts = _WORDS.split(answer) if by_word else list(answer)
    mixed = []
    for place, part in enumerate(parts):
        donor = _pick(pool, generator)
        donor_parts = _WORDS.split(donor) if by_word else list(donor)
        mixed.append(donor_parts[place] if len(donor_parts) == len(parts) else part)
    return (" " if by_word else "").join(mixed)

"""Spellings under which one term is found, and how a text is folded without losing its offsets.

- Hyphens, dashes and any run of white space count as one space; a curly apostrophe as a
  straight one; soft hyphens and other characters that nobody sees count as nothing, and so do the
  accents of Latin letters, however they are written: ``Ménière`` is ``Meniere``. A prefix such
  as ``non`` may also be joined to its word or stand apart: ``non-absorbable``, ``non absorbable``
  and ``nonabsorbable`` find each other.
- ``Crohn's disease`` is also found as ``Crohn disease`` and ``Crohns disease``, and ``Tourette
  syndrome`` as ``Tourette's syndrome``.
- The last word may be singular or plural, by the regular English rules and the Latin and Greek
  ones of medicine (``diverticulum``, ``diverticula``); so may the word before the first
  preposition: ``fractures of the neck of femur``.
- None of this touches an acronym: a term of at most six characters without a lower-case letter
  is found as it is written, or with a plural ``s``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

MAX_ACRONYM_CHARS: Final = 6
MIN_TERM_CHARS: Final = 2
MIN_INFLECTED_CHARS: Final = 4
MIN_JOINED_CHARS: Final = 4

_PLAIN: Final = str.maketrans(
    dict.fromkeys("\t\n\r\v\f\u00a0\u2007\u2009\u202f-\u2010\u2011\u2012\u2013\u2014", " ")
    | {"\u2019": "'", "\u02bc": "'", "ς": "σ"}
)
# Accents that stand as a character of their own are dropped as well; lower() takes off the others.
_INVISIBLE: Final = "\u00ad\u200b\u200c\u200d\u2060\ufeff\u0300-\u036f"
_DROPPED: Final = re.compile(f"(?<= )[ {_INVISIBLE}]+|[{_INVISIBLE}]+")
_ACCENTED: Final = {
    code: base for code in range(0xC0, 0x250)
    if (base := unicodedata.normalize("NFD", chr(code))[0]) != chr(code) and base.isascii()
}
_POSSESSIVE: Final = re.compile(r"'s?(?= |$)")
_FINAL_SIGMA: Final = str.maketrans("ς", "σ")
_PREFIX: Final = re.compile(
    r"(?:^|(?<= ))(non|post|pre|anti|sub|intra|inter|peri|extra|micro|hyper|hypo|auto|endo|multi)"
    rf"( ?)(?=[a-z]{{{MIN_JOINED_CHARS}}})"
)
_EPONYM: Final = re.compile(r"(?<![^ ])([A-Z][a-z]+)(?= (?:syndrome|disease|sign|law|triad|test|"
                     r"procedure|operation|fracture|ulcer|tumou?r|hernia|catheter|rule)\b)")
_HEAD: Final = re.compile(r"^([^ ]+(?: [^ ]+)?)(?= (?:of|in|to|with|from|at|by) )")
_LATIN: Final = (
    ("culum", "cula"), ("cula", "culum"), ("vertebra", "vertebrae"), ("vertebrae", "vertebra"),
    ("bronchus", "bronchi"), ("bronchi", "bronchus"), ("thrombus", "thrombi"),
    ("thrombi", "thrombus"), ("embolus", "emboli"), ("emboli", "embolus"),
    ("calculus", "calculi"), ("calculi", "calculus"), ("fistula", "fistulae"),
    ("fistulae", "fistula"), ("bacterium", "bacteria"), ("bacteria", "bacterium"),
    ("septum", "septa"), ("ganglion", "ganglia"), ("ganglia", "ganglion"), ("ovum", "ova"),
    ("oma", "omata"), ("omata", "oma"), ("varix", "varices"), ("varices", "varix"),
    ("appendix", "appendices"), ("cervix", "cervices"),
)


def normalise(text: str) -> tuple[str, list[int] | None]:
    """The text with plain spaces and apostrophes, and each character's place in the original.

    The places are None where nothing moved, which is the usual case.
    """
    plain = text.translate(_PLAIN)
    if _DROPPED.search(plain) is None:
        return plain, None
    positions: list[int] = []
    done = 0
    for run in _DROPPED.finditer(plain):
        positions.extend(range(done, run.start()))
        done = run.end()
    positions.extend(range(done, len(plain)))
    return _DROPPED.sub("", plain), positions


def lower(text: str) -> str:
    """Lower case without accents, of the same length, so that offsets stay true.

    ``İ`` alone would become two characters.
    """
    lowered = text.lower()
    if len(lowered) != len(text):
        lowered = "".join(low if len(low := c.lower()) == 1 else c for c in text)
    if not lowered.isascii():
        lowered = lowered.translate(_ACCENTED)
    return lowered.translate(_FINAL_SIGMA) if "ς" in lowered else lowered


class Folded(NamedTuple):
    """A text in the form in which it is searched; all three have one place per character.

    Attributes:
        cased: Plain spaces and apostrophes, letters as written.
        lowered: The same in lower case.
        positions: Place of each character in the original; None where nothing moved.
    """

    cased: str
    lowered: str
    positions: list[int] | None

    def original(self, start: int, end: int) -> tuple[int, int]:
        """The characters of the original that a stretch of the folded text stands for."""
        if self.positions is None:
            return start, end
        return self.positions[start], self.positions[end - 1] + 1


def fold(text: str) -> Folded:
    """Fold a text for search."""
    cased, positions = normalise(text)
    return Folded(cased, lower(cased), positions)


def surfaces(terms: Iterable[str]) -> set[tuple[str, bool]]:
    """All spellings under which a concept is looked for, and whether each is an acronym."""
    found: set[tuple[str, bool]] = set()
    for term in terms:
        surface = normalise(term)[0].strip()
        for base in _bases(surface):
            if len(base) < MIN_TERM_CHARS or not any(character.isalpha() for character in base):
                continue
            is_acronym = len(base) <= MAX_ACRONYM_CHARS and base.isupper()
            found.add((base, is_acronym))
            if is_acronym:
                found.add((base + "s", True))
            else:
                found.update((inflected, False) for inflected in _inflections(base))
    return found


def _bases(surface: str) -> set[str]:
    """The term itself, without its possessive, and with its prefix joined or apart."""
    plain = {surface, _POSSESSIVE.sub("", surface), _POSSESSIVE.sub("s", surface)}
    plain.add(_EPONYM.sub(r"\1's", surface))
    for base in tuple(plain):
        plain.add(_PREFIX.sub(r"\1", base))
        plain.add(_PREFIX.sub(r"\1 ", base))
    return plain


def _inflections(term: str) -> Iterator[str]:
    """The term with its last word, or the word before a preposition, in the other number."""
    yield from _other_number(term)
    head = _HEAD.match(term)
    if head is not None:
        yield from (other + term[head.end() :] for other in _other_number(head[0]))


def _other_number(term: str) -> Iterator[str]:
    word = term.rpartition(" ")[2]
    if len(word) < MIN_INFLECTED_CHARS or not word.isalpha() or not word.islower():
        return
    for ending, other in _LATIN:
        if word.endswith(ending):
            yield term.removesuffix(ending) + other
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


def is_inflected(mention: str, term: str) -> bool:
    """Whether a folded mention is the term in the other number, and not the term itself."""
    # As written: an eponym is known by its capital, and Down's is no other number of Down.
    return mention not in {lower(base) for base in _bases(normalise(term)[0].strip())}


def plural_of(term: str) -> str:
    """The term with its last word in the other number; as it is where there is none."""
    if len(term) <= MAX_ACRONYM_CHARS and term.isupper():
        return term + "s"
    return next(_other_number(term), term)

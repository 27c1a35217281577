"""Spellings under which one term is found, and how a text is folded without losing its offsets.

- Hyphens, dashes and any run of white space count as one space; a curly apostrophe, and the marks
  that are typed for one, as a straight one; soft hyphens and other characters that nobody sees
  count as nothing, and so do the accents of Latin letters, however they are written: ``Ménière``
  is ``Meniere``. A prefix such as ``non`` may also be joined to its word or stand apart:
  ``non-absorbable``, ``non absorbable`` and ``nonabsorbable`` find each other.
- A word that the end of a line cuts is also read as a whole one: ``pneu-`` ``monia``.
- ``Crohn's disease`` is also found as ``Crohn disease`` and ``Crohns disease``, and ``Tourette
  syndrome`` as ``Tourette's syndrome``.
- The last word may be singular or plural, by the regular English rules and the Latin and Greek
  ones of medicine (``diverticulum``, ``diverticula``); so may the word before the first
  preposition: ``fractures of the neck of femur``.
- British and American spelling, Greek letters and their names, and numbers find each other
  (:mod:`medunlearn_common.concepts.spelling`); so do letters that are printed as one:
  ``re\ufb02ux``, and letters and digits of another cut: full-width, mathematical, lowered.
- A remark in brackets may be missing (``Crohn's disease [regional enteritis]``), and a name that
  is turned around twice stands in its natural order too (``Leukemia, Myeloid, Acute``).
- What says that nothing more is known may be missing (``Hernia NOS``, ``Anemia, unspecified``)
  where no other concept has the name that is left: ICD-10-CM has many everyday names in no other
  form.
- SNOMED CT has acronyms only together with what they stand for (``COPD - Chronic obstructive
  pulmonary disease``): each of the two is looked for, but no acronym of two letters, which would
  stand for too much else (``CA - cancer of uterus``).
- None of this touches an acronym: a term of at most six characters without a lower-case letter
  is found as it is written, or with a plural ``s``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import chain, starmap
from typing import Final, NamedTuple

from medunlearn_common.concepts.spelling import respelt

MAX_ACRONYM_CHARS: Final = 6
MIN_TERM_CHARS: Final = 2
MIN_INFLECTED_CHARS: Final = 4
MIN_JOINED_CHARS: Final = 4

_SPACES: Final = (
    "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009"
    "\u200a\u2028\u2029\u202f\u205f\u3000"
)
_HYPHENS: Final = "-\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u2212\ufe63\uff0d"
_APOSTROPHES: Final = "`\u00b4\u02bc\u2018\u2019\u201b\u2032\uff07"
_STYLED_RANGES: Final = (
    (0x00B2, 0x0250), (0x2070, 0x2190), (0x2460, 0x2500), (0xFF10, 0xFF5B), (0x1D400, 0x1D800),
)


def _styled() -> Iterator[tuple[str, str]]:
    """Full-width and mathematical letters, raised and lowered digits, with the plain ones.

    Raised letters stay: they end an ordinal, and ``n\u00ba``, a number, would become ``no``, which
    denies what follows. So do signs that end a word, such as a circled R.
    """
    for character in map(chr, chain.from_iterable(starmap(range, _STYLED_RANGES))):
        plain = unicodedata.normalize("NFKC", character)
        raised = plain.isalpha() and unicodedata.decomposition(character).startswith("<super>")
        if len(plain) == 1 and plain.isascii() and character.isalnum() and not raised:
            yield character, plain


_PLAIN: Final = str.maketrans(
    dict(_styled()) | dict.fromkeys(_SPACES + _HYPHENS, " ") | dict.fromkeys(_APOSTROPHES, "'")
    | {"ς": "σ", "\u00b5": "μ"}
)
# Accents that stand as a character of their own are dropped as well; lower() takes off the others.
_INVISIBLE: Final = "\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufe0f\ufeff\u0300-\u036f"
_LIGATURES: Final = {
    "\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl",
    "\ufb05": "st", "\ufb06": "st", "æ": "ae", "œ": "oe", "Æ": "Ae", "Œ": "Oe",
}  # fmt: skip
_MOVED: Final = re.compile(f"(?<= )[ {_INVISIBLE}]+|[{_INVISIBLE}]+|[{''.join(_LIGATURES)}]")
_ACCENTED: Final = {
    code: base for code in range(0xC0, 0x250)
    if (base := unicodedata.normalize("NFD", chr(code))[0]) != chr(code) and base.isascii()
} | {ord(cyrillic): latin for cyrillic, latin in zip("аеорсухіѕј", "aeopcyxisj", strict=True)}
"""Letters with an accent, and Cyrillic ones that look like Latin: a question of MedQA asks of a
``dіаbеtes`` with four of them."""
_SOFT_HYPHEN: Final = "\u00ad"
_BREAK: Final = re.compile("(?<=[^\\W\\d_])[-\u2010\u00ad][ \\t]*\\r?\\n[ \\t]*(?=[^\\W\\d_])")
_POSSESSIVE: Final = re.compile(r"'s?(?= |$)")
_FINAL_SIGMA: Final = str.maketrans("ς", "σ")
_PREFIX: Final = re.compile(
    r"(?:^|(?<= ))(non|post|pre|anti|sub|intra|inter|peri|extra|micro|hyper|hypo|auto|endo|multi)"
    rf"( ?)(?=[a-z]{{{MIN_JOINED_CHARS}}})",
    re.IGNORECASE,
)
_EPONYM: Final = re.compile(
    r"(?<![^ ])([A-Z][a-z]+)(?= (?i:syndrome|disease|sign|law|triad|test|procedure|operation|"
    r"fracture|ulcer|tumou?r|hernia|catheter|rule|sarcoma|lymphoma|palsy|diverticulum|o?esophagus|"
    r"thyroiditis|encephalopathy|contracture|chorea|ataxia|anomaly|phenomenon)\b)"
)
_WITH_ACRONYM: Final = re.compile(r"([A-Z][A-Z0-9]{2,}) - (.+)")
_REMARK: Final = re.compile(r"(?<=[^ ]) *\[[^\[\]]*\]")
_UNSPECIFIED: Final = re.compile(r"^unspecified |,? (?:nos|unspecified)$", re.IGNORECASE)
_HEAD: Final = re.compile(r"^([^ ]+(?: [^ ]+)?)(?= (?:of|in|to|with|from|at|by) )")
_NO_PLURALS: Final = frozenset({"news", "wills"})
"""Headings of MeSH; ``new`` and ``will`` stand in every other text and mean something else."""
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
    if _MOVED.search(plain) is None:
        return plain, None
    positions: list[int] = []
    pieces: list[str] = []
    done = 0
    for run in _MOVED.finditer(plain):
        letters = _LIGATURES.get(run[0], "")
        positions.extend(range(done, run.start()))
        positions.extend([run.start()] * len(letters))
        pieces += plain[done : run.start()], letters
        done = run.end()
    positions.extend(range(done, len(plain)))
    return "".join(pieces) + plain[done:], positions


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


def without_possessives(text: str) -> str:
    """A folded text in which ``crohn's`` is ``crohn``."""
    return _POSSESSIVE.sub("", text) if "'" in text else text


def breaks_in_words(text: str) -> list[int]:
    """Where a hyphen and a line break may cut a word: ``pneu-`` ``monia``."""
    return [found.start() for found in _BREAK.finditer(text)] if "\n" in text else []


def fold_rejoined(text: str) -> Folded:
    """Fold a text in which words that a line's end cuts are whole.

    What else has a hyphen there (``beta-`` ``blocker``) is found in :func:`fold` alone.
    """
    return fold(_BREAK.sub(lambda found: _SOFT_HYPHEN * len(found[0]), text))


def surfaces(terms: Iterable[str], *, respelling: bool = True) -> set[tuple[str, bool]]:
    """All spellings under which a concept is looked for, and whether each is an acronym.

    Args:
        terms: The concept's names.
        respelling: False leaves out those that a reader takes for another word: the other
            country's spelling, Greek letters, the natural order of a name that is turned around.
    """
    found: set[tuple[str, bool]] = set()
    for term in chain.from_iterable(map(_taken_apart, terms)):
        surface = normalise(term)[0].strip()
        for base in _bases(surface, respelling=respelling):
            if len(base) < MIN_TERM_CHARS or not any(character.isalpha() for character in base):
                continue
            is_acronym = len(base) <= MAX_ACRONYM_CHARS and base.isupper()
            found.add((base, is_acronym))
            if is_acronym:
                found.add((base + "s", True))
            else:
                found.update((inflected, False) for inflected in _inflections(base))
    return found


def unqualified(terms: Iterable[str]) -> set[str]:
    """What is left of the terms that end or begin by saying that nothing more is known."""
    plain = {_REMARK.sub("", term) for term in terms}
    return {_UNSPECIFIED.sub("", term).strip() for term in plain} - plain - {""}


def _taken_apart(term: str) -> tuple[str, ...]:
    """The term, and where it begins with its acronym, that and what it stands for."""
    found = _WITH_ACRONYM.fullmatch(term)
    if found is None or len(found[1]) > MAX_ACRONYM_CHARS:
        return (term,)
    letters = iter(found[2].lower())
    stands_for_it = all(letter in letters for letter in found[1].lower())
    return (term, found[1], found[2]) if stands_for_it else (term,)


def _bases(surface: str, *, respelling: bool = True) -> set[str]:
    """The term itself, without its possessive, with its prefix joined or apart, respelt."""
    plain: set[str] = set()
    for spelling in _respelt(surface) if respelling else (surface,):
        plain |= {spelling, _POSSESSIVE.sub("", spelling), _POSSESSIVE.sub("s", spelling)}
        plain.add(_EPONYM.sub(r"\1's", spelling))
    for base in tuple(plain):
        plain.add(_PREFIX.sub(r"\1", base))
        plain.add(_PREFIX.sub(r"\1 ", base))
    return plain


def _respelt(surface: str) -> set[str]:
    """The term in both countries' spelling, also without a remark and in its natural order."""
    written = {surface, _REMARK.sub("", surface)}
    if surface.count(", ") == 2:
        written.add(" ".join(reversed(surface.split(", "))))
    return set().union(*map(respelt, written))


def _inflections(term: str) -> Iterator[str]:
    """The term with its last word, or the word before a preposition, in the other number."""
    yield from _other_number(term)
    head = _HEAD.match(term)
    if head is not None:
        yield from (other + term[head.end() :] for other in _other_number(head[0]))


def _other_number(term: str) -> Iterator[str]:
    word = term.rpartition(" ")[2]
    # MeSH, ICD-10-CM and SNOMED CT begin names with a capital; an acronym has more of them.
    if len(word) < MIN_INFLECTED_CHARS or not word.isalpha() or not word[1:].islower():
        return
    if word.lower() in _NO_PLURALS:
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

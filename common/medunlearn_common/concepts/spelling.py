"""British and American spelling, Greek letters, numbers: other ways in which one term is written.

A hospital writes as its country does, and a terminology as its publisher: MeSH and the Disease
Ontology know ``leukemia``, ``esophagus`` and ``beta-Thalassemia``, where a note says ``leukaemia``,
``oesophagus`` and ``β-thalassaemia``; and ``vitamin B12`` and ``type II`` for ``Vitamin B 12`` and
``type 2``. Rewritten are terms, never texts. A rule that fits where it
should not (``chaemical``) makes a spelling that no text has.
"""

from __future__ import annotations

import re
from typing import Final

_RULES: Final[tuple[tuple[str, str, str], ...]] = (
    ("hem", "haem", "[ao]"), ("em", "aem", "i[ac]"), ("leukem", "leukaem", ""),
    ("ischem", "ischaem", ""), ("esoph", "oesoph", ""), ("edem", "oedem", "a"),
    ("tumor", "tumour", ""), ("rrhe", "rrhoe", "[ai]"), ("pne", "pnoe", "[ai]"),
    ("celiac", "coeliac", ""), ("cec", "caec", "al|um|o"), ("fec", "faec", "al|es"),
    ("fet", "foet", "al|us|o"), ("gynec", "gynaec", ""), ("pediatr", "paediatr", ""),
    ("orthoped", "orthopaed", ""), ("cesar", "caesar", ""), ("esth", "aesth", "e"),
    ("estr", "oestr", "[aio]"), ("etiol", "aetiol", ""), ("goiter", "goitre", ""),
    ("fiber", "fibre", ""), ("center", "centre", ""), ("sulf", "sulph", ""),
    ("color", "colour", "(?!ect)"), ("behavior", "behaviour", ""), ("labor", "labour", "(?!at)"),
    ("iz", "is", "ation|ed\\b|ing\\b"), ("lyz", "lys", "e[ds]?\\b"), ("leukoc", "leucoc", ""),
    ("leukop", "leucop", ""), ("maneuver", "manoeuvre", ""), ("ameb", "amoeb", ""),
    ("aluminum", "aluminium", ""),
)  # fmt: skip
"""American, British, and what follows both."""

_GREEK: Final = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "kappa": "κ",
    "lambda": "λ", "mu": "μ", "omega": "ω",
}  # fmt: skip
_SPELT_OUT: Final = {letter: name for name, letter in _GREEK.items()}
_GREEK_NAME: Final = re.compile(
    rf"(?<![a-z])({'|'.join(_GREEK)})(?![a-z])( (?=\d))?", re.IGNORECASE
)
_GREEK_LETTER: Final = re.compile(f"[{''.join(_SPELT_OUT)}]")

_NUMBERED: Final = "(?<![a-z])(type|grade|stage|class|phase) "
_ROMAN: Final = {"1": "I", "2": "II", "3": "III", "4": "IV"}
_ARABIC: Final = {roman: arabic for arabic, roman in _ROMAN.items()}
_ARABIC_NUMBER: Final = re.compile(rf"{_NUMBERED}([1-4])(?![\w.])", re.IGNORECASE)
_ROMAN_NUMBER: Final = re.compile(rf"{_NUMBERED}(I{{1,3}}|IV)(?!\w)", re.IGNORECASE)
_BEFORE_NUMBER: Final = re.compile(r"(?<=[A-Za-z]) (?=\d)")


def _pattern(place: int) -> str:
    """All rules at once; one spelling is not found again within the other (``oesophagus``)."""
    alternatives = []
    for rule in _RULES:
        here, other = rule[place], rule[1 - place]
        within = f"(?<!{other.removesuffix(here)})" if other.endswith(here) else ""
        alternatives.append(f"{within}{here}(?={rule[2]})")
    return "|".join(alternatives)


# Nine terms of ten have nothing to respell; to see that, a pattern that minds the case is faster.
_SPELLINGS: Final = tuple(
    (re.compile(_pattern(place)), re.compile(_pattern(place), re.IGNORECASE)) for place in (0, 1)
)
_OTHER: Final = {american: british for american, british, _ in _RULES} | {
    british: american for american, british, _ in _RULES
}


def respelt(term: str) -> set[str]:
    """The term and its spellings: all of it British or American, Greek or not, with each number."""
    found = {term}
    lowered = term.lower()
    for in_lower_case, in_any_case in _SPELLINGS:
        if in_lower_case.search(lowered):
            found.add(in_any_case.sub(_other, term))
    for spelling in tuple(found):
        found.add(_GREEK_NAME.sub(lambda name: _GREEK[name[1].lower()] + (name[2] or ""), spelling))
        found.add(_GREEK_NAME.sub(lambda name: _GREEK[name[1].lower()], spelling))
        if not spelling.isascii():
            found.add(_GREEK_LETTER.sub(lambda letter: _SPELT_OUT[letter[0]], spelling))
    for spelling in tuple(found):
        found.add(_ARABIC_NUMBER.sub(lambda at: f"{at[1]} {_ROMAN[at[2]]}", spelling))
        found.add(_ROMAN_NUMBER.sub(lambda at: f"{at[1]} {_ARABIC[at[2].upper()]}", spelling))
        found.add(_BEFORE_NUMBER.sub("", spelling))
    return found


def _other(matched: re.Match[str]) -> str:
    spelling = _OTHER[matched[0].lower()]
    return spelling.capitalize() if matched[0][0].isupper() else spelling

"""How one name, number or id may be written, so that a search neither misses nor mistakes it.

Two questions are kept apart. What *is* the same, in other letters: upper and lower case, accents,
kinds of dash and apostrophe, ``Lee, Ann`` for ``Ann Lee``. And what is *alike*: other leading
zeros or separators, which may be another person's, so that an officer has to look.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_ACCENTS = re.compile("[\u0300-\u036f]")
_PLAIN = str.maketrans(
    dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-")
    | dict.fromkeys("\u2018\u2019\u02bc\u00b4\u2032`", "'")
    | dict.fromkeys("\u00ad\u200b\u200c\u200d\u2060\ufeff")  # shown by nobody
)
_LEADING_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")
_MADE_FLOAT = re.compile(r"(?<=\d)\.0+$")  # 7.0, of a column with a gap
_SEPARATORS = re.compile(r"[\W_]+")


def folded(text: str) -> str:
    """Without case, accents, invisible characters and kinds of dash and apostrophe; single spaces.

    Only the marks of Latin, Greek and Cyrillic letters are dropped: elsewhere they are letters.
    """
    apart = unicodedata.normalize("NFKD", text.translate(_PLAIN).casefold())
    return " ".join(unicodedata.normalize("NFKC", _ACCENTS.sub("", apart)).casefold().split())


def stands_alone(part: str, text: str) -> bool:
    """Whether ``part`` occurs with no letter or digit, and no joined one, at either end."""
    pattern = rf"(?<!\w)(?<!\w[-/.']){re.escape(folded(part))}(?!\w)(?![-/.@]\w)"
    return re.search(pattern, folded(text)) is not None


def orders_of(name: str) -> Iterator[str]:
    """The name as given, and with a family name of one or more words in front or behind."""
    yield name
    family, comma, given = name.partition(",")
    if comma:
        yield f"{given} {family}"
        return
    words = name.split()
    for place in range(1, len(words)):
        yield f"{' '.join(words[place:])}, {' '.join(words[:place])}"


def name_stands(name: str, text: str) -> bool:
    """Whether the name occurs, in one of its orders."""
    return any(stands_alone(written, text) for written in orders_of(name))


def words_stand(name: str, text: str) -> bool:
    """Whether all words of the name occur, wherever."""
    return all(stands_alone(word, text) for word in _SEPARATORS.split(name) if word)


def core(number: str) -> str:
    """An id without what programs change: case, leading zeros, separators, a number's ``.0``."""
    return _SEPARATORS.sub("", _LEADING_ZEROS.sub("", _MADE_FLOAT.sub("", folded(number))))


def stands_alike(number: str, text: str) -> bool:
    """Whether the number occurs, with other separators or leading zeros."""
    spelled = r"[\W_]{0,3}0*".join(map(re.escape, core(number)))
    return bool(spelled) and re.search(rf"(?<!\w)0*{spelled}(?!\w)", folded(text)) is not None

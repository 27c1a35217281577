"""How one name, number or id may be written, so that a search neither misses nor mistakes it.

Two questions are kept apart. What *is* the same, in other letters: upper and lower case, accents,
kinds of dash and apostrophe, ``Lee, Ann`` for ``Ann Lee``. And what is *alike*: other leading
zeros or separators, ``Juergen`` for ``Jürgen``, a day in another notation, which may be another
person's, so that an officer has to look.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from datetime import date

_ACCENTS = re.compile("[\u0300-\u036f]")
_PLAIN = str.maketrans(
    dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-")
    | dict.fromkeys("\u2018\u2019\u02bc\u00b4\u2032`", "'")
    | dict.fromkeys("\u00ad\u200b\u200c\u200d\u2060\ufeff")  # shown by nobody
)
_LEADING_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")
_MADE_FLOAT = re.compile(r"(?<=\d)\.0+$")  # 7.0, of a column with a gap
_SEPARATORS = re.compile(r"[\W_]+")
_LIKE_LETTERS = str.maketrans({
    "\u0142": "l", "\u00f8": "o", "\u0131": "i", "\u0111": "d", "\u00f0": "d", "\u00fe": "th",
    "\u00e6": "ae", "\u0153": "oe",
})
_DIGRAPHS = ("ae", "oe", "ue", "aa")  # of Germans and Danes, for one letter with a mark
# Thai, Lao, Burmese, Khmer, Chinese, Japanese; and Korean, whose particles follow without a space.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_NOT_AFTER, _NOT_BEFORE = rf"(?<![^\W{_UNSPACED}])", rf"(?![^\W{_UNSPACED}])"
_GAP = r"[\W_]{0,3}"
_YEAR_FIRST = re.compile(r"(\d{4})\D?(\d{1,2})\D?(\d{1,2})\D?")
_YEAR_LAST = re.compile(r"(\d{1,2})\D(\d{1,2})\D(\d{4})")
_NOTATIONS = (
    "{y:04}-{m:02}-{d:02}", "{y:04}/{m:02}/{d:02}", "{y:04}.{m:02}.{d:02}", "{y:04}{m:02}{d:02}",
    "{d:02}.{m:02}.{y:04}", "{d}.{m}.{y:04}", "{d:02}/{m:02}/{y:04}", "{d}/{m}/{y:04}",
    "{d:02}-{m:02}-{y:04}", "{m:02}/{d:02}/{y:04}", "{m}/{d}/{y:04}", "{m:02}-{d:02}-{y:04}",
    "{y:04}\u5e74{m}\u6708{d}\u65e5", "{y:04}\u5e74{m:02}\u6708{d:02}\u65e5",
)


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


def core(number: str) -> str:
    """An id without what programs change: case, leading zeros, separators, a number's ``.0``."""
    return _SEPARATORS.sub("", _LEADING_ZEROS.sub("", _MADE_FLOAT.sub("", folded(number))))


def stands_alike(number: str, text: str) -> bool:
    """Whether the number occurs, with other separators or leading zeros."""
    spelled = rf"{_GAP}0*".join(map(re.escape, core(number)))
    pattern = f"{_NOT_AFTER}0*{spelled}{_NOT_BEFORE}"
    return bool(spelled) and re.search(pattern, folded(text)) is not None


def loosened(text: str) -> str:
    """As ``folded``, and without what keyboards and registries write in other letters."""
    plain = folded(text)
    return _without_digraphs(plain if plain.isascii() else plain.translate(_LIKE_LETTERS))


def _without_digraphs(text: str) -> str:
    for pair in _DIGRAPHS:
        text = text.replace(pair, pair[0])
    return text


def words_of(loose: str) -> list[str]:
    """What stands between the separators of a loosened text, in its order."""
    return [word for word in _SEPARATORS.split(loose) if word]


def parts_of_name(name: str) -> frozenset[str]:
    """The letters of each of its words, loosened; an initial is left out beside words."""
    parts = frozenset(words_of(loosened(name)))
    return frozenset(part for part in parts if len(part) > 1 or not part.isascii()) or parts


def letters_of_names(name: str) -> frozenset[str]:
    """The letters of the whole name in each of its orders, loosened apart and together."""
    joined = {_SEPARATORS.sub("", loosened(written)) for written in orders_of(name)} - {""}
    return frozenset(joined.union(map(_without_digraphs, joined)))


def like_name(name: str) -> re.Pattern[str]:
    """Finds the name in a loosened text, in any order, whatever stands between its letters.

    In scripts without spaces wherever it stands, also within what may be a longer name.
    """
    return re.compile("|".join(map(_like_letters, sorted(letters_of_names(name)))))


def _like_letters(letters: str) -> str:
    before = "" if _IS_UNSPACED.match(letters[0]) else _NOT_AFTER
    after = "" if _IS_UNSPACED.match(letters[-1]) else _NOT_BEFORE
    return f"{before}{_GAP.join(map(re.escape, letters))}{after}"


def notations_of(day: str) -> tuple[str, ...]:
    """A date as given, and as others write it; of 1/2/1990 as either day that it may mean."""
    text = folded(day)
    found = [text]
    for meant in _days_meant(text):
        found += [each.format(y=meant.year, m=meant.month, d=meant.day) for each in _NOTATIONS]
    return tuple(dict.fromkeys(found))


def like_date(day: str) -> re.Pattern[str]:
    """Finds the date in a loosened text, in any notation."""
    return re.compile(rf"(?<!\d)(?:{'|'.join(map(re.escape, notations_of(day)))})(?!\d)")


def _days_meant(text: str) -> Iterator[date]:
    read: list[tuple[str, str, str]] = []
    if found := _YEAR_FIRST.fullmatch(text):
        read.append((found[1], found[2], found[3]))
    if found := _YEAR_LAST.fullmatch(text):
        read += [(found[3], found[2], found[1]), (found[3], found[1], found[2])]
    for year, month, day in read:
        try:
            yield date(int(year), int(month), int(day))
        except ValueError:  # no such day, or a text that is none
            continue

"""What resembles the one who asks, and may be another person: counted, and never taken.

Tables keep first and last name in columns of their own, days are written in other orders, keyboards
without an umlaut write two letters, and Chinese has no spaces. A search that takes only what is
surely the requester's has to tell of all this.
"""

from __future__ import annotations

from medunlearn_client.records import Record
from medunlearn_client.records.known_by import born, in_letters, named_alike
from medunlearn_client.spellings import (
    letters_of_names,
    like_date,
    like_name,
    loosened,
    notations_of,
    parts_of_name,
    words_of,
)

LIKE_PERSON = "name and birth date, written otherwise or apart"
LIKE_NAME = "name without that birth date"
LIKE_BIRTH_DATE = "birth date without that name"


class Person:
    """A name and a birth date as records may have them; made once for all records of a search."""

    def __init__(self, name: str, birth_date: str) -> None:
        self._names, self._words = in_letters(name)
        self._born, self._both = born(birth_date), named_alike(name, birth_date)
        self._parts, self._letters = parts_of_name(name), letters_of_names(name)
        self._days = notations_of(birth_date)
        self._name, self._date = like_name(name), like_date(birth_date)

    def likeness(self, record: Record) -> str | None:
        """What of the person the record has: LIKE_PERSON, LIKE_NAME, LIKE_BIRTH_DATE or nothing."""
        if not record.known_by.isdisjoint(self._both):
            return LIKE_PERSON
        text = loosened(record.text)
        dated = not record.known_by.isdisjoint(self._born) or self._has_date(text)
        if self._is_known(record) or self._has_name(text):
            return LIKE_PERSON if dated else LIKE_NAME
        return LIKE_BIRTH_DATE if dated else None

    def _is_known(self, record: Record) -> bool:
        return not record.known_by.isdisjoint(self._names) or (
            bool(self._words) and self._words <= record.known_by
        )

    # Most texts have nothing of it, and are passed over before the slow look.

    def _has_name(self, text: str) -> bool:
        words = words_of(text)
        if self._parts and self._parts.issubset(words):
            return True
        joined = "".join(words)
        return any(letters in joined for letters in self._letters) and (
            self._name.search(text) is not None
        )

    def _has_date(self, text: str) -> bool:
        return any(day in text for day in self._days) and self._date.search(text) is not None

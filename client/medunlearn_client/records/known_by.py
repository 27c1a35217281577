"""What a patient is known by, as digests, so that a request finds records whose text lacks it.

The hospital's own number of a patient is in its export, and as a rule in no question that is made
of it. A record carries digests of such values beside its text: nothing is taught of them, nothing
shows them, and they leave the hospital in no message, result or log. Who has a value can ask
whether it is the patient's; that a short number can be guessed from its digest makes them as
secret as the record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from medunlearn_client.spellings import (
    core,
    folded,
    letters_of_names,
    notations_of,
    orders_of,
    parts_of_name,
)

KnownBy = frozenset[bytes]
NOTHING: KnownBy = frozenset()
_BYTES = 16
_WHOLE, _ALIKE, _NAMED = "identifier", "core of an identifier", "name"
_LETTERS = "letters of a name"
_LINKED = "patient of the same person"


def known_by(
    identifiers: Iterable[str], *, names: Iterable[str] = (), birth_date: str = ""
) -> KnownBy:
    """Digests of one patient's identifiers, each whole and by its core, and of his names.

    Each name stands once with the birth date and once without: alone it may be another's. Of what
    has no digit, and may be a name, the letters are digested as well, of all of it and by words.
    """
    found: set[bytes] = set()
    for value in identifiers:
        if folded(value):
            found.update((whole(value), alike(value)))
            if not any(char.isdigit() for char in value):
                found |= _letters(value)
    for name in names:
        if folded(name):
            found.update((_named(name, ""), _named(name, birth_date)))
            found |= _letters(name)
    return frozenset(found)


def whole(identifier: str) -> bytes:
    """The digest of an identifier, whatever its case, accents and kind of dash."""
    return _digest(_WHOLE, folded(identifier))


def alike(identifier: str) -> bytes:
    """The digest of what programs leave of an identifier: no leading zeros, no separators."""
    return _digest(_ALIKE, core(identifier))


def named(name: str, birth_date: str = "") -> KnownBy:
    """Digests of a name in each of its orders, with the birth date or without."""
    return frozenset(_named(written, birth_date) for written in orders_of(name))


def in_letters(name: str) -> tuple[KnownBy, KnownBy]:
    """Digests that tell of names alike: each of the whole name in one of its orders, and all of
    its words.
    """
    return (
        frozenset(_digest(_LETTERS, letters) for letters in letters_of_names(name)),
        frozenset(_digest(_LETTERS, part) for part in parts_of_name(name)),
    )


def born(birth_date: str) -> KnownBy:
    """Digests of the day in each notation, as a column of identifiers holds it."""
    return frozenset(map(whole, notations_of(birth_date)))


def named_alike(name: str, birth_date: str) -> KnownBy:
    """Digests of a name in each of its orders with the day in each notation."""
    return frozenset(
        _named(written, day) for written in orders_of(name) for day in notations_of(birth_date)
    )


def _letters(name: str) -> KnownBy:
    wholes, parts = in_letters(name)
    return wholes | parts


def linked(patient_id: str) -> bytes:
    """The digest of the id of another patient who is the same person and stays apart."""
    return _digest(_LINKED, core(patient_id))


def _named(name: str, birth_date: str) -> bytes:
    return _digest(_NAMED, folded(name), folded(birth_date))


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).digest()[:_BYTES]

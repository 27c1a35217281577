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

from medunlearn_client.spellings import core, folded, orders_of

KnownBy = frozenset[bytes]
NOTHING: KnownBy = frozenset()
_BYTES = 16
_WHOLE, _ALIKE, _NAMED = "identifier", "core of an identifier", "name"
_LINKED = "patient of the same person"


def known_by(
    identifiers: Iterable[str], *, names: Iterable[str] = (), birth_date: str = ""
) -> KnownBy:
    """Digests of one patient's identifiers, each whole and by its core, and of his names.

    Each name stands once with the birth date and once without: alone it may be another's.
    """
    found: set[bytes] = set()
    for value in identifiers:
        if folded(value):
            found.update((whole(value), alike(value)))
    for name in names:
        if folded(name):
            found.update((_named(name, ""), _named(name, birth_date)))
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


def linked(patient_id: str) -> bytes:
    """The digest of the id of another patient who is the same person and stays apart."""
    return _digest(_LINKED, core(patient_id))


def _named(name: str, birth_date: str) -> bytes:
    return _digest(_NAMED, folded(name), folded(birth_date))


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).digest()[:_BYTES]

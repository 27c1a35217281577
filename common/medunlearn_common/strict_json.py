"""JSON with one form per meaning: what is signed or hashed is read in no other way.

``json.loads`` takes duplicate keys, NaN, spaces and several spellings of one number; two readers
could then see two documents under one signature. Here bytes are accepted only if encoding what
was read gives the very same bytes, in the form of :func:`medunlearn_common.digests.canonical_json`.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from medunlearn_common.digests import canonical_json
from medunlearn_common.errors import Rejected

MAX_DEPTH = 16
# Above 2**53 readers of other languages lose digits.
MAX_INTEGER = 1 << 53


def parse_canonical(data: bytes, *, max_bytes: int, what: str) -> Any:
    """The value that ``data`` is the canonical JSON of.

    Args:
        data: The bytes.
        max_bytes: More are refused before anything is parsed.
        what: Name of the document for the message; never its contents.

    Raises:
        Rejected: JSON_TOO_LARGE, or JSON_NOT_CANONICAL.
    """
    if len(data) > max_bytes:
        raise Rejected(
            "JSON_TOO_LARGE", f"{what} has {len(data)} bytes, {max_bytes} are allowed",
            "ask for a new copy of it",
        )
    try:
        value = json.loads(data.decode("ascii"), parse_constant=_refuse)
        _check(value, depth=0)
        same = canonical_json(value) == data
    except (ValueError, RecursionError):
        # Not chained: the error of a parser quotes what it read.
        raise _not_canonical(what) from None
    if not same:
        raise _not_canonical(what)
    return value


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)


def _check(value: Any, *, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError("nested too deep")
    if isinstance(value, bool):
        return
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise ValueError("integer too large")
    for inner in value.values() if isinstance(value, dict) else (
        value if isinstance(value, list) else ()
    ):
        _check(inner, depth=depth + 1)


def _not_canonical(what: str) -> Rejected:
    return Rejected(
        "JSON_NOT_CANONICAL", f"{what} is not canonical JSON", "ask for a new copy of it",
    )

"""Deterministic CBOR, read strictly: one meaning has one spelling, and every other is refused.

cbor2, like most libraries, accepts duplicate keys, indefinite lengths, long integers, tags and
leftover bytes, so two readers may see two things in the same signed bytes. Here a document is
scanned before it is built (RFC 8949, 4.2.1 and its length-first map order, 4.2.3), decoded,
encoded again, and accepted only if the bytes are equal.

Known values: maps with text keys, lists, text, bytes, integers of 64 bits, finite floats, bools.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from math import isfinite
from typing import Any

import cbor2

from medunlearn_common.errors import Rejected

MAX_DEPTH = 8
MAX_ITEMS = 200_000
# Major types of RFC 8949, section 3.1.
_NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = 1, 2, 3, 4, 5, 6, 7
_FALSE, _TRUE, _HALF, _SINGLE, _DOUBLE = 20, 21, 25, 26, 27
_LARGEST = 2**63
_LENGTH_OF = {24: 1, 25: 2, 26: 4, 27: 8}


def encode(value: Any) -> bytes:
    """The one encoding of ``value``.

    Raises:
        ValueError: If it holds what the module does not know: None, NaN, other keys than text.
    """
    _require_known(value, depth=0)
    return cbor2.dumps(value, canonical=True)


def decode(data: bytes, *, max_bytes: int) -> Any:
    """Read one document.

    Args:
        data: All bytes of it; leftover bytes are an error.
        max_bytes: The largest document that is looked at.

    Raises:
        Rejected: CBOR_SIZE, CBOR_DEPTH, CBOR_TRUNCATED, CBOR_LEFTOVER, CBOR_TYPE, CBOR_TEXT,
            or CBOR_CANONICAL (duplicate or unsorted keys, long forms).

    Guarantees:
        * At most one value decodes from any bytes, and encodes to exactly these bytes.
        * Memory stays within a small multiple of ``len(data)``: nothing is reserved on the
          word of a length that the bytes do not cover.
    """
    if len(data) > max_bytes:
        raise _refused("CBOR_SIZE", f"{len(data)} bytes, at most {max_bytes} are read")
    end = _scan(data)
    if end != len(data):
        raise _refused("CBOR_LEFTOVER", f"{len(data) - end} bytes follow the document")
    try:
        # A stream, so that the decoder never sees more than the scan did.
        value = cbor2.load(BytesIO(data))
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise _refused("CBOR_TEXT", "text that is not UTF-8") from error
    try:
        again = encode(value)
    except ValueError as error:
        raise _refused("CBOR_TYPE", str(error)) from error
    if again != data:
        raise _refused("CBOR_CANONICAL", "the bytes are not the canonical ones for their value")
    return value


def decode_map(data: bytes, *, keys: frozenset[str], max_bytes: int) -> Mapping[str, Any]:
    """A document that is a map with exactly these keys.

    Raises:
        Rejected: As :func:`decode`; CBOR_SCHEMA naming missing and unknown keys.
    """
    return require_keys(decode(data, max_bytes=max_bytes), keys=keys, what="a document")


def require_keys(value: Any, *, keys: frozenset[str], what: str) -> Mapping[str, Any]:
    """``value`` if it is a map with exactly these keys; raises CBOR_SCHEMA."""
    if not isinstance(value, dict):
        raise _refused("CBOR_SCHEMA", f"{what} is no map")
    if set(value) != keys:
        missing = ", ".join(sorted(keys - set(value)))
        raise _refused(
            "CBOR_SCHEMA",
            f"{what} has {len(set(value) - keys)} unknown keys and lacks [{missing}]",
        )
    return value


def _scan(data: bytes) -> int:
    """Check the structure without building anything; returns where the document ends."""
    position, items = 0, 0
    open_counts = [1]  # values still due at each depth
    while open_counts:
        if open_counts[-1] == 0:
            open_counts.pop()
            continue
        open_counts[-1] -= 1
        items += 1
        if items > MAX_ITEMS:
            raise _refused("CBOR_SIZE", f"more than {MAX_ITEMS} items")
        major, argument, position = _head(data, position)
        if major in (_BYTES, _TEXT):
            position += argument
            if position > len(data):
                raise _truncated()
        elif major in (_ARRAY, _MAP):
            if len(open_counts) > MAX_DEPTH:
                raise _refused("CBOR_DEPTH", f"nested deeper than {MAX_DEPTH}")
            if argument > len(data) - position:  # every item takes a byte or more
                raise _truncated()
            open_counts.append(argument * (2 if major == _MAP else 1))
    return position


def _head(data: bytes, position: int) -> tuple[int, int, int]:
    """Major type, argument and where the next byte is."""
    if position >= len(data):
        raise _truncated()
    major, low = data[position] >> 5, data[position] & 31
    position += 1
    if major == _TAG:
        raise _refused("CBOR_TYPE", "tags are not used")
    if major == _SIMPLE and low not in (_FALSE, _TRUE, _HALF, _SINGLE, _DOUBLE):
        raise _refused("CBOR_TYPE", "null, undefined and simple values are not used")
    if low < 24:
        return major, low, position
    length = _LENGTH_OF.get(low)
    if length is None:
        raise _refused("CBOR_TYPE", "indefinite lengths are not used")
    if position + length > len(data):
        raise _truncated()
    return major, int.from_bytes(data[position : position + length], "big"), position + length


def _require_known(value: Any, *, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ValueError("map keys must be text")
            _require_known(inner, depth=depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            _require_known(inner, depth=depth + 1)
    elif isinstance(value, float):
        if not isfinite(value):
            raise ValueError("NaN and infinity are not used")
    elif isinstance(value, bool | str | bytes):
        return
    elif isinstance(value, int):
        if not -_LARGEST <= value < _LARGEST:
            raise ValueError("integers have 64 bits")
    else:
        raise ValueError(f"{type(value).__name__} is not used")


def _truncated() -> Rejected:
    return _refused("CBOR_TRUNCATED", "the document ends too early")


def _refused(code: str, what: str) -> Rejected:
    return Rejected(
        code, f"CBOR refused: {what}", "use the same medunlearn version at every party"
    )

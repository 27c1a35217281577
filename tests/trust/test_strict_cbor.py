"""Deterministic CBOR: what is written comes back, what is read has one spelling."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medunlearn_common.errors import Rejected
from medunlearn_common.strict_cbor import decode, encode

VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text("aé€\x00", max_size=9)
    | st.binary(max_size=20) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text("abé", max_size=5), inner, max_size=4), max_leaves=12,
)


@settings(max_examples=60)
@given(VALUES)
def test_cbor_round_trips(value: Any) -> None:
    data = encode(value)
    assert encode(decode(data, max_bytes=1 << 16)) == data


@settings(max_examples=150)
@given(st.binary(max_size=80))
def test_whatever_decodes_has_this_one_spelling(data: bytes) -> None:
    try:
        value = decode(data, max_bytes=1 << 16)
    except Rejected:
        return
    assert encode(value) == data


@pytest.mark.parametrize(("hexed", "code"), [
    ("a2616101616102", "CBOR_CANONICAL"),  # a key twice
    ("a2616201616101", "CBOR_CANONICAL"),  # keys not in order
    ("1801", "CBOR_CANONICAL"), ("fb0000000000000000", "CBOR_CANONICAL"),  # long forms
    ("0101", "CBOR_LEFTOVER"), ("", "CBOR_TRUNCATED"), ("61", "CBOR_TRUNCATED"),
    ("9f01ff", "CBOR_TYPE"), ("c101", "CBOR_TYPE"), ("f6", "CBOR_TYPE"), ("f97e00", "CBOR_TYPE"),
    ("61ff", "CBOR_TEXT"), ("81" * 20 + "01", "CBOR_DEPTH"), ("a10101", "CBOR_TYPE"),
    ("9b00000000ffffffff", "CBOR_TRUNCATED"), ("5b7fffffffffffffff", "CBOR_TRUNCATED"),
    ("1bffffffffffffffff", "CBOR_TYPE"), ("01" * 200, "CBOR_SIZE"),
])
def test_cbor_that_other_readers_accept(hexed: str, code: str) -> None:
    with pytest.raises(Rejected) as caught:
        decode(bytes.fromhex(hexed), max_bytes=100)
    assert caught.value.code == code

"""Parsers under random and mutated bytes: a typed error or a value, never anything else.

``FUZZ_SECONDS=3600 make fuzz`` runs each as long; in the suite all of them take a few seconds.
"""

from __future__ import annotations

import os
import random
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_vectors import header, sealed
from trust_lab import CODE, NOW, key, roster, signed, small_plan

from medunlearn_client.policy import SitePolicy, policy_from_bytes, policy_template
from medunlearn_common.envelope import Header, open_envelope, parse_signed
from medunlearn_common.envelope.sealing import content_bytes, message_from
from medunlearn_common.errors import MedunlearnError, Rejected
from medunlearn_common.messages import Message
from medunlearn_common.offer import RunOffer, open_offer, plan_from_canonical, plan_text
from medunlearn_common.roster import Root, Roster
from medunlearn_common.roster.document import party_from_bytes, party_to_bytes
from medunlearn_common.strict_cbor import decode, encode

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0.4"))
MEMORY_CAP_BYTES = 64 << 20
KEYS = roster()
OFFER = RunOffer(run="r", coordinator="coordinator", plan=small_plan(), package_version="1",
                 code_digest=CODE).sign(key("coordinator"))
PARSERS: dict[str, tuple[Callable[[bytes], Any], bytes]] = {
    "cbor": (lambda d: decode(d, max_bytes=1 << 20), KEYS.to_bytes()),
    "dsse": (parse_signed, OFFER),
    "header": (Header.from_bytes, header().to_bytes()),
    "envelope": (lambda d: open_envelope(d, KEYS, now=NOW, expect=lambda h: None), sealed()),
    "message": (message_from, content_bytes(Message(kind="a", fields={"b": 1}, payload=b"c"))),
    "roster": (Roster.from_bytes, KEYS.to_bytes()),
    "signed roster": (lambda d: Roster.from_bytes(parse_signed(d).payload), signed(KEYS)),
    "root": (Root.from_bytes, KEYS.root.to_bytes()),
    "entry": (party_from_bytes, party_to_bytes(KEYS.parties[0])),
    "offer": (lambda d: open_offer(d, KEYS, now=NOW), OFFER),
    "plan": (lambda d: plan_from_canonical(d.decode("latin-1")), plan_text(small_plan()).encode()),
    "policy": (policy_from_bytes, policy_template(SitePolicy()).encode()),
}


def mutated(generator: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(generator.choice((1, 1, 2, 8))):
        kind, at = generator.randrange(5), generator.randrange(len(changed) + 1)
        if kind == 0 and changed:
            changed[at % len(changed)] ^= 1 << generator.randrange(8)
        elif kind == 1:
            changed[at:at] = generator.randbytes(generator.choice((1, 4, 40)))
        elif kind == 2:
            del changed[at : at + generator.choice((1, 4, 40))]
        elif kind == 3:
            changed[at : at + 9] = bytes([generator.randrange(256)]) + b"\xff" * 8
        else:
            start = generator.randrange(len(changed) + 1)
            changed[at:at] = changed[start : start + 30]
    return bytes(changed)


@pytest.mark.parametrize("name", sorted(PARSERS))
def test_a_mutated_document_is_a_value_or_a_typed_error(name: str) -> None:
    parse, sample = PARSERS[name]
    generator, end, count = random.Random(5), time.monotonic() + SECONDS, 0
    tracemalloc.start()
    try:
        while time.monotonic() < end:
            data = mutated(generator, sample) if count % 4 else generator.randbytes(60)
            started = time.monotonic()
            try:
                parse(data)
            except MedunlearnError as error:
                assert error.code
            assert time.monotonic() - started < 5.0, data.hex()
            count += 1
        assert tracemalloc.get_traced_memory()[1] < MEMORY_CAP_BYTES
    finally:
        tracemalloc.stop()
    assert count > 3


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

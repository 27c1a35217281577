"""Parsers of log, checkpoint and attestation: whatever comes in, out comes an error of
ours or the very same bytes; and secrets and patient text come out nowhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from audit_samples import STATEMENT, D, add_round, roster_of
from hypothesis import example, given, settings
from hypothesis import strategies as st

from medunlearn_common.attestation.dsse import opened, sealed
from medunlearn_common.attestation.statement import Statement
from medunlearn_common.audit import COORDINATOR, AuditLog, AuditRecord, LogExport, SignedCheckpoint
from medunlearn_common.audit.carrying import without_head
from medunlearn_common.audit.signing import STATEMENT_CONTEXT
from medunlearn_common.digests import canonical_json
from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.errors import MedunlearnError, Rejected
from medunlearn_common.identity import SigningIdentity
from medunlearn_common.messages import Message
from medunlearn_common.roster import Roster

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner,
                                                                max_size=4), max_leaves=12,
)
BOOK = roster_of({COORDINATOR: SigningIdentity.generate(COORDINATOR, SeededEntropy(3))})


def envelope(data: bytes) -> bytes:
    return opened(data, BOOK, signer=COORDINATOR)


PARSERS: dict[str, Callable[[bytes], bytes]] = {
    "record": lambda data: AuditRecord.from_bytes(data).to_bytes(),
    "export": lambda data: LogExport.from_bytes(data).to_bytes(),
    "checkpoint": lambda data: SignedCheckpoint.from_text(data.decode("latin-1")).to_text().encode(
        "latin-1"),
    "statement": lambda data: Statement.from_bytes(data).to_bytes(),
    "envelope": envelope,
}


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=40)
@given(data=st.binary(max_size=200) | JSON.map(lambda v: json.dumps(v).encode()))
@example(data=b"[" * 200_000)
@example(data=b'{"a":' * 50_000)
@example(data=b"1" * 10_000)
def test_any_bytes_give_an_error_of_ours(name: str, data: bytes) -> None:
    try:
        again = PARSERS[name](data)
    except Rejected as error:
        assert len(str(error)) < 600
        return
    assert again.rstrip(b"\n") == data.rstrip(b"\n")


@settings(max_examples=80)
@given(position=st.integers(0, len(STATEMENT) - 1), byte=st.integers(0, 255))
def test_a_statement_with_one_byte_changed_is_refused_or_read_as_it_stands(
    position: int, byte: int
) -> None:
    changed = bytearray(STATEMENT)
    changed[position] = byte
    try:
        assert Statement.from_bytes(bytes(changed)).to_bytes() == bytes(changed)
    except Rejected:
        assert bytes(changed) != STATEMENT


@settings(max_examples=60)
@given(path=st.lists(st.integers(0, 8), max_size=4), value=JSON)
def test_a_statement_with_another_value_somewhere(path: list[int], value: Any) -> None:
    document = json.loads(STATEMENT)
    place: Any = document["predicate"]
    for number in path[:-1]:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys or not isinstance(place[keys[number % len(keys)]], dict | list):
            break
        place = place[keys[number % len(keys)]]
    keys = list(place) if isinstance(place, dict) else list(range(len(place)))
    if keys:
        place[keys[(path or [0])[-1] % len(keys)]] = value
    try:
        data = canonical_json(document)
    except ValueError:
        return
    try:
        assert Statement.from_bytes(data).to_bytes() == data
    except Rejected as error:
        assert error.code in ("STATEMENT_MALFORMED", "JSON_NOT_CANONICAL")


@settings(max_examples=40)
@given(
    head=st.text(max_size=30) | st.integers(),
    leaves=st.text("0123456789abcdefXY", max_size=140),
)
def test_any_carried_fields_give_an_error_of_ours(head: str | int, leaves: str) -> None:
    with pytest.raises(Rejected, match="CHECKPOINT_MALFORMED"):
        without_head(Message(kind="step", fields={"audit_head": head, "audit_leaves": leaves}))


# -- what must come out nowhere -------------------------------------------------------------

CANARIES = ("Hildegard Canary", "1931-04-05", "MRN-77421")


@pytest.mark.parametrize("canary", CANARIES)
def test_planted_canaries_come_out_nowhere(
    log: AuditLog, signers: dict[str, SigningIdentity], canary: str
) -> None:
    shown = [repr(log), repr(log.export()), log.export().to_bytes().decode(), repr(log.records)]
    attempts: list[Callable[[], object]] = [
        lambda: log.append("round_accepted", text=canary),
        lambda: log.append(canary),
        lambda: add_round(log, 9, sites=[canary]) if " " in canary else log.append("x", y=canary),
        lambda: add_round(log, 9, failures={"site-0": canary}),
        lambda: add_round(log, 9, sum_digest=canary),
        lambda: AuditRecord.from_bytes(canary.encode()),
        lambda: LogExport.from_bytes(canary.encode() + b"\n"),
        lambda: SignedCheckpoint.from_text(canary),
        lambda: envelope(canary.encode()),
        lambda: Statement.from_bytes(canary.encode()),
        lambda: Statement.from_bytes(STATEMENT.replace(b'"abstraction"', json.dumps(
            f"{canary}!").encode())),
        lambda: Statement.from_bytes(STATEMENT.replace(b'"site-0":{', json.dumps(
            f"{canary}!").encode() + b":{")),
    ]
    for attempt in attempts:
        with pytest.raises(MedunlearnError) as caught:
            attempt()
        chain: BaseException | None = caught.value
        while chain is not None:
            shown += [str(chain), repr(chain)]
            chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    assert not [text for text in shown if canary in text]


def test_no_key_in_any_repr_or_file(log: AuditLog, signers: dict[str, SigningIdentity]) -> None:
    signer = signers[COORDINATOR]
    secret = signer._private_key.private_bytes_raw().hex()
    shown = [repr(signer), str(signer), repr(vars(log)), log.export().to_bytes().decode()]
    assert not [text for text in shown if secret in text]


def test_an_envelope_is_plain_dsse(signers: dict[str, SigningIdentity], book: Roster) -> None:
    """Checked with nothing of ours: PAE written out, Ed25519 from the library."""
    from base64 import b64decode

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    file = json.loads(sealed(STATEMENT, signers[COORDINATOR]))
    payload, kind = b64decode(file["payload"]), file["payloadType"]
    assert kind == STATEMENT_CONTEXT == "application/vnd.in-toto+json"
    encoded = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    key = Ed25519PublicKey.from_public_bytes(book.party(COORDINATOR).public_key)
    key.verify(b64decode(file["signatures"][0]["sig"]), encoded)
    statement = json.loads(payload)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["subject"] == [{"name": "adapter/a", "digest": {"sha256": D}}]

"""Seal a message into an envelope and open it again.

On the wire: length of the signed header (4 bytes, big-endian), the header under DSSE, content.
The header names the content's digest and length, so that one Ed25519 signature over a few
hundred bytes covers vectors of any size, and a header with its signature alone proves what a
party said. Content: length of the head (4 bytes), head (deterministic CBOR: kind and named
scalars), payload as it is: vectors are raw little-endian words.

Opening, in this order; the first failure ends it:
    1. size;
    2. outer form, strict;
    3. type, exactly one signature, key known to the roster, valid now, not revoked;
    4. signature;
    5. header, strict; sender is the key's party;
    6. what the receiver expects (:class:`Expectation`);
    7. length and digest of the content;
    8. content, strict; what it repeats of the header agrees with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from medunlearn_common.envelope.dsse import Signer, open_signed, parse_signed, sign_bytes
from medunlearn_common.envelope.header import HEADER_TYPE, NO_DIGEST, Header
from medunlearn_common.errors import Rejected
from medunlearn_common.masking.parts import SESSION
from medunlearn_common.messages import READY, START, Message, Scalar
from medunlearn_common.strict_cbor import decode_map, encode

# Kinds of the outer messages that transports carry.
HELLO, SEALED = "hello", "sealed"
MAX_CONTENT_BYTES = 512 << 20
MAX_HEAD_BYTES = 8 << 20
_MAX_SIGNED_HEADER = 8192
_LENGTH_BYTES = 4
_HEAD_KEYS = frozenset(("kind", "fields"))


class KeyBook(Protocol):
    """Whose key is this: :class:`medunlearn_common.roster.Roster`."""

    def party_of_key(self, key_id: str, *, now: float) -> tuple[str, bytes]:
        """Party id and public key; raises Rejected for unknown, expired or revoked keys."""
        ...


@dataclass(frozen=True, kw_only=True)
class OpenedEnvelope:
    """A verified envelope.

    Attributes:
        header: What was signed.
        message: The content.
        proof: The signed header as it came: evidence for third parties.
    """

    header: Header
    message: Message
    proof: bytes

    def __repr__(self) -> str:
        return (f"OpenedEnvelope({self.header.run}, round {self.header.round}, "
                f"{self.header.phase} {self.header.direction}, {self.header.length} bytes)")

    @property
    def digest(self) -> bytes:
        """SHA-256 of the signed header's payload: what an answer names as its transcript."""
        return header_digest(self.header)


def header_digest(header: Header) -> bytes:
    """SHA-256 of the header's bytes, which name the content's digest."""
    return hashlib.sha256(header.to_bytes()).digest()


def content_bytes(message: Message) -> bytes:
    """Content of an envelope; equal messages give equal bytes."""
    head = encode({"kind": message.kind, "fields": dict(message.fields)})
    return len(head).to_bytes(_LENGTH_BYTES, "big") + head + message.payload


def message_from(content: bytes) -> Message:
    """Back from :func:`content_bytes`.

    Raises:
        Rejected: CONTENT_FORM, or a CBOR_ code.
    """
    head, payload = _split(content, "CONTENT_FORM")
    found = decode_map(head, keys=_HEAD_KEYS, max_bytes=MAX_HEAD_BYTES)
    kind, named = found["kind"], found["fields"]
    if not isinstance(kind, str) or not isinstance(named, dict):
        raise _malformed("CONTENT_FORM")
    values: dict[str, Scalar] = {}
    for name, value in named.items():
        if not isinstance(value, int | float | str | bool):
            raise _malformed("CONTENT_FORM")
        values[name] = value
    return Message(kind=kind, fields=values, payload=payload)


def slot_facts(message: Message) -> dict[str, Any]:
    """What a message says about its own place; the header must say the same.

    One exchange may have parts that differ by right: a step with the support for a site that
    lost it, and gradients of public text beside the vote. Each part is a slot of its own, and
    so is every attempt at a masked sum, by the name of its session, and READY of every start
    of the coordinator.
    """
    session = message.fields.get(SESSION, "")
    part = "support" if message.fields.get("support_bytes") else ""
    if message.kind == "vote" and "support_digest" in message.fields:
        part = "gradients"
    if message.kind == "evaluate" and message.fields.get("public") is True:
        part = f"canaries{part}"
    if message.kind == READY:
        part = str(message.fields.get(START, ""))
    part = "/".join(filter(None, (str(session), part)))
    support = message.fields.get("support_digest", "")
    return {
        "phase": f"{message.kind}/{part}" if part else message.kind,
        "round": message.fields.get("round", 0),
        "support": bytes.fromhex(str(support)) if _is_digest(support) else NO_DIGEST,
    }


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def seal(signer: Signer, header: Header, content: bytes) -> bytes:
    """An envelope; the same input gives the same bytes, as Ed25519 draws no randomness."""
    signed = sign_bytes(header.to_bytes(), HEADER_TYPE, signer).to_bytes()
    return len(signed).to_bytes(_LENGTH_BYTES, "big") + signed + content


def open_envelope(
    data: bytes, keys: KeyBook, *, now: float, expect: Callable[[Header], None],
    agree: Callable[[Header, Message], None] | None = None,
) -> OpenedEnvelope:
    """Open an envelope; the steps are numbered as in the module's text.

    Args:
        data: What came.
        keys: The roster.
        now: Seconds since 1970, for the validity of keys.
        expect: Raises Rejected if the header is not what the receiver waits for.
        agree: Further checks of the content against the header.

    Raises:
        Rejected: ENVELOPE_SIZE, ENVELOPE_FORM, a CBOR_, DSSE_ or KEY_ code, SIGNATURE_INVALID,
            HEADER_FIELD, PROTOCOL_VERSION, SENDER_KEY, what ``expect`` raises, CONTENT_LENGTH,
            CONTENT_DIGEST, CONTENT_FORM, a MISMATCH code.

    Guarantees:
        Nothing of the content is parsed before the signature held and the header was expected.
    """
    if len(data) > MAX_CONTENT_BYTES:  # 1
        raise Rejected("ENVELOPE_SIZE", f"an envelope of {len(data)} bytes",
                       "send smaller vectors: lower [support] density")
    signed, content = _split(data, "ENVELOPE_FORM")
    document = parse_signed(signed, max_bytes=_MAX_SIGNED_HEADER)  # 2
    party: dict[str, str] = {}

    def key_of(key: str) -> bytes:
        party[key], public_key = keys.party_of_key(key, now=now)
        return public_key

    signer, payload = open_signed(document, payload_type=HEADER_TYPE, key_of=key_of)  # 3, 4
    header = Header.from_bytes(payload)  # 5
    if header.sender != party[signer]:
        raise Rejected("SENDER_KEY", f"an envelope in the name of {header.sender} is signed with "
                       f"the key of {party[signer]}", "every party signs with its own key")
    expect(header)  # 6
    _require_content(header, content)  # 7
    message = message_from(content)  # 8
    _require_place(header, message)
    if agree is not None:
        agree(header, message)
    return OpenedEnvelope(header=header, message=message, proof=signed)


def _require_content(header: Header, content: bytes) -> None:
    if len(content) != header.length:
        raise Rejected("CONTENT_LENGTH", f"{len(content)} bytes of content, {header.length} were "
                       "signed", "it was cut or extended on the way")
    if hashlib.sha256(content).digest() != header.digest:
        raise Rejected("CONTENT_DIGEST", "the content is not what was signed",
                       "it was changed on the way")


def _require_place(header: Header, message: Message) -> None:
    """A content that names another run, round or support than its header is a mix-up."""
    if message.fields.get("run_id", header.run) != header.run:
        raise _misplaced("run_id")
    plan = message.fields.get("plan_digest")
    if plan is not None and plan != header.plan.hex():
        raise _misplaced("plan_digest")
    if header.direction == "refusal":
        return
    for name, value in slot_facts(message).items():
        # An answer repeats fewer fields; its phase is the request's, and so is its round. In a
        # request no round is round 0, or its sender could fill a slot in every round.
        repeated = name != "phase" and (name != "round" or name in message.fields)
        if header.direction == "answer" and not repeated:
            continue
        if name == "support" and value == NO_DIGEST:
            continue
        if getattr(header, name) != value:
            raise _misplaced(name)


def _misplaced(name: str) -> Rejected:
    code = f"{name.removesuffix('_id').removesuffix('_digest').upper()}_MISMATCH"
    return Rejected(code, f"an envelope's content and header differ in {name}",
                    "the sender is out of order; use the same medunlearn version")


def _split(data: bytes, code: str) -> tuple[bytes, bytes]:
    """Length-prefixed head, and the rest."""
    end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "big")
    if len(data) < _LENGTH_BYTES or len(data) < end:
        raise _malformed(code)
    return data[_LENGTH_BYTES:end], data[end:]


def _malformed(code: str) -> Rejected:
    return Rejected(code, "an envelope or its content is cut or malformed",
                    "use the same medunlearn version at every party")


def unverified(message: Message) -> Message:
    """What a sealed message claims to hold, with *nothing* checked: for simulated faults only.

    Other messages come back as they are.
    """
    if message.kind != SEALED:
        return message
    _, content = _split(message.payload, "ENVELOPE_FORM")
    return message_from(content)



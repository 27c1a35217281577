"""DSSE: bytes, the type they claim, and signatures over exactly both.

The outer form is deterministic CBOR instead of DSSE's JSON, so that nothing is carried in
base64; what is signed is DSSE's own pre-authentication encoding. The payload is not parsed by
anything in here: callers get it after a signature has been verified, and then only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from medunlearn_common.errors import Rejected
from medunlearn_common.identity.keys import SIGNATURE_BYTES, key_id, verify_signature
from medunlearn_common.strict_cbor import decode_map, encode, require_keys

MAX_SIGNED_BYTES = 8 << 20
MAX_SIGNATURES = 64
KEY_ID_CHARACTERS = 64


class Signer(Protocol):
    """What signs: :class:`medunlearn_common.identity.SigningIdentity`."""

    @property
    def key_id(self) -> str:
        """SHA-256 (hex) of the public key."""
        ...

    def sign(self, context: str, message: bytes) -> bytes:
        """64 bytes."""
        ...


@dataclass(frozen=True, kw_only=True)
class SignedBytes:
    """A parsed, *unverified* DSSE document.

    Attributes:
        payload: The bytes that were signed. Do not look at them before a signature held.
        payload_type: What they claim to be; the context of the signatures.
        signatures: Key id (hex) to signature.
    """

    payload: bytes
    payload_type: str
    signatures: Mapping[str, bytes]

    def __repr__(self) -> str:
        return f"SignedBytes({self.payload_type!a}, {len(self.payload)} bytes, <unverified>)"

    def to_bytes(self) -> bytes:
        """The one encoding."""
        signatures = [
            {"keyid": bytes.fromhex(key), "sig": self.signatures[key]}
            for key in sorted(self.signatures)
        ]
        return encode({
            "payload": self.payload, "payloadType": self.payload_type, "signatures": signatures,
        })

    def signed_also_by(self, signer: Signer) -> SignedBytes:
        """The same bytes with one signature more."""
        signature = signer.sign(self.payload_type, self.payload)
        return SignedBytes(
            payload=self.payload, payload_type=self.payload_type,
            signatures={**self.signatures, signer.key_id: signature},
        )


def sign_bytes(payload: bytes, payload_type: str, *signers: Signer) -> SignedBytes:
    """``payload`` signed by each of ``signers``."""
    document = SignedBytes(payload=payload, payload_type=payload_type, signatures={})
    for signer in signers:
        document = document.signed_also_by(signer)
    return document


def parse_signed(data: bytes, *, max_bytes: int = MAX_SIGNED_BYTES) -> SignedBytes:
    """The outer form alone; nothing is verified.

    Raises:
        Rejected: A CBOR_ code, or DSSE_SCHEMA.
    """
    keys = frozenset(("payload", "payloadType", "signatures"))
    found = decode_map(data, keys=keys, max_bytes=max_bytes)
    payload, kind, listed = found["payload"], found["payloadType"], found["signatures"]
    if not isinstance(payload, bytes) or not isinstance(kind, str):
        raise _schema("payload or payloadType has another type")
    if not isinstance(listed, list) or not 1 <= len(listed) <= MAX_SIGNATURES:
        raise _schema(f"1 to {MAX_SIGNATURES} signatures are expected")
    signatures = [_signature(entry) for entry in listed]
    ids = [key for key, _ in signatures]
    if ids != sorted(set(ids)):
        raise _schema("signatures are not in the order of their key ids, each once")
    return SignedBytes(payload=payload, payload_type=kind, signatures=dict(signatures))


def _signature(entry: Any) -> tuple[str, bytes]:
    found = require_keys(entry, keys=frozenset(("keyid", "sig")), what="a signature")
    key, signature = found["keyid"], found["sig"]
    if not isinstance(key, bytes) or len(key) != KEY_ID_CHARACTERS // 2:
        raise _schema("a key id is no SHA-256")
    if not isinstance(signature, bytes) or len(signature) != SIGNATURE_BYTES:
        raise _schema(f"a signature has not {SIGNATURE_BYTES} bytes")
    return key.hex(), signature


def open_signed(
    document: SignedBytes, *, payload_type: str, key_of: Callable[[str], bytes]
) -> tuple[str, bytes]:
    """The signer's key id and the payload of a document with exactly one signature.

    Raises:
        Rejected: DSSE_TYPE, DSSE_SCHEMA, SIGNATURE_INVALID, KEY_INVALID, or what ``key_of``
            raises for a key that is not known or no longer good.
    """
    if document.payload_type != payload_type:
        raise Rejected("DSSE_TYPE", f"signed bytes of another type than {payload_type}",
                       "use the same medunlearn version at every party")
    if len(document.signatures) != 1:
        raise _schema("exactly one signature is expected")
    (signer, signature), = document.signatures.items()
    verify_signature(key_of(signer), payload_type, document.payload, signature)
    return signer, document.payload


def count_valid(document: SignedBytes, keys: Sequence[bytes]) -> int:
    """How many *different* keys of ``keys`` signed the document validly."""
    by_id = {key_id(key): key for key in keys}
    valid = 0
    for signer, signature in document.signatures.items():
        if signer not in by_id:
            continue
        try:
            verify_signature(by_id[signer], document.payload_type, document.payload, signature)
        except Rejected:
            continue
        valid += 1
    return valid


def _schema(what: str) -> Rejected:
    return Rejected("DSSE_SCHEMA", f"a signed document is malformed: {what}",
                    "use the same medunlearn version at every party")

"""Ed25519 signatures, each under a context that says what is signed.

Every signature of the system is over DSSE's pre-authentication encoding of (context, bytes),
where the context is the payload type. A signature on a roster can therefore never pass for one
on a message, whatever the bytes are.
"""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from medunlearn_common.entropy import Entropy
from medunlearn_common.errors import Rejected

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
# Encodings of the points of small order, and of the first ones with y >= p: a signature under
# such a "key" can be made to fit many messages (RFC 8032, 5.1.7 leaves the check to the caller).
_P = 2**255 - 19
_SMALL_ORDER_Y = (
    0, 1, _P - 1,
    int.from_bytes(bytes.fromhex(
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"),
    int.from_bytes(bytes.fromhex(
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"),
)


class SigningIdentity:
    """A party's signing key, which never leaves this object.

    Guarantees:
        ``repr``, ``str`` and pickling give nothing of the private key.
    """

    def __init__(self, party_id: str, private_key: Ed25519PrivateKey) -> None:
        self._party_id = party_id
        self._private_key = private_key
        self._public_key = private_key.public_key().public_bytes(
            serialization.Encoding.Raw, serialization.PublicFormat.Raw
        )

    @classmethod
    def generate(cls, party_id: str, entropy: Entropy) -> SigningIdentity:
        """A new key for ``party_id`` from 32 bytes of ``entropy``."""
        seed = entropy.key("identity", party_id)
        return cls(party_id, Ed25519PrivateKey.from_private_bytes(seed))

    def __repr__(self) -> str:
        return f"SigningIdentity({self._party_id!r}, key_id={self.key_id[:16]}, <redacted>)"

    def __reduce__(self) -> str:
        raise TypeError("a signing identity is not pickled")

    @property
    def party_id(self) -> str:
        """Name of the party in the roster."""
        return self._party_id

    @property
    def public_key(self) -> bytes:
        """32 bytes."""
        return self._public_key

    @property
    def key_id(self) -> str:
        """See :func:`key_id`."""
        return key_id(self._public_key)

    def sign(self, context: str, message: bytes) -> bytes:
        """64 bytes over :func:`pre_authentication_encoding`; the same input, the same bytes."""
        return self._private_key.sign(pre_authentication_encoding(context, message))

    def to_pem(self, passphrase: bytes) -> bytes:
        """PKCS#8, encrypted under ``passphrase``."""
        return self._private_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(passphrase),
        )


def key_id(public_key: bytes) -> str:
    """SHA-256 (hex) of the raw public key."""
    return hashlib.sha256(public_key).hexdigest()


def pre_authentication_encoding(context: str, message: bytes) -> bytes:
    """DSSE v1: ``DSSEv1 LEN(type) type LEN(body) body``, lengths in decimal."""
    kind = context.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(message), message)


def verify_signature(public_key: bytes, context: str, message: bytes, signature: bytes) -> None:
    """Check one signature.

    Raises:
        Rejected: SIGNATURE_INVALID, KEY_INVALID.
    """
    verify_bytes(public_key, pre_authentication_encoding(context, message), signature)


def verify_bytes(public_key: bytes, signed: bytes, signature: bytes) -> None:
    """Check a signature over bytes that carry their context already; raises as above."""
    require_sound_key(public_key)
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, signed)
    except (InvalidSignature, ValueError) as error:
        raise Rejected(
            "SIGNATURE_INVALID", f"a signature under key {key_id(public_key)[:16]} is wrong",
            "the bytes were changed on the way, or another key signed them",
        ) from error


def require_sound_key(public_key: bytes) -> None:
    """Refuse what is no proper public key: length, y out of range, small order.

    Raises:
        Rejected: KEY_INVALID.
    """
    if len(public_key) == PUBLIC_KEY_BYTES:
        y = int.from_bytes(public_key, "little") & (2**255 - 1)
        if y < _P and y not in _SMALL_ORDER_Y:
            return
    raise Rejected(
        "KEY_INVALID", "a public key is no point of large order on Ed25519",
        "make keys with `medunlearn keys new`",
    )

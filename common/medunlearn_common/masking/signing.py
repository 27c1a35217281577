"""What masking needs of identities: to sign as one party, and to verify any party's word.

Keys of masks travel through the coordinator. Without signatures of the sites' own, it could
hand every site keys of its own making and unmask them all.
"""

from __future__ import annotations

from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from medunlearn_common.entropy import Entropy
from medunlearn_common.errors import Rejected

SIGNATURE_BYTES = 64


class Signer(Protocol):
    """Signs for one party."""

    def sign(self, context: str, message: bytes) -> bytes:
        """64 bytes over ``message``, fit for ``context`` only."""
        ...


class Verifier(Protocol):
    """Knows the parties' public keys."""

    def verify(self, party_id: str, context: str, message: bytes, signature: bytes) -> None:
        """Check a party's signature.

        Raises:
            Rejected: If the party is unknown or the signature is not its own.
        """
        ...


def signed_bytes(context: str, message: bytes) -> bytes:
    """What is signed: the context with its length, then the message."""
    name = context.encode("utf-8")
    return len(name).to_bytes(2, "big") + name + message


class Ed25519Signer:
    """A :class:`Signer` with one Ed25519 key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    def __repr__(self) -> str:
        return "Ed25519Signer(key=<redacted>)"

    @property
    def public_key(self) -> bytes:
        """32 raw bytes."""
        return self._key.public_key().public_bytes_raw()

    def sign(self, context: str, message: bytes) -> bytes:
        """As :meth:`Signer.sign`."""
        return self._key.sign(signed_bytes(context, message))


def verify_ed25519(public_key: bytes, context: str, message: bytes, signature: bytes) -> None:
    """Check one signature.

    Raises:
        Rejected: SIGNATURE_INVALID.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(
            signature, signed_bytes(context, message)
        )
    except (InvalidSignature, ValueError) as error:
        raise Rejected(
            "SIGNATURE_INVALID", "a signature is not of the party that it names",
            "somebody on the way changed a message, or a site has another key than agreed",
        ) from error


class SeededIdentities:
    """Every party's identity from one seed, for simulation only.

    Guarantees:
        None towards anybody who knows the seed, as :class:`SeededEntropy`.
    """

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy
        self._public: dict[str, bytes] = {}

    def signer(self, party_id: str) -> Ed25519Signer:
        """The party's key."""
        seed = self._entropy.key("identity", party_id)
        return Ed25519Signer(Ed25519PrivateKey.from_private_bytes(seed))

    def verify(self, party_id: str, context: str, message: bytes, signature: bytes) -> None:
        """As :meth:`Verifier.verify`; raises Rejected SIGNATURE_INVALID."""
        if party_id not in self._public:
            self._public[party_id] = self.signer(party_id).public_key
        verify_ed25519(self._public[party_id], context, message, signature)

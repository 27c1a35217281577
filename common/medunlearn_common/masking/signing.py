"""What masking needs of identities: to sign as one party, and to verify any party's word.

Keys of masks travel through the coordinator. Without signatures of the sites' own, it could
hand every site keys of its own making and unmask them all.
"""

from __future__ import annotations

from typing import Protocol

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

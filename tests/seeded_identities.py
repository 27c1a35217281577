"""Every party's key from one seed: identities for tests without a roster."""

from __future__ import annotations

from medunlearn_common.entropy import Entropy
from medunlearn_common.identity import SigningIdentity
from medunlearn_common.identity.keys import verify_signature


class SeededIdentities:
    """Signs for any party and verifies any party's word, with the product's own signatures."""

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy
        self._known: dict[str, SigningIdentity] = {}

    def signer(self, party_id: str) -> SigningIdentity:
        """The party's identity."""
        if party_id not in self._known:
            self._known[party_id] = SigningIdentity.generate(party_id, self._entropy)
        return self._known[party_id]

    def verify(self, party_id: str, context: str, message: bytes, signature: bytes) -> None:
        """Raises Rejected SIGNATURE_INVALID."""
        verify_signature(self.signer(party_id).public_key, context, message, signature)

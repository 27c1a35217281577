"""Shares of a site's two secrets, sealed to each neighbour, and opened again."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from medunlearn_common.errors import Rejected
from medunlearn_common.masking.keys import SessionSecrets, agree, derive
from medunlearn_common.masking.members import Members
from medunlearn_common.masking.shamir import SHARE_BYTES, check_share, split

SEALED_BYTES = 2 * SHARE_BYTES + 16
_NONCE = bytes(12)  # every key seals one text only: session, direction and pair are in it


@dataclass(frozen=True, kw_only=True)
class SharePair:
    """One holder's shares of another site's self-mask seed and mask key."""

    self_seed: bytes = field(repr=False)
    mask_key: bytes = field(repr=False)


def share_out(
    secrets: SessionSecrets, members: Members, position: int
) -> dict[int, SharePair]:
    """Shares of both secrets for every holder, itself included; the same each time."""
    holders = members.holders(position)
    points = [holder + 1 for holder in holders]
    threshold = members.shape.threshold
    seeds, keys = (
        split(secret, threshold=threshold, points=points, seed=secrets.share_seed(what))
        for what, secret in (
            ("self-seed", secrets.self_seed), ("mask-key", secrets.mask_private)
        )
    )
    return {
        holder: SharePair(self_seed=seeds[holder + 1], mask_key=keys[holder + 1])
        for holder in holders
    }


def seal_shares(
    secrets: SessionSecrets, members: Members, position: int
) -> dict[int, bytes]:
    """Shares for every neighbour, each sealed to it."""
    shares = share_out(secrets, members, position)
    sealed = {}
    for other in members.neighbours(position):
        key, data = _channel(secrets.sealing, members, sender=position, recipient=other,
                             peer=other)
        pair = shares[other]
        sealed[other] = seal_text(key, pair.self_seed + pair.mask_key, data)
    return sealed


def seal_text(key: bytes, plain: bytes, data: bytes, *, nonce: bytes = _NONCE) -> bytes:
    """ChaCha20-Poly1305 (RFC 8439): ciphertext and tag."""
    return ChaCha20Poly1305(key).encrypt(nonce, plain, data)


def open_text(key: bytes, sealed: bytes, data: bytes, *, nonce: bytes = _NONCE) -> bytes:
    """Back from :func:`seal_text`.

    Raises:
        Rejected: MASKING_SHARE_SEALED.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(nonce, sealed, data)
    except InvalidTag as error:
        raise Rejected(
            "MASKING_SHARE_SEALED", "shares were not sealed for this site and session",
            "the coordinator mixed up shares, or the site that sent them is faulty",
        ) from error


def open_share(
    secrets: SessionSecrets, members: Members, *, sender: int, recipient: int, sealed: bytes
) -> SharePair:
    """Open what a neighbour sealed to this site.

    Raises:
        Rejected: MASKING_SHARE_SEALED if it was not sealed by ``sender`` to ``recipient`` in
            this session; MASKING_SHARE if what is inside is no pair of shares.
    """
    key, data = _channel(secrets.sealing, members, sender=sender, recipient=recipient,
                         peer=sender)
    plain = open_text(key, sealed, data)
    return SharePair(
        self_seed=check_share(plain[:SHARE_BYTES]), mask_key=check_share(plain[SHARE_BYTES:])
    )


def _channel(
    private: X25519PrivateKey, members: Members, *, sender: int, recipient: int, peer: int
) -> tuple[bytes, bytes]:
    """Key and associated data of one direction between two sites in one session."""
    data = (
        members.transcript + sender.to_bytes(2, "big") + recipient.to_bytes(2, "big")
    )
    secret = agree(private, members.offers[peer].sealing_key)
    return derive(secret, "sealed-shares", data), data

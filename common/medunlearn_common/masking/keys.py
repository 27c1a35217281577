"""A site's secrets of one session, all from one 256-bit root, and what it publishes of them.

Two X25519 pairs: one agrees on the keys under which shares are sealed, the other on the seeds
of pairwise masks; only the latter is ever shared out. The self-mask seed b is published as a
hash, so that a wrong reconstruction is noticed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from medunlearn_common.errors import Rejected
from medunlearn_common.masking.codec import Reader, Writer
from medunlearn_common.masking.parameters import PROTOCOL
from medunlearn_common.masking.signing import SIGNATURE_BYTES, Signer, Verifier

KEY_BYTES = 32
OFFER_CONTEXT = f"{PROTOCOL}/keys"
# The eight points of small order in the encodings that X25519 accepts, bit 255 ignored
# (Bernstein's list; u = 0, 1, two of order 8, p - 1, p, p + 1).
_P = (1 << 255) - 19
_LOW_ORDER = frozenset((
    0, 1, _P - 1, _P, _P + 1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
))


def derive(secret: bytes, purpose: str, info: bytes = b"") -> bytes:
    """32 bytes by HKDF-SHA256 from a secret, for one purpose."""
    label = f"{PROTOCOL}/{purpose}".encode("ascii")
    whole = len(label).to_bytes(2, "big") + label + info
    return hkdf_sha256(secret, info=whole)


def hkdf_sha256(
    secret: bytes, *, info: bytes, salt: bytes | None = None, length: int = KEY_BYTES
) -> bytes:
    """RFC 5869; raises ValueError beyond 255 hashes."""
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(secret)


def check_public_key(key: bytes) -> bytes:
    """A public key that agrees on a secret with anybody.

    Raises:
        Rejected: MASKING_KEY_LOW_ORDER (all zeros included), MASKING_KEY_LENGTH.
    """
    if len(key) != KEY_BYTES:
        raise Rejected("MASKING_KEY_LENGTH", "a public key has not 32 bytes", _HINT)
    if int.from_bytes(key, "little") & ((1 << 255) - 1) in _LOW_ORDER:
        raise Rejected(
            "MASKING_KEY_LOW_ORDER", "a public key of small order: everybody knows its secrets",
            _HINT,
        )
    return key


_HINT = "the site that offered it is faulty or hostile; leave it out of the run"


def commitment(self_seed: bytes) -> bytes:
    """Hash of b that binds and, b having 256 random bits, hides."""
    return hashlib.sha256(f"{PROTOCOL}/self-seed".encode("ascii") + self_seed).digest()


@dataclass(frozen=True, kw_only=True)
class KeyOffer:
    """What one site publishes for one session.

    Attributes:
        site_id: Whose.
        sealing_key: X25519 public key for sealing shares.
        mask_key: X25519 public key for mask seeds.
        self_commitment: Of the self-mask seed b.
        signature: By the site's identity over all of it, run and session.
    """

    site_id: str
    sealing_key: bytes
    mask_key: bytes
    self_commitment: bytes
    signature: bytes

    def write(self, writer: Writer) -> None:
        """Append to a message."""
        writer.text(self.site_id).fixed(self.sealing_key, KEY_BYTES)
        writer.fixed(self.mask_key, KEY_BYTES).fixed(self.self_commitment, KEY_BYTES)
        writer.fixed(self.signature, SIGNATURE_BYTES)

    @classmethod
    def read(cls, reader: Reader) -> KeyOffer:
        """Read from a message; nothing is checked but lengths."""
        return cls(
            site_id=reader.text(), sealing_key=reader.fixed(KEY_BYTES),
            mask_key=reader.fixed(KEY_BYTES), self_commitment=reader.fixed(KEY_BYTES),
            signature=reader.fixed(SIGNATURE_BYTES),
        )

    def signed_part(self, *, run_id: str, session: str) -> bytes:
        """What the signature is over."""
        return offer_bytes(
            run_id=run_id, session=session, site_id=self.site_id,
            sealing_key=self.sealing_key, mask_key=self.mask_key,
            self_commitment=self.self_commitment,
        )

    def check(self, verifier: Verifier, *, run_id: str, session: str) -> None:
        """Check keys and signature.

        Raises:
            Rejected: MASKING_KEY_LOW_ORDER, MASKING_KEY_TWICE, or the verifier's code.
        """
        check_public_key(self.sealing_key)
        check_public_key(self.mask_key)
        if self.sealing_key == self.mask_key:
            raise Rejected("MASKING_KEY_TWICE", f"{self.site_id} offers one key twice", _HINT)
        message = self.signed_part(run_id=run_id, session=session)
        verifier.verify(self.site_id, OFFER_CONTEXT, message, self.signature)


def offer_bytes(
    *, run_id: str, session: str, site_id: str, sealing_key: bytes, mask_key: bytes,
    self_commitment: bytes,
) -> bytes:
    """Canonical bytes of an offer, run and session in front."""
    writer = Writer().fixed(hashlib.sha256(run_id.encode("utf-8")).digest(), KEY_BYTES)
    writer.text(session).text(site_id).fixed(sealing_key, KEY_BYTES)
    return writer.fixed(mask_key, KEY_BYTES).fixed(self_commitment, KEY_BYTES).done()


@dataclass(frozen=True, kw_only=True)
class SessionSecrets:
    """Everything secret of one site in one session; never printed."""

    root: bytes = field(repr=False)

    @cached_property
    def sealing(self) -> X25519PrivateKey:
        """Agrees on sealing keys."""
        return X25519PrivateKey.from_private_bytes(derive(self.root, "sealing-key"))

    @cached_property
    def mask_private(self) -> bytes:
        """The mask key as bytes: what is shared out against a dropout."""
        return derive(self.root, "mask-key")

    @cached_property
    def self_seed(self) -> bytes:
        """b: what is shared out against a late answer."""
        return derive(self.root, "self-seed")

    def share_seed(self, what: str) -> bytes:
        """Seed of the coefficients with which ``what`` is shared."""
        return derive(self.root, f"coefficients/{what}")

    def offer(self, signer: Signer, *, run_id: str, session: str, site_id: str) -> KeyOffer:
        """What is published; the same bytes each time."""
        sealing = self.sealing.public_key().public_bytes_raw()
        mask, committed = public_of(self.mask_private), commitment(self.self_seed)
        message = offer_bytes(
            run_id=run_id, session=session, site_id=site_id, sealing_key=sealing,
            mask_key=mask, self_commitment=committed,
        )
        return KeyOffer(
            site_id=site_id, sealing_key=sealing, mask_key=mask, self_commitment=committed,
            signature=signer.sign(OFFER_CONTEXT, message),
        )


def public_of(private: bytes) -> bytes:
    """The public key of a private one."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agree(private: bytes | X25519PrivateKey, public: bytes) -> bytes:
    """The shared secret of two keys.

    Raises:
        Rejected: MASKING_KEY_LOW_ORDER if it is all zeros.
    """
    if isinstance(private, bytes):
        private = X25519PrivateKey.from_private_bytes(private)
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(check_public_key(public)))
    except ValueError as error:
        raise Rejected("MASKING_KEY_LOW_ORDER", "two keys agree on nothing", _HINT) from error

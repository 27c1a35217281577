"""Ed25519 keys of one machine and a book of public keys, in two small files.

This stands in for the consortium's identities and its root-signed roster: whoever holds the book
decides what it says. A verifier must therefore get its book from somewhere else than the run
that it verifies.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from medunlearn_common.audit.kinds import digest, name
from medunlearn_common.audit.signing import COORDINATOR
from medunlearn_common.digests import canonical_json
from medunlearn_common.entropy import KEY_BYTES, Entropy
from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.files import write_atomically
from medunlearn_common.strict_json import parse_canonical

KEY_FILE = "identity.key"
BOOK_FILE = "roster.json"
MAX_BOOK_BYTES = 4 << 20


def pre_authentication_encoding(context: str, message: bytes) -> bytes:
    """What is signed for a message: PAE of DSSE v1, with the context as payload type."""
    kind = context.encode("utf-8")
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(message), message)


class LocalSigner:
    """One party's Ed25519 key.

    Guarantees:
        Neither ``repr`` nor an error shows the key.
    """

    def __init__(self, party_id: str, key: Ed25519PrivateKey) -> None:
        self._party_id = party_id
        self._key = key

    def __repr__(self) -> str:
        return f"LocalSigner(party_id={self._party_id!r}, key=<redacted>)"

    @property
    def party_id(self) -> str:
        """The party's name in the book."""
        return self._party_id

    @property
    def public_key(self) -> str:
        """32 bytes as hex."""
        return self._key.public_key().public_bytes_raw().hex()

    def sign(self, context: str, message: bytes) -> bytes:
        """64 bytes over the message under its context."""
        return self._key.sign(pre_authentication_encoding(context, message))


def local_signer(folder: Path, party_id: str, entropy: Entropy) -> LocalSigner:
    """The party's key from its folder; made, for its owner alone, if there is none.

    Raises:
        Misconfigured: KEY_FILE_MODE if others may read it, KEY_FILE_INVALID.
        Transient: WRITE_FAILED.
    """
    path = folder / KEY_FILE
    if not path.exists():
        write_atomically(path, entropy.key("identity", party_id).hex().encode("ascii"))
    secret = read_secret(path)
    return LocalSigner(party_id, Ed25519PrivateKey.from_private_bytes(secret))


def read_secret(path: Path) -> bytes:
    """32 secret bytes from a file that only its owner may open.

    Raises:
        Misconfigured: KEY_FILE_MODE or KEY_FILE_INVALID.
    """
    mode = path.lstat().st_mode
    if not stat.S_ISREG(mode) or mode & 0o077 or path.lstat().st_uid != os.getuid():
        raise Misconfigured(
            "KEY_FILE_MODE", f"others than its owner may open {path.name}, or it is a link",
            f"chmod 600 {path.name}, and make a new key if anybody may have read it",
        )
    try:
        secret = bytes.fromhex(path.read_text("ascii"))
    except ValueError:
        secret = b""
    if len(secret) != KEY_BYTES:
        raise Misconfigured(
            "KEY_FILE_INVALID", f"{path.name} holds no key", "restore it from its backup"
        )
    return secret


@dataclass(frozen=True, kw_only=True)
class KeyBook:
    """Public keys by party; the coordinator's among them.

    Attributes:
        keys: Party to public key (hex of 32 bytes).
        revoked: Parties whose signatures count no more.
    """

    keys: Mapping[str, str]
    revoked: tuple[str, ...] = ()

    @property
    def sites(self) -> tuple[str, ...]:
        """All parties but the coordinator, revoked ones too, by name."""
        return tuple(sorted(party for party in self.keys if party != COORDINATOR))

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of :meth:`to_bytes`."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def verify(self, party_id: str, context: str, message: bytes, signature: bytes) -> None:
        """Check a signature.

        Raises:
            Rejected: SIGNER_UNKNOWN, SIGNER_REVOKED or SIGNATURE_INVALID.
        """
        if party_id not in self.keys:
            raise _refused("SIGNER_UNKNOWN", f"{party_id} is not in the roster")
        if party_id in self.revoked:
            raise _refused("SIGNER_REVOKED", f"the key of {party_id} was revoked")
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.keys[party_id]))
        try:
            key.verify(signature, pre_authentication_encoding(context, message))
        except InvalidSignature:
            raise _refused(
                "SIGNATURE_INVALID", f"what {party_id} is said to have signed, it did not sign"
            ) from None

    def to_bytes(self) -> bytes:
        """The file."""
        return canonical_json({"keys": dict(self.keys), "revoked": list(self.revoked)}) + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Back from :meth:`to_bytes`.

        Raises:
            Rejected: ROSTER_MALFORMED or a JSON code.
        """
        value: Any = parse_canonical(
            data.removesuffix(b"\n"), max_bytes=MAX_BOOK_BYTES, what="the roster"
        )
        if not isinstance(value, dict) or value.keys() != {"keys", "revoked"}:
            raise _malformed()
        keys, revoked = value["keys"], value["revoked"]
        if not isinstance(keys, dict) or not isinstance(revoked, list):
            raise _malformed()
        if not all(name(party) and digest(key) for party, key in keys.items()):
            raise _malformed()
        if not all(name(party) for party in revoked):
            raise _malformed()
        return cls(keys=keys, revoked=tuple(revoked))


def _refused(code: str, message: str) -> Rejected:
    return Rejected(code, message, "do not use what it signed; ask the consortium")


def _malformed() -> Rejected:
    return Rejected("ROSTER_MALFORMED", "the roster cannot be read", "ask for a new copy of it")

"""Signed checkpoints: one party says "my log has this many records under this root".

The text follows the checkpoints of C2SP tlog-checkpoint: origin, size, root in base64, an empty
line, and one signature line. Only the signature differs: Ed25519 over the text under a context
string of ours, as every signature of the protocol.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Self

from medunlearn_common.audit.merkle import HASH_BYTES
from medunlearn_common.audit.signing import (
    CHECKPOINT_CONTEXT,
    COSIGNATURE_CONTEXT,
    Signer,
    Verifier,
)
from medunlearn_common.errors import Rejected
from medunlearn_common.strict_json import MAX_INTEGER

MAX_NOTE_BYTES = 1024
SIGNATURE_BYTES = 64
_ORIGIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,239}")
_NOTE = re.compile(
    r"(?P<body>(?P<origin>[^\n]+)\n(?P<size>0|[1-9][0-9]{0,15})\n(?P<root>[A-Za-z0-9+/=]{44})\n)"
    r"\n\u2014 (?P<signer>[A-Za-z0-9][A-Za-z0-9._-]{0,63}) (?P<signature>[A-Za-z0-9+/=]{88})\n"
)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The state of one log.

    Attributes:
        origin: Which log: party and, at a coordinator, run.
        size: Number of records.
        root: Merkle root over them, 32 bytes.
    """

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        """Refuse what no log has.

        Raises:
            Rejected: CHECKPOINT_MALFORMED.
        """
        if (
            not _ORIGIN.fullmatch(self.origin) or not 0 <= self.size <= MAX_INTEGER
            or len(self.root) != HASH_BYTES
        ):
            raise _malformed()

    @property
    def body(self) -> bytes:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{_base64(self.root)}\n".encode("ascii")


@dataclass(frozen=True, kw_only=True)
class SignedCheckpoint:
    """A checkpoint with the signature of one party: the log's own, or a witness.

    Attributes:
        checkpoint: What was signed.
        signer: Who signed.
        signature: 64 bytes.
    """

    checkpoint: Checkpoint
    signer: str
    signature: bytes

    def to_text(self) -> str:
        """As a note."""
        body = self.checkpoint.body.decode("ascii")
        return f"{body}\n\u2014 {self.signer} {_base64(self.signature)}\n"

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Back from :meth:`to_text`; nothing else is accepted. The signature is not checked.

        Raises:
            Rejected: CHECKPOINT_MALFORMED.
        """
        found = _NOTE.fullmatch(text) if len(text) <= MAX_NOTE_BYTES else None
        if found is None:
            raise _malformed()
        checkpoint = Checkpoint(
            origin=found["origin"], size=int(found["size"]), root=_bytes(found["root"])
        )
        signed = cls(
            checkpoint=checkpoint, signer=found["signer"], signature=_bytes(found["signature"])
        )
        if signed.to_text() != text or len(signed.signature) != SIGNATURE_BYTES:
            raise _malformed()  # another spelling of the same bytes
        return signed

    def require_signature(self, verifier: Verifier, *, by: str, context: str) -> None:
        """Check who signed.

        Raises:
            Rejected: CHECKPOINT_SIGNER if it names another party than ``by``, or the
                verifier's own code.
        """
        if self.signer != by:
            raise Rejected(
                "CHECKPOINT_SIGNER", f"a checkpoint is signed by {self.signer}, not by {by}",
                "only the party that keeps a log signs its checkpoints",
            )
        verifier.verify(by, context, self.checkpoint.body, self.signature)


def signed_checkpoint(checkpoint: Checkpoint, signer: Signer) -> SignedCheckpoint:
    """The keeper's signature on its own log's state."""
    return _signed(checkpoint, signer, CHECKPOINT_CONTEXT)


def cosigned_checkpoint(checkpoint: Checkpoint, signer: Signer) -> SignedCheckpoint:
    """A witness's signature: it saw this state, and it followed from all that it saw before."""
    return _signed(checkpoint, signer, COSIGNATURE_CONTEXT)


def _signed(checkpoint: Checkpoint, signer: Signer, context: str) -> SignedCheckpoint:
    return SignedCheckpoint(
        checkpoint=checkpoint, signer=signer.party_id,
        signature=signer.sign(context, checkpoint.body),
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise _malformed() from None


def _malformed() -> Rejected:
    return Rejected(
        "CHECKPOINT_MALFORMED", "a checkpoint cannot be read", "ask its party for a new one"
    )

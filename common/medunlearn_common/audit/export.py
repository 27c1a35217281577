"""A log as one file, and reading it offline.

The first line says which log it is: canonical JSON with the signed head and the witnesses'
signatures. Every further line is one record, byte for byte as it was hashed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from medunlearn_common.audit.checkpoints import SignedCheckpoint
from medunlearn_common.audit.merkle import leaf_hash, root_of
from medunlearn_common.audit.records import AuditRecord, followed
from medunlearn_common.audit.signing import CHECKPOINT_CONTEXT, Verifier
from medunlearn_common.digests import canonical_json
from medunlearn_common.errors import Rejected
from medunlearn_common.strict_json import parse_canonical

FORMAT = "medunlearn-audit-log/1"
MAX_EXPORT_BYTES = 64 << 20
MAX_HEADER_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class LogExport:
    """A log outside its file; nothing of it is checked before :meth:`verify`.

    Attributes:
        head: The log's signed state.
        cosignatures: What witnesses signed, one per party.
        lines: The records' bytes.
    """

    head: SignedCheckpoint
    cosignatures: tuple[SignedCheckpoint, ...]
    lines: tuple[bytes, ...]

    def to_bytes(self) -> bytes:
        """The file."""
        header = canonical_json({
            "cosignatures": [signed.to_text() for signed in self.cosignatures],
            "format": FORMAT, "head": self.head.to_text(),
        })
        return b"".join(line + b"\n" for line in (header, *self.lines))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Back from :meth:`to_bytes`.

        Raises:
            Rejected: AUDIT_EXPORT, CHECKPOINT_MALFORMED, or a JSON code for the first line.
        """
        if len(data) > MAX_EXPORT_BYTES:
            raise _bad("it is larger than 64 MiB")
        header, *lines = data.split(b"\n")
        if not lines or lines.pop() != b"":
            raise _bad("its last line is cut off")
        value: Any = parse_canonical(
            header, max_bytes=MAX_HEADER_BYTES, what="the log's first line"
        )
        if not isinstance(value, dict) or value.keys() != {"cosignatures", "format", "head"}:
            raise _bad("its first line is not that of a log")
        notes, head = value["cosignatures"], value["head"]
        if value["format"] != FORMAT or not isinstance(head, str) or not isinstance(notes, list):
            raise _bad("its first line is not that of a log of this version")
        if not all(isinstance(note, str) for note in notes):
            raise _bad("a witness's signature is no text")
        return cls(
            head=SignedCheckpoint.from_text(head),
            cosignatures=tuple(SignedCheckpoint.from_text(note) for note in notes),
            lines=tuple(lines),
        )

    @property
    def leaves(self) -> tuple[bytes, ...]:
        """The records' leaf hashes."""
        return tuple(leaf_hash(line) for line in self.lines)

    def verify(self, verifier: Verifier, *, keeper: str) -> tuple[AuditRecord, ...]:
        """Check the log from public keys alone.

        Steps: (1) the head is signed by ``keeper``; (2) every record follows from the one
        before it; (3) their number and Merkle root are those of the head.

        Returns:
            The records.

        Raises:
            Rejected: CHECKPOINT_SIGNER or the verifier's code (1); AUDIT_LOG_DAMAGED, naming
                the first bad record (2, 3).
        """
        self.head.require_signature(verifier, by=keeper, context=CHECKPOINT_CONTEXT)
        records, damage = followed(self.lines)
        if damage is not None:
            raise _damaged(damage.index, damage.why)
        signed = self.head.checkpoint
        if len(records) != signed.size:
            first = min(len(records), signed.size)
            raise _damaged(first, f"{len(records)} records where {signed.size} are signed for")
        if root_of(self.leaves) != signed.root:
            raise _damaged(
                max(0, signed.size - 1), "the signed root is that of another log; if no record "
                "was changed before it, it is the last one"
            )
        return records

    def require_past(self, signed: SignedCheckpoint) -> None:
        """Refuse a signed state that this very log never went through.

        Raises:
            Rejected: AUDIT_SPLIT_VIEW.
        """
        state = signed.checkpoint
        past = self.leaves[: state.size]
        if (
            state.origin != self.head.checkpoint.origin or len(past) != state.size
            or root_of(past) != state.root
        ):
            raise Rejected(
                "AUDIT_SPLIT_VIEW", f"{signed.signer} was shown another log than this one",
                "compare the logs that the sites hold; the log's keeper showed two",
            )


def _damaged(index: int, why: str) -> Rejected:
    return Rejected(
        "AUDIT_LOG_DAMAGED", f"the log is not what was signed: record {index} is the first bad "
        f"one ({why})", "ask the log's keeper for a sound export, and keep this one as evidence",
    )


def _bad(why: str) -> Rejected:
    return Rejected("AUDIT_EXPORT", f"a log cannot be read: {why}", "ask for a new export")

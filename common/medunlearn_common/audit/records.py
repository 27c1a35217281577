"""One record of a log, and the bytes that are hashed and signed for it.

The bytes are canonical JSON. Deterministic CBOR would do as well; JSON was taken because an
auditor can read an exported log with any tool, line by line, and because nothing binary is in
it ([decision 13]). Each record names the leaf hash of the one before it, so that the lines are a
chain even without the tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from medunlearn_common.audit.kinds import count, digest, require_fields
from medunlearn_common.audit.merkle import HASH_BYTES, leaf_hash
from medunlearn_common.digests import canonical_json
from medunlearn_common.errors import Rejected
from medunlearn_common.strict_json import parse_canonical

MAX_RECORD_BYTES = 1 << 20
NO_RECORD = bytes(HASH_BYTES).hex()
_KEYS = {"at", "fields", "index", "kind", "previous"}


@dataclass(frozen=True, kw_only=True)
class AuditRecord:
    """One line of a log.

    Attributes:
        index: Its place, from 0.
        at: When it was appended, in Unix seconds by the party's own clock.
        kind: See :data:`medunlearn_common.audit.kinds.KINDS`.
        fields: What happened.
        previous: Leaf hash (hex) of the record before it; zeros for the first.
    """

    index: int
    at: int
    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    previous: str = NO_RECORD

    def __post_init__(self) -> None:
        """Refuse what could not be read back.

        Raises:
            Rejected: AUDIT_KIND or AUDIT_FIELD.
        """
        if not (count(self.index) and count(self.at) and digest(self.previous)):
            raise _malformed("its place, time or predecessor is none")
        require_fields(self.kind, self.fields)

    def to_bytes(self) -> bytes:
        """The bytes that the leaf hash covers."""
        return canonical_json({
            "at": self.at, "fields": dict(self.fields), "index": self.index, "kind": self.kind,
            "previous": self.previous,
        })

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Back from :meth:`to_bytes`; nothing else is accepted.

        Raises:
            Rejected: JSON_TOO_LARGE, JSON_NOT_CANONICAL, AUDIT_RECORD, AUDIT_KIND or
                AUDIT_FIELD.
        """
        value = parse_canonical(data, max_bytes=MAX_RECORD_BYTES, what="a log record")
        if not isinstance(value, dict) or value.keys() != _KEYS:
            raise _malformed("it has other parts than a record has")
        if not isinstance(value["kind"], str) or not isinstance(value["fields"], dict):
            raise _malformed("its kind is no text, or its fields are no object")
        return cls(**value)

    @property
    def leaf(self) -> bytes:
        """Its leaf hash in the tree, 32 bytes."""
        return leaf_hash(self.to_bytes())


@dataclass(frozen=True, kw_only=True)
class Damage:
    """Where a log stops being what was written.

    Attributes:
        index: First record that is missing, or is not what it was.
        why: What is wrong, in a few words.
    """

    index: int
    why: str


def followed(
    lines: Iterable[bytes], *, first: int = 0, previous: str = NO_RECORD
) -> tuple[tuple[AuditRecord, ...], Damage | None]:
    """The records of a log as far as they follow from each other, and what ends them.

    Nothing after the first damage is believed.

    Args:
        lines: The records' bytes.
        first: Index that the first of them must have.
        previous: Leaf hash (hex) of the record before it.
    """
    records: list[AuditRecord] = []
    for index, line in enumerate(lines, start=first):
        try:
            record = AuditRecord.from_bytes(line)
        except Rejected as error:
            return tuple(records), Damage(index=index, why=f"it cannot be read, {error.code}")
        if record.index != index:
            return tuple(records), Damage(index=index, why=f"it says it is number {record.index}")
        if record.previous != previous:
            why = "it does not follow from the record before it"
            return tuple(records), Damage(index=index, why=why)
        records.append(record)
        previous = leaf_hash(line).hex()
    return tuple(records), None


def _malformed(why: str) -> Rejected:
    return Rejected("AUDIT_RECORD", f"a log record is malformed: {why}", "ask for a new export")

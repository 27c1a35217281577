"""The audit log of one party: append, checkpoint, prove."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medunlearn_common.audit import table
from medunlearn_common.audit.checkpoints import (
    Checkpoint,
    SignedCheckpoint,
    signed_checkpoint,
)
from medunlearn_common.audit.export import LogExport
from medunlearn_common.audit.kinds import require_fields
from medunlearn_common.audit.merkle import inclusion_proof, leaf_hash, root_of
from medunlearn_common.audit.records import NO_RECORD, AuditRecord, Damage, followed
from medunlearn_common.audit.signing import CHECKPOINT_CONTEXT, Signer
from medunlearn_common.digests import canonical_json
from medunlearn_common.errors import Rejected
from medunlearn_common.identity import verify_signature

Clock = Callable[[], float]


class AuditLog:
    """Append-only records of one party under a Merkle tree whose head it signs.

    Guarantees:
        * When :meth:`append` returns, the record and a signed checkpoint that covers it are on
          disk, in one transaction: a kill at any moment leaves both or neither.
        * Opening reads and follows every record. A log in which a record is changed, missing,
          added or out of order, or that is shorter than its checkpoint, takes no more records
          and says which is the first bad one.
        * It does not find out that its owner put back an older copy of the whole file with its
          older checkpoint; witnesses do (:mod:`medunlearn_common.audit.witness`).

    Args:
        path: The file; made if it is not there.
        origin: Which log this is, at which party.
        signer: The party's identity.
        clock: Seconds since 1970.

    Raises:
        Transient: AUDIT_UNAVAILABLE; every method may raise it.
    """

    def __init__(
        self, path: Path, *, origin: str, signer: Signer, clock: Clock = time.time
    ) -> None:
        self._path = path
        self._origin = origin
        self._signer = signer
        self._clock = clock
        self._records: list[AuditRecord] = []
        self._leaves: list[bytes] = []
        self._said: set[tuple[str, bytes]] = set()
        self.damage: Damage | None = None
        """Set where the log is not what was written; it is read-only then."""
        try:
            table.prepare(path)
            with table.connected(path) as connection:
                self._catch_up(connection)
        except Rejected as error:
            if error.code != "AUDIT_LOG_DAMAGED":
                raise
            if self.damage is None:
                self.damage = Damage(index=len(self._records), why="its file is damaged")

    def __repr__(self) -> str:
        return f"AuditLog(origin={self._origin!r}, size={len(self._records)})"

    @property
    def origin(self) -> str:
        """Which log this is."""
        return self._origin

    @property
    def records(self) -> tuple[AuditRecord, ...]:
        """All sound records, in order."""
        return tuple(self._records)

    @property
    def leaves(self) -> tuple[bytes, ...]:
        """Their leaf hashes."""
        return tuple(self._leaves)

    @property
    def head(self) -> SignedCheckpoint:
        """The signed state of the log.

        Raises:
            Rejected: AUDIT_LOG_DAMAGED.
        """
        return self.head_at(len(self._records))

    def head_at(self, size: int) -> SignedCheckpoint:
        """The signed state that the log had after ``size`` records, the same at every asking.

        Raises:
            Rejected: AUDIT_LOG_DAMAGED.
        """
        self._require_sound()
        state = Checkpoint(
            origin=self._origin, size=size, root=root_of(self._leaves[:size])
        )
        return signed_checkpoint(state, self._signer)

    def append(self, kind: str, **fields: Any) -> AuditRecord:
        """Add a record; an equal one that is there already is not repeated.

        A party that repeats a step after a crash says the same again: once is enough.

        Args:
            kind: A kind of :data:`medunlearn_common.audit.kinds.KINDS`.
            fields: Its fields, all of them.

        Raises:
            Rejected: AUDIT_KIND or AUDIT_FIELD; AUDIT_LOG_DAMAGED where the log is read-only.
        """
        self._require_sound()
        require_fields(kind, fields)
        with table.transaction(self._path) as connection:
            self._catch_up(connection)
            said = _said(kind, fields)
            if said in self._said:
                return next(r for r in self._records if _said(r.kind, r.fields) == said)
            record = AuditRecord(
                index=len(self._records), at=max(0, int(self._clock())), kind=kind,
                fields=fields, previous=self._leaves[-1].hex() if self._leaves else NO_RECORD,
            )
            self._write(connection, record)
        self._take(record)
        return record

    def _write(self, connection: sqlite3.Connection, record: AuditRecord) -> None:
        leaves = [*self._leaves, record.leaf]
        state = Checkpoint(origin=self._origin, size=len(leaves), root=root_of(leaves))
        connection.execute(
            "INSERT INTO entries (position, record) VALUES (?, ?)",
            (record.index, record.to_bytes()),
        )
        connection.execute(
            "INSERT OR REPLACE INTO head (only_row, note) VALUES (0, ?)",
            (signed_checkpoint(state, self._signer).to_text(),),
        )

    def _take(self, record: AuditRecord) -> None:
        self._records.append(record)
        self._leaves.append(record.leaf)
        self._said.add(_said(record.kind, record.fields))

    def _catch_up(self, connection: sqlite3.Connection) -> None:
        """Read what was appended since, here or by another process; at first everything."""
        known = len(self._records)
        rows = connection.execute(
            "SELECT record FROM entries WHERE position >= ? ORDER BY position", (known,)
        )
        lines = (row[0] if isinstance(row[0], bytes) else b"" for row in rows)
        records, damage = followed(
            lines, first=known, previous=self._leaves[-1].hex() if known else NO_RECORD
        )
        for record in records:
            self._take(record)
        self.damage = damage or self._head_damage(connection)
        self._require_sound()

    def _head_damage(self, connection: sqlite3.Connection) -> Damage | None:
        row = connection.execute("SELECT note FROM head").fetchone()
        size = len(self._records)
        if row is None:
            return Damage(index=0, why="its checkpoint is missing") if size else None
        try:
            head = SignedCheckpoint.from_text(str(row[0]))
        except Rejected:
            return Damage(index=0, why="its checkpoint cannot be read")
        if head.checkpoint.size > size:
            return Damage(index=size, why="records are missing that were signed for")
        if head.checkpoint.size < size:
            return Damage(index=head.checkpoint.size, why="it was never signed for")
        if head != signed_checkpoint(self._state(), self._signer):
            return Damage(index=0, why="the checkpoint signs another log")
        return None

    def _state(self) -> Checkpoint:
        return Checkpoint(
            origin=self._origin, size=len(self._leaves), root=root_of(self._leaves)
        )

    def _require_sound(self) -> None:
        if self.damage is not None:
            raise Rejected(
                "AUDIT_LOG_DAMAGED",
                f"the audit log {self._path.name} is read-only: record {self.damage.index} is "
                f"the first bad one ({self.damage.why})",
                "keep the file as evidence, find out who wrote to it, and look for its newest "
                "copy: docs/backup.md, 'History is missing'. Never put an older copy in place: "
                "the log would fork",
            )

    def catch_up(self) -> None:
        """Read what other processes appended since.

        Raises:
            Rejected: AUDIT_LOG_DAMAGED.
        """
        self._require_sound()
        with table.connected(self._path) as connection:
            self._catch_up(connection)

    def prove(self, index: int) -> tuple[bytes, ...]:
        """The inclusion proof of a record under :attr:`head`."""
        return inclusion_proof(self._leaves, index)

    def keep_cosignature(self, cosigned: SignedCheckpoint) -> None:
        """Keep a witness's signature on a state of this log; an older one does not replace it.

        The signature itself must have been checked.

        Raises:
            Rejected: COSIGNATURE_FOREIGN if no such state ever was.
        """
        signed = cosigned.checkpoint
        past = self._leaves[: signed.size]
        if signed != Checkpoint(origin=self._origin, size=len(past), root=root_of(past)):
            raise Rejected(
                "COSIGNATURE_FOREIGN", f"{cosigned.signer} signed a state this log never had",
                "find out which log that party was shown",
            )
        with table.transaction(self._path) as connection:
            connection.execute(
                "INSERT INTO cosignatures (party, size, note) VALUES (?1, ?2, ?3)"
                " ON CONFLICT (party) DO UPDATE SET size = ?2, note = ?3 WHERE size < ?2",
                (cosigned.signer, signed.size, cosigned.to_text()),
            )

    def cosignatures(self) -> dict[str, SignedCheckpoint]:
        """Each witness's latest signature, by party."""
        with table.connected(self._path) as connection:
            rows = connection.execute(
                "SELECT party, note FROM cosignatures ORDER BY party"
            ).fetchall()
        return {str(row[0]): SignedCheckpoint.from_text(str(row[1])) for row in rows}

    def export(self) -> LogExport:
        """Everything that an auditor needs, as one document."""
        return LogExport(
            head=self.head, cosignatures=tuple(self.cosignatures().values()),
            lines=tuple(record.to_bytes() for record in self._records),
        )


def origin_in(path: Path) -> str | None:
    """Which log a file says that it is; None where it says nothing that can be read.

    Nothing is checked, and nothing is made: opening the log finds out whether it is sound.

    Raises:
        Transient: AUDIT_UNAVAILABLE.
    """
    if not path.is_file():
        return None
    try:
        with table.connected(path) as connection:
            row = connection.execute("SELECT note FROM head").fetchone()
        return SignedCheckpoint.from_text(str(row[0])).checkpoint.origin if row else None
    except Rejected:
        return None


def hand_over(path: Path, *, old_key: bytes, signer: Signer) -> None:
    """Have a party's log go on under its new key: the old one's checkpoint is signed anew.

    What the old key did not sign stays as it is, and the log read-only; so does a log that goes
    on under the new key already, so that a crash is mended by doing it again.

    Args:
        path: The log's file; nothing is done where there is none.
        old_key: The public key that was in force until now, 32 bytes.
        signer: The party's new identity.

    Raises:
        Rejected: AUDIT_LOG_DAMAGED.
        Transient: AUDIT_UNAVAILABLE.
    """
    if not path.is_file():
        return
    with table.transaction(path) as connection:
        row = connection.execute("SELECT note FROM head").fetchone()
        try:
            head = SignedCheckpoint.from_text(str(row[0] if row else ""))
            verify_signature(old_key, CHECKPOINT_CONTEXT, head.checkpoint.body, head.signature)
        except Rejected:
            return
        note = signed_checkpoint(head.checkpoint, signer).to_text()
        connection.execute("UPDATE head SET note = ?", (note,))


def _said(kind: str, fields: Any) -> tuple[str, bytes]:
    return kind, leaf_hash(canonical_json(fields))

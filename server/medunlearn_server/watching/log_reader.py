"""Reads a run's audit log without its key and without ever writing to it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from medunlearn_common.audit.checkpoints import SignedCheckpoint
from medunlearn_common.audit.records import NO_RECORD, AuditRecord, followed
from medunlearn_common.errors import Rejected, Transient
from medunlearn_common.sqlite_files import refuse_newer
from medunlearn_server.watching.views import LogView

_BUSY_S = 1.0


class LogReader:
    """Follows one log as it grows.

    Guarantees:
        The file is opened read-only, for one query at a time. Every record shown follows from
        the one before it by its hash; signatures are not checked here, ``medunlearn verify``
        does that.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records: list[AuditRecord] = []
        self._first_bad: int | None = None
        self._inode = 0

    def read(self) -> LogView:
        """The log as it is now.

        Raises:
            Transient: AUDIT_UNAVAILABLE; the next call tries again.
            Misconfigured: STORE_NEWER.
        """
        try:
            inode = self._path.stat().st_ino
        except OSError:
            return LogView()
        if inode != self._inode:  # restored from a backup: another file
            self._records, self._first_bad, self._inode = [], None, inode
        try:
            address = f"file:{quote(str(self._path))}?mode=ro"
            with closing(sqlite3.connect(address, uri=True, timeout=_BUSY_S)) as connection:
                connection.execute("PRAGMA trusted_schema=OFF")
                refuse_newer(connection, name=self._path.name)
                self._follow(connection)
                witnesses = _witnesses(connection)
        except (sqlite3.Error, UnicodeError) as error:
            raise Transient(
                "AUDIT_UNAVAILABLE", f"the audit log {self._path.name} cannot be read",
                "look at the folder's permissions and the disk",
            ) from error
        return LogView(
            records=tuple(self._records), first_bad=self._first_bad, witnesses=witnesses
        )

    def _follow(self, connection: sqlite3.Connection) -> None:
        if self._first_bad is not None:
            return
        known = len(self._records)
        rows = connection.execute(
            "SELECT record FROM entries WHERE position >= ? ORDER BY position", (known,)
        )
        found, damage = followed(
            (row[0] if isinstance(row[0], bytes) else b"" for row in rows), first=known,
            previous=self._records[-1].leaf.hex() if known else NO_RECORD,
        )
        self._records.extend(found)
        self._first_bad = None if damage is None else damage.index


def _witnesses(connection: sqlite3.Connection) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for row in connection.execute("SELECT note FROM cosignatures"):
        try:
            signed = SignedCheckpoint.from_text(str(row[0]))
        except Rejected:
            continue
        sizes[signed.signer] = max(signed.checkpoint.size, sizes.get(signed.signer, 0))
    return sizes

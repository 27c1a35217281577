"""The share journal: what a site has said in every session, durable before it is said.

One SQLite file in WAL mode. Every step of a session is one transaction that is on disk
(``synchronous=FULL``: one flush per commit) before the answer leaves, so that a site which is
killed at any moment says afterwards what it said before, or nothing.

A lost journal must not look like a fresh one: a site that forgot which shares it gave could
give the other ones. Each run therefore leaves a marker *outside* the journal, with the
journal's own id. A run whose marker names another journal is refused for good.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, fields
from enum import IntEnum
from pathlib import Path
from typing import Literal

from medunlearn_common.digests import digest_of
from medunlearn_common.errors import Rejected, Transient
from medunlearn_common.files import write_atomically
from medunlearn_common.sqlite_files import mark_version, refuse_newer

_SCHEMA = """
CREATE TABLE IF NOT EXISTS identity (journal_id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS plans (
    plan_digest TEXT PRIMARY KEY, min_sites INTEGER NOT NULL, sites INTEGER NOT NULL,
    model_digest TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sessions (
    run_id TEXT NOT NULL, session TEXT NOT NULL,
    state INTEGER NOT NULL, root BLOB NOT NULL, members BLOB NOT NULL, delivery BLOB NOT NULL,
    release TEXT NOT NULL, request TEXT NOT NULL, plan_digest TEXT NOT NULL,
    masked BLOB NOT NULL, survivors BLOB NOT NULL, shares BLOB NOT NULL,
    PRIMARY KEY (run_id, session)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS opened (
    run_id TEXT NOT NULL, release TEXT NOT NULL, session TEXT NOT NULL,
    PRIMARY KEY (run_id, release)) WITHOUT ROWID;
"""


class SessionState(IntEnum):
    """How far a session has come at this site."""

    KEYS = 1
    SHARES = 2
    MASKED = 3
    AGREED = 4
    OPENED = 5


@dataclass(frozen=True, kw_only=True)
class SessionRecord:
    """One session of one run, at this site.

    Attributes:
        run_id: The run.
        session: Its name.
        state: How far it has come.
        root: Its secrets; empty once opened.
        members: All key offers, as received.
        delivery: Participants and sealed shares, as received; empty once opened.
        release: Which release was masked.
        request: Digest of that release's request.
        plan_digest: Plan of that request.
        masked: Digest of the masked payload.
        survivors: The survivor set that was signed, as received.
        shares: What was said at the opening.
    """

    run_id: str
    session: str
    state: SessionState
    root: bytes = field(repr=False)
    members: bytes = b""
    delivery: bytes = field(default=b"", repr=False)
    release: str = ""
    request: str = ""
    plan_digest: str = ""
    masked: bytes = b""
    survivors: bytes = b""
    shares: bytes = field(default=b"", repr=False)


_COLUMNS = tuple(entry.name for entry in fields(SessionRecord))


@dataclass(frozen=True, kw_only=True)
class KnownPlan:
    """What masking needs of a plan that this site accepted."""

    min_sites: int
    sites: int
    model_digest: str


class Transaction:
    """Reads and writes of one step."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """A part of the step that is undone by itself when it raises."""
        self._connection.execute("SAVEPOINT attempt")
        try:
            yield
        except BaseException:
            # On a full disk SQLite has ended the whole transaction, and the savepoint with it.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK TO attempt")
                self._connection.execute("RELEASE attempt")
            raise
        self._connection.execute("RELEASE attempt")

    def identity(self, fresh: str) -> str:
        """The journal's name; ``fresh`` if it has none yet."""
        row = self._connection.execute("SELECT journal_id FROM identity").fetchone()
        if row is not None:
            return str(row[0])
        self._connection.execute("INSERT INTO identity VALUES (?)", (fresh,))
        return fresh

    def session(self, run_id: str, session: str) -> SessionRecord | None:
        """One session, or None."""
        row = self._connection.execute(
            f"SELECT {', '.join(_COLUMNS)} FROM sessions WHERE run_id = ? AND session = ?",
            (run_id, session),
        ).fetchone()
        if row is None:
            return None
        values = dict(zip(_COLUMNS, row, strict=True))
        return SessionRecord(**{**values, "state": SessionState(values["state"])})

    def put(self, record: SessionRecord) -> None:
        """Write one session."""
        marks = ", ".join("?" * len(_COLUMNS))
        self._connection.execute(
            f"INSERT OR REPLACE INTO sessions ({', '.join(_COLUMNS)}) VALUES ({marks})",
            astuple(record),
        )

    def plan(self, plan_digest: str) -> KnownPlan | None:
        """A plan that was noted."""
        row = self._connection.execute(
            "SELECT min_sites, sites, model_digest FROM plans WHERE plan_digest = ?",
            (plan_digest,),
        ).fetchone()
        return row and KnownPlan(min_sites=row[0], sites=row[1], model_digest=row[2])

    def note_plan(self, plan_digest: str, plan: KnownPlan) -> None:
        """Keep what masking needs of a plan."""
        self._connection.execute(
            "INSERT OR REPLACE INTO plans (plan_digest, min_sites, sites, model_digest)"
            " VALUES (?, ?, ?, ?)",
            (plan_digest, plan.min_sites, plan.sites, plan.model_digest),
        )

    def opened_in(self, run_id: str, release: str) -> str | None:
        """The session in which a release was opened, if it was."""
        row = self._connection.execute(
            "SELECT session FROM opened WHERE run_id = ? AND release = ?", (run_id, release)
        ).fetchone()
        return None if row is None else str(row[0])

    def close_release(self, record: SessionRecord, *, keep: str) -> None:
        """Bind a release to its one opened session; erase all sessions but it and ``keep``."""
        self._connection.execute(
            "INSERT INTO opened (run_id, release, session) VALUES (?, ?, ?)",
            (record.run_id, record.release, record.session),
        )
        self._connection.execute(
            "DELETE FROM sessions WHERE run_id = ? AND session NOT IN (?, ?)",
            (record.run_id, record.session, keep),
        )

    def knows_run(self, run_id: str) -> bool:
        """Whether the run has a session here, or had one that was opened."""
        return any(
            self._connection.execute(
                f"SELECT 1 FROM {table} WHERE run_id = ? LIMIT 1", (run_id,)
            ).fetchone() is not None
            for table in ("sessions", "opened")
        )

    def erase_unsigned_beside(self, run_id: str) -> None:
        """Erase other runs' sessions in which this site signed no survivors.

        A coordinator that takes such a run up begins new ones. What was signed stays: it may
        have been written down as the one attempt that is still to be opened.
        """
        self._connection.execute(
            "DELETE FROM sessions WHERE run_id != ? AND state < ?",
            (run_id, int(SessionState.AGREED)),
        )

    def erase_run(self, run_id: str) -> None:
        """Erase every session of a run; which releases were opened stays known."""
        self._connection.execute("DELETE FROM sessions WHERE run_id = ?", (run_id,))


class ShareJournal:
    """The durable side of a site's masking.

    Guarantees:
        * A step is on disk before :meth:`transaction` returns, or it did not happen.
        * One release of a run is opened in one session only (a primary key).
        * What is erased is overwritten in the database (``secure_delete``), and the log is
          emptied whenever something was erased: at every opening, at the first session of a
          new run, and when a run ends. Copies that the disk itself keeps are out of reach.
    """

    def __init__(
        self, path: Path, *, before_commit: Callable[[], None] | None = None,
        synchronous: Literal["FULL", "OFF"] = "FULL",
    ) -> None:
        """Open the journal, or begin one.

        Args:
            path: The file.
            before_commit: Called before every commit; tests kill the process there.
            synchronous: OFF survives the death of the process but not of the machine; for
                tests.

        Raises:
            Transient: SHARE_JOURNAL_UNAVAILABLE.
            Misconfigured: STORE_NEWER.
        """
        self._path = path
        self._before_commit = before_commit
        self._checked: set[str] = set()
        self._lock = threading.RLock()
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.touch(mode=0o600)
        with self._errors():
            self._connection = sqlite3.connect(
                path, timeout=30.0, isolation_level=None, check_same_thread=False
            )
        try:
            self._prepare(synchronous)
            self._id = self._identity()
        except BaseException:  # nobody has the object yet who could close it
            self.close()
            raise

    def _prepare(self, synchronous: str) -> None:
        with self._errors():
            refuse_newer(self._connection, name=self._path.name)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute(f"PRAGMA synchronous={synchronous}")
            self._connection.execute("PRAGMA secure_delete=ON")

    def _identity(self) -> str:
        """The journal's own name, drawn once, never from a simulation's seed."""
        with self.transaction() as step:
            mark_version(self._connection, name=self._path.name)
            for statement in _SCHEMA.split(";"):
                self._connection.execute(statement)
            return step.identity(secrets.token_hex(16))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise Transient(
                "SHARE_JOURNAL_UNAVAILABLE",
                f"the share journal {self._path.name} cannot be read or written: {error}",
                "free disk space, then resume; nothing was sent",
            ) from error

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """One step; committed when the block ends, undone when it raises.

        Raises:
            Transient: SHARE_JOURNAL_UNAVAILABLE; nothing was changed.
        """
        with self._lock, self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield Transaction(self._connection)
                if self._before_commit is not None:
                    self._before_commit()
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def empty_log(self) -> None:
        """Move the log into the database, where what was erased is overwritten."""
        with self._lock, self._errors():
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._connection.close()

    def require_run(self, run_id: str) -> None:
        """Refuse a run that began with another journal than this one.

        Raises:
            Rejected: MASKING_JOURNAL_LOST.
        """
        if run_id in self._checked:
            return
        marker = self._path.parent / "runs" / f"{digest_of(run_id)}.masking"
        if not marker.is_file():
            write_atomically(marker, self._id.encode("ascii"))
        elif marker.read_text("ascii") != self._id:
            raise Rejected(
                "MASKING_JOURNAL_LOST",
                "this run began with a share journal that is gone: which shares were given "
                "cannot be known any more",
                "this site is out of the run; it can take part in a new one",
            )
        self._checked.add(run_id)

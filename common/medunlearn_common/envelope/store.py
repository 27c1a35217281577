"""What a party has sent and received, durably: replays, equivocation, locks.

A slot is (run, round, phase, direction, peer). In each slot a party says one thing: the first
header it accepted or signed. The same header again is a replay and gets the same answer;
another one is equivocation: both headers are kept with their signatures, which prove it to
anybody, and the slot's round is closed.

Sealing draws its nonce and its time once per slot and keeps them, so that a party which crashed
and computes the same content again sends the same bytes again, and cannot sign other ones.

Where the roster has changed since, the same content is addressed anew: with a higher sequence,
under the newest roster that this party has seen, and under no other. The slot then holds the
later header. As rosters never go back, neither does an address; and a slot has one content,
whatever its address.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from medunlearn_common.envelope.dsse import parse_signed
from medunlearn_common.envelope.header import Header, is_readdressed, says_the_same
from medunlearn_common.envelope.sealing import header_digest
from medunlearn_common.errors import Rejected, Transient
from medunlearn_common.sqlite_files import DurableDatabase, refuse_newer

_SCHEMA = """
CREATE TABLE IF NOT EXISTS received (
    run TEXT, round INTEGER, phase TEXT, direction TEXT, peer TEXT, sequence INTEGER NOT NULL,
    digest BLOB NOT NULL, proof BLOB NOT NULL,
    PRIMARY KEY (run, round, phase, direction, peer)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sent (
    run TEXT, round INTEGER, phase TEXT, direction TEXT, peer TEXT, header BLOB NOT NULL,
    PRIMARY KEY (run, round, phase, direction, peer)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counters (
    run TEXT, peer TEXT, way TEXT, last INTEGER NOT NULL, PRIMARY KEY (run, peer, way));
CREATE TABLE IF NOT EXISTS equivocations (
    position INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT, round INTEGER, phase TEXT,
    direction TEXT, peer TEXT, kept BLOB NOT NULL, other BLOB NOT NULL,
    UNIQUE (run, round, phase, direction, peer, other));
CREATE TABLE IF NOT EXISTS locks (
    run TEXT PRIMARY KEY, plan BLOB NOT NULL, coordinator TEXT NOT NULL, model BLOB NOT NULL,
    support BLOB NOT NULL, epsilon REAL NOT NULL, accepted INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS roster_seen (
    one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL, digest BLOB NOT NULL);
"""
_CODE = "ENVELOPE_STORE"
# Phases that release nothing: what a site says of itself may change, and the later word counts.
RESTATED = frozenset(("ready", "finish"))


@dataclass(frozen=True, kw_only=True)
class RunLock:
    """What a site holds on to for the whole of a run.

    Attributes:
        run: Name of the run.
        plan: Digest of the accepted plan.
        coordinator: Party id of the coordinator that came first.
        model: Digest of the base model that the site named; zero before.
        support: Digest of the run's support; zero before.
        epsilon: What the plan may spend in all; 0 where it claims no guarantee.
        accepted: Seconds since 1970.
    """

    run: str
    plan: bytes
    coordinator: str
    model: bytes
    support: bytes
    epsilon: float
    accepted: int


@dataclass(frozen=True, kw_only=True)
class Equivocation:
    """Two signed headers of one party for one slot."""

    run: str
    round: int
    phase: str
    peer: str
    kept: bytes
    other: bytes


class EnvelopeStore:
    """One party's record in SQLite, readable by its owner alone.

    Guarantees:
        * A slot is on disk before its first envelope is handed on or sent.
        * No two contents are ever accepted, or signed, for one slot (but for restated facts,
          where the sequence must grow), and no two headers under one roster.
        * What was said under one roster is said again only under a later one.
    """

    def __init__(self, path: Path, *, survives_power_cut: bool = True) -> None:
        self._database = DurableDatabase(
            path, code=_CODE, schema=_SCHEMA, survives_power_cut=survives_power_cut
        )

    def close(self) -> None:
        """Give the file back; the store cannot be used any more."""
        self._database.close()

    # -- receiving -----------------------------------------------------------------------

    def receive(self, *envelopes: tuple[Header, bytes]) -> list[Rejected | None]:
        """Take received headers with their proofs into the record, in one transaction.

        Returns:
            None for each that may be used (new, the very same as before, or that addressed
            anew), else why not: EQUIVOCATION, ROUND_ABORTED, SEQUENCE_STALE; ROSTER_MISMATCH if
            it is addressed anew under another roster than the newest one seen.

        Raises:
            Transient: ENVELOPE_STORE; then none may be used.
        """
        with self._database.transaction() as connection:
            return [_receive(connection, header, proof) for header, proof in envelopes]

    def equivocations(self) -> list[Equivocation]:
        """All evidence, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT run, round, phase, peer, kept, other FROM equivocations ORDER BY position"
            ).fetchall()
        return [Equivocation(run=r[0], round=r[1], phase=r[2], peer=r[3], kept=r[4], other=r[5])
                for r in rows]

    # -- sending -------------------------------------------------------------------------

    def assign(self, *drafts: Header, nonce: Callable[[Header], bytes]) -> list[Header]:
        """Final headers of drafts whose sequence and nonce are still open.

        A slot that was sealed before gives the header of then, if the content is the same; a
        new one, if the roster has changed since.

        Raises:
            Rejected: ANSWER_CHANGED if the content is another; nothing was assigned.
            Transient: ENVELOPE_STORE; ROSTER_MISMATCH if the draft is under another roster than
                the newest one seen.
        """
        with self._database.transaction() as connection:
            return [_assign(connection, draft, nonce) for draft in drafts]

    def was_answered(self, request: Header) -> bool:
        """Whether this request, or the same one before its roster changed, was answered before.

        A slot takes one content, so an answer that is in it, which no refusal is, was one to
        what this request asks.
        """
        slot = _slot(request, request.sender)
        with self._database.reading() as connection:
            held = connection.execute(
                "SELECT digest FROM received WHERE run = ? AND round = ? AND phase = ?"
                " AND direction = ? AND peer = ?", slot).fetchone()
            answered = connection.execute(
                "SELECT 1 FROM sent WHERE run = ? AND round = ? AND phase = ?"
                " AND direction = 'answer' AND peer = ?",
                (request.run, request.round, request.phase, request.sender),
            ).fetchone() is not None
        return answered and held is not None and bytes(held[0]) == header_digest(request)

    # -- locks ---------------------------------------------------------------------------

    def lock(self, lock: RunLock) -> RunLock:
        """Lock a run, or get the lock that is there.

        Raises:
            Rejected: RUN_COORDINATOR or RUN_PLAN if it is another's.
        """
        with self._database.transaction() as connection:
            held = _lock_of(connection, lock.run)
            if held is None:
                connection.execute(
                    "INSERT INTO locks VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (lock.run, lock.plan, lock.coordinator, lock.model, lock.support,
                     lock.epsilon, lock.accepted),
                )
                return lock
        require_lock(held, plan=lock.plan, coordinator=lock.coordinator)
        return held

    def lock_of(self, run: str) -> RunLock | None:
        """The run's lock, or None if its plan was never accepted here."""
        with self._database.reading() as connection:
            return _lock_of(connection, run)

    def locks(self) -> list[RunLock]:
        """Every run that was ever accepted."""
        with self._database.reading() as connection:
            return _locks(connection)

    def note(self, run: str, *, model: bytes | None = None, support: bytes | None = None) -> None:
        """Fill in what a lock learns later; a known support is never replaced."""
        with self._database.transaction() as connection:
            if model is not None:
                connection.execute("UPDATE locks SET model = ? WHERE run = ?", (model, run))
            if support is not None:
                connection.execute(
                    "UPDATE locks SET support = ? WHERE run = ? AND support = zeroblob(32)",
                    (support, run),
                )

    # -- roster --------------------------------------------------------------------------

    def see_roster(self, version: int, digest: bytes) -> None:
        """Remember the newest roster apart from its file.

        Raises:
            Rejected: ROSTER_ROLLBACK if an older file was put back, ROSTER_FORK.
        """
        with self._database.transaction() as connection:
            row = connection.execute("SELECT version, digest FROM roster_seen").fetchone()
            if row is None or row[0] < version:
                connection.execute(
                    "INSERT OR REPLACE INTO roster_seen VALUES (1, ?, ?)", (version, digest))
                return
        if row[0] > version:
            raise Rejected(
                "ROSTER_ROLLBACK",
                f"roster {version} ({digest.hex()[:12]}) lies where {row[0]} "
                f"({row[1].hex()[:12]}) was in force",
                "put the newer roster back",
            )
        if bytes(row[1]) != digest:
            raise Rejected("ROSTER_FORK", f"two rosters of version {version}: "
                           f"{digest.hex()[:12]} and {row[1].hex()[:12]}",
                           "ask the consortium which one it signed")


def read_locks(path: Path) -> list[RunLock]:
    """Every run that was ever accepted, of a store that is looked at and no more.

    Where there is none yet, or one without tables, it stays so; its owner may be at work. Beside
    a store that nobody has open SQLite leaves an empty ``-wal`` file and a ``-shm`` file.

    Raises:
        Transient: ENVELOPE_STORE.
        Misconfigured: STORE_NEWER.
    """
    try:
        if not path.exists():
            return []
        address = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=30.0)) as connection:
            refuse_newer(connection, name=path.name)
            made = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'locks'").fetchone()
            return _locks(connection) if made else []
    except (sqlite3.Error, OSError) as error:
        raise Transient(
            _CODE, f"{path.name} cannot be read: {error}", "mend its permissions, or make room on "
            "a full disk; never put an older copy in place (docs/backup.md)") from error


def require_lock(lock: RunLock, *, plan: bytes, coordinator: str) -> None:
    """Raises RUN_COORDINATOR or RUN_PLAN unless the lock is of this coordinator and plan."""
    if lock.coordinator != coordinator:
        raise Rejected("RUN_COORDINATOR", f"run {lock.run} is led by {lock.coordinator}, not by "
                       f"{coordinator}", "one run has one coordinator; start a new run")
    if lock.plan != plan:
        raise Rejected("RUN_PLAN", f"run {lock.run} has plan {lock.plan.hex()[:12]}, not "
                       f"{plan.hex()[:12]}", "one run has one plan; start a new run")


def _slot(header: Header, peer: str) -> tuple[str, int, str, str, str]:
    return header.run, header.round, header.phase, header.direction, peer


def _group(header: Header) -> str:
    """What is counted together: a coordinator that resumes says READY again before it repeats
    the older request that was under way."""
    if header.direction == "refusal":
        return "refusal"
    return "restated" if is_restated(header) else "release"


def is_restated(header: Header) -> bool:
    """Whether a phase releases nothing, so that its answer may be given anew."""
    return header.phase.split("/")[0] in RESTATED


def _receive(connection: sqlite3.Connection, header: Header, proof: bytes) -> Rejected | None:
    if header.direction == "refusal":  # says no number; it may be given again, or taken back
        return None
    slot, digest = _slot(header, header.sender), header_digest(header)
    if connection.execute(
        "SELECT 1 FROM equivocations WHERE run = ? AND round = ? AND peer = ?",
        (header.run, header.round, header.sender),
    ).fetchone():
        return Rejected("ROUND_ABORTED", f"{header.sender} said two things in round "
                        f"{header.round}; the round is closed to it", "start a new run")
    row = connection.execute(
        "SELECT digest, proof FROM received WHERE run = ? AND round = ? AND phase = ?"
        " AND direction = ? AND peer = ?", slot).fetchone()
    if row is not None and bytes(row[0]) == digest:
        return None
    may_change = is_restated(header) and header.direction == "answer"
    again = row is not None and not may_change
    if again and is_readdressed(_header_in(bytes(row[1])), header):
        if not _is_newest(connection, header.roster):
            return Rejected("ROSTER_MISMATCH", *_not_newest(header))
    elif again:
        connection.execute(
            "INSERT OR IGNORE INTO equivocations (run, round, phase, direction, peer, kept, other)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)", (*slot, row[1], proof))
        return Rejected("EQUIVOCATION", f"{header.sender} signed two different envelopes for "
                        f"{header.phase} of round {header.round}",
                        "both are kept as evidence; the round is aborted")
    counter = (header.run, header.sender, f"in {_group(header)}")
    last = _last(connection, counter)
    if header.sequence <= last:
        return Rejected("SEQUENCE_STALE", f"envelope {header.sequence} of {header.sender} comes "
                        f"after {last}", "a delayed or replayed message; nothing is lost")
    _count(connection, counter, header.sequence)
    connection.execute("INSERT OR REPLACE INTO received VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                       (*slot, header.sequence, digest, proof))
    return None


def _assign(
    connection: sqlite3.Connection, draft: Header, nonce: Callable[[Header], bytes]
) -> Header:
    slot = _slot(draft, draft.recipient)
    row = None
    if draft.direction != "refusal":
        row = connection.execute(
            "SELECT header FROM sent WHERE run = ? AND round = ? AND phase = ?"
            " AND direction = ? AND peer = ?", slot).fetchone()
    if row is not None:
        kept = Header.from_bytes(bytes(row[0]))
        if says_the_same(kept, draft):
            return kept
        if is_readdressed(kept, draft):
            if not _is_newest(connection, draft.roster):
                raise Transient("ROSTER_MISMATCH", *_not_newest(draft))
        elif not (is_restated(draft) and draft.direction == "answer"):
            raise Rejected("ANSWER_CHANGED", f"{draft.phase} of round {draft.round} was sealed "
                           "with another content before; nothing was sent",
                           "was an older checkpoint or store put in place, or another version "
                           "installed? put the newest back (docs/runbook.md); else start a new run")
    counter = (draft.run, draft.recipient, f"out {_group(draft)}")
    sequence = _last(connection, counter) + 1
    _count(connection, counter, sequence)
    header = replace(draft, sequence=sequence)
    header = replace(header, nonce=nonce(header))
    if draft.direction != "refusal":
        connection.execute("INSERT OR REPLACE INTO sent VALUES (?, ?, ?, ?, ?, ?)",
                           (*slot, header.to_bytes()))
    return header


def _header_in(proof: bytes) -> Header:
    """Of a signed header that was verified before it was kept."""
    return Header.from_bytes(parse_signed(proof).payload)


def _is_newest(connection: sqlite3.Connection, roster: bytes) -> bool:
    row = connection.execute("SELECT digest FROM roster_seen").fetchone()
    return row is not None and bytes(row[0]) == roster


def _not_newest(header: Header) -> tuple[str, str]:
    """Message and hint: whoever is behind, or ahead, follows with the next greeting."""
    return (f"{header.phase} of round {header.round} is addressed anew under roster "
            f"{header.roster.hex()[:12]}, which is not the newest one here",
            "bring the newest roster to every party; it is asked again by itself")


def _last(connection: sqlite3.Connection, counter: tuple[str, str, str]) -> int:
    row = connection.execute(
        "SELECT last FROM counters WHERE run = ? AND peer = ? AND way = ?", counter).fetchone()
    return int(row[0]) if row else 0


def _count(connection: sqlite3.Connection, counter: tuple[str, str, str], last: int) -> None:
    connection.execute("INSERT OR REPLACE INTO counters VALUES (?, ?, ?, ?)", (*counter, last))


def _locks(connection: sqlite3.Connection) -> list[RunLock]:
    rows = connection.execute("SELECT * FROM locks ORDER BY accepted, run").fetchall()
    return [_to_lock(row) for row in rows]


def _lock_of(connection: sqlite3.Connection, run: str) -> RunLock | None:
    row = connection.execute("SELECT * FROM locks WHERE run = ?", (run,)).fetchone()
    return _to_lock(row) if row else None


def _to_lock(row: tuple[str, bytes, str, bytes, bytes, float, int]) -> RunLock:
    return RunLock(run=row[0], plan=bytes(row[1]), coordinator=row[2], model=bytes(row[3]),
                   support=bytes(row[4]), epsilon=row[5], accepted=row[6])

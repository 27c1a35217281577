"""The ledger's file: tables that are only added to, each entry chained to the one before.

``releases`` and ``runs`` are append-only; triggers refuse anything else. Every entry carries
SHA-256 over itself and the entry before it, so that a flipped bit or a lost row is found
before it is trusted. ``answers`` keeps what was sent, for as long as it may be asked again.
"""

from __future__ import annotations

import hashlib
import sqlite3
from typing import Any, get_args

from medunlearn_common.accounting import Mechanism
from medunlearn_common.digests import canonical_json
from medunlearn_common.errors import Misconfigured, Transient
from medunlearn_common.ledger.spending import Budget, Charge, Unit
from medunlearn_common.sqlite_files import version_of

LEDGER_FILE = "ledger.db"
SCHEMA_VERSION = version_of(LEDGER_FILE)
_CREATE = """
CREATE TABLE IF NOT EXISTS runs (
    run_id TEXT PRIMARY KEY, unit TEXT NOT NULL, epsilon REAL, delta REAL) STRICT;
CREATE TABLE IF NOT EXISTS releases (
    position INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL, release TEXT NOT NULL, request_digest TEXT NOT NULL,
    sigma REAL NOT NULL, forget_rate REAL NOT NULL, retain_rate REAL NOT NULL,
    count INTEGER NOT NULL, unit TEXT NOT NULL, chain TEXT NOT NULL,
    UNIQUE (run_id, release)) STRICT;
CREATE TABLE IF NOT EXISTS answers (
    run_id TEXT NOT NULL, release TEXT NOT NULL, digest TEXT NOT NULL, answer BLOB,
    PRIMARY KEY (run_id, release)) STRICT;
CREATE TRIGGER IF NOT EXISTS releases_stay BEFORE DELETE ON releases
    BEGIN SELECT RAISE(ABORT, 'charges are never deleted'); END;
CREATE TRIGGER IF NOT EXISTS releases_stand BEFORE UPDATE ON releases
    BEGIN SELECT RAISE(ABORT, 'charges are never changed'); END;
CREATE TRIGGER IF NOT EXISTS runs_stay BEFORE DELETE ON runs
    BEGIN SELECT RAISE(ABORT, 'runs are never deleted'); END;
CREATE TRIGGER IF NOT EXISTS runs_stand BEFORE UPDATE ON runs
    BEGIN SELECT RAISE(ABORT, 'runs are never changed'); END;
CREATE TRIGGER IF NOT EXISTS answers_stay BEFORE DELETE ON answers
    BEGIN SELECT RAISE(ABORT, 'answers are forgotten, not deleted'); END;
"""
_COLUMNS = (
    "position, run_id, release, request_digest, sigma, forget_rate, retain_rate, count, unit,"
    " chain"
)


def prepare(connection: sqlite3.Connection) -> None:
    """Make the tables where they are missing; refuse a file of another version.

    Raises:
        Misconfigured: LEDGER_VERSION.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    tables = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
    if version != SCHEMA_VERSION and tables:
        raise Misconfigured(
            "LEDGER_VERSION", f"the privacy ledger has version {version}, this is version "
            f"{SCHEMA_VERSION}", "use the medunlearn version that wrote it; never start it anew: "
            "what was spent stays spent",
        )
    if version != SCHEMA_VERSION:
        # All or nothing: tables without a version would be taken for another version's.
        connection.executescript(
            f"BEGIN IMMEDIATE; {_CREATE} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )


def read_charges(connection: sqlite3.Connection) -> list[Charge]:
    """All charges in order, the chain followed.

    Raises:
        Transient: LEDGER_DAMAGED at the first entry that is not what was written.
    """
    charges: list[Charge] = []
    chain = ""
    rows = connection.execute(f"SELECT {_COLUMNS} FROM releases ORDER BY position")
    for place, (position, *values, kept) in enumerate(rows, start=1):
        chain = _linked(chain, [position, *values])
        if position != place or kept != chain:
            raise damaged(f"entry {place}")
        charges.append(_charge(values))
    return charges


def append_charge(connection: sqlite3.Connection, charge: Charge) -> None:
    """Add one charge after the last."""
    last = connection.execute(
        "SELECT position, chain FROM releases ORDER BY position DESC LIMIT 1"
    ).fetchone()
    position, chain = (last[0] + 1, last[1]) if last is not None else (1, "")
    m = charge.mechanism
    values = [
        charge.run_id, charge.release, charge.request_digest, float(m.sigma),
        float(m.forget_rate), float(m.retain_rate), int(m.count), charge.unit,
    ]
    connection.execute(
        f"INSERT INTO releases ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (position, *values, _linked(chain, [position, *values])),
    )


def read_run(connection: sqlite3.Connection, run_id: str) -> tuple[Unit, Budget | None] | None:
    """Unit and budget with which a run began to charge, or None if it has not."""
    row = connection.execute(
        "SELECT unit, epsilon, delta FROM runs WHERE run_id = ?", (run_id,)
    ).fetchone()
    if row is None:
        return None
    unit, epsilon, delta = row
    if unit not in get_args(Unit) or (epsilon is None) != (delta is None):
        raise damaged("a run's budget")
    return unit, None if epsilon is None else Budget(epsilon=epsilon, delta=delta)


def append_run(
    connection: sqlite3.Connection, run_id: str, unit: Unit, budget: Budget | None
) -> None:
    """Keep with which unit and budget a run begins."""
    connection.execute(
        "INSERT INTO runs (run_id, unit, epsilon, delta) VALUES (?, ?, ?, ?)",
        (run_id, unit, budget.epsilon if budget else None, budget.delta if budget else None),
    )


def answer_digest(answer: bytes) -> str:
    """SHA-256 (hex) of an answer's bytes."""
    return hashlib.sha256(answer).hexdigest()


def damaged(what: str) -> Transient:
    """The error for a file that SQLite can read and that is nevertheless wrong."""
    return Transient(
        "LEDGER_DAMAGED", f"the privacy ledger is not what was written: {what}",
        "keep the file as evidence and look for its newest copy (the disk, a snapshot): "
        "docs/backup.md, 'History is missing'. Never put an older copy in place: it forgets what "
        "was spent. Until then nothing is released",
    )


def _linked(chain: str, values: list[Any]) -> str:
    return hashlib.sha256(chain.encode("utf-8") + canonical_json(values)).hexdigest()


def _charge(values: list[Any]) -> Charge:
    run_id, release, request_digest, sigma, forget_rate, retain_rate, count, unit = values
    return Charge(
        run_id=run_id, release=release, request_digest=request_digest, unit=unit,
        mechanism=Mechanism(
            sigma=sigma, forget_rate=forget_rate, retain_rate=retain_rate, count=count
        ),
    )

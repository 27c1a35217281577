"""The privacy ledger of one hospital: every release is charged durably before it leaves.

Also keeps the last answer given for each release, so that a coordinator which lost it gets
the same bytes again: a repeated question costs no privacy, and a different question for the
same release is refused.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from medunlearn_common.accounting import Mechanism, epsilon_of
from medunlearn_common.errors import BudgetExceeded, Rejected, Transient

_SCHEMA = """
CREATE TABLE IF NOT EXISTS releases (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL, release TEXT NOT NULL, request_digest TEXT NOT NULL,
    sigma REAL NOT NULL, forget_rate REAL NOT NULL, retain_rate REAL NOT NULL,
    count INTEGER NOT NULL, answered INTEGER NOT NULL DEFAULT 0, answer BLOB,
    UNIQUE (run_id, release));
"""
# A budget is compared with the accountant's upper bound, which its own mesh rounds up.
_TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Most that one run may spend: epsilon at delta, per unit."""

    epsilon: float
    delta: float


class PrivacyLedger:
    """Append-only record of what a hospital released, in SQLite.

    Guarantees:
        * A charge is on disk (``synchronous=EXTRA``) before :meth:`charge` returns.
        * No charge is accepted that takes the run's epsilon over its budget.
        * One release name is charged once per run, and only one answer to it ever leaves.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._transaction() as connection:
            connection.executescript(_SCHEMA)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self._path, timeout=30.0)) as connection:
                connection.execute("PRAGMA journal_mode=DELETE")
                connection.execute("PRAGMA synchronous=EXTRA")
                with connection:
                    yield connection
        except sqlite3.Error as error:
            raise Transient(
                "LEDGER_UNAVAILABLE",
                f"the privacy ledger {self._path.name} cannot be read or written: {error}",
                "free disk space or restore the file from its backup, then resume; "
                "nothing was released",
            ) from error

    def charge(
        self, *, run_id: str, release: str, request_digest: str,
        mechanism: Mechanism, budget: Budget | None,
    ) -> None:
        """Charge one release, once; charging it again with the same request is free.

        Args:
            run_id: The run.
            release: Name of the release, for example ``round-3``.
            request_digest: Digest of the coordinator's request.
            mechanism: What is released; ``count`` is the number of noised steps in it.
            budget: The run's budget; None where the plan adds no noise and so claims none.

        Raises:
            BudgetExceeded: PRIVACY_BUDGET; nothing was charged.
            Rejected: REQUEST_CHANGED if the release was charged for another request.
            Transient: LEDGER_UNAVAILABLE.
        """
        with self._transaction() as connection:
            connection.execute("BEGIN IMMEDIATE")
            if self._already_charged(connection, run_id, release, request_digest):
                return
            if budget is not None:
                spent = (*_mechanisms(connection, run_id), mechanism)
                _refuse_over_budget(spent, budget, release)
            connection.execute(
                "INSERT INTO releases (run_id, release, request_digest, sigma, forget_rate,"
                " retain_rate, count) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (run_id, release, request_digest, mechanism.sigma,
                 mechanism.forget_rate, mechanism.retain_rate, mechanism.count),
            )

    @staticmethod
    def _already_charged(
        connection: sqlite3.Connection, run_id: str, release: str, request_digest: str
    ) -> bool:
        row = connection.execute(
            "SELECT request_digest FROM releases WHERE run_id = ? AND release = ?",
            (run_id, release),
        ).fetchone()
        if row is not None and row[0] != request_digest:
            raise Rejected(
                "REQUEST_CHANGED",
                f"{release} was already answered for another request",
                "resume the run from its own checkpoint, or start a new run",
            )
        return row is not None

    def remember_answer(self, *, run_id: str, release: str, answer: bytes) -> bytes:
        """Keep the answer to a charged release, and forget those of earlier releases.

        Returns:
            The answer that may leave: ``answer``, or the one kept before it. Two requests
            that raced each other have drawn different noise; only the first may be sent.

        Raises:
            Rejected: RELEASE_CLOSED as :meth:`answer_given`.
        """
        with self._transaction() as connection:
            connection.execute("BEGIN IMMEDIATE")
            kept = _kept_answer(connection, run_id, release)
            if kept is not None:
                return kept
            connection.execute(
                "UPDATE releases SET answer = NULL WHERE run_id = ? AND release <> ?",
                (run_id, release),
            )
            connection.execute(
                "UPDATE releases SET answer = ?, answered = 1 WHERE run_id = ? AND release = ?",
                (answer, run_id, release),
            )
        return answer

    def answer_given(self, *, run_id: str, release: str, request_digest: str) -> bytes | None:
        """The answer already given to this very request, or None if none was.

        Raises:
            Rejected: REQUEST_CHANGED if the release was charged for another request;
                RELEASE_CLOSED if it was answered and a later release has replaced the kept
                answer: answering anew would draw fresh noise for the same sum, and an
                average over such answers would have less noise than was charged for.
        """
        with self._transaction() as connection:
            if not self._already_charged(connection, run_id, release, request_digest):
                return None
            return _kept_answer(connection, run_id, release)

    def epsilon(self, *, run_id: str, delta: float) -> float:
        """Epsilon that the run has spent so far at this hospital."""
        with self._transaction() as connection:
            return epsilon_of(_mechanisms(connection, run_id), delta=delta)

    def releases(self, *, run_id: str) -> int:
        """Number of releases charged to the run."""
        with self._transaction() as connection:
            row = connection.execute(
                "SELECT COUNT(*) FROM releases WHERE run_id = ?", (run_id,)
            ).fetchone()
        return int(row[0])


def _kept_answer(
    connection: sqlite3.Connection, run_id: str, release: str
) -> bytes | None:
    """The kept answer; None if the release was never answered; see ``answer_given``."""
    row = connection.execute(
        "SELECT answered, answer FROM releases WHERE run_id = ? AND release = ?",
        (run_id, release),
    ).fetchone()
    if row is None or not row[0]:
        return None
    if row[1] is None:
        raise Rejected(
            "RELEASE_CLOSED",
            f"{release} was answered, and a later release has been answered since",
            "resume the run from its last checkpoint",
        )
    return bytes(row[1])


def _mechanisms(connection: sqlite3.Connection, run_id: str) -> tuple[Mechanism, ...]:
    rows = connection.execute(
        "SELECT sigma, forget_rate, retain_rate, SUM(count) FROM releases WHERE run_id = ?"
        " GROUP BY sigma, forget_rate, retain_rate ORDER BY sigma, forget_rate, retain_rate",
        (run_id,),
    )
    return tuple(
        Mechanism(sigma=row[0], forget_rate=row[1], retain_rate=row[2], count=row[3])
        for row in rows
    )


def _refuse_over_budget(spent: tuple[Mechanism, ...], budget: Budget, release: str) -> None:
    merged: dict[tuple[float, float, float], int] = {}
    for m in spent:
        key = (m.sigma, m.forget_rate, m.retain_rate)
        merged[key] = merged.get(key, 0) + m.count
    mechanisms = tuple(
        Mechanism(sigma=s, forget_rate=f, retain_rate=r, count=n)
        for (s, f, r), n in sorted(merged.items())
    )
    epsilon = epsilon_of(mechanisms, delta=budget.delta)
    if epsilon > budget.epsilon + _TOLERANCE:
        raise BudgetExceeded(
            "PRIVACY_BUDGET",
            f"{release} would raise epsilon to {epsilon:.3f}, over the budget "
            f"{budget.epsilon:g} at delta {budget.delta:g}",
            "stop here and publish what there is, or agree on a plan with a larger budget",
        )

"""Charge first, release after: the ledger as a hospital uses it.

Also keeps the last answer given for each release, so that a coordinator which lost it gets
the same bytes again: a repeated question costs no privacy, and a different question for the
same release is refused.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from medunlearn_common.accounting import Mechanism, epsilon_of
from medunlearn_common.errors import Misconfigured, Rejected, Transient
from medunlearn_common.ledger import schema
from medunlearn_common.ledger.spending import (
    Accountant,
    Budget,
    Charge,
    SiteBudget,
    Unit,
    cumulative_epsilon,
    refuse_over_run_budget,
    refuse_over_site_budget,
    run_epsilon,
)
from medunlearn_common.sqlite_files import refuse_newer


def _prv(mechanisms: tuple[Mechanism, ...], delta: float) -> float:
    return epsilon_of(mechanisms, delta=delta)


@dataclass(frozen=True, kw_only=True)
class RunSpending:
    """What one run spent here.

    Attributes:
        run_id: The run.
        unit: Whom its noise protects.
        budget: With which it began; None for a plan without noise.
        charges: In the order in which they were charged.
    """

    run_id: str
    unit: Unit
    budget: Budget | None
    charges: tuple[Charge, ...]


class PrivacyLedger:
    """Append-only record of what a hospital released, in SQLite.

    Guarantees:
        * A charge is on disk (``synchronous=EXTRA``) before :meth:`charge` returns.
        * No charge is accepted that takes the run's epsilon over its budget, or the epsilon
          of all runs together over the site's own. A charge is never taken back, also when
          its round is aborted.
        * One release name is charged once per run, and only one answer to it ever leaves.
        * A run's unit and budget stay those of its first charge.
        * An entry that was changed, dropped or reordered stops every later release.
        * The file is its owner's alone, and an answer that was forgotten is overwritten in it.
    """

    def __init__(
        self, path: Path, *, site_budget: SiteBudget | None = None,
        accountant: Accountant = _prv,
    ) -> None:
        """Open or create the ledger.

        Args:
            path: The file.
            site_budget: What all runs together may spend; None leaves that to each run.
            accountant: Epsilon of mechanisms at a delta.

        Raises:
            Transient: LEDGER_UNAVAILABLE.
            Misconfigured: STORE_NEWER; LEDGER_VERSION if it is of another version otherwise.
        """
        self._path = path
        self._site_budget = site_budget
        self._accountant = accountant
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():  # SQLite would take the umask's mode
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        with self._transaction() as connection:
            schema.prepare(connection)

    @classmethod
    def existing(cls, path: Path) -> PrivacyLedger:
        """Open a ledger that is there.

        Raises:
            Misconfigured: LEDGER_MISSING; nothing is created.
        """
        if not path.is_file():
            raise Misconfigured(
                "LEDGER_MISSING", f"there is no privacy ledger at {path}",
                "name a hospital's folder or its ledger.db; a hospital that never released "
                "anything has none yet, a simulated run has one below sites/ for each",
            )
        return cls(path)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._errors(), closing(sqlite3.connect(self._path, timeout=30.0)) as connection:
            refuse_newer(connection, name=schema.LEDGER_FILE)  # whatever it is called here
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute("PRAGMA synchronous=EXTRA")
            connection.execute("PRAGMA secure_delete=ON")  # some builds of SQLite have it off
            with connection:
                yield connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, UnicodeError, OverflowError) as error:
            raise Transient(
                "LEDGER_UNAVAILABLE",
                f"the privacy ledger {self._path.name} cannot be read or written: {error}",
                "free disk space or mend the file's permissions; nothing was released. A damaged "
                "file is kept as evidence and never replaced by an older copy, which forgets what "
                "was spent: docs/backup.md, 'History is missing'",
            ) from error

    def charge(
        self, *, run_id: str, release: str, request_digest: str,
        mechanism: Mechanism, budget: Budget | None, unit: Unit = "record",
    ) -> None:
        """Charge one release, once; charging it again with the same request is free.

        Args:
            run_id: The run.
            release: Name of the release, for example ``round-3``.
            request_digest: Digest of the coordinator's request.
            mechanism: What is released; ``count`` is the number of noised steps in it.
            budget: The run's budget; None where the plan adds no noise and so claims none.
            unit: Whom the noise protects.

        Raises:
            BudgetExceeded: PRIVACY_BUDGET or PRIVACY_SITE_BUDGET; nothing was charged.
            Rejected: REQUEST_CHANGED if the release was charged for another request;
                BUDGET_CHANGED if the run began with another unit or budget.
            Transient: LEDGER_UNAVAILABLE or LEDGER_DAMAGED.
        """
        if budget is None:
            mechanism = Mechanism(
                sigma=0.0, forget_rate=mechanism.forget_rate,
                retain_rate=mechanism.retain_rate, count=mechanism.count,
            )
        charge = Charge(
            run_id=run_id, release=release, request_digest=request_digest,
            mechanism=mechanism, unit=unit,
        )
        with self._transaction() as connection:
            connection.execute("BEGIN IMMEDIATE")
            charges = schema.read_charges(connection)
            if _already_charged(charges, run_id, release, request_digest):
                return
            known = _same_terms(connection, run_id, unit, budget)
            self._refuse_overspending([*charges, charge], budget)
            if not known:
                schema.append_run(connection, run_id, unit, budget)
            schema.append_charge(connection, charge)

    def _refuse_overspending(self, charges: list[Charge], budget: Budget | None) -> None:
        if budget is not None:
            own = [charge for charge in charges if charge.run_id == charges[-1].run_id]
            refuse_over_run_budget(own, budget, self._accountant)
        if self._site_budget is not None:
            refuse_over_site_budget(charges, self._site_budget, self._accountant)

    def remember_answer(self, *, run_id: str, release: str, answer: bytes) -> bytes:
        """Keep the answer to a charged release, and forget those of earlier releases.

        Returns:
            The answer that may leave: ``answer``, or the one kept before it. Two requests
            that raced each other have drawn different noise; only the first may be sent.

        Raises:
            Rejected: RELEASE_UNCHARGED if it was never charged; RELEASE_CLOSED as
                :meth:`answer_given`.
        """
        with self._transaction() as connection:
            connection.execute("BEGIN IMMEDIATE")
            charges = schema.read_charges(connection)
            if not any((c.run_id, c.release) == (run_id, release) for c in charges):
                raise Rejected(
                    "RELEASE_UNCHARGED", f"{release} was never charged", "report this defect"
                )
            kept = _kept_answer(connection, run_id, release)
            if kept is not None:
                return kept
            connection.execute(
                "UPDATE answers SET answer = NULL WHERE run_id = ?", (run_id,)
            )
            connection.execute(
                "INSERT INTO answers (run_id, release, digest, answer) VALUES (?, ?, ?, ?)",
                (run_id, release, schema.answer_digest(answer), answer),
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
            charges = schema.read_charges(connection)
            if not _already_charged(charges, run_id, release, request_digest):
                return None
            return _kept_answer(connection, run_id, release)

    def epsilon(self, *, run_id: str, delta: float) -> float:
        """Epsilon that the run has spent so far at this hospital; infinite without noise."""
        with self._transaction() as connection:
            charges = schema.read_charges(connection)
        own = [charge for charge in charges if charge.run_id == run_id]
        return run_epsilon(own, delta=delta, accountant=self._accountant)

    def cumulative_epsilon(self, *, unit: Unit, delta: float) -> float:
        """Epsilon of all runs together for ``unit``; infinite where nothing bounds it."""
        with self._transaction() as connection:
            charges = schema.read_charges(connection)
        return cumulative_epsilon(charges, unit=unit, delta=delta, accountant=self._accountant)

    def releases(self, *, run_id: str) -> int:
        """Number of releases charged to the run."""
        with self._transaction() as connection:
            return sum(c.run_id == run_id for c in schema.read_charges(connection))

    def runs(self) -> tuple[RunSpending, ...]:
        """Every run with its charges, in the order of their first charge.

        Raises:
            Transient: LEDGER_UNAVAILABLE or LEDGER_DAMAGED.
        """
        with self._transaction() as connection:
            charges = schema.read_charges(connection)
            found = []
            for run_id in dict.fromkeys(charge.run_id for charge in charges):
                terms = schema.read_run(connection, run_id)
                if terms is None:
                    raise schema.damaged("a run's budget is gone")
                found.append(RunSpending(
                    run_id=run_id, unit=terms[0], budget=terms[1],
                    charges=tuple(c for c in charges if c.run_id == run_id),
                ))
        return tuple(found)


def _same_terms(
    connection: sqlite3.Connection, run_id: str, unit: Unit, budget: Budget | None
) -> bool:
    """Whether the run charged before; refuses it if it did so under other terms."""
    terms = schema.read_run(connection, run_id)
    if terms is not None and terms != (unit, budget):
        raise Rejected(
            "BUDGET_CHANGED", "the run began with another unit or budget at this site",
            "a larger budget is another plan: start a new run",
        )
    return terms is not None


def _already_charged(
    charges: list[Charge], run_id: str, release: str, request_digest: str
) -> bool:
    for charge in charges:
        if (charge.run_id, charge.release) != (run_id, release):
            continue
        if charge.request_digest != request_digest:
            raise Rejected(
                "REQUEST_CHANGED",
                f"{release} was already answered for another request",
                "resume the run from its own checkpoint, or start a new run",
            )
        return True
    return False


def _kept_answer(
    connection: sqlite3.Connection, run_id: str, release: str
) -> bytes | None:
    """The kept answer; None if the release was never answered; see ``answer_given``."""
    row = connection.execute(
        "SELECT digest, answer FROM answers WHERE run_id = ? AND release = ?",
        (run_id, release),
    ).fetchone()
    if row is None:
        return None
    if row[1] is None:
        raise Rejected(
            "RELEASE_CLOSED",
            f"{release} was answered, and a later release has been answered since",
            "resume the run from its last checkpoint",
        )
    answer = bytes(row[1])
    if schema.answer_digest(answer) != row[0]:
        raise schema.damaged(f"the kept answer of {release}")
    return answer

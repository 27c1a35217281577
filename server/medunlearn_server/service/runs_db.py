"""The durable registry of runs: what was launched, where it stands, how often it was started.

Rules (anything else is RUN_STATE, and nothing changes):
1. ``launch`` makes a run ``pending``; its folder and plan exist by then.
2. pending -> running when a Flower run was started for it; running -> running when that died
   and another one was started: the same run, one more start.
3. pending, running -> paused; paused, failed -> pending again (resume).
4. pending, running, paused, failed -> stopped, for good.
5. running -> finished or failed, by what the run itself left in its folder.
6. finished -> pending only to be published, and back to finished whatever comes of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from medunlearn_common.errors import Misconfigured, Transient
from medunlearn_common.sqlite_files import DurableDatabase

RunState = Literal["pending", "running", "paused", "stopped", "finished", "failed"]
RunMode = Literal["unlearn", "publish"]
RUN_STATES: tuple[RunState, ...] = get_args(RunState)

_NEXT: dict[RunState, tuple[RunState, ...]] = {
    "pending": ("running", "paused", "stopped", "failed"),
    "running": ("running", "paused", "stopped", "finished", "failed"),
    "paused": ("pending", "stopped"),
    "failed": ("pending", "stopped"),
    "stopped": (),
    "finished": (),
}
_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    run_id TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    mode TEXT NOT NULL DEFAULT 'unlearn',
    plan_digest TEXT NOT NULL,
    flower_run_id TEXT NOT NULL DEFAULT '',
    created REAL NOT NULL,
    updated REAL NOT NULL,
    failure_code TEXT NOT NULL DEFAULT '',
    starts INTEGER NOT NULL DEFAULT 0
) STRICT
"""
_COLUMNS = ("run_id, state, plan_digest, flower_run_id, created, updated, failure_code, starts, "
            "mode")


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One run.

    Attributes:
        run_id: Its name at every party.
        state: Where it stands.
        plan_digest: Of the plan that all parties share.
        flower_run_id: Of the Flower run that carries it now, or carried it last; may be empty.
        created: When it was launched, seconds since 1970.
        updated: When its row last changed, seconds since 1970.
        failure_code: Why it failed, or why its last Flower run ended early; may be empty.
        starts: How many Flower runs were started for it.
        mode: What the Flower run is for.
    """

    run_id: str
    state: RunState
    plan_digest: str
    flower_run_id: str
    created: float
    updated: float
    failure_code: str
    starts: int
    mode: RunMode = "unlearn"

    @property
    def shown_state(self) -> RunState:
        """For people: a run that is being published has finished, whatever carries that."""
        return "finished" if self.mode == "publish" else self.state


class RunsDb:
    """The registry; several processes may open it, one service writes what runs."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Open or create.

        Raises:
            Transient: RUNS_DB if the file cannot be read or written.
        """
        self._clock = clock
        self._database = DurableDatabase(path, code="RUNS_DB", schema=_SCHEMA)

    def list(self) -> tuple[RunRow, ...]:
        """All runs, the oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM runs ORDER BY created, run_id"
            ).fetchall()
        return tuple(_row(row) for row in rows)

    @contextmanager
    def held_still(self) -> Iterator[tuple[RunRow, ...]]:
        """All runs, none of which changes until the block ends, and no new one is added.

        Whoever wants to change one waits: hold it for moments only.

        Raises:
            Transient: RUNS_DB; WRITE_FAILED where a file of the block's could not be written, which
                is not the registry's fault.
        """
        failure: OSError | None = None
        with self._database.transaction():
            try:
                yield self.list()
            except OSError as error:
                failure = error
        if failure is not None:
            raise Transient("WRITE_FAILED", f"{failure.filename}: {failure.strerror}",
                            "mend its permissions or free disk space, and give the command again: "
                            "what was done of it stays, and is finished then") from failure

    def get(self, run_id: str) -> RunRow:
        """One run.

        Raises:
            Misconfigured: RUN_UNKNOWN.
        """
        with self._database.reading() as connection:
            found = connection.execute(
                f"SELECT {_COLUMNS} FROM runs WHERE run_id = ?", (run_id,)
            ).fetchone()
        if found is None:
            raise Misconfigured("RUN_UNKNOWN", f"there is no run {run_id[:80]!a}",
                                "`medunlearn coordinator runs` lists them")
        return _row(found)

    def add(self, run_id: str, *, plan_digest: str) -> RunRow:
        """Rule 1; the same run again is the same row.

        Raises:
            Misconfigured: RUN_EXISTS if it has another plan.
        """
        now = self._clock()
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO runs (run_id, state, plan_digest, created, updated) "
                "VALUES (?, 'pending', ?, ?, ?) ON CONFLICT DO NOTHING",
                (run_id, plan_digest, now, now),
            )
        row = self.get(run_id)
        if row.plan_digest != plan_digest:
            raise Misconfigured("RUN_EXISTS", f"run {run_id} exists with another plan",
                                "launch it under another name")
        return row

    def count_start(self, run_id: str) -> RunRow:
        """Rule 2, before a Flower run is started: its number is the row's ``starts``.

        Raises:
            Misconfigured: RUN_UNKNOWN, RUN_STATE.
        """
        with self._database.transaction() as connection:
            self._require(self.get(run_id), "running")
            connection.execute(
                "UPDATE runs SET state = 'running', starts = starts + 1, flower_run_id = '', "
                "updated = ? WHERE run_id = ?", (self._clock(), run_id),
            )
        return self.get(run_id)

    def carried_by(self, run_id: str, flower_run_id: str) -> RunRow:
        """Note which Flower run the last start got; raises RUN_UNKNOWN."""
        return self._set(run_id, "flower_run_id", flower_run_id)

    def note(self, run_id: str, *, failure_code: str) -> RunRow:
        """Note why the last Flower run ended early; the state stays. Raises RUN_UNKNOWN."""
        return self._set(run_id, "failure_code", failure_code)

    def move(self, run_id: str, state: RunState, *, failure_code: str = "") -> RunRow:
        """Rules 3 to 6; a run that is in ``state`` already stays as it is.

        Args:
            run_id: The run.
            state: Where it goes; ``running`` is :meth:`count_start`'s.
            failure_code: Why.

        Raises:
            Misconfigured: RUN_UNKNOWN, RUN_STATE.
        """
        with self._database.transaction() as connection:
            row = self.get(run_id)
            if row.state == state:
                return row
            self._require(row, state)
            connection.execute(
                "UPDATE runs SET state = ?, updated = ?, failure_code = ? WHERE run_id = ?",
                (state, self._clock(), failure_code, run_id),
            )
        return self.get(run_id)

    def publish(self, run_id: str) -> RunRow:
        """Rule 6: a finished run waits for a Flower run that carries its adapter out.

        Raises:
            Misconfigured: RUN_UNKNOWN, RUN_STATE if it has not finished.
        """
        with self._database.transaction() as connection:
            self.require_finished(run_id)
            connection.execute(
                "UPDATE runs SET state = 'pending', mode = 'publish', updated = ?, "
                "failure_code = '' WHERE run_id = ?", (self._clock(), run_id),
            )
        return self.get(run_id)

    def require_finished(self, run_id: str) -> RunRow:
        """A run that can be published now.

        Raises:
            Misconfigured: RUN_UNKNOWN, RUN_STATE.
        """
        row = self.get(run_id)
        if row.mode == "publish" and row.state != "finished":
            raise Misconfigured("RUN_STATE", f"run {run_id} is being published already",
                                f"medunlearn coordinator publish {run_id} --show says who has it")
        if row.state == "finished":
            return row
        raise Misconfigured(
            "RUN_STATE", f"run {run_id} is {row.state}, not finished: it has no adapter",
            "it cannot be published; launch its plan again" if row.state == "stopped"
            else "`medunlearn coordinator status` says how far it is")

    def close(self) -> None:
        """Give the file back."""
        self._database.close()

    def _set(self, run_id: str, column: Literal["flower_run_id", "failure_code"], value: str
             ) -> RunRow:
        with self._database.transaction() as connection:
            self.get(run_id)
            connection.execute(
                f"UPDATE runs SET {column} = ?, updated = ? WHERE run_id = ?",
                (value, self._clock(), run_id),
            )
        return self.get(run_id)

    @staticmethod
    def _require(row: RunRow, state: RunState) -> None:
        if state not in _allowed(row):
            raise Misconfigured(
                "RUN_STATE", f"run {row.run_id} is {row.state} and cannot become {state}",
                "`medunlearn coordinator status` says what can be done with it",
            )


def _allowed(row: RunRow) -> tuple[RunState, ...]:
    if row.mode == "publish" and row.state in ("pending", "running"):
        return ("running", "finished")  # it stays a finished run
    return _NEXT[row.state]


def _row(values: tuple[object, ...]) -> RunRow:
    names = [name.strip() for name in _COLUMNS.split(",")]
    return RunRow(**dict(zip(names, values, strict=True)))  # type: ignore[arg-type]

"""Carries runs on, one at a time, from launch to their end, whatever dies in between.

A run is carried by a Flower run, which dies with its ServerApp, with the SuperLink and with the
machine. Its state does not: it lies in the run's folder, written before anybody is told. So the
conductor starts another Flower run for the same run, and that goes on from the last round.

Guarantees:
    * At most one attempt of a run is current: each has a number, counted durably before it is
      started, and an attempt with another number does nothing.
    * A run ends only by what it said itself in its folder (finished, refused) or by its
      operator; a process that died without a word is started again.
    * A finished run stays finished, whatever comes of its publication.
    * An operator's word that cannot be read ends its own run only.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from medunlearn_common.errors import MedunlearnError
from medunlearn_common.log_fields import event
from medunlearn_server.directives import (
    COORDINATOR_LEAVES,
    DIRECTIVE_INVALID,
    RUN_PAUSED,
    RUN_STOPPED,
    ShownDirective,
    shown_directive,
    write_directive,
)
from medunlearn_server.jobs import Ending, Job
from medunlearn_server.service.config import CoordinatorFolder
from medunlearn_server.service.launching import read_launch
from medunlearn_server.service.leader import Leader
from medunlearn_server.service.runs_db import RunRow, RunsDb, RunState
from medunlearn_server.service.superlink import SuperLink

_LOG = logging.getLogger("medunlearn.coordinator")

RUN_DIED: Final = "RUN_DIED"
_LOOK_EVERY_S: Final = 0.2
_LEAVE_S: Final = 20.0
"""How long a run may take to leave when the service ends; then it is killed."""
_STOP_S: Final = 30.0
_SETTLED_S: Final = 60.0
_AGAIN: Final = frozenset(("RUN_LOCKED", "JOB_STALE", "ROSTER_EXPIRED"))
"""For a person to mend, but here only an earlier attempt that is still dying, or a roster whose
successor is being signed: the run goes on by itself once it is in force."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What the conductor needs to know of its supervisor.

    Attributes:
        ready: Whether a run can be started.
        generation: How often the SuperLink was started.
        stopping: Set when the service ends.
        wake: Set when somebody asked for something.
    """

    ready: Callable[[], bool]
    generation: Callable[[], int]
    stopping: threading.Event
    wake: threading.Event


class Conductor:
    """The loop; one thread."""

    def __init__(
        self, *, folder: CoordinatorFolder, superlink: SuperLink, runs: RunsDb,
        around: Surroundings,
    ) -> None:
        self._folder = folder
        self._superlink = superlink
        self._runs = runs
        self._around = around
        self._failures: dict[str, int] = {}
        self._not_before: dict[str, float] = {}

    def conduct(self) -> None:
        """Until the service ends."""
        while not self._around.stopping.is_set():
            row = None
            try:
                self._obey_for_idle()
                row = self._next()
                if row is not None:
                    self._attempt(row)
            except MedunlearnError as error:
                _LOG.error("%s", error)
                if row is not None:
                    self._again_later(row, error.code)
            if row is None:
                self._around.wake.wait(_LOOK_EVERY_S)
                self._around.wake.clear()

    def _next(self) -> RunRow | None:
        """What runs comes first, then what waits; nothing else while that is in a pause."""
        rows = self._runs.list()
        active = [row for row in rows if row.state == "running"]
        waiting = [row for row in rows if row.state == "pending"]
        for row in (*active, *waiting)[:1]:
            if self._around.ready() and time.monotonic() >= self._not_before.get(row.run_id, 0.0):
                return row
        return None

    def _obey_for_idle(self) -> None:
        """Pause, resume or stop runs that no process carries."""
        for row in self._runs.list():
            if row.state not in ("pending", "running", "paused", "failed"):
                continue
            word = self._word(row)
            if word == "stop":
                failed = row.failure_code if row.state == "failed" else ""
                self._settle(row, "stopped", failed or RUN_STOPPED)  # why it failed stays known
            elif row.state == "paused" and word in ("run", "leave"):
                # Resumed while the process that obeyed the pause was still ending.
                self._runs.move(row.run_id, "pending")
            elif row.state in ("pending", "running") and word == "pause":
                self._settle(row, "paused", "")
            elif row.state in ("pending", "running") and word == "unreadable":
                self._settle(row, "failed", DIRECTIVE_INVALID)

    def _word(self, row: RunRow) -> ShownDirective:
        return shown_directive(self._folder.run(row.run_id))

    # -- one attempt ---------------------------------------------------------------------

    def _attempt(self, row: RunRow) -> None:
        run_folder = self._folder.run(row.run_id)
        if self._word(row) == "leave":
            write_directive(run_folder, "run")
        self._end_orphan(run_folder)
        row = self._runs.count_start(row.run_id)
        began, generation = time.monotonic(), self._around.generation()
        Job(
            run_id=row.run_id, attempt=row.starts, mode=row.mode,
            poll_s=self._folder.config.runs.poll_s, **read_launch(run_folder),
        ).write(run_folder)
        _LOG.info("run %s: start %d", row.run_id, row.starts,
                  extra=event("run_started", run_id=row.run_id, starts=row.starts))
        flower_run = self._superlink.start_run(run_id=row.run_id, attempt=row.starts)
        row = self._runs.carried_by(row.run_id, flower_run)
        self._watch(row, generation)
        if time.monotonic() - began >= _SETTLED_S:
            self._failures.pop(row.run_id, None)
        self._judge(row, Ending.read(run_folder, attempt=row.starts))

    def _end_orphan(self, run_folder: Path) -> None:
        """A process of a service that died; normally it is gone already."""
        leader = Leader.find(run_folder)
        if leader is not None:
            with leader:
                _LOG.warning("a process of an earlier start is ended")
                leader.kill()
                leader.ended(within_s=5.0)

    def _watch(self, row: RunRow, generation: int) -> None:
        """Return when the attempt is over, by itself or because it cannot go on."""
        leader = self._find_leader(row, generation)
        if leader is None:
            return
        with leader:
            asked_at: float | None = None
            while not leader.ended(within_s=_LOOK_EVERY_S):
                if self._around.generation() != generation:
                    leader.kill()  # Flower has given its run up
                asked_at = self._asked_to_end(row, asked_at)
                patience = _LEAVE_S if self._around.stopping.is_set() else _STOP_S
                if asked_at is not None and time.monotonic() - asked_at > patience:
                    leader.kill()

    def _asked_to_end(self, row: RunRow, asked_at: float | None) -> float | None:
        """Since when it was asked to end: by its operator, or by the service's own end."""
        word = self._word(row)
        if self._around.stopping.is_set() and word == "run":
            write_directive(self._folder.run(row.run_id), "leave")
            word = "leave"
        if word in ("stop", "leave", "unreadable"):
            return asked_at if asked_at is not None else time.monotonic()
        return time.monotonic() if self._around.stopping.is_set() and asked_at is None else asked_at

    def _find_leader(self, row: RunRow, generation: int) -> Leader | None:
        run_folder = self._folder.run(row.run_id)
        deadline = time.monotonic() + self._folder.config.runs.start_deadline_s
        while time.monotonic() < deadline and not self._around.stopping.is_set():
            leader = Leader.find(run_folder)
            if leader is not None:
                if leader.attempt == row.starts:
                    return leader
                leader.close()
            if Ending.read(run_folder, attempt=row.starts) is not None:
                return None
            if self._around.generation() != generation:
                return None
            time.sleep(_LOOK_EVERY_S)
        return None

    # -- what became of it ---------------------------------------------------------------

    def _judge(self, row: RunRow, ending: Ending | None) -> None:
        code = RUN_DIED if ending is None else ending.code
        if ending is not None and not code:
            self._settle(row, "finished", "")
        elif code == COORDINATOR_LEAVES:
            write_directive(self._folder.run(row.run_id), "run")
        elif code == RUN_PAUSED:
            self._settle(row, "paused", "")
        elif code == RUN_STOPPED:
            self._settle(row, "stopped", code)
        elif ending is None or ending.family == "Transient" or code in _AGAIN:
            self._end_flower_run(row)
            self._again_later(row, code)
        else:
            self._settle(row, "failed", code)

    def _settle(self, row: RunRow, state: RunState, code: str) -> None:
        if row.mode == "publish":
            state = "finished"
        self._runs.move(row.run_id, state, failure_code=code)
        told = {"code": code} if code else {}
        _LOG.info("run %s: %s %s", row.run_id, state, code,
                  extra=event(f"run_{state}", run_id=row.run_id, **told))
        self._failures.pop(row.run_id, None)
        self._not_before.pop(row.run_id, None)  # resumed, it goes on at once

    def _again_later(self, row: RunRow, code: str) -> None:
        if self._around.stopping.is_set():
            return
        number = self._failures[row.run_id] = self._failures.get(row.run_id, 0) + 1
        runs = self._folder.config.runs
        delay = min(runs.retry_longest_s, runs.retry_first_s * 2.0 ** min(number - 1, 30))
        self._not_before[row.run_id] = time.monotonic() + delay
        with suppress(MedunlearnError):
            self._runs.note(row.run_id, failure_code=code)
        _LOG.warning("run %s: %s; goes on in %.1f s", row.run_id, code, delay, extra=event(
            "run_delayed", run_id=row.run_id, code=code, seconds=delay))

    def _end_flower_run(self, row: RunRow) -> None:
        """So that hospitals answer nothing of it any more; nobody waits for that."""
        def end() -> None:
            with suppress(MedunlearnError):
                self._superlink.stop_run(row.flower_run_id)

        if row.flower_run_id:
            threading.Thread(target=end, name="end-flower-run", daemon=True).start()

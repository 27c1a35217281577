"""One federation of small hospitals in memory, to be run, broken and run again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quadratic_hospital import QuadraticHospital, open_hospital, write_sites

from medunlearn_common.errors import MedunlearnError
from medunlearn_common.plan import RunPlan, RuntimeOptions
from medunlearn_server.observer import NoObserver
from medunlearn_server.reports import ReadyReport, RoundReport, RunOutcome
from medunlearn_simulation.memory_runner import Faults, run_in_memory

RUNTIME = RuntimeOptions(runner="memory", device="cpu")


class Watcher(NoObserver):
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.ready: list[ReadyReport] = []
        self.rounds: list[RoundReport] = []
        self.values: list[np.ndarray] = []

    def on_ready(self, report: ReadyReport, layout: object) -> None:
        self.ready.append(report)

    def on_round(self, report: RoundReport, values: np.ndarray) -> None:
        self.rounds.append(report)
        self.values.append(values)


class Lab:
    """One federation in a folder."""

    def __init__(
        self, folder: Path, *, count: int = 4,
        opened: Callable[[Path, RuntimeOptions], QuadraticHospital] = open_hospital,
        **changes: dict[str, object],
    ) -> None:
        self.folder = folder
        self.opened = opened
        self.sites = write_sites(folder / "sites", count, **changes)
        self.run_folder = folder / "run"
        self.watcher = Watcher()

    def run(self, plan: RunPlan, *, resume: bool = False, faults: Faults | None = None
            ) -> RunOutcome:
        hospitals = {site.name: self.opened(site, RUNTIME) for site in self.sites}
        return run_in_memory(plan, hospitals, run_folder=self.run_folder, run_id="lab",
                             observer=self.watcher, resume=resume, faults=faults)


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(MedunlearnError) as caught:
        action()
    return caught.value.code


def essence(outcome: RunOutcome) -> RunOutcome:
    """Without durations and bytes: a resumed run sets up masks anew, and says what that cost."""
    spent: dict[str, Any] = {"seconds": 0.0, "bytes_down": {}, "bytes_up": {}}
    return replace(
        outcome, seconds=0.0, vote=replace(outcome.vote, **spent),
        curve=tuple(replace(report, **spent) for report in outcome.curve),
        evaluation=replace(outcome.evaluation, **spent),
    )


NOISY = {"privacy": {"noise": "distributed"}, "geometry": {"projection": "history", "rank": 3},
         "server": {"learning_rate": 0.1, "averaging": 0.5, "trust_radius": 0.2}}

"""The event file of a run that also says, in a few words, where the run stands."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medunlearn_common.layout import AdapterLayout
from medunlearn_common.support import Support
from medunlearn_server.observer import EventFile
from medunlearn_server.reports import ReadyReport, RoundReport, RunOutcome, VoteReport
from medunlearn_server.waiting import Waiting


class ShownProgress(EventFile):
    """An :class:`EventFile` whose events show in ``now.json`` too."""

    def __init__(self, path: Path, waiting: Waiting) -> None:
        _without_torn_line(path)
        super().__init__(path)
        self._waiting = waiting
        waiting.note(phase="ready")

    def on_ready(self, report: ReadyReport, layout: AdapterLayout) -> None:
        """The sites agree."""
        super().on_ready(report, layout)
        phase = "rounds" if report.next_round else "vote"
        self._waiting.note(phase=phase, round=report.next_round, rounds=report.rounds)

    def on_vote(self, report: VoteReport, support: Support) -> None:
        """The support is known."""
        super().on_vote(report, support)
        self._waiting.note(phase="rounds")

    def on_round(self, report: RoundReport, values: np.ndarray) -> None:
        """A round was used."""
        super().on_round(report, values)
        self._waiting.note(
            phase="rounds", round=report.round_index + 1, rounds=report.rounds,
            epsilon=report.epsilon if report.epsilon is not None else 0.0,
        )

    def on_finish(self, outcome: RunOutcome) -> None:
        """The run is over."""
        super().on_finish(outcome)
        self._waiting.note(phase="finished", missing=0)


def _without_torn_line(path: Path) -> None:
    """A process that was killed while it wrote leaves half a line: it never was an event."""
    if not path.exists():
        return
    with path.open("r+b") as stream:
        end = stream.read().rfind(b"\n") + 1
        stream.truncate(end)

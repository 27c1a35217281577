"""Keeps the released adapter after chosen rounds, so that curves are measured after the run.

Only what the coordinator publishes anyway is kept: noised values on the shared support. The
accuracies are then measured here, where in a simulation all data lie, and never by a site
during the run.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from medunlearn_common.files import write_atomically
from medunlearn_common.layout import AdapterLayout
from medunlearn_common.support import Support
from medunlearn_server.checkpoints import RunStore
from medunlearn_server.progress import Learning, RunProgress
from medunlearn_server.reports import ReadyReport, RoundReport, RunOutcome, VoteReport
from medunlearn_simulation.progress import Bar

Floats = npt.NDArray[np.float32]


def snapshot_file(folder: Path, done: int) -> Path:
    """Where the values after ``done`` rounds are kept: little-endian float32."""
    return folder / f"round-{done:05d}.f32"


def read_snapshot(folder: Path, done: int, *, size: int) -> Floats | None:
    """Values after ``done`` rounds, shape ``(size,)``; None if they were not kept whole.

    A damaged snapshot costs one point of a curve; the run itself lives in the checkpoint.
    """
    path = snapshot_file(folder, done)
    if not path.is_file():
        return None
    data = path.read_bytes()
    if len(data) != 4 * size:
        return None
    return np.frombuffer(data, dtype="<f4").astype(np.float32)


class SnapshotKeeper:
    """An observer of the run that writes snapshots and moves the bar."""

    def __init__(self, folder: Path, *, every: int, bar: Bar) -> None:
        self._folder = folder
        self._every = every
        self._bar = bar

    def keep(self, done: int, values: Floats) -> None:
        """Writes the snapshot after ``done`` rounds, if it is one of the chosen."""
        if done % self._every == 0:
            data = values.astype("<f4").tobytes()
            write_atomically(snapshot_file(self._folder, done), data)

    def on_ready(self, report: ReadyReport, layout: AdapterLayout) -> None:
        """The bar starts where a resumed run goes on."""
        doing = "going on" if report.next_round else "choosing coordinates"
        note = f"{len(report.sites)} sites ready, {doing}"
        self._bar.set(report.next_round, note)

    def on_vote(self, report: VoteReport, support: Support) -> None:
        """The support is known."""
        self._bar.advance(0.0, f"{support.size} coordinates by {report.method}")

    def on_round(self, report: RoundReport, values: Floats) -> None:
        """One more round."""
        done = report.round_index + 1
        self.keep(done, values)
        spent = "" if report.epsilon is None else f", epsilon {report.epsilon:.2f}"
        self._bar.set(done, f"round {done}, {len(report.sites)} sites{spent}")

    def on_finish(self, outcome: RunOutcome) -> None:
        """The adapter is stored."""
        self._bar.advance(0.0, outcome.reason.replace("_", " "))


def learned(store: RunStore) -> tuple[RunProgress, Learning] | None:
    """Progress and learning state in the store; None before the support is known."""
    checkpoint = store.load()
    if checkpoint is None:
        return None
    progress = RunProgress.from_checkpoint(checkpoint)
    return (progress, progress.learning) if progress.learning is not None else None


def keep_last(keeper: SnapshotKeeper, store: RunStore) -> None:
    """Makes up for a snapshot lost to a crash between checkpoint and observer."""
    found = learned(store)
    if found is not None and found[0].curve:
        progress, learning = found
        keeper.keep(len(progress.curve), learning.step.published.astype(np.float32))

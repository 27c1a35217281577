"""Progress of a run's phases: bars on a terminal, now and then a line anywhere else."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from medunlearn_common.errors import MedunlearnError
from medunlearn_common.files import write_atomically

LINE_EVERY_S = 20.0


class Bar:
    """One phase's bar.

    Attributes:
        done: Amount finished.
    """

    def __init__(self, board: PhaseBoard, name: str, total: float | None) -> None:
        self._board = board
        self._name = name
        self._total = total
        self._shown_at = time.monotonic()
        self.done = 0.0
        self._unsaid = ""
        self._task = board.progress.add_task(name, total=total, note="")

    def advance(self, amount: float = 1.0, note: str | None = None) -> None:
        """More is finished."""
        self.set(self.done + amount, note)

    def set(self, done: float, note: str | None = None) -> None:
        """So much is finished; ``note`` stands beside the bar."""
        self.done = done
        if note is None:
            self._board.progress.update(self._task, completed=done)
        else:
            self._board.progress.update(self._task, completed=done, note=note)
        # Without a total it is a sum of unlike steps; with one, the last step may overshoot.
        share = f"{min(done / self._total, 1.0):.0%}" if self._total else ""
        self._unsaid = " ".join(filter(None, (f"{self._name}:", share, note)))
        now = time.monotonic()
        if now - self._shown_at >= LINE_EVERY_S:
            self._shown_at = now
            self._say()

    def _say(self) -> None:
        if self._unsaid:
            self._board.line(self._unsaid)
            self._unsaid = ""

    def close(self, *, complete: bool) -> None:
        """The phase is over; a finished one's bar is filled, another's last line is how far it got.
        """
        if not complete:
            self._say()
        elif self._total is not None:
            self._board.progress.update(self._task, completed=self._total)
        self._board.progress.stop_task(self._task)


class PhaseBoard:
    """All phases of one run and how long each took.

    Attributes:
        seconds: Wall-clock seconds by phase name; phases with equal names add up. Phases may run
            side by side, so their sum may exceed the time that passed: see ``total_s``.
    """

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False, emoji=False)
        self.seconds: dict[str, float] = {}
        self._open = 0
        self._open_since = 0.0
        self._passed_s = 0.0
        self._kept_in: Path | None = None
        self._quiet = quiet
        self.progress = Progress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=28),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
        )

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()

    @property
    def total_s(self) -> float:
        """Wall-clock seconds in which at least one phase ran, those still open included."""
        return self._passed_s + (time.monotonic() - self._open_since if self._open else 0.0)

    def keep_in(self, file: Path) -> None:
        """Counts on from what an interrupted process left in ``file``, and keeps it up to date.

        A process that was killed has not said what its last phase took: that part is missing. A
        file that cannot be read counts as none, for times decide nothing.
        """
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            earlier = json.loads(file.read_text(encoding="utf-8"))
            by_phase = {str(n): _duration(taken) for n, taken in earlier["by_phase"].items()}
            self._passed_s += _duration(earlier["total"])
            for name, taken in by_phase.items():
                self.seconds[name] = self.seconds.get(name, 0.0) + taken
        self._kept_in = file
        self._keep()

    def _keep(self) -> None:
        if self._kept_in is None:
            return
        text = json.dumps({"total": self.total_s, "by_phase": self.seconds}, indent=1)
        with suppress(MedunlearnError, OSError):  # a full disk is said by what needs the room
            write_atomically(self._kept_in, text.encode("utf-8"))

    @contextmanager
    def phase(self, name: str, total: float | None = None) -> Iterator[Bar]:
        """Shows and times one phase."""
        started = time.monotonic()
        if not self._open:
            self._open_since = started
        self._open += 1
        self.line(f"{name} ...")
        bar = Bar(self, name, total)
        finished = False
        try:
            yield bar
            finished = True
        finally:
            ended = time.monotonic()
            taken = ended - started
            self._open -= 1
            if not self._open:
                self._passed_s += ended - self._open_since
            self.seconds[name] = self.seconds.get(name, 0.0) + taken
            self._keep()
            bar.close(complete=finished)
            if finished:
                self.line(f"{name}: done in {taken:.1f} s")

    def line(self, text: str) -> None:
        """A plain line, only where there are no bars."""
        if not self._quiet and not self.console.is_terminal:
            self.console.print(text, markup=False, soft_wrap=True)

    def last_words(self, text: str) -> None:
        """What must be said although the work stops here, and although nothing else is shown."""
        self.progress.stop()
        self.console.print(text, markup=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """A lasting remark, shown above the bars too."""
        if not self._quiet:
            self.console.print(text, soft_wrap=True)


def _duration(value: object) -> float:
    if not isinstance(value, float) or not 0.0 <= value < math.inf:
        raise ValueError("not a duration")
    return value

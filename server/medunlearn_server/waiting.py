"""What a run waits for right now: shown to the operator, and where a stop reaches it.

The files are advice for people: they are not flushed to disk and no decision rests on them. One
says what is open now, the other when each exchange began and ended, one line each.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from medunlearn_common.files import replace_unsynced

_SHOW_EVERY_S = 1.0
_MOST_NAMED = 100


class Waiting:
    """Told by a transport; shows and halts.

    Args:
        shown_in: File that says what is awaited; None shows nothing.
        times_in: File that takes a line per exchange; None takes none.
        halt: Asked all the while; raises what ends the run for now.
        wake: Touched when messages were put where hospitals look for them.
        clock: Seconds since 1970.
    """

    def __init__(
        self, *, shown_in: Path | None = None, times_in: Path | None = None,
        halt: Callable[[], None] = lambda: None, wake: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._shown_in = shown_in
        self._times_in = times_in
        self._halt = halt
        self._wake = wake
        self._clock = clock
        self._facts: dict[str, float | str | list[str]] = _spent(shown_in)
        self._shown_at = 0.0
        self._began = self._pushed = clock()
        self._answered: list[float] = []

    def note(self, **facts: float | str) -> None:
        """Where the run stands."""
        self._facts |= facts
        self._show(now=True)

    def connected(self, nodes: int) -> None:
        """So many nodes are there."""
        self._halt()
        self._facts["connected"] = nodes
        self._show()

    def asking(self) -> None:
        """An exchange begins: requests are handed over."""
        self._began, self._answered = self._clock(), []

    def asked(self, sites: Sequence[str]) -> None:
        """These were asked just now."""
        self._pushed = self._clock()
        self._facts |= {"asked": len(sites), "since": self._clock()}
        self._note_missing(sites)
        if self._wake is not None:
            with suppress(OSError):  # the gateway looks by itself after a while
                self._wake.touch()
        self._show(now=True)

    def missing(self, sites: Sequence[str]) -> None:
        """These have not answered yet."""
        if sites:
            self._halt()
        before = self._facts.get("missing")
        changed = before != len(sites)
        if isinstance(before, int) and len(sites) < before:
            self._answered += [self._clock()] * (before - len(sites))
        self._note_missing(sites)
        self._show(now=changed)

    def _note_missing(self, sites: Sequence[str]) -> None:
        self._facts |= {"missing": len(sites), "waits_for": sorted(sites)[:_MOST_NAMED]}

    def exchanged(self) -> None:
        """The exchange is over."""
        if self._times_in is None:
            return
        line = json.dumps({"began": self._began, "asked": self._pushed,
                           "answered": self._answered, "ended": self._clock()})
        with suppress(OSError), self._times_in.open("a", encoding="ascii") as stream:
            stream.write(line + "\n")

    def _show(self, *, now: bool = False) -> None:
        at = self._clock()
        if self._shown_in is None or not (now or at - self._shown_at >= _SHOW_EVERY_S):
            return
        self._shown_at = at
        with suppress(OSError):
            replace_unsynced(self._shown_in, json.dumps({**self._facts, "at": at}))


def _spent(shown_in: Path | None) -> dict[str, float | str | list[str]]:
    """What the run had cost at an earlier start, or before it was published."""
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        if shown_in is not None:
            return {"epsilon": float(json.loads(shown_in.read_bytes())["epsilon"])}
    return {}

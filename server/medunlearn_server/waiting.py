"""What a run waits for right now: shown to the operator, and where a stop reaches it.

The file is advice for people: it is not flushed to disk and no decision rests on it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_SHOW_EVERY_S = 1.0


class Waiting:
    """Told by a transport; shows and halts.

    Args:
        shown_in: File that says what is awaited; None shows nothing.
        halt: Asked all the while; raises what ends the run for now.
        wake: Touched when messages were put where hospitals look for them.
        clock: Seconds since 1970.
    """

    def __init__(
        self, *, shown_in: Path | None = None, halt: Callable[[], None] = lambda: None,
        wake: Path | None = None, clock: Callable[[], float] = time.time,
    ) -> None:
        self._shown_in = shown_in
        self._halt = halt
        self._wake = wake
        self._clock = clock
        self._facts: dict[str, float | str] = {}
        self._shown_at = 0.0

    def note(self, **facts: float | str) -> None:
        """Where the run stands."""
        self._facts |= facts
        self._show(now=True)

    def connected(self, nodes: int) -> None:
        """So many nodes are there."""
        self._halt()
        self._facts["connected"] = nodes
        self._show()

    def asked(self, sites: int) -> None:
        """So many were asked just now."""
        self._facts |= {"asked": sites, "missing": sites, "since": self._clock()}
        if self._wake is not None:
            with suppress(OSError):  # the gateway looks by itself after a while
                self._wake.touch()
        self._show(now=True)

    def missing(self, sites: int) -> None:
        """So many have not answered yet."""
        if sites:
            self._halt()
        changed = self._facts.get("missing") != sites
        self._facts["missing"] = sites
        self._show(now=changed)

    def _show(self, *, now: bool = False) -> None:
        at = self._clock()
        if self._shown_in is None or not (now or at - self._shown_at >= _SHOW_EVERY_S):
            return
        self._shown_at = at
        temporary = self._shown_in.with_suffix(".tmp")
        with suppress(OSError):
            temporary.write_text(json.dumps({**self._facts, "at": at}), encoding="ascii")
            os.replace(temporary, self._shown_in)

"""The ServerApp's process as its supervisor sees it: found, watched and ended by a handle.

A handle (pidfd) cannot mean another process that got the same number later.
"""

from __future__ import annotations

import json
import os
import select
import signal
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from medunlearn_server.jobs import LEADER_FILE, process_began


class Leader:
    """One process that carries one attempt; a context manager."""

    def __init__(self, handle: int, *, attempt: int) -> None:
        self._handle = handle
        self.attempt = attempt

    @classmethod
    def find(cls, run_folder: Path) -> Self | None:
        """The process that said it leads the run, if it is alive."""
        try:
            said = json.loads((run_folder / LEADER_FILE).read_text(encoding="ascii"))
            pid, began, attempt = int(said["pid"]), said["began"], int(said["attempt"])
            handle = os.pidfd_open(pid)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if process_began(pid) != began:  # looked at after opening: the handle is this one's
            os.close(handle)
            return None
        return cls(handle, attempt=attempt)

    def ended(self, *, within_s: float) -> bool:
        """Whether it is gone, after waiting so long."""
        gone = select.poll()  # not select(): that one takes no descriptor above 1023
        gone.register(self._handle, select.POLLIN)
        return bool(gone.poll(within_s * 1000))

    def kill(self) -> None:
        """End it at once: what it has done is on disk."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    def close(self) -> None:
        """Give the handle back."""
        os.close(self._handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

"""Holding a party's folder against its own service, while it moves away or is put back."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from medunlearn_common.errors import Misconfigured

STATE_FOLDER: Final = "state"
SERVICE_LOCK: Final = "service.lock"
WORKER_LOCK: Final = "worker.lock"


@contextmanager
def stopped(folder: Path) -> Iterator[None]:
    """Nothing of the folder is served, nor begins to be.

    Raises:
        Misconfigured: SERVICE_RUNNING, where a hospital's worker alone is left, too.
        OSError: The locks cannot be made.
    """
    running = Misconfigured("SERVICE_RUNNING", f"{folder.name} is being served",
                            "stop its service first: what it does meanwhile would be lost")
    with ExitStack() as held:
        for name in (SERVICE_LOCK, WORKER_LOCK):
            lock = held.enter_context(held_alone(folder / STATE_FOLDER, name, running))
            lock.truncate(0)  # else the pid of a service that died would pass for ours
        yield


@contextmanager
def held_alone(state: Path, name: str, otherwise: Misconfigured) -> Iterator[BinaryIO]:
    """Hold one of these locks; raises ``otherwise`` where another process does, or OSError."""
    state.mkdir(parents=True, mode=0o700, exist_ok=True)
    with (state / name).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise otherwise from error
        yield lock

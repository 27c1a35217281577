"""Holding a party's folder against its own service, while it moves away or is put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import held_alone

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
            lock = held.enter_context(held_alone(folder / STATE_FOLDER / name, running))
            lock.truncate(0)  # else the pid of a service that died would pass for ours
        yield

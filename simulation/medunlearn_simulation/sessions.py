"""End every process of a session: Flower's simulation leaves none of Ray's behind."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

import psutil


def processes_of(session_id: int) -> list[int]:
    """Ids of live processes in a session, zombies not counted."""
    found = []
    for pid in psutil.pids():
        with suppress(ProcessLookupError, PermissionError, psutil.Error):
            alive = psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
            if alive and os.getsid(pid) == session_id:
                found.append(pid)
    return found


def end_session(session_id: int, *, grace_s: float) -> None:
    """Ask all processes of a session to end, and kill those that have not after a while."""
    me = os.getpid()
    for sign, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, grace_s)):
        for pid in processes_of(session_id):
            if pid != me:
                with suppress(ProcessLookupError):
                    os.kill(pid, sign)
        end = time.monotonic() + patience_s
        while set(processes_of(session_id)) - {me}:
            if time.monotonic() >= end:
                break
            time.sleep(0.05)
        else:
            return

"""A child process that says through a pipe what is safe, and is killed at a random moment."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable


def killed_child(
    work: Callable[[int], object], chance: random.Random, *, most_lines: int, longest_wait_s: float
) -> list[str]:
    """What a child acknowledged before SIGKILL met it.

    SIGKILL stops the process, not the machine: a power cut is left to SQLite's own tests of
    ``synchronous=EXTRA``.

    Args:
        work: Runs in the child without end; writes a line to the descriptor it is given for all
            that is durable.
        chance: Draws the line after which, and the moment at which, the child is killed.
        most_lines: Lines waited for at most.
        longest_wait_s: Time after the last of them at most.

    Raises:
        AssertionError: The child failed by itself.
    """
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(readable)
        try:
            work(writable)
        finally:
            os._exit(1)
    os.close(writable)
    with os.fdopen(readable, "rb") as stream:
        lines = [stream.readline() for _ in range(chance.randint(0, most_lines))]
        time.sleep(chance.uniform(0.0, longest_wait_s))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            raise AssertionError("the child failed by itself")
        lines += stream.readlines()
    return [line.decode().strip() for line in lines if line.endswith(b"\n")]

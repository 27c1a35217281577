"""The outermost frame of a process of a service: its log, its last words, its exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from medunlearn_common import __version__, logs
from medunlearn_common.errors import MedunlearnError
from medunlearn_common.logs import EventLog

EXIT_INTERNAL, EXIT_MENDABLE = 1, 2


def run(folder: Path, component: str, work: Callable[[EventLog], None]) -> int:
    """Do ``work`` under a log of its own; returns the exit status.

    Args:
        folder: Of the logs.
        component: Names the log's files.
        work: Gets the log, and returns when the process is to end.

    Guarantees:
        Whatever ``work`` raises, a journal gets a code or a class, never a text. A person at a
        terminal is also told the message of an error of ours and its hint.

    Raises:
        Misconfigured, Transient: As :func:`medunlearn_common.logs.start`.
    """
    log = logs.start(folder, component=component)
    try:
        log.info("started", version=__version__)
        work(log)
    except MedunlearnError as error:
        log.error("failed", error)
        _explain(log, error)
        return EXIT_MENDABLE
    except Exception as error:
        log.error("uncaught", error)
        return EXIT_INTERNAL
    log.info("stopped")
    return 0


def exit_status(work: Callable[[], int]) -> int:
    """For ``python -m``: what fails before there is a log is told on stderr, as status 2."""
    try:
        return work()
    except MedunlearnError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_MENDABLE


def _explain(log: EventLog, error: MedunlearnError) -> None:
    if log.stream is not None and log.stream.isatty():
        told = f"error [{error.code}] {error.message}\n  hint: {error.hint}"
        # Its stream is ASCII, and a path may be anything.
        print(told.encode("ascii", "backslashreplace").decode("ascii"), file=log.stream, flush=True)

"""Where hospitals that share this process say what went wrong: a file, not the terminal.

An error leaves a hospital as a code, its text stays in the hospital's own log. In a
simulation the run's folder keeps that log, and the terminal shows one error.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOGGER = "medunlearn.hospital"


class _PrivateFile(logging.FileHandler):
    """Readable by its owner alone, and silent where the disk is full: the run says so itself."""

    def _open(self) -> io.TextIOWrapper:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        return open(  # the handler closes it
            os.open(self.baseFilename, flags, 0o600), "a", encoding="utf-8"
        )

    def handleError(self, record: logging.LogRecord) -> None:  # logging's name
        """See the class."""


@contextmanager
def hospitals_log_to(path: Path) -> Iterator[None]:
    """Sends the hospitals' log to ``path``, which is made when there is something to say."""
    logger = logging.getLogger(LOGGER)
    handler = _PrivateFile(path, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    propagated = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = propagated
        logger.removeHandler(handler)
        handler.close()

"""A full disk, said where it is heard: in the service's own log.

On a full disk the files under ``state/logs`` are not written, and a database that cannot be
written says so only to who asks it. Whoever runs a service reads its stdout, which as a rule ends
on another disk (the journal).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from medunlearn_common.logs import EventLog

FULL_BYTES = 16 << 20
"""Less than what a round writes: databases, logs and checkpoints stop being written."""
_ROOM_BYTES = 2 * FULL_BYTES  # a disk that hovers at the edge is said to be full once


def is_full(folder: Path, *, below: int = FULL_BYTES) -> bool:
    """Whether fewer bytes are left where a folder lies; raises OSError where nobody can tell."""
    return shutil.disk_usage(folder).free < below


class DiskWatch:
    """Says once when a folder's disk fills, and once when there is room again."""

    def __init__(self, folder: Path, log: EventLog) -> None:
        self._folder, self._log = folder, log
        self._full = False

    def look(self) -> None:
        """Compare with the last look; never raises."""
        try:
            full = is_full(self._folder, below=_ROOM_BYTES if self._full else FULL_BYTES)
        except OSError:  # a mount that comes and goes has codes of its own
            return
        if full == self._full:
            return
        self._full = full
        if full:
            self._log.error("disk_full", code="STORAGE_FULL")
        else:
            self._log.info("disk_has_room")

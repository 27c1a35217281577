"""Marks in a party's folder that outlive a backup: retired, and restored with history lost.

A hospital cannot know what it released between a backup and the loss of its disk. The mark makes
that ignorance lasting: runs that the backup knew are over for this party, and any other run is
answered only after its people have said that it began later.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medunlearn_common.digests import canonical_json
from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.files import write_atomically

RETIRED_FILE = "retired.json"
LOST_FILE = "history-lost.json"


@dataclass(frozen=True, kw_only=True)
class HistoryLost:
    """What is known after a restore over lost history.

    Attributes:
        restored_at: Seconds since 1970.
        backup_at: When the backup was made, likewise.
        known_runs: Runs that the backup knew: over for this party.
        admitted_runs: Runs of which its people have said that they began after the restore.
    """

    restored_at: int
    backup_at: int
    known_runs: tuple[str, ...]
    admitted_runs: tuple[str, ...] = ()

    @property
    def ledger_run(self) -> str:
        """Under which a hospital's ledger charges what nobody knows."""
        return f"restored-{self.restored_at}"

    def write(self, folder: Path) -> None:
        """Raises WRITE_FAILED."""
        write_atomically(folder / LOST_FILE, canonical_json(self.__dict__) + b"\n")


class PartyMarks:
    """The marks of one folder, read anew at each question: they may be set while it serves."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def history_lost(self) -> HistoryLost | None:
        """Raises MARK_UNREADABLE: a mark that cannot be read is not taken for none."""
        path = self._folder / LOST_FILE
        if not path.exists():
            return None
        try:
            found: dict[str, Any] = json.loads(path.read_text("ascii"))
            return HistoryLost(
                restored_at=int(found["restored_at"]), backup_at=int(found["backup_at"]),
                known_runs=tuple(map(str, found["known_runs"])),
                admitted_runs=tuple(map(str, found["admitted_runs"])),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Misconfigured(
                "MARK_UNREADABLE", f"{LOST_FILE} cannot be read", "restore the party again",
            ) from error

    def require_in_service(self) -> None:
        """Refuse a folder that moved to another machine, or goes on in another folder.

        Raises:
            Misconfigured: PARTY_RETIRED.
        """
        if (self._folder / RETIRED_FILE).exists():
            raise Misconfigured(
                "PARTY_RETIRED", "this party was moved away with `medunlearn backup --final`, or "
                "came back with `medunlearn hospital init --after`",
                "serve it from where it goes on; two copies would each spend the budget. If "
                f"nothing was restored from that backup, destroy it and remove {RETIRED_FILE}",
            )

    def require_run(self, run_id: str) -> None:
        """Refuse a run of which this party may have forgotten something.

        Raises:
            Misconfigured: PARTY_RETIRED.
            Rejected: HISTORY_LOST_RUN.
        """
        self.require_in_service()
        lost = self.history_lost
        if lost is None or run_id in lost.admitted_runs:
            return
        known = run_id in lost.known_runs
        raise Rejected(
            "HISTORY_LOST_RUN",
            "this party was restored from a backup, and "
            + ("what it said in this run since then is lost" if known else
               "nobody here has said that this run began after that"),
            "this party is out of the run; it can take part in a new one" if known else
            "if the run began after the restore: medunlearn restore-admit RUN",
        )


def admit_run(folder: Path, run_id: str) -> HistoryLost:
    """Say that a run began after the restore.

    Raises:
        Misconfigured: HISTORY_NOT_LOST where there is no mark, MARK_UNREADABLE.
        Rejected: HISTORY_LOST_RUN for a run that the backup knew: it cannot be admitted.
    """
    lost = PartyMarks(folder).history_lost
    if lost is None:
        raise Misconfigured(
            "HISTORY_NOT_LOST", "this party never lost its history", "nothing is to be done"
        )
    if run_id in lost.known_runs:
        PartyMarks(folder).require_run(run_id)
    admitted = HistoryLost(
        restored_at=lost.restored_at, backup_at=lost.backup_at, known_runs=lost.known_runs,
        admitted_runs=tuple(sorted({*lost.admitted_runs, run_id})),
    )
    admitted.write(folder)
    return admitted

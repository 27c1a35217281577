"""What a deployed ServerApp is to do: read from the coordinator's own folder.

A run's Flower configuration travels to every hospital, and whoever can start a Flower run sets
it. So it says no more than which run and which attempt; folders, plan and mode come from a file
that the supervisor wrote, and an attempt that is not the current one does nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import held_alone, write_atomically
from medunlearn_common.messages import Scalar
from medunlearn_common.processes import process_stat

FOLDER_VARIABLE: Final = "MEDUNLEARN_COORDINATOR"
"""Tells the ServerApp which folder it serves; a run's configuration cannot."""

JOB_FILE: Final = "job.json"
ENDING_FILE: Final = "ending.json"
LEADER_FILE: Final = "leader.json"
NOW_FILE: Final = "now.json"
TIMES_FILE: Final = "exchanges.jsonl"

Mode = Literal["unlearn", "publish"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One attempt to carry a run on.

    Attributes:
        run_id: The run.
        attempt: Which Flower run for it this is, from 1.
        mode: What it is for.
        poll_s: Pause between two looks for answers, in seconds.
        model_digest: What the offer names; empty leaves it to what the sites agree on.
        tokenizer_digest: Likewise.
    """

    run_id: str
    attempt: int
    mode: Mode
    poll_s: float
    model_digest: str = ""
    tokenizer_digest: str = ""

    def write(self, run_folder: Path) -> None:
        """Put it into the run's folder; raises Transient WRITE_FAILED."""
        write_atomically(run_folder / JOB_FILE, json.dumps(asdict(self)).encode("ascii"))

    @classmethod
    def read(cls, run_folder: Path) -> Self:
        """Back from :meth:`write`.

        Raises:
            Misconfigured: JOB_UNKNOWN.
        """
        try:
            return cls(**json.loads((run_folder / JOB_FILE).read_text(encoding="ascii")))
        except (OSError, ValueError, TypeError) as error:
            raise Misconfigured("JOB_UNKNOWN", "this coordinator has no such run to carry on",
                                "start runs with `medunlearn coordinator launch`") from error


def deployed_settings(folder: Path, run_config: Mapping[str, Any]) -> dict[str, Scalar]:
    """The ServerApp's settings at a deployed coordinator.

    Args:
        folder: The coordinator's.
        run_config: Of the Flower run; only ``run-id`` and ``attempt`` are looked at.

    Raises:
        Misconfigured: JOB_UNKNOWN; JOB_STALE if another attempt has taken its place.
    """
    run_id = str(run_config.get("run-id", ""))
    known = {path.name: path for path in (folder / "runs").glob("*") if path.is_dir()}
    if run_id not in known:  # never a path made of what came in
        raise Misconfigured("JOB_UNKNOWN", "this coordinator has no such run",
                            "start runs with `medunlearn coordinator launch`")
    job = Job.read(known[run_id])
    if (job.run_id, job.attempt) != (run_id, run_config.get("attempt")):
        raise Misconfigured("JOB_STALE", "a later attempt carries this run", "nothing to do")
    return {
        "plan": str(known[run_id] / "plan.toml"), "run-folder": str(known[run_id]),
        "run-id": run_id, "resume": True, "poll-s": job.poll_s, "mode": job.mode,
        "trust-folder": str(folder), "attempt": job.attempt,
        "wake-file": str(folder / "state" / "pushed"),
        "gateway-folder": str(folder / "state"), "model-digest": job.model_digest,
        "tokenizer-digest": job.tokenizer_digest,
    }


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How an attempt ended, unless its process died.

    Attributes:
        attempt: Which.
        family: Class of the error; empty if there was none.
        code: Its code; empty if there was none.
    """

    attempt: int
    family: str = ""
    code: str = ""

    def write(self, run_folder: Path) -> None:
        """Put it into the run's folder; raises Transient WRITE_FAILED."""
        write_atomically(run_folder / ENDING_FILE, json.dumps(asdict(self)).encode("ascii"))

    @classmethod
    def read(cls, run_folder: Path, *, attempt: int) -> Self | None:
        """How ``attempt`` ended; None if it did not say."""
        try:
            found = cls(**json.loads((run_folder / ENDING_FILE).read_text(encoding="ascii")))
        except (OSError, ValueError, TypeError):
            return None
        return found if found.attempt == attempt else None


@contextmanager
def leading(run_folder: Path, *, attempt: int) -> Iterator[None]:
    """Carry a run as the only process that does, and tell the supervisor which one that is.

    Flower may start two processes for one attempt: when the answer to its command was lost, or
    when it took a slow one for dead. The second one changes nothing here.

    Raises:
        Misconfigured: RUN_LOCKED.
        Transient: WRITE_FAILED.
    """
    carried = Misconfigured("RUN_LOCKED", "another process carries this run",
                            "nothing to do: it goes on without this one")
    with held_alone(run_folder / "leader.lock", carried):
        mine = {"attempt": attempt, "pid": os.getpid(), "began": process_began(os.getpid())}
        write_atomically(run_folder / LEADER_FILE, json.dumps(mine).encode("ascii"))
        yield


def process_began(pid: int) -> int | None:
    """Start of a process in clock ticks since boot, which tells equal ids apart; None if gone."""
    fields = process_stat(pid)
    return None if fields is None or fields[0] == "Z" else int(fields[19])

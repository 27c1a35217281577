"""``state/status.json``: what the worker last did, for `hospital status` and the metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from medunlearn_common.errors import Misconfigured, Transient
from medunlearn_common.files import replace_unsynced

WorkerState = Literal["starting", "idle", "answering", "stopping", "stopped"]
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class SiteStatus:
    """One look at a hospital's worker.

    Attributes:
        site_id: The hospital's party id.
        state: What the worker does.
        run_id: The run that it last worked for; empty before the first.
        last_kind: Kind of the last request.
        last_at: When that was, seconds since 1970; 0 before the first.
        requests: How many were answered since the folder was made.
        errors: How many answers were refusals, by code.
        epsilon_spent: Of that run, as its ledger has it; None without noise.
        model_loaded: Whether the base model is in memory.
        device: Where it computes.
        gpu_memory_bytes: Held on the GPU; 0 without one.
        worker_pid: The worker's process; 0 when stopped.
        restarts: How often a worker was started after the first.

    Guarantees:
        Holds numbers, codes and identifiers only.
    """

    site_id: str
    state: WorkerState = "starting"
    run_id: str = ""
    last_kind: str = ""
    last_at: float = 0.0
    requests: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    epsilon_spent: float | None = None
    model_loaded: bool = False
    device: str = ""
    gpu_memory_bytes: int = 0
    worker_pid: int = 0
    restarts: int = 0

    def write(self, path: Path) -> None:
        """Atomically, but not durably: a request need not wait for the disk.

        Raises:
            Transient: STATUS_FAILED; the old file is untouched.
        """
        replace_file(path, json.dumps(asdict(self), sort_keys=True) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """What lies at ``path``.

        Raises:
            Misconfigured: STATUS_MISSING, or STATUS_DAMAGED for anything but such a file.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise Misconfigured(
                "STATUS_MISSING", f"there is no {path.name}: the worker never ran here",
                "start it with `medunlearn hospital serve`",
            ) from error
        try:
            found: Any = json.loads(data[:_MAX_BYTES])
            return cls(**found)
        except (ValueError, TypeError) as error:
            raise Misconfigured("STATUS_DAMAGED", f"{path.name} is not what a worker writes",
                                "remove it; the worker writes it anew") from error


def replace_file(path: Path, text: str) -> None:
    """Write a file of ``state/`` whole or not at all, without waiting for the disk.

    Raises:
        Transient: STATUS_FAILED; the old file is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_unsynced(path, text)
    except OSError as error:
        raise Transient("STATUS_FAILED", f"cannot write {path.name}: {error.strerror}",
                        "free disk space or mend permissions; requests are answered") from error

"""``state/status.json``: what the worker last did, for `hospital status` and the metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import write_atomically

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
        """Atomically; raises Transient WRITE_FAILED."""
        write_atomically(path, (json.dumps(asdict(self), sort_keys=True) + "\n").encode("utf-8"))

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

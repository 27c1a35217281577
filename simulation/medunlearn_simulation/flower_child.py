"""The process that runs Flower's simulation; started by ``flower_runner`` alone.

``python -m medunlearn_simulation.flower_child JOB.json``. Exit status 0: the coordinator
finished. 2: it failed with an error of ours, written to ``failure.json`` in the run folder.
Anything else: Flower or Ray failed; see the log.

Flower's ``run_simulation`` is used although the command ``flwr run`` would be Flower's own
choice: that starts a SuperLink on a fixed port, leaves it running with the environment of
whoever came first, and reports a failed run as success. This needs no port, and its error is
this process's exit status.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from medunlearn_common.errors import MedunlearnError
from medunlearn_simulation.sessions import end_session

_OBJECT_STORE_BYTES = 256 << 20
_WATCH_PAUSE_S = 0.5


def main(job_file: Path) -> int:
    """Run the job; returns the exit status."""
    job = json.loads(job_file.read_text(encoding="utf-8"))
    _follow_parent(int(job["parent"]))
    # Late: Ray and Flower read the environment when they are imported.
    from flwr.simulation import run_simulation

    from medunlearn_client import flower_app as client_side
    from medunlearn_server import flower_app as server_side
    from medunlearn_simulation.flower_absences import absence_mod

    opener = _named(job["opener"]) if job["opener"] else None
    try:
        run_simulation(
            server_app=server_side.build_app(job["server"]),
            client_app=client_side.build_app(
                job["client"], mods=[absence_mod(job["absences"])], opener=opener
            ),
            num_supernodes=job["sites"],
            backend_config=_backend(job),
        )
    except MedunlearnError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    return 0


def _backend(job: dict[str, Any]) -> Any:
    return {
        "client_resources": {"num_cpus": 1, "num_gpus": job["gpus_per_actor"]},
        "init_args": {
            # A cluster of our own, whatever else runs on this machine.
            "address": "local",
            "num_cpus": job["actors"],
            "_temp_dir": job["ray_folder"],
            "object_store_memory": _OBJECT_STORE_BYTES,
            "include_dashboard": False,
            "log_to_driver": True,
            "logging_level": "WARNING",
        },
    }


def _named(reference: str) -> Any:
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def _follow_parent(parent: int) -> None:
    """End the whole session if the runner dies without having been able to end it."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_PAUSE_S)
        end_session(os.getsid(0), grace_s=2.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

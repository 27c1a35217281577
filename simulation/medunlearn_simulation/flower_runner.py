"""Run the real Flower simulation in a child process, and leave nothing of it behind.

The child (``flower_child``) leads a session of its own, in an empty working directory. This
process only waits, replays the coordinator's events to the caller's observer, and ends the
whole session when the child is done, when the caller is interrupted, or when anything fails.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medunlearn_client.site_config import SITE_FILE
from medunlearn_common.errors import FAMILIES, MedunlearnError, Transient
from medunlearn_common.files import private_folder
from medunlearn_common.flower_environment import QUIET
from medunlearn_common.plan import Plan, RunPlan, RuntimeOptions, plan_template
from medunlearn_server.coordinator import OUTCOME_FILE
from medunlearn_server.flower_app import EVENTS_FILE, FAILURE_FILE
from medunlearn_server.observer import EventReader, NoObserver, Observer
from medunlearn_server.reports import RunOutcome
from medunlearn_simulation.absences import Absences
from medunlearn_simulation.enrolment import enrol
from medunlearn_simulation.sessions import end_session

LOG_FILE = "flower.log"
_POLL_S = 0.1
_GRACE_S = 5.0


@dataclass(frozen=True, kw_only=True)
class FlowerJob:
    """What the simulation runs.

    Attributes:
        plan: The shared plan.
        sites_dir: Holds one folder ``site-<n>`` per hospital.
        run_folder: The coordinator's folder.
        run_id: Name of the run.
        runtime: Device, threads, microbatch size.
        resume: Go on from the folder's checkpoint if there is one.
        actors: Processes that hospitals share; None takes one per CPU, at most one per site.
        opener: ``module:function`` that opens a site folder; empty for the real hospital.
    """

    plan: RunPlan
    sites_dir: Path
    run_folder: Path
    run_id: str
    runtime: RuntimeOptions
    resume: bool = False
    actors: int | None = None
    opener: str = ""


def run_with_flower(job: FlowerJob, *, observer: Observer | None = None) -> RunOutcome:
    """Run a federation through Flower's simulation.

    Raises:
        MedunlearnError: As :meth:`medunlearn_server.coordinator.Coordinator.run`; Transient
            FLOWER_FAILED if Flower or Ray broke.

    Guarantees:
        No process started here is alive when this returns or raises. If this process is
        killed, its children end within seconds.
    """
    run_folder = job.run_folder.resolve()
    private_folder(run_folder)
    (run_folder / FAILURE_FILE).unlink(missing_ok=True)
    enrol(job.plan, run_folder=run_folder, sites=_site_ids(job))
    # Unix socket paths must be short, so Ray gets a folder of its own near the root.
    scratch = Path(tempfile.mkdtemp(prefix="mu-"))
    try:
        job_file = _write_job(job, run_folder, scratch)
        reader = EventReader(run_folder / EVENTS_FILE, observer or NoObserver())
        status = _run_child(job, job_file, scratch, run_folder / LOG_FILE, reader)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if status != 0:
        raise _failure(run_folder, status)
    return read_outcome(run_folder)


def read_outcome(run_folder: Path) -> RunOutcome:
    """The outcome that the coordinator left in its folder.

    Raises:
        Transient: OUTCOME_MISSING.
    """
    try:
        text = (run_folder / OUTCOME_FILE).read_text(encoding="utf-8")
        return RunOutcome.from_json(json.loads(text))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Transient(
            "OUTCOME_MISSING", "the run folder holds no readable outcome",
            "resume the run; it has not finished",
        ) from error


def _site_ids(job: FlowerJob) -> dict[Path, str]:
    """Site folder to the id in its ``site.json``."""
    folders = [job.sites_dir.resolve() / f"site-{i}" for i in range(job.plan.federation.sites)]
    return {
        folder: json.loads((folder / SITE_FILE).read_text(encoding="utf-8"))["site_id"]
        for folder in folders
    }


def _write_job(job: FlowerJob, run_folder: Path, scratch: Path) -> Path:
    plan_file = scratch / "plan.toml"
    plan = Plan.model_validate(job.plan.model_dump(include=set(RunPlan.model_fields)))
    plan_file.write_text(plan_template(plan), encoding="utf-8")
    for name in ("cwd", "flwr", "ray"):
        (scratch / name).mkdir()
    actors = job.actors or max(1, min(job.plan.federation.sites, os.cpu_count() or 1))
    runtime = job.runtime
    document: dict[str, Any] = {
        "parent": os.getpid(),
        "sites": job.plan.federation.sites,
        "actors": actors,
        "gpus_per_actor": 1.0 / actors if _uses_gpu(runtime) else 0.0,
        "ray_folder": str(scratch / "ray"),
        "opener": job.opener,
        "absences": Absences.of_plan(job.plan).spans,
        "server": {
            "plan": str(plan_file), "run-folder": str(run_folder), "run-id": job.run_id,
            "resume": job.resume,
        },
        "client": {
            "sites-dir": str(job.sites_dir.resolve()), "device": runtime.device,
            "microbatch-tokens": runtime.microbatch_tokens, "threads": runtime.threads,
        },
    }
    job_file = scratch / "job.json"
    job_file.write_text(json.dumps(document), encoding="utf-8")
    return job_file


def _uses_gpu(runtime: RuntimeOptions) -> bool:
    # Ray hides GPUs from actors that ask for none; asking for one that is absent would hang.
    return runtime.device != "cpu" and any(Path("/dev").glob("nvidia[0-9]*"))


def _environment(job: FlowerJob, scratch: Path) -> dict[str, str]:
    return {
        **os.environ,
        "FLWR_HOME": str(scratch / "flwr"),
        **QUIET,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "OMP_NUM_THREADS": str(job.runtime.threads),
        "PYTHONUNBUFFERED": "1",
        # The packages may lie on this process's path only, as in a checkout under test.
        "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path if path),
    }


def _run_child(
    job: FlowerJob, job_file: Path, scratch: Path, log_file: Path, reader: EventReader
) -> int:
    with log_file.open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "medunlearn_simulation.flower_child", str(job_file)],
            cwd=scratch / "cwd", env=_environment(job, scratch), stdin=subprocess.DEVNULL,
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )
        try:
            while child.poll() is None:
                reader.follow()
                time.sleep(_POLL_S)
            reader.follow()
        finally:
            end_session(child.pid, grace_s=_GRACE_S)
            status = child.wait()
    return status


def _failure(run_folder: Path, status: int) -> MedunlearnError:
    try:
        failure = json.loads((run_folder / FAILURE_FILE).read_text(encoding="utf-8"))
        family = FAMILIES[failure["family"]]
        return family(failure["code"], failure["message"], failure["hint"])
    except (OSError, ValueError, KeyError):
        return Transient(
            "FLOWER_FAILED",
            f"the Flower simulation ended with status {status} and without a result",
            f"the end of {run_folder / LOG_FILE} says why; the run can be resumed",
        )

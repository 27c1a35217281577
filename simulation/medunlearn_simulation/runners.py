"""The two ways to run a federation on one machine, behind one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from medunlearn_common.plan import RunPlan, RuntimeOptions
from medunlearn_server.observer import Observer
from medunlearn_server.reports import RunOutcome
from medunlearn_simulation.flower_runner import FlowerJob, run_with_flower
from medunlearn_simulation.hospital_log import hospitals_log_to
from medunlearn_simulation.memory_runner import run_in_memory
from medunlearn_simulation.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class FederationJob:
    """One federation on this machine.

    Attributes:
        plan: The shared plan.
        folder: The run's folder, with the sites in it; a checkpoint there is resumed.
        run_id: Name of the run.
        runtime: How to run it; ``runtime.runner`` chooses.
        observer: Told about progress.
    """

    plan: RunPlan
    folder: RunFolder
    run_id: str
    runtime: RuntimeOptions
    observer: Observer


def run_federation(job: FederationJob) -> RunOutcome:
    """Run or go on with a federation.

    Raises:
        MedunlearnError: As :meth:`medunlearn_server.coordinator.Coordinator.run`.
    """
    return RUNNERS[job.runtime.runner](job)


def _memory(job: FederationJob) -> RunOutcome:
    # Late: a run through Flower needs no model in this process.
    from medunlearn_client.site import open_site

    folders = [job.folder.site(index) for index in range(job.plan.federation.sites)]
    hospitals = {folder.name: open_site(folder, job.runtime) for folder in folders}
    with hospitals_log_to(job.folder.root / "hospitals.log"):
        return run_in_memory(
            job.plan, hospitals, run_folder=job.folder.root, run_id=job.run_id,
            observer=job.observer, resume=True,
        )


def _flower(job: FederationJob) -> RunOutcome:
    return run_with_flower(
        FlowerJob(
            plan=job.plan, sites_dir=job.folder.site(0).parent, run_folder=job.folder.root,
            run_id=job.run_id, runtime=job.runtime, resume=True,
        ),
        observer=job.observer,
    )


RUNNERS: Mapping[str, Callable[[FederationJob], RunOutcome]] = {
    "memory": _memory,
    "flower": _flower,
}

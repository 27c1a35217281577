"""The plan of a run in its own folder: its file of A is the copy that is kept there.

The path that a plan names belongs to whoever wrote the plan. Once the run is launched, another
study's file may lie there, or none.
"""

from __future__ import annotations

from pathlib import Path

from medunlearn_common.plan import RunPlan, read_plan
from medunlearn_server.checkpoints import RunStore


def shared_plan(plan_file: Path, run_folder: Path) -> RunPlan:
    """What all parties of the run agree on.

    Args:
        plan_file: The plan as it was given.
        run_folder: The run's.

    Raises:
        Misconfigured: A code of :func:`read_plan`, or PUBLIC_FILE_MISSING.
    """
    plan, kept = read_plan(plan_file), RunStore(run_folder).a_file
    if plan.model.a_file and kept.is_file():
        model = plan.model.model_copy(update={"a_file": str(kept)})
        plan = plan.model_copy(update={"model": model})
    return plan.shared()

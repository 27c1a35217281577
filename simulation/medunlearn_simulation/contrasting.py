"""The frozen A of a simulated run: random, given with the plan, or made from its public text."""

from __future__ import annotations

from pathlib import Path

from medunlearn_client.contrast import directions_of, used_matrices, used_modules
from medunlearn_common.files import write_atomically
from medunlearn_common.frozen import A_FILE, frozen_bytes, write_frozen
from medunlearn_common.plan import Plan
from medunlearn_simulation.progress import PhaseBoard
from medunlearn_simulation.run_folder import RunFolder


def with_frozen_a(
    plan: Plan, model: str, folder: RunFolder, *, device: str, board: PhaseBoard,
) -> Plan:
    """The plan with its file of A in the run's folder; as it is where A is random.

    Where A is made here, only the modules that tell the topic apart carry an adapter.

    Raises:
        Misconfigured: CONTRAST_TEXTS, CONTRAST_SUBJECTS, CONTRAST_WEAK, A_FILE_MISSING, or a code
            of the public file's reader.
        Transient: WRITE_FAILED.
    """
    place, section = folder.root / A_FILE, plan.model
    if plan.model.a_file:
        write_atomically(place, frozen_bytes(Path(plan.model.a_file)), private=False)
    elif plan.contrast.public_file:
        steps = max(1, plan.contrast.start_steps)
        with board.phase("directions from public text", steps) as bar:
            found = directions_of(
                plan, model, device=device, on_step=lambda done, _: bar.set(done, "B's start"))
            modules = used_modules(found)
            write_frozen(place, used_matrices(found))
            bar.set(steps, f"{len(modules)} of {len(found)} modules carry an adapter")
        section = section.model_copy(update={"target_modules": modules})
    else:
        return plan
    return plan.model_copy(update={
        "model": section.model_copy(update={"a_file": str(place)})
    })

"""Whether an adapter's numbers are of the kind that the plan allows, before any model has them.

What B came to in the end no hospital can know. But A is the plan's, bit for bit, and no more of B
differs from zero than the plan's support has coordinates, which of a drawn support are known: a
coordinator that publishes an adapter of its own making has only these to hide it in.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from medunlearn_client.run_rules import kept_a_file, kept_layout
from medunlearn_common.attestation.files import ADAPTER_WEIGHTS
from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.frozen import A_PART, Matrix, b_name, frozen_matrices
from medunlearn_common.layout import AdapterLayout
from medunlearn_common.plan import RunPlan
from medunlearn_common.plan.public_files import PREFIX, own_copy
from medunlearn_common.support import planned_random_support, support_size


def require_planned_weights(
    file: Path, plan: RunPlan, *, folder: Path, public_files: tuple[str, ...]
) -> None:
    """Refuse weights that the plan does not explain.

    Args:
        file: The adapter's weights.
        plan: The shared plan.
        folder: The hospital's. Where it has no layout of the plan any more, as after a restore,
            it is not asked how many numbers of B differ from zero.
        public_files: What this hospital declared public, for a file of A of which it has no copy.

    Raises:
        Rejected: ADAPTER_WEIGHTS; PUBLIC_FILE_UNKNOWN if the file of A is not here any more.
    """
    tensors = _tensors(file)
    shapes = {name: values.shape for name, values in tensors.items() if A_PART in name}
    rank = plan.model.lora_rank
    if set(tensors) != set(shapes) | {b_name(name) for name in shapes} or any(
        values.ndim != 2 or values.dtype != np.float32
        or values.shape[0 if name in shapes else 1] != rank or not np.isfinite(values).all()
        for name, values in tensors.items()
    ):
        raise _unplanned("it holds other matrices than A and B of the plan's rank")
    _require_same_a(tensors, {n: (int(s[0]), int(s[1])) for n, s in shapes.items()}, plan,
                    (str(kept_a_file(folder, plan)), *public_files))
    layout = kept_layout(folder, plan)
    if layout.is_file():
        _require_sparse(tensors, AdapterLayout.from_json(layout.read_text(encoding="ascii")), plan)


def _require_sparse(tensors: dict[str, Matrix], layout: AdapterLayout, plan: RunPlan) -> None:
    density = plan.support.density
    found = {name: values.shape for name, values in tensors.items() if name in layout.names}
    if found != layout.trained_shapes or len(tensors) != 2 * len(found):
        raise _unplanned("it has other matrices than the run's layout")
    flat = np.concatenate([tensors[name].reshape(-1) for name in layout.names])
    most = support_size(layout, density)
    if plan.support.method == "random":
        drawn = planned_random_support(layout, density=density, plan_digest=plan.digest)
        flat[drawn.indices] = 0.0
        most = 0
    if np.count_nonzero(flat) > most:
        raise _unplanned("more of B differs from zero than the support allows")


def _require_same_a(
    tensors: dict[str, Matrix], shapes: dict[str, tuple[int, int]], plan: RunPlan,
    copies: tuple[str, ...],
) -> None:
    named = own_copy(plan.model.a_file, copies, may_be_builtin=False)
    try:
        expected = frozen_matrices(
            shapes, seed=plan.run.seed, file=Path(named) if named else None,
            digest=plan.model.a_file.removeprefix(PREFIX),
        )
    except Misconfigured as error:  # the plan's file has other modules
        raise _unplanned("its frozen A is of other modules than the plan's") from error
    if not all(np.array_equal(tensors[name], values) for name, values in expected.items()):
        raise _unplanned("its frozen A is not the plan's")


def _tensors(file: Path) -> dict[str, Matrix]:
    try:
        return load(file.read_bytes())
    except (SafetensorError, ValueError, KeyError) as error:  # KeyError: a type numpy lacks
        raise _unplanned("it is no safetensors file") from error


def _unplanned(why: str) -> Rejected:
    return Rejected(
        "ADAPTER_WEIGHTS", f"{ADAPTER_WEIGHTS} is not what the plan says: {why}",
        "do not use it; ask the coordinator, and tell the consortium if it stays so",
    )

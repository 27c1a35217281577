"""Where in the adapter do the forgotten records pull together?

    python benchmarks/module_coherence.py benchmarks/plans/surgery.toml [--seed 0]

For every adapted module of the planted model, at B = 0, with the gradients g of the plan's
forget loss taken for forget and for retain records alike, each scaled to length one:

* ``|mean f|``: length of the mean over forget records, 1 if all pull the same way;
* ``|f - r|``: length of the difference of the two means, what a clipped sum can gain;
* ``AUC``: of telling unseen forget from retain records by the direction f - r.

Nothing is clipped or noised: this looks at raw data, on the machine that holds it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from medunlearn_client.encoding import RecordEncoder, collate
from medunlearn_client.evaluation.roc import auc
from medunlearn_client.objectives import OBJECTIVES, ModelView
from medunlearn_client.records import Record
from medunlearn_client.workbench import shared_model
from medunlearn_simulation.preparing import (
    Overrides,
    plan_for_run,
    prepare_models,
    prepare_records,
)
from medunlearn_simulation.progress import PhaseBoard
from medunlearn_simulation.run_folder import RunFolder

EVERY_MODULE = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK = 64
# The output side is projected on this many random directions to save memory.
SKETCH = 8


def main() -> None:
    """Take the gradients and print a row per module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("plan", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--records", type=int, default=300, help="of each kind")
    given = parser.parse_args()
    plan = plan_for_run(given.plan, Overrides(seed=given.seed))
    with tempfile.TemporaryDirectory() as folder, PhaseBoard() as board:
        records = prepare_records(plan, RunFolder(root=Path(folder)), board)
        source, _ = prepare_models(plan, records, board, retrained=None)
    section = plan.model.model_copy(update={
        "target_modules": EVERY_MODULE, "lora_rank": RANK, "lora_alpha": float(RANK),
    })
    loaded, adapter = shared_model(source, section, plan.run.seed, "auto")
    encoder = RecordEncoder(loaded.tokenizer, max_tokens=plan.model.max_tokens)
    view = ModelView(adapter)
    objective = OBJECTIVES[plan.objective.name](plan.objective)
    objective.prepare(view, [])
    for b in adapter.b_matrices():
        b.requires_grad_(True)
    generator = np.random.default_rng(given.seed)

    def gradients(chosen: list[Record]) -> list[npt.NDArray[np.float32]]:
        rows = []
        for record in chosen:
            batch = collate([encoder.encode(record)], pad_id=0, device=adapter.device)
            loss = objective.forget(view, batch, [0]).loss.sum()
            rows.append(torch.autograd.grad(loss, adapter.b_matrices()))
        sketches = [
            torch.randn(SKETCH, b.shape[0], generator=torch.Generator().manual_seed(place))
            for place, b in enumerate(adapter.b_matrices())
        ]
        return [
            np.stack([(sketch @ row[place]).flatten().numpy() for row in rows])
            for place, sketch in enumerate(sketches)
        ]

    def some(of: tuple[Record, ...]) -> list[Record]:
        order = generator.permutation(len(of))[: given.records]
        return [of[int(place)] for place in order]

    forget = gradients(some(tuple(records.federation.forget)))
    retain = gradients(some(tuple(records.federation.retain)))
    print(f"{'module':44s} |mean f|  |f - r|  AUC")
    for name, f, r in zip(adapter.layout.names, forget, retain, strict=True):
        f, r = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (f, r))
        half_f, half_r = len(f) // 2, len(r) // 2
        direction = f[:half_f].mean(axis=0) - r[:half_r].mean(axis=0)
        area = auc(f[half_f:] @ direction, r[half_r:] @ direction)
        short = name.removeprefix("base_model.model.model.").removesuffix(".lora_B.weight")
        print(f"{short:44s} {np.linalg.norm(f.mean(axis=0)):8.2f}  "
              f"{np.linalg.norm(f.mean(axis=0) - r.mean(axis=0)):7.2f}  {area:.3f}")


if __name__ == "__main__":
    main()

"""How sharply one linear gate in each adapted module can tell forgotten records from kept ones.

A row of B opens on ``<v, x>``, x the module's input at the position that predicts an answer
token. Forgetting pays <v, x> on forget records; whatever the gate lets through on kept
records is damage, which KL charges with its square. The best gate for a given second moment
S = E[x x^T] of kept inputs is S^-1 E_f[x] (least squares); descent from B = 0 begins at
E_f[x] itself and is moved towards the best one by the retain records, as far as noise and
rounds allow. This script prints both, and what S taken from other texts would give:

    python benchmarks/gate_leak.py benchmarks/plans/surgery.toml [--seed 1] [--public FILE]

Halves of the records: gates from the first, figures from the second. ``leak`` is the root mean
square of the gate on kept inputs over its mean on forgotten ones (no unit).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medunlearn_client.contrast import answer_inputs
from medunlearn_client.encoding import RecordEncoder
from medunlearn_client.evaluation.roc import auc
from medunlearn_client.records import Record, read_records
from medunlearn_client.records.subject_line import with_subject
from medunlearn_client.workbench import shared_model
from medunlearn_simulation.preparing import (
    Overrides,
    plan_for_run,
    prepare_models,
    prepare_records,
)
from medunlearn_simulation.progress import PhaseBoard
from medunlearn_simulation.run_folder import RunFolder

Reals = npt.NDArray[np.float64]
# Added to S in units of its mean eigenvalue.
DAMPINGS = (1.0, 0.1)


def main() -> None:
    """Collect the inputs and print a row per module and second moment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("plan", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--records", type=int, default=600, help="most of each kind")
    parser.add_argument("--public", type=Path, help="public questions for one more S")
    given = parser.parse_args()
    plan = plan_for_run(given.plan, Overrides(seed=given.seed))
    with tempfile.TemporaryDirectory() as folder, PhaseBoard() as board:
        records = prepare_records(plan, RunFolder(root=Path(folder)), board)
        source, _ = prepare_models(plan, records, board, retrained=None)
    loaded, adapter = shared_model(source, plan.model, plan.run.seed, "auto")
    encoder = RecordEncoder(loaded.tokenizer, max_tokens=plan.model.max_tokens)
    generator = np.random.default_rng(given.seed)

    def inputs_of(found: Sequence[Record]) -> list[Reals]:
        chosen = [found[int(i)] for i in generator.permutation(len(found))[: given.records]]
        return [np.concatenate(kept) for kept in answer_inputs(adapter, encoder, chosen)]

    forget = inputs_of(records.federation.forget)
    retain = inputs_of(records.federation.retain)
    others = {"records no model was taught": inputs_of(records.federation.nonmembers)}
    if given.public is not None:
        public = read_records([given.public])
        if plan.data.show_subject:
            public = [with_subject(record) for record in public]
        others["public questions"] = inputs_of(public)
    print(f"{'module':28s} {'S from':28s} damping  AUC    leak")
    for place, name in enumerate(adapter.layout.names):
        short = name.removeprefix("base_model.model.model.").removesuffix(".lora_B.weight")
        for source_name, damping, found, leak in rows(
            forget[place], retain[place], {key: value[place] for key, value in others.items()}
        ):
            print(f"{short:28s} {source_name:28s} {damping:7s}  {found:.3f}  {leak:.3f}")


def rows(
    forget: Reals, retain: Reals, others: dict[str, Reals]
) -> Iterator[tuple[str, str, float, float]]:
    """(source of S, damping, AUC, leak) of each gate, measured on the second halves."""
    (learn_f, test_f), (learn_r, test_r) = (np.array_split(x, 2) for x in (forget, retain))
    mean = learn_f.mean(axis=0)
    yield ("none: the mean itself", "", *gate_figures(mean, test_f, test_r))
    for name, x in {"kept records": learn_r, **others}.items():
        moment = x.T @ x / len(x)
        size = np.trace(moment) / len(moment)
        for damping in DAMPINGS:
            gate = np.linalg.solve(moment + damping * size * np.eye(len(moment)), mean)
            yield (name, f"{damping}", *gate_figures(gate, test_f, test_r))


def gate_figures(gate: Reals, forget: Reals, retain: Reals) -> tuple[float, float]:
    """AUC of telling forget from kept inputs, and the leak."""
    opened, leaked = forget @ gate, retain @ gate
    return auc(opened, leaked), float(np.sqrt(np.mean(leaked**2)) / opened.mean())


if __name__ == "__main__":
    main()

"""How far k coordinates of an adapter can forget at all: no noise, no sites, small steps.

A federated run ends where noise, few rounds and the adapter's own form let it end. This script
takes the first two away: it descends the plan's forget loss plus ``--weight`` times its retain
loss on all records of the plan in one place, by Adam on mini-batches, and prints ranking and exact
answers on the way. What is left is what the parametrisation allows.

    python benchmarks/capacity.py benchmarks/plans/surgery.toml --seed 1
    python benchmarks/capacity.py benchmarks/plans/surgery.toml --seed 1 --modules all --rank 1 \\
        --directions records --rate 0.06
    python benchmarks/capacity.py benchmarks/plans/surgery.toml --seed 1 --modules all \\
        --coordinates 0 --rate 0.01 --weight 0.3

Rows of B are chosen by the energy of the forget gradient over that of the retained answers'
log-odds, as the vote does, without noise. ``--directions records`` makes A of the forgotten and
kept records themselves: the best that public text could come to, and nothing a run may do.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from medunlearn_client.adapters import LoraAdapter
from medunlearn_client.alternatives import AlternativeAnswers
from medunlearn_client.contrast import contrast_directions, public_tagger
from medunlearn_client.encoding import EncodedRecord, RecordEncoder, TokenBatch, collate
from medunlearn_client.evaluation import CurveMeter, WholeModel
from medunlearn_client.models import LoadedModel
from medunlearn_client.objectives import OBJECTIVES, ModelView
from medunlearn_client.objectives.vote import VoteObjective
from medunlearn_client.records import Record
from medunlearn_client.workbench import shared_model
from medunlearn_common.plan import Plan
from medunlearn_common.support import support_size
from medunlearn_simulation.measuring import evaluation_inputs
from medunlearn_simulation.preparing import (
    Overrides,
    PreparedRecords,
    plan_for_run,
    prepare_models,
    prepare_records,
)
from medunlearn_simulation.progress import PhaseBoard
from medunlearn_simulation.run_folder import RunFolder

EVERY_MODULE = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
VOTE_BATCHES = 3
DIRECTION_RECORDS = 400


def main() -> None:
    """Open, descend, print."""
    given = _arguments()
    plan = plan_for_run(given.plan, Overrides(seed=given.seed))
    with tempfile.TemporaryDirectory() as folder, PhaseBoard() as board:
        records = prepare_records(plan, RunFolder(root=Path(folder)), board)
        source, _ = prepare_models(plan, records, board, retrained=None)
    modules = EVERY_MODULE if given.modules == ["all"] else tuple(given.modules)
    section = plan.model.model_copy(update={
        "target_modules": modules, "lora_rank": given.rank, "lora_alpha": float(given.rank),
    })
    loaded, adapter = shared_model(source, section, plan.run.seed, "cpu")
    trial = Trial(plan, loaded, adapter, records, seed=given.seed)
    if given.directions == "records":
        trial.direct()
    coordinates = given.coordinates or adapter.layout.dimension
    if given.coordinates is None:
        coordinates = support_size(adapter.layout, plan.support.density)
    print(f"{trial.choose(coordinates)} of {adapter.layout.dimension} coordinates")
    print(trial.figures("before"))
    for step in trial.descend(given.steps, rate=given.rate, weight=given.weight,
                              batch=given.batch):
        if step % given.every == 0:
            print(trial.figures(f"step {step}"), flush=True)


class Trial:
    """One model, one parametrisation, all records in one place."""

    def __init__(
        self, plan: Plan, loaded: LoadedModel, adapter: LoraAdapter, records: PreparedRecords, *,
        seed: int,
    ) -> None:
        self._records = records
        self._adapter = adapter
        self._generator = np.random.default_rng(seed)
        self._encoder = RecordEncoder(loaded.tokenizer, max_tokens=plan.model.max_tokens)
        self._view = ModelView(adapter, cache_bytes=2 << 30, compute_dtype=torch.bfloat16)
        tagger = public_tagger(plan)
        others = AlternativeAnswers(tagger.hierarchy.hierarchy, tagger)
        self._forget = [
            self._encoder.encode(record, alternatives=others.of(record))
            for record in records.federation.forget
        ]
        self._retain = [self._encoder.encode(record) for record in records.federation.retain]
        self._objective = OBJECTIVES[plan.objective.name](plan.objective)
        self._objective.prepare(self._view, self._forget)
        self._vote = VoteObjective(self._objective)
        self._meter = CurveMeter(evaluation_inputs(records, plan), max_records=100)
        self._scored = WholeModel(model=adapter.model, tokenizer=loaded.tokenizer)
        self._kept_before: float | None = None
        self._matrices = adapter.b_matrices()
        self._masks = [torch.ones_like(b) for b in self._matrices]
        for b in self._matrices:
            b.requires_grad_(True)

    def direct(self) -> None:
        """Set A to the directions that tell the records themselves apart."""
        topic, other = (self._some(found, DIRECTION_RECORDS) for found in (
            self._records.federation.forget, self._records.federation.retain))
        found = contrast_directions(self._adapter, self._encoder, topic, other, min_auc=0.0)
        for linear, direction in zip(self._adapter.a_linears(), found, strict=True):
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(direction.values))

    def choose(self, coordinates: int) -> int:
        """Mask all but the rows that vote highest; how many coordinates are left."""
        sums = [torch.zeros_like(b) for b in self._matrices]
        kept = [torch.zeros(b.shape[0]) for b in self._matrices]
        for _ in range(VOTE_BATCHES):
            batch, rows = self._batch(self._forget, 48)
            forget = self._gradient(self._vote.forget(self._view, batch, rows).loss)
            retain = self._gradient(self._vote.retain(self._view, self._batch(self._retain, 48)[0])
                                    .loss)
            for i, (f, r) in enumerate(zip(forget, retain, strict=True)):
                sums[i] += f
                kept[i] += r.square().sum(1)
        damping = torch.cat(kept).mean()
        scores = torch.cat([s.square().sum(1) / (r + damping)
                            for s, r in zip(sums, kept, strict=True)])
        lengths = torch.cat([torch.full((b.shape[0],), b.shape[1]) for b in self._matrices])
        order = scores.argsort(descending=True)
        chosen = torch.zeros(len(scores), dtype=torch.bool)
        chosen[order[lengths[order].cumsum(0) <= coordinates]] = True
        pieces = chosen.split([b.shape[0] for b in self._matrices])
        self._masks = [piece.float().unsqueeze(1) for piece in pieces]
        return int(lengths[chosen].sum())

    def descend(self, steps: int, *, rate: float, weight: float, batch: int) -> Iterator[int]:
        """Adam with a short warm-up and a cosine to zero; yields after every step."""
        adam = torch.optim.Adam(self._matrices, lr=rate, betas=(0.9, 0.99))
        warm = torch.optim.lr_scheduler.LinearLR(adam, start_factor=0.1, total_iters=10)
        cool = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=steps)
        for step in range(1, steps + 1):
            chosen, rows = self._batch(self._forget, batch)
            forget = self._gradient(self._objective.forget(self._view, chosen, rows).loss)
            kept, _ = self._batch(self._retain, 2 * batch)
            retain = self._gradient(self._objective.retain(self._view, kept).loss)
            for b, f, r, mask in zip(self._matrices, forget, retain, self._masks, strict=True):
                b.grad = (f + weight * r) * mask
            adam.step()
            (warm if step < 10 else cool).step()
            yield step

    def figures(self, when: str) -> str:
        """Ranking and exact answers, forgotten and kept."""
        point = self._meter.measure(self._scored)
        kept = point.retain_accuracy or 0.0
        self._kept_before = kept if self._kept_before is None else self._kept_before
        return (f"{when}: forgotten {100 * (point.forget_accuracy or 0):.1f} % "
                f"({100 * (point.forget_exact or 0):.1f}), preserved "
                f"{100 * kept / self._kept_before:.1f} % (exact "
                f"{100 * (point.retain_exact or 0):.1f})")

    def _gradient(self, losses: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(losses.mean(), self._matrices)

    def _batch(self, found: Sequence[EncodedRecord], size: int) -> tuple[TokenBatch, list[int]]:
        order = self._generator.permutation(len(found))[:size]
        rows = [int(place) for place in order]
        chosen = [found[row] for row in rows]
        return collate(chosen, pad_id=0, device=self._adapter.device), rows

    def _some(self, found: Sequence[Record], most: int) -> list[Record]:
        return [found[int(i)] for i in self._generator.permutation(len(found))[:most]]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--modules", nargs="+", default=["o_proj"], help="names, or: all")
    parser.add_argument("--rank", type=int, default=256)
    parser.add_argument("--directions", choices=("random", "records"), default="random")
    parser.add_argument("--coordinates", type=int,
                        help="k; 0 for all of them (default: the plan's density)")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=20, help="steps between two figures")
    parser.add_argument("--batch", type=int, default=24, help="forget records a step; twice "
                        "as many retain records")
    parser.add_argument("--rate", type=float, default=0.1, help="Adam's learning rate")
    parser.add_argument("--weight", type=float, default=0.1, help="of the retain loss")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""Wrong labels in forget and retain sets, with and without what is done against them.

    python benchmarks/wrong_labels.py [--seeds 0 1 2] [--rates 0 0.1 0.2 0.4] [--out runs/wrong]

The embedded demo as `benchmarks/plans/demo.toml` runs it, with hospitals that hold a copy of
the records in which labels are wrong, while the model was taught, and is measured on, the true
ones. At rate p, nested in the rates above it:

* **marks** (the forget set's labels): p of the topic's records carry another subject and are
  retained, and as many records of other subjects (no patients) carry the topic's and are
  forgotten in their stead;
* **answers** (the retain set's labels): p of all other records that have options name a wrong
  one as the answer, patients' records too.

Arms: retain by KL to the reference alone (the default), or with cross-entropy on the answers as
well; each without and with the plan's `[labels]` (trust estimated, and by mention of a target).
Complete runs are not repeated. The table is printed and written to ``wrong_labels.md``.

    python benchmarks/wrong_labels.py --detect

prints instead how many wrong answers each rule finds: the record's own likelihood ratio below
one half, and a two-component mixture fitted to all losses, which differential privacy forbids.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from ablation import with_switches
from numpy.typing import NDArray

from medunlearn_client.alternatives import AlternativeAnswers
from medunlearn_client.encoding import EncodedRecord, RecordEncoder, collate
from medunlearn_client.evaluation import WholeModel
from medunlearn_client.evaluation.accuracy import accuracy_table
from medunlearn_client.evaluation.record_scores import score_records
from medunlearn_client.objectives.base import ModelView, token_log_probabilities
from medunlearn_client.records import Record
from medunlearn_client.records.jsonl import record_from_row
from medunlearn_client.trust import has_own_options, held_by_model
from medunlearn_client.workbench import shared_model
from medunlearn_common.entropy import public_generator
from medunlearn_common.files import write_atomically
from medunlearn_common.plan import RuntimeOptions
from medunlearn_server.checkpoints import RunStore
from medunlearn_server.coordinator import new_run_id
from medunlearn_simulation.demo_corpus import FORGET_SUBJECT, demo_rows
from medunlearn_simulation.preparing import (
    DEMO_NONMEMBER_FRACTION,
    FORGET_ROOT,
    Overrides,
    plan_for_run,
    prepare_models,
    prepare_records,
)
from medunlearn_simulation.progress import PhaseBoard
from medunlearn_simulation.run_folder import RunFolder
from medunlearn_simulation.runners import FederationJob, run_federation
from medunlearn_simulation.simulate import write_sites
from medunlearn_simulation.snapshots import SnapshotKeeper, keep_last, learned

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
BASE = Path(__file__).parent / "plans" / "demo.toml"
TRUST = {
    "labels.confidence": '"estimated"', "labels.forget_without_target": "0.0",
    "labels.retain_with_target": "0.0",
}
CROSS_ENTROPY = {"objective.retain_cross_entropy": "1.0"}
ARMS: dict[str, dict[str, str]] = {
    "KL": {},
    "KL, with trust": TRUST,
    "KL + CE": CROSS_ENTROPY,
    "KL + CE, with trust": CROSS_ENTROPY | TRUST,
}
GROUPS = ("topic", "topic, marked keep", "kept", "kept, marked forget", "kept, wrong answer")


def main() -> None:
    """Run what is missing, rate by rate, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rates", nargs="+", type=float, default=[0.0, 0.1, 0.2, 0.4])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--out", type=Path, default=Path("runs/wrong"))
    parser.add_argument("--detect", action="store_true", help="compare rules, run nothing")
    given = parser.parse_args()
    if given.detect:
        print(detection(given.out, given.seeds, [rate for rate in given.rates if rate > 0]))
        return
    found: dict[tuple[float, str], list[dict[str, float]]] = defaultdict(list)
    for seed in given.seeds:
        for rate in given.rates:
            for arm in given.arms:
                print(f"seed {seed}, {rate:.0%} wrong, {arm}", flush=True)
                found[rate, arm].append(completed(given.out, seed, rate, arm))
                write_atomically(given.out / "wrong_labels.md", table(found).encode())
    print(table(found))


def completed(out: Path, seed: int, rate: float, arm: str) -> dict[str, float]:
    """The figures of one run, which is made where there is none."""
    name = f"{arm.replace(', ', '-').replace(' + ', '-').replace(' ', '-')}-{rate:g}-seed{seed}"
    kept = out / f"{name}.json"
    if not kept.is_file():
        folder = (out / name).absolute()
        shutil.rmtree(folder, ignore_errors=True)
        figures = run(folder, seed, rate, ARMS[arm])
        write_atomically(kept, json.dumps(figures, indent=1).encode())
    figures = json.loads(kept.read_text("utf-8"))
    return {group: float(value) for group, value in figures.items()}


def run(folder: Path, seed: int, rate: float, switches: dict[str, str]) -> dict[str, float]:
    """One federation on records with wrong labels, measured on the true ones."""
    rows = list(demo_rows(seed=seed))
    wrong_marks, wrong_answers = chosen(rows, seed, rate)
    files = {"true": rows, "held": list(spoiled(rows, wrong_marks, wrong_answers))}
    for name, held in files.items():
        text = "".join(json.dumps(row) + "\n" for row in held)
        write_atomically(folder / f"{name}.jsonl", text.encode())
    plan_file = folder / "plan.toml"
    common = {
        "data.nonmember_fraction": str(DEMO_NONMEMBER_FRACTION),
        "forget.subjects": f'["{FORGET_SUBJECT}"]', "concepts.forget_roots": f'["{FORGET_ROOT}"]',
        "evaluation.retrained": "false", "evaluation.curve_every": "1000",
        "gates.min_preservation": "0.0",  # what a gate would stop is measured all the same
    }
    plan_text = with_switches(BASE.read_text("utf-8"), common | switches)
    write_atomically(plan_file, plan_text.encode())
    plans = {
        name: plan_for_run(
            plan_file, Overrides(data=(folder / f"{name}.jsonl",), seed=seed)
        )
        for name in files
    }
    place = RunFolder(root=folder)
    with PhaseBoard(quiet=True) as board:
        records = prepare_records(plans["true"], place, board)
        model, _ = prepare_models(plans["true"], records, board, retrained=None)
        plan = plans["held"]
        write_sites(plan, place, model)
        store = RunStore(folder)
        with board.phase("unlearning together", plan.run.rounds) as bar:
            keeper = SnapshotKeeper(place.snapshots, every=plan.evaluation.curve_every, bar=bar)
            keep_last(keeper, store)
            run_federation(FederationJob(
                plan=plan.shared(), folder=place, observer=keeper,
                runtime=RuntimeOptions(runner="memory"),
                run_id=new_run_id(plan.shared(), nonce=f"seed-{seed}"),
            ))
    return measured(
        plan, model, store, (*records.federation.forget, *records.federation.retain),
        wrong_marks, wrong_answers,
    )


def chosen(rows: list[dict[str, Any]], seed: int, rate: float) -> tuple[dict[str, str], set[str]]:
    """Which marks are swapped, as subject by id, and whose answers are wrong, at this rate."""
    def drawn(ids: list[str], purpose: str, count: int) -> list[str]:
        order = public_generator(seed, "wrong labels", purpose).permutation(len(ids))
        return [ids[place] for place in order[:count]]

    subject_of = {row["id"]: row["subject"] for row in rows}
    topic = [i for i, subject in subject_of.items() if subject == FORGET_SUBJECT]
    others = [row["id"] for row in rows
              if row["subject"] != FORGET_SUBJECT and "patient_id" not in row]
    count = round(rate * len(topic))
    left, entered = drawn(topic, "topic", count), drawn(others, "others", count)
    marks = {i: subject_of[j] for i, j in zip(left, entered, strict=True)}
    marks |= dict.fromkeys(entered, FORGET_SUBJECT)
    ranked = [row["id"] for row in rows if row["subject"] != FORGET_SUBJECT and "options" in row]
    return marks, set(drawn(ranked, "answers", round(rate * len(ranked))))


def spoiled(
    rows: list[dict[str, Any]], marks: dict[str, str], answers: set[str]
) -> Iterator[dict[str, Any]]:
    """The rows with those labels wrong; nothing else of them changes."""
    for row in rows:
        bad = row | {"subject": marks.get(row["id"], row["subject"])}
        if row["id"] in answers:
            index = (row["answer_index"] + 1) % len(row["options"])
            answer = row["options"][index]
            bad |= {"answer_index": index, "answer": answer}
            if "target_spans" in row:
                *named, (start, _) = row["target_spans"]
                bad["target_spans"] = [*named, [start, start + len(answer)]]
        yield bad


def measured(
    plan: Any, model: str, store: RunStore, records: tuple[Record, ...],
    marks: dict[str, str], answers: set[str],
) -> dict[str, float]:
    """Ranking accuracy by group, and the exact answers of the two whole sets."""
    base, adapter = shared_model(model, plan.model, plan.run.seed, "cpu")
    found = learned(store)
    if found is None:
        raise RuntimeError("the run did not finish")
    _, learning = found
    adapter.set_on_support(learning.support, learning.step.published.astype(np.float32))

    def group(record: Record) -> str:
        if record.subject == FORGET_SUBJECT:
            return GROUPS[1] if record.record_id in marks else GROUPS[0]
        if record.record_id in marks:
            return GROUPS[3]
        return GROUPS[4] if record.record_id in answers else GROUPS[2]

    whole = WholeModel(model=adapter.model, tokenizer=base.tokenizer)
    groups = [group(record) for record in records]
    outcomes = accuracy_table(score_records(whole, records, seed=plan.run.seed))
    by_group = outcomes.grouped(groups)
    by_set = outcomes.grouped([name.split(",")[0] for name in groups])
    figures = {name: part.accuracy for name, part in by_group.items()}
    for name, part in by_set.items():
        figures |= {f"{name} (all)": part.accuracy, f"{name} (all), exact": part.exact}
    return {name: value for name, value in figures.items() if value is not None}


def detection(out: Path, seeds: list[int], rates: list[float]) -> str:
    """A Markdown table: share of wrong answers found, and of right ones taken for wrong."""
    lines = ["| wrong | records | seed | ratio: found, % | right ones lost, % | "
             "mixture: found, % | right ones lost, % |", "|" + "---|" * 7]
    for seed in seeds:
        rows = list(demo_rows(seed=seed))
        folder = (out / f"detect-seed{seed}").absolute()
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_atomically(folder / "true.jsonl", text.encode())
        plan = plan_for_run(BASE, Overrides(data=(folder / "true.jsonl",), seed=seed,
                                            forget_subjects=(FORGET_SUBJECT,)))
        plan = plan.model_copy(update={"evaluation": plan.evaluation.model_copy(
            update={"retrained": False})})
        with PhaseBoard(quiet=True) as board:
            records = prepare_records(plan, RunFolder(root=folder), board)
            model, _ = prepare_models(plan, records, board, retrained=None)
        base, adapter = shared_model(model, plan.model, seed, "cpu")
        view, encoder = ModelView(adapter), RecordEncoder(base.tokenizer, max_tokens=256)
        source = AlternativeAnswers(records.tagger.hierarchy.hierarchy, records.tagger)
        members = {record.record_id for record in records.federation.retain}
        for rate in rates:
            _, wrong = chosen(rows, seed, rate)
            held = [record_from_row(row) for row in spoiled(rows, {}, wrong)
                    if row["id"] in members and "options" in row]
            for kind in ("question", "patient"):
                own = [r for r in held if (r.patient_id is not None) == (kind == "patient")]
                encoded = [encoder.encode(r, alternatives=source.of(r)) for r in own]
                is_wrong = np.array([r.record_id in wrong for r in own])
                ratio = np.array([
                    held_by_model(view, e, by_options=has_own_options(r))
                    for e, r in zip(encoded, own, strict=True)
                ]) < 0.5
                losses = np.array([_loss(view, e) for e in encoded])
                cells = [f"{100 * share:.1f}" for flagged in (ratio, upper_component(losses))
                         for share in (flagged[is_wrong].mean(), flagged[~is_wrong].mean())]
                lines.append(f"| {rate:.0%} | {len(own)} {kind}s | {seed} | "
                             + " | ".join(cells) + " |")
    return "\n".join(lines)


def _loss(view: ModelView, record: EncodedRecord) -> float:
    with torch.no_grad():
        batch = collate([record], pad_id=0, device=view.device)
        return -float(token_log_probabilities(view.reference_logits(batch), batch).mean())


def upper_component(losses: FloatArray, *, rounds: int = 50) -> BoolArray:
    """Who belongs to the upper of two normal components more probably than not (EM)."""
    means = np.quantile(losses, [0.1, 0.9])
    deviations, shares = np.full(2, losses.std() + 1e-6), np.full(2, 0.5)
    for _ in range(rounds):
        log_p = (np.log(shares) - np.log(deviations)
                 - 0.5 * ((losses[:, None] - means) / deviations) ** 2)
        weights = np.exp(log_p - np.logaddexp(log_p[:, :1], log_p[:, 1:]))
        total = weights.sum(axis=0) + 1e-9
        means = (weights * losses[:, None]).sum(axis=0) / total
        deviations = np.sqrt((weights * (losses[:, None] - means) ** 2).sum(axis=0) / total) + 1e-3
        shares = total / total.sum()
    flagged: BoolArray = weights[:, int(means.argmax())] > 0.5
    return flagged


def table(found: dict[tuple[float, str], list[dict[str, float]]]) -> str:
    """A Markdown table, one row per rate and arm."""
    columns = ("topic (all)", "topic (all), exact", "kept (all)", "kept (all), exact", *GROUPS[1:2],
               *GROUPS[3:])
    lines = ["| wrong | retain loss | seeds | " + " | ".join(f"{c}, %" for c in columns) + " |",
             "|" + "---|" * (len(columns) + 3)]
    for (rate, arm), runs in sorted(found.items(), key=lambda item: item[0][0]):
        cells = [_spread([one[column] for one in runs if column in one]) for column in columns]
        lines.append(f"| {rate:.0%} | {arm} | {len(runs)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _spread(values: list[float]) -> str:
    known = sorted(100 * value for value in values)
    if not known:
        return "–"
    low, middle, high = (f"{v:.1f}" for v in (known[0], median(known), known[-1]))
    return middle if low == high else f"{middle} ({low} to {high})"


if __name__ == "__main__":
    main()

"""Does forgetting in several wordings reach wordings that it did not use?

    python benchmarks/paraphrases.py [--seeds 0 1 2] [--out runs/paraphrases] [--only ARM ...]
                                     [--never-taught]

A model can be forgotten a fact in other words only if it knows it in them: the demo's models are
planted with every fact in its own wording, in those that forgetting may use (the packaged ones),
and in those that it never does (``heldout_wordings.toml``). With ``--never-taught`` a second
model is planted with the kept facts alone, in the same wordings; it takes as long again. Each arm
is `medunlearn simulate` on a plan that is written beside it; the adapter is then asked all facts
in the held-out wordings, and in frames that no model was ever taught. Complete runs are not
repeated.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from ablation import BASE, COMMON, with_switches
from results_table import spread

from medunlearn_client.adoption.loading import open_adapter
from medunlearn_client.evaluation import WholeModel
from medunlearn_client.evaluation.accuracy import accuracy_table
from medunlearn_client.evaluation.membership import reframe
from medunlearn_client.evaluation.record_scores import score_records
from medunlearn_client.evaluation.scored_model import ScoredModel
from medunlearn_client.models import load_causal_lm
from medunlearn_client.paraphrases import Paraphraser, load_wordings
from medunlearn_client.records import Record
from medunlearn_client.site_data import load_federation_records, record_tagger
from medunlearn_common.files import write_atomically
from medunlearn_common.plan import Plan
from medunlearn_simulation.demo_corpus import FORGET_SUBJECT, NEIGHBOUR_SUBJECTS, write_demo_corpus
from medunlearn_simulation.planted import PlantingRequest, planted_models
from medunlearn_simulation.planting import native_bfloat16
from medunlearn_simulation.planting_recipe import PlantedExample, PlantingRecipe
from medunlearn_simulation.preparing import FORGET_ROOT, Overrides, plan_for_run
from medunlearn_simulation.progress import PhaseBoard
from medunlearn_simulation.result import RESULT_FILE, load_result

HELD_OUT = Path(__file__).parent / "heldout_wordings.toml"
N_HELD_OUT = 3
RETAINED_ASKED = 80
"""Kept facts that are asked in all wordings: every fourth or so, for the time it takes."""
# Only what the table shows is measured: no curve, no relearning.
TASK = {
    "evaluation.relearning_steps": "0",
    "forget.subjects": f'["{FORGET_SUBJECT}"]',
    "concepts.forget_roots": f'["{FORGET_ROOT}"]',
    "neighbours.subjects": str(list(NEIGHBOUR_SUBJECTS)).replace("'", '"'),
}
ARMS: dict[str, dict[str, str]] = {
    "own wording only": {},
    "one per round": {"paraphrases.use": '"one"'},
    "all wordings": {"paraphrases.use": '"all"'},
}
NEVER = "never taught"
VOCABULARY = 1024
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Wordings:
    """The same facts in several sets of words; each has forget and retain records.

    Attributes:
        own: As the records say it.
        used: What forgetting uses where it is told to.
        held_out: What it never uses, and the models were taught.
        untaught: What no model was taught.
    """

    own: tuple[Record, ...]
    used: tuple[Record, ...]
    held_out: tuple[Record, ...]
    untaught: tuple[Record, ...]


def wordings_of(records: Sequence[Record], used: Paraphraser, held: Paraphraser) -> Wordings:
    """All wordings of some records; what is held out is never among the used."""
    taken = {other.prompt for record in records for other in used.of(record).records}
    held_out = [r for record in records for r in held.of(record).records if r.prompt not in taken]
    return Wordings(
        own=tuple(records),
        used=tuple(r for record in records for r in used.of(record).records),
        held_out=tuple(held_out),
        untaught=tuple(
            r for record in records for r in _numbered(record, reframe(record)[:1])
        ),
    )


def _numbered(record: Record, others: Sequence[Record]) -> list[Record]:
    return [
        replace(other, record_id=f"{record.record_id}~u{number}")
        for number, other in enumerate(others)
    ]


def prepared(plan: Plan) -> tuple[Wordings, Wordings]:
    """The plan's forget and retain records in all wordings."""
    federation = load_federation_records(
        data=plan.data, forget=plan.forget, concepts=plan.concepts, unit=plan.privacy.unit,
        n_sites=plan.federation.sites, seed=plan.run.seed,
        concentration=plan.federation.concentration,
    )
    tagger = record_tagger(plan.concepts, plan.forget, plan.data)
    used = Paraphraser(load_wordings(), tagger, max_per_record=plan.paraphrases.max_per_record)
    held = Paraphraser(
        load_wordings(HELD_OUT), tagger, max_per_record=N_HELD_OUT, synonyms=False
    )
    return wordings_of(federation.forget, used, held), wordings_of(federation.retain, used, held)


def planted(
    forget: Wordings, retain: Wordings, seed: int, *, never_taught: bool
) -> dict[str, Path]:
    """Folders of the planted models by what they are called; one is trained after the other."""
    everything = examples(forget) + examples(retain)
    taught = {"before": everything} | ({NEVER: examples(retain)} if never_taught else {})
    texts = tuple(example.prompt + example.answer for example in everything)
    options = sorted({f" {o}" for w in (forget, retain) for r in w.own for o in r.options})
    recipe = PlantingRecipe(
        layers=3, max_epochs=20, warmup_steps=50, batch_size=32, target_exact=0.985,
        bfloat16=native_bfloat16(), seed=seed,
    )
    folders = {}
    for name, known in taught.items():
        request = PlantingRequest(
            taught={"original": known}, tokenizer_texts=(*texts, *options), vocab_size=VOCABULARY,
            recipe=recipe,
        )
        with PhaseBoard() as board:
            folders[name] = planted_models(request, board=board)["original"]
    return folders


def examples(wordings: Wordings) -> tuple[PlantedExample, ...]:
    """What a model is taught: own, used and held-out wordings."""
    answers = {
        r.prompt: f" {r.answer}" for r in (*wordings.own, *wordings.used, *wordings.held_out)
    }
    return tuple(PlantedExample(prompt=p, answer=a) for p, a in answers.items())


def run_arm(out: Path, name: str, seed: int, models: dict[str, Path]) -> Path:
    """The folder of one run, which is made where there is none."""
    folder = out / f"{name.replace(' ', '-')}-seed{seed}"
    if not (folder / RESULT_FILE).is_file():
        plan = plan_file(out, name, seed)
        arguments = ["--resume", str(folder)] if folder.exists() else [
            str(plan), "--runner", "memory", "--seed", str(seed), "--out", str(folder),
            "--model", str(models["before"]),
            *(["--retrained-model", str(models[NEVER])] if NEVER in models else []),
        ]
        program = "import sys; from medunlearn_common.cli import main; sys.exit(main())"
        subprocess.run([sys.executable, "-c", program, "simulate", *arguments, "-q"], check=True)
    return folder


def plan_file(out: Path, name: str, seed: int) -> Path:
    """Writes the plan of one arm beside its run, and the demo's records once."""
    data = out / f"demo-seed{seed}.jsonl"
    if not data.exists():
        write_demo_corpus(data, seed=seed)
    switches = COMMON | TASK | {"data.files": f'["{data.absolute()}"]'} | ARMS[name]
    path = out / f"{name.replace(' ', '-')}-seed{seed}.toml"
    write_atomically(path, with_switches(BASE.read_text("utf-8"), switches).encode())
    return path


Row = dict[str, float | None]


def measured(folder: Path, forget: Wordings, retain: Wordings) -> Row:
    """Accuracy after the run, by wording; and what the run itself found."""
    result = load_result(folder)
    base, model = open_adapter(folder / "adapter", model=None, device=CPU)
    after = WholeModel(model=model, tokenizer=base.tokenizer)
    kept = result.retain.preservation
    row = asked_all(after, forget, retain)
    seconds = result.seconds.by_phase.get("unlearning together")
    auc = result.membership.auc_after if result.membership else None
    return row | {"preserved": kept, "AUC": auc, "seconds": seconds, "ε": result.privacy.epsilon}


def asked_all(model: ScoredModel, forget: Wordings, retain: Wordings) -> Row:
    """One model asked what was forgotten, and a sample of what was kept."""
    step = max(1, len(retain.own) // RETAINED_ASKED)
    some = {record.record_id for record in retain.own[::step]}
    kept = {
        name: tuple(r for r in getattr(retain, name) if r.record_id.partition("~")[0] in some)
        for name in ("own", "held_out")
    }
    forgotten = {name: getattr(forget, name) for name in ("own", "used", "held_out", "untaught")}
    return asked(model, forgotten, "forget") | asked(model, kept, "retain")


def asked(model: ScoredModel, wordings: Mapping[str, tuple[Record, ...]], kind: str) -> Row:
    """Ranking accuracy and exact answers of one model, by wording."""
    row: Row = {}
    for name, records in wordings.items():
        table = accuracy_table(score_records(model, records, seed=0))
        row[f"{kind} {name}"], row[f"{kind} {name} exact"] = table.accuracy, table.exact
    return row


def main() -> None:
    """Plant, run and measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/paraphrases"))
    parser.add_argument("--only", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM")
    parser.add_argument("--never-taught", action="store_true", help="plant the goal as well")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    rows: dict[str, list[Row]] = {}
    for seed in given.seeds:
        first = plan_for_run(plan_file(given.out, "own wording only", seed), Overrides(seed=seed))
        forget, retain = prepared(first)
        print(f"seed {seed}: {len(forget.own)} facts to forget, {len(retain.own)} to keep; "
              f"{len(forget.used)} used and {len(forget.held_out)} held-out wordings", flush=True)
        models = planted(forget, retain, seed, never_taught=given.never_taught)
        runs = {name: run_arm(given.out, name, seed, models) for name in given.only}
        for name, folder in models.items():
            loaded = load_causal_lm(str(folder), dtype="float32", device=CPU)
            scored = WholeModel(model=loaded.model, tokenizer=loaded.tokenizer)
            rows.setdefault(name, []).append(asked_all(scored, forget, retain))
        for name, folder in runs.items():
            rows.setdefault(name, []).append(measured(folder, forget, retain))
            text = table(rows)
            write_atomically(given.out / "paraphrases.md", (text + "\n").encode())
            print(text, flush=True)


COLUMNS = (
    ("forget own", 100.0, 1), ("forget used", 100.0, 1), ("forget held_out", 100.0, 1),
    ("forget held_out exact", 100.0, 1), ("forget untaught", 100.0, 1),
    ("retain own", 100.0, 1), ("retain held_out", 100.0, 1), ("retain held_out exact", 100.0, 1),
    ("AUC", 1.0, 2), ("ε", 1.0, 2), ("seconds", 1.0, 0),
)


def table(rows: dict[str, list[Row]]) -> str:
    """A Markdown table, one row per model: the median over seeds and what it ranges over."""
    headings = ["model", "seeds", *(name.replace("_", " ") for name, *_ in COLUMNS)]
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    for name, found in rows.items():
        cells = [spread([row.get(key) for row in found], digits, scale)
                 for key, scale, digits in COLUMNS]
        lines.append("| " + " | ".join([name, str(len(found)), *cells]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

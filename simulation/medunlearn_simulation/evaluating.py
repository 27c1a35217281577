"""``medunlearn evaluate``: an existing adapter, measured on one's own records."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from medunlearn_client.adoption.loading import open_adapter
from medunlearn_client.evaluation import (
    AdapterOffModel,
    EvaluationReport,
    ThreeWay,
    WholeModel,
    evaluate_models,
)
from medunlearn_client.models import load_causal_lm, resolve_device
from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import require_writable
from medunlearn_simulation.measuring import (
    evaluation_inputs,
    evaluation_settings,
    stage_reporter,
)
from medunlearn_simulation.preparing import Overrides, plan_for_run, prepare_records
from medunlearn_simulation.progress import PhaseBoard
from medunlearn_simulation.run_folder import RunFolder, write_json
from medunlearn_simulation.summary import pair


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """What to measure.

    Attributes:
        adapter: Folder of the adapter.
        plan_file: Plan with data, forget set and evaluation; the run's own lies beside it.
        overrides: Data and forget subjects from the command line.
        model: Base model, if it moved.
        retrained_model: A model trained without the forget set.
        out: JSON file to write.
        device: Where to compute.
    """

    adapter: Path
    plan_file: Path | None
    overrides: Overrides
    model: str | None
    retrained_model: str | None
    out: Path | None
    device: str


def evaluate_adapter(
    request: EvaluationRequest, board: PhaseBoard, console: Console
) -> EvaluationReport:
    """Measures, prints and, if asked to, writes the figures.

    Raises:
        Misconfigured: EVALUATE_NO_DATA, OUT_UNWRITABLE, or a code of adapter, model, plan or data.
    """
    if request.plan_file is None and not request.overrides.data:
        raise Misconfigured(
            "EVALUATE_NO_DATA", "there is nothing to evaluate on",
            "give --data FILE with --forget-subject, or --plan with the run's plan.toml",
        )
    plan = plan_for_run(request.plan_file, request.overrides)
    if request.out is not None:
        require_writable(request.out.parent)
    device = resolve_device(request.device)
    with board.phase("loading"):
        base, peft_model = open_adapter(request.adapter, model=request.model, device=device)
        retrained = None
        if request.retrained_model is not None:
            gold = load_causal_lm(request.retrained_model, dtype="float32", device=device)
            retrained = WholeModel(model=gold.model, tokenizer=gold.tokenizer)
    with TemporaryDirectory(prefix="medunlearn-") as scratch:
        # Only for the list of bad rows, which the run itself kept already.
        records = prepare_records(plan, RunFolder(root=Path(scratch)), board)
    inputs = evaluation_inputs(records, plan, device=request.device)
    with board.phase("evaluating") as bar:
        report = evaluate_models(
            original=AdapterOffModel(model=peft_model, tokenizer=base.tokenizer),
            unlearned=WholeModel(model=peft_model, tokenizer=base.tokenizer),
            retrained=retrained, inputs=inputs, settings=evaluation_settings(plan, inputs),
            on_progress=stage_reporter(bar.advance),
        )
    board.progress.stop()
    if request.out is not None:
        write_json(request.out, asdict(report), private=False)
    console.print(_table(report))
    return report


def _table(report: EvaluationReport) -> Table:
    table = Table(title="percent right by option ranking (exact answers)", title_justify="left")
    for column in ("", "records", "before", "after", "retrained"):
        table.add_column(column, justify="left" if not column else "right")
    groups: dict[str, ThreeWay | None] = {
        "forget": report.forget, "forget, in other words": report.forget.paraphrased,
        "forget, subject not named": report.forget.unnamed,
        "retain": report.retain, "retain, subject not named": report.retain.unnamed,
        "neighbours": report.neighbours,
    }
    for name, group in groups.items():
        if group is not None:
            table.add_row(
                name, str(group.n),
                pair(group.accuracy_before, group.exact_before),
                pair(group.accuracy_after, group.exact_after),
                pair(group.accuracy_retrained, group.exact_retrained),
            )
    return table

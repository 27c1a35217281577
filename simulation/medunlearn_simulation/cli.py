"""The commands of a simulation. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from medunlearn_common.errors import Misconfigured
from medunlearn_common.plan import RuntimeOptions

if TYPE_CHECKING:
    from medunlearn_server.gates import GateOverride
    from medunlearn_simulation.progress import PhaseBoard

DataOption = Annotated[
    list[Path] | None,
    typer.Option("--data", help="Record file (JSON lines, .gz too); repeat for several."),
]
OutOption = Annotated[Path | None, typer.Option("--out", help="Folder of the result.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


def simulate(
    plan: Annotated[
        Path | None, typer.Argument(help="Plan file; without one the demo's.", show_default=False)
    ] = None,
    data: DataOption = None,
    forget_subject: Annotated[
        list[str] | None, typer.Option("--forget-subject", help="Subject to forget; repeatable.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Model folder or hub id, not a planted one.")
    ] = None,
    retrained_model: Annotated[
        str | None,
        typer.Option("--retrained-model", help="The same model trained without the forget set."),
    ] = None,
    erasure: Annotated[
        Path | None,
        typer.Option("--erasure", help="Registry; its validated requests are the forget set."),
    ] = None,
    override_gate: Annotated[
        str | None,
        typer.Option("--override-gate", help="Publish although this gate fails: norm, canary, "
                     "utility. Needs --by and --because; goes on record."),
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", help="Full name of who overrides the gate.")
    ] = None,
    because: Annotated[str | None, typer.Option("--because", help="Why.")] = None,
    sites: Annotated[int | None, typer.Option("--sites", help="Hospitals.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of all that is public.")] = None,
    out: OutOption = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Folder of a run that shall go on.")
    ] = None,
    runner: Annotated[
        Literal["flower", "memory"] | None,
        typer.Option("--runner", help="Real Flower apps, or the same logic in one process."),
    ] = None,
    device: DeviceOption = "auto",
    threads: Annotated[int, typer.Option("--threads", min=1, help="CPU threads per process.")] = 1,
    quiet: QuietOption = False,
) -> None:
    """Let simulated hospitals unlearn together, and measure what it did.

    The result is a folder with a PEFT adapter, result.json and report.html. Everything it
    reports can be repeated with the plan and the seed that lie beside it.

    Examples:

      medunlearn simulate
      [dim]  the embedded demo: five hospitals forget surgery[/dim]

      medunlearn simulate plan.toml --seed 1 --out runs/one

      medunlearn simulate --data medmcqa.jsonl.gz --forget-subject Surgery --sites 5

      medunlearn simulate --model org/name --data ours.jsonl --forget-subject Surgery

      medunlearn simulate plan.toml --erasure erasure.sqlite
      [dim]  forget what was requested, and mark the requests by what was measured[/dim]

      medunlearn simulate --resume runs/one
      [dim]  go on after Ctrl-C or a crash; at most the current round is repeated[/dim]

      medunlearn simulate --resume runs/one --override-gate utility --by "Ann Lee"
        --because "retain set is known to be mislabelled, see ticket 12"
      [dim]  publish although a gate failed: a named person's decision, on record[/dim]
    """
    from medunlearn_simulation.preparing import Overrides
    from medunlearn_simulation.progress import PhaseBoard
    from medunlearn_simulation.simulate import NewRun
    from medunlearn_simulation.stopping import EXIT_TERMINATED, Terminated, sigterm_like_ctrl_c

    overrides = Overrides(
        data=tuple(data or ()), model=model, sites=sites, seed=seed,
        forget_subjects=tuple(forget_subject or ()),
    )
    fresh = NewRun(
        plan_file=plan, overrides=overrides, out=out, retrained_model=retrained_model,
        erasure=erasure,
    )
    if resume is not None:
        _refuse_changes_on_resume(fresh, runner)
    fresh = replace(fresh, override=_override(override_gate, by, because))
    try:
        with sigterm_like_ctrl_c(), PhaseBoard(quiet=quiet) as board:
            _simulate(fresh, resume, runner, (device, threads), board)
    except Terminated:
        Console(stderr=True, highlight=False, emoji=False).print("terminated")
        raise typer.Exit(EXIT_TERMINATED) from None


def _simulate(
    fresh: object, resume: Path | None, runner: Literal["flower", "memory"] | None,
    speed: tuple[str, int], board: PhaseBoard,
) -> None:
    from medunlearn_client.erasure.run_figures import outcome_lines
    from medunlearn_simulation.simulate import NewRun, carry_out, override_gate, restart, start
    from medunlearn_simulation.summary import print_summary

    _limit_threads(speed[1])
    if resume is not None or not isinstance(fresh, NewRun):
        started = restart(resume or Path(), board, device=speed[0])
        if isinstance(fresh, NewRun):
            override_gate(started.folder, fresh.override)
    else:
        started = start(fresh, runner or "flower", board, device=speed[0])
    runtime = RuntimeOptions(
        runner="memory" if started.facts.runner == "memory" else "flower",
        device=speed[0], threads=speed[1],
    )
    result = carry_out(started, runtime, board)
    board.progress.stop()
    console = Console(highlight=False, emoji=False)
    print_summary(result, started.folder, console)
    for line in outcome_lines(started.claim) if started.claim is not None else ():
        console.print(line, markup=False, soft_wrap=True)


def _refuse_changes_on_resume(fresh: object, runner: str | None) -> None:
    from medunlearn_simulation.preparing import Overrides
    from medunlearn_simulation.simulate import NewRun

    unchanged = NewRun(plan_file=None, overrides=Overrides(), out=None)
    if fresh != unchanged or runner is not None:
        raise Misconfigured(
            "RESUME_CHANGES", "--resume goes on with the run's own plan, data and runner",
            "leave the other options out (--device, --threads and --quiet may stay), or start "
            "a new run",
        )


def _override(gate: str | None, by: str | None, because: str | None) -> GateOverride | None:
    """The three options as one decision, or None.

    Raises:
        Misconfigured: OVERRIDE_INVALID.
    """
    if gate is None and by is None and because is None:
        return None
    if gate is None or by is None or because is None:
        raise Misconfigured(
            "OVERRIDE_INVALID", "--override-gate, --by and --because belong together",
            'for example --override-gate utility --by "Ann Lee" --because "see ticket 12"',
        )
    from medunlearn_server.gatekeeper import new_override

    at = datetime.now(UTC).isoformat(timespec="seconds")
    return new_override(gate, by=by, because=because, at=at)


def _limit_threads(threads: int) -> None:
    # More threads than asked for would make runs differ in the last bits between machines.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    from transformers.utils import logging

    torch.set_num_threads(threads)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def evaluate(
    adapter: Annotated[Path, typer.Argument(help="Adapter folder.", show_default=False)],
    data: DataOption = None,
    forget_subject: Annotated[
        list[str] | None, typer.Option("--forget-subject", help="Subject that was forgotten.")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option("--plan", help="Plan with data, forget set and evaluation.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Base model, if it moved since the run.")
    ] = None,
    retrained_model: Annotated[
        str | None, typer.Option("--retrained-model", help="Model trained without the forget set.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the figures as JSON.")] = None,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Measure a finished adapter on a hospital's own records; nothing leaves the machine.

    Examples:

      medunlearn evaluate runs/one/adapter --data ours.jsonl --forget-subject Surgery

      medunlearn evaluate runs/one/adapter --plan runs/one/plan.toml --out figures.json
    """
    from medunlearn_simulation.evaluating import EvaluationRequest, evaluate_adapter
    from medunlearn_simulation.preparing import Overrides
    from medunlearn_simulation.progress import PhaseBoard

    _limit_threads(1)
    with PhaseBoard(quiet=quiet) as board:
        evaluate_adapter(
            EvaluationRequest(
                adapter=adapter, plan_file=plan, model=model, retrained_model=retrained_model,
                overrides=Overrides(
                    data=tuple(data or ()), forget_subjects=tuple(forget_subject or ())
                ),
                out=out, device=device,
            ),
            board, Console(emoji=False),
        )


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders or result.json files.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Also write an HTML page.")
    ] = None,
) -> None:
    """Put runs side by side, each figure beside its target.

    Example:

      medunlearn compare runs/results/surgery-seed* --out compare.html
    """
    from medunlearn_simulation.compare import compare as compare_runs

    compare_runs(runs, html_path=out, console=Console(emoji=False))


def export(
    adapter: Annotated[Path, typer.Argument(help="Adapter folder.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="New folder of the model.")],
    merge: Annotated[
        bool, typer.Option("--merge", help="Add the adapter into the base model's weights.")
    ] = False,
    model: Annotated[
        str | None, typer.Option("--model", help="Base model, if it moved since the run.")
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Turn an adapter into a model folder that needs neither PEFT nor medunlearn.

    The base model must be the very one that the run used: its digest is checked.

    Example:

      medunlearn export runs/one/adapter --merge --out forgotten-model
    """
    from medunlearn_simulation.exporting import export_adapter
    from medunlearn_simulation.progress import PhaseBoard

    if not merge:
        raise Misconfigured(
            "EXPORT_KIND", "there is one kind of export: a merged model",
            "add --merge; the adapter folder itself already loads with PeftModel.from_pretrained",
        )
    _limit_threads(1)
    with PhaseBoard(quiet=quiet) as board:
        export_adapter(adapter, out, model=model, board=board)
    Console(emoji=False).print(f"wrote {out}", soft_wrap=True)

"""``medunlearn coordinator serve|launch|status|runs|pause|resume|stop``."""

from __future__ import annotations

import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from medunlearn_common.errors import Misconfigured
from medunlearn_common.model_files import model_digest as digest_of
from medunlearn_common.model_files import tokenizer_digest as tokenizer_of
from medunlearn_common.party_folder import HERE, PartyFolder
from medunlearn_server.service.client import ControlClient
from medunlearn_server.service.config import open_folder
from medunlearn_server.service.supervisor import serve as serve_folder
from medunlearn_server.watching.federation import FederationReader
from medunlearn_server.watching.terminal import watch as watch_views

RunId = Annotated[str, typer.Argument(help="Name of the run; the only one if left out.")]


def serve(folder: PartyFolder = HERE) -> None:
    """Run the coordinator's service until it is told to end (Ctrl-C or SIGTERM).

    Example: medunlearn coordinator serve --folder /srv/coordinator
    """
    raise typer.Exit(serve_folder(folder))


def launch(
    plan: Annotated[Path, typer.Argument(help="The plan that all parties share.")],
    folder: PartyFolder = HERE,
    model_digest: Annotated[str, typer.Option(help="Of the base model, from doctor.")] = "",
    tokenizer_digest: Annotated[str, typer.Option(help="Of the tokenizer, from doctor.")] = "",
    model_folder: Annotated[Path | None, typer.Option(
        help="The base model here, to name it by its digests, as `invite` does.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress until it ends.")] = False,
) -> None:
    """Begin a run.

    Hospitals whose policy knows base models by digest refuse a run that names none.

    Example: medunlearn coordinator launch plan.toml --folder /srv/coordinator --wait
    """
    try:
        text = plan.read_bytes()
    except OSError as error:
        raise Misconfigured("PLAN_MISSING", f"cannot read the plan {plan}: {error.strerror}",
                            "`medunlearn plan init` writes one") from error
    if model_folder is not None:
        model_digest, tokenizer_digest = digest_of(model_folder), tokenizer_of(model_folder)
    with ControlClient(open_folder(folder)) as client:
        run = client.launch(text, model_digest=model_digest, tokenizer_digest=tokenizer_digest)
        typer.echo(run.run_id)
        if wait:
            _follow(client, run.run_id)


def status(
    folder: PartyFolder = HERE,
    watch: Annotated[bool, typer.Option(
        "--watch", "-w", help="Look again every second: rounds, sites, budget; Ctrl-C ends it."
    )] = False,
) -> None:
    """The service, its sites, and what its runs are doing."""
    if watch:
        with closing(FederationReader(open_folder(folder))) as reader, \
                suppress(KeyboardInterrupt):
            watch_views(reader.read, Console())
        return
    with ControlClient(open_folder(folder)) as client:
        found = client.status()
    console = Console()
    console.print(f"medunlearn {found.version}, {'ready' if found.ready else 'not ready yet'}, "
                  f"up {_since(found.started)}", highlight=False)
    console.print(_table(("process", "state", "pid", "restarts"), [
        (child.name, child.state, str(child.pid or "-"), str(child.restarts))
        for child in found.children
    ]))
    console.print(_table(("site", "let in", "last seen"), [
        (site.site_id, "yes" if site.registered else "not yet",
         f"{_since(site.seen)} ago" if site.seen else "never")
        for site in found.sites
    ]))
    console.print(_runs_table(found.runs))


def runs(folder: PartyFolder = HERE) -> None:
    """All runs of this coordinator."""
    with ControlClient(open_folder(folder)) as client:
        Console().print(_runs_table(client.runs()))


def pause(run_id: RunId = "", folder: PartyFolder = HERE) -> None:
    """Pause a run after the round that is being asked."""
    with ControlClient(open_folder(folder)) as client:
        run = client.pause(_chosen(client, run_id))
    typer.echo(f"{run.run_id}: pauses after the round that is being asked")


def resume(run_id: RunId = "", folder: PartyFolder = HERE) -> None:
    """Go on with a run that was paused, or that failed for a reason that was mended."""
    with ControlClient(open_folder(folder)) as client:
        run = client.resume(_chosen(client, run_id))
    typer.echo(f"{run.run_id}: goes on")


def stop(run_id: Annotated[str, typer.Argument(help="Name of the run.")], folder: PartyFolder = HERE
         ) -> None:
    """Stop a run for good; what the sites spent stays spent.

    Where a finished run is being published, it ends that: the run stays finished, and can be
    published again.

    Example:

      medunlearn coordinator stop surgery-4f1d22
    """
    with ControlClient(open_folder(folder)) as client:
        run = client.stop(run_id)
    publishing = run.mode == "publish"
    typer.echo(f"{run.run_id}: {'its publication stops' if publishing else 'stops for good'}")


def _chosen(client: ControlClient, run_id: str) -> str:
    """The run named, or the only one that has not ended.

    Raises:
        Misconfigured: RUN_UNNAMED.
    """
    if run_id:
        return run_id
    going = [r.run_id for r in client.runs() if r.state not in ("finished", "stopped")]
    if len(going) != 1:
        raise Misconfigured("RUN_UNNAMED", f"{len(going)} runs have not ended: name one",
                            "`medunlearn coordinator runs` lists them")
    return str(going[0])


def _follow(client: ControlClient, run_id: str) -> None:
    """Print what changes until the run ends or is paused."""
    last = ""
    while True:
        run = next(r for r in client.runs() if r.run_id == run_id)
        line = f"{run.state}: {_doing(run)}"
        if line != last:
            typer.echo(line)
            last = line
        if run.state not in ("pending", "running"):
            break
        time.sleep(1.0)
    if run.state == "failed":
        raise Misconfigured(run.failure_code, f"run {run_id} failed",
                            "failure.json in its folder says why; mend it, then resume the run")


def _runs_table(found: Any) -> Table:
    return _table(("run", "state", "doing", "starts", "epsilon", "last trouble"), [
        (run.run_id, run.state, _doing(run), str(run.starts),
         f"{run.progress.epsilon:.3g}" if run.progress.epsilon else "-", run.failure_code or "-")
        for run in found
    ])


def _doing(run: Any) -> str:
    """In a few words; long waits show whom they are for."""
    progress = run.progress
    if run.state == "pending":
        return "waits for its turn"
    if run.state != "running" or not progress.phase:
        return "-" if run.state != "running" else "starts"
    where = str(progress.phase)
    if progress.phase == "rounds":
        where = f"round {progress.next_round + 1} of {progress.rounds}"
    if progress.phase == "ready" and not progress.asked:
        return f"gathers the sites, {progress.connected} connected"
    if progress.missing:
        return (f"{where}, waits for {progress.missing} of {progress.asked} sites "
                f"({_since(progress.since)})")
    return where


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table


def _since(at: float) -> str:
    seconds = max(0, round(time.time() - at))
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7_200 else f"{seconds // 3_600} h"

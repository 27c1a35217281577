"""``medunlearn coordinator serve|launch|status|runs|pause|resume|stop``."""

from __future__ import annotations

import json
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from rich.console import Console

from medunlearn_common.errors import Misconfigured
from medunlearn_common.model_files import model_digest as digest_of
from medunlearn_common.model_files import tokenizer_digest as tokenizer_of
from medunlearn_common.party_folder import HERE, PartyFolder
from medunlearn_common.plan import read_plan
from medunlearn_server.service.client import ControlClient
from medunlearn_server.service.config import CoordinatorFolder, open_folder
from medunlearn_server.service.node_keys import NodeKeys
from medunlearn_server.service.status_tables import (
    doing,
    held_up_by,
    runs_table,
    shown_state,
    status_tables,
)
from medunlearn_server.service.supervisor import serve as serve_folder
from medunlearn_server.watching.federation import FederationReader
from medunlearn_server.watching.terminal import watch as watch_views

RunId = Annotated[str, typer.Argument(help="Name of the run; the only one if left out.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
_WIDE = 240
"""Columns away from a terminal, where nothing is gained by wrapping."""


def serve(folder: PartyFolder = HERE) -> None:
    """Run the coordinator's service until it is told to end (Ctrl-C or SIGTERM).

    Example: medunlearn coordinator serve --folder /srv/coordinator
    """
    raise typer.Exit(serve_folder(folder))


def launch(
    plan: Annotated[Path, typer.Argument(help="The plan that all parties share.")],
    folder: PartyFolder = HERE,
    model_digest: Annotated[
        str, typer.Option(help="Of the base model, as `hospital doctor` shows it.")] = "",
    tokenizer_digest: Annotated[str, typer.Option(help="Of the tokenizer, likewise.")] = "",
    model_folder: Annotated[Path | None, typer.Option(
        help="The base model here, to name it by its digests, as `invite` does.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress until it ends.")] = False,
) -> None:
    """Begin a run.

    Hospitals whose policy knows base models by digest refuse a run that names none.

    Example: medunlearn coordinator launch plan.toml --folder /srv/coordinator --wait
    """
    home, needed = open_folder(folder), read_plan(plan).federation.min_sites
    if model_folder is not None:
        model_digest, tokenizer_digest = digest_of(model_folder), tokenizer_of(model_folder)
    elif not model_digest and not tokenizer_digest:
        model_digest, tokenizer_digest = _invited_model(folder)
    _warn_of_few_sites(home, needed)
    with ControlClient(home) as client:
        run = client.launch(
            plan.read_bytes(), model_digest=model_digest, tokenizer_digest=tokenizer_digest)
        typer.echo(run.run_id)
        if wait:
            _follow(client, run.run_id)


def _invited_model(folder: Path) -> tuple[str, str]:
    """Digests of model and tokenizer that all hospitals were told; empty where there are none."""
    from medunlearn_server.joining.membership import Membership

    told = Membership(folder, now=time.time()).base_model()
    if told.model_digest:
        typer.echo(f"base model as in the invitations: {told.model_digest[:16]}", err=True)
    return told.model_digest, told.tokenizer_digest


def _warn_of_few_sites(home: CoordinatorFolder, needed: int) -> None:
    enrolled = len(NodeKeys(home.nodes).by_site())
    if enrolled < needed:
        typer.echo(f"note: the plan needs {needed} hospitals, {enrolled} are enrolled: the run "
                   "waits for more; `medunlearn coordinator stop RUN` ends it", err=True)


def status(
    folder: PartyFolder = HERE,
    watch: Annotated[bool, typer.Option(
        "--watch", "-w", help="Look again every second: rounds, sites, budget; Ctrl-C ends it."
    )] = False,
    as_json: JsonOption = False,
) -> None:
    """The service, its sites with what each said last, and what its runs are doing."""
    if watch:
        with closing(FederationReader(open_folder(folder))) as reader, \
                suppress(KeyboardInterrupt):
            watch_views(reader.read, Console(emoji=False))
        return
    with ControlClient(open_folder(folder)) as client:
        found = client.status()
    if as_json:
        typer.echo(json.dumps(_plain(found), indent=2))
        return
    console = _console()
    for part in status_tables(found):
        console.print(part, highlight=False)


def runs(folder: PartyFolder = HERE, as_json: JsonOption = False) -> None:
    """All runs of this coordinator."""
    with ControlClient(open_folder(folder)) as client:
        found = client.runs()
    if as_json:
        typer.echo(json.dumps([_plain(run) for run in found], indent=2))
        return
    _console().print(runs_table(found))


def _console() -> Console:
    console = Console(emoji=False)
    return console if console.is_terminal else Console(width=_WIDE, emoji=False)


def _plain(message: Any) -> Any:
    return MessageToDict(message, preserving_proto_field_name=True,
                         always_print_fields_with_no_presence=True)


def pause(run_id: RunId = "", folder: PartyFolder = HERE) -> None:
    """Pause a run after the round that is being asked."""
    with ControlClient(open_folder(folder)) as client:
        run = client.pause(_chosen(client, run_id))
    typer.echo(f"{run.run_id}: " + (
        "is paused" if run.state == "paused" else "pauses after the round that is being asked"))


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
    typer.echo(f"{run.run_id}: " + (
        "its publication stops" if publishing
        else "is stopped" if run.state == "stopped" else "stops for good"))
    if not publishing:
        typer.echo("tell the hospitals: erasure requests that they had in it wait for a word of "
                   "theirs, medunlearn erasure reopen NUMBER --reason … --author …")


def _chosen(client: ControlClient, run_id: str) -> str:
    """The run named, or the only one that has not ended.

    Raises:
        Misconfigured: RUN_UNNAMED.
    """
    if run_id:
        return run_id
    going = [r.run_id for r in client.runs() if shown_state(r) not in ("finished", "stopped")]
    if len(going) != 1:
        raise Misconfigured("RUN_UNNAMED", f"{len(going)} runs have not ended: name one",
                            "`medunlearn coordinator runs` lists them")
    return str(going[0])


def _follow(client: ControlClient, run_id: str) -> None:
    """Print what changes until the run ends or is paused."""
    last = ""
    while True:
        run = next(r for r in client.runs() if r.run_id == run_id)
        line = ": ".join((run.state, *_news(run)))
        if line != last:
            typer.echo(line)
            last = line
        if run.state not in ("pending", "running"):
            break
        time.sleep(1.0)
    if run.state == "failed":
        raise Misconfigured(run.failure_code, f"run {run_id} failed",
                            "failure.json in its folder says why; mend it, then resume the run")
    if run.state in _NEXT:
        typer.echo(f"next: medunlearn coordinator {_NEXT[run.state]} {run_id}")


def _news(run: Any) -> list[str]:
    """What it does, and which sites hold it up; without seconds, so that nothing is said twice."""
    if run.state not in ("pending", "running"):
        return [run.run_id]
    held = [f"{site} {code}" for site, code in held_up_by(run).items()]
    return [doing(run, seconds=False), *([", ".join(held)] if held else [])]


_NEXT = {"finished": "publish", "paused": "resume"}

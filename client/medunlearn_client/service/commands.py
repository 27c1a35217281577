"""``medunlearn hospital serve|status|approve|decline|policy|stop``."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from medunlearn_client.epsilon_total import EpsilonTotal
from medunlearn_client.policy import read_policy
from medunlearn_client.policy_commands import policy_app as policy
from medunlearn_client.service.approvals import Approvals, Asked
from medunlearn_client.service.config import HospitalPaths, read_hospital_config
from medunlearn_client.service.node_link import NodeLink
from medunlearn_client.service.roster_entry import roster_trouble
from medunlearn_client.service.status import SiteStatus
from medunlearn_client.site_config import read_site_config
from medunlearn_common.errors import MedunlearnError
from medunlearn_common.party_folder import HERE, PartyFolder
from medunlearn_common.trust_folder import POLICY_FILE, TRUST_FOLDER

By = Annotated[str, typer.Option("--by", help="Name of the person who decides.")]
Run = Annotated[str | None, typer.Option("--run", help="Where several runs have the plan.")]
Coordinator = Annotated[str | None, typer.Option(
    "--coordinator", help="Where several coordinators offer it.")]

__all__ = ["approve", "decline", "policy", "serve", "status", "stop"]


def serve(folder: PartyFolder = HERE) -> None:
    """Run this hospital's node and worker until Ctrl-C or SIGTERM.

    The answer under way is finished before the processes end. Logs lie in state/logs.
    """
    from medunlearn_client.service.node import serve as serve_folder  # late: it needs gRPC

    raise typer.Exit(serve_folder(folder.resolve()))


def stop(
    folder: PartyFolder = HERE,
    deadline_s: Annotated[float, typer.Option(help="Longest wait, in seconds.")] = 3600.0,
) -> None:
    """End the service of this folder, once the answer under way is given.

    systemd starts it again after 20 s. To keep it down: systemctl stop medunlearn-hospital.
    """
    from medunlearn_client.service.node import stop_service

    found = stop_service(HospitalPaths(folder=folder.resolve()), deadline_s=deadline_s)
    typer.echo("stopped" if found else "no service runs for this folder")


def status(
    folder: PartyFolder = HERE,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show what the service does, and which plans wait for a person."""
    from medunlearn_client.service.node import service_pid

    paths = HospitalPaths(folder=folder.resolve())
    config, pid = read_hospital_config(paths.folder), service_pid(paths)
    if pid is not None and not paths.status.exists():  # its worker does not come up, or not yet
        found = SiteStatus(site_id="")
    else:
        found = SiteStatus.read(paths.status)
    kept_out, link = roster_trouble(paths.folder), NodeLink()
    if pid is not None:  # what an earlier service left is no news
        link = NodeLink.read(paths.link)
    waiting = [one for one in Approvals(paths.approvals).all() if one.decision == "waiting"]
    erasure, epsilon = _erasure(paths.folder), _epsilon_total(paths.folder)
    if as_json:
        typer.echo(json.dumps({
            **asdict(found), "service_pid": pid,
            "roster_code": kept_out.code if kept_out else "", "node_code": link.code,
            "waiting": [{"plan_digest": one.plan_digest, "run": one.run} for one in waiting],
            "epsilon_of_all_runs": asdict(epsilon) if isinstance(epsilon, EpsilonTotal)
            else {"code": epsilon.code}, "erasure": erasure,
        }))
        return
    table = Table(show_header=False, box=None)
    for name, value in {
        "site": found.site_id, "service": f"runs (pid {pid})" if pid else "is stopped",
        "worker": f"{found.state}, started anew {found.restarts} times",
        "coordinator": config.coordinator.address,
        "roster": kept_out.message if kept_out else "names this hospital",
        "node": _node(link, runs=pid is not None),
        "run": found.run_id or "none yet",
        "last request": f"{found.last_kind}, {_ago(found.last_at)}" if found.last_at else "none",
        "answers": str(found.requests),
        "refusals": ", ".join(f"{c} {n}" for c, n in sorted(found.errors.items())) or "none",
        "epsilon spent": "none" if found.epsilon_spent is None else f"{found.epsilon_spent:.3g}",
        "epsilon of all runs": str(epsilon) if isinstance(epsilon, EpsilonTotal) else epsilon.code,
        "device": found.device, "model": "loaded" if found.model_loaded else "not loaded",
        **({"erasure requests": erasure} if erasure else {}),
    }.items():
        table.add_row(name, escape(value))
    Console(highlight=False, emoji=False).print(table)
    for trouble in (kept_out, link.trouble):
        if trouble is not None:
            typer.echo(f"{trouble.code}: {trouble.hint}")
    if isinstance(epsilon, EpsilonTotal) and not epsilon.decided:
        typer.echo("POLICY_EPSILON_TOTAL: `medunlearn hospital doctor` says what the policy's "
                   "owner is to write")
    _list_waiting(waiting)


def _epsilon_total(folder: Path) -> EpsilonTotal | MedunlearnError:
    """What the policy's limit for all runs together has left for the next one, or why not."""
    try:
        return EpsilonTotal.of(folder, read_policy(folder / TRUST_FOLDER / POLICY_FILE))
    except MedunlearnError as error:
        return error


def _erasure(folder: Path) -> str:
    """Where the requests of the hospital's registry stand; nothing without a registry."""
    from medunlearn_client.erasure import Registry
    from medunlearn_client.erasure.claims import requests_by_run, waiting_requests

    try:
        place = read_site_config(folder).registry
        if place is None:
            return ""
        registry = Registry(place)
        held = [f"{', '.join(map(str, numbers))} in run {run} (then hospital measure, or erasure "
                "reopen)" for run, numbers in requests_by_run(registry).items()]
        waiting = ", ".join(map(str, waiting_requests(registry))) or "none"
        return "; ".join([*held, f"{waiting} for the next run"])
    except MedunlearnError as error:
        return error.code


def approve(
    digest: Annotated[str, typer.Argument(help="The plan's digest, or its first digits.")] = "",
    by: By = "", run: Run = None, coordinator: Coordinator = None, folder: PartyFolder = HERE,
    show: Annotated[bool, typer.Option("--show", help="Print the plan; decide nothing.")] = False,
) -> None:
    """Let a plan that waits begin; without a digest, list what waits.

    The decision is written to the hospital's own audit log with the name of who made it.
    """
    approvals = Approvals(HospitalPaths(folder=folder.resolve()).approvals)
    if not digest:
        _list_waiting([one for one in approvals.all() if one.decision == "waiting"])
        return
    if show:
        # In each offer it is the same plan.
        one = approvals.named(digest, run=run, coordinator=coordinator)[0]
        typer.echo(json.dumps(json.loads(one.plan), indent=2, sort_keys=True))
        return
    _decide(approvals, digest, by=by, decision="approved", run=run, coordinator=coordinator)


def decline(
    digest: Annotated[str, typer.Argument(help="The plan's digest, or its first digits.")],
    by: By = "", run: Run = None, coordinator: Coordinator = None, folder: PartyFolder = HERE,
) -> None:
    """Refuse a plan that waits; the coordinator gets a code, no reason.

    Example:

      medunlearn hospital decline 9c1f22ab04d7 --by "Dr. Ada Berg"
    """
    approvals = Approvals(HospitalPaths(folder=folder.resolve()).approvals)
    _decide(approvals, digest, by=by, decision="declined", run=run, coordinator=coordinator)


def _decide(
    approvals: Approvals, digest: str, *, by: str, decision: Literal["approved", "declined"],
    run: str | None, coordinator: str | None,
) -> None:
    began = time.time()
    one = approvals.decide(digest, by=by, decision=decision, run=run, coordinator=coordinator)
    already = f" already, {_ago(one.decided)}" if one.decided < began else ""
    typer.echo(f"{one.by} {decision} plan {one.plan_digest[:12]} of {one.coordinator} for run "
               f"{one.run}{already}")


def _node(link: NodeLink, *, runs: bool) -> str:
    if not runs:
        return "is stopped"
    if link.trouble is not None:
        return f"{link.trouble.message}, began {_ago(link.since)}"
    return f"let in, answered {_ago(link.at)}" if link.at else "has called nobody yet"


def _list_waiting(waiting: list[Asked]) -> None:
    if not waiting:
        typer.echo("no plan waits for a person")
    for one in waiting:
        typer.echo(f"waits: plan {one.plan_digest[:12]} of {one.coordinator} for run {one.run}, "
                   f"{_ago(one.asked)}; approve {one.plan_digest[:12]} --show, then --by NAME")


def _ago(then: float) -> str:
    seconds = max(0, int(time.time() - then))
    for size, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {name} ago"
    return f"{seconds} s ago"

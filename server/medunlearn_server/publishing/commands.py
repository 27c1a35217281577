"""``medunlearn coordinator publish``: attest a finished run, and have it carried out."""

from __future__ import annotations

from contextlib import closing, suppress
from typing import TYPE_CHECKING, Annotated

import typer

from medunlearn_common.errors import Transient
from medunlearn_common.party_folder import HERE, PartyFolder

if TYPE_CHECKING:
    from pathlib import Path

    from medunlearn_server.publishing.folder import PublishedRun


def publish(
    run: Annotated[str, typer.Argument(help="Name of the finished run.", show_default=False)],
    folder: PartyFolder = HERE,
    show: Annotated[
        bool, typer.Option("--show", help="Say who has it and who decided what; send nothing.")
    ] = False,
) -> None:
    """Attest a finished run, and send adapter, attestation, log and roster to every hospital.

    The service carries it out when no run is under way; --show says who has it. Publishing again
    is harmless: hospitals that were away get it then, and what hospitals have countersigned or
    objected to since is collected and handed to all of them. `medunlearn coordinator runs` names
    the runs; hospitals go on with `medunlearn hospital inbox`.

    Examples:

      medunlearn coordinator publish surgery-4f1d22

      medunlearn coordinator publish surgery-4f1d22 --show
    """
    from medunlearn_common.files import expanded
    from medunlearn_common.keeping import PartyMarks
    from medunlearn_server.publishing.attesting import attest
    from medunlearn_server.publishing.folder import PublishedRun
    from medunlearn_server.service.config import CoordinatorConfig, CoordinatorFolder
    from medunlearn_server.service.launching import publish as carry_out
    from medunlearn_server.service.runs_db import RunsDb

    home = CoordinatorFolder(path=expanded(folder).absolute(), config=CoordinatorConfig())
    place = PublishedRun.of(home.run(run), run)
    if show:
        _show(place, carried=_carried(home.runs_db, run))
        return
    PartyMarks(home.path).require_run(run)
    with closing(RunsDb(home.runs_db)) as registry:
        registry.require_finished(run)
        digest = attest(place)
        carry_out(home, registry, run)
        ahead = [row for row in registry.list() if row.state == "running"]
    typer.echo(f"attested: SHA-256 {digest}")
    typer.echo(f"published folder: {place.folder}")
    for other in ahead:
        typer.echo(f"it waits until {other.run_id} has ended or is paused: "
                   "one is carried at a time")
        if other.mode != "publish":
            typer.echo(f"  medunlearn coordinator pause {other.run_id}   lets it go first; resume "
                       "that run then")
    typer.echo("the service carries it to the hospitals; who has it says")
    typer.echo(f"  medunlearn coordinator publish {run} --show")


def _carried(runs_db: Path, run: str) -> str:
    """What the service has still to do for it, in a sentence; nothing if that is over."""
    from medunlearn_server.service.runs_db import RunsDb

    if not runs_db.exists():
        return ""  # nothing was launched yet; a look creates nothing
    with suppress(Transient), closing(RunsDb(runs_db)) as registry:
        states = [row.state for row in registry.list()
                  if row.run_id == run and row.mode == "publish"]
        if "running" in states:
            return "it is being carried to them now; what is shown here is the time before"
        if "pending" in states:
            return ("it waits until the service can carry it: medunlearn coordinator status says "
                    "what is before it")
    return ""


def _show(place: PublishedRun, *, carried: str) -> None:
    from medunlearn_common.roster import TrustedRoster
    from medunlearn_common.trust_folder import TRUST_FOLDER
    from medunlearn_server.publishing.session import RECEIVED

    typer.echo(f"run {place.run_id}, attestation {place.attestation_digest}")
    found = place.deliveries()
    verdicts, missed = found.get("verdicts", {}), found.get("missed", {})
    decisions = found.get("decisions", {})
    sites = TrustedRoster(place.party / TRUST_FOLDER, now=0.0).current.sites
    for site in sorted({*sites, *verdicts, *missed, *decisions}):
        has = verdicts.get(site) or missed.get(site) or "not sent yet"
        if site not in sites:
            has = f"{has}, not in the roster any more"
        again = f", {missed[site]} the last time" if site in missed and site in verdicts else ""
        typer.echo(f"  {site:<24} {has:<20} {decisions.get(site, 'no decision yet')}{again}")
    lacking = [site for site in sites if verdicts.get(site) != RECEIVED or site in missed]
    if carried:
        typer.echo(f"  {carried}")
    elif lacking and found:
        typer.echo(f"  {len(lacking)} of {len(sites)} have not got all of it: when they are back, "
                   f"medunlearn coordinator publish {place.run_id}")
    typer.echo(f"verify it with: medunlearn verify {place.folder} --root root.cbor")

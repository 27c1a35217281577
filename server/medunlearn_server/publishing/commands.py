"""``medunlearn coordinator publish``: attest a finished run, and have it carried out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from medunlearn_common.party_folder import HERE, PartyFolder

if TYPE_CHECKING:
    from medunlearn_server.publishing.folder import PublishedRun


def publish(
    run: Annotated[str, typer.Argument(help="Name of the finished run.", show_default=False)],
    folder: PartyFolder = HERE,
    show: Annotated[
        bool, typer.Option("--show", help="Say who has it and who decided what; send nothing.")
    ] = False,
) -> None:
    """Attest a finished run, and send adapter, attestation, log and roster to every hospital.

    Publishing again is harmless: hospitals that were away get it then, and what hospitals have
    countersigned or objected to since is collected and handed to all of them.

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
        _show(place)
        return
    PartyMarks(home.path).require_run(run)
    digest = attest(place)
    registry = RunsDb(home.runs_db)
    try:
        carry_out(home, registry, run)
    finally:
        registry.close()
    typer.echo(f"attested: SHA-256 {digest}")
    typer.echo(f"published folder: {place.folder}")
    typer.echo("waiting for the service to carry it to the hospitals; see")
    typer.echo(f"  medunlearn coordinator publish {run} --show")


def _show(place: PublishedRun) -> None:
    typer.echo(f"run {place.run_id}, attestation {place.attestation_digest}")
    found = place.deliveries()
    verdicts = found.get("verdicts", {})
    decisions = found.get("decisions", {})
    if not verdicts:
        typer.echo("  nobody has it yet")
    for site in sorted({*verdicts, *decisions}):
        said = decisions.get(site, "no decision yet")
        typer.echo(f"  {site:<24} {verdicts.get(site, 'silent'):<20} {said}")
    if found.get("silent"):
        typer.echo(f"  {len(found['silent'])} without an answer: {', '.join(found['silent'])}")
    typer.echo(f"verify it with: medunlearn verify {place.folder} --root root.cbor")

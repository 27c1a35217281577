"""``medunlearn hospital inbox|measure|countersign|object|adopt|rollback``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medunlearn_common.party_folder import HERE, PartyFolder

if TYPE_CHECKING:
    from medunlearn_client.adoption.hospital import AdoptionHospital
    from medunlearn_client.adoption.measuring import SetFigures
    from medunlearn_common.publication import Verdict

RunArgument = Annotated[
    str, typer.Argument(help="A run in the inbox.", show_default=False)
]
ByOption = Annotated[
    str, typer.Option("--by", help="Who decides: a person's name.", show_default=False)
]
ReasonOption = Annotated[
    str, typer.Option("--reason", help="Why; it stays here, a salted digest of it is signed.",
                      show_default=False)
]


def _hospital(folder: Path) -> AdoptionHospital:
    from medunlearn_client.adoption.hospital import AdoptionHospital

    return AdoptionHospital.at(folder)


def inbox(
    run: Annotated[
        str | None, typer.Argument(help="Show this run alone, and check it anew.")
    ] = None,
    folder: PartyFolder = HERE,
) -> None:
    """Say which finished runs have come, who stands behind them, and what is in service.

    Every run is checked anew: signatures, roster, log, and what this hospital itself saw of it.

    Example:

      medunlearn hospital inbox
    """
    from medunlearn_client.adoption.overview import overview

    for line in overview(_hospital(folder), run):
        typer.echo(line)


def measure(
    run: RunArgument,
    folder: PartyFolder = HERE,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    most: Annotated[
        int, typer.Option("--most", min=0, help="Most records of each set; 0 asks all.")
    ] = 0,
) -> None:
    """Ask this hospital's own forget and retain questions without and with the adapter.

    The figures stay in this folder; nothing of them is sent, whatever they say. Erasure requests
    that the run worked for are marked verified, or go back to validated with the reasons, once,
    unless --most asks a part alone; the record files must still be those of the run. `medunlearn
    hospital inbox` names the runs that came; `adopt` or `object` is what comes next.

    Example:

      medunlearn hospital measure surgery-4f1d22
    """
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from medunlearn_client.adoption.judging import run_claim
    from medunlearn_client.adoption.measuring import measure as measure_run
    from medunlearn_client.erasure.run_figures import outcome_lines

    hospital, console = _hospital(folder), Console(stderr=True, emoji=False)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def advance(name: str, done: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=None)
            bar.advance(tasks[name], done)

        found = measure_run(hospital, run, device=device, most=most, progress=advance)
    typer.echo(f"{'':<8} {'records':>8} {'answered':>18} {'exactly':>18} {'preserved':>10}")
    for name, figures in (("forget", found.forget), ("retain", found.retain)):
        typer.echo(_row(name, figures))
    claim = run_claim(hospital, run)
    for line in outcome_lines(claim) if claim is not None else ():
        typer.echo(line)
    if claim is not None and (most or not found.forget.n or not found.retain.n):
        typer.echo("a part of the records, or an empty set, marks no request: measure again "
                   "without --most, or take requests back with `medunlearn erasure reopen NUMBER "
                   "--reason … --author …`")
    typer.echo("kept in this folder; say what you think of it with countersign or object")


def _row(name: str, figures: SetFigures) -> str:
    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.1%}"

    answered = f"{share(figures.accuracy_before)} > {share(figures.accuracy_after)}"
    exactly = f"{share(figures.exact_before)} > {share(figures.exact_after)}"
    return (f"{name:<8} {figures.n:>8} {answered:>18} {exactly:>18} "
            f"{share(figures.preservation):>10}")


def countersign(
    run: RunArgument, by: ByOption, reason: ReasonOption, folder: PartyFolder = HERE
) -> None:
    """Stand behind a received adapter, with this hospital's key.

    The coordinator collects it at its next publication and shows it to all hospitals.

    Example:

      medunlearn hospital countersign surgery-4f1d22 --by "Ann Lee" --reason "measured, fine"
    """
    _decide(run, "countersigned", by=by, reason=reason, folder=folder)


def object_to(
    run: RunArgument, by: ByOption, reason: ReasonOption, folder: PartyFolder = HERE
) -> None:
    """Object to a received adapter, with this hospital's key; no hospital adopts it lightly then.

    Example:

      medunlearn hospital object surgery-4f1d22 --by "Ann Lee" --reason "retain set lost 9 %"
    """
    _decide(run, "objected", by=by, reason=reason, folder=folder)


def _decide(run: str, verdict: Verdict, *, by: str, reason: str, folder: Path) -> None:
    from medunlearn_client.adoption.deciding import decide

    decision = decide(_hospital(folder), run, verdict, by=by, reason=reason)
    typer.echo(f"{verdict} by {by}, decision {decision.number} of this hospital on {run}")
    typer.echo("it is handed out when the coordinator publishes again")


def adopt(
    run: RunArgument,
    by: ByOption,
    merge: Annotated[
        bool, typer.Option("--merge", help="Also write base model and adapter as one model.")
    ] = False,
    despite: Annotated[
        bool, typer.Option("--despite", help="Adopt although hospitals object.")
    ] = False,
    older: Annotated[
        bool, typer.Option(
            "--rollback", help="Adopt although a later run is in service, or it is not known which."
        )
    ] = False,
    folder: PartyFolder = HERE,
) -> None:
    """Put a received adapter into service: the link adopted/current then names it.

    Checks everything again first, the base model's files too. What was in service before stays,
    and `medunlearn hospital rollback` returns to it.

    Examples:

      medunlearn hospital adopt surgery-4f1d22 --by "Ann Lee"

      medunlearn hospital adopt surgery-4f1d22 --by "Ann Lee" --merge
    """
    from medunlearn_client.adoption.service import AdoptionChoice
    from medunlearn_client.adoption.service import adopt as adopt_run

    hospital = _hospital(folder)
    choice = AdoptionChoice(by=by, merge=merge, despite=despite, older=older)
    adoption = adopt_run(hospital, run, choice)
    what = "model" if merge else "adapter"
    typer.echo(f"in service: {hospital.places.current / what} (version {adoption.version})")
    if adoption.despite:
        typer.echo(f"despite objections of {', '.join(adoption.despite)}")
    _tell_requests(hospital, run)


def _tell_requests(hospital: AdoptionHospital, run: str) -> None:
    """What is to be done now for the erasure requests of a run that is in service, and of others.

    Args:
        hospital: The hospital.
        run: The run; empty where the base model is in service alone.
    """
    from medunlearn_client.adoption.judging import run_claim
    from medunlearn_client.erasure import Registry
    from medunlearn_client.erasure.claims import FORGOTTEN, requests_by_run
    from medunlearn_client.erasure.run_figures import next_step_lines
    from medunlearn_common.errors import MedunlearnError

    try:
        claim = run_claim(hospital, run) if run else None
        for line in next_step_lines(claim) if claim is not None else ():
            typer.echo(line)
        place = hospital.config.registry
        others = {} if place is None else requests_by_run(Registry(place), FORGOTTEN)
        for other in sorted(others.keys() - {run}):
            typer.echo(
                f"erasure request(s) {', '.join(map(str, others[other]))} were verified with the "
                f"adapter of {other}, not with what is in service now: unless the base model has "
                "forgotten them since, it knows them again")
    except MedunlearnError as error:  # the adapter is in service all the same
        typer.echo(f"erasure requests: {error}")


def rollback(by: ByOption, folder: PartyFolder = HERE) -> None:
    """Return to what was in service before the present version.

    Example:

      medunlearn hospital rollback --by "Ann Lee"
    """
    from medunlearn_client.adoption.service import rollback as roll_back

    hospital = _hospital(folder)
    earlier = roll_back(hospital, by=by)
    if earlier is None:
        typer.echo("no adapter is in service any more: the base model alone")
    else:
        typer.echo(f"in service: version {earlier.version}, run {earlier.run_id}")
    _tell_requests(hospital, "" if earlier is None else earlier.run_id)

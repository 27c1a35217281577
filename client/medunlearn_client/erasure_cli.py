"""``medunlearn erasure``: what a data-protection officer types.

Output speaks of requests by number. Ids are shown only by ``show --ids``; names, birth dates
and identifiers are taken, used for the search, and neither shown nor kept. The module lies
outside the package ``erasure`` so that mounting the commands imports nothing of it.
"""

from __future__ import annotations

import sys
from datetime import date
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medunlearn_common.errors import Misconfigured

if TYPE_CHECKING:
    from medunlearn_client.erasure.finding import Tagger, Wanted
    from medunlearn_client.erasure.registry import Registry
    from medunlearn_client.erasure.requests import ErasureRequest, Kind

BUILTIN_HIERARCHIES = ("builtin:surgery", "builtin:mental_health")
ASK = "-"

erasure_app = typer.Typer(
    help="Requests for erasure: from the letter that comes in to the letter that goes out.",
    no_args_is_help=True, rich_markup_mode="rich",
)

RegistryOption = Annotated[
    Path, typer.Option("--registry", "-r", envvar="MEDUNLEARN_ERASURE_REGISTRY",
                       help="The hospital's registry.")
]
AuthorOption = Annotated[
    str, typer.Option("--author", envvar="MEDUNLEARN_OFFICER", show_default=False,
                      help="Who does this; stands in the history.")
]
NumberArgument = Annotated[int, typer.Argument(help="Number of the request.", show_default=False)]
ReasonOption = Annotated[
    str, typer.Option("--reason", help="Why, in one line.", show_default=False)
]
DEFAULT_REGISTRY = Path("erasure.sqlite")


@erasure_app.command("add")
def add(
    author: AuthorOption,
    basis: Annotated[
        str, typer.Option("--basis", help="a to f of GDPR Art. 17(1), or another by name.",
                          show_default=False)
    ],
    data: Annotated[
        list[Path], typer.Option("--data", help="Record file to search; repeat for several.",
                                 show_default=False)
    ],
    patient: Annotated[
        str | None, typer.Option("--patient", help="Patient id; - asks for it.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Full name, with --birth-date; - asks for it.")
    ] = None,
    birth_date: Annotated[
        str | None, typer.Option("--birth-date", help="As in the records; - asks for it.")
    ] = None,
    identifier: Annotated[
        str | None, typer.Option("--identifier", help="Any identifier; - asks for it.")
    ] = None,
    record: Annotated[
        str | None, typer.Option("--record", help="Record id; - asks for it.")
    ] = None,
    data_set: Annotated[
        Path | None, typer.Option("--data-set", help="One of the --data files, withdrawn whole.")
    ] = None,
    concept: Annotated[
        str | None, typer.Option("--concept", help="Concept id, with all below it.")
    ] = None,
    hierarchy: Annotated[
        list[str] | None, typer.Option("--hierarchy", help="Hierarchy of the concept.")
    ] = None,
    record_format: Annotated[
        str, typer.Option("--format", help="Format of the files.")
    ] = "auto",
    received: Annotated[
        str | None, typer.Option("--received", help="Day of receipt, YYYY-MM-DD; else today.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Register beside an open request for the same.")
    ] = False,
    nothing_held: Annotated[
        bool, typer.Option("--nothing-held", help="Register although nothing was found.")
    ] = False,
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Register a request and look for the records it means.

    A value given as - is asked for, so that it enters neither the shell's history nor the
    list of processes.

    Examples:

      medunlearn erasure add --patient - --basis b --data ours.jsonl --author "A. Officer"

      medunlearn erasure add --name - --birth-date - --basis b --data ours.jsonl --author AO

      medunlearn erasure add --data-set study.jsonl --data study.jsonl --basis d --author AO
    """
    from medunlearn_client.erasure.finding import find_records
    from medunlearn_client.erasure.registry import NewRequest
    from medunlearn_client.erasure.requests import parsed_date

    wanted = _wanted(
        {"patient_id": patient, "name": name, "birth_date": birth_date, "identifier": identifier,
         "record_id": record}, data_set, concept,
    )
    tagger = _tagger(concept, hierarchy) if concept is not None else None
    day = parsed_date(received) if received is not None else None
    found = find_records(wanted, data, tagger=tagger, record_format=record_format)
    if found.target is None and not nothing_held:
        raise Misconfigured(
            "ERASURE_NOT_FOUND", "nothing in the files matches; nothing was registered",
            "check spelling and files; --nothing-held registers the request so that it can be "
            "answered",
        )
    opened = _registry(registry, create=True)
    request = opened.add(
        NewRequest(kind=wanted.kind, target=found.target, matches=found.matches, basis=basis,
                   received=day or opened.today, again=again, unread=found.unread),
        author=author,
    )
    typer.echo(f"request {request.number}: received {request.received}, "
               f"to be answered by {request.deadline}")
    for reason, count in found.reasons.items():
        typer.echo(f"  {count} record(s) by {reason}")
    if found.unread:
        typer.echo(f"  {found.unread} row(s) could not be read and were not searched")
    if found.mentions:
        typer.echo(f"  {found.mentions} record(s) of other patients mention what was searched; "
                   "they are not part of the request")


def _wanted(
    values: dict[str, str | None], data_set: Path | None, concept: str | None
) -> Wanted:
    from medunlearn_client.erasure.finding import Wanted

    asked = {key: _asked(key, value) for key, value in values.items() if value is not None}
    kind: Kind = "record" if "record_id" in asked else "patient"
    if not asked:
        kind = "concept" if concept is not None else "data_set"
    return Wanted(kind=kind, data_set=data_set, concept_id=concept, **asked)


def _asked(key: str, value: str) -> str:
    """The value, read without echo where it was given as ``-``; one line of a pipe elsewhere."""
    if value != ASK:
        return value.strip()
    if sys.stdin.isatty():
        return getpass(f"{key.replace('_', ' ')}: ").strip()
    return sys.stdin.readline().strip()


def _tagger(concept: str, hierarchies: list[str] | None) -> Tagger:
    from medunlearn_client.site_data import leveled_hierarchy
    from medunlearn_client.tagging import ConceptTagger
    from medunlearn_common.plan.sections import ConceptsSection, ForgetSection

    section = ConceptsSection(hierarchies=tuple(hierarchies or BUILTIN_HIERARCHIES))
    leveled = leveled_hierarchy(section, ForgetSection(concepts=(concept,)))
    return ConceptTagger(leveled).matches_forget_root


@erasure_app.command("list")
def list_requests(
    everything: Annotated[
        bool, typer.Option("--all", help="Closed ones too.")
    ] = False,
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """List the open requests, or all."""
    from medunlearn_client.erasure.requests import OPEN_STATES, State
    from medunlearn_client.erasure.shown import requests_table

    opened = _registry(registry)
    _print(requests_table(opened, opened.requests(State if everything else OPEN_STATES)))


@erasure_app.command("due")
def due(
    within: Annotated[
        int | None, typer.Option("--within", min=0, help="Days; else the registry's setting.")
    ] = None,
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Show what falls due soon or is late, the most urgent first, each with its next step."""
    from medunlearn_client.erasure.shown import requests_table

    opened = _registry(registry)
    days = within if within is not None else opened.settings().remind_days
    waiting = opened.due(within_days=days)
    if not waiting:
        typer.echo(f"nothing falls due within {days} days")
        return
    _print(requests_table(opened, waiting))


@erasure_app.command("show")
def show(
    number: NumberArgument,
    ids: Annotated[
        bool, typer.Option("--ids", help="Show the ids of what was found.")
    ] = False,
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Show a request, what was found for it and why, and its history."""
    from medunlearn_client.erasure.documents import officer_report
    from medunlearn_client.erasure.shown import document_parts, matches_table

    opened = _registry(registry)
    for part in document_parts(officer_report(opened, number)):
        _print(part)
    if ids:
        _print(matches_table(opened.matches(number)))


@erasure_app.command("validate")
def validate(
    number: NumberArgument,
    author: AuthorOption,
    identity: Annotated[
        str, typer.Option("--identity", help='How it was checked, e.g. "passport seen".',
                          show_default=False)
    ],
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Identity is checked and the ground holds: the next run may take the request."""
    _say(_registry(registry).validate(number, author=author, identity=identity))


@erasure_app.command("refuse")
def refuse(
    number: NumberArgument, author: AuthorOption, reason: ReasonOption,
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Refuse a request; the reason stands in the letter."""
    _say(_registry(registry).refuse(number, author=author, reason=reason))


@erasure_app.command("withdraw")
def withdraw(
    number: NumberArgument, author: AuthorOption, reason: ReasonOption,
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Close a request that the requester took back."""
    _say(_registry(registry).withdraw(number, author=author, reason=reason))


@erasure_app.command("extend")
def extend(
    number: NumberArgument, author: AuthorOption, reason: ReasonOption,
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Extend the deadline by two months (GDPR Art. 12(3)); the reason stands in the letter."""
    _say(_registry(registry).extend(number, author=author, reason=reason))


@erasure_app.command("reopen")
def reopen(
    number: NumberArgument, author: AuthorOption, reason: ReasonOption,
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Take a request back from a run that was given up."""
    _say(_registry(registry).reopen(number, author=author, reason=reason))


@erasure_app.command("attest")
def attest(
    number: NumberArgument, author: AuthorOption, reason: ReasonOption,
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Close a verified request once the requester was told; the reason says how."""
    _say(_registry(registry).attest(number, author=author, reason=reason))


@erasure_app.command("report")
def report(
    number: NumberArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder of the files.")] = Path("erasure"),
    addressee: Annotated[
        Path | None,
        typer.Option("--addressee", help="Text file with the requester's address; - reads it."),
    ] = None,
    template: Annotated[
        Path | None, typer.Option("--template", help="Your own wording of the letter.")
    ] = None,
    font: Annotated[
        Path | None, typer.Option("--font", help="TrueType font for other scripts.")
    ] = None,
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Print the letter to the requester and the report for the officer, as HTML and PDF.

    Example:

      medunlearn erasure report 7 --out letters --addressee address.txt
    """
    from medunlearn_client.erasure.documents import address_lines, letter, officer_report
    from medunlearn_client.erasure.pages import write_pages

    opened = _registry(registry)
    lines = address_lines(_address(addressee)) if addressee is not None else ()
    letter_page = letter(opened, number, addressee=lines, template=template)
    report_page = officer_report(opened, number)
    written = [
        *write_pages(letter_page, out, kind="letter", number=number, font=font),
        *write_pages(report_page, out, kind="report", number=number, font=font),
    ]
    for place in written:
        typer.echo(f"wrote {place}")


def _address(source: Path) -> str:
    if str(source) == ASK:
        return sys.stdin.read(1 << 16)
    try:
        return source.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise Misconfigured(
            "ERASURE_ADDRESS", "the addressee's file cannot be read as UTF-8 text",
            "name a text file with --addressee",
        ) from None


@erasure_app.command("template")
def template(
    file: Annotated[Path, typer.Argument(help="Where to write.", show_default=False)],
) -> None:
    """Write the letter's wording to a file, to edit and to give to `report --template`."""
    from medunlearn_client.erasure.documents import letter_template
    from medunlearn_common.files import write_atomically

    if file.exists():
        raise Misconfigured("OUT_EXISTS", f"{file} exists already", "choose another name")
    write_atomically(file, letter_template().encode(), private=False)
    typer.echo(f"wrote {file}")


@erasure_app.command("settings")
def settings(
    author: Annotated[
        str | None, typer.Option("--author", envvar="MEDUNLEARN_OFFICER", help="Who changes them.")
    ] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE; repeat for several.")
    ] = None,
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Show the registry's settings, or change them.

    Example:

      medunlearn erasure settings --set "hospital=St. Anna" --set min_preservation=0.95 --author AO
    """
    from medunlearn_client.erasure.settings import changed
    from medunlearn_client.erasure.shown import settings_table

    opened = _registry(registry, create=bool(change))
    if change:
        if author is None:
            raise Misconfigured("ERASURE_TEXT", "a change needs its author", "add --author")
        opened.change_settings(changed(opened.settings(), change), author=author)
    _print(settings_table(opened.settings()))


@erasure_app.command("destroy-key")
def destroy_key(
    yes: Annotated[
        bool, typer.Option("--yes", help="I know that this cannot be undone.")
    ] = False,
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Destroy the key that ties published commitments to requests; nothing brings it back.

    Runs publish one value per hospital that stands for its requests. With the key the hospital
    can show that a request was among them; without it nobody can, the hospital included. The
    registry itself stays as it is. Copies of the key in backups and snapshots, and blocks that
    a drive has set aside, are not reached: destroy those by their own means.
    """
    from medunlearn_client.erasure import commitments

    opened = _registry(registry)
    if not yes:
        raise Misconfigured(
            "ERASURE_CONFIRM", "destroying the key cannot be undone", "add --yes if you mean it"
        )
    commitments.destroy_key(opened.path)
    typer.echo("the key is destroyed: no published commitment can be tied to a request any more, "
               "but by copies of the key elsewhere and by what was shown to an auditor before")


@erasure_app.command("check")
def check(registry: RegistryOption = DEFAULT_REGISTRY) -> None:
    """Follow the whole history, and print the digest it ends with."""
    typer.echo(_registry(registry).check())


def _registry(path: Path, *, create: bool = False) -> Registry:
    from medunlearn_client.erasure.registry import Registry

    return Registry(path, create=create)


def _say(request: ErasureRequest) -> None:
    last: date = request.deadline
    until = f", to be answered by {last}" if request.is_open else ""
    typer.echo(f"request {request.number}: {request.state}{until}")


def _print(part: object) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(highlight=False).print(part, markup=False, soft_wrap=isinstance(part, Text))

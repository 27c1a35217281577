"""``medunlearn erasure``: what a data-protection officer types.

Output speaks of requests by number. Ids are shown only by ``show --ids``; names, birth dates
and identifiers are taken, used for the search, and neither shown nor kept. The module lies
outside the package ``erasure`` so that mounting the commands imports nothing of it.
"""

from __future__ import annotations

import sys
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medunlearn_client.erasure_add import (
    ASK,
    DEFAULT_REGISTRY,
    AuthorOption,
    RegistryOption,
    add,
    open_registry,
)
from medunlearn_common.errors import Misconfigured

if TYPE_CHECKING:
    from medunlearn_client.erasure.registry import Registry
    from medunlearn_client.erasure.requests import ErasureRequest

# A paragraph is a line there.
_STATES = """\
[bold]State      What it means, and the commands that lead on[/bold]

received   entered by `add`: `validate`, `refuse` or `withdraw`

validated  waits, the next run takes it: `refuse` or `withdraw`

in_run     a run has it, which leads on by itself; given up: `reopen`

verified   a run has forgotten it: `report`, then `attest`

attested   closed: the requester was told

refused    `report` prints the letter: `told` once it is sent, as of an extension

withdrawn  closed

[dim]A run that falls short leads back to validated: `show` says why.[/dim]
"""
erasure_app = typer.Typer(
    help="Requests for erasure: from the letter that comes in to the letter that goes out.",
    epilog=_STATES, no_args_is_help=True, rich_markup_mode="rich",
)

NumberArgument = Annotated[int, typer.Argument(help="Number of the request.", show_default=False)]
ReasonOption = Annotated[
    str, typer.Option("--reason", help="Why, in one line.", show_default=False)
]
_PIPED_WIDTH = 1 << 10  # more than any row of the list takes
erasure_app.command("add")(add)


@erasure_app.command("list")
def list_requests(
    everything: Annotated[
        bool, typer.Option("--all", help="Closed ones too.")
    ] = False,
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """List the open requests, or all; `erasure due` and `erasure show` name the next steps."""
    from medunlearn_client.erasure.shown import requests_table

    opened = open_registry(registry)
    found = opened.requests() if everything else opened.awaiting()
    if not found:
        typer.echo("no request" if everything else "no open request")
        return
    _print(requests_table(opened, found), whole_lines=True)


@erasure_app.command("due")
def due(
    within: Annotated[
        int | None, typer.Option("--within", min=0, help="Days; else the registry's setting.")
    ] = None,
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Show what falls due soon or is late, the most urgent first, each with its next step."""
    from medunlearn_client.erasure.shown import next_steps, requests_table

    opened = open_registry(registry)
    days = within if within is not None else opened.settings().remind_days
    waiting = opened.due(within_days=days)
    if not waiting:
        later = len(opened.awaiting())
        typer.echo(f"nothing falls due within {days} days{_later(later)}")
        return
    _print(requests_table(opened, waiting), whole_lines=True)
    for step in next_steps(opened, waiting):
        _print(step)


def _later(requests: int) -> str:
    return f"; {requests} open request(s) fall due later: `erasure list`" if requests else ""


@erasure_app.command("show")
def show(
    number: NumberArgument,
    ids: Annotated[
        bool, typer.Option("--ids", help="Show the ids of what was found.")
    ] = False,
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Show a request, what was found for it and why, and its history.

    Example:

      medunlearn erasure show 7
    """
    from medunlearn_client.erasure.documents import officer_report
    from medunlearn_client.erasure.shown import document_parts, matches_table

    opened = open_registry(registry)
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
    basis: Annotated[
        str | None,
        typer.Option("--basis", help="The legal basis that holds, to correct the one of `add`."),
    ] = None,
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Identity is checked and the ground holds: the next run takes the request.

    Example:

      medunlearn erasure validate 7 --identity "passport seen" --author "A. Officer"
    """
    opened = open_registry(registry)
    _say_next(opened, opened.validate(number, author=author, identity=identity, basis=basis))


@erasure_app.command("refuse")
def refuse(
    number: NumberArgument, author: AuthorOption, reason: ReasonOption,
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Refuse a request; the reason stands in the letter, and `told` says that it was sent.

    Example:

      medunlearn erasure refuse 7 --reason "kept by law for ten years" --author AO
    """
    opened = open_registry(registry)
    _say_next(opened, opened.refuse(number, author=author, reason=reason))


@erasure_app.command("withdraw")
def withdraw(
    number: NumberArgument, author: AuthorOption, reason: ReasonOption,
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Close a request that the requester took back.

    Example:

      medunlearn erasure withdraw 7 --reason "letter of 3 May" --author AO
    """
    _say(open_registry(registry).withdraw(number, author=author, reason=reason))


@erasure_app.command("extend")
def extend(
    number: NumberArgument, author: AuthorOption, reason: ReasonOption,
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Extend the deadline by two months (GDPR Art. 12(3)); the reason stands in the letter.

    It holds once the requester was told within the first month: `due` reminds of the letter
    until `told` says that it was sent.

    Example:

      medunlearn erasure extend 7 --reason "the next run begins in June" --author AO
    """
    opened = open_registry(registry)
    _say_next(opened, opened.extend(number, author=author, reason=reason))


@erasure_app.command("told")
def told(
    number: NumberArgument, author: AuthorOption, reason: ReasonOption,
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Write down that the requester was told of an extension or a refusal; the reason says how.

    Example:

      medunlearn erasure told 7 --reason "letter sent on 9 May" --author AO
    """
    opened = open_registry(registry)
    _say_next(opened, opened.told(number, author=author, reason=reason))


@erasure_app.command("reopen")
def reopen(
    number: NumberArgument, author: AuthorOption, reason: ReasonOption,
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Take a request back from a run that was given up: stop that run first.

    Example:

      medunlearn erasure reopen 7 --reason "run one was deleted" --author AO
    """
    from medunlearn_client.erasure.requests import run_of

    opened = open_registry(registry)
    _say(opened.reopen(number, author=author, reason=reason))
    # Whether the run goes on stands in no registry.
    typer.echo(f"should run {run_of(opened.events(number))} still be going on: it no longer judges "
               f"request {number}, but forgets its records all the same, and has it again when it "
               "is resumed; stop it", err=True)


@erasure_app.command("attest")
def attest(
    number: NumberArgument, author: AuthorOption, reason: ReasonOption,
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Close a verified request once the requester was told; the reason says how.

    Example:

      medunlearn erasure attest 7 --reason "letter sent on 9 May" --author AO
    """
    _say(open_registry(registry).attest(number, author=author, reason=reason))


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

    opened = open_registry(registry)
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
    except FileNotFoundError:
        raise Misconfigured(
            "ERASURE_ADDRESS", f"there is no file {source}", "name a text file with --addressee",
        ) from None
    except (OSError, UnicodeDecodeError):
        raise Misconfigured(
            "ERASURE_ADDRESS", "the addressee's file cannot be read as UTF-8 text",
            "name a text file with --addressee",
        ) from None


@erasure_app.command("template")
def template(
    file: Annotated[Path, typer.Argument(help="Where to write.", show_default=False)],
) -> None:
    """Write the letter's wording to a file, to edit and to give to `report --template`.

    Example:

      medunlearn erasure template our-letter.txt
    """
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
    from medunlearn_client.erasure.settings import Settings, changed
    from medunlearn_client.erasure.shown import settings_table

    if change and author is None:
        raise Misconfigured("ERASURE_TEXT", "a change needs its author", "add --author")
    changed(Settings(), change or ())  # what is mistyped begins no registry
    opened = open_registry(registry, create=bool(change))
    if change and author is not None:
        opened.change_settings(changed(opened.settings(), change), author=author)
    in_force = opened.settings()
    _print(settings_table(in_force))
    if loose := in_force.asks_nothing():
        typer.echo(f"warning: {', '.join(loose)}: asks little or nothing of a run; the report says "
                   "so of each request, and the letter where the usual criteria are missed",
                   err=True)


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

    opened = open_registry(registry)
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
    from medunlearn_client.erasure.history import NO_HISTORY

    digest = open_registry(registry).check()
    typer.echo("no history yet: no request was ever entered" if digest == NO_HISTORY else digest)


def _say(request: ErasureRequest) -> None:
    last: date = request.deadline
    until = f", to be answered by {last}" if request.is_open else ""
    typer.echo(f"request {request.number}: {request.state}{until}")


def _say_next(registry: Registry, request: ErasureRequest) -> None:
    from medunlearn_client.erasure.requests import next_step

    _say(request)
    if step := next_step(request, registry.events(request.number)):
        typer.echo(f"next: {step}")


def _print(part: object, *, whole_lines: bool = False) -> None:
    """Print a part; with ``whole_lines`` a row stays one line for whatever reads the output."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, emoji=False)
    if whole_lines and not console.is_terminal:
        console.width = _PIPED_WIDTH
    console.print(part, markup=False, soft_wrap=isinstance(part, Text))

"""``medunlearn evidence export|verify``: who said two things, shown and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.evidence.contradictions import collected, from_bytes, proven, to_bytes
from medunlearn_common.files import write_atomically
from medunlearn_common.party_folder import HERE, PartyFolder
from medunlearn_common.roster import Root, verify_roster
from medunlearn_common.roster.trusted import ROOT_FILE

evidence_app = typer.Typer(
    help="Proofs that a coordinator or a site said two different things.",
    no_args_is_help=True, rich_markup_mode="rich",
)


@evidence_app.command("export")
def export(
    file: Annotated[Path, typer.Argument(help="Where to write.")] = Path("evidence.json"),
    folder: PartyFolder = HERE,
) -> None:
    """Write what this party has found out; signed headers and log states, no contents.

    Example:

      medunlearn evidence export evidence.json --folder /srv/medunlearn
    """
    found = collected(folder)
    if not found:
        typer.echo("nothing was found")
        return
    write_atomically(file, to_bytes(found), private=False)
    typer.echo(f"wrote {file}: {len(found)} contradictions")


@evidence_app.command("verify")
def verify(
    file: Annotated[Path, typer.Argument(help="From medunlearn evidence export.")],
    roster_file: Annotated[Path, typer.Option("--keys", help="The consortium's roster.")],
    root: Annotated[Path, typer.Option("--root", help="The pinned root.")] = Path(ROOT_FILE),
) -> None:
    """Check evidence from public keys alone; ends with status 0 only if something is proven.

    Example:

      medunlearn evidence verify evidence.json --keys roster.dsse --root root.cbor
    """
    roster = verify_roster(_read(roster_file), Root.from_bytes(_read(root)), now=0.0)
    count = 0
    for one in from_bytes(_read(file)):
        try:
            typer.echo(f"proven: {proven(one, roster)}")
            count += 1
        except Rejected as error:
            typer.echo(f"not proven: {error.message} ({error.code})")
    if count == 0:
        raise Rejected("EVIDENCE_PROVES_NOTHING", "nothing in the file is proven",
                       "it may have been changed, or be of parties that the roster does not name")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Misconfigured("FILE_UNREADABLE", f"cannot read {path}: {error.strerror}",
                            "check the name") from error

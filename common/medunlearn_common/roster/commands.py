"""``medunlearn roster new|add|revoke|sign|show|verify``: the consortium's side, offline.

A roster is prepared as a draft, each root owner signs it on their own machine, and it is
published when enough have.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from medunlearn_common.envelope.dsse import SignedBytes, count_valid, parse_signed
from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import write_atomically
from medunlearn_common.identity.commands import PassphraseOption, passphrase_for, read_entry
from medunlearn_common.identity.key_files import read_identity
from medunlearn_common.roster.document import (
    MAX_ROSTER_BYTES,
    ROSTER_TYPE,
    Root,
    Roster,
)
from medunlearn_common.roster.trusted import ROOT_FILE, require_successor, verify_roster

roster_app = typer.Typer(
    help="The list of parties, signed by the consortium's offline root.",
    no_args_is_help=True, rich_markup_mode="rich",
)
_DAY_S = 86_400
DraftOption = Annotated[Path, typer.Option("--draft", help="The unsigned next version.")]
DRAFT = Path("roster.draft")
RosterArgument = Annotated[Path, typer.Argument(help="A signed roster.", show_default=False)]


@roster_app.command("new")
def new(
    roots: Annotated[list[Path], typer.Argument(help="Entries of the root keys.")],
    threshold: Annotated[int, typer.Option("--threshold", min=1, help="How many must sign.")],
    days: Annotated[int, typer.Option("--days", min=1, help="Validity of the roster.")] = 90,
    draft: DraftOption = DRAFT,
) -> None:
    """Begin a roster: an empty draft, and root.cbor, which every party pins.

    Example:

      medunlearn roster new a.key.entry b.key.entry c.key.entry --threshold 2
    """
    keys = tuple(sorted({read_entry(path).public_key for path in roots}))
    if threshold > len(keys):
        raise Misconfigured("ROOT_THRESHOLD", f"{threshold} of {len(keys)} root keys",
                            "choose a threshold from 1 to the number of different keys")
    root, now = Root(threshold=threshold, keys=keys), int(time.time())
    roster = Roster(version=1, issued=now, expires=now + days * _DAY_S, parties=(), root=root)
    write_atomically(draft.with_name(ROOT_FILE), root.to_bytes(), private=False)
    _write_draft(draft, roster)


@roster_app.command("add")
def add(
    entries: Annotated[list[Path], typer.Argument(help="Entries of parties (keys new).")],
    draft: DraftOption = DRAFT,
    after: Annotated[Path | None, typer.Option("--after", help="The signed roster in force; "
                                               "starts the next version from it.")] = None,
    days: Annotated[int, typer.Option("--days", min=1, help="Validity of the roster.")] = 90,
) -> None:
    """Put parties into the draft; a party that is there gets its new key.

    Example:

      medunlearn roster add coordinator.entry clinic-a.key.entry
    """
    roster = _draft(draft, after, days)
    parties = {party.party_id: party for party in roster.parties}
    for path in entries:
        entry = read_entry(path)
        parties[entry.party_id] = entry
    _write_draft(draft, replace(roster, parties=tuple(parties[k] for k in sorted(parties))))


@roster_app.command("revoke")
def revoke(
    party: Annotated[str, typer.Argument(help="Party id.", show_default=False)],
    draft: DraftOption = DRAFT,
    after: Annotated[Path | None, typer.Option("--after", help="The signed roster in force; "
                                               "starts the next version from it.")] = None,
    days: Annotated[int, typer.Option("--days", min=1, help="Validity of the roster.")] = 90,
) -> None:
    """Revoke a party's key for good and take the party out; with a new key it can come back.

    Example:

      medunlearn roster revoke clinic-a --after roster.dsse
    """
    roster = _draft(draft, after, days)
    gone = roster.party(party)
    _write_draft(draft, replace(
        roster, parties=tuple(p for p in roster.parties if p.party_id != party),
        revoked=tuple(sorted({*roster.revoked, gone.key_id})),
    ))


@roster_app.command("sign")
def sign(
    key: Annotated[Path, typer.Argument(help="A root key.", show_default=False)],
    draft: DraftOption = DRAFT,
    out: Annotated[Path, typer.Option("--out", help="Signed roster; grows by one signature "
                                      "each time.")] = Path("roster.dsse"),
    passphrase_file: PassphraseOption = None,
) -> None:
    """Sign the draft. Look at it first: medunlearn roster show roster.draft

    Example:

      medunlearn roster sign a.key
    """
    roster = Roster.from_bytes(_read(draft))
    passphrase = passphrase_for(passphrase_file, new=False)
    identity = read_identity(key, party_id="root", passphrase=passphrase)
    document = SignedBytes(payload=roster.to_bytes(), payload_type=ROSTER_TYPE, signatures={})
    if out.exists():
        before = parse_signed(_read(out), max_bytes=MAX_ROSTER_BYTES)
        if before.payload == document.payload:
            document = before
        elif Roster.from_bytes(before.payload).version >= roster.version:
            raise Misconfigured(
                "ROSTER_FORK", f"{out} is another roster of version {roster.version} or later",
                "sites refuse a second one: begin the draft again with `--after` that file",
            )
    document = document.signed_also_by(identity)
    write_atomically(out, document.to_bytes(), private=False)
    valid = count_valid(document, roster.root.keys)
    typer.echo(f"wrote {out}: {valid} of {roster.root.threshold} signatures of its root")


@roster_app.command("show")
def show(roster_file: RosterArgument) -> None:
    """Print a roster or a draft; signatures are counted, not judged: see `verify`.

    Example:

      medunlearn roster show roster.draft
    """
    data = _read(roster_file)
    if roster_file.suffix == ".draft":
        _print(Roster.from_bytes(data))
        return
    document = parse_signed(data, max_bytes=MAX_ROSTER_BYTES)
    roster = Roster.from_bytes(document.payload)
    _print(roster)
    typer.echo(f"{count_valid(document, roster.root.keys)} of {roster.root.threshold} signatures "
               "by the root it names itself")


@roster_app.command("verify")
def verify(
    roster_file: RosterArgument,
    root: Annotated[Path, typer.Option("--root", help="The pinned root.")] = Path(ROOT_FILE),
    after: Annotated[Path | None, typer.Option("--after", help="The roster that was in force: "
                                               "checks rollback, rotation, revocation.")] = None,
) -> None:
    """Check a roster as a site does.

    Example:

      medunlearn roster verify roster.dsse --root root.cbor
    """
    now = time.time()
    pinned = Root.from_bytes(_read(root))
    if after is not None:
        current = verify_roster(_read(after), pinned, now=0.0)
        roster = verify_roster(_read(roster_file), current.root, now=now)
        require_successor(roster, current)
    else:
        roster = verify_roster(_read(roster_file), pinned, now=now)
    _print(roster)
    typer.echo("valid")


def _draft(draft: Path, after: Path | None, days: int) -> Roster:
    """The draft, or the next version of the roster in force."""
    if after is None:
        return Roster.from_bytes(_read(draft))
    current = Roster.from_bytes(parse_signed(_read(after), max_bytes=MAX_ROSTER_BYTES).payload)
    if draft.exists() and _read(draft) != current.to_bytes():  # else it has been signed since
        raise Misconfigured("DRAFT_EXISTS", f"{draft} is another roster than {after}",
                            "go on with it (leave --after out), or move it away")
    now = int(time.time())
    return replace(current, version=current.version + 1, issued=now, expires=now + days * _DAY_S)


def _write_draft(draft: Path, roster: Roster) -> None:
    write_atomically(draft, roster.to_bytes(), private=False)
    _print(roster)
    typer.echo(f"wrote {draft}; sign it: medunlearn roster sign ROOT_KEY")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Misconfigured("ROSTER_MISSING", f"cannot read {path.name}: {error.strerror}",
                            "begin with `medunlearn roster new`") from error


def _print(roster: Roster) -> None:
    until = time.strftime("%Y-%m-%d", time.gmtime(roster.expires))
    typer.echo(f"roster {roster.version}, valid until {until}, digest {roster.digest.hex()}")
    for party in roster.parties:
        typer.echo(f"  {party.role:11} {party.party_id:20} {party.key_id[:16]}  {party.entity}")
    for key in roster.revoked:
        typer.echo(f"  revoked     {key[:16]}")
    typer.echo(f"  root        {roster.root.threshold} of {len(roster.root.keys)}")

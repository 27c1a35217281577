"""``medunlearn keys new|show|rotate``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, cast

import typer

from medunlearn_common.entropy import OsEntropy
from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import write_atomically
from medunlearn_common.fingerprints import fingerprint
from medunlearn_common.identity.key_files import (
    passphrase_from,
    read_identity,
    require_passphrase,
    write_identity,
)
from medunlearn_common.identity.keys import SigningIdentity
from medunlearn_common.naming import require_entity, require_name
from medunlearn_common.roster.document import (
    Party,
    Role,
    enrolment_request,
    party_from_bytes,
    party_to_bytes,
)

keys_app = typer.Typer(
    help="Signing keys: make, look at and replace them. A key never leaves its file.",
    no_args_is_help=True, rich_markup_mode="rich",
)
_DAY_S = 86_400
ENTRY_SUFFIX = ".entry"
PassphraseOption = Annotated[
    Path | None, typer.Option("--passphrase-file", help="File (0600) with the passphrase; else "
                              "MEDUNLEARN_PASSPHRASE, else it is asked for.")]
NewPassphraseOption = Annotated[
    Path | None, typer.Option("--passphrase-file", help="File (0600) with the passphrase, needed "
                              "again at each start; else MEDUNLEARN_PASSPHRASE, else a random one "
                              "is written to trust/passphrase, which no backup holds.")]
DaysOption = Annotated[int, typer.Option("--days", min=1, max=3650, help="Validity of the key.")]


def passphrase_for(file: Path | None, *, new: bool, of: str = "the key") -> bytes:
    """The passphrase from file, environment or prompt.

    Raises:
        Misconfigured: KEY_PASSPHRASE where none is given and nobody can be asked.
    """
    found = passphrase_from(file)
    if found is None:
        try:
            typed = typer.prompt(f"Passphrase of {of}", hide_input=True, confirmation_prompt=new)
        except typer.Abort:
            if sys.stdin.isatty():
                raise  # Ctrl-C
            raise Misconfigured(
                "KEY_PASSPHRASE", f"no passphrase of {of} was given, and there is nobody to ask",
                "name a file by --passphrase-file, or set MEDUNLEARN_PASSPHRASE") from None
        found = str(typed).encode("utf-8")
    if new:
        require_passphrase(found)
    return found


@keys_app.command("new")
def new(
    file: Annotated[Path, typer.Argument(help="Key file to make.", show_default=False)],
    party: Annotated[str, typer.Option("--party", help="The party's id, e.g. site-a.")],
    entity: Annotated[str, typer.Option("--entity", help="Its legal entity.")],
    role: Annotated[str, typer.Option("--role", help="site, coordinator or root.")] = "site",
    days: DaysOption = 730,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Make a key, and beside it the entry that the consortium puts into the roster.

    Example:

      medunlearn keys new identity.key --party clinic-a --entity "Clinic A GmbH"
    """
    _require_role(role)
    require_name(party, of="a party")
    require_entity(entity)
    identity = SigningIdentity.generate(party, OsEntropy())
    entry = _entry(identity, "site" if role == "root" else role, entity, days)
    write_identity(file, identity, passphrase=passphrase_for(passphrase_file, new=True))
    write_atomically(_entry_file(file), party_to_bytes(entry), private=False)
    typer.echo(f"wrote {file} (keep it) and {_entry_file(file)} (for the consortium)")
    _show(entry)


@keys_app.command("show")
def show(
    file: Annotated[Path, typer.Argument(help="Key file or its .entry.", show_default=False)],
) -> None:
    """Show the public side of a key. Its words are what two people compare by telephone.

    Example:

      medunlearn keys show identity.key
    """
    entry_file = file if file.suffix == ENTRY_SUFFIX else _entry_file(file)
    _show(read_entry(entry_file))


@keys_app.command("rotate")
def rotate(
    old: Annotated[Path, typer.Argument(help="The key in use.", show_default=False)],
    new_file: Annotated[Path, typer.Argument(help="Key file to make.", show_default=False)],
    days: DaysOption = 730,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Make a new key that the old one vouches for; the old one stays until the roster says so.

    Example:

      medunlearn keys rotate identity.key identity-2.key
    """
    entry = read_entry(_entry_file(old))
    passphrase = passphrase_for(passphrase_file, new=False, of=f"{old.name} and {new_file.name}")
    before = read_identity(old, party_id=entry.party_id, passphrase=passphrase)
    identity = SigningIdentity.generate(entry.party_id, OsEntropy())
    after = _entry(identity, entry.role, entry.entity, days, old=before)
    write_identity(new_file, identity, passphrase=passphrase)
    write_atomically(_entry_file(new_file), party_to_bytes(after), private=False)
    typer.echo(f"wrote {new_file} and {_entry_file(new_file)}; the same passphrase opens both keys")
    _show(after)


def read_entry(path: Path) -> Party:
    """A party's entry from its file, possession checked.

    Raises:
        Misconfigured: ENTRY_MISSING.
        Rejected: ROSTER_FORM, SIGNATURE_INVALID, a CBOR_ code.
    """
    try:
        return party_from_bytes(path.read_bytes())
    except OSError as error:
        raise Misconfigured("ENTRY_MISSING", f"cannot read {path.name}: {error.strerror}",
                            "`medunlearn keys new` writes it beside the key") from error


def _entry(
    identity: SigningIdentity, role: str, entity: str, days: int,
    old: SigningIdentity | None = None,
) -> Party:
    now = int(time.time())
    return enrolment_request(identity, role=cast(Role, role), entity=entity, valid_from=now,
                             valid_until=now + days * _DAY_S, old=old)


def _entry_file(key_file: Path) -> Path:
    return key_file.with_name(key_file.name + ENTRY_SUFFIX)


def _require_role(role: str) -> None:
    if role not in ("site", "coordinator", "root"):
        raise Misconfigured("KEY_ROLE", f"{role!a} is no role", "site, coordinator or root")


def _show(entry: Party) -> None:
    until = time.strftime("%Y-%m-%d", time.gmtime(entry.valid_until))
    typer.echo(f"party {entry.party_id} ({entry.entity}), valid until {until}")
    typer.echo(f"key {entry.key_id}")
    typer.echo(f"to compare by telephone: {fingerprint('key', entry.public_key)}")

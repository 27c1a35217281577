"""``medunlearn hospital init|join|rotate|leave|doctor``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from medunlearn_client.joining.own_keys import NEXT_FOLDER
from medunlearn_client.joining.rotation import activate_next_keys, make_next_keys
from medunlearn_client.joining.site_folder import (
    Joining,
    leave_federation,
    make_site_folder,
    take_refresh,
    take_roster,
)
from medunlearn_common.doctor import JsonOption, report
from medunlearn_common.enrolment import open_enrolment
from medunlearn_common.entropy import OsEntropy
from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import read_named
from medunlearn_common.founding import require_confirmed
from medunlearn_common.identity.commands import NewPassphraseOption
from medunlearn_common.invitation import invitation_fingerprint, open_invitation
from medunlearn_common.party_folder import HERE, PartyFolder
from medunlearn_common.plan.sections import DataSection


def init(
    folder: Annotated[Path, typer.Argument(help="The folder to make.", show_default=False)],
    invitation: Annotated[Path, typer.Option("--invitation", help="What the coordinator sent.")],
    fingerprint: Annotated[str | None, typer.Option(
        "--fingerprint", help="The eight words that the coordinator told you.")] = None,
    trust_on_first_use: Annotated[bool, typer.Option(
        "--trust-on-first-use", help="Go on without comparing it: pilots only.")] = False,
    entity: Annotated[str, typer.Option("--entity", help="The hospital's legal entity.")] = "",
    model: Annotated[str, typer.Option(
        "--model", help="Folder or hub id of the base model; else set it in site.toml.")] = "",
    data: Annotated[list[Path] | None, typer.Option(
        "--data", help="A file or folder of records; else set it in site.toml.")] = None,
    record_format: Annotated[str, typer.Option("--format", help="What its rows mean.")] = "auto",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    passphrase_file: NewPassphraseOption = None,
    after: Annotated[Path | None, typer.Option(
        "--after", help="This hospital's folder of before, if it had left or its key was "
        "revoked: what was spent stays spent.")] = None,
) -> None:
    """Make this hospital's folder from an invitation: keys, policy, settings, service file.

    A hospital that was in the federation before names its old folder with --after. Ledger,
    accepted runs, audit log, erasure registry and adopted adapters come along, and the old folder
    is retired. Without it, epsilon would be counted from nothing for the same patients.

    Examples:

      medunlearn hospital init clinic --invitation clinic-a.invitation --entity "Clinic A"

      medunlearn hospital init clinic-2 --invitation clinic-a.invitation --after clinic
    """
    document, now = read_named(invitation), time.time()
    open_invitation(document, now=now)  # what a machine can tell comes before people are asked
    records = DataSection.model_validate({
        "files": tuple(str(_present(path)) for path in data or ()),
        "record_format": record_format})
    model_source = _model(model)
    compared = require_confirmed(
        invitation_fingerprint(document), told=fingerprint, first_use=trust_on_first_use,
        who="the coordinator", interactive=sys.stdin.isatty())
    opened = open_invitation(document, now=now)
    enrolment = make_site_folder(folder, opened, document, Joining(
        entity=entity or opened.invitation.site_id, device=device, data=records,
        model_folder=model_source,
        compared=compared, passphrase_file=passphrase_file, after=after,
    ), entropy=OsEntropy(), now=now)
    typer.echo(f"made {folder} for {opened.invitation.site_id} in {opened.invitation.federation}")
    typer.echo(f"next: send {enrolment} to the coordinator, who will telephone you and ask for "
               f"its fingerprint:\n  {open_enrolment(enrolment.read_bytes()).fingerprint}\n"
               "then, with the roster that comes back: medunlearn hospital join roster.dsse "
               f"--folder {folder}")
    if after is not None:
        typer.echo(f"what {after} had spent, accepted, logged and was asked to erase goes on "
                   "here; it is retired. The registry and budget in its site.toml are taken over; "
                   "compare all else in it, policy.toml and hospital.toml with the new ones")
    if not (model and records.files):
        typer.echo(f"meanwhile set model_folder and [data] files in {folder / 'site.toml'}, and "
                   f"read {folder / 'trust' / 'policy.toml'}")


def _present(path: Path) -> Path:
    """A typing error is cheap before keys are made, and dear once the service runs."""
    if not path.exists():
        raise Misconfigured("DATA_FILE_MISSING", f"no file or folder {path}",
                            "check --data, or leave it out and set [data] files in site.toml")
    return _settled(path)


def _model(source: str) -> str:
    """A folder as it is written down, or a hub id as it is; a path is no hub id."""
    local = Path(source).expanduser()
    if source and local.is_dir():
        return str(_settled(local))
    if source and (source.startswith((".", "/", "~")) or source.count("/") != 1):
        raise Misconfigured("MODEL_MISSING", f"no folder {local}",
                            "check --model, or leave it out and set model_folder in site.toml")
    return source


def _settled(path: Path) -> Path:
    """Absolute, without the `..` that systemd ignores; a link at its end stays one."""
    return path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name


def join(
    roster: Annotated[Path | None, typer.Argument(
        help="The roster that the coordinator sent.", show_default=False)] = None,
    folder: PartyFolder = HERE,
    refresh: Annotated[Path | None, typer.Option(
        "--refresh", help="A signed refresh of address, authority or base model.")] = None,
) -> None:
    """Put a roster into force that names this hospital; also brings new keys into force.

    Example:

      medunlearn hospital join roster.dsse --folder clinic
    """
    now = time.time()
    if roster is None and refresh is None and not (folder / NEXT_FOLDER).is_dir():
        raise Misconfigured(
            "FILE_MISSING", "neither a roster nor a refresh is named, and no new keys wait",
            "name what the coordinator sent: medunlearn hospital join roster.dsse")
    if roster is not None:  # first: it says whose refresh may be believed
        taken = take_roster(folder, read_named(roster), now=now)
        typer.echo(f"roster {taken.version} is in force: {len(taken.sites)} hospitals")
    if refresh is not None:
        for line in take_refresh(folder, read_named(refresh), now=now):
            typer.echo(line)
    for line in activate_next_keys(folder):
        typer.echo(line)
    typer.echo(f"next: medunlearn hospital doctor --folder {folder}, then\n"
               f"  medunlearn hospital serve --folder {folder} (restart it if it runs)")


def rotate(
    folder: PartyFolder = HERE,
    identity: Annotated[bool, typer.Option(help="Replace the signing key.")] = True,
    node: Annotated[bool, typer.Option(help="Replace the node's key.")] = True,
) -> None:
    """Make new keys; the old ones stay in force until the coordinator has taken the new ones."""
    enrolment = make_next_keys(folder, identity=identity, node=node, entropy=OsEntropy(),
                               now=time.time())
    typer.echo(f"next: send {enrolment} to the coordinator (medunlearn coordinator enrol); its "
               f"fingerprint is\n  {open_enrolment(enrolment.read_bytes()).fingerprint}\n"
               f"then: medunlearn hospital join roster.dsse --folder {folder}, and restart the "
               "service; from the enrolment on, the old keys are no longer let in")


def leave(
    folder: PartyFolder = HERE,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Leave the federation: a signed notice for the coordinator; the node's key is destroyed.

    Ledger, audit log and adopted adapters stay: what was spent stays spent. Stop the service
    first; a run in which this hospital takes part goes on without it.
    """
    if not yes and not typer.confirm(f"Destroy the node's key in {folder} and leave?"):
        raise typer.Abort
    notice = leave_federation(folder, now=time.time())
    typer.echo(f"next: send {notice} to the coordinator (medunlearn coordinator revoke --notice)\n"
               f"keep {folder}: its ledger is the record of what was spent on your patients")


def doctor(
    folder: PartyFolder = HERE, as_json: JsonOption = False,
    offline: Annotated[bool, typer.Option("--offline", help="Do not connect anywhere.")] = False,
) -> None:
    """Check everything about this folder and machine, and say what to do about each finding.

    Versions, file modes and disk, trust and roster, the policy and how much epsilon is left, model
    and tokenizer, memory, a few records, erasure requests, ports, clock, and whether the
    coordinator is reached and lets this node in.

    Nothing is changed. The exit status is 2 if there is a problem; warnings are for you to judge.

    Examples:

      medunlearn hospital doctor

      medunlearn hospital doctor --json

      medunlearn hospital doctor --offline   # before there is a network
    """
    from medunlearn_client.joining.checks import hospital_checks

    report(hospital_checks(folder, now=time.time(), offline=offline), as_json=as_json)

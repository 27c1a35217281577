"""``medunlearn coordinator init|invite|enrol|roster|revoke|rotate|rotate-certificate|doctor``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from medunlearn_common import __version__
from medunlearn_common.code_digest import installed_code_digest
from medunlearn_common.doctor import JsonOption, report
from medunlearn_common.enrolment import Enrolment, open_leave
from medunlearn_common.entropy import OsEntropy
from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import read_named
from medunlearn_common.founding import require_confirmed
from medunlearn_common.identity.commands import NewPassphraseOption
from medunlearn_common.invitation import federation_fingerprint
from medunlearn_common.model_files import model_digest, tokenizer_digest
from medunlearn_common.naming import require_name
from medunlearn_common.party_folder import HERE, PartyFolder
from medunlearn_server.joining.founding import (
    ENTRY_FILE,
    ROOT_FOLDER,
    ROSTER_DAYS,
    Founding,
    found,
)
from medunlearn_server.joining.membership import InvitedModel, Membership
from medunlearn_server.joining.own_certificate import OwnCertificate
from medunlearn_server.joining.own_key import NEXT_FOLDER, next_entry

FirstUseOption = Annotated[bool, typer.Option(
    "--trust-on-first-use", help="Go on without comparing fingerprints: pilots only.")]
ValidityOption = Annotated[int, typer.Option("--days", min=1, max=3650,
                                             help="Validity of a new roster.")]
UnpublishedOption = Annotated[bool, typer.Option(
    "--despite-unpublished", help="Go on though a run finished that was never published: it cannot "
    "be any more.")]
ModelOption = Annotated[str, typer.Option("--model", help="Name of the base model.")]
ModelFolderOption = Annotated[Path | None, typer.Option(
    "--model-folder", help="The base model here, to name it by its digests.")]
roster_app = typer.Typer(help="The federation's roster: show, import, renew.",
                         no_args_is_help=True, rich_markup_mode="rich")
_KEY_IN_FORCE = "the new signing key is in force; make a backup: no earlier one has it"
_PILOT = """\
PILOT: the consortium's root keys were made here, in {root}/.
  Whoever has this machine can add and remove hospitals. A real consortium makes root keys
  offline, one per institution (medunlearn keys new --role root), and brings the signed roster
  here: leave --root-keys out, then `medunlearn coordinator roster import`."""


def init(
    folder: Annotated[Path, typer.Argument(help="The folder to make.", show_default=False)],
    name: Annotated[str, typer.Option("--name", help="Name of the federation.")],
    address: Annotated[str, typer.Option("--address", help="host:port at which hospitals reach "
                                         "this machine.")],
    party: Annotated[str, typer.Option("--party", help="Its party id.")] = "coordinator",
    entity: Annotated[str, typer.Option("--entity", help="Its legal entity.")] = "",
    tls_name: Annotated[list[str] | None, typer.Option(
        "--tls-name", help="A further DNS name or IP address of this machine.")] = None,
    root_keys: Annotated[int, typer.Option(
        "--root-keys", min=0, max=16, help="PILOT ONLY: also make this many root keys here.")] = 0,
    threshold: Annotated[int, typer.Option("--threshold", min=1, help="How many must sign.")] = 1,
    certificate: Annotated[Path | None, typer.Option(
        "--certificate", help="Chain of an institution's certificate for this machine.")] = None,
    key: Annotated[Path | None, typer.Option("--key", help="Its key.")] = None,
    authority: Annotated[Path | None, typer.Option("--authority", help="Its authority.")] = None,
    passphrase_file: NewPassphraseOption = None,
) -> None:
    """Make a coordinator's folder: keys, certificates, configuration, service file.

    Example (a pilot):

      medunlearn coordinator init lead --name heart --address lead.example.org:9443 --root-keys 1
    """
    given = (certificate, key, authority)
    if any(given) and not all(given):
        raise Misconfigured("TLS_OPTIONS", "--certificate, --key and --authority belong together",
                            "give all three, or none to use the federation's own authority")
    own = OwnCertificate(certificate=certificate, key=key, authority=authority) \
        if certificate and key and authority else None
    found(folder, Founding(
        federation=name, address=address, party_id=party, entity=entity or name,
        names=tuple(tls_name or ()), root_keys=root_keys, threshold=threshold,
        passphrase_file=passphrase_file, certificate=own,
    ), entropy=OsEntropy(), now=time.time())
    typer.echo(f"made {folder}")
    if root_keys:
        typer.echo(_PILOT.format(root=folder / ROOT_FOLDER))
        _show_fingerprint(Membership(folder, now=time.time()))
        typer.echo(f"next: medunlearn coordinator invite HOSPITAL --folder {folder}")
    else:
        typer.echo(f"next: give {folder / ENTRY_FILE} to the consortium (medunlearn roster add), "
                   "then\n  medunlearn coordinator roster import roster.dsse --root root.cbor "
                   f"--folder {folder}")


def invite(
    sites: Annotated[list[str], typer.Argument(help="Party ids for the hospitals.",
                                               show_default=False)],
    folder: PartyFolder = HERE,
    days: Annotated[int, typer.Option("--days", min=1, max=90, help="Good for so long.")] = 14,
    model: ModelOption = "",
    model_folder: ModelFolderOption = None,
) -> None:
    """Write invitations to send to hospitals, one each.

    Example:

      medunlearn coordinator invite clinic-a clinic-b clinic-c --model-folder models/base
    """
    for site in sites:  # before the first file is written
        require_name(site, of="a hospital")
    membership = Membership(folder, now=time.time())
    base = _base_model(model, model_folder)
    open_before = {issued.site_id for issued in membership.issued() if not issued.used_by}
    for site in dict.fromkeys(sites):
        path = membership.invite(site, days=days, model=base, version=__version__,
                                 code_digest=installed_code_digest())
        typer.echo(f"wrote {path}")
        if site in open_before:
            typer.echo("  it replaces the earlier one: a folder that was made from that is moved "
                       "away, and `medunlearn hospital init` run again")
    _show_fingerprint(membership)
    typer.echo("  the hospital's engineer asks you for these words by telephone; never put them "
               "in the same mail\n"
               f"next, with what they send back: medunlearn coordinator enrol SITE.enrolment "
               f"--folder {folder}")


def refresh(
    folder: PartyFolder = HERE, model: ModelOption = "", model_folder: ModelFolderOption = None,
) -> None:
    """Tell hospitals that take part a new address, authority, version or base model.

    Writes one file per hospital; signed, so that no fingerprint needs to be compared again.
    """
    membership = Membership(folder, now=time.time())
    for site in membership.roster().current.sites:
        path = membership.refresh(site, model=_base_model(model, model_folder),
                                  version=__version__, code_digest=installed_code_digest())
        typer.echo(f"wrote {path}")
    typer.echo("next: each hospital runs `medunlearn hospital join --refresh FILE`")


def enrol(
    files: Annotated[list[Path], typer.Argument(help="What hospitals sent back.",
                                                show_default=False)],
    folder: PartyFolder = HERE,
    fingerprint: Annotated[list[str] | None, typer.Option(
        "--fingerprint", help="The words that the hospital told you, per file.")] = None,
    trust_on_first_use: FirstUseOption = False,
    days: ValidityOption = ROSTER_DAYS,
) -> None:
    """Take hospitals in, after comparing the fingerprint of each file by telephone.

    Example:

      medunlearn coordinator enrol clinic-a.enrolment
    """
    told = list(fingerprint or ())
    if told and len(told) != len(files):
        raise Misconfigured("FINGERPRINT_FORM", f"{len(told)} fingerprints for {len(files)} files",
                            "give one --fingerprint per file, in their order")
    membership = Membership(folder, now=time.time())
    words_of = {path: told[at] if told else None for at, path in enumerate(files)}
    for path, given in words_of.items():
        def confirm(enrolment: Enrolment, words: str | None = given) -> bool:
            return require_confirmed(
                enrolment.fingerprint, told=words, first_use=trust_on_first_use,
                who=f"{enrolment.site_id} ({enrolment.entry.entity})",
                interactive=sys.stdin.isatty())

        enrolment = membership.enrol(read_named(path), confirm)
        typer.echo(f"enrolled {enrolment.site_id} ({enrolment.entry.entity})")
        if enrolment.code_digest != installed_code_digest():
            typer.echo(f"  note: it has medunlearn {enrolment.package_version} with other code "
                       "than this machine; runs need the same")
    _advanced(membership, membership.advance(days=days))


def revoke(
    site: Annotated[str, typer.Argument(help="Party id.", show_default=False)] = "",
    folder: PartyFolder = HERE,
    notice: Annotated[Path | None, typer.Option(
        "--notice", help="What `medunlearn hospital leave` wrote.")] = None,
    days: ValidityOption = ROSTER_DAYS,
) -> None:
    """Take a hospital out: its node at once, its key with the next roster, for good.

    Example:

      medunlearn coordinator revoke clinic-a
    """
    membership = Membership(folder, now=time.time())
    if notice is not None:
        federation, leaving = open_leave(read_named(notice), membership.roster().current)
        if federation != membership.federation or site not in ("", leaving):
            raise Misconfigured("LEAVE_OTHER", f"the notice is {leaving}'s, of {federation!a}",
                                "name the hospital and the notice that belong together")
        site = leaving
    if not site:
        raise Misconfigured("SITE_MISSING", "no hospital is named", "name it, or give --notice")
    signed = membership.advance(days=days, revoke=site)
    typer.echo(f"revoked {site}; its node is no longer let in")
    _advanced(membership, signed, newcomers=False)


@roster_app.command("show")
def roster_show(folder: PartyFolder = HERE) -> None:
    """Print the roster in force, with nodes and open invitations."""
    membership = Membership(folder, now=time.time())
    roster, nodes = membership.roster().current, membership.sync_nodes()
    until = time.strftime("%Y-%m-%d", time.gmtime(roster.expires))
    typer.echo(f"roster {roster.version} of {membership.federation}, valid until {until}")
    for party in roster.parties:
        node = "" if party.role != "site" else \
            "  node" if party.party_id in nodes else "  no node key"
        typer.echo(f"  {party.role:11} {party.party_id:20} {party.key_id[:16]}  "
                   f"{party.entity}{node}")
    for issued in membership.issued():
        if not issued.used_by:
            good = time.strftime("%Y-%m-%d", time.gmtime(issued.expires))
            typer.echo(f"  invited     {issued.site_id:20} until {good}")
    _show_fingerprint(membership)


@roster_app.command("import")
def roster_import(
    file: Annotated[Path, typer.Argument(help="The signed roster.", show_default=False)],
    folder: PartyFolder = HERE,
    root: Annotated[Path | None, typer.Option(
        "--root", help="root.cbor, at the first import: it is pinned from then on.")] = None,
    despite_unpublished: UnpublishedOption = False,
) -> None:
    """Put a roster that the consortium signed into force, and a next key that it names.

    Example:

      medunlearn coordinator roster import roster.dsse --root root.cbor --folder lead
    """
    membership = Membership(folder, now=time.time())
    waiting = next_entry(membership.path)
    complete = membership.import_roster(
        read_named(file), root=read_named(root) if root else None,
        despite_unpublished=despite_unpublished)
    roster = membership.roster().current
    typer.echo(f"roster {roster.version} is in force, with {len(roster.sites)} hospitals")
    if waiting in roster.parties:
        typer.echo(_KEY_IN_FORCE)
    _show_fingerprint(membership)
    if not complete:
        typer.echo("it is of an earlier draft: enrolments or revocations came after that")
        for site in membership.taken_back():
            typer.echo(f"  still in it, and revoked here: {site}")
        _advanced(membership, complete)


@roster_app.command("renew")
def roster_renew(folder: PartyFolder = HERE, days: ValidityOption = ROSTER_DAYS) -> None:
    """Make the next version with the same parties, before the one in force expires.

    A roster.draft that waits for signatures is made anew with what it says, and lasts from today:
    owners of the root who have signed it already sign once more.
    """
    membership = Membership(folder, now=time.time())
    _advanced(membership, membership.advance(days=days, renew=True), newcomers=False)


def rotate(
    folder: PartyFolder = HERE,
    give_up: Annotated[bool, typer.Option(
        "--give-up", help="Take back a next key that waits, as if it was never made.")] = False,
    despite_unpublished: UnpublishedOption = False,
) -> None:
    """Make the coordinator's next signing key, every second year, between two runs.

    The present key vouches for it, and it comes into force with the roster that names it. What
    was attested before verifies under that roster too, and is published as ever: the present key
    is kept in trust/former/ for it. Make a backup afterwards.

    Examples:

      medunlearn coordinator rotate --folder lead

      medunlearn coordinator rotate --give-up
    """
    membership = Membership(folder, now=time.time())
    if give_up:
        left = membership.give_up_rotation()
        typer.echo("the key in force stays; the next one is gone, and the root's owners sign no "
                   "draft that names it")
        typer.echo("roster.draft waits for something else still" if left else
                   "no roster.draft is left; medunlearn coordinator roster renew makes one")
        return
    signed = membership.rotate(entropy=OsEntropy(), despite_unpublished=despite_unpublished)
    typer.echo(_KEY_IN_FORCE if signed else
               f"made a signing key in {membership.path / NEXT_FOLDER}/: it comes into force with "
               "the roster that names it")
    _advanced(membership, signed, newcomers=False)


def rotate_certificate(
    folder: PartyFolder = HERE,
    new_authority: Annotated[bool, typer.Option(
        "--new-authority", help="First step to a new authority: made and sent along with "
        "invitations, not used yet.")] = False,
    switch_authority: Annotated[bool, typer.Option(
        "--switch-authority", help="Second step, once every hospital has the new one.")] = False,
) -> None:
    """Issue the server's and the command line's certificates anew; a running service takes
    them up by itself.

    Hospitals notice nothing, as they trust the authority. For a new authority they need a new
    file first: medunlearn coordinator rotate-certificate --new-authority says how.
    """
    from medunlearn_server.joining.certificates import Rotation, rotate

    kind: Rotation = "new-authority" if new_authority else \
        "switch-authority" if switch_authority else "leaves"
    for line in rotate(folder, kind, now=time.time()):
        typer.echo(line)


def doctor(folder: PartyFolder = HERE, as_json: JsonOption = False) -> None:
    """Check everything about this folder and machine, and say what to do about each finding.

    Versions, file modes and disk, certificates, trust and roster, ports and clock.

    Changed is one thing: who is let in is set anew by roster, enrolments and revocations
    (nodes/). The exit status is 2 if there is a problem; warnings are for you to judge.

    Examples:

      medunlearn coordinator doctor

      medunlearn coordinator doctor --json
    """
    from medunlearn_server.joining.checks import coordinator_checks

    report(coordinator_checks(folder, now=time.time()), as_json=as_json)


def _base_model(name: str, folder: Path | None) -> InvitedModel:
    if folder is None:
        return InvitedModel(name=name)
    return InvitedModel(name=name or folder.resolve().name, model_digest=model_digest(folder),
                     tokenizer_digest=tokenizer_digest(folder))


def _advanced(membership: Membership, signed: bool, *, newcomers: bool = True) -> None:
    if signed:
        typer.echo(f"roster {membership.roster().current.version} is in force")
        typer.echo(f"next: send {membership.roster_file} to the new hospitals; the others get it "
                   "from the coordinator" if newcomers else
                   "hospitals get it from the coordinator; nothing needs to be sent")
        return
    draft = membership.path / "roster.draft"
    typer.echo(f"wrote {draft}; the owners of the root look at it and sign it:\n"
               f"  medunlearn roster show {draft}\n"
               f"  medunlearn roster sign ROOT_KEY --draft {draft}\n"
               f"then: medunlearn coordinator roster import roster.dsse "
               f"--folder {membership.path}")


def _show_fingerprint(membership: Membership) -> None:
    words = federation_fingerprint(membership.federation, membership.root())
    typer.echo(f"fingerprint of {membership.federation}: {words}")

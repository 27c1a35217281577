"""A hospital's folder: made from an invitation, brought into a federation, given new keys.

    SITE.enrolment         what goes back to the coordinator
    invitation             the invitation, or the last refresh of it
    trust/first_use        there if nobody compared the invitation's fingerprint
    next/                  keys that are made but not in force
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_ssh_private_key,
)

from medunlearn_client.policy import FederationLimits, KnownDigests, SitePolicy, policy_template
from medunlearn_client.service.config import (
    CONFIG_FILE,
    CoordinatorSection,
    HospitalConfig,
    WorkerSection,
    hospital_template,
)
from medunlearn_client.site_config import SITE_TOML, site_template
from medunlearn_common import __version__
from medunlearn_common.code_digest import installed_code_digest
from medunlearn_common.enrolment import Enrolment, node_public_key, write_enrolment, write_leave
from medunlearn_common.entropy import Entropy
from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.files import write_atomically
from medunlearn_common.founding import new_folder, new_trust_folder
from medunlearn_common.identity import (
    SigningIdentity,
    open_private_file,
    passphrase_from,
    write_identity,
)
from medunlearn_common.identity.commands import read_entry
from medunlearn_common.invitation import OpenedInvitation, open_invitation
from medunlearn_common.naming import require_entity
from medunlearn_common.plan.sections import DataSection
from medunlearn_common.roster import (
    Party,
    Root,
    Roster,
    TrustedRoster,
    enrolment_request,
    require_successor,
    verify_roster,
)
from medunlearn_common.roster.document import party_to_bytes
from medunlearn_common.roster.trusted import ROOT_FILE, ROSTER_FILE
from medunlearn_common.service_files import write_service_files
from medunlearn_common.trust_folder import (
    KEY_FILE,
    PASSPHRASE_FILE,
    POLICY_FILE,
    TRUST_FOLDER,
    open_identity,
)

INVITATION_FILE, FIRST_USE_FILE, NEXT_FOLDER = "invitation", "first_use", "next"
ENTRY_FILE = f"{KEY_FILE}.entry"
NODE_KEY, NODE_PUBLIC = "node.key", "node.pub"
KEY_DAYS = 730
_DAY_S = 86_400
_OWNER_ONLY = 0o700


@dataclass(frozen=True, kw_only=True)
class Joining:
    """What `init` is told beside the invitation.

    Attributes:
        entity: The hospital's legal entity.
        model_folder: Folder or hub id of the base model; empty: set later in ``site.toml``.
        data: Where the records are.
        device: Of the worker.
        compared: Whether people compared the invitation's fingerprint.
        passphrase_file: See :func:`medunlearn_common.founding.new_trust_folder`.
    """

    entity: str
    model_folder: str = ""
    data: DataSection
    device: str = "auto"
    compared: bool
    passphrase_file: Path | None = None

    def __post_init__(self) -> None:
        require_entity(self.entity)


def make_site_folder(
    folder: Path, opened: OpenedInvitation, document: bytes, joining: Joining, *,
    entropy: Entropy, now: float,
) -> Path:
    """Make the hospital's folder, whole or not at all.

    Args:
        folder: Where.
        opened: The checked invitation.
        document: The file that it was.
        joining: Everything else.
        entropy: For the signing key.
        now: Seconds since 1970.

    Returns:
        The enrolment file in it.

    Raises:
        Misconfigured: FOLDER_EXISTS, KEY_ codes.
        Transient: WRITE_FAILED.
    """
    invitation = opened.invitation
    with new_folder(folder) as draft:
        for name in ("node", "state", "approvals", "inbox", "adopted", "tls"):
            (draft / name).mkdir(mode=_OWNER_ONLY)
        identity = new_trust_folder(draft, invitation.site_id, entropy=entropy,
                                    passphrase_file=joining.passphrase_file)
        node = new_node_key(draft / "node")
        entry = enrolment_request(identity, role="site", entity=joining.entity,
                                  valid_from=int(now), valid_until=int(now) + KEY_DAYS * _DAY_S)
        trust = draft / TRUST_FOLDER
        write_atomically(trust / ENTRY_FILE, party_to_bytes(entry), private=False)
        write_atomically(trust / ROOT_FILE, opened.root.to_bytes(), private=False)
        write_atomically(trust / ROSTER_FILE, opened.roster_document, private=False)
        write_atomically(trust / POLICY_FILE, policy_for(opened).encode("utf-8"), private=False)
        if not joining.compared:
            write_atomically(trust / FIRST_USE_FILE, opened.fingerprint.encode("ascii") + b"\n")
        write_atomically(draft / "tls" / "ca.pem", invitation.authorities, private=False)
        write_atomically(draft / INVITATION_FILE, document, private=False)
        _write_settings(draft, opened, joining)
        enrolment = f"{invitation.site_id}.enrolment"
        write_atomically(draft / enrolment, _enrolment(
            identity, node, entry, federation=invitation.federation, token=invitation.token,
            now=now), private=False)
        outside = [Path(name) for name in (joining.model_folder, *joining.data.files)
                   if Path(name).is_absolute()]
        write_service_files(draft, role="hospital", final=folder.absolute(), readable=outside)
    return folder / enrolment


def policy_for(opened: OpenedInvitation) -> str:
    """``policy.toml`` with this federation's coordinator and base model, the rest as packaged."""
    invitation = opened.invitation
    return policy_template(SitePolicy(
        federation=FederationLimits(coordinators=(invitation.coordinator,)),
        known=KnownDigests(
            models=(invitation.model_digest,) if invitation.model_digest else (),
            tokenizers=(invitation.tokenizer_digest,) if invitation.tokenizer_digest else (),
        ),
    ))


def stored_invitation(folder: Path) -> OpenedInvitation:
    """The invitation that this folder was made from, or its last refresh.

    Raises:
        Misconfigured: INVITATION_MISSING.
        Rejected: As :func:`open_invitation`; INVITATION_OTHER_FEDERATION if its root is not the
            one that was pinned.
    """
    try:
        document = (folder / INVITATION_FILE).read_bytes()
    except OSError as error:
        raise Misconfigured("INVITATION_MISSING", f"{folder.name} has no invitation file",
                            "name a folder that `medunlearn hospital init` made") from error
    return open_invitation(document, now=0.0, allow_expired=True)


def take_roster(folder: Path, document: bytes, *, now: float) -> Roster:
    """Put a roster into force that names this hospital's key, or its next one.

    Raises:
        Misconfigured: ROSTER_MISSING, KEY_ codes.
        Rejected: ROSTER_ codes; ROSTER_WITHOUT_US if it does not name this hospital,
            ROSTER_OTHER_KEY if somebody else's key stands under its name. What was in force
            before stays.
        Transient: WRITE_FAILED.
    """
    trusted = TrustedRoster(folder / TRUST_FOLDER, now=0.0)
    roster = verify_roster(document, trusted.current.root, now=now)
    require_successor(roster, trusted.current)
    require_own_entry(folder, roster)
    return trusted.offer(document, now=now)


def require_own_entry(folder: Path, roster: Roster) -> None:
    """Refuse a roster without this hospital; raises ROSTER_WITHOUT_US, ROSTER_OTHER_KEY."""
    identity = open_identity(folder)
    own = [party for party in roster.parties if party.party_id == identity.party_id]
    if not own:
        raise Rejected("ROSTER_WITHOUT_US", f"roster {roster.version} does not name "
                       f"{identity.party_id}", "send the enrolment file to the coordinator, and "
                       "ask for the roster that was made after it")
    following = _next_entry(folder)
    if own[0].key_id not in (identity.key_id, following.key_id if following else ""):
        raise Rejected("ROSTER_OTHER_KEY", f"under {identity.party_id} the roster has a key that "
                       "is not this hospital's", "telephone the coordinator: somebody else may "
                       "have answered your invitation")


def take_refresh(folder: Path, document: bytes, *, now: float) -> list[str]:
    """Take over authorities and digests from a coordinator's signed refresh.

    Returns:
        What the engineer should know or do.

    Raises:
        Rejected: As :func:`open_invitation`; REFRESH_OTHER if it is of another federation, root,
            coordinator or hospital, REFRESH_OLD if a later one was taken before.
        Transient: WRITE_FAILED.
    """
    opened, before = open_invitation(document, now=now), stored_invitation(folder).invitation
    pinned = Root.from_bytes((folder / TRUST_FOLDER / ROOT_FILE).read_bytes())
    fresh = opened.invitation
    if opened.root != pinned or (fresh.federation, fresh.coordinator, fresh.site_id) != (
            before.federation, before.coordinator, before.site_id):
        raise Rejected("REFRESH_OTHER", "this refresh is not of this hospital's federation",
                       "take nothing from it, and tell the coordinator")
    if fresh.issued < before.issued:
        raise Rejected("REFRESH_OLD", "a later file of the coordinator was taken before",
                       "ask for the newest")
    write_atomically(folder / "tls" / "ca.pem", fresh.authorities, private=False)
    write_atomically(folder / INVITATION_FILE, document, private=False)
    told = ["took over the authorities that the gateway's certificate may be signed by"]
    if fresh.address != before.address:
        told.append(f'the coordinator moved: set [coordinator] address = "{fresh.address}" in '
                    f"{CONFIG_FILE}")
    if fresh.model_digest not in ("", before.model_digest):
        told.append(f"the base model is now {fresh.model} ({fresh.model_digest}): install it, set "
                    "model_folder in site.toml, and add its digest to trust/policy.toml")
    return told


def make_next_keys(
    folder: Path, *, identity: bool, node: bool, entropy: Entropy, now: float
) -> Path:
    """Make new keys beside those in force, and the enrolment that asks for them.

    Raises:
        Misconfigured: ROTATION_PENDING, ROTATION_NOTHING, KEY_ codes.
        Transient: WRITE_FAILED.
    """
    if not (identity or node):
        raise Misconfigured("ROTATION_NOTHING", "no key is to be replaced", "choose one or both")
    if (folder / NEXT_FOLDER).exists():
        raise Misconfigured("ROTATION_PENDING", "keys are being replaced already",
                            f"finish it with `medunlearn hospital join`, or delete {NEXT_FOLDER}/")
    old, entry = open_identity(folder), read_entry(folder / TRUST_FOLDER / ENTRY_FILE)
    signer = old
    with new_folder(folder / NEXT_FOLDER) as place:
        if identity:
            signer = SigningIdentity.generate(old.party_id, entropy)
            entry = enrolment_request(
                signer, role="site", entity=entry.entity, valid_from=int(now),
                valid_until=int(now) + KEY_DAYS * _DAY_S, old=old)
            write_identity(place / KEY_FILE, signer, passphrase=_passphrase(folder))
            write_atomically(place / ENTRY_FILE, party_to_bytes(entry), private=False)
        key = new_node_key(place) if node else read_node_key(folder / "node" / NODE_KEY)
        federation = stored_invitation(folder).invitation.federation
        document = _enrolment(signer, key, entry, federation=federation, token=b"", now=now)
        write_atomically(place / f"{old.party_id}.enrolment", document, private=False)
    return folder / NEXT_FOLDER / f"{old.party_id}.enrolment"


def activate_next_keys(folder: Path) -> list[str]:
    """Put next keys into force: a signing key once the roster names it, then the node's.

    Each step is one rename, so that a crash in between is mended by the next call.

    Returns:
        What was done.
    """
    place, done = folder / NEXT_FOLDER, []
    following = _next_entry(folder)
    if following is not None:
        roster = TrustedRoster(folder / TRUST_FOLDER, now=0.0).current
        if following.key_id != roster.party(following.party_id).key_id:
            return [f"the next signing key waits for a roster that names it ({NEXT_FOLDER}/)"]
        if (place / KEY_FILE).exists():
            os.replace(place / KEY_FILE, folder / TRUST_FOLDER / KEY_FILE)
        os.replace(place / ENTRY_FILE, folder / TRUST_FOLDER / ENTRY_FILE)
        done.append("the new signing key is in force")
    if (place / NODE_KEY).exists():
        os.replace(place / NODE_KEY, folder / "node" / NODE_KEY)
        done.append("the new node key is in force")
    if (place / NODE_PUBLIC).exists():
        os.replace(place / NODE_PUBLIC, folder / "node" / NODE_PUBLIC)
    if place.is_dir():
        for path in place.iterdir():
            path.unlink()
        place.rmdir()
    return done


def leave_federation(folder: Path, *, now: float) -> Path:
    """Sign a notice for the coordinator and destroy the node's key; records and ledger stay.

    Raises:
        Misconfigured: KEY_ codes, INVITATION_MISSING.
        Transient: WRITE_FAILED.
    """
    identity = open_identity(folder)
    federation = stored_invitation(folder).invitation.federation
    notice = folder / f"{identity.party_id}.leave"
    write_atomically(notice, write_leave(identity, federation=federation, at=int(now)),
                     private=False)
    (folder / "node" / NODE_KEY).unlink(missing_ok=True)
    return notice


def new_node_key(place: Path) -> ec.EllipticCurvePrivateKey:
    """Make ``node.key`` and ``node.pub`` in OpenSSH's form, as Flower reads them."""
    key = ec.generate_private_key(ec.SECP384R1())
    write_atomically(place / NODE_KEY, key.private_bytes(
        Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    write_atomically(place / NODE_PUBLIC, node_public_key(key.public_key()) + b"\n", private=False)
    return key


def read_node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The node's private key; raises KEY_FILE_ codes, NODE_KEY_INVALID."""
    data = open_private_file(path)
    try:
        key = load_ssh_private_key(data, password=None)
    except (ValueError, TypeError):
        key = None  # what the library says may quote the key
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp384r1":
        raise Misconfigured("NODE_KEY_INVALID", f"{path.name} is no ECDSA P-384 key of OpenSSH",
                            "make a new one: medunlearn hospital rotate --no-identity")
    return key


def _enrolment(
    identity: SigningIdentity, node: ec.EllipticCurvePrivateKey, entry: Party, *,
    federation: str, token: bytes, now: float,
) -> bytes:
    return write_enrolment(Enrolment(
        federation=federation, token=token, entry=entry,
        node_key=node_public_key(node.public_key()), package_version=__version__,
        code_digest=installed_code_digest(), issued=int(now),
    ), identity, node)


def _write_settings(draft: Path, opened: OpenedInvitation, joining: Joining) -> None:
    invitation = opened.invitation
    config = HospitalConfig(coordinator=CoordinatorSection(address=invitation.address),
                            worker=WorkerSection(device=joining.device))
    write_atomically(draft / CONFIG_FILE, hospital_template(config).encode("utf-8"),
                     private=False)
    text = site_template(invitation.site_id, model_folder=joining.model_folder, data=joining.data)
    tomllib.loads(text)  # a path that breaks TOML must not make a folder
    write_atomically(draft / SITE_TOML, text.encode("utf-8"))


def _next_entry(folder: Path) -> Party | None:
    path = folder / NEXT_FOLDER / ENTRY_FILE
    return read_entry(path) if path.exists() else None


def _passphrase(folder: Path) -> bytes:
    file = folder / TRUST_FOLDER / PASSPHRASE_FILE
    found = passphrase_from(file if file.exists() else None)
    if found is None:
        raise Misconfigured("KEY_PASSPHRASE", "no passphrase for the new key",
                            "set MEDUNLEARN_PASSPHRASE to the present key's")
    return found


__all__ = [
    "Joining", "activate_next_keys", "leave_federation", "make_next_keys", "make_site_folder",
    "read_node_key", "stored_invitation", "take_refresh", "take_roster",
]

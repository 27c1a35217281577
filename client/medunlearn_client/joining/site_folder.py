"""A hospital's folder: made from an invitation, and brought into a federation.

    SITE.enrolment         what goes back to the coordinator
    invitation             the invitation, or the last refresh of it
    trust/first_use        there if nobody compared the invitation's fingerprint
    next/                  keys that are made but not in force (see ``rotation``)
"""

from __future__ import annotations

import tomllib
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from medunlearn_client.joining.own_keys import (
    ENTRY_FILE,
    KEY_LIFETIME_S,
    NODE_KEY,
    enrolment_document,
    new_node_key,
    next_entry,
)
from medunlearn_client.joining.returning import carried_over, require_goes_on, settings_of
from medunlearn_client.policy import FederationLimits, KnownDigests, SitePolicy, policy_template
from medunlearn_client.service.config import (
    CONFIG_FILE,
    CoordinatorSection,
    HospitalConfig,
    WorkerSection,
    hospital_template,
)
from medunlearn_client.site_config import SITE_TOML, site_template
from medunlearn_common.enrolment import write_leave
from medunlearn_common.entropy import Entropy
from medunlearn_common.envelope.store import EnvelopeStore
from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.files import write_atomically
from medunlearn_common.founding import new_folder, new_trust_folder
from medunlearn_common.invitation import OpenedInvitation, open_invitation
from medunlearn_common.naming import require_entity
from medunlearn_common.plan.sections import DataSection
from medunlearn_common.roster import (
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
    POLICY_FILE,
    STORE_FILE,
    TRUST_FOLDER,
    open_identity,
)

INVITATION_FILE, FIRST_USE_FILE = "invitation", "first_use"
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
        after: The hospital's folder of before, whose history goes on in this one.
    """

    entity: str
    model_folder: str = ""
    data: DataSection
    device: str = "auto"
    compared: bool
    passphrase_file: Path | None = None
    after: Path | None = None

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
        MedunlearnError: As :func:`require_goes_on`, :func:`carried_over`, and
            :func:`settings_of`.
    """
    invitation = opened.invitation
    if joining.after is not None:
        require_goes_on(joining.after, invitation.site_id)
    with ExitStack() as carrying, new_folder(folder) as draft:
        for name in ("node", "state", "approvals", "inbox", "adopted", "tls"):
            (draft / name).mkdir(mode=_OWNER_ONLY)
        identity = new_trust_folder(draft, invitation.site_id, entropy=entropy,
                                    passphrase_file=joining.passphrase_file)
        node = new_node_key(draft / "node")
        entry = enrolment_request(identity, role="site", entity=joining.entity,
                                  valid_from=int(now), valid_until=int(now) + KEY_LIFETIME_S)
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
        write_atomically(draft / enrolment, enrolment_document(
            identity, node, entry, federation=invitation.federation, token=invitation.token,
            now=now), private=False)
        outside = [Path(name) for name in (joining.model_folder, *joining.data.files)
                   if Path(name).is_absolute()]
        write_service_files(draft, role="hospital", final=folder.absolute(), readable=outside)
        if joining.after is not None:  # ends after the folder has its name: only then it retires
            carrying.enter_context(carried_over(
                joining.after, draft, folder=folder, signer=identity, now=now))
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
        Transient: WRITE_FAILED, ENVELOPE_STORE.
    """
    trust = folder / TRUST_FOLDER
    trusted = TrustedRoster(trust, now=0.0)
    roster = verify_roster(document, trusted.current.root, now=now)
    require_successor(roster, trusted.current)
    require_own_entry(folder, roster)
    if (trust / STORE_FILE).exists():  # made by the first worker; a lost one is not made anew here
        with closing(EnvelopeStore(trust / STORE_FILE)) as store:
            store.see_roster(roster.version, roster.digest)
    return trusted.offer(document, now=now)


def require_own_entry(folder: Path, roster: Roster) -> None:
    """Refuse a roster without this hospital; raises ROSTER_WITHOUT_US, ROSTER_OTHER_KEY."""
    identity = open_identity(folder)
    own = [party for party in roster.parties if party.party_id == identity.party_id]
    if not own:
        raise Rejected("ROSTER_WITHOUT_US", f"roster {roster.version} does not name "
                       f"{identity.party_id}", "send the enrolment file to the coordinator, and "
                       "ask for the roster that was made after it")
    following = next_entry(folder)
    if own[0].key_id not in (identity.key_id, following.key_id if following else ""):
        raise Rejected("ROSTER_OTHER_KEY", f"under {identity.party_id} the roster has a key that "
                       "is not this hospital's", "telephone the coordinator: somebody else may "
                       "have answered your invitation")


def take_refresh(folder: Path, document: bytes, *, now: float) -> list[str]:
    """Take over authorities and digests from a coordinator's signed refresh.

    Returns:
        What the engineer should know or do.

    Raises:
        Misconfigured: INVITATION_MISSING, ROSTER_MISSING.
        Rejected: As :func:`open_invitation`; REFRESH_OTHER if it is of another federation, root,
            coordinator or hospital; KEY_REVOKED, KEY_UNKNOWN, KEY_EXPIRED, ROSTER_EXPIRED or
            SENDER_ROLE if its signer is not the coordinator of the roster in force; REFRESH_OLD
            if a later one was taken before.
        Transient: WRITE_FAILED.
    """
    opened, before = open_invitation(document, now=now), stored_invitation(folder).invitation
    own, fresh = TrustedRoster(folder / TRUST_FOLDER, now=0.0).current, opened.invitation
    if opened.root != own.root or (fresh.federation, fresh.coordinator, fresh.site_id) != (
            before.federation, before.coordinator, before.site_id):
        raise Rejected("REFRESH_OTHER", "this refresh is not of this hospital's federation",
                       "take nothing from it, and tell the coordinator")
    _require_own_coordinator(opened, own, now=now)
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


def _require_own_coordinator(opened: OpenedInvitation, own: Roster, *, now: float) -> None:
    """Its signer leads by the roster in force; the one that the file brings along may be old."""
    named = opened.invitation.coordinator
    signer, _ = own.party_of_key(opened.roster.party(named).key_id, now=now)
    if signer != named or own.party(named).role != "coordinator":
        raise Rejected("SENDER_ROLE", f"{signer} is not the coordinator that the refresh names",
                       "take nothing from it, and tell the coordinator")


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


def _write_settings(draft: Path, opened: OpenedInvitation, joining: Joining) -> None:
    invitation = opened.invitation
    config = HospitalConfig(coordinator=CoordinatorSection(address=invitation.address),
                            worker=WorkerSection(device=joining.device))
    write_atomically(draft / CONFIG_FILE, hospital_template(config).encode("utf-8"),
                     private=False)
    text = site_template(invitation.site_id, model_folder=joining.model_folder, data=joining.data,
                         before=None if joining.after is None else settings_of(joining.after))
    tomllib.loads(text)  # a path that breaks TOML must not make a folder
    write_atomically(draft / SITE_TOML, text.encode("utf-8"))

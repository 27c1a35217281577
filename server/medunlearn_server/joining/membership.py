"""Who takes part: the coordinator's files about it, and every change of them.

    invitations/SITE.json           what was issued last: token, expiry, by which key it was used
    enrolments/                     what hospitals sent: waiting, in force, former
    revoked.json                    keys taken back, whether or not the root has signed it yet
    nodes/SITE.pub                  whom the gateway lets through
    roster.draft                    the next roster, until the root has signed it
    next/                           the coordinator's next key, until a roster names it
    state/membership.lock           held by the command that changes any of these

The draft follows from roster, enrolments, revocations and next/, as does the nodes folder; both are
set anew after every change. So a crash between two writes leaves nothing that the next command
does not mend, and an earlier draft that the root's owners sign loses nothing that came after it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from medunlearn_common.enrolment import Enrolment, open_enrolment, require_successor_of_entry
from medunlearn_common.entropy import Entropy
from medunlearn_common.errors import Misconfigured, Rejected, Transient
from medunlearn_common.files import in_turn, write_atomically
from medunlearn_common.invitation import TOKEN_BYTES, Invitation, write_invitation
from medunlearn_common.keeping import PartyMarks
from medunlearn_common.pki import read_certificates, to_pem
from medunlearn_common.roster import Party, Root, Roster, TrustedRoster, verify_roster
from medunlearn_common.roster.document import SKEW_S
from medunlearn_common.roster.trusted import ROOT_FILE
from medunlearn_common.trust_folder import TRUST_FOLDER, open_identity, party_id_of
from medunlearn_server.joining.enrolment_records import EnrolmentRecords
from medunlearn_server.joining.founding import (
    ROSTER_DAYS,
    has_pilot_root,
    publish_first,
    sign_as_pilot,
)
from medunlearn_server.joining.invitation_records import InvitationRecords, Issued
from medunlearn_server.joining.node_folder import set_nodes
from medunlearn_server.joining.own_key import (
    NEXT_FOLDER,
    activate_next_key,
    between_runs,
    discard_next_key,
    is_successor,
    make_next_key,
    next_entry,
)
from medunlearn_server.joining.revocation_records import REVOKED_FILE, RevocationRecords
from medunlearn_server.service.config import CoordinatorFolder, open_folder

DRAFT_FILE = "roster.draft"
# Without it two commands could each sign a next version of one roster, and one be lost.
_LOCK_FILE = "membership.lock"
_DAY_S = 86_400
_REFRESH_DAYS = 30
Confirm = Callable[[Enrolment], bool]


@dataclass(frozen=True, kw_only=True)
class InvitedModel:
    """What an invitation says of the base model; empty leaves it open."""

    name: str = ""
    model_digest: str = ""
    tokenizer_digest: str = ""


class Membership:
    """The membership files of one coordinator's folder."""

    def __init__(self, folder: Path, *, now: float) -> None:
        """Open; raises PARTY_RETIRED where the coordinator moved to another machine."""
        PartyMarks(folder).require_in_service()
        self._folder: CoordinatorFolder = open_folder(folder)
        self._path = self._folder.path
        self._now = now
        self._invitations = InvitationRecords(self._path / "invitations")
        self._enrolments = EnrolmentRecords(self._path / "enrolments")
        self._revocations = RevocationRecords(self._path / REVOKED_FILE)

    @property
    def path(self) -> Path:
        """The folder."""
        return self._path

    @property
    def federation(self) -> str:
        """Its name."""
        return self._folder.config.federation.name

    @property
    def roster_file(self) -> Path:
        """The roster in force, which hospitals are sent."""
        return self._path / TRUST_FOLDER / "roster.dsse"

    def roster(self) -> TrustedRoster:
        """The roster in force, even if it has expired: a later one must follow from it."""
        return TrustedRoster(self._path / TRUST_FOLDER, now=0.0)

    def root(self) -> Root:
        """The pinned root."""
        try:
            return Root.from_bytes((self._path / TRUST_FOLDER / ROOT_FILE).read_bytes())
        except OSError as error:
            raise Misconfigured(
                "ROSTER_MISSING", "this coordinator has no roster yet",
                "give coordinator.entry to the consortium, then `medunlearn coordinator roster "
                "import roster.dsse --root root.cbor`") from error

    # Invitations.

    def invite(
        self, site_id: str, *, days: int, model: InvitedModel, version: str, code_digest: str
    ) -> Path:
        """Write ``invitations/SITE.invitation``; an earlier one of that site is no longer good.

        Raises:
            Misconfigured: ROSTER_MISSING, KEY_ and TLS_ codes.
            Rejected: INVITATION_FORM, SITE_EXISTS, ROSTER_EXPIRED.
            Transient: WRITE_FAILED.
        """
        self.root()
        with self._turn():
            trusted = self.roster()
            verify_roster(trusted.document, trusted.current.root, now=self._now)
            if any(party.party_id == site_id for party in trusted.current.parties):
                raise Rejected("SITE_EXISTS", f"{site_id} is in the roster already",
                               "for new keys the hospital uses `medunlearn hospital rotate`; if "
                               "it lost them, revoke it first")
            invitation, document = self._invitation(
                site_id, days=days, model=model, version=version, code_digest=code_digest)
            self._invitations.remember(Issued(
                site_id=site_id, token=invitation.token.hex(), issued=invitation.issued,
                expires=invitation.expires, model_digest=model.model_digest,
                tokenizer_digest=model.tokenizer_digest))
            path = self._path / "invitations" / f"{site_id}.invitation"
            write_atomically(path, document, private=False)
        return path

    def refresh(self, site_id: str, *, model: InvitedModel, version: str, code_digest: str) -> Path:
        """Write ``invitations/SITE.refresh``: address, authorities and digests as they are now.

        Nobody can enrol with its token, which is remembered nowhere.

        Raises:
            Misconfigured: ROSTER_MISSING, KEY_ and TLS_ codes.
            Rejected: PARTY_UNKNOWN.
            Transient: WRITE_FAILED.
        """
        path = self._path / "invitations" / f"{site_id}.refresh"
        with self._turn():
            self.roster().current.party(site_id)
            _, document = self._invitation(site_id, days=_REFRESH_DAYS, model=model,
                                           version=version, code_digest=code_digest)
            write_atomically(path, document, private=False)
            for issued in self.issued():
                if issued.site_id == site_id and model.model_digest:
                    self._invitations.remember(replace(
                        issued, model_digest=model.model_digest,
                        tokenizer_digest=model.tokenizer_digest))
        return path

    def _invitation(
        self, site_id: str, *, days: int, model: InvitedModel, version: str, code_digest: str
    ) -> tuple[Invitation, bytes]:
        identity, config = open_identity(self._path), self._folder.config
        invitation = Invitation(
            federation=self.federation, coordinator=identity.party_id, site_id=site_id,
            address=config.federation.address,
            authorities=to_pem(read_certificates(self._folder.tls("server_ca"))),
            token=secrets.token_bytes(TOKEN_BYTES), package_version=version,
            code_digest=code_digest, model=model.name, model_digest=model.model_digest,
            tokenizer_digest=model.tokenizer_digest, issued=int(self._now),
            expires=int(self._now) + days * _DAY_S,
        )
        return invitation, write_invitation(invitation, identity, root=self.root(),
                                            roster_document=self.roster().document)

    def base_model(self) -> InvitedModel:
        """The digests that all hospitals taking part were told; empty if they differ."""
        sites = self.roster().current.sites
        told = {(issued.model_digest, issued.tokenizer_digest)
                for issued in self.issued() if issued.site_id in sites}
        if len(told) != 1:
            return InvitedModel()
        model, tokenizer = told.pop()
        return InvitedModel(model_digest=model, tokenizer_digest=tokenizer)

    def issued(self) -> list[Issued]:
        """All that is remembered of invitations, by site."""
        return self._invitations.all()

    # Enrolments.

    def enrol(self, document: bytes, confirm: Confirm) -> Enrolment:
        """Take a confirmed enrolment; :meth:`advance` then makes the roster that names it.

        Args:
            document: The file that the hospital sent.
            confirm: Lets people compare the fingerprint; returns whether they did, raises to
                refuse. Asked last, after everything that a machine can check.

        Raises:
            Rejected: As :func:`open_enrolment`; ENROLMENT_OTHER_FEDERATION, INVITATION_UNKNOWN,
                INVITATION_EXPIRED, INVITATION_USED, SITE_EXISTS, ENROLMENT_OLD, ENROLMENT_EARLY,
                ENROLMENT_ROTATION, NODE_KEY_USED, KEY_REVOKED, KEY_EXPIRED.
            Transient: WRITE_FAILED.
        """
        enrolment = open_enrolment(document)
        if enrolment.federation != self.federation:
            raise Rejected("ENROLMENT_OTHER_FEDERATION",
                           f"it is for {enrolment.federation!a}, this is {self.federation}",
                           "send it to the coordinator that sent the invitation")
        self._require_usable(enrolment.entry)
        if document in self._enrolments.of(enrolment.site_id):
            confirm(enrolment)  # whoever names words is told if they are another file's
            return enrolment
        self._require_welcome(enrolment)
        # Unlocked: a revocation must not wait for the end of a telephone call.
        compared = confirm(enrolment)
        with self._turn():
            self._require_usable(enrolment.entry)
            issued = self._require_welcome(enrolment)
            if issued is not None:  # first: after a crash nobody else can answer it
                self._invitations.remember(
                    replace(issued, used_by=enrolment.entry.key_id, compared=compared))
            self._enrolments.wait(enrolment.site_id, document)
        return enrolment

    def _require_usable(self, entry: Party) -> None:
        if entry.key_id in (*self.roster().current.revoked, *self._revocations.keys()):
            raise Rejected("KEY_REVOKED", f"the key of {entry.party_id} was revoked once",
                           "the hospital makes a new folder with a new key")
        if not entry.valid_from - SKEW_S <= self._now <= entry.valid_until:
            raise Rejected("KEY_EXPIRED", f"the key of {entry.party_id} is not valid now",
                           "check the hospital's clock, and this one")

    def _require_welcome(self, enrolment: Enrolment) -> Issued | None:
        """The invitation that it answers; None for a change of keys by a hospital that is in."""
        roster, issued = self.roster().current, None
        if enrolment.token:
            issued = self._invitations.answered_by(enrolment, roster, now=self._now)
        else:
            require_successor_of_entry(enrolment, roster)
            self._enrolments.require_newer(enrolment, now=self._now)
        self._enrolments.require_fresh_node(enrolment)
        return issued

    # Roster.

    def advance(
        self, *, days: int = ROSTER_DAYS, revoke: str | None = None, renew: bool = False
    ) -> bool:
        """Make the roster that follows from enrolments and revocations.

        Args:
            days: Validity of a new version.
            revoke: A site to take out, or whose enrolment to withdraw; its keys for good.
            renew: Make a new version even if nobody comes or goes.

        Returns:
            True if the roster in force says all of it, signed by the pilot's root here; False if
            ``roster.draft`` waits for the consortium's root.

        Raises:
            Misconfigured: KEY_ codes, ROOT_KEYS_TOO_FEW, REVOKED_FILE.
            Rejected: PARTY_UNKNOWN for a ``revoke`` that is nobody, REVOKE_ROLE for one that is
                no site.
            Transient: WRITE_FAILED.
        """
        with self._turn():
            trusted = self.roster()
            if revoke is not None:
                self._take_back(revoke, self._begun(trusted.current, days), trusted.current)
            return self._carry_out(trusted, days=days, renew=renew)

    def rotate(self, *, entropy: Entropy, despite_unpublished: bool = False) -> bool:
        """Make a new signing key for this coordinator, and the roster that names it.

        With the root's keys here it goes on with a key that was made and never came into force.

        Args:
            entropy: For the key.
            despite_unpublished: See :func:`between_runs`.

        Returns:
            As :meth:`advance`; the key is in force with that roster.

        Raises:
            Misconfigured: ROTATION_PENDING, ROTATION_IN_RUN, ROTATION_UNPUBLISHED, ROSTER_MISSING,
                ENTRY_ and KEY_ codes, ROOT_KEYS_TOO_FEW.
            Rejected: KEY_REVOKED or KEY_UNKNOWN if the roster in force does not name this key.
            Transient: WRITE_FAILED, RUNS_DB. Like any other error it leaves no key that is not in
                force.
        """
        self.root()
        with self._turn(), between_runs(self._folder, despite_unpublished=despite_unpublished):
            trusted = self.roster()
            if (self._path / NEXT_FOLDER).exists():
                self._require_to_go_on(trusted.current)
                return self._carry_out(trusted, days=ROSTER_DAYS, own=True)
            try:
                make_next_key(self._path, trusted.current, entropy=entropy, now=self._now)
                return self._carry_out(trusted, days=ROSTER_DAYS, own=True)
            except Exception:
                following = next_entry(self._path)
                if following is not None and following not in self.roster().current.parties:
                    self._drop_next_key()
                raise

    def _require_to_go_on(self, current: Roster) -> None:
        following = next_entry(self._path)
        if following is None or not is_successor(following, current):
            raise Misconfigured(
                "ROTATION_PENDING", f"{NEXT_FOLDER}/ holds a key that cannot follow the one in "
                "force", "take it away: medunlearn coordinator rotate --give-up")
        if not has_pilot_root(self._path):
            raise Misconfigured(
                "ROTATION_PENDING", "the key is being replaced already, and waits for a roster "
                "that the root signs", f"have {DRAFT_FILE} signed and import it (medunlearn "
                "coordinator roster renew drafts it anew), or medunlearn coordinator rotate "
                "--give-up")

    def give_up_rotation(self) -> bool:
        """Take back a key that has not come into force, from the draft too.

        Returns:
            Whether a draft is left, for something else.

        Raises:
            Misconfigured: ROTATION_NONE.
            Transient: WRITE_FAILED.
        """
        with self._turn():
            if not (self._path / NEXT_FOLDER).exists():
                raise Misconfigured("ROTATION_NONE", "no key waits to come into force",
                                    "medunlearn coordinator rotate makes one")
            self._drop_next_key()
            return (self._path / DRAFT_FILE).exists()

    def _drop_next_key(self) -> None:
        """Also from the draft, which goes with it where it says nothing else.

        On a full disk the draft stays as it is; the next one is set anew without the key.
        """
        draft, following = self._draft(), next_entry(self._path)
        if draft is not None and following in draft.parties:
            current = self.roster().current
            without = self._following(current, ROSTER_DAYS, renew=False, own=False)
            with suppress(Transient):
                self._set_draft(without if _changes(without, current) else None)
        discard_next_key(self._path)

    def import_roster(
        self, document: bytes, *, root: bytes | None, despite_unpublished: bool = False
    ) -> bool:
        """Take a roster that the consortium signed into force.

        Args:
            document: Signed roster.
            root: The root to pin, at the very first import.
            despite_unpublished: See :func:`between_runs`; for one that names this coordinator's
                next key.

        Returns:
            As :meth:`advance`: False if it is of an earlier draft, and ``roster.draft`` waits
            with what came after that.

        Raises:
            Misconfigured: ROSTER_MISSING, ROOT_PINNED, REVOKED_FILE; ROTATION_IN_RUN or
                ROTATION_UNPUBLISHED if it names this coordinator's next key.
            Rejected: ROSTER_, KEY_ codes; ROSTER_WITHOUT_US if it does not name this coordinator.
            Transient: WRITE_FAILED, RUNS_DB.
        """
        pinned = (self._path / TRUST_FOLDER / ROOT_FILE).exists()
        if root is not None and pinned and root != self.root().to_bytes():
            raise Misconfigured("ROOT_PINNED", "another root is pinned here already",
                                "leave --root out; a new root is followed when the old one signs")
        first = Root.from_bytes(root) if root is not None and not pinned else None
        roster = verify_roster(document, first or self.root(), now=self._now)
        with self._turn():
            if next_entry(self._path) in roster.parties:
                with between_runs(self._folder, despite_unpublished=despite_unpublished):
                    return self._take(roster, document, first=first is not None)
            identity = open_identity(self._path)
            if not any(p.key_id == identity.key_id and p.role == "coordinator"
                       and p.party_id == identity.party_id for p in roster.parties):
                raise Rejected("ROSTER_WITHOUT_US", f"{identity.party_id} is not in it with its "
                               "key", "give coordinator.entry to the consortium: medunlearn roster "
                               "add")
            return self._take(roster, document, first=first is not None)

    def _take(self, roster: Roster, document: bytes, *, first: bool) -> bool:
        if first:
            publish_first(self._path, roster, document)
        else:
            self.roster().offer(document, now=self._now)
        return self._carry_out(self.roster(), days=ROSTER_DAYS)

    def sync_nodes(self) -> tuple[str, ...]:
        """Set ``nodes/`` to the roster's sites with their enrolled node keys; returns them."""
        with self._turn():
            return self._sync_nodes()

    def taken_back(self) -> tuple[str, ...]:
        """Sites that were revoked here and are still in the roster in force."""
        keys = self._revocations.keys()
        return tuple(p.party_id for p in self.roster().current.parties if p.key_id in keys)

    def _take_back(self, site_id: str, *rosters: Roster) -> None:
        """Note that a site's keys are no longer good, before anything else is done about it."""
        entries = [party for roster in rosters for party in roster.parties]
        entries += [enrolment.entry for enrolment in self._enrolments.of(site_id).values()]
        named = [entry for entry in entries if entry.party_id == site_id]
        if not named:
            raise Rejected(
                "PARTY_UNKNOWN", f"{site_id} is not in roster {rosters[-1].version}: it was "
                "revoked already, or never took part",
                "`medunlearn coordinator roster show` lists who takes part")
        if any(entry.role != "site" for entry in named):
            raise Rejected("REVOKE_ROLE", f"{site_id} is no hospital",
                           "only the root's owners take a coordinator out: medunlearn roster "
                           f"revoke {site_id} --after roster.dsse")
        self._revocations.add(entry.key_id for entry in named)
        self._enrolments.retire(site_id)
        self._invitations.forget(site_id)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """No other command changes anything here; what a rotation was cut off in is finished."""
        with in_turn(self._folder.state / _LOCK_FILE):
            if (self._path / NEXT_FOLDER).exists() and self.roster_file.exists():
                activate_next_key(self._path, self.roster().current)
            yield

    def _carry_out(
        self, trusted: TrustedRoster, *, days: int, renew: bool = False, own: bool = False
    ) -> bool:
        """Put what enrolments and revocations ask for into force, or draft it.

        A next key of this coordinator is drafted too; put into force at once, where the root's
        keys are here, only if ``own`` says that no run is under way.
        """
        offline, current, signed = not has_pilot_root(self._path), trusted.current, True
        following = self._following(current, days, renew=renew, own=own or offline)
        if renew or _changes(following, current):
            signed = not offline
            if signed:
                trusted.offer(sign_as_pilot(self._path, following), now=self._now)
            else:
                self._set_draft(following)
        draft = self._draft()
        if draft is not None and draft.version <= trusted.current.version:
            self._set_draft(None)
        activate_next_key(self._path, trusted.current)
        self._sync_nodes()
        return signed

    def _following(self, current: Roster, days: int, *, renew: bool, own: bool) -> Roster:
        """The next version, with all that is asked for and not yet in force.

        Of this coordinator itself it has the key in force, or with ``own`` the next one. A draft
        that says it all already stays as it is, as owners of the root may have signed it. One that
        has expired, or is to be renewed, is signed anew anyway, and lasts from now on.
        """
        begun = self._begun(current, days)
        revoked = {*begun.revoked, *self._revocations.keys()}
        entries = (*begun.parties, *(e.entry for e in self._enrolments.pending()),
                   *self._own_entries(current, with_next=own))
        parties = {entry.party_id: entry for entry in entries if entry.key_id not in revoked}
        following = replace(begun, parties=tuple(parties[name] for name in sorted(parties)),
                            revoked=tuple(sorted(revoked)))
        if following == begun and not renew and begun.expires > self._now:
            return begun
        now = int(self._now)
        until = now + days * _DAY_S
        return replace(following, issued=now,
                       expires=until if renew else max(begun.expires, until))

    def _own_entries(self, current: Roster, *, with_next: bool) -> Iterator[Party]:
        """This coordinator's own entries, of which the last that is not revoked counts.

        A draft that waits may name a next key that was given up since.
        """
        name, following = party_id_of(self._path), next_entry(self._path)
        yield from (party for party in current.parties if party.party_id == name)
        if with_next and following is not None and is_successor(following, current):
            yield following

    def _begun(self, current: Roster, days: int) -> Roster:
        """The next version: the draft that waits for signatures, or a new one."""
        draft = self._draft()
        if draft is not None and draft.version == current.version + 1:
            return draft
        now = int(self._now)
        return replace(current, version=current.version + 1, issued=now,
                       expires=now + days * _DAY_S)

    def _draft(self) -> Roster | None:
        path = self._path / DRAFT_FILE
        return Roster.from_bytes(path.read_bytes()) if path.exists() else None

    def _set_draft(self, draft: Roster | None) -> None:
        path = self._path / DRAFT_FILE
        if draft is None:
            path.unlink(missing_ok=True)
        else:
            write_atomically(path, draft.to_bytes(), private=False)

    def _sync_nodes(self) -> tuple[str, ...]:
        roster, revoked, keys = self.roster().current, self._revocations.keys(), {}
        for enrolment in self._enrolments.pending():
            site = enrolment.site_id
            if site in roster.sites and roster.party(site) == enrolment.entry:
                self._enrolments.come_into_force(site)
        for enrolment in self._enrolments.in_force():
            site, key = enrolment.site_id, enrolment.entry.key_id
            if site in roster.sites and roster.party(site).key_id == key and key not in revoked:
                keys[site] = enrolment.node_key
        set_nodes(self._folder.nodes, keys)
        return tuple(sorted(keys))


def _changes(following: Roster, current: Roster) -> bool:
    """Whether anybody comes, goes or has another key."""
    return (following.parties, following.revoked) != (current.parties, current.revoked)

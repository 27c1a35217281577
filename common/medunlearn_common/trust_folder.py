"""One party's trust folder: its key, the root it pins, the roster in force, its record.

    identity.key    Ed25519, encrypted, 0600
    party.txt       the party's id
    passphrase      0600; only where nobody is there to type it (see also MEDUNLEARN_PASSPHRASE)
    root.cbor       the consortium's root, pinned by hand
    roster.dsse     the roster in force
    former/         keys that were replaced: each coordinator's entry with KEY_ID.entry, and at a
                    coordinator its own with KEY_ID.key (0600, under the same passphrase)
    envelopes.db    what was sent and received
    policy.toml     at a site: what it accepts
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medunlearn_common.entropy import Entropy, OsEntropy
from medunlearn_common.envelope.header import Header
from medunlearn_common.envelope.sealing import content_bytes, seal
from medunlearn_common.envelope.store import EnvelopeStore
from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.identity import SigningIdentity, passphrase_from, read_identity
from medunlearn_common.messages import Message
from medunlearn_common.roster import Roster, TrustedRoster
from medunlearn_common.roster.former import FORMER_FOLDER, PartyKey, kept_former_key
from medunlearn_common.roster.trusted import ROSTER_FILE

TRUST_FOLDER = "trust"
KEY_FILE, PARTY_FILE, PASSPHRASE_FILE = "identity.key", "party.txt", "passphrase"
STORE_FILE, POLICY_FILE = "envelopes.db", "policy.toml"
ENVELOPE_LIFE_S = 86_400
_NONCE_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class Trust:
    """What a party needs to speak and to believe.

    Attributes:
        identity: Its signing key.
        roster: Whom it believes.
        store: What it said and heard.
        entropy: For nonces.
        clock: Seconds since 1970; only validity and advice depend on it.
    """

    identity: SigningIdentity
    roster: TrustedRoster
    store: EnvelopeStore
    entropy: Entropy
    clock: Callable[[], float] = time.time

    def follow(self) -> bool:
        """Believe what another process of this party has put in force; whether it is another one.

        Raises:
            Misconfigured: ROSTER_MISSING.
            Rejected: As :meth:`TrustedRoster.follow` and :meth:`EnvelopeStore.see_roster`.
            Transient: ENVELOPE_STORE.
        """
        before = self.roster.current.digest
        # What the store refuses is not believed the next time either.
        self.roster.follow(lambda new: self.store.see_roster(new.version, new.digest))
        return self.roster.current.digest != before

    def seal_all(self, drafts: list[tuple[Header, Message]]) -> list[tuple[Header, bytes]]:
        """Final headers and envelopes of drafts, recorded before they are returned.

        Raises:
            Rejected: ANSWER_CHANGED.
            Transient: ENVELOPE_STORE, ROSTER_MISMATCH.
        """
        headers = self.store.assign(*(draft for draft, _ in drafts), nonce=self._nonce)
        return [
            (header, seal(self.identity, header, content_bytes(message)))
            for header, (_, message) in zip(headers, drafts, strict=True)
        ]

    def verify(self, party_id: str, context: str, message: bytes, signature: bytes) -> None:
        """Check the signature of a *site*, by the roster in force: what masking believes.

        Guarantees:
            A coordinator's own key never passes for a member of a masked sum. Otherwise it
            could sit in sessions itself, and a sum over three would show one hospital's vector.

        Raises:
            Rejected: PARTY_UNKNOWN, SENDER_ROLE, KEY_REVOKED, KEY_EXPIRED, SIGNATURE_INVALID.
        """
        roster = self.roster.current
        if roster.party(party_id).role != "site":
            raise Rejected("SENDER_ROLE", f"{party_id} is no site, and takes part in no sum",
                           "report this to the consortium: a coordinator poses as a hospital")
        roster.verify(party_id, context, message, signature, now=self.clock())

    def close(self) -> None:
        """Give the record back; nothing can be sealed or believed any more."""
        self.store.close()

    def _nonce(self, header: Header) -> bytes:
        purpose = ("nonce", header.run, header.sender, header.recipient, header.sequence)
        return self.entropy.key(*purpose)[:_NONCE_BYTES]


def open_trust(
    folder: Path, *, entropy: Entropy | None = None, clock: Callable[[], float] = time.time,
    survives_power_cut: bool = True, allow_expired: bool = False,
) -> Trust:
    """Open the trust folder inside a party's folder; whoever opens it closes it.

    Args:
        folder: The party's.
        entropy: For nonces; None takes the operating system's.
        clock: Seconds since 1970.
        survives_power_cut: See :class:`DurableDatabase`.
        allow_expired: Open with an expired roster too: until a newer one comes, no signature is
            believed (ROSTER_EXPIRED).

    Raises:
        Misconfigured: TRUST_MISSING, KEY_ codes, ROSTER_MISSING.
        Rejected: ROSTER_ codes; KEY_REVOKED or KEY_UNKNOWN if the roster in force does not
            name this very key: nobody would believe what is signed with it.
        Transient: ENVELOPE_STORE.
    """
    identity, place = open_identity(folder), folder / TRUST_FOLDER
    roster = TrustedRoster(place, now=0.0 if allow_expired else clock())
    store = EnvelopeStore(place / STORE_FILE, survives_power_cut=survives_power_cut)
    try:
        store.see_roster(roster.current.version, roster.current.digest)
        require_named(identity, roster.current)
    except BaseException:
        store.close()
        raise
    return Trust(identity=identity, roster=roster, store=store,
                 entropy=entropy or OsEntropy(), clock=clock)


def require_named(identity: SigningIdentity, roster: Roster) -> None:
    """Refuse a key that a roster does not name; raises Rejected KEY_REVOKED or KEY_UNKNOWN."""
    if identity.key_id in roster.revoked:
        raise Rejected("KEY_REVOKED", f"roster {roster.version} revokes the key of "
                       f"{identity.party_id}", "ask the consortium why")
    if not roster.names(identity.party_id, key_id=identity.key_id):
        raise Rejected("KEY_UNKNOWN", f"roster {roster.version} does not name this key of "
                       f"{identity.party_id}", "take the newest roster (at a hospital: "
                       "medunlearn hospital join); doctor says more")


def open_identity(folder: Path) -> SigningIdentity:
    """The signing key in a party's trust folder.

    Raises:
        Misconfigured: TRUST_MISSING or a KEY_ code.
    """
    return _opened(folder, KEY_FILE)


def open_former_identity(folder: Path, key_id: str) -> SigningIdentity:
    """A signing key that this party had before: the logs that it began go on under it.

    Raises:
        Misconfigured: FORMER_KEY_MISSING, TRUST_MISSING or a KEY_ code.
    """
    name = f"{FORMER_FOLDER}/{key_id}.key"
    if (folder / TRUST_FOLDER).is_dir() and not (folder / TRUST_FOLDER / name).is_file():
        raise Misconfigured(
            "FORMER_KEY_MISSING", f"the former key {key_id[:16]} is not here, under which a log "
            "was begun", f"put {TRUST_FOLDER}/{name} back from a backup that was made since "
            "`rotate`; without it the log can be read and verified, and never written again")
    identity = _opened(folder, name)
    if identity.key_id != key_id:
        raise Misconfigured("KEY_FILE_INVALID", f"{name} is another key than its name says",
                            "put the file back from a backup")
    return identity


def passphrase_of(folder: Path) -> bytes:
    """The passphrase of a party's key files, from its file or the environment.

    Raises:
        Misconfigured: KEY_PASSPHRASE or another KEY_ code.
    """
    file = folder / TRUST_FOLDER / PASSPHRASE_FILE
    passphrase = passphrase_from(file if file.exists() else None)
    if passphrase is None:
        raise Misconfigured(
            "KEY_PASSPHRASE", "no passphrase for the key file",
            f"set MEDUNLEARN_PASSPHRASE, or write it to {PASSPHRASE_FILE} with mode 0600",
        )
    return passphrase


def party_id_of(folder: Path) -> str:
    """The party's name, which its trust folder holds.

    Raises:
        Misconfigured: TRUST_MISSING.
    """
    try:
        return (folder / TRUST_FOLDER / PARTY_FILE).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise Misconfigured(
            "TRUST_MISSING", f"{folder.absolute()} has no trust folder with a party's id",
            "name the party's folder with --folder; a new party's is made by `init`",
        ) from error


def _opened(folder: Path, key_file: str) -> SigningIdentity:
    party_id = party_id_of(folder)
    return read_identity(folder / TRUST_FOLDER / key_file, party_id=party_id,
                         passphrase=passphrase_of(folder))


class RosterInForce:
    """Verifies with the roster that lies in a party's trust folder at that moment.

    The envelope layer may take a newer one into force at any greeting; who was revoked by it is
    refused here from then on.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._place = folder / TRUST_FOLDER
        self._clock = clock
        self._read: TrustedRoster | None = None

    @property
    def current(self) -> Roster:
        """The roster; raises as :class:`TrustedRoster`. Its signatures are checked once a file."""
        path = self._place / ROSTER_FILE
        known = self._read
        if known is None or not path.is_file() or path.read_bytes() != known.document:
            known = self._read = TrustedRoster(self._place, now=self._clock())
        return known.current

    def former_key(self, party_id: str, key_id: str) -> PartyKey | None:
        """A coordinator's key that a roster in force here has replaced; None if there is none.

        Raises:
            Misconfigured: ROSTER_MISSING.
            Rejected: As :func:`kept_former_key`, and ROSTER_ codes.
        """
        return kept_former_key(self._place, self.current, party_id=party_id, key_id=key_id)

    def verify(self, party_id: str, context: str, message: bytes, signature: bytes) -> None:
        """Check a party's signature under a key that is good now.

        Raises:
            Misconfigured: ROSTER_MISSING.
            Rejected: As :meth:`Roster.verify`, and ROSTER_ codes.
        """
        self.current.verify(party_id, context, message, signature, now=self._clock())


__all__ = [
    "ENVELOPE_LIFE_S", "TRUST_FOLDER", "RosterInForce", "Trust", "open_former_identity",
    "open_identity", "open_trust", "party_id_of", "passphrase_of", "require_named",
]

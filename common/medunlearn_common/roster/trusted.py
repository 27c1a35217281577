"""Which roster is believed: rules first, code that only verifies and advances after them.

1. The first roster is signed by ``threshold`` keys of the root that was pinned by hand.
2. A later one is signed by the root of the roster *in force*, and by its own root too where it
   names another one: an old root hands over, nobody takes over.
3. Versions never fall; two rosters of one version are a fork, and neither replaces the other.
4. A party's new key carries a signature of its old one, unless the old one is revoked by the
   same roster: then the consortium vouches alone.
5. A revoked key stays revoked.
6. Every entry is signed by its own key.

Guarantees:
    Neither the coordinator nor a network can add a party, bring back an older roster, or keep
    an expired one in force.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medunlearn_common.envelope.dsse import SignedBytes, count_valid, parse_signed
from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.files import in_turn, write_atomically
from medunlearn_common.identity.keys import verify_signature
from medunlearn_common.roster.document import (
    MAX_ROSTER_BYTES,
    ROSTER_TYPE,
    ROTATION,
    SKEW_S,
    Root,
    Roster,
)
from medunlearn_common.roster.former import keep_replaced

ROOT_FILE, ROSTER_FILE = "root.cbor", "roster.dsse"
_LOCK_FILE = "roster.lock"
_HINT = "fetch the newest roster from the consortium; keep this one as evidence"


def verify_roster(data: bytes, root: Root, *, now: float) -> Roster:
    """A roster whose root signatures hold; nothing is parsed before they do.

    Raises:
        Rejected: ROSTER_SIGNATURES, ROSTER_EXPIRED, SIGNATURE_INVALID for a party's own entry,
            ROSTER_FORM, DSSE_ or CBOR_ codes.
    """
    document = parse_signed(data, max_bytes=MAX_ROSTER_BYTES)
    if document.payload_type != ROSTER_TYPE:
        raise Rejected("DSSE_TYPE", "signed bytes that are no roster", _HINT)
    _require_signatures(document, root)
    roster = Roster.from_bytes(document.payload)
    if roster.root != root:
        _require_signatures(document, roster.root)
    if now > roster.expires + SKEW_S:
        raise Rejected("ROSTER_EXPIRED", f"roster {roster.version} has expired", _HINT)
    for party in roster.parties:
        party.require_possession()
    return roster


def self_signed_roster(data: bytes) -> Roster:
    """A roster that the root it names itself has signed, whenever that was.

    It is as good as the source that it came from: anybody can make a root and sign with it.

    Raises:
        Rejected: As :func:`verify_roster`, but for ROSTER_EXPIRED.
    """
    document = parse_signed(data, max_bytes=MAX_ROSTER_BYTES)
    return verify_roster(data, Roster.from_bytes(document.payload).root, now=0.0)


def require_later(new: Roster, current: Roster) -> None:
    """Rules 3 and 5; they also hold where rosters in between are not at hand.

    Raises:
        Rejected: ROSTER_ROLLBACK, ROSTER_FORK, ROSTER_UNREVOKED.
    """
    _require_not_older(new, current)
    if not set(current.revoked) <= set(new.revoked):
        raise Rejected("ROSTER_UNREVOKED", f"a revoked key is good again: {_shown(new, current)}",
                       _HINT)


def require_successor(new: Roster, current: Roster) -> None:
    """Rules 3 to 5.

    Raises:
        Rejected: As :func:`require_later`, and ROSTER_ROTATION.
    """
    require_later(new, current)
    before = {party.party_id: party for party in current.parties}
    for party in new.parties:
        old = before.get(party.party_id)
        if old is None or old.public_key == party.public_key or old.key_id in new.revoked:
            continue
        try:
            verify_signature(old.public_key, ROTATION, party.statement, party.rotation)
        except Rejected as error:
            raise Rejected(
                "ROSTER_ROTATION",
                f"{party.party_id} has a new key that its old one did not sign: "
                f"{_shown(new, current)}",
                "make the entry with `medunlearn keys rotate`, or revoke the old key",
            ) from error


def _require_not_older(new: Roster, current: Roster) -> None:
    """Rule 3."""
    if new.version < current.version:
        raise Rejected("ROSTER_ROLLBACK", f"an older roster is offered: {_shown(new, current)}",
                       _HINT)
    if new.version == current.version and new.digest != current.digest:
        raise Rejected("ROSTER_FORK", f"two rosters of one version: {_shown(new, current)}", _HINT)


def _shown(new: Roster, current: Roster) -> str:
    return (f"version {new.version} ({new.digest.hex()[:12]}) after {current.version} "
            f"({current.digest.hex()[:12]})")


class TrustedRoster:
    """The roster in force at one party, kept durably.

    Files in ``folder``: ``root.cbor`` (pinned by hand, followed when the root hands over) and
    ``roster.dsse`` (in force); ``former/`` (:mod:`medunlearn_common.roster.former`). Several
    processes may hold it: a hospital's worker takes rosters from greetings, and `hospital join`
    from a file.
    """

    def __init__(self, folder: Path, *, now: float) -> None:
        """Load what is in force.

        Raises:
            Misconfigured: ROSTER_MISSING.
            Rejected: As :func:`verify_roster`.
        """
        self._folder = folder
        pinned = Root.from_bytes(self._read(ROOT_FILE))
        self._data = self._read(ROSTER_FILE)
        self._roster = verify_roster(self._data, pinned, now=now)

    @property
    def current(self) -> Roster:
        """The roster in force."""
        return self._roster

    @property
    def document(self) -> bytes:
        """Its signed form, to be handed on."""
        return self._data

    def follow(self, accept: Callable[[Roster], None] = lambda _: None) -> None:
        """Believe what another process of this party has put in force meanwhile.

        Args:
            accept: Asked of another roster before it is believed; may raise.

        Raises:
            Misconfigured: ROSTER_MISSING.
            Rejected: As :func:`verify_roster`, but for ROSTER_EXPIRED, which whoever believes a
                signature is told; ROSTER_ROLLBACK or ROSTER_FORK if an older file, or another
                one, was put in its place.
        """
        if self._read(ROSTER_FILE) == self._data:
            return
        found = TrustedRoster(self._folder, now=0.0)
        _require_not_older(found.current, self._roster)
        accept(found.current)
        self._roster, self._data = found.current, found.document

    def offer(self, data: bytes, *, now: float) -> Roster:
        """Take a newer roster into force; the same one changes nothing.

        Raises:
            Misconfigured: ROSTER_MISSING.
            Rejected: As :func:`verify_roster` and :func:`require_successor`; the old one stays.
            Transient: WRITE_FAILED; the old one stays.
        """
        with in_turn(self._folder / _LOCK_FILE):
            self.follow()
            if data == self._data:
                return self._roster
            roster = verify_roster(data, self._roster.root, now=now)
            require_successor(roster, self._roster)
            if roster.version > self._roster.version:
                changed = roster.root != self._roster.root
                keep_replaced(self._folder, self._roster, roster)
                write_atomically(self._folder / ROSTER_FILE, data)
                if changed:  # after the roster, which both roots signed: a crash between is safe
                    write_atomically(self._folder / ROOT_FILE, roster.root.to_bytes())
                self._roster, self._data = roster, data
            return self._roster

    def _read(self, name: str) -> bytes:
        try:
            return (self._folder / name).read_bytes()
        except OSError as error:
            raise Misconfigured(
                "ROSTER_MISSING", f"no {name} in {self._folder.name}",
                f"copy {ROOT_FILE} and {ROSTER_FILE} from the consortium into the party's trust "
                "folder",
            ) from error


def _require_signatures(document: SignedBytes, root: Root) -> None:
    valid = count_valid(document, root.keys)
    if valid < root.threshold:
        raise Rejected(
            "ROSTER_SIGNATURES",
            f"{valid} of the {root.threshold} root signatures that a roster needs are valid",
            "only the consortium's root can change the roster",
        )

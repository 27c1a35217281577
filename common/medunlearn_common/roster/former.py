"""The keys that a coordinator had before the one in force, and what may still be believed of them.

A coordinator takes a new key every second year, and its runs of before were attested under the old
one. That key signs nothing new, but what it signed stays true. So a party keeps the entry of each
coordinator's key that a roster here has replaced:

    former/KEY_ID.entry     as the roster had it; put there before the next roster comes into force

An entry alone proves nothing: it is believed only of a party that the roster in force still names
as a coordinator, and never once its key is revoked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from medunlearn_common.errors import Rejected
from medunlearn_common.files import private_folder, write_atomically
from medunlearn_common.identity.keys import verify_signature
from medunlearn_common.roster.document import Party, Roster, party_from_bytes, party_to_bytes

FORMER_FOLDER: Final = "former"
_KEY_ID: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class PartyKey:
    """One party under one key: verifies what that very key signed for it, and nothing else.

    Attributes:
        party: The party's entry with that key.
    """

    party: Party

    def verify(self, party_id: str, context: str, message: bytes, signature: bytes) -> None:
        """Check the party's signature.

        Raises:
            Rejected: PARTY_UNKNOWN for any other party, SIGNATURE_INVALID.
        """
        if party_id != self.party.party_id:
            raise Rejected("PARTY_UNKNOWN", f"{party_id} is not {self.party.party_id}",
                           "report this to the consortium")
        verify_signature(self.party.public_key, context, message, signature)


def is_former_key(entry: Party, used: Roster) -> bool:
    """Whether an entry that an earlier roster held may be a coordinator's key of before.

    The party leads still, under another key, and nobody else has that key now. Whether the key is
    revoked is asked apart (:func:`require_not_revoked`), once it is known to have signed.
    """
    named = [party for party in used.parties if party.party_id == entry.party_id]
    return (
        entry.role == "coordinator" and bool(named) and named[0].role == "coordinator"
        and all(party.key_id != entry.key_id for party in used.parties)
    )


def require_not_revoked(entry: Party, used: Roster) -> None:
    """Refuse a key that the roster in force revokes; raises Rejected KEY_REVOKED."""
    if entry.key_id in used.revoked:
        raise Rejected(
            "KEY_REVOKED", f"{entry.party_id} signed it with key {entry.key_id[:16]}, which "
            f"roster {used.version} revokes", "do not use it: whoever stole that key can have "
            "signed it at any time")


def keep_replaced(place: Path, before: Roster, new: Roster) -> None:
    """Keep the entries of coordinators to whom the next roster gives another key.

    Args:
        place: The folder of the roster's file.
        before: The roster in force.
        new: Its successor.

    Raises:
        Transient: WRITE_FAILED.
    """
    for entry in before.parties:
        if is_former_key(entry, new):
            private_folder(place / FORMER_FOLDER)
            write_atomically(_path(place, entry.key_id), party_to_bytes(entry))


def kept_former_key(place: Path, used: Roster, *, party_id: str, key_id: str) -> PartyKey | None:
    """A coordinator's key of before, as it was kept here; None if there is none to believe.

    Args:
        place: The folder of the roster's file.
        used: The roster in force.
        party_id: Whose it is said to be.
        key_id: Which; may be any text.

    Raises:
        Rejected: KEY_REVOKED; ROSTER_FORM, a CBOR_ code or SIGNATURE_INVALID for a damaged entry.
    """
    if not _KEY_ID.fullmatch(key_id):
        return None
    try:
        entry = party_from_bytes(_path(place, key_id).read_bytes())
    except OSError:
        return None
    if (entry.party_id, entry.key_id) != (party_id, key_id) or not is_former_key(entry, used):
        return None
    require_not_revoked(entry, used)
    return PartyKey(party=entry)


def _path(place: Path, key_id: str) -> Path:
    return place / FORMER_FOLDER / f"{key_id}.entry"

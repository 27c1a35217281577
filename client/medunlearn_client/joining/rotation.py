"""New keys for a hospital: made beside those in force, which they replace in time."""

from __future__ import annotations

import os
from pathlib import Path

from medunlearn_client.joining.own_keys import (
    ENTRY_FILE,
    KEY_LIFETIME_S,
    NEXT_FOLDER,
    NODE_KEY,
    NODE_PUBLIC,
    enrolment_document,
    new_node_key,
    next_entry,
    read_node_key,
)
from medunlearn_client.joining.site_folder import stored_invitation
from medunlearn_client.site_audit import AUDIT_FILE
from medunlearn_common.audit import hand_over
from medunlearn_common.entropy import Entropy
from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import write_atomically
from medunlearn_common.founding import new_folder
from medunlearn_common.identity import SigningIdentity, passphrase_from, write_identity
from medunlearn_common.identity.commands import read_entry
from medunlearn_common.keeping import PartyMarks
from medunlearn_common.roster import TrustedRoster, enrolment_request
from medunlearn_common.roster.document import party_to_bytes
from medunlearn_common.trust_folder import (
    KEY_FILE,
    PASSPHRASE_FILE,
    TRUST_FOLDER,
    open_identity,
)


def make_next_keys(
    folder: Path, *, identity: bool, node: bool, entropy: Entropy, now: float
) -> Path:
    """Make new keys beside those in force, and the enrolment that asks for them.

    Raises:
        Misconfigured: ROTATION_PENDING, ROTATION_NOTHING, KEY_ codes, PARTY_RETIRED.
        Transient: WRITE_FAILED.
    """
    PartyMarks(folder).require_in_service()
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
                valid_until=int(now) + KEY_LIFETIME_S, old=old)
            write_identity(place / KEY_FILE, signer, passphrase=_passphrase(folder))
            write_atomically(place / ENTRY_FILE, party_to_bytes(entry), private=False)
        key = new_node_key(place) if node else read_node_key(folder / "node" / NODE_KEY)
        federation = stored_invitation(folder).invitation.federation
        document = enrolment_document(signer, key, entry, federation=federation, token=b"", now=now)
        write_atomically(place / f"{old.party_id}.enrolment", document, private=False)
    return folder / NEXT_FOLDER / f"{old.party_id}.enrolment"


def activate_next_keys(folder: Path) -> list[str]:
    """Put next keys into force: a signing key once the roster names it, then the node's.

    Each step is one rename or one transaction, so that a crash in between is mended by the next
    call. The hospital's log goes on under the new key.

    Returns:
        What was done.

    Raises:
        Rejected: AUDIT_LOG_DAMAGED.
        Transient: AUDIT_UNAVAILABLE.
        Misconfigured: KEY_ codes.
    """
    place, done = folder / NEXT_FOLDER, []
    following = next_entry(folder)
    if following is not None:
        roster = TrustedRoster(folder / TRUST_FOLDER, now=0.0).current
        if following.key_id != roster.party(following.party_id).key_id:
            return [f"the next signing key waits for a roster that names it ({NEXT_FOLDER}/)"]
        if (place / KEY_FILE).exists():
            os.replace(place / KEY_FILE, folder / TRUST_FOLDER / KEY_FILE)
        before = read_entry(folder / TRUST_FOLDER / ENTRY_FILE)  # the old key's, until it goes
        hand_over(folder / AUDIT_FILE, old_key=before.public_key, signer=open_identity(folder))
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


def _passphrase(folder: Path) -> bytes:
    file = folder / TRUST_FOLDER / PASSPHRASE_FILE
    found = passphrase_from(file if file.exists() else None)
    if found is None:
        raise Misconfigured("KEY_PASSPHRASE", "no passphrase for the new key",
                            "set MEDUNLEARN_PASSPHRASE to the present key's")
    return found

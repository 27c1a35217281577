"""A new signing key for the coordinator: made beside the one in force, which it replaces in time.

    next/identity.key         the new key, under the same passphrase
    next/coordinator.entry    what the roster gets; the old key vouches for it

The key changes with the roster: a party that the roster in force does not name is not believed.
A run ends under the key with which it began, so none may be under way.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from medunlearn_common.entropy import Entropy
from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import write_atomically
from medunlearn_common.founding import new_folder
from medunlearn_common.identity import SigningIdentity, passphrase_from, write_identity
from medunlearn_common.identity.commands import read_entry
from medunlearn_common.roster import Party, Roster, enrolment_request
from medunlearn_common.roster.document import party_to_bytes
from medunlearn_common.trust_folder import (
    KEY_FILE,
    PASSPHRASE_FILE,
    TRUST_FOLDER,
    open_identity,
)
from medunlearn_server.joining.founding import ENTRY_FILE, KEY_DAYS
from medunlearn_server.service.config import CoordinatorFolder
from medunlearn_server.service.runs_db import RunsDb

NEXT_FOLDER: Final = "next"
_DAY_S: Final = 86_400


def make_next_key(folder: Path, *, entropy: Entropy, now: float) -> Party:
    """Make a signing key beside the one in force; its entry, for which the old key vouches.

    Raises:
        Misconfigured: ROTATION_PENDING, KEY_ codes.
        Transient: WRITE_FAILED.
    """
    if (folder / NEXT_FOLDER).exists():
        raise Misconfigured(
            "ROTATION_PENDING", "the key is being replaced already",
            "have roster.draft signed and import it (medunlearn coordinator roster renew drafts it "
            "anew), or delete next/ and roster.draft",
        )
    file = folder / TRUST_FOLDER / PASSPHRASE_FILE
    passphrase = passphrase_from(file if file.exists() else None)
    old, entry = open_identity(folder), read_entry(folder / ENTRY_FILE)
    if passphrase is None:
        raise Misconfigured("KEY_PASSPHRASE", "no passphrase for the new key",
                            "set MEDUNLEARN_PASSPHRASE to the present key's")
    new = SigningIdentity.generate(old.party_id, entropy)
    following = enrolment_request(
        new, role="coordinator", entity=entry.entity, valid_from=int(now),
        valid_until=int(now) + KEY_DAYS * _DAY_S, old=old)
    with new_folder(folder / NEXT_FOLDER) as place:
        write_identity(place / KEY_FILE, new, passphrase=passphrase)
        write_atomically(place / ENTRY_FILE, party_to_bytes(following), private=False)
    return following


def next_entry(folder: Path) -> Party | None:
    """The entry of a signing key that is made and not in force."""
    path = folder / NEXT_FOLDER / ENTRY_FILE
    return read_entry(path) if path.exists() else None


def activate_next_key(folder: Path, roster: Roster) -> bool:
    """Put the next key into force once the roster names it; whether it is now.

    Each step is one rename: a crash in between is mended by the next call.

    Raises:
        Misconfigured: ENTRY_ codes.
    """
    following, place = next_entry(folder), folder / NEXT_FOLDER
    if following is None or following not in roster.parties:
        return False
    if (place / KEY_FILE).exists():
        os.replace(place / KEY_FILE, folder / TRUST_FOLDER / KEY_FILE)
    os.replace(place / ENTRY_FILE, folder / ENTRY_FILE)
    place.rmdir()
    return True


def require_no_run(folder: CoordinatorFolder) -> None:
    """Refuse to change the key while a run is under way, or being published.

    Raises:
        Misconfigured: ROTATION_IN_RUN.
        Transient: RUNS_DB.
    """
    runs = RunsDb(folder.runs_db)
    try:
        open_runs = [row.run_id for row in runs.list() if row.state not in ("finished", "stopped")]
    finally:
        runs.close()
    if open_runs:
        raise Misconfigured(
            "ROTATION_IN_RUN", f"run {open_runs[0]} is under way, and ends under the present key",
            "wait until it has finished and is published, or stop it: medunlearn coordinator stop",
        )

"""A new signing key for the coordinator: made beside the one in force, which it replaces in time.

    next/identity.key           the new key, under the same passphrase
    next/coordinator.entry      what the roster gets; the key in force vouches for it
    trust/former/KEY_ID.key     keys of before: logs that they began go on under them

The new key comes into force with the roster that names it, since a party that the roster in force
does not name is not believed. From its making to then nothing else changes, and giving it up
leaves nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Final

from medunlearn_common.attestation.files import ATTESTATION_FILE
from medunlearn_common.entropy import Entropy
from medunlearn_common.errors import Misconfigured, Rejected, Transient
from medunlearn_common.files import private_folder, sync_path, write_atomically
from medunlearn_common.founding import new_folder
from medunlearn_common.identity import SigningIdentity, open_private_file, write_identity
from medunlearn_common.identity.commands import read_entry
from medunlearn_common.identity.keys import verify_signature
from medunlearn_common.roster import Party, Roster, enrolment_request
from medunlearn_common.roster.document import ROTATION, party_to_bytes
from medunlearn_common.roster.former import FORMER_FOLDER
from medunlearn_common.trust_folder import (
    KEY_FILE,
    TRUST_FOLDER,
    open_identity,
    passphrase_of,
    require_named,
)
from medunlearn_server.joining.founding import ENTRY_FILE, KEY_DAYS
from medunlearn_server.publishing.folder import PUBLISHED_FOLDER
from medunlearn_server.service.config import CoordinatorFolder
from medunlearn_server.service.runs_db import RunRow, RunsDb

NEXT_FOLDER: Final = "next"
_DAY_S: Final = 86_400


def make_next_key(folder: Path, roster: Roster, *, entropy: Entropy, now: float) -> Party:
    """Make a signing key beside the one in force; its entry, for which that one vouches.

    Args:
        folder: The coordinator's.
        roster: In force.
        entropy: For the key.
        now: Seconds since 1970; the key is good from then on.

    Raises:
        Misconfigured: ENTRY_OTHER_KEY, ENTRY_ or KEY_ codes, FOLDER_EXISTS.
        Rejected: KEY_REVOKED or KEY_UNKNOWN if the roster does not name the key that is here.
        Transient: WRITE_FAILED; nothing is left there.
    """
    old, entry = open_identity(folder), read_entry(folder / ENTRY_FILE)
    require_named(old, roster)
    if entry.key_id != old.key_id:
        raise Misconfigured(
            "ENTRY_OTHER_KEY", f"{ENTRY_FILE} is not the entry of {TRUST_FOLDER}/{KEY_FILE}",
            "put the file back that belongs to the key, from a backup")
    new = SigningIdentity.generate(old.party_id, entropy)
    following = enrolment_request(
        new, role="coordinator", entity=entry.entity, valid_from=int(now),
        valid_until=int(now) + KEY_DAYS * _DAY_S, old=old)
    with new_folder(folder / NEXT_FOLDER) as place:
        write_identity(place / KEY_FILE, new, passphrase=passphrase_of(folder))
        write_atomically(place / ENTRY_FILE, party_to_bytes(following), private=False)
    return following


def next_entry(folder: Path) -> Party | None:
    """The entry of a signing key that was made and has not come into force; None without one.

    Raises:
        Misconfigured: ENTRY_ codes.
    """
    path = folder / NEXT_FOLDER / ENTRY_FILE
    return read_entry(path) if path.exists() else None


def is_successor(following: Party, roster: Roster) -> bool:
    """Whether the next roster may name this key: the one in force vouches for it.

    It no longer may if it was revoked meanwhile, or if the key in force is another one: a restore
    can put back what was once made beside an earlier key.
    """
    own = next((p for p in roster.parties if p.party_id == following.party_id), None)
    if own is None or following.key_id in roster.revoked:
        return False
    try:
        verify_signature(own.public_key, ROTATION, following.statement, following.rotation)
    except Rejected:
        return False
    return True


def activate_next_key(folder: Path, roster: Roster) -> bool:
    """Put the next key into force once the roster names it; whether it was done now.

    Each step is one rename: a crash in between is mended by the next call. First the key that goes
    is kept, since it opens the logs that it began.

    Raises:
        Misconfigured: ENTRY_ or KEY_FILE_ codes.
        Transient: WRITE_FAILED.
    """
    place, following = folder / NEXT_FOLDER, next_entry(folder)
    if following is None or following not in roster.parties:
        if place.is_dir() and not any(place.iterdir()):  # killed before the last step
            place.rmdir()
        return False
    own = read_entry(folder / ENTRY_FILE)
    with _writing("the new key"):
        if (place / KEY_FILE).exists() and own != following:
            _keep(folder, own)
            os.replace(place / KEY_FILE, folder / TRUST_FOLDER / KEY_FILE)
            sync_path(folder / TRUST_FOLDER)
        os.replace(place / ENTRY_FILE, folder / ENTRY_FILE)
        sync_path(folder)
        discard_next_key(folder)
    return own != following


def _keep(folder: Path, own: Party) -> None:
    place = private_folder(folder / TRUST_FOLDER / FORMER_FOLDER)
    key = open_private_file(folder / TRUST_FOLDER / KEY_FILE)
    write_atomically(place / f"{own.key_id}.key", key)


def discard_next_key(folder: Path) -> None:
    """Take the next key away, at once and whole; nothing where there is none.

    Raises:
        Transient: WRITE_FAILED.
    """
    place = folder / NEXT_FOLDER
    with _writing(f"away {NEXT_FOLDER}/"):
        if place.exists():
            os.rename(place, folder / f".{NEXT_FOLDER}.{token_hex(4)}.tmp")
        for left in (*folder.glob(f".{NEXT_FOLDER}.*.tmp"), *folder.glob(f".{NEXT_FOLDER}.*.new")):
            shutil.rmtree(left)  # also what a kill left half made, or half taken away


@contextmanager
def between_runs(folder: CoordinatorFolder, *, despite_unpublished: bool) -> Iterator[None]:
    """No run is under way, and none is launched or begun meanwhile. Hold it for moments only.

    Args:
        folder: The coordinator's.
        despite_unpublished: Go on though a run has finished and was never attested, which it can
            then no more be.

    Raises:
        Misconfigured: ROTATION_IN_RUN, ROTATION_UNPUBLISHED.
        Transient: RUNS_DB.
    """
    runs = RunsDb(folder.runs_db)
    try:
        with runs.held_still() as rows:
            _require_none_open(rows)
            unpublished = [row.run_id for row in rows if _can_be_attested(folder, row)]
            if unpublished and not despite_unpublished:
                raise Misconfigured(
                    "ROTATION_UNPUBLISHED", f"{', '.join(unpublished)} finished and was never "
                    "published: under the next key it cannot be attested any more",
                    f"medunlearn coordinator publish {unpublished[0]}; or go on with "
                    "--despite-unpublished, if nobody wants it")
            yield
    finally:
        runs.close()


def _require_none_open(rows: tuple[RunRow, ...]) -> None:
    for row in rows:
        if row.state in ("finished", "stopped"):
            continue
        if row.mode == "publish":
            raise Misconfigured(
                "ROTATION_IN_RUN", f"run {row.run_id} is being carried to the hospitals",
                f"wait until medunlearn coordinator publish {row.run_id} --show says who has it")
        raise Misconfigured(
            "ROTATION_IN_RUN", f"run {row.run_id} is {row.state}, and ends under the present key",
            f"wait until it has finished, or medunlearn coordinator stop {row.run_id}")


def _can_be_attested(folder: CoordinatorFolder, row: RunRow) -> bool:
    attested = folder.path / PUBLISHED_FOLDER / row.run_id / ATTESTATION_FILE
    return (row.state == "finished" and folder.run(row.run_id).is_dir()
            and not attested.is_file())


@contextmanager
def _writing(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Transient(
            "WRITE_FAILED", f"cannot put {what}: {error.strerror or error}",
            "free disk space or mend permissions, then give the command again: it goes on where "
            "this one stopped") from error

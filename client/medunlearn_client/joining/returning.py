"""A hospital that comes back with a new folder and new keys: what it did stays what it did.

Its patients are the same, so what was spent on them, which runs it accepted, what it logged and
what was asked to be erased come along. Keys, invitation, roster and settings are the new ones.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from medunlearn_client.joining.own_keys import ENTRY_FILE
from medunlearn_client.site_audit import AUDIT_FILE
from medunlearn_common.audit import hand_over
from medunlearn_common.digests import canonical_json
from medunlearn_common.errors import Misconfigured, Transient
from medunlearn_common.files import write_atomically
from medunlearn_common.identity import SigningIdentity
from medunlearn_common.identity.commands import read_entry
from medunlearn_common.keeping import PartyMarks, require_no_store_lost
from medunlearn_common.keeping.backup import copy_database
from medunlearn_common.keeping.catalogue import class_of, files_of, is_database, role_of
from medunlearn_common.keeping.marks import LOST_FILE, RETIRED_FILE
from medunlearn_common.keeping.stopped import stopped
from medunlearn_common.trust_folder import PARTY_FILE, TRUST_FOLDER

_FOLDERS: Final = ("runs", "supports", "plans", "approvals", "inbox", "adopted", "decisions")
_REGISTRY_SUFFIXES: Final = (".sqlite", ".sqlite.key")


@contextmanager
def carried_over(
    old: Path, draft: Path, *, signer: SigningIdentity, now: float
) -> Iterator[None]:
    """Copy a hospital's history into the draft of its next folder; retire the old one at the end.

    Ledger, envelope store, audit log, accepted plans, inbox, adopted adapters, the mark of a
    restore and the erasure registry are copied. The audit log goes on under the new key. The share
    journal stays behind: it belongs to sessions of the old key.

    Args:
        old: The folder of before; its service must be stopped.
        draft: The new one, with its trust folder.
        signer: The hospital's new identity.
        now: Seconds since 1970.

    Raises:
        Misconfigured: BACKUP_NO_PARTY, AFTER_OTHER_PARTY, PARTY_RETIRED, STORE_LOST,
            SERVICE_RUNNING, ENTRY_ codes.
        Rejected: AUDIT_LOG_DAMAGED.
        Transient: AUDIT_UNAVAILABLE, WRITE_FAILED.
    """
    if role_of(old) != "hospital":
        raise Misconfigured("AFTER_OTHER_PARTY", f"{old} is no hospital's folder",
                            "name the folder of before with --after")
    before = (old / TRUST_FOLDER / PARTY_FILE).read_text("ascii").strip()
    if before != signer.party_id:
        raise Misconfigured(
            "AFTER_OTHER_PARTY", f"{old} is {before}'s, and the invitation is {signer.party_id}'s",
            f"ask the coordinator to invite {before}: what was spent is kept under that name")
    PartyMarks(old).require_in_service()
    try:
        with stopped(old):
            require_no_store_lost(old)
            for name, path in files_of(old):
                if _is_history(name):
                    _copy(path, draft / name)
            key = read_entry(old / TRUST_FOLDER / ENTRY_FILE).public_key
            hand_over(draft / AUDIT_FILE, old_key=key, signer=signer)
            yield
            # Two folders that go on from here would each spend what is left.
            write_atomically(old / RETIRED_FILE, canonical_json({"at": int(now)}) + b"\n")
    except OSError as error:
        raise Transient("WRITE_FAILED", f"{old} could not be carried over: {error.strerror}",
                        "mend it and try again; the old folder is as it was") from error


def _is_history(name: str) -> bool:
    first = name.partition("/")[0]
    return name == LOST_FILE or first in _FOLDERS or name.endswith(_REGISTRY_SUFFIXES) or \
        class_of(name) == "history"


def _copy(path: Path, target: Path) -> None:
    if is_database(path):
        copy_database(path, target)
        return
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.copyfile(path, target)
    target.chmod(path.stat().st_mode & 0o777)

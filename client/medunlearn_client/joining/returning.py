"""A hospital that comes back with a new folder and new keys: what it did stays what it did.

Its patients are the same, so what was spent on them, which runs it accepted, what it logged and
what was asked to be erased come along. Keys, invitation, roster and settings are the new ones.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from medunlearn_client.joining.own_keys import ENTRY_FILE
from medunlearn_client.site_audit import AUDIT_FILE
from medunlearn_client.site_config import ErasureSection, SiteConfig, read_site_config
from medunlearn_common.audit import hand_over
from medunlearn_common.digests import canonical_json
from medunlearn_common.errors import Misconfigured, Transient
from medunlearn_common.files import sync_path, write_atomically
from medunlearn_common.identity import SigningIdentity
from medunlearn_common.identity.commands import read_entry
from medunlearn_common.keeping import PartyMarks, require_no_store_lost
from medunlearn_common.keeping.backup import check_copy, copy_database, copy_plainly
from medunlearn_common.keeping.catalogue import class_of, files_of, is_database, role_of
from medunlearn_common.keeping.marks import LOST_FILE, RETIRED_FILE
from medunlearn_common.keeping.stopped import stopped
from medunlearn_common.roster import TrustedRoster
from medunlearn_common.roster.former import FORMER_FOLDER, keep_replaced
from medunlearn_common.trust_folder import TRUST_FOLDER, party_id_of

_FOLDERS: Final = ("runs", "supports", "plans", "approvals", "inbox", "adopted", "decisions")
_REGISTRY_SUFFIXES: Final = (".sqlite", ".sqlite.key")


def require_goes_on(old: Path, site_id: str) -> None:
    """Refuse a folder that is not this hospital's, or goes on elsewhere.

    Raises:
        Misconfigured: BACKUP_NO_PARTY, TRUST_MISSING, AFTER_OTHER_PARTY, PARTY_RETIRED.
    """
    if role_of(old) != "hospital":
        raise Misconfigured("AFTER_OTHER_PARTY", f"{old} is no hospital's folder",
                            "name the folder of before with --after")
    before = party_id_of(old)
    if before != site_id:
        raise Misconfigured(
            "AFTER_OTHER_PARTY", f"{old} is {before}'s, and the invitation is {site_id}'s",
            f"ask the coordinator to invite {before}: what was spent is kept under that name")
    PartyMarks(old).require_in_service()


def settings_of(old: Path) -> SiteConfig:
    """The settings of before; a registry that comes along is named as it lies in the new folder.

    Raises:
        Misconfigured: SITE_ codes.
    """
    config = read_site_config(old)
    registry = config.registry
    if registry is None or registry.parent.resolve() != old.resolve():
        return config
    return config.model_copy(update={"erasure": ErasureSection(registry=registry.name)})


@contextmanager
def carried_over(
    old: Path, draft: Path, *, folder: Path, signer: SigningIdentity, now: float
) -> Iterator[None]:
    """Copy a hospital's history into the draft of its next folder, and retire the old one.

    Ledger, envelope store, audit log, accepted plans, inbox, adopted adapters, the mark of a
    restore and the erasure registry are copied. The audit log goes on under the new key. The share
    journal stays behind: it belongs to sessions of the old key. The old folder serves again if the
    block ends and the new one is not there.

    Args:
        old: The folder of before; its service must be stopped.
        draft: The new one, with its trust folder.
        folder: The name that it takes.
        signer: The hospital's new identity.
        now: Seconds since 1970.

    Raises:
        Misconfigured: STORE_LOST, SERVICE_RUNNING, AFTER_DAMAGED, ENTRY_ codes.
        Rejected: AUDIT_LOG_DAMAGED.
        Transient: AUDIT_UNAVAILABLE, BACKUP_FAILED for a damaged store, WRITE_FAILED.
    """
    try:
        with stopped(old):
            require_no_store_lost(old)
            for name, path in files_of(old):
                if _is_history(name):
                    _copy(path, draft / name)
            key = read_entry(old / TRUST_FOLDER / ENTRY_FILE).public_key
            hand_over(draft / AUDIT_FILE, old_key=key, signer=signer)
            _keep_former(old / TRUST_FOLDER, draft / TRUST_FOLDER)
            # Two folders that go on from here would each spend what is left: this one ends before
            # the other has its name.
            write_atomically(old / RETIRED_FILE, canonical_json({"at": int(now)}) + b"\n")
            try:
                yield
            finally:
                if not folder.exists():
                    (old / RETIRED_FILE).unlink()
    except sqlite3.Error as error:
        raise Misconfigured(
            "AFTER_DAMAGED", f"a store in {old} cannot be read: {error}", "keep it as evidence; "
            "docs/runbook.md says what to do with a damaged store; the old folder is as it was",
        ) from error
    except OSError as error:
        raise Transient("WRITE_FAILED", f"{old} could not be carried over: {error.strerror}",
                        "mend it and try again; the old folder is as it was") from error


def _is_history(name: str) -> bool:
    first = name.partition("/")[0]
    return name == LOST_FILE or first in _FOLDERS or name.endswith(_REGISTRY_SUFFIXES) or \
        class_of(name) == "history"


def _copy(path: Path, target: Path) -> None:
    if is_database(path):
        copy_database(path, target, durable=True)
        check_copy(target)
    else:
        copy_plainly(path, target)
    sync_path(target)
    sync_path(target.parent)


def _keep_former(old: Path, new: Path) -> None:
    """The coordinator's keys of before: runs that were attested under them are published yet."""
    for entry in sorted((old / FORMER_FOLDER).glob("*.entry")):
        _copy(entry, new / FORMER_FOLDER / entry.name)
    before, now = (TrustedRoster(place, now=0.0).current for place in (old, new))
    keep_replaced(new, before, now)

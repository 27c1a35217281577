"""What of a party's folder is copied, and what of it may be put back.

=============  =========================================  ========================================
class          files                                      put back from an old copy
=============  =========================================  ========================================
settings       keys, certificates, roster, configuration, yes
               invitation, enrolment, supports of runs,
               erasure registry with its key
history        ledger, envelope store, audit logs,        never over or behind what is there; where
               registry of runs, checkpoints              nothing is left only with a mark
of the moment  share journal, nodes that are let in,      never: not even copied, but for a move to
               open invitations                           another machine
not kept       passphrase, sockets, logs, Flower's state  -
=============  =========================================  ========================================
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from medunlearn_common.errors import Misconfigured
from medunlearn_common.party_folder import COORDINATOR_SETTINGS, HOSPITAL_SETTINGS
from medunlearn_common.trust_folder import PASSPHRASE_FILE, TRUST_FOLDER

Role = Literal["coordinator", "hospital"]
FileClass = Literal["settings", "history", "momentary"]

JOURNAL_NAME = "masking.db"
# An old copy would let in a node that was revoked since, or take an invitation a second time. Who
# is let in follows from roster and enrolments; who was invited can be invited again.
_MOMENTARY_FOLDERS = ("nodes", "invitations")
ENROLMENTS = "enrolments"
SQLITE_HEADER = b"SQLite format 3\x00"
# Folders that are a party's own; data sets and models that lie beside them are not copied.
_FOLDERS = (
    TRUST_FOLDER, "tls", "node", *_MOMENTARY_FOLDERS, ENROLMENTS, "runs", "published", "inbox",
    "decisions", "adopted", "approvals", "plans", "supports", "systemd", "next", "root",
)
_SUFFIXES = (".toml", ".json", ".db", ".enrolment", ".entry", ".leave")
_WITHOUT_SUFFIX = ("invitation",)
_NEVER_SUFFIXES = ("-wal", "-shm", "-journal", ".tmp", ".sock", ".lock", ".pid")
_RUN_HISTORY = ("checkpoint.bin", "checkpoint.previous.bin", "opening.bin", "starts.txt")
# A hospital's erasure registry and its key; the runs' claims find out an old copy of it.
_ERASURE = ("*.sqlite", "*.sqlite.key")
# The coordinator's registry of runs, the one file under state/ that nothing else can tell.
STATE_HISTORY = "state/runs.db"


def role_of(folder: Path) -> Role:
    """Whose folder it is.

    Raises:
        Misconfigured: BACKUP_NO_PARTY.
    """
    if any((folder / name).is_file() for name in COORDINATOR_SETTINGS):
        return "coordinator"
    if any((folder / name).is_file() for name in HOSPITAL_SETTINGS):
        return "hospital"
    raise Misconfigured(
        "BACKUP_NO_PARTY", f"{folder.absolute()} is no party's folder",
        "name the folder that `medunlearn coordinator init` or `medunlearn hospital init` made "
        "with --folder",
    )


def class_of(name: str) -> FileClass:
    """Class of a file by its name relative to the party's folder."""
    path = PurePosixPath(name)
    base = path.name
    if base == JOURNAL_NAME or path.parts[0] in _MOMENTARY_FOLDERS:
        return "momentary"
    if base.endswith(".db") or base in _RUN_HISTORY:
        return "history"
    return "settings"


def files_of(folder: Path) -> Iterator[tuple[str, Path]]:
    """Files to keep, sorted, as names relative to the folder; links are not followed."""
    found = [path for path in folder.iterdir()
             if path.suffix in _SUFFIXES or path.name in _WITHOUT_SUFFIX]
    found.append(folder / STATE_HISTORY)
    for name in _FOLDERS:
        found += (folder / name).rglob("*")
    for pattern in _ERASURE:
        found += folder.glob(pattern)
    for path in sorted(found):
        if path.is_symlink() or not path.is_file() or _is_left_out(path):
            continue
        yield path.relative_to(folder).as_posix(), path


def _is_left_out(path: Path) -> bool:
    return path.name == PASSPHRASE_FILE or path.name.endswith(_NEVER_SUFFIXES)


def is_database(path: Path) -> bool:
    """Whether the file is one of SQLite's."""
    with path.open("rb") as stream:
        return stream.read(len(SQLITE_HEADER)) == SQLITE_HEADER

"""The link to the adapter in service, put right after a restore.

A link is no file of a backup: which version is in service is what the hospital's own log says at
the end, and a link from an older copy could bring back an adapter that was rolled back since.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from medunlearn_common.audit import table
from medunlearn_common.audit.records import AuditRecord
from medunlearn_common.files import sync_path

AUDIT_FILE: Final = "audit.db"
CURRENT: Final = Path("adopted") / "current"
_ADOPTED, _ROLLED_BACK = "adapter_adopted", "adapter_rolled_back"


def relink(folder: Path) -> int:
    """Make ``adopted/current`` where it is missing; a link that is there is never turned.

    Returns:
        The version that it was made for; 0 where none was made.

    Guarantees:
        It names the version that the log in the folder names last, and only one whose
        ``adoption.json`` is there. Whether its files are sound is checked by every command of
        adoption.

    Raises:
        Rejected: AUDIT_LOG_DAMAGED.
        Transient: AUDIT_UNAVAILABLE.
        OSError: The link cannot be made.
    """
    link = folder / CURRENT
    if os.path.lexists(link) or not (folder / AUDIT_FILE).is_file():
        return 0
    version = _in_service(folder / AUDIT_FILE)
    place = Path("versions") / f"{version:04d}"
    if version == 0 or not (link.parent / place / "adoption.json").is_file():
        return 0
    with suppress(FileExistsError):
        link.symlink_to(place)
    sync_path(link.parent)
    return version


def _in_service(log: Path) -> int:
    version = 0
    with table.connected(log) as connection:
        for (data,) in connection.execute("SELECT record FROM entries ORDER BY position"):
            record = AuditRecord.from_bytes(data)
            if record.kind == _ADOPTED:
                version = record.fields["number"]
            elif record.kind == _ROLLED_BACK:
                version = record.fields["version"]
    return int(version)

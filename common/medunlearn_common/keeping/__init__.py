"""Backup and restore of one party's folder; see docs/backup.md for what is never rolled back."""

from medunlearn_common.keeping.backup import Backup, make_backup
from medunlearn_common.keeping.marks import PartyMarks, admit_run
from medunlearn_common.keeping.restore import Restored, restore
from medunlearn_common.keeping.stores import require_no_store_lost

__all__ = [
    "Backup", "PartyMarks", "Restored", "admit_run", "make_backup", "require_no_store_lost",
    "restore",
]

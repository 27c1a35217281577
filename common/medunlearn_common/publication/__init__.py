"""What travels after a run: the adapter with its evidence, and each hospital's word on it."""

from medunlearn_common.publication.archive import (
    FULL_FILES,
    MAX_ARCHIVE_BYTES,
    STATEMENTS_FOLDER,
    UPDATE_FILES,
    pack,
    statement_file,
    unpack,
)
from medunlearn_common.publication.decisions import (
    COUNTERSIGNED,
    OBJECTED,
    Decision,
    Verdict,
    open_decision,
)

__all__ = [
    "COUNTERSIGNED", "FULL_FILES", "MAX_ARCHIVE_BYTES", "OBJECTED", "STATEMENTS_FOLDER",
    "UPDATE_FILES", "Decision", "Verdict", "open_decision", "pack", "statement_file", "unpack",
]

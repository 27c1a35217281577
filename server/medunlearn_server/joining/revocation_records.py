"""Keys that this coordinator takes back, kept from the moment that somebody says so.

    revoked.json         key ids, sorted; none ever leaves it

A roster revokes a key once the root has signed it. Its owners may sign a draft that was mailed
before the revocation; what is written here goes into the next draft, whatever they sign.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from medunlearn_common.digests import canonical_json
from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import write_atomically

REVOKED_FILE: Final = "revoked.json"
_KEY_ID: Final = re.compile(r"[0-9a-f]{64}")


class RevocationRecords:
    """One file; without it nothing is revoked but by the roster."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def keys(self) -> frozenset[str]:
        """Ids of the keys; raises REVOKED_FILE: a damaged file is not taken for none."""
        if not self._file.exists():
            return frozenset()
        try:
            found = json.loads(self._file.read_text(encoding="ascii"))
        except ValueError:
            found = None
        if not isinstance(found, list) or not all(
                isinstance(key, str) and _KEY_ID.fullmatch(key) for key in found):
            raise Misconfigured("REVOKED_FILE", f"{self._file.name} is damaged",
                                "restore it from a backup, then revoke again who was revoked since")
        return frozenset(found)

    def add(self, keys: Iterable[str]) -> None:
        """Write further ones; raises REVOKED_FILE, WRITE_FAILED."""
        write_atomically(self._file, canonical_json(sorted({*self.keys(), *keys})) + b"\n")

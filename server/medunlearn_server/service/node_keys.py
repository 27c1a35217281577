"""Public keys of the nodes that may speak with this coordinator: ``nodes/SITE.pub``.

The folder is looked at with every question, so that a key that was taken out is refused from
that moment on, whatever the SuperLink still believes.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_public_key,
)

SUFFIX = ".pub"
_MAX_BYTES = 4096


class NodeKeys:
    """The folder of node keys."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, tuple[tuple[int, int, int], bytes]] = {}

    def by_site(self) -> dict[str, bytes]:
        """Site to the key as Flower names it (PEM, SubjectPublicKeyInfo), by site."""
        found: dict[Path, tuple[tuple[int, int, int], bytes]] = {}
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            entry = self._one(path)
            if entry is not None:
                found[path] = entry
        self._read = found
        return {path.stem: key for path, (_, key) in found.items()}

    def path(self, site: str) -> Path:
        """File of a site's key."""
        return self._folder / f"{site}{SUFFIX}"

    def site_of(self, key: bytes) -> str | None:
        """Whose key it is; None if it is nobody's."""
        return next((site for site, known in self.by_site().items() if known == key), None)

    def _one(self, path: Path) -> tuple[tuple[int, int, int], bytes] | None:
        try:
            facts = path.stat()
            stamp = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
            known = self._read.get(path)
            if known is not None and known[0] == stamp:
                return known
            with path.open("rb") as stream:
                key = load_ssh_public_key(stream.read(_MAX_BYTES))
        except (OSError, ValueError, UnsupportedAlgorithm):
            return None  # doctor speaks of it; here it lets nobody in
        if not isinstance(key, ec.EllipticCurvePublicKey):
            return None
        return stamp, key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

"""Public keys of the nodes that may speak with this coordinator: ``nodes/SITE.pub``.

The folder is looked at with every question, so that a key that was taken out is refused from
that moment on, whatever the SuperLink still believes.

A node shows that it holds its key by signing the time, as Flower's nodes do with every call.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
    load_ssh_public_key,
)

SUFFIX = ".pub"
_MAX_BYTES = 4096
# The SuperLink's own bounds: how old a signed time may be, and how far ahead a node's clock.
_OLDEST_S, _AHEAD_S = 305.0, 5.0


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

    def caller(self, key: bytes, *, timestamp: str, signature: bytes, now: float) -> str | None:
        """Whose node calls; None if the key is nobody's, or did not sign this time just now.

        Args:
            key: As :meth:`by_site` names it.
            timestamp: The time in ISO's form, with its zone.
            signature: Of that text.
            now: Seconds since 1970.
        """
        site = self.site_of(key)
        if site is None or not _is_recent(timestamp, now) or not _is_signed(
                key, timestamp.encode("ascii", "replace"), signature):
            return None
        return site

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


def _is_recent(timestamp: str, now: float) -> bool:
    try:
        signed = datetime.fromisoformat(timestamp)
    except ValueError:
        return False
    return signed.tzinfo is not None and -_AHEAD_S < now - signed.timestamp() < _OLDEST_S


def _is_signed(pem: bytes, data: bytes, signature: bytes) -> bool:
    key = load_pem_public_key(pem)  # one of ours: it was read from the folder
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    try:
        key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True

"""``nodes/SITE.pub``: the keys that the gateway lets through, one file per hospital."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medunlearn_common.files import private_folder, write_atomically


def set_nodes(folder: Path, keys: Mapping[str, bytes]) -> None:
    """Make the folder hold these sites' keys and no others; raises WRITE_FAILED."""
    private_folder(folder)
    for path in sorted(folder.glob("*.pub")):
        if path.stem not in keys:
            path.unlink()
    for site, key in keys.items():
        path, line = folder / f"{site}.pub", key + b" " + site.encode("ascii") + b"\n"
        if not path.exists() or path.read_bytes() != line:
            write_atomically(path, line, private=False)

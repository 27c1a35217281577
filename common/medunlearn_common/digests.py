"""Canonical digests: equal meaning gives equal bytes gives an equal SHA-256."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 1 << 20
# How a plan names a data set of the Hugging Face hub.
HUB_PREFIX = "hf:"


def canonical_json(value: Any) -> bytes:
    """Serialise ``value`` with sorted keys, no spaces and no NaN.

    Raises:
        ValueError: If a number is NaN or infinite: such a value has no canonical form.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode("ascii")


def digest_of(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON form of ``value``."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def digest_of_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes, read in chunks so that weights may be large."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def digest_of_files(paths: Iterable[Path]) -> str:
    """One digest for several sources: their names and contents, order-free.

    Of a folder all files count, by their path in it; of a data set on the hub only the name can.
    Files of one name, from different folders, all count.

    Raises:
        OSError: If a file is missing or cannot be read.
    """
    named = defaultdict[str, list[str]](list)
    for path in paths:
        named[path.name].append(digest_of_source(path))
    # A single digest stands by itself, not in a list, as digests made long ago have it.
    return digest_of({
        name: sorted(digests) if len(digests) > 1 else digests[0]
        for name, digests in named.items()
    })


def digest_of_source(path: Path) -> str:
    """One digest of a file, a folder with all its files, or a data set's name on the hub.

    Raises:
        OSError: If it is missing or cannot be read.
    """
    if path.is_dir():
        inside = sorted(inner for inner in path.rglob("*") if inner.is_file())
        return digest_of(
            {inner.relative_to(path).as_posix(): digest_of_file(inner) for inner in inside}
        )
    return digest_of(str(path)) if path.parts[0].startswith(HUB_PREFIX) else digest_of_file(path)

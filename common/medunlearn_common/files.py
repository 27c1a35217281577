"""Durable writes: a file is either its old self or its new self, also after a crash."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from medunlearn_common.errors import Transient


def write_atomically(path: Path, data: bytes) -> None:
    """Write, flush to disk, then rename over ``path``; create its folder if need be.

    Raises:
        Transient: WRITE_FAILED (disk full, no permission); the old file is untouched.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise Transient(
            "WRITE_FAILED",
            f"cannot write {path.name}: {error.strerror or error}",
            "free disk space or mend permissions, then resume; the old file is intact",
        ) from error


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""The one place of the server that writes to disk: whole files, durably, or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from medunlearn_common.errors import Transient
from medunlearn_common.files import sync_path


class Storage(Protocol):
    """Durable whole-file writes; injected, so that tests can fill the disk."""

    def replace(self, path: Path, data: bytes, *, keep: Path | None = None) -> None:
        """Make ``path`` hold ``data``; its former content, if any, goes to ``keep``.

        Raises:
            OSError: Nothing has changed then.
        """
        ...


class DiskStorage:
    """Write a temporary file, fsync it, rename it over the old one, fsync the folder.

    Guarantees:
        Whoever opens ``path`` at any moment, also after a power cut, sees the old bytes or
        the new ones, whole.
    """

    def replace(self, path: Path, data: bytes, *, keep: Path | None = None) -> None:
        """See :meth:`Storage.replace`."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_synced(temporary, data)
            if keep is not None and path.exists():
                _keep_old(path, keep)
            os.replace(temporary, path)
            sync_path(path.parent)
        finally:
            with suppress(OSError):
                temporary.unlink()


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until its bytes are on the disk."""
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _keep_old(path: Path, keep: Path) -> None:
    # A second name first, then a rename: at no moment is ``path`` itself missing.
    second = keep.with_name(f".{keep.name}.{os.getpid()}.tmp")
    with suppress(FileNotFoundError):
        second.unlink()
    try:
        os.link(path, second)
    except OSError:
        shutil.copyfile(path, second)
    os.replace(second, keep)


@contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Turn an OSError of the block into Transient: STORAGE_FULL or STORAGE_FAILED."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise Transient(
            "STORAGE_FULL" if full else "STORAGE_FAILED",
            f"cannot {doing}: {error.strerror or 'unknown error'}",
            "free disk space or mend the folder's permissions, then resume the run",
        ) from error

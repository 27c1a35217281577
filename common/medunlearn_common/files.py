"""Durable writes: a file is either its old self or its new self, also after a crash.

Where a new self follows from the old one, processes that write it take turns.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from medunlearn_common.errors import MedunlearnError, Misconfigured, Transient

_OWNER_ONLY, _AS_UMASK_SAYS = 0o600, 0o666
_OWNER_ONLY_FOLDER = 0o700
_LOOK_S = 0.02


def write_atomically(path: Path, data: bytes, *, private: bool = True) -> None:
    """Write, flush to disk, then rename over ``path``; create its folder if need be.

    Args:
        path: The file.
        data: Its contents.
        private: Only the owner may read it; otherwise the umask decides, as for what is
            meant to be handed on: results, reports, adapters.

    Raises:
        Transient: WRITE_FAILED (disk full, no permission); the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = _OWNER_ONLY if private else _AS_UMASK_SAYS
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        sync_path(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise Transient(
            "WRITE_FAILED",
            f"cannot write {path.name}: {error.strerror or error}",
            "free disk space or mend permissions, then resume; the old file is intact",
        ) from error


def replace_unsynced(path: Path, text: str) -> None:
    """Replace a small private file whole, without waiting for the disk: for what is only shown.

    Raises:
        OSError: The old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _OWNER_ONLY)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


@contextmanager
def in_turn(lock: Path) -> Iterator[None]:
    """Read, judge and write while no other process does: it waits. Hold it for moments only.

    Raises:
        Transient: WRITE_FAILED.
    """
    private_folder(lock.parent)
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, _OWNER_ONLY)
    except OSError as error:
        raise Transient(
            "WRITE_FAILED", f"cannot open {lock.name}: {error.strerror or error}",
            "free disk space or mend permissions; nothing was changed",
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def held_alone(
    lock: Path, otherwise: MedunlearnError, *, patience_s: float = 0.0
) -> Iterator[BinaryIO]:
    """Hold a lock, or refuse where another process holds it.

    Args:
        lock: Its file, made if need be, with its folder.
        otherwise: Raised where another process holds it.
        patience_s: How long it is waited for, where others may hold it for a moment.

    Raises:
        OSError: The file cannot be made.
    """
    lock.parent.mkdir(parents=True, mode=_OWNER_ONLY_FOLDER, exist_ok=True)
    deadline = time.monotonic() + patience_s
    with lock.open("ab") as held:
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise otherwise from error
            time.sleep(_LOOK_S)
        yield held


def private_folder(path: Path) -> Path:
    """Make a folder that its owner alone may enter; one that is there keeps its mode.

    What lies in it may then be readable to all by its own mode, and still nobody gets at it.

    Raises:
        Transient: WRITE_FAILED.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=_OWNER_ONLY_FOLDER, exist_ok=True)
    except OSError as error:
        raise Transient(
            "WRITE_FAILED", f"cannot make the folder {path.name}: {error.strerror or error}",
            "free disk space or mend permissions, then resume",
        ) from error
    return path


def read_named(path: Path) -> bytes:
    """A file that a person named; raises Misconfigured FILE_MISSING."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise Misconfigured("FILE_MISSING", f"cannot read {path}: {error.strerror}",
                            "check the path") from error


def expanded(path: str | Path) -> Path:
    """``~`` and ``~user`` replaced, where there is such a home; else the path as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def require_writable(folder: Path) -> None:
    """Refuse a place where nothing can be written, before the long work; nothing is left there.

    Raises:
        Misconfigured: OUT_UNWRITABLE.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    probe = existing / f".{token_hex(8)}.tmp"
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise Misconfigured(
            "OUT_UNWRITABLE", f"{folder} cannot be written ({error.strerror or error})",
            "choose another --out, or mend the folder's permissions",
        ) from error


def sync_path(path: Path) -> None:
    """Wait until a file's bytes, or the renames in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

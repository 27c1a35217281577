"""Where a command writes: over nothing that it reads, and over no file that is not its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from medunlearn_common.errors import Misconfigured


def refuse_same_file(*files: Path | None) -> None:
    """Refuse a file that is named in two places, also by way of a link.

    Raises:
        Misconfigured: FILE_TWICE.
    """
    named = [file.resolve() for file in files if file is not None]
    if len(set(named)) != len(named):
        raise Misconfigured(
            "FILE_TWICE", "one file is named in two places", "give each output its own name"
        )


def refuse_what_is_read(written: Path, read: Iterable[Path | None]) -> None:
    """Refuse an output that is read, or lies in a folder that is: the next run would read it.

    Raises:
        Misconfigured: FILE_TWICE.
    """
    place = written.resolve()
    for file in (file for file in read if file is not None):
        refuse_same_file(written, file)
        if file.is_dir() and place.is_relative_to(file.resolve()):
            raise Misconfigured(
                "FILE_TWICE", f"{written} would lie in {file}, which is read",
                "write it to another folder",
            )


def refuse_other_file(written: Path, is_own: Callable[[Path], bool], *, what: str) -> None:
    """Refuse to replace a file that is neither empty nor one that the same command wrote before.

    Args:
        written: Where the command will write.
        is_own: Whether a file that is there is such a one.
        what: How messages call such a one.

    Raises:
        Misconfigured: FILE_EXISTS.
    """
    if not written.exists():
        return
    try:
        is_free = written.is_file() and (not written.stat().st_size or is_own(written))
    except OSError:
        is_free = False
    if not is_free:
        raise Misconfigured(
            "FILE_EXISTS", f"{written} is there already, and it is no {what}",
            "choose another name, or move that file away",
        )

"""Whether what was opened below a folder was also closed, for tests that nothing leaks."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_DESCRIPTORS = Path("/proc/self/fd")


def open_below(folder: Path) -> list[str]:
    """Files below a folder that this process holds open, once for each descriptor."""
    root, found = folder.resolve(), []
    for descriptor in _DESCRIPTORS.iterdir():
        try:
            file = descriptor.readlink()
        except OSError:  # the listing's own is closed by now
            continue
        if file.is_relative_to(root):
            found.append(str(file.relative_to(root)))
    return sorted(found)


@contextmanager
def all_closed_again(folder: Path) -> Iterator[None]:
    """Fails if the block leaves more files of a folder open than it found.

    Connections to databases are held on to meanwhile, so that it is the code that closes them:
    when the garbage collector comes is nobody's promise.
    """
    if not _DESCRIPTORS.is_dir():
        pytest.skip("only Linux tells which files a process holds open")
    connect, kept = sqlite3.connect, []

    def keeping(*arguments: Any, **named: Any) -> sqlite3.Connection:
        kept.append(connect(*arguments, **named))
        return kept[-1]

    before = open_below(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", keeping)
        yield
        after = open_below(folder)
        assert after == before, after

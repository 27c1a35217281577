"""Whole-file writes: who may read them, what failure leaves, and where nothing can be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from medunlearn_common.errors import Misconfigured, Transient
from medunlearn_common.files import expanded, require_writable, write_atomically


@pytest.fixture
def umask() -> Iterator[int]:
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_private_files_are_the_owners_alone_and_others_follow_the_umask(
    tmp_path: Path, umask: int
) -> None:
    for name, private, mode in (("a", True, 0o600), ("b", False, 0o666 & ~umask)):
        for data in (b"old", b"new"):
            write_atomically(tmp_path / name, data, private=private)
            assert (tmp_path / name).read_bytes() == data
            assert mode_of(tmp_path / name) == mode
    write_atomically(tmp_path / "c", b"")
    assert mode_of(tmp_path / "c") == 0o600


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"old")
    for place in (tmp_path / "folder", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        with pytest.raises(Transient) as caught:
            write_atomically(place, b"new")
        assert caught.value.code == "WRITE_FAILED"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_writable_places_are_probed_without_a_trace(tmp_path: Path) -> None:
    require_writable(tmp_path / "new" / "deep")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "below", Path("/proc/nowhere")):
        with pytest.raises(Misconfigured) as caught:
            require_writable(place)
        assert caught.value.code == "OUT_UNWRITABLE"


def test_unknown_homes_stay_as_they_are() -> None:
    assert expanded("~/x") == Path.home() / "x"
    assert expanded("~no-such-user/x") == Path("~no-such-user/x")
    assert expanded("plain") == Path("plain")

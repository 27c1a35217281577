"""Checkpoints are exact, notice every damaged byte, and survive a full disk."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import numpy as np
import pytest

from medunlearn_common.errors import Misconfigured, Transient
from medunlearn_server.checkpoints import Checkpoint, RunStore
from medunlearn_server.storage import DiskStorage


def sample(number: float = 1.0) -> Checkpoint:
    generator = np.random.default_rng(0)
    return Checkpoint(values={"number": number, "list": [1, "a", None]}, arrays={
        "reals": generator.normal(size=(3, 4)), "empty": np.zeros((0, 4)),
        "floats": np.array([1e-45, -0.0, 3.1], dtype=np.float32),
        "integers": np.array([2**62, -1]),
    })


class FullDisk(DiskStorage):
    """Lets the temporary file grow a little, then fails as a full disk does."""

    def replace(self, path: Path, data: bytes, *, keep: Path | None = None) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_round_trip_is_exact(tmp_path: Path) -> None:
    RunStore(tmp_path).save(sample())
    loaded = RunStore(tmp_path).load()
    assert loaded is not None
    assert loaded.to_bytes() == sample().to_bytes()
    for name, array in sample().arrays.items():
        assert loaded.arrays[name].dtype == array.dtype
        assert loaded.arrays[name].tobytes() == array.tobytes()


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert RunStore(tmp_path / "new").load() is None


def test_every_damaged_byte_and_every_truncation_is_noticed() -> None:
    data = sample().to_bytes()
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= 1
        with pytest.raises(Misconfigured) as caught:
            Checkpoint.from_bytes(bytes(broken))
        assert caught.value.code == "CHECKPOINT_CORRUPT"
        with pytest.raises(Misconfigured):
            Checkpoint.from_bytes(data[:position])
    with pytest.raises(Misconfigured):
        Checkpoint.from_bytes(data + b"\0")


@pytest.mark.parametrize("header", [
    b"[" * 100_000, b'{"arrays":[["a","<f8",[%s]]],"values":{}}' % (b"9" * 40),
    b'{"arrays":[["a","<f8",[-1]]],"values":1}',
])
def test_a_header_that_no_checkpoint_has_under_a_digest_that_holds(header: bytes) -> None:
    body = sample().to_bytes()[:24] + len(header).to_bytes(8, "big") + header
    with pytest.raises(Misconfigured) as caught:
        Checkpoint.from_bytes(body + hashlib.sha256(body).digest())
    assert caught.value.code == "CHECKPOINT_CORRUPT"


def test_one_previous_checkpoint_is_kept(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    for number in (1.0, 2.0, 3.0):
        store.save(sample(number))
    previous = Checkpoint.from_bytes((tmp_path / "checkpoint.previous.bin").read_bytes())
    assert previous.values["number"] == 2.0
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint.bin", "checkpoint.previous.bin"
    ]


def test_full_disk_is_a_clear_error_and_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    RunStore(tmp_path).save(sample(1.0))
    with pytest.raises(Transient) as caught:
        RunStore(tmp_path, storage=FullDisk()).save(sample(2.0))
    assert caught.value.code == "STORAGE_FULL"
    loaded = RunStore(tmp_path).load()
    assert loaded is not None and loaded.values["number"] == 1.0


def test_failed_write_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_sync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("medunlearn_server.storage.os.fsync", no_sync)
    with pytest.raises(Transient):
        RunStore(tmp_path).save(sample())
    assert list(tmp_path.iterdir()) == []


def test_two_coordinators_exclude_each_other(tmp_path: Path) -> None:
    with RunStore(tmp_path).exclusive():
        with pytest.raises(Misconfigured) as caught, RunStore(tmp_path).exclusive():
            pass
        assert caught.value.code == "RUN_LOCKED"
    with RunStore(tmp_path).exclusive():
        pass

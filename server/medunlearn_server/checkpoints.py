"""The durable state of a run: one file, exact arrays, its own digest, one predecessor kept.

File: magic line, length of the header (8 bytes, big-endian), header (canonical JSON: plain
values, and name, dtype and shape of every array), the arrays' raw little-endian bytes in that
order, SHA-256 over everything before it. Never pickle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medunlearn_common.digests import canonical_json
from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import held_alone, private_folder
from medunlearn_common.frozen import A_FILE
from medunlearn_server.storage import DiskStorage, Storage, storage_errors

OPENING_FILE = "opening.bin"
# How often a coordinator has begun to work on the run.
STARTS_FILE = "starts.txt"
_MAGIC = b"medunlearn-checkpoint-1\n"
_LENGTH_BYTES = 8
_DIGEST_BYTES = 32
_MAX_HEADER_BYTES = 256 << 20
_NO_HEADER = (ValueError, KeyError, TypeError, OverflowError, RecursionError)
_DTYPES = ("<f8", "<f4", "<i8", "|u1")
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What is written.

    Attributes:
        values: Plain JSON values.
        arrays: Named arrays of float64, float32, int64 or bytes.
    """

    values: Mapping[str, Any]
    arrays: Mapping[str, Array] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The file's bytes; equal checkpoints give equal bytes."""
        arrays = {name: _little_endian(self.arrays[name]) for name in sorted(self.arrays)}
        header = canonical_json({
            "values": dict(self.values),
            "arrays": [[name, a.dtype.str, list(a.shape)] for name, a in arrays.items()],
        })
        body = b"".join([
            _MAGIC, len(header).to_bytes(_LENGTH_BYTES, "big"), header,
            *(array.tobytes() for array in arrays.values()),
        ])
        return body + hashlib.sha256(body).digest()

    @classmethod
    def from_bytes(cls, data: bytes) -> Checkpoint:
        """Parse the file's bytes.

        Raises:
            Misconfigured: CHECKPOINT_CORRUPT if one bit is wrong or missing.
        """
        body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        if not body.startswith(_MAGIC):
            raise _corrupt("it is no checkpoint of this version")
        if hashlib.sha256(body).digest() != digest:
            raise _corrupt("its digest does not match")
        start = len(_MAGIC) + _LENGTH_BYTES
        length = int.from_bytes(body[len(_MAGIC) : start], "big")
        try:
            header = json.loads(body[start : start + length])
            arrays = _read_arrays(header["arrays"], body[start + length :])
            return cls(values=dict(header["values"]), arrays=arrays)
        except _NO_HEADER as error:
            raise _corrupt("its header and its arrays do not fit") from error


def values_shown(path: Path) -> Mapping[str, Any] | None:
    """The plain values of a checkpoint's file without its arrays; None where there is none.

    For showing a run only: the file's digest covers the arrays too, and is not checked.

    Raises:
        Misconfigured: CHECKPOINT_CORRUPT.
        Transient: STORAGE_FAILED if it cannot be read.
    """
    with storage_errors("read the run's checkpoint"):
        try:
            stream = path.open("rb")
        except FileNotFoundError:
            return None
        with stream:
            if stream.read(len(_MAGIC)) != _MAGIC:
                raise _corrupt("it is no checkpoint of this version")
            length = int.from_bytes(stream.read(_LENGTH_BYTES), "big")
            if length > _MAX_HEADER_BYTES:
                raise _corrupt("its header is too long")
            header = stream.read(length)
    try:
        return dict(json.loads(header)["values"])
    except _NO_HEADER as error:
        raise _corrupt("its header cannot be read") from error


def _little_endian(array: Array) -> Array:
    return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)


def _read_arrays(entries: list[list[Any]], data: bytes) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    offset = 0
    for name, dtype, shape in entries:
        if dtype not in _DTYPES:
            raise ValueError(f"dtype {dtype!a}")
        count = prod(shape)
        array = np.frombuffer(data, dtype=dtype, count=count, offset=offset)
        arrays[name] = array.reshape(shape).astype(array.dtype.newbyteorder("="))
        offset += array.nbytes
    if offset != len(data):
        raise ValueError("leftover bytes")
    return arrays


def _corrupt(why: str) -> Misconfigured:
    return Misconfigured(
        "CHECKPOINT_CORRUPT",
        f"the run's checkpoint cannot be used: {why}",
        "keep it as evidence and start a new run. An older checkpoint asks sites for rounds that "
        "they have closed, and checkpoint.previous.bin does so too once anybody was asked for more",
    )


class RunStore:
    """The folder of one run at the coordinator.

    Guarantees:
        * A saved checkpoint survives a crash right after :meth:`save` returns, and a crash
          during it leaves the one before.
        * While one process holds :meth:`exclusive`, no other can; a dead one holds nothing.
    """

    def __init__(self, folder: Path, *, storage: Storage | None = None) -> None:
        self.folder = folder
        self._storage: Storage = storage or DiskStorage()
        self._path = folder / "checkpoint.bin"

    @property
    def adapter_folder(self) -> Path:
        """Where the finished adapter lies."""
        return self.folder / "adapter"

    @property
    def a_file(self) -> Path:
        """The file of the frozen A matrices, where the plan names one."""
        return self.folder / A_FILE

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the run against other coordinators.

        Raises:
            Misconfigured: RUN_LOCKED if another one holds it.
        """
        led = Misconfigured("RUN_LOCKED", "another coordinator is working on this run",
                            "wait for it or stop it; a run has one coordinator at a time")
        with ExitStack() as held:
            with storage_errors("take the run's lock"):
                private_folder(self.folder)
                held.enter_context(held_alone(self.folder / "run.lock", led))
            yield

    def next_start(self) -> int:
        """Count a start of the coordinator, durably: 1 for the first.

        Raises:
            Misconfigured: CHECKPOINT_CORRUPT if the count is no number.
            Transient: As :meth:`save`.
        """
        path = self.folder / STARTS_FILE
        with storage_errors("count this start of the run"):
            try:
                text = path.read_text(encoding="ascii") if path.exists() else "0"
                start = int(text) + 1
            except ValueError as error:
                raise _corrupt(f"{STARTS_FILE} holds no number") from error
            self._storage.replace(path, f"{start}\n".encode("ascii"))
        return start

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint durably; the one before becomes checkpoint.previous.bin.

        Raises:
            Transient: STORAGE_FULL or STORAGE_FAILED; the old checkpoint is still there.
        """
        with storage_errors("save the run's checkpoint"):
            self._storage.replace(
                self._path, checkpoint.to_bytes(),
                keep=self.folder / "checkpoint.previous.bin",
            )

    def save_opening(self, opening: Checkpoint) -> None:
        """Write durably what is about to be opened; raises like :meth:`save`."""
        with storage_errors("save what is about to be opened"):
            self._storage.replace(self.folder / OPENING_FILE, opening.to_bytes())

    def load(self) -> Checkpoint | None:
        """The last checkpoint, or None where none was saved.

        Raises:
            Misconfigured: CHECKPOINT_CORRUPT.
            Transient: STORAGE_FAILED if it cannot be read.
        """
        return self._load(self._path)

    def load_opening(self) -> Checkpoint | None:
        """The last masked sum that was about to be opened; raises like :meth:`load`."""
        return self._load(self.folder / OPENING_FILE)

    @staticmethod
    def _load(path: Path) -> Checkpoint | None:
        with storage_errors("read the run's checkpoint"):
            if not path.exists():
                return None
            data = path.read_bytes()
        return Checkpoint.from_bytes(data)

    def write_text(self, name: str, text: str) -> None:
        """Write a small text file of the run durably; raises like :meth:`save`."""
        with storage_errors(f"write {name}"):
            self._storage.replace(self.folder / name, text.encode("utf-8"))

"""Opening files: plain, gzip, xz or bzip2, with damage and decompression bombs told apart.

Whatever a compressed file claims, no more than ``MAX_EXPANSION`` times its size is read from
it (small ones apart), so that a bomb ends in one error and not in a full disk or a lost night.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, NoReturn, cast

from medunlearn_client.records.lines import MAX_LINE_BYTES, ParsedRow, line_rows
from medunlearn_common.errors import Misconfigured

HEAD_BYTES = 1 << 16
MAX_EXPANSION = 200
FREE_BYTES = 1 << 28

Opener = Callable[[Any, Literal["rb"]], Any]
_OPENERS: dict[bytes, Opener] = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ": lzma.open, b"BZh": bz2.open}
PACKED_SUFFIXES = (".gz", ".xz", ".bz2")


class GuardedStream(io.RawIOBase):
    """Decompressed bytes, counted against the size of what they came from."""

    def __init__(self, inner: BinaryIO, *, name: str, packed_bytes: int) -> None:
        super().__init__()
        self._inner, self._name = inner, name
        self._limit = max(FREE_BYTES, MAX_EXPANSION * packed_bytes)
        self._given = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: object) -> int:
        """Fill the buffer.

        Raises:
            Misconfigured: DATA_ZIP_BOMB.
        """
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self._inner.read(len(view))
        self._given += len(data)
        if self._given > self._limit:
            raise Misconfigured(
                "DATA_ZIP_BOMB",
                f"{self._name} expands to more than {self._limit >> 20} MiB, over "
                f"{MAX_EXPANSION} times its size",
                "if this is a true export, decompress it first and give the plain file",
            )
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Also closes what it wraps."""
        self._inner.close()
        super().close()


def guarded(inner: BinaryIO, *, name: str, packed_bytes: int) -> io.BufferedReader:
    """A buffered stream whose head can be peeked at, counted against ``packed_bytes``."""
    stream = GuardedStream(inner, name=name, packed_bytes=packed_bytes)
    return io.BufferedReader(stream, buffer_size=HEAD_BYTES)


def open_stream(path: Path) -> io.BufferedReader:
    """The file's bytes, decompressed where its first bytes say that they are compressed."""
    with path.open("rb") as stream:
        start = stream.read(6)
    for magic, opener in _OPENERS.items():
        if start.startswith(magic):
            inner = cast(BinaryIO, opener(path, "rb"))
            return guarded(inner, name=path.name, packed_bytes=path.stat().st_size)
    return io.BufferedReader(io.FileIO(path), buffer_size=HEAD_BYTES)


def unpacked(stream: io.BufferedReader, *, name: str, packed_bytes: int) -> io.BufferedReader:
    """The same for a member of an archive: decompressed once more where it is compressed."""
    start = stream.peek(6)[:6]
    for magic, opener in _OPENERS.items():
        if start.startswith(magic):
            inner = cast(BinaryIO, opener(stream, "rb"))
            return guarded(inner, name=name, packed_bytes=packed_bytes)
    return stream


def head_of(stream: io.BufferedReader) -> bytes:
    """Up to ``HEAD_BYTES`` of what comes next, without taking it."""
    return stream.peek(HEAD_BYTES)[:HEAD_BYTES]


def check_file(path: Path) -> None:
    """Refuses what is not a readable file with something in it.

    Raises:
        Misconfigured: DATA_FILE_MISSING, DATA_FILE_UNREADABLE or DATA_FILE_EMPTY.
    """
    if not path.exists():
        raise Misconfigured("DATA_FILE_MISSING", f"no file {path}", "check the path given as data")
    if not path.is_file():
        raise Misconfigured(
            "DATA_FILE_UNREADABLE", f"{path} is not a regular file", "name one file, or several"
        )
    try:
        if path.stat().st_size == 0:
            raise Misconfigured("DATA_FILE_EMPTY", f"{path} is empty", "export the data again")
    except OSError as error:
        _refuse_unreadable(str(path), error)


@contextmanager
def damage_explained(name: str) -> Iterator[None]:
    """Turns what the decompressors raise into one error that names the file.

    Raises:
        Misconfigured: DATA_GZIP_DAMAGED, DATA_ARCHIVE_DAMAGED or DATA_FILE_UNREADABLE.
    """
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise Misconfigured(
            "DATA_GZIP_DAMAGED",
            f"{name} is damaged or truncated ({type(error).__name__})",
            "copy or export the file again; `gzip -t` (or `xz -t`) checks it",
        ) from error
    except (tarfile.TarError, zipfile.BadZipFile, NotImplementedError) as error:
        raise Misconfigured(
            "DATA_ARCHIVE_DAMAGED",
            f"{name} is a damaged or unusual archive ({type(error).__name__})",
            "copy it again, or unpack it and name the folder",
        ) from error
    except OSError as error:
        _refuse_unreadable(name, error)


@contextmanager
def odd_names_explained() -> Iterator[None]:
    """Around opening a ZIP archive or a member: what zipfile says of names that cannot be read.

    Raises:
        BadZipFile: In place of a UnicodeDecodeError; rows may raise those too, so that
            :func:`damage_explained` cannot take them for damage.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise zipfile.BadZipFile("a member's name is not in the encoding it claims") from error


def _refuse_unreadable(name: str, error: OSError) -> NoReturn:
    raise Misconfigured(
        "DATA_FILE_UNREADABLE",
        f"{name} cannot be read ({error.strerror or type(error).__name__})",
        "check the permissions and the disk",
    ) from error


def json_lines(path: Path) -> Iterator[ParsedRow]:
    """Rows of one file of JSON lines that is not a record file, such as a hospital's decisions.

    Raises:
        Misconfigured: As :func:`check_file`, :func:`damage_explained` and ``line_rows``.
    """
    check_file(path)
    with damage_explained(path.name), open_stream(path) as stream:
        yield from line_rows(stream, name=path.name, max_line_bytes=MAX_LINE_BYTES)

"""Opening files: plain, gzip, xz or bzip2, with damage and decompression bombs told apart.

Whatever a compressed file or an archive claims, no more than ``MAX_EXPANSION`` times its size is
read from it in all (small ones apart), so that a bomb ends in one error and not in a full disk or
a lost night.
"""

from __future__ import annotations

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

from medunlearn_client.records.compressed import open_bz2, open_xz
from medunlearn_client.records.lines import MAX_LINE_BYTES, ParsedRow, line_rows
from medunlearn_common.errors import Misconfigured

HEAD_BYTES = 1 << 16
MAX_EXPANSION = 200
FREE_BYTES = 1 << 28

Opener = Callable[[Any, Literal["rb"]], Any]
_OPENERS: dict[bytes, Opener] = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ": open_xz, b"BZh": open_bz2}
PACKED_SUFFIXES = (".gz", ".xz", ".bz2")


class Allowance:
    """How much may come out of a file, all members of an archive together.

    Args:
        packed_bytes: The file's size.
    """

    def __init__(self, packed_bytes: int) -> None:
        self._limit = self._left = max(FREE_BYTES, MAX_EXPANSION * packed_bytes)

    def take(self, size: int, *, name: str) -> None:
        """Count some more of what ``name`` gives.

        Raises:
            Misconfigured: DATA_ZIP_BOMB.
        """
        self._left -= size
        if self._left < 0:
            raise Misconfigured(
                "DATA_ZIP_BOMB",
                f"{name} expands to more than {self._limit >> 20} MiB, over "
                f"{MAX_EXPANSION} times its size",
                "if this is a true export, decompress it first and give the plain file",
            )


class GuardedStream(io.RawIOBase):
    """Decompressed bytes, counted against what may come out of their file."""

    def __init__(self, inner: BinaryIO, *, name: str, allowance: Allowance) -> None:
        super().__init__()
        self._inner, self._name, self._allowance = inner, name, allowance

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
        self._allowance.take(len(data), name=self._name)
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Also closes what it wraps."""
        self._inner.close()
        super().close()


def guarded(inner: BinaryIO, *, name: str, allowance: Allowance) -> io.BufferedReader:
    """A buffered stream whose head can be peeked at, counted against ``allowance``."""
    stream = GuardedStream(inner, name=name, allowance=allowance)
    return io.BufferedReader(stream, buffer_size=HEAD_BYTES)


def open_stream(path: Path) -> io.BufferedReader:
    """The file's bytes, decompressed where its first bytes say that they are compressed."""
    with path.open("rb") as stream:
        start = stream.read(6)
    for magic, opener in _OPENERS.items():
        if start.startswith(magic):
            inner = cast(BinaryIO, opener(path, "rb"))
            return guarded(inner, name=path.name, allowance=Allowance(path.stat().st_size))
    return io.BufferedReader(io.FileIO(path), buffer_size=HEAD_BYTES)


def unpacked(
    stream: io.BufferedReader, *, name: str, allowance: Allowance
) -> io.BufferedReader:
    """The same for a member of an archive: decompressed once more where it is compressed."""
    start = stream.peek(6)[:6]
    for magic, opener in _OPENERS.items():
        if start.startswith(magic):
            inner = cast(BinaryIO, opener(stream, "rb"))
            return guarded(inner, name=name, allowance=allowance)
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

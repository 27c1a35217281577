"""Compressed files and tar archives, read to their very end.

Python's readers of xz and bzip2 take damage where a later stream begins for bytes that somebody
added, and stop; its reader of tar archives takes a damaged or missing header for the end. A part
of the patients would be all of them. Parallel compressors write many streams; a gzip file's are
read to the end by Python itself.
"""

from __future__ import annotations

import bz2
import io
import lzma
import tarfile
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self, cast

_BLOCK_BYTES = 1 << 16
MAX_TAR_HEADER_BYTES = 1 << 20
"""Of names and other attributes, which tarfile holds in memory whatever size they state."""

_ATTRIBUTES = frozenset((
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
))


class DamagedStream(EOFError):
    """Compressed data that end early, or where no further stream begins."""


class Decompressed(io.RawIOBase):
    """What all streams of a compressed file hold, one after the other; zeros between are nothing.

    Args:
        inner: The compressed bytes.
        new: Makes a decompressor for one stream.
    """

    def __init__(self, inner: BinaryIO, new: Callable[[], Any]) -> None:
        super().__init__()
        self._inner, self._new = inner, new
        self._stream = new()

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: object) -> int:
        """Fill the buffer; less only at the end.

        Raises:
            DamagedStream: The data are damaged or end early.
        """
        view, filled = memoryview(buffer).cast("B"), 0  # type: ignore[arg-type]
        while filled < len(view) and (piece := self._piece(len(view) - filled)):
            view[filled : filled + len(piece)] = piece
            filled += len(piece)
        return filled

    def _piece(self, most: int) -> bytes:
        while True:
            packed = b""
            if self._stream.eof:
                packed = self._next_stream(self._stream.unused_data)
                if not packed:
                    return b""
                self._stream = self._new()
            elif self._stream.needs_input:
                packed = self._inner.read(_BLOCK_BYTES)
                if not packed:
                    raise DamagedStream("ends early")
            try:
                piece: bytes = self._stream.decompress(packed, most)
            except (OSError, ValueError, lzma.LZMAError) as error:
                raise DamagedStream("damaged") from error
            if piece:
                return piece

    def _next_stream(self, packed: bytes) -> bytes:
        packed = packed.lstrip(b"\x00")
        while not packed and (block := self._inner.read(_BLOCK_BYTES)):
            packed = block.lstrip(b"\x00")
        return packed

    def close(self) -> None:
        """Also closes what it reads."""
        self._inner.close()
        super().close()


def open_xz(source: Path | BinaryIO, _mode: Literal["rb"]) -> Decompressed:
    """An .xz or .lzma file's content."""
    return Decompressed(_opened(source), lzma.LZMADecompressor)


def open_bz2(source: Path | BinaryIO, _mode: Literal["rb"]) -> Decompressed:
    """A .bz2 file's content."""
    return Decompressed(_opened(source), bz2.BZ2Decompressor)


def _opened(source: Path | BinaryIO) -> BinaryIO:
    return source.open("rb") if isinstance(source, Path) else source


class _WholeTarInfo(tarfile.TarInfo):
    """A header that ends an archive only where it says so."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        """The next header.

        Raises:
            EOFHeaderError: It marks the end.
            ReadError: It is damaged, missing or too long.
        """
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # typeshed lacks it
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError("a header is damaged or missing") from error

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """A header's fields; raises ReadError for attributes of a great length."""
        found = super().frombuf(buf, encoding, errors)
        if found.type in _ATTRIBUTES and found.size > MAX_TAR_HEADER_BYTES:
            raise tarfile.ReadError("a header is too long")
        return found


def tar_members(stream: BufferedReader) -> Iterator[tuple[tarfile.TarInfo, BinaryIO | None]]:
    """Members of an archive in its order, each with its content if it is a file.

    Raises:
        TarError: The archive is damaged, or goes on after its end.
    """
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_WholeTarInfo) as archive:
        for info in archive:
            yield info, cast("BinaryIO | None", archive.extractfile(info) if info.isreg() else None)
        while rest := cast(Any, archive.fileobj).read(_BLOCK_BYTES):
            if rest.strip(b"\x00"):
                raise tarfile.ReadError("there is more behind the archive's end")

"""Reading hierarchy files: bounded, unpacked and decoded, or one clear error.

Small formats are read whole (`read_concept_text`), large ones line by line or in chunks
(`read_lines`, `open_concept_file`), so that neither a gzip bomb nor one endless line fills the
memory. What loaders keep of a large file is counted by `KeptText`.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from medunlearn_common.errors import Misconfigured

MAX_TEXT_BYTES: Final = 512 * 2**20
"""Most text of a hierarchy that is held in memory; all of SNOMED CT's names fit, a gzip bomb and
the UMLS with all its sources do not."""

MAX_STREAM_BYTES: Final = 16 * 2**30
"""Largest file, unpacked, that is read line by line; the whole UMLS has files of 6 GiB."""

MAX_LINE_BYTES: Final = 2**20

TEXT_OVERHEAD_BYTES: Final = 64
"""What Python needs for a text besides its characters, about."""

_GZIP_MAGIC: Final = b"\x1f\x8b"
_ZIP_MAGIC: Final = b"PK\x03\x04"


class BoundedStream:
    """Bytes of a file, unpacked, that refuses to give more than ``max_bytes``."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, path: Path, max_bytes: int) -> None:
        self._stream = stream
        self._path = path
        self._max_bytes = max_bytes
        self._left = max_bytes

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes; empty at the end.

        Raises:
            Misconfigured: ``CONCEPT_FILE_TOO_LARGE``.
        """
        return self._counted(self._stream.read(min(size, self._left + 1)))

    def read_line(self, size: int) -> bytes:
        """One line with its end, cut at ``size`` bytes; empty at the end.

        Raises:
            Misconfigured: ``CONCEPT_FILE_TOO_LARGE``.
        """
        return self._counted(self._stream.readline(min(size, self._left + 1)))

    def _counted(self, content: bytes) -> bytes:
        self._left -= len(content)
        if self._left < 0:
            raise too_large(self._path, f"more than {self._max_bytes} bytes of text")
        return content


class KeptText:
    """Counts the texts that a loader keeps, so that memory stays bounded whatever is read.

    The hierarchy built from them takes about four times what is counted.
    """

    def __init__(self, path: Path, *, max_bytes: int = MAX_TEXT_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._left = max_bytes

    def keep(self, text: str) -> str:
        """The same text, counted.

        Raises:
            Misconfigured: ``CONCEPT_FILE_TOO_LARGE`` once too much is kept.
        """
        self._left -= len(text) + TEXT_OVERHEAD_BYTES
        if self._left < 0:
            raise too_large(self._path, f"more than {self._max_bytes} bytes of names and links")
        return text


def read_concept_text(path: Path, *, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Read a UTF-8 text file, gzipped or not.

    Raises:
        Misconfigured: ``CONCEPT_FILE_MISSING``, ``CONCEPT_FILE_UNREADABLE``,
            ``CONCEPT_FILE_EMPTY``, ``CONCEPT_FILE_TOO_LARGE``, ``CONCEPT_FILE_TRUNCATED``
            (gzip that ends early) or ``CONCEPT_FILE_INVALID`` (not gzip, not UTF-8).
    """
    with open_concept_file(path, max_bytes=max_bytes) as stream:
        raw = stream.read(max_bytes + 1)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise invalid_file(path, f"byte {error.start} is not UTF-8 text") from error
    if not text.strip():
        raise empty_file(path)
    return text


def read_lines(
    path: Path, *, max_line_bytes: int = MAX_LINE_BYTES, max_bytes: int = MAX_STREAM_BYTES
) -> Iterator[tuple[int, str]]:
    """Lines of a UTF-8 file, gzipped or not, numbered from 1, without their ends or a BOM.

    Lines end at a line feed only, with or without a carriage return: terminologies hold other
    characters that Python counts as line ends. Memory stays within one line.

    Raises:
        Misconfigured: The codes of `read_concept_text`; ``CONCEPT_FILE_INVALID`` names the
            line that is too long, not UTF-8 or holds NUL.
    """
    blank = True
    number = 0
    with open_concept_file(path, max_bytes=max_bytes) as stream:
        while raw := stream.read_line(max_line_bytes + 1):
            number += 1
            if len(raw) > max_line_bytes:
                raise invalid_file(path, f"longer than {max_line_bytes} bytes", line=number)
            line = _decoded(raw, path, number)
            blank = blank and not line.strip()
            yield number, line
    if blank:
        raise empty_file(path)


def _decoded(raw: bytes, path: Path, number: int) -> str:
    try:
        line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise invalid_file(path, f"byte {error.start} is not UTF-8 text", line=number) from error
    if "\x00" in line:
        raise invalid_file(path, "holds a NUL character", line=number)
    return line.removesuffix("\n").removesuffix("\r")


def invalid_file(path: Path, problem: str, *, line: int | None = None) -> Misconfigured:
    """The error for a file whose content does not follow its format."""
    where = f"{path}, line {line}" if line is not None else str(path)
    return Misconfigured(
        "CONCEPT_FILE_INVALID",
        f"{where}: {problem}",
        "check that the file is complete and in the format that its name ending says",
    )


def empty_file(path: Path) -> Misconfigured:
    """The error for a file with nothing in it."""
    return Misconfigured(
        "CONCEPT_FILE_EMPTY", f"{path}: the file is empty", "download or copy it again"
    )


def too_large(path: Path, problem: str) -> Misconfigured:
    """The error for a file that would not fit into memory."""
    return Misconfigured(
        "CONCEPT_FILE_TOO_LARGE",
        f"{path}: {problem}",
        "use the part of the terminology that the plan needs",
    )


@contextmanager
def open_concept_file(path: Path, *, max_bytes: int) -> Iterator[BoundedStream]:
    """Open a file, gzipped or not, for bounded reading.

    Errors of the file system and of the compression that reading inside the ``with`` block
    meets become ours.

    Raises:
        Misconfigured: ``CONCEPT_FILE_MISSING``, ``CONCEPT_FILE_UNREADABLE``,
            ``CONCEPT_FILE_TRUNCATED`` or ``CONCEPT_FILE_INVALID`` (not gzip, or a zip archive).
    """
    try:
        with path.open("rb") as plain:
            magic = plain.read(4)
            plain.seek(0)
            if magic == _ZIP_MAGIC:
                raise invalid_file(path, "the file is a zip archive: unpack it first")
            if not magic.startswith(_GZIP_MAGIC) and path.suffix != ".gz":
                yield BoundedStream(plain, path, max_bytes)
                return
            with gzip.open(plain) as unpacked:
                yield BoundedStream(unpacked, path, max_bytes)
    except FileNotFoundError as error:
        raise Misconfigured(
            "CONCEPT_FILE_MISSING", f"{path}: there is no such file", "check the path in the plan"
        ) from error
    except EOFError as error:
        raise Misconfigured(
            "CONCEPT_FILE_TRUNCATED",
            f"{path}: the compressed file ends early",
            "download or copy it again",
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise invalid_file(path, "the file is not intact gzip data") from error
    except OSError as error:
        raise Misconfigured(
            "CONCEPT_FILE_UNREADABLE",
            f"{path}: cannot be read ({error.strerror})",
            "name a file, not a folder, and check its permissions",
        ) from error

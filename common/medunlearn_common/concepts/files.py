"""Reading a hierarchy file: bounded, unpacked and decoded, or one clear error."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import IO, Final

from medunlearn_common.errors import Misconfigured

MAX_TEXT_BYTES: Final = 512 * 2**20
"""Largest hierarchy text, unpacked; all of SNOMED CT's names fit, a gzip bomb does not."""

_GZIP_MAGIC: Final = b"\x1f\x8b"


def read_concept_text(path: Path, *, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Read a UTF-8 text file, gzipped or not.

    Raises:
        Misconfigured: ``CONCEPT_FILE_MISSING``, ``CONCEPT_FILE_UNREADABLE``,
            ``CONCEPT_FILE_EMPTY``, ``CONCEPT_FILE_TOO_LARGE``, ``CONCEPT_FILE_TRUNCATED``
            (gzip that ends early) or ``CONCEPT_FILE_INVALID`` (not gzip, not UTF-8).
    """
    raw = _read_bytes(path, max_bytes)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise invalid_file(path, f"byte {error.start} is not UTF-8 text") from error
    if not text.strip():
        raise Misconfigured(
            "CONCEPT_FILE_EMPTY", f"{path}: the file is empty", "download or copy it again"
        )
    return text


def invalid_file(path: Path, problem: str, *, line: int | None = None) -> Misconfigured:
    """The error for a file whose content does not follow its format."""
    where = f"{path}, line {line}" if line is not None else str(path)
    return Misconfigured(
        "CONCEPT_FILE_INVALID",
        f"{where}: {problem}",
        "check that the file is complete and in the format that its name ending says",
    )


def _read_bytes(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as plain:
            zipped = plain.read(2) == _GZIP_MAGIC or path.suffix == ".gz"
            plain.seek(0)
            if not zipped:
                return _read_bounded(plain, path, max_bytes)
            with gzip.open(plain) as unpacked:
                return _read_bounded(unpacked, path, max_bytes)
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


def _read_bounded(stream: IO[bytes] | gzip.GzipFile, path: Path, max_bytes: int) -> bytes:
    content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise Misconfigured(
            "CONCEPT_FILE_TOO_LARGE",
            f"{path}: more than {max_bytes} bytes of text",
            "use the part of the terminology that the plan needs",
        )
    return content

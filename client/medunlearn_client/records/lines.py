"""Files of JSON lines, plain or gzipped, read row by row within fixed bounds.

Whatever a file holds, memory stays within one line's limit, and a file that cannot be read
to its end is refused as a whole: a truncated record file must not pass for a small one.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

from medunlearn_client.records.fields import bad_row
from medunlearn_client.records.record import InvalidRecord
from medunlearn_common.errors import Misconfigured

MAX_LINE_BYTES = 1 << 20
MAX_FILE_BYTES = 1 << 32
MAX_DEPTH = 32

_GZIP_MAGIC = b"\x1f\x8b"
_FOREIGN_MAGIC = {
    b"PAR1": "Parquet",
    b"PK\x03\x04": "zip or spreadsheet",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"%PDF": "PDF",
    b"SQLite": "SQLite",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_UTF8_BOM = b"\xef\xbb\xbf"

ParsedRow = tuple[int, dict[str, Any] | InvalidRecord]


def read_rows(path: Path, *, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[ParsedRow]:
    """Yields ``(row number from 1, object or what is wrong with the row)``; blank lines skipped.

    Raises:
        Misconfigured: DATA_FILE_MISSING, DATA_FILE_UNREADABLE, DATA_FILE_EMPTY,
            DATA_GZIP_DAMAGED, DATA_FORMAT_UNSUPPORTED or DATA_FILE_TOO_LARGE.
    """
    _check_file(path)
    total_bytes = 0
    for number, line in enumerate(_raw_lines(path, max_line_bytes), start=1):
        if number == 1:
            line = line.removeprefix(_UTF8_BOM)
            _refuse_foreign(path, line)
        total_bytes += len(line)
        if total_bytes > MAX_FILE_BYTES:
            raise Misconfigured(
                "DATA_FILE_TOO_LARGE",
                f"{path.name} holds more than {MAX_FILE_BYTES >> 30} GiB",
                "split it into several files",
            )
        if line.strip():
            yield number, _parse(line, max_line_bytes)


def _check_file(path: Path) -> None:
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
        _refuse_unreadable(path, error)


def _raw_lines(path: Path, max_line_bytes: int) -> Iterator[bytes]:
    """Lines of at most ``max_line_bytes + 1`` bytes; the rest of a longer one is skipped."""
    try:
        with _open(path) as stream:
            while line := stream.readline(max_line_bytes + 1):
                yield line
                while len(line) > max_line_bytes and not line.endswith(b"\n"):
                    line = stream.readline(max_line_bytes + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Misconfigured(
            "DATA_GZIP_DAMAGED",
            f"{path.name} is damaged or truncated gzip ({type(error).__name__})",
            "copy or export the file again; `gzip -t` checks it",
        ) from error
    except OSError as error:
        _refuse_unreadable(path, error)


def _open(path: Path) -> BinaryIO:
    with path.open("rb") as stream:
        zipped = stream.read(2) == _GZIP_MAGIC
    return cast(BinaryIO, gzip.open(path, "rb")) if zipped else path.open("rb")


def _refuse_unreadable(path: Path, error: OSError) -> NoReturn:
    raise Misconfigured(
        "DATA_FILE_UNREADABLE",
        f"{path} cannot be read ({error.strerror or type(error).__name__})",
        "check the permissions and the disk",
    ) from error


def _refuse_foreign(path: Path, line: bytes) -> None:
    start = line.lstrip()
    kind = next((name for magic, name in _FOREIGN_MAGIC.items() if line.startswith(magic)), None)
    if kind is None and start.startswith(b"["):
        kind = "one JSON array"
    if kind is not None:
        raise Misconfigured(
            "DATA_FORMAT_UNSUPPORTED",
            f"{path.name} looks like {kind}, not like one JSON object per line",
            "convert it to JSON lines in UTF-8; for an array: jq -c '.[]' FILE > FILE.jsonl",
        )


def _parse(line: bytes, max_line_bytes: int) -> dict[str, Any] | InvalidRecord:
    if len(line) > max_line_bytes:
        return bad_row("ROW_TOO_LONG", f"the row is longer than {max_line_bytes} bytes")
    try:
        return _checked_object(line)
    except InvalidRecord as error:
        return error


def _checked_object(line: bytes) -> dict[str, Any]:
    if b"\x00" in line:
        raise bad_row("ROW_NUL", "the row holds NUL bytes")
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise bad_row("ROW_BAD_UTF8", "the row is not UTF-8") from None
    except RecursionError:
        raise bad_row("ROW_TOO_DEEP", "the row is nested too deeply") from None
    except ValueError:  # bad JSON, and whole numbers beyond Python's digit limit
        raise bad_row("ROW_BAD_JSON", "the row is not valid JSON") from None
    if not isinstance(value, dict):
        raise bad_row("ROW_NOT_OBJECT", "the row is not a JSON object")
    _check_tree(value)
    return value


def _refuse_constant(_name: str) -> NoReturn:
    raise bad_row("ROW_NOT_FINITE", "the row holds NaN or Infinity")


def _check_tree(value: object, depth: int = 1) -> None:
    """Refuses what JSON can spell and text files cannot hold: NUL, lone surrogates, infinity."""
    if isinstance(value, str):
        if "\x00" in value:
            raise bad_row("ROW_NUL", "the row holds an escaped NUL character")
        if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
            raise bad_row("ROW_BAD_UTF8", "the row holds half of a surrogate pair")
        return
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        raise bad_row("ROW_NOT_FINITE", "the row holds a number too large to represent")
    if isinstance(value, (dict, list)):
        if depth >= MAX_DEPTH:
            raise bad_row("ROW_TOO_DEEP", f"the row is nested more than {MAX_DEPTH} deep")
        for item in value.values() if isinstance(value, dict) else value:
            _check_tree(item, depth + 1)

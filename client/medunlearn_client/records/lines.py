"""JSON lines, read row by row within fixed bounds.

Whatever a file holds, memory stays within one line's limit, and a file that cannot be read
to its end is refused as a whole: a truncated record file must not pass for a small one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

from medunlearn_client.records.fields import bad_row
from medunlearn_client.records.record import InvalidRecord
from medunlearn_common.errors import Misconfigured

MAX_LINE_BYTES = 1 << 20
MAX_DEPTH = 32

_FOREIGN_MAGIC = {
    b"PAR1": "Parquet",
    b"PK\x03\x04": "zip or spreadsheet",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook (.xls)",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"%PDF": "PDF",
    b"SQLite": "SQLite",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"{\x00": "UTF-16",
    b"\x00{": "UTF-16",
    b"<html": "HTML",
    b"<!doctype html": "HTML",
    b"<table": "HTML",
    b"<?xml": "XML",
}
_LONGEST_MAGIC = max(map(len, _FOREIGN_MAGIC))
UTF8_BOM = b"\xef\xbb\xbf"

ParsedRow = tuple[int, dict[str, Any] | InvalidRecord]


def line_rows(stream: BinaryIO, *, name: str, max_line_bytes: int) -> Iterator[ParsedRow]:
    """Yields ``(row number from 1, object or what is wrong with the row)``; blank lines skipped.

    Raises:
        Misconfigured: DATA_FORMAT_UNSUPPORTED.
    """
    for number, line in enumerate(bounded_lines(stream, max_line_bytes), start=1):
        if number == 1:
            line = line.removeprefix(UTF8_BOM)
            refuse_foreign(name, line)
        if line.strip():
            yield number, parsed_line(line, max_line_bytes)


def bounded_lines(stream: BinaryIO, max_line_bytes: int) -> Iterator[bytes]:
    """Lines of at most ``max_line_bytes + 1`` bytes; the rest of a longer one is skipped."""
    while line := stream.readline(max_line_bytes + 1):
        yield line
        while len(line) > max_line_bytes and not line.endswith(b"\n"):
            line = stream.readline(max_line_bytes + 1)


def refuse_foreign(name: str, line: bytes) -> None:
    """Refuses a file whose first bytes are those of another kind of file.

    Raises:
        Misconfigured: DATA_FORMAT_UNSUPPORTED.
    """
    starts = (line, line.lstrip()[:_LONGEST_MAGIC].lower())
    kind = next((what for magic, what in _FOREIGN_MAGIC.items()
                 if any(start.startswith(magic) for start in starts)), None)
    if kind is not None:
        raise Misconfigured(
            "DATA_FORMAT_UNSUPPORTED",
            f"{name} looks like {kind}, which cannot be read as it is here",
            "convert it to JSON lines, CSV or Parquet; docs/data.md lists what is read",
        )


def parsed_line(line: bytes, max_line_bytes: int) -> dict[str, Any] | InvalidRecord:
    """The line's object, or what is wrong with the line."""
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
        value = json.loads(
            line.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_object
        )
    except UnicodeDecodeError:
        raise bad_row("ROW_BAD_UTF8", "the row is not UTF-8") from None
    except RecursionError:
        raise bad_row("ROW_TOO_DEEP", "the row is nested too deeply") from None
    except ValueError:  # bad JSON, and whole numbers beyond Python's digit limit
        raise bad_row("ROW_BAD_JSON", "the row is not valid JSON") from None
    if not isinstance(value, dict):
        raise bad_row("ROW_NOT_OBJECT", "the row is not a JSON object")
    check_tree(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise key_twice()
    return found


def key_twice() -> InvalidRecord:
    """The error for an object that holds two values under one key: readers take either."""
    return bad_row("ROW_BAD_JSON", "an object holds one key twice")


def _refuse_constant(_name: str) -> NoReturn:
    raise bad_row("ROW_NOT_FINITE", "the row holds NaN or Infinity")


def check_tree(value: object, depth: int = 1) -> None:
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
            check_tree(item, depth + 1)

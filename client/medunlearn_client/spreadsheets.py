"""Tables for spreadsheets: cells that no program runs as a formula, and rows read back strictly.

A cell that begins with ``=``, ``+``, ``-``, ``@`` or a control character may be run as a
formula by the program that opens the file (CSV injection, CWE-1236). Such text gets an
apostrophe in front, also after a separator inside the cell, since a program that was told
another separator begins a new cell there. What was written is compared in this form when it
comes back, so nothing needs to be undone.

What comes back may be CSV or an Excel workbook, which a spreadsheet offers first.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Final

from medunlearn_client.records.record import InvalidRecord
from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import write_atomically

MAX_TABLE_BYTES: Final = 256 * 2**20
MAX_CELL_CHARS: Final = 32_000
"""Spreadsheets cut a cell at 32,767 characters."""

_FORMULA: Final = re.compile(r"""(^|[,;|\t\r\n])(["'\s]*)(?=[=+\-@＝＋－＠])""")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_ISO: Final = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})")
_DOTTED: Final = re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})")
_SLASHED: Final = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4})")
_SEPARATORS: Final = ",;\t"
_ZIP: Final = b"PK\x03\x04"
_OLD_OFFICE: Final = b"\xd0\xcf\x11\xe0"
_MONTHS: Final = 12
_SIGNS: Final = ("=", "+", "-", "@")
_KEPT: Final = re.compile(r"0|[1-9]\d{0,10}")
# What begins with a sign is disarmed, and so kept, by safe_cell.
_REWRITTEN: Final = re.compile(
    r"true|false|wahr|falsch|(?![+-])(?=\D*\d)(?:[\d\s.,:/%e+-]+|[\d\s./-]*"
    r"(?:jan|feb|m[aä]r|mrz|apr|ma[iy]|jun|jul|aug|sep|o[ck]t|nov|de[cz])[a-zä]{0,6}[\d\s./-]*)",
    re.IGNORECASE,
)


def safe_cell(text: str) -> str:
    """The text as one line that no spreadsheet takes for a formula."""
    plain = _CONTROL.sub(" ", text).strip()[:MAX_CELL_CHARS]
    return _FORMULA.sub(r"\1\2'", plain)


def exact_cell(text: str) -> str:
    """The text as a cell that a spreadsheet also saves as it is, for what is looked up again.

    A program that opens a CSV takes 0012 for 12, SEPT2 for a day, and shows, and so saves, a long
    number as 1.2E+16. An apostrophe in front makes it text.
    """
    changes = _REWRITTEN.fullmatch(text) and not _KEPT.fullmatch(text)
    return f"'{text}" if changes else text


def cells_of(text: str) -> tuple[str, str]:
    """The cells that may come back for this text: from now, and from before ``exact_cell``."""
    return safe_cell(exact_cell(text)), safe_cell(text)


def write_table(
    path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, str]]
) -> int:
    """Write a table that opens in a spreadsheet by a double click: CSV, UTF-8 with BOM, CRLF.

    Returns:
        The number of rows.

    Raises:
        Transient: WRITE_FAILED; a former file is untouched.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(columns)
    count = 0
    for row in rows:
        writer.writerow([safe_cell(row[column]) for column in columns])
        count += 1
    write_atomically(path, stream.getvalue().encode("utf-8-sig"))
    return count


def read_table(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Read a table that a spreadsheet has saved, with any of the usual separators or as ``.xlsx``.

    The columns may have changed places; blank rows are skipped. Of a workbook the first sheet is
    read.

    Returns:
        ``(line number from 1, cell by column)``; cells are stripped.

    Raises:
        Misconfigured: TABLE_MISSING, TABLE_UNREADABLE, TABLE_TOO_LARGE, TABLE_ENCODING,
            TABLE_COLUMNS, TABLE_ROW with its line, TABLE_EMPTY or a code of ``workbook_rows``.
    """
    if is_workbook(path):
        return list(_sheet_rows(path, columns))
    text = _text(path)
    first = text.split("\n", 1)[0]
    separator = max(_SEPARATORS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[tuple[int, dict[str, str]]] = []
    header: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            number, line = line, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = _checked_header(path, cells, columns)
            elif len(cells) != len(header):
                raise row_error(path, number, f"{len(cells)} cells, not {len(header)}")
            else:
                stripped = (cell.strip() for cell in cells)
                rows.append((number, dict(zip(header, stripped, strict=True))))
    except csv.Error as error:
        raise row_error(path, line, "quotation marks that do not match") from error
    if header is None:
        raise _columns_error(path, columns)
    return rows


def is_workbook(path: Path) -> bool:
    """Whether a file is an Excel workbook, or an archive of another kind.

    Raises:
        Misconfigured: TABLE_MISSING or TABLE_UNREADABLE.
    """
    return _head(path, len(_ZIP)) == _ZIP


def _sheet_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a workbook, as :func:`read_table` gives those of a text file."""
    from medunlearn_client.records.spreadsheets import workbook_rows

    size, header = 0, list[str]()
    for number, row in workbook_rows(path, label=path.name):
        if isinstance(row, InvalidRecord):
            raise row_error(path, number, row.message)
        header = _checked_header(path, list(row), columns)
        cells = [_as_written(str(cell or "")) for cell in row.values()]
        size += sum(map(len, cells))
        if size > MAX_TABLE_BYTES:  # What is many times in a sheet may be once in its file.
            raise _too_large(path)
        yield number, dict(zip(header, cells, strict=True))
    if not header:
        raise Misconfigured(
            "TABLE_EMPTY", f"the first sheet of {path.name} has no row below its column names",
            "put the sheet with the decisions first, or save it as a file of its own",
        )


def _as_written(cell: str) -> str:
    """The cell with the apostrophe that :func:`safe_cell` gave it, which records are read without.
    """
    stripped = cell.strip()
    return f"'{stripped}" if stripped.startswith(_SIGNS) else stripped


def unmistakable_date(text: str, today: date) -> date:
    """A day that cannot be misread; with slashes that is one whose month can only be one of two.

    Raises:
        ValueError: It is written otherwise, is no day, or lies in the future.
    """
    if not text:
        raise ValueError("a decision without `date`; write it as 2026-01-31 or 31.01.2026")
    iso, dotted, slashed = (form.fullmatch(text) for form in (_ISO, _DOTTED, _SLASHED))
    if iso is not None:
        parts = (int(iso[1]), int(iso[2]), int(iso[3]))
    elif dotted is not None:
        parts = (int(dotted[3]), int(dotted[2]), int(dotted[1]))
    elif slashed is not None:
        parts = _of_slashes(int(slashed[1]), int(slashed[2]), int(slashed[3]))
    else:
        raise ValueError("`date` is not written as 2026-01-31 or 31.01.2026; format that column "
                         "as text, or the spreadsheet rewrites it")
    try:
        found = date(*parts)
    except ValueError:
        raise ValueError("`date` is no day of the calendar") from None
    if found > today:
        raise ValueError("`date` lies in the future")
    return found


def _of_slashes(first: int, second: int, year: int) -> tuple[int, int, int]:
    """Year, month and day, of which America writes the month first and others the day.

    Raises:
        ValueError: Both may be the month, and they differ.
    """
    if first <= _MONTHS and second <= _MONTHS and first != second:
        raise ValueError("`date` with slashes may be either of two days: write it as 2026-01-31 "
                         "or 31.01.2026")
    return (year, first, second) if second > _MONTHS else (year, second, first)


def row_error(path: Path, line: int, problem: str) -> Misconfigured:
    """The error for one damaged row; ``problem`` quotes nothing of it."""
    return Misconfigured(
        "TABLE_ROW", f"{path.name}, line {line}: {problem}",
        "mend that row in the spreadsheet, or write the file anew; nothing was taken over",
    )


def _head(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(size)
    except FileNotFoundError as error:
        raise Misconfigured("TABLE_MISSING", f"no file {path}", "check the path") from error
    except OSError as error:
        raise Misconfigured(
            "TABLE_UNREADABLE", f"{path} cannot be read ({error.strerror})",
            "name a file, not a folder, and check its permissions",
        ) from error


def _too_large(path: Path) -> Misconfigured:
    return Misconfigured(
        "TABLE_TOO_LARGE", f"{path.name} is larger than {MAX_TABLE_BYTES >> 20} MiB",
        "review fewer records at a time",
    )


def _text(path: Path) -> str:
    raw = _head(path, MAX_TABLE_BYTES + 1)
    if len(raw) > MAX_TABLE_BYTES:
        raise _too_large(path)
    if raw.startswith(_OLD_OFFICE):
        raise Misconfigured(
            "TABLE_ENCODING", f"{path.name} is a workbook of old Excel, or one with a password",
            'save it as .xlsx without a password, or as "CSV UTF-8"',
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Misconfigured(
            "TABLE_ENCODING", f"{path.name} is not UTF-8 (byte {error.start})",
            'save it as "CSV UTF-8" in the spreadsheet',
        ) from error
    if "\x00" in text:
        raise Misconfigured(
            "TABLE_ENCODING", f"{path.name} holds NUL characters, as spreadsheet files do",
            'save it as "CSV UTF-8", not as a workbook',
        )
    return text


def _checked_header(path: Path, cells: Sequence[str], columns: Sequence[str]) -> list[str]:
    header = [cell.strip().lower() for cell in cells]
    if sorted(header) != sorted(columns):
        raise _columns_error(path, columns)
    return header


def _columns_error(path: Path, columns: Sequence[str]) -> Misconfigured:
    return Misconfigured(
        "TABLE_COLUMNS", f"{path.name}: its first line is not {', '.join(columns)}",
        "keep all columns and their names; the order does not matter",
    )

"""Excel workbooks (.xlsx), read row by row with openpyxl, as the text of their cells.

Dates become ``YYYY-MM-DD`` (with the time where it is not midnight) in the workbook's own
epoch; whole numbers lose Excel's ``.0``; what is merged over several rows holds for each. Of a
formula its stored value is read, never the formula; a formula without one, as in what a program
wrote and nobody has opened since, makes the row bad, and so does text that looks like a formula.
Macros and links are not touched.
"""

from __future__ import annotations

import datetime as dt
import lzma
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree.ElementTree import ParseError

from defusedxml.common import DefusedXmlException
from lxml.etree import LxmlError
from openpyxl import Workbook
from openpyxl.worksheet._reader import FORMULA_TAG, VALUE_TAG, WorkSheetParser

from medunlearn_client.records.bounded_workbook import (
    MAX_PART_BYTES,
    MAX_SHEET_BYTES,
    CountedArchive,
    opened,
)
from medunlearn_client.records.fields import EXACT_BELOW, RoundedText, bad_row
from medunlearn_client.records.lines import MAX_LINE_BYTES, ParsedRow
from medunlearn_client.records.merged_cells import filled_down, merged_stretches
from medunlearn_client.records.tables import (
    MAX_COLUMNS,
    filled,
    header_names,
    refuse_title,
    row_from_cells,
)
from medunlearn_common.errors import Misconfigured

MAX_SHEET_EXPANSION = 200
_ROWS_ABOVE_HEADER = 100
OTHER_SHEET = "further sheet of a workbook"
"""One that holds something and is not read."""
MAX_ROWS = 1 << 20
"""Excel's own limit."""


def workbook_rows(
    source: Path | BinaryIO, *, sheet: str = "", label: str, max_row_bytes: int = MAX_LINE_BYTES,
    set_aside: Counter[str] | None = None,
) -> Iterator[ParsedRow]:
    """Yields ``(row number, row by column name or what is wrong with it)`` of one sheet.

    Args:
        source: The workbook, or its bytes to be read back and forth.
        sheet: Its sheet's name; the first one where empty.
        label: What messages call it.
        max_row_bytes: Longest row, in characters of its cells.
        set_aside: Counts the further sheets that hold something.

    Raises:
        Misconfigured: DATA_SPREADSHEET_DAMAGED, DATA_ZIP_BOMB, DATA_ITEM_TOO_LARGE,
            DATA_SHEET_MISSING, DATA_SHEET_UNNAMED or DATA_TABLE_HEADER.
    """
    check_parts(source, label)
    try:
        with _opened(source, label) as (workbook, archive):
            if sheet and sheet not in workbook.sheetnames:
                raise Misconfigured(
                    "DATA_SHEET_MISSING", f"{label} has no sheet {sheet!a}",
                    "check [data] sheet; empty takes the first one",
                )
            chosen = workbook[sheet] if sheet else workbook.worksheets[0]
            others = [_first_row(one) for one in workbook.worksheets if one is not chosen]
            if not sheet:
                _refuse_twin_sheets(_first_row(chosen), others, label)
            if set_aside is not None:
                set_aside[OTHER_SHEET] += sum(bool(first) for first in others)
            # openpyxl shows merged cells only of whole sheets
            with archive.uncounted(chosen._worksheet_path) as xml:
                merged = merged_stretches(xml)
            yield from _rows(filled_down(_values(chosen), merged), label, max_row_bytes)
    except _DAMAGE as error:
        raise _damaged(label, error) from error


@contextmanager
def _opened(
    source: Path | BinaryIO, label: str
) -> Iterator[tuple[Workbook, CountedArchive]]:
    with ExitStack() as stack:
        if isinstance(source, Path):
            source = stack.enter_context(source.open("rb"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about styles and extensions that do not matter
            both = stack.enter_context(opened(source, label))
        yield both


# openpyxl reads sheets with Python's own XML parser and all other parts with lxml's.
_DAMAGE = (
    KeyError, ValueError, TypeError, IndexError, AttributeError, EOFError, OSError, ParseError,
    LxmlError, zipfile.BadZipFile, DefusedXmlException, NotImplementedError, RuntimeError,
    OverflowError, zlib.error, lzma.LZMAError,
)


def check_parts(source: Path | BinaryIO, label: str) -> None:
    """Refuses a workbook whose parts expand beyond what a sheet can be.

    Raises:
        Misconfigured: DATA_SPREADSHEET_DAMAGED or DATA_ZIP_BOMB.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _damaged(label, error) from error
    for part in parts:
        is_sheet = part.filename.startswith("xl/worksheets/")
        limit = MAX_SHEET_BYTES if is_sheet else MAX_PART_BYTES
        ratio = part.file_size / max(part.compress_size, 1)
        bomb = part.file_size > MAX_PART_BYTES and ratio > MAX_SHEET_EXPANSION
        if part.file_size > limit or bomb:
            raise Misconfigured(
                "DATA_ZIP_BOMB",
                f"{label} has a part of {part.file_size >> 20} MiB in "
                f"{part.compress_size >> 10} KiB",
                "save the sheet as CSV if it is truly that large",
            )


def _values(sheet: Any) -> Iterator[tuple[object, ...]]:
    """All rows: what a sheet says of its own size may be wrong, and is not asked.

    As openpyxl's own loop, with a parser that tells what holds no value from what is empty.
    """
    book = sheet.parent
    with sheet._get_source() as source:
        parser = _SheetParser(
            source, sheet._shared_strings, data_only=True, epoch=book.epoch,
            date_formats=book._date_formats, timedelta_formats=book._timedelta_formats,
        )
        awaited = 1
        for number, cells in parser.parse():
            for _ in range(awaited, number):
                yield ()
            if number >= awaited:
                yield sheet._get_row(cells, max_col=MAX_COLUMNS, values_only=True)
            awaited = max(awaited, number + 1)


class _SheetParser(WorkSheetParser):  # type: ignore[misc]
    """Tells errors by their type, of which Excel invents new ones, and formulas without a stored
    value, which to openpyxl are empty cells: a patient's number that is computed would be none.
    """

    def parse_cell(self, element: Any) -> dict[str, Any]:
        """One cell."""
        cell: dict[str, Any] = super().parse_cell(element)
        is_formula = element.find(FORMULA_TAG) is not None
        # What comes out as an empty text is stored as one.
        is_stored = bool(element.findtext(VALUE_TAG)) or element.get("t") == "str"
        if cell["data_type"] == "e" or (is_formula and not is_stored):
            cell["value"] = _ERROR
        return cell


def _refuse_twin_sheets(first: list[str], others: list[list[str]], label: str) -> None:
    """Refuses a workbook that goes on in a further sheet, of which nobody would hear.

    Raises:
        Misconfigured: DATA_SHEET_UNNAMED.
    """
    if first and first in others:
        raise Misconfigured(
            "DATA_SHEET_UNNAMED",
            f"{label} has {1 + others.count(first)} sheets with the same columns",
            "save each as a file of its own and name them all; [data] sheet reads one alone",
        )


def _first_row(sheet: Any) -> list[str]:
    """The cells of the first row that has any, near the top."""
    for row in islice(_values(sheet), _ROWS_ABOVE_HEADER):
        cells = [_cell_text(value).strip() for value in _without_padding(row)]
        if any(cells):
            return cells
    return []


def _rows(
    values: Iterator[tuple[object, ...]], name: str, max_row_bytes: int
) -> Iterator[ParsedRow]:
    header: list[str] | None = None
    first_below = True
    for number, row in enumerate(values, start=1):
        if number > MAX_ROWS:
            raise ValueError("a row number beyond the last that Excel knows")
        if row.count(None) == len(row):  # a gap may be a million rows long
            continue
        cells = [_cell_text(value) for value in _without_padding(row)]
        if sum(map(len, cells)) > max_row_bytes:  # a text that many cells share is one in the file
            yield number, bad_row("ROW_TOO_LONG", f"the row is longer than {max_row_bytes} bytes")
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = header_names(cells, name)
            continue
        if first_below:
            first_below = False
            refuse_title(header, filled(cells), name)
        if any(cell == _ERROR for cell in cells[: len(header)]):
            yield number, bad_row(
                "ROW_CELL_ERROR", "a cell holds a spreadsheet error, or a formula without its value"
            )
        else:
            cells += [""] * (len(header) - len(cells))
            yield number, row_from_cells(header, cells)


def _without_padding(row: tuple[object, ...]) -> tuple[object, ...]:
    """The row up to its last cell: openpyxl fills each with None to the widest allowed."""
    end = len(row)
    while end and row[end - 1] is None:
        end -= 1
    return row[:end]


_ERROR = "\x00error"
# As text, too: what else Excel may say comes as a cell of its own type.
_ERRORS = frozenset({"#REF!", "#VALUE!", "#NAME?", "#DIV/0!", "#N/A", "#NUM!", "#NULL!"})


def _cell_text(value: object) -> str:
    """What a person reads in the cell, without the sheet's display rounding."""
    if value is None:
        return ""
    if isinstance(value, str):
        return _ERROR if value in _ERRORS else value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)) and abs(value) >= EXACT_BELOW:
        return RoundedText(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, dt.datetime):
        midnight = value.time() == dt.time()
        return value.date().isoformat() if midnight else value.isoformat(timespec="seconds")
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    return str(value)


def _damaged(label: str, error: Exception) -> Misconfigured:
    return Misconfigured(
        "DATA_SPREADSHEET_DAMAGED",
        f"{label} cannot be read as an Excel workbook ({type(error).__name__})",
        "open it and save it again as .xlsx, or as CSV in UTF-8",
    )

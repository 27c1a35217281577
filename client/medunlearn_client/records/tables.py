"""CSV and its relatives: delimiter and encoding found from the file, cells kept as text.

**Encoding.** A byte order mark decides; without one a file that is UTF-8 throughout is UTF-8;
a file with no UTF-8 beyond ASCII is Windows-1252, as Excel writes it. In a file that is mostly
UTF-8, rows that are not (mixed encodings) are bad rows. A plan can name the encoding instead.

**Cells.** A cell that a spreadsheet would run as a formula makes its row bad, because records
come back out in reports and review sheets; a cell that was disarmed with a leading apostrophe
is read without it.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from medunlearn_client.records.fields import FormulaCell, TextRow, bad_row
from medunlearn_client.records.lines import ParsedRow
from medunlearn_client.records.record import InvalidRecord
from medunlearn_common.errors import Misconfigured

AUTO_ENCODING = "auto"
MAX_COLUMNS = 1000
MAX_CELL_CHARS = csv.field_size_limit()
LEGACY = "cp1252"

_DELIMITERS = (",", ";", "\t", "|")
_SAMPLE_ROWS = 50
_LOOKED_AT = 1 << 12
# Of columns: one comma a line is common in a text.
_FEWEST_TELLING = 3
_UNDEFINED_IN_LEGACY = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")
_ESCAPED = re.compile("[\udc80-\udcff]")
_WIDE = re.compile("[^\x00-\x7f\udc80-\udcff]")
# After a sign only what calls a function, `+cmd(1)`, or another program, `-2+cmd|'/C calc'!A0`:
# a list's `- Aspirin (100 mg)` and the telephone number `+49 (0)89 123` are text. Each branch looks
# at a cell once.
_FORMULA = re.compile(
    r"\s*[=@]|\s*[+-](?:.*[A-Za-z_]\d{0,3}\(|[^|]*\|.*!)", re.DOTALL
)
_TOLD = re.compile("\ufeff?sep=([,;|\t])\r?\n", re.IGNORECASE)
"""The line by which a file tells Excel what parts its cells."""
_DISARMED = re.compile(r"'[=+\-@\t\r]")


def detect_encoding(pieces: Iterator[bytes], name: str, *, is_whole: bool = True) -> str:
    """The encoding of a text file, from all of its bytes or from its beginning.

    Args:
        pieces: The bytes.
        name: What messages call the file.
        is_whole: No bytes follow that would complete a character.

    Raises:
        Misconfigured: DATA_ENCODING_UNKNOWN.
    """
    first = next(pieces, b"")
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if first.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    _refuse_bare_utf16(first, name)
    wide, broken, undefined, tail = _look(first, b"", False, False, False)
    for piece in pieces:
        wide, broken, undefined, tail = _look(piece, tail, wide, broken, undefined)
    broken = broken or (is_whole and bool(tail))
    if wide or not broken:
        return "utf-8"
    if undefined:
        raise Misconfigured(
            "DATA_ENCODING_UNKNOWN",
            f"{name} is neither UTF-8 nor Windows-1252",
            'name its encoding in the plan, e.g. [data] encoding = "iso8859_2"',
        )
    return LEGACY


def _refuse_bare_utf16(first: bytes, name: str) -> None:
    """UTF-16 has a NUL in every other place, at least of digits and separators.

    Raises:
        Misconfigured: DATA_ENCODING_UNKNOWN.
    """
    start = first[:_LOOKED_AT]
    high, low = start[0::2].count(0), start[1::2].count(0)
    if max(high, low) > len(start) // 6 and 10 * min(high, low) < max(high, low):
        encoding = "utf_16_be" if high > low else "utf_16_le"
        raise Misconfigured(
            "DATA_ENCODING_UNKNOWN",
            f"{name} looks like UTF-16 without the mark that says so",
            f'name its encoding in the plan, [data] encoding = "{encoding}", or export it as UTF-8',
        )


def _look(
    piece: bytes, tail: bytes, wide: bool, broken: bool, undefined: bool
) -> tuple[bool, bool, bool, bytes]:
    """One more piece of a file: has it true UTF-8, broken UTF-8, undefined Windows-1252?"""
    joined = tail + piece
    if joined.isascii():
        return wide, broken, undefined, b""
    undefined = undefined or _UNDEFINED_IN_LEGACY.search(joined) is not None
    cut = _incomplete_end(joined)
    text = joined[: len(joined) - cut].decode("utf-8", "surrogateescape")
    broken = broken or _ESCAPED.search(text) is not None
    wide = wide or _WIDE.search(text) is not None
    return wide, broken, undefined, joined[len(joined) - cut :]


def _incomplete_end(data: bytes) -> int:
    """Bytes at the end that may be the start of one UTF-8 character, 0 to 3."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if back < needed else 0
        if byte < 0x80:
            return 0
    return 0


def table_rows(
    stream: BinaryIO, *, name: str, encoding: str, max_line_bytes: int
) -> Iterator[ParsedRow]:
    """Yields ``(line number, row by column name or what is wrong with it)``.

    The first row names the columns.

    Raises:
        Misconfigured: DATA_TABLE_HEADER, DATA_ENCODING_UNKNOWN.
    """
    try:
        text = io.TextIOWrapper(stream, encoding, errors="surrogateescape", newline="")
    except LookupError:
        raise Misconfigured(
            "DATA_ENCODING_UNKNOWN", f"there is no encoding {encoding!a}",
            'use "auto", "utf-8", "cp1252" or another name that Python knows',
        ) from None
    lines = _BoundedLines(text, max_line_bytes)
    try:
        yield from _rows(lines, name, encoding)
    except UnicodeError as error:  # UTF-16 has no surrogate escapes
        raise Misconfigured(
            "DATA_ENCODING_UNKNOWN", f"{name} is damaged or not {encoding}",
            "export it again as UTF-8",
        ) from error


class _EndlessRow(Exception):
    """Lines that quotes make one row, and too long a one; the csv module begins anew."""


class _BoundedLines:
    """Lines for the csv module; an overlong one is cut and its row marked."""

    def __init__(self, text: io.TextIOWrapper, max_chars: int) -> None:
        self._text, self._max_chars = text, max_chars
        self._waiting: list[str] = []
        self.taken = 0
        self.begin_row()

    def sample(self) -> list[str]:
        """The first lines, still to be read."""
        while len(self._waiting) < _SAMPLE_ROWS and (line := self._read()):
            self._waiting.append(line)
        return list(self._waiting)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._waiting.pop(0) if self._waiting else self._read()
        if not line:
            raise StopIteration
        self.taken += 1
        if len(line) > self._max_chars:
            self.was_cut = True
            return "\n"
        self.row.append(line)
        self._row_chars += len(line)
        if self._row_chars > self._max_chars:
            raise _EndlessRow
        return line

    def begin_row(self) -> None:
        """What comes next is another row, which quotes may carry over many lines."""
        self.row: list[str] = []
        self._row_chars, self.was_cut = 0, False

    def _read(self) -> str:
        line = self._text.readline(self._max_chars + 1)
        more = line
        while len(more) > self._max_chars and not more.endswith("\n"):
            more = self._text.readline(self._max_chars + 1)
        return line


def _rows(lines: _BoundedLines, name: str, encoding: str) -> Iterator[ParsedRow]:
    sample = lines.sample()
    told = _TOLD.fullmatch(sample[0]) if sample else None
    delimiter = told[1] if told else _delimiter(sample)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    if told:
        next(reader)
    header: list[str] | None = None
    first_below = True
    while True:
        number = lines.taken + 1
        lines.begin_row()
        cells: list[str] = []
        try:
            cells = next(reader)
            bad = _joined(lines, header, delimiter)
        except StopIteration:
            return
        except csv.Error:
            bad = bad_row("ROW_BAD_CSV", "unmatched quotes, or a cell that is too long")
        except _EndlessRow:
            bad = bad_row("ROW_TOO_LONG", "quotes make too many lines one row")
        if header is None:
            if bad is not None and not cells:
                raise _bad_header(name, bad.message)
            if any(cell.strip() for cell in cells):
                header = _header(cells, name)
            continue
        if bad is None and not any(cell.strip() for cell in cells):
            continue
        if first_below:
            first_below = False
            separators = max(map("".join(lines.row).count, _DELIMITERS))
            refuse_title(header, max(filled(cells), 1 + separators), name)
        row = row_from_cells(header, cells, encoding=encoding) if bad is None else bad
        yield number, row
        if isinstance(row, InvalidRecord):
            yield from _taken_along(number, lines.taken)


def _joined(
    lines: _BoundedLines, header: Sequence[str] | None, delimiter: str
) -> InvalidRecord | None:
    """What is wrong with the lines of a row that the csv module could read.

    A quote too many, and another one far below, make one text of all rows between. Text that people
    wrote has not, line for line, just as many separators as there are columns.
    """
    if lines.was_cut:
        return bad_row("ROW_TOO_LONG", "the row is too long")
    between = lines.row[1:-1]
    if header is None or len(header) < _FEWEST_TELLING or not between:
        return None
    widths = (len(next(csv.reader([line], delimiter=delimiter))) for line in between)
    if all(width == len(header) for width in widths):
        return bad_row("ROW_BAD_CSV", "quotes join lines that are rows of their own")
    return None


def _taken_along(number: int, last: int) -> Iterator[ParsedRow]:
    """The other lines of a bad row, each a bad row too.

    A quote that nothing closes makes one row of a thousand patients: none may count for all.
    """
    for line in range(number + 1, last + 1):
        yield line, bad_row("ROW_BAD_CSV", "quotes join the line to a row that is bad")


def _delimiter(sample: Sequence[str]) -> str:
    """The separator that gives most columns in the first line, and as many in the others."""

    def quality(delimiter: str) -> tuple[int, int]:
        try:
            widths = [len(cells) for cells in csv.reader(sample, delimiter=delimiter) if cells]
        except csv.Error:
            return (0, 0)
        first = widths[0] if widths else 1
        alike = sum(width == first for width in widths)
        return (alike if first > 1 else 0, first)

    return max(_DELIMITERS, key=quality)


def _header(cells: Sequence[str], name: str) -> list[str]:
    names = [cell.strip().removeprefix("\ufeff") for cell in cells]
    while names and not names[-1]:  # spreadsheets like to add empty columns
        names.pop()
    if not names or not all(names):
        raise _bad_header(name, "a column has no name")
    if len(set(names)) < len(names):
        raise _bad_header(name, "two columns have one name")
    if len(names) > MAX_COLUMNS:
        raise _bad_header(name, f"it has more than {MAX_COLUMNS} columns")
    return names


def header_names(cells: Sequence[str], name: str) -> list[str]:
    """Column names from a table's first row.

    Raises:
        Misconfigured: DATA_TABLE_HEADER.
    """
    return _header(cells, name)


def filled(cells: Sequence[str]) -> int:
    """How many cells hold something."""
    return sum(bool(cell.strip()) for cell in cells)


def refuse_title(header: Sequence[str], below: int, name: str) -> None:
    """Refuse a table with a title above its column names, where all rows would be bad.

    Args:
        header: What was taken for the names.
        below: Cells of the first row below it.
        name: What messages call the file.

    Raises:
        Misconfigured: DATA_TABLE_HEADER.
    """
    if len(header) == 1 < below:
        raise _bad_header(name, "it has one cell, and the row below has more")


def row_from_cells(
    header: Sequence[str], cells: Sequence[str], *, encoding: str = "Unicode"
) -> TextRow | InvalidRecord:
    """One row by column name; empty cells are None."""
    if len(cells) < len(header) or any(cell.strip() for cell in cells[len(header) :]):
        return bad_row("ROW_COLUMNS",
                       f"the row has {len(cells)} cells, and the first row {len(header)}")
    row = TextRow()
    for column, cell in zip(header, cells, strict=False):
        if "\x00" in cell:
            return bad_row("ROW_NUL", "the row holds NUL characters")
        if not cell.isascii() and any("\ud800" <= char <= "\udfff" for char in cell):
            return bad_row("ROW_BAD_UTF8", f"the row is not in {encoding}, as which the file is "
                           "read; [data] encoding names another")
        if _FORMULA.match(cell):
            return FormulaCell(header.index(column) + 1, column)
        row[column] = (cell[1:] if _DISARMED.match(cell) else cell) or None
    return row


def _bad_header(name: str, why: str) -> Misconfigured:
    return Misconfigured(
        "DATA_TABLE_HEADER", f"{name} does not begin with a row of column names: {why}",
        "give every column one name of its own in the first row; take a title above it out",
    )

"""Workbooks for openpyxl, whose parts are counted as it takes them: one error ends what is more
than a spreadsheet can be.

openpyxl holds a row, the table of strings and the styles as trees in memory, at some 500 bytes for
an element that is five bytes long in the file and next to none once it is compressed: 100 kB of
workbook could ask for gigabytes. What an archive says of its parts is not believed; what counts is
how openpyxl reads them.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, BinaryIO
from xml.parsers import expat

from openpyxl import Workbook
from openpyxl.reader.excel import ExcelReader
from openpyxl.xml.constants import SHEET_MAIN_NS

from medunlearn_common.errors import Misconfigured

MAX_PART_BYTES = 64 << 20
"""Of what is held in memory as a whole: strings, styles, and all else that is no sheet."""
MAX_SHEET_BYTES = 4 << 30
MAX_ROW_BYTES = 4 << 20
MAX_ROW_ELEMENTS = 1 << 18
"""Excel's widest row has 2^14 cells."""
MAX_STRING_ELEMENTS = 1 << 22
MAX_PART_ELEMENTS = 1 << 19
"""Excel knows 65,490 formats of cells."""

_SEPARATOR = " "
_ROW = f"{SHEET_MAIN_NS}{_SEPARATOR}row"
# Too short for more elements than any limit.
_HARMLESS_BYTES = 1 << 20


@contextmanager
def opened(source: BinaryIO, label: str) -> Iterator[tuple[Workbook, CountedArchive]]:
    """A workbook that is read row by row, and its archive.

    Args:
        source: Its bytes.
        label: What messages call it.

    Raises:
        Misconfigured: DATA_ZIP_BOMB or DATA_ITEM_TOO_LARGE, here or as rows are read.
        Exception: Whatever zipfile, expat and openpyxl raise for damage.
    """
    with CountedArchive(source, label) as archive:
        reader = _Reader(archive)
        reader.read()
        yield reader.wb, archive


class CountedArchive(zipfile.ZipFile):
    """The archive as openpyxl uses it: sheets are opened, what is held as a whole is read."""

    def __init__(self, source: BinaryIO, label: str) -> None:
        super().__init__(source)
        self._label = label
        self._reads_strings = False

    def open(self, name: Any, *args: Any, **options: Any) -> Any:
        """A sheet, of which one row is held; or the table of strings, within :meth:`strings`."""
        if self._reads_strings:
            return self._counted(name, MAX_STRING_ELEMENTS)
        info = self.getinfo(name)
        if info.file_size > MAX_SHEET_BYTES:
            raise self._too_large()
        if info.file_size <= _HARMLESS_BYTES:
            return self.uncounted(name)
        return _CountedPart(self.uncounted(name), _RowElements(self._long_row))

    def read(self, name: Any, pwd: bytes | None = None) -> bytes:
        """A part that is held as a whole."""
        with self._counted(name, MAX_PART_ELEMENTS) as part:
            data: bytes = part.read()
        return data

    def uncounted(self, name: str) -> IO[bytes]:
        """A part for who holds none of it."""
        return super().open(name)

    @contextmanager
    def strings(self) -> Iterator[None]:
        """What is opened within is the table of strings."""
        self._reads_strings = True
        try:
            yield
        finally:
            self._reads_strings = False

    def _counted(self, name: str, most: int) -> Any:
        size = self.getinfo(name).file_size
        if size > MAX_PART_BYTES:
            raise self._too_large()
        part = self.uncounted(name)
        if size <= _HARMLESS_BYTES:
            return part
        return _CountedPart(part, _Elements(most, self._too_large))

    def _too_large(self) -> Misconfigured:
        return Misconfigured(
            "DATA_ZIP_BOMB", f"{self._label} holds more texts, formats or cells than are read into "
            "memory", "save the sheet as CSV if it is truly that large",
        )

    def _long_row(self) -> Misconfigured:
        return Misconfigured(
            "DATA_ITEM_TOO_LARGE",
            f"{self._label} has a row of more than {MAX_ROW_BYTES >> 20} MiB or "
            f"{MAX_ROW_ELEMENTS} elements",
            "save the sheet as CSV, in which long rows are left out one by one",
        )


class _Reader(ExcelReader):  # type: ignore[misc]
    """openpyxl's reader on an archive that counts."""

    def __init__(self, archive: CountedArchive) -> None:
        # Its own first step opens another archive on the same bytes.
        self.archive = archive
        self.valid_files = archive.namelist()
        self.read_only, self.data_only = True, True
        self.keep_vba = self.keep_links = self.rich_text = False
        self.shared_strings: list[str] = []

    def read_strings(self) -> None:
        """The table of strings."""
        with self.archive.strings():
            super().read_strings()


class _Elements:
    """Counts the elements of an XML text that comes in pieces.

    Args:
        most: Elements that may be held.
        refusal: The error if there are more.
    """

    def __init__(self, most: int, refusal: Callable[[], Misconfigured]) -> None:
        self._most, self._refusal = most, refusal
        self._held = self._fed = self._from = 0
        self._parser = expat.ParserCreate(namespace_separator=_SEPARATOR)
        self._parser.StartElementHandler = self._element
        self._parser.StartDoctypeDeclHandler = _refuse_doctype

    def feed(self, piece: bytes) -> None:
        """Count some more, or nothing at the end.

        Raises:
            ExpatError: It is no XML.
        """
        self._fed += len(piece)
        self._parser.Parse(piece, not piece)

    def _element(self, _name: str, _attributes: dict[str, str]) -> None:
        self._held += 1
        if self._held > self._most:
            raise self._refusal()


class _RowElements(_Elements):
    """Counts anew with each row: openpyxl forgets one as the next begins."""

    def __init__(self, refusal: Callable[[], Misconfigured]) -> None:
        super().__init__(MAX_ROW_ELEMENTS, refusal)

    def feed(self, piece: bytes) -> None:
        super().feed(piece)
        if self._fed - self._from > MAX_ROW_BYTES:
            raise self._refusal()

    def _element(self, name: str, attributes: dict[str, str]) -> None:
        if name == _ROW:
            self._held, self._from = 0, self._parser.CurrentByteIndex
        super()._element(name, attributes)


def _refuse_doctype(*_: object) -> None:
    raise ValueError("the XML of a workbook has no document type")


class _CountedPart:
    """A part's bytes, counted before openpyxl has them."""

    def __init__(self, inner: IO[bytes], elements: _Elements) -> None:
        self._inner, self._elements = inner, elements

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes."""
        piece = self._inner.read(size)
        try:
            self._elements.feed(piece)
        except expat.ExpatError as error:
            raise ValueError("a part of the workbook is no XML") from error
        return piece

    def close(self) -> None:
        """Closes the part."""
        self._inner.close()

    def __enter__(self) -> _CountedPart:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

"""The rows of one file, and which files are looked at."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import PurePosixPath
from typing import BinaryIO

from medunlearn_client.records import documents, medquad, tables
from medunlearn_client.records.fields import bad_row
from medunlearn_client.records.lines import (
    MAX_LINE_BYTES,
    UTF8_BOM,
    ParsedRow,
    line_rows,
    refuse_foreign,
)
from medunlearn_client.records.streams import PACKED_SUFFIXES, damage_explained, head_of
from medunlearn_common.errors import Misconfigured

OTHER_FILE = "file of another kind"
"""What a folder or archive holds besides data."""
EMPTY_FILE = "file without a row"
"""Of a type without resources in a bulk export, or a copy that failed."""
MAX_XML_BYTES = 8 << 20
TABLE_SUFFIXES = (".csv", ".tsv", ".tab")
DATA_SUFFIXES = frozenset(
    {*TABLE_SUFFIXES, ".json", ".jsonl", ".ndjson", ".xml", ".parquet", ".xlsx", ".zip", ".tar"}
)

_WORKBOOK_SUFFIXES = (".xlsx", ".xlsm", ".xls")
_READ_AHEAD = 1 << 20
# As Hive, Spark and Arrow write partitions.
_PARTITION = re.compile(r"[A-Za-z_][\w .-]*=.*")


@dataclass(frozen=True, kw_only=True)
class ContainerOptions:
    """How files are read, beyond what they say themselves.

    Attributes:
        max_line_bytes: Longest accepted row.
        encoding: Of CSV files; "auto" finds it.
        sheet: Of workbooks; the first one where empty.
    """

    max_line_bytes: int = MAX_LINE_BYTES
    encoding: str = tables.AUTO_ENCODING
    sheet: str = ""


@dataclass(frozen=True, kw_only=True)
class RowFile:
    """The rows of one file or archive member; read them before asking for the next file.

    Attributes:
        name: What messages call it.
        rows: Its rows.
        set_aside: What is there and is not read, by kind; whole once the rows were read.
    """

    name: str
    rows: Iterator[ParsedRow]
    set_aside: Counter[str] = field(default_factory=Counter)


def suffix_of(name: str) -> str:
    """The suffix that says what a file holds, without ``.gz`` and the like."""
    lowered = name.casefold()
    for packed in PACKED_SUFFIXES:
        lowered = lowered.removesuffix(packed)
    return PurePosixPath(lowered).suffix


def is_data(name: str) -> bool:
    """Data by its suffix."""
    return suffix_of(name) in DATA_SUFFIXES


def is_hidden(name: str) -> bool:
    """A hidden file, or one of those that macOS adds to archives."""
    return any(
        part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts
    )


def refuse_partition(name: str, label: str) -> None:
    """Refuse a data file whose folder holds a column, ``patient_id=7/part-0.parquet``.

    Rows lack it, and a row without its patient would be nobody's.

    Raises:
        Misconfigured: DATA_PARTITIONED.
    """
    if any(_PARTITION.fullmatch(part) for part in PurePosixPath(name).parts[:-1]):
        raise Misconfigured(
            "DATA_PARTITIONED", f"{label} keeps a column in the names of its folders",
            "write the table anew with all columns in its files (without partitions)",
        )


def unread_file(label: str) -> RowFile:
    """Stands for a file of a kind that is not read."""
    return RowFile(name=label, rows=iter(()), set_aside=Counter({OTHER_FILE: 1}))


def empty_file(label: str) -> RowFile:
    """Stands for a file of data that holds nothing."""
    return RowFile(name=label, rows=iter(()))


def stream_file(
    stream: BufferedReader, suffix: str, options: ContainerOptions, encoding: str, name: str
) -> RowFile:
    """The rows of a text file by its suffix, or by how it begins.

    Raises:
        Misconfigured: DATA_FORMAT_UNSUPPORTED.
    """
    if suffix in TABLE_SUFFIXES:
        rows = tables.table_rows(
            stream, name=name, encoding=encoding, max_line_bytes=options.max_line_bytes
        )
    elif suffix == ".xml":
        rows = _xml(stream)
    elif suffix in _WORKBOOK_SUFFIXES:
        refuse_foreign(name, head_of(stream).removeprefix(UTF8_BOM))
        raise Misconfigured(
            "DATA_FORMAT_UNSUPPORTED", f"{name} is called a workbook, and is text",
            "open it in a spreadsheet program and save it as .xlsx, or as CSV in UTF-8",
        )
    elif documents.starts_document(stream):
        rows = documents.document_rows(stream, name=name)
    else:
        rows = line_rows(stream, name=name, max_line_bytes=options.max_line_bytes)
    return RowFile(name=name, rows=explained(rows, name))


def explained(rows: Iterator[ParsedRow], name: str) -> Iterator[ParsedRow]:
    """The rows, with damage told as :func:`damage_explained` does."""
    with damage_explained(name):
        yield from rows


def _xml(stream: BinaryIO) -> Iterator[ParsedRow]:
    content = stream.read(MAX_XML_BYTES + 1)
    if len(content) > MAX_XML_BYTES:
        yield 1, bad_row("ROW_TOO_LONG", f"the document is longer than {MAX_XML_BYTES >> 20} MiB")
    else:
        yield from medquad.xml_rows(content)


def pieces(stream: BinaryIO) -> Iterator[bytes]:
    """All bytes of a stream."""
    while piece := stream.read(_READ_AHEAD):
        yield piece


def leaves_folder(name: str) -> Misconfigured:
    """The error for what points outside its folder or archive: DATA_PATH_LEAVES_FOLDER."""
    return Misconfigured(
        "DATA_PATH_LEAVES_FOLDER",
        f"{name} holds a link, or a path that leaves its folder",
        "take the files out by hand, look at them, and name them one by one",
    )

"""What is in a path: files, compressed files, archives, workbooks, folders; rows out.

The container is told by content, and by its suffix only where content cannot tell (CSV).
Nothing is unpacked to disk, but for workbooks and Parquet files in archives: these can only be
read back and forth, and are held, within bounds, in a temporary file that has no name. Files of
folders and archives are called by their number
(``export.zip#3``: the third data file, in the archive's order or in order of paths), because
exports like to put patients' names into file names. Archives
within archives are refused, and so is a member whose name leaves the folder, although nothing
would be written there: such an archive was made to do harm.
"""

from __future__ import annotations

import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from medunlearn_client.records import columnar, documents, medquad, spreadsheets, tables
from medunlearn_client.records.fields import bad_row
from medunlearn_client.records.lines import MAX_LINE_BYTES, ParsedRow, line_rows
from medunlearn_client.records.streams import (
    HEAD_BYTES,
    PACKED_SUFFIXES,
    Allowance,
    check_file,
    damage_explained,
    guarded,
    head_of,
    odd_names_explained,
    open_stream,
    unpacked,
)
from medunlearn_common.digests import HUB_PREFIX
from medunlearn_common.errors import Misconfigured

MAX_XML_BYTES = 8 << 20
MAX_HELD_BYTES = 2 << 30
_HELD_IN_MEMORY_BYTES = 8 << 20
_PARQUET_MAGIC, _ZIP_MAGIC = b"PAR1", b"PK\x03\x04"
_WORKBOOK_PART = "xl/workbook.xml"
TABLE_SUFFIXES = (".csv", ".tsv", ".tab")
DATA_SUFFIXES = frozenset(
    {*TABLE_SUFFIXES, ".json", ".jsonl", ".ndjson", ".xml", ".parquet", ".xlsx", ".zip", ".tar"}
)

_TAR_MAGIC = b"ustar"
_UTF8_READ_AHEAD = 1 << 20


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
        is_other: It is of a kind that is not read, and stands here to be counted.
    """

    name: str
    rows: Iterator[ParsedRow]
    is_other: bool = False


def row_files(path: Path, options: ContainerOptions) -> Generator[RowFile, None, None]:
    """All files that a path stands for: a file, an archive's members, a folder's files.

    Raises:
        Misconfigured: One of the codes of the module that reads the container,
            DATA_FOLDER_EMPTY, DATA_PATH_LEAVES_FOLDER or DATA_FORMAT_UNSUPPORTED.
        Transient: DATA_HUB_UNREACHABLE.
    """
    if str(path).startswith(HUB_PREFIX):
        yield RowFile(name=str(path), rows=columnar.hub_rows(str(path)))
    elif path.is_dir():
        yield from _folder(path, options)
    else:
        check_file(path)
        with damage_explained(path.name):
            yield from _file(path, options, path.name)


def _folder(folder: Path, options: ContainerOptions) -> Iterator[RowFile]:
    if columnar.is_saved_dataset(folder):
        for split in columnar.saved_datasets(folder):
            yield RowFile(name=split.name, rows=columnar.dataset_rows(split))
        return
    root = folder.resolve()
    number = 0
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        is_linked_folder = path.is_dir() and path.is_symlink()  # is not gone into
        if _is_hidden(name) or not (path.is_file() or is_linked_folder):
            continue
        if (_is_data(name) or is_linked_folder) and not path.resolve().is_relative_to(root):
            raise _leaves(folder.name)
        if is_linked_folder:
            continue
        if not _is_data(name):
            yield _other(folder.name)
            continue
        number += 1
        label = f"{folder.name}#{number}"
        if path.stat().st_size:  # bulk exports hold empty files for types without resources
            with damage_explained(label):
                yield from _file(path, options, label)
    if not number:
        raise Misconfigured(
            "DATA_FOLDER_EMPTY", f"{folder} holds no file that can be read",
            f"files that are looked at end in {', '.join(sorted(DATA_SUFFIXES))}",
        )


def suffix_of(name: str) -> str:
    """The suffix that says what a file holds, without ``.gz`` and the like."""
    lowered = name.casefold()
    for packed in PACKED_SUFFIXES:
        lowered = lowered.removesuffix(packed)
    return PurePosixPath(lowered).suffix


def _file(path: Path, options: ContainerOptions, label: str) -> Iterator[RowFile]:
    with path.open("rb") as raw:
        magic = raw.read(4)
    if magic == _PARQUET_MAGIC:
        yield RowFile(name=label, rows=columnar.parquet_rows(path, label=label))
    elif magic == _ZIP_MAGIC:
        yield from _zip_or_workbook(path, options, label)
    else:
        with open_stream(path) as stream:
            if _is_tar(head_of(stream)):
                yield from _tar(stream, path, options, label)
                return
            encoding = options.encoding
            if suffix_of(path.name) in TABLE_SUFFIXES and encoding == tables.AUTO_ENCODING:
                with open_stream(path) as again:
                    encoding = tables.detect_encoding(_pieces(again), label)
            yield _stream_file(stream, suffix_of(path.name), options, encoding, label)


def _stream_file(
    stream: BufferedReader, suffix: str, options: ContainerOptions, encoding: str, name: str
) -> RowFile:
    if suffix in TABLE_SUFFIXES:
        rows = tables.table_rows(
            stream, name=name, encoding=encoding, max_line_bytes=options.max_line_bytes
        )
    elif suffix == ".xml":
        rows = _xml(stream)
    elif documents.starts_document(stream):
        rows = documents.document_rows(stream, name=name)
    else:
        rows = line_rows(stream, name=name, max_line_bytes=options.max_line_bytes)
    return RowFile(name=name, rows=_explained(rows, name))


def _explained(rows: Iterator[ParsedRow], name: str) -> Iterator[ParsedRow]:
    with damage_explained(name):
        yield from rows


def _xml(stream: BinaryIO) -> Iterator[ParsedRow]:
    content = stream.read(MAX_XML_BYTES + 1)
    if len(content) > MAX_XML_BYTES:
        yield 1, bad_row("ROW_TOO_LONG", f"the document is longer than {MAX_XML_BYTES >> 20} MiB")
    else:
        yield from medquad.xml_rows(content)


def _is_tar(head: bytes) -> bool:
    return head[257:262] == _TAR_MAGIC


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    while piece := stream.read(_UTF8_READ_AHEAD):
        yield piece


def _zip_or_workbook(path: Path, options: ContainerOptions, label: str) -> Iterator[RowFile]:
    with _archive(path) as archive:
        names = set(archive.namelist())
        if _WORKBOOK_PART not in names:
            yield from _zip(archive, path, options, label)
            return
    rows = spreadsheets.workbook_rows(path, sheet=options.sheet, label=label)
    yield RowFile(name=label, rows=rows)


def _archive(source: Path | BinaryIO) -> zipfile.ZipFile:
    with odd_names_explained():
        return zipfile.ZipFile(source)


def _zip(
    archive: zipfile.ZipFile, path: Path, options: ContainerOptions, label: str
) -> Iterator[RowFile]:
    number, allowance = 0, Allowance(path.stat().st_size)
    for info in archive.infolist():
        _refuse_leaving(info.filename, label)
        is_folder = info.filename.endswith("/")  # info.is_dir() needs a name
        if is_folder or not info.file_size or _is_hidden(info.filename):
            continue
        if not _is_data(info.filename):
            yield _other(label)
            continue
        if info.flag_bits & 1:
            raise Misconfigured(
                "DATA_FORMAT_UNSUPPORTED", f"{label} is protected by a password",
                "unpack it and name the folder",
            )
        number += 1
        packed = _Packed(suffix=suffix_of(info.filename), allowance=allowance,
                         again=partial(_opened, archive, info))
        with _opened(archive, info) as member:
            yield _member(member, packed, options, f"{label}#{number}")


def _opened(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> BinaryIO:
    with odd_names_explained():
        return cast(BinaryIO, archive.open(info))


def _tar(
    stream: BufferedReader, path: Path, options: ContainerOptions, label: str
) -> Iterator[RowFile]:
    number, allowance = 0, Allowance(path.stat().st_size)
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for info in archive:
            _refuse_leaving(info.name, label)
            if info.issym() or info.islnk():
                raise _leaves(label)
            if not info.isreg() or not info.size or _is_hidden(info.name):
                continue
            if not _is_data(info.name):
                yield _other(label)
                continue
            number += 1
            member = archive.extractfile(info)
            if member is not None:
                packed = _Packed(suffix=suffix_of(info.name), allowance=allowance)
                yield _member(cast(BinaryIO, member), packed, options, f"{label}#{number}")


@dataclass(frozen=True, kw_only=True)
class _Packed:
    """What is known of a member.

    Attributes:
        suffix: Its kind.
        allowance: What its archive may still give.
        again: Opens it once more, where the archive is not read in one go.
    """

    suffix: str
    allowance: Allowance
    again: Callable[[], BinaryIO] | None = None


def _member(
    member: BinaryIO, packed: _Packed, options: ContainerOptions, label: str
) -> RowFile:
    counted = guarded(member, name=label, allowance=packed.allowance)
    stream = unpacked(counted, name=label, allowance=packed.allowance)
    head = head_of(stream)
    if head.startswith(_PARQUET_MAGIC) or (
        head.startswith(_ZIP_MAGIC) and packed.suffix == ".xlsx"
    ):
        return RowFile(name=label, rows=_explained(_held_rows(stream, options, label), label))
    if head.startswith(_ZIP_MAGIC) or _is_tar(head):
        raise _archive_within(label)
    encoding = options.encoding
    if packed.suffix in TABLE_SUFFIXES and encoding == tables.AUTO_ENCODING:
        encoding = _member_encoding(head, packed, label)
    return _stream_file(stream, packed.suffix, options, encoding, label)


def _member_encoding(head: bytes, packed: _Packed, label: str) -> str:
    """The encoding of a table, by all of it if it can be read twice."""
    if len(head) < HEAD_BYTES or packed.again is None:
        is_whole = len(head) < HEAD_BYTES
        return tables.detect_encoding(iter([head]), label, is_whole=is_whole)
    with packed.again() as member:
        counted = guarded(member, name=label, allowance=packed.allowance)
        stream = unpacked(counted, name=label, allowance=packed.allowance)
        return tables.detect_encoding(_pieces(stream), label)


def _held_rows(
    stream: BufferedReader, options: ContainerOptions, label: str
) -> Iterator[ParsedRow]:
    """Rows of a member that has to be read back and forth: its end is held first."""
    with tempfile.SpooledTemporaryFile(max_size=_HELD_IN_MEMORY_BYTES) as spool:
        held = cast(BinaryIO, spool)
        while piece := stream.read(_UTF8_READ_AHEAD):
            if held.tell() + len(piece) > MAX_HELD_BYTES:
                raise Misconfigured(
                    "DATA_ITEM_TOO_LARGE",
                    f"{label} is a workbook or Parquet file of more than "
                    f"{MAX_HELD_BYTES >> 20} MiB inside an archive",
                    "unpack the archive and name the folder",
                )
            held.write(piece)
        held.seek(0)
        if held.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC:
            yield from columnar.parquet_rows(held, label=label)
            return
        with _archive(held) as archive:
            if _WORKBOOK_PART not in archive.namelist():
                raise _archive_within(label)
        yield from spreadsheets.workbook_rows(held, sheet=options.sheet, label=label)


def _archive_within(label: str) -> Misconfigured:
    return Misconfigured(
        "DATA_FORMAT_UNSUPPORTED", f"{label} is another archive",
        "unpack the outer archive and name the folder",
    )


def _is_data(name: str) -> bool:
    """Data by its suffix."""
    return suffix_of(name) in DATA_SUFFIXES


def _is_hidden(name: str) -> bool:
    """A hidden file, or one of those that macOS adds to archives."""
    return any(
        part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts
    )


def _other(label: str) -> RowFile:
    return RowFile(name=label, rows=iter(()), is_other=True)


def _refuse_leaving(member: str, archive: str) -> None:
    path = PurePosixPath(member.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and ":" in path.parts[0]):
        raise _leaves(archive)


def _leaves(name: str) -> Misconfigured:
    return Misconfigured(
        "DATA_PATH_LEAVES_FOLDER",
        f"{name} holds a link, or a path that leaves its folder",
        "take the files out by hand, look at them, and name them one by one",
    )

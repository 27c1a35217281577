"""Archives and their members: nothing is unpacked to disk but what is read back and forth.

These are workbooks and Parquet files; they are held, within bounds, in a temporary file that has
no name. Archives within archives are refused, and so is a member whose name leaves the folder,
although nothing would be written there: such an archive was made to do harm.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from medunlearn_client.records import columnar, spreadsheets, tables
from medunlearn_client.records.compressed import tar_members
from medunlearn_client.records.lines import ParsedRow
from medunlearn_client.records.row_file import (
    TABLE_SUFFIXES,
    ContainerOptions,
    RowFile,
    empty_file,
    explained,
    is_data,
    is_hidden,
    leaves_folder,
    pieces,
    refuse_partition,
    stream_file,
    suffix_of,
    unread_file,
)
from medunlearn_client.records.streams import (
    HEAD_BYTES,
    Allowance,
    guarded,
    head_of,
    odd_names_explained,
    unpacked,
)
from medunlearn_common.errors import Misconfigured

MAX_HELD_BYTES = 2 << 30
PARQUET_MAGIC, ZIP_MAGIC = b"PAR1", b"PK\x03\x04"

_HELD_IN_MEMORY_BYTES = 8 << 20
_WORKBOOK_PART = "xl/workbook.xml"
_TAR_MAGIC = b"ustar"


def is_tar(head: bytes) -> bool:
    """Whether a file that begins like this is a tar archive."""
    return head[257:262] == _TAR_MAGIC


def zip_or_workbook(path: Path, options: ContainerOptions, label: str) -> Iterator[RowFile]:
    """A workbook's sheet, or the members of a ZIP archive.

    Raises:
        Misconfigured: As :func:`~medunlearn_client.records.containers.row_files`.
    """
    with _archive(path) as archive:
        names = set(archive.namelist())
        if _WORKBOOK_PART not in names:
            yield from _zip(archive, path, options, label)
            return
    set_aside: Counter[str] = Counter()
    rows = _workbook_rows(path, options, label, set_aside)
    yield RowFile(name=label, rows=rows, set_aside=set_aside)


def _workbook_rows(
    source: Path | BinaryIO, options: ContainerOptions, label: str, set_aside: Counter[str]
) -> Iterator[ParsedRow]:
    return spreadsheets.workbook_rows(
        source, sheet=options.sheet, label=label, max_row_bytes=options.max_line_bytes,
        set_aside=set_aside,
    )


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
        if is_folder or is_hidden(info.filename):
            continue
        if not is_data(info.filename):
            yield unread_file(label)
            continue
        refuse_partition(info.filename, label)
        if not info.file_size:
            number += 1
            yield empty_file(f"{label}#{number}")
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


def tar_files(
    stream: BufferedReader, path: Path, options: ContainerOptions, label: str
) -> Iterator[RowFile]:
    """The members of a tar archive, which is read in one go.

    Raises:
        Misconfigured: As :func:`~medunlearn_client.records.containers.row_files`.
    """
    number, allowance = 0, Allowance(path.stat().st_size)
    for info, member in tar_members(stream):
        _refuse_leaving(info.name, label)
        if info.issym() or info.islnk():
            raise leaves_folder(label)
        if member is None or is_hidden(info.name):
            continue
        if not is_data(info.name):
            yield unread_file(label)
            continue
        refuse_partition(info.name, label)
        number += 1
        if not info.size:
            yield empty_file(f"{label}#{number}")
            continue
        packed = _Packed(suffix=suffix_of(info.name), allowance=allowance)
        yield _member(member, packed, options, f"{label}#{number}")


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
    if head.startswith(PARQUET_MAGIC) or (
        head.startswith(ZIP_MAGIC) and packed.suffix == ".xlsx"
    ):
        set_aside: Counter[str] = Counter()
        rows = explained(_held_rows(stream, options, label, set_aside), label)
        return RowFile(name=label, rows=rows, set_aside=set_aside)
    if head.startswith(ZIP_MAGIC) or is_tar(head):
        raise _archive_within(label)
    encoding = options.encoding
    if packed.suffix in TABLE_SUFFIXES and encoding == tables.AUTO_ENCODING:
        encoding = _member_encoding(head, packed, label)
    return stream_file(stream, packed.suffix, options, encoding, label)


def _member_encoding(head: bytes, packed: _Packed, label: str) -> str:
    """The encoding of a table, by all of it if it can be read twice."""
    if len(head) < HEAD_BYTES or packed.again is None:
        is_whole = len(head) < HEAD_BYTES
        return tables.detect_encoding(iter([head]), label, is_whole=is_whole)
    with packed.again() as member:
        counted = guarded(member, name=label, allowance=packed.allowance)
        stream = unpacked(counted, name=label, allowance=packed.allowance)
        return tables.detect_encoding(pieces(stream), label)


def _held_rows(
    stream: BufferedReader, options: ContainerOptions, label: str, set_aside: Counter[str]
) -> Iterator[ParsedRow]:
    """Rows of a member that has to be read back and forth: its end is held first."""
    with tempfile.SpooledTemporaryFile(max_size=_HELD_IN_MEMORY_BYTES) as spool:
        held = cast(BinaryIO, spool)
        for piece in pieces(stream):
            if held.tell() + len(piece) > MAX_HELD_BYTES:
                raise Misconfigured(
                    "DATA_ITEM_TOO_LARGE",
                    f"{label} is a workbook or Parquet file of more than "
                    f"{MAX_HELD_BYTES >> 20} MiB inside an archive",
                    "unpack the archive and name the folder",
                )
            held.write(piece)
        held.seek(0)
        if held.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC:
            yield from columnar.parquet_rows(
                held, label=label, max_row_bytes=options.max_line_bytes)
            return
        with _archive(held) as archive:
            if _WORKBOOK_PART not in archive.namelist():
                raise _archive_within(label)
        yield from _workbook_rows(held, options, label, set_aside)


def _archive_within(label: str) -> Misconfigured:
    return Misconfigured(
        "DATA_FORMAT_UNSUPPORTED", f"{label} is another archive",
        "unpack the outer archive and name the folder",
    )


def _refuse_leaving(member: str, archive: str) -> None:
    path = PurePosixPath(member.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and ":" in path.parts[0]):
        raise leaves_folder(archive)

"""What is in a path: files, compressed files, archives, workbooks, folders; rows out.

The container is told by content, and by its suffix only where content cannot tell (CSV). Files of
folders and archives are called by their number (``export.zip#3``: the third data file, in the
archive's order or in order of paths), because exports like to put patients' names into file names.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

from medunlearn_client.records import columnar, tables
from medunlearn_client.records.archives import (
    PARQUET_MAGIC,
    ZIP_MAGIC,
    is_tar,
    tar_files,
    zip_or_workbook,
)
from medunlearn_client.records.row_file import (
    DATA_SUFFIXES,
    TABLE_SUFFIXES,
    ContainerOptions,
    RowFile,
    empty_file,
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
    check_file,
    damage_explained,
    head_of,
    open_stream,
)
from medunlearn_common.digests import HUB_PREFIX
from medunlearn_common.errors import Misconfigured


def row_files(path: Path, options: ContainerOptions) -> Generator[RowFile, None, None]:
    """All files that a path stands for: a file, an archive's members, a folder's files.

    Raises:
        Misconfigured: One of the codes of the module that reads the container,
            DATA_FOLDER_EMPTY, DATA_PARTITIONED, DATA_PATH_LEAVES_FOLDER or DATA_FORMAT_UNSUPPORTED.
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
            yield RowFile(name=split.name, rows=columnar.dataset_rows(
                split, max_row_bytes=options.max_line_bytes))
        return
    root = folder.resolve()
    number = 0
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        is_linked_folder = path.is_dir() and path.is_symlink()  # is not gone into
        if is_hidden(name) or not (path.is_file() or is_linked_folder):
            continue
        if (is_data(name) or is_linked_folder) and not path.resolve().is_relative_to(root):
            raise leaves_folder(folder.name)
        if is_linked_folder:
            continue
        if not is_data(name):
            yield unread_file(folder.name)
            continue
        refuse_partition(name, folder.name)
        number += 1
        label = f"{folder.name}#{number}"
        if not path.stat().st_size:  # bulk exports hold such for types without resources
            yield empty_file(label)
            continue
        with damage_explained(label):
            yield from _file(path, options, label)
    if not number:
        raise Misconfigured(
            "DATA_FOLDER_EMPTY", f"{folder} holds no file that can be read",
            f"files that are looked at end in {', '.join(sorted(DATA_SUFFIXES))}",
        )


def _file(path: Path, options: ContainerOptions, label: str) -> Iterator[RowFile]:
    with path.open("rb") as raw:
        magic = raw.read(4)
    if magic == PARQUET_MAGIC:
        yield RowFile(name=label, rows=columnar.parquet_rows(
            path, label=label, max_row_bytes=options.max_line_bytes))
    elif magic == ZIP_MAGIC:
        yield from zip_or_workbook(path, options, label)
    else:
        with open_stream(path) as stream:
            if is_tar(head_of(stream)):
                yield from tar_files(stream, path, options, label)
                return
            encoding = options.encoding
            if suffix_of(path.name) in TABLE_SUFFIXES and encoding == tables.AUTO_ENCODING:
                with open_stream(path) as again:
                    encoding = tables.detect_encoding(pieces(again), label)
            yield stream_file(stream, suffix_of(path.name), options, encoding, label)

"""Parquet files and Hugging Face data sets: columns on disk, a bounded batch in memory.

A Parquet file is read row group by row group, in batches; a data set that was saved with
``save_to_disk`` is memory-mapped. Dates become ISO text, so that the rows equal those of the
same records in JSON or in a workbook.
"""

from __future__ import annotations

import datetime as dt
import decimal
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from medunlearn_client.records.bounded_batches import bounded_rows
from medunlearn_client.records.fields import ColumnRow, bad_row
from medunlearn_client.records.lines import MAX_LINE_BYTES, ParsedRow, check_tree
from medunlearn_client.records.record import InvalidRecord
from medunlearn_client.records.streams import FREE_BYTES, MAX_EXPANSION
from medunlearn_common.digests import HUB_PREFIX
from medunlearn_common.errors import Misconfigured, Transient

FEW_ROWS, MANY_ROWS = 256, 4096
MAX_ROW_GROUP_BYTES = 2 << 30

# What `datasets` and Arrow raise, which expect nobody to have changed what they wrote.
_DAMAGE = (pa.ArrowException, OSError, ValueError, LookupError, TypeError, AttributeError)
_STATE, _DATASET_DICT = "state.json", "dataset_dict.json"


def parquet_rows(
    source: Path | BinaryIO, *, label: str, max_row_bytes: int = MAX_LINE_BYTES
) -> Iterator[ParsedRow]:
    """Yields ``(row number from 1, row or what is wrong with it)``.

    Raises:
        Misconfigured: DATA_PARQUET_DAMAGED, DATA_TABLE_HEADER or DATA_ZIP_BOMB.
    """
    try:
        number = 0
        for batch, schema in _batches(source, label):
            for row in bounded_rows(batch, schema=schema, max_row_bytes=max_row_bytes):
                number += 1
                yield number, _checked(row)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise Misconfigured(
            "DATA_PARQUET_DAMAGED",
            f"{label} cannot be read as Parquet ({type(error).__name__})",
            "write or copy it again",
        ) from error


def _batches(
    source: Path | BinaryIO, label: str
) -> Iterator[tuple[pa.RecordBatch, pa.Schema]]:
    """Batches of each row group, with the schema of their rows.

    Texts that repeat stay one each, instead of one for each row, where all of a row group's may be
    held: every batch comes with those of its group so far.
    """
    file_bytes = _size(source)
    with pq.ParquetFile(source) as file:
        schema, texts = _without_dictionaries(file.schema_arrow), _text_columns(file.schema)
        if len(set(schema.names)) < len(schema.names):
            raise Misconfigured(
                "DATA_TABLE_HEADER", f"{label} has two columns of one name",
                "give every column one name of its own",
            )
        largest = _largest_group(file.metadata, label, file_bytes=file_bytes)
        groups = file.num_row_groups
    texts, batch_rows = (texts, MANY_ROWS) if largest <= FREE_BYTES else ([], FEW_ROWS)
    with pq.ParquetFile(source, read_dictionary=texts) as file:
        for group in range(groups):  # Arrow joins no lists of dictionaries of several groups
            for batch in file.iter_batches(batch_size=batch_rows, row_groups=[group]):
                yield batch, schema


def _largest_group(metadata: pq.FileMetaData, label: str, *, file_bytes: int) -> int:
    """Bytes of the largest row group, unpacked, as the file says; raises DATA_ZIP_BOMB.

    No column is asked for its own figures: of a damaged file that ends the process.
    """
    groups = range(metadata.num_row_groups)
    largest: int = max((metadata.row_group(group).total_byte_size for group in groups), default=0)
    if largest > min(MAX_ROW_GROUP_BYTES, max(FREE_BYTES, MAX_EXPANSION * file_bytes)):
        raise Misconfigured(
            "DATA_ZIP_BOMB", f"{label} has a row group of {largest >> 20} MiB",
            "write it again with smaller row groups",
        )
    return largest


def _size(source: Path | BinaryIO) -> int:
    if isinstance(source, Path):
        return source.stat().st_size
    return source.seek(0, os.SEEK_END)


def _without_dictionaries(schema: pa.Schema) -> pa.Schema:
    """The schema of the rows: categories are their texts."""
    return pa.schema([
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in schema
    ])


def _text_columns(schema: pq.ParquetSchema) -> list[str]:
    columns = [schema.column(number) for number in range(len(schema))]
    return [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]


def is_saved_dataset(folder: Path) -> bool:
    """Whether the folder was written by ``save_to_disk``."""
    return (folder / _STATE).is_file() or (folder / _DATASET_DICT).is_file()


def saved_datasets(folder: Path) -> list[Path]:
    """The folders of the data set's splits; itself where there are none.

    Raises:
        Misconfigured: DATA_SET_DAMAGED or DATA_PATH_LEAVES_FOLDER.
    """
    if not (folder / _DATASET_DICT).is_file():
        return [folder]
    splits = _json_object(folder / _DATASET_DICT).get("splits")
    if not isinstance(splits, list) or not all(isinstance(name, str) for name in splits):
        raise _dataset_damaged(folder, "no list of splits")
    return [_inside(folder, name) for name in splits]


def dataset_rows(
    folder: Path, *, max_row_bytes: int = MAX_LINE_BYTES
) -> Iterator[ParsedRow]:
    """Yields the rows of one split that ``save_to_disk`` wrote.

    Raises:
        Misconfigured: DATA_SET_DAMAGED or DATA_PATH_LEAVES_FOLDER.
    """
    files = _json_object(folder / _STATE).get("_data_files")
    if not isinstance(files, list):
        raise _dataset_damaged(folder, "no list of data files")
    for entry in files:
        name = entry.get("filename") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise _dataset_damaged(folder, "a data file without a name")
        _inside(folder, name)
    import datasets  # slow to import, and only needed here

    try:
        for entry in files:
            _validate_arrow(folder / entry["filename"])
        loaded = datasets.load_from_disk(str(folder)).with_format("arrow")
        number = 0
        for table in loaded.iter(batch_size=FEW_ROWS):
            for batch in table.to_batches():
                for row in bounded_rows(
                    batch, schema=batch.schema, max_row_bytes=max_row_bytes
                ):
                    number += 1
                    yield number, _checked(row)
    except _DAMAGE as error:
        raise _dataset_damaged(folder, type(error).__name__) from error


def _validate_arrow(path: Path) -> None:
    """Checks every offset and every text of a file batch by batch, before a value is made of it.

    Arrow files are used as they lie on disk, and nobody else looks at their offsets: one that
    points beyond its buffer ends the process.

    Raises:
        pa.ArrowException: The file is damaged.
    """
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as batches:
        for batch in batches:
            batch.validate(full=True)


def hub_rows(source: str) -> Iterator[ParsedRow]:
    """Yields the rows of a public data set, ``hf:OWNER/NAME[/CONFIG][#SPLIT]``, streamed.

    Raises:
        Misconfigured: DATA_HUB_NAME.
        Transient: DATA_HUB_UNREACHABLE.
    """
    name, _, split = source.removeprefix(HUB_PREFIX).partition("#")
    parts = name.split("/")
    if not 2 <= len(parts) <= 3 or not all(parts) or ".." in parts:
        raise Misconfigured(
            "DATA_HUB_NAME", f"{source[:80]!a} names no data set of the hub",
            "write hf:OWNER/NAME, hf:OWNER/NAME/CONFIG or hf:OWNER/NAME#SPLIT",
        )
    import datasets

    try:
        config = parts[2] if len(parts) == 3 else None
        loaded = datasets.load_dataset(
            "/".join(parts[:2]), config, split=split or "train", streaming=True
        )
        number = 0
        for batch in loaded.iter(batch_size=FEW_ROWS):
            for values in zip(*batch.values(), strict=True):
                number += 1
                yield number, _checked(dict(zip(batch, values, strict=True)))
    except (OSError, ValueError, RuntimeError, pa.ArrowException) as error:
        raise Transient(
            "DATA_HUB_UNREACHABLE",
            f"the hub's data set {name!a} cannot be read ({type(error).__name__})",
            "a hospital without a network saves it elsewhere with save_to_disk and names the "
            "folder; else check its name, split and your login",
        ) from error


def _checked(row: dict[str, Any] | InvalidRecord) -> dict[str, Any] | InvalidRecord:
    if isinstance(row, InvalidRecord):
        return row
    try:
        plain = ColumnRow({str(name): _plain(value) for name, value in row.items()})
        check_tree(plain)
    except InvalidRecord as error:
        return error
    return plain


def _plain(value: object) -> object:
    """The value as JSON would hold it."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dt.datetime):
        is_day = value.time() == dt.time() and value.tzinfo is None
        return value.date().isoformat() if is_day else value.isoformat(timespec="seconds")
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):  # a database's whole numbers, ids among them, are these
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    raise bad_row("ROW_FIELD_TYPE", "a column holds bytes or another type that is no text")


def _json_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _dataset_damaged(path.parent, type(error).__name__) from error
    if not isinstance(value, dict):
        raise _dataset_damaged(path.parent, f"{path.name} is not an object")
    return value


def _inside(folder: Path, name: str) -> Path:
    inner = folder / name
    try:
        is_inside = inner.resolve().is_relative_to(folder.resolve()) and name not in ("", ".")
    except (OSError, ValueError) as error:  # NUL, or half a surrogate pair: no file's name
        raise _dataset_damaged(folder, type(error).__name__) from error
    if not is_inside:
        raise Misconfigured(
            "DATA_PATH_LEAVES_FOLDER",
            f"{folder.name} names a file outside its folder",
            "save the data set again; a data set holds all of its files",
        )
    return inner


def _dataset_damaged(folder: Path, why: str) -> Misconfigured:
    return Misconfigured(
        "DATA_SET_DAMAGED", f"{folder.name} is not a whole saved data set ({why})",
        "save it again with save_to_disk",
    )

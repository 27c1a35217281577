"""The one door through which patient data enters: files in, validated records out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from medunlearn_client.records import jsonl, medmcqa, synthea
from medunlearn_client.records.fields import bad_row
from medunlearn_client.records.lines import MAX_LINE_BYTES, read_rows
from medunlearn_client.records.quarantine import Quarantine
from medunlearn_client.records.record import InvalidRecord, Record
from medunlearn_common.errors import Misconfigured

AUTO = "auto"
_ROWS_TO_RECOGNISE = 100

Parsed = list[tuple[int, list[Record] | InvalidRecord]]


class RecordReader(Protocol):
    """One file format. A module with these two functions is one."""

    def recognises(self, row: Mapping[str, Any]) -> bool:
        """Whether an object looks like a row of this format."""

    def read(self, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> Parsed:
        """Per row of one file, its records or what is wrong with it."""


# The order matters to detection only: the narrower format comes first.
READERS: dict[str, RecordReader] = {"synthea": synthea, "medmcqa": medmcqa, "jsonl": jsonl}


def read_records(
    paths: Path | Sequence[Path],
    *,
    record_format: str = AUTO,
    quarantine: Quarantine | None = None,
    max_line_bytes: int = MAX_LINE_BYTES,
) -> list[Record]:
    """Reads one or more files into records, in file order.

    Bad rows go to the quarantine; a file that cannot be read to its end is refused.

    Args:
        paths: JSON-lines files, plain or gzipped.
        record_format: A key of ``READERS``, or ``"auto"`` to recognise each file by its rows.
        quarantine: Where bad rows are noted; by default they are counted and not written.
        max_line_bytes: Longest accepted row.

    Returns:
        At least one record; ids are unique over all files.

    Raises:
        Misconfigured: DATA_FILE_MISSING, DATA_FILE_EMPTY, DATA_FILE_UNREADABLE,
            DATA_FILE_TOO_LARGE, DATA_GZIP_DAMAGED, DATA_FORMAT_UNSUPPORTED,
            DATA_FORMAT_UNKNOWN, DATA_ANSWER_NUMBERING, DATA_TOO_MANY_BAD_ROWS or
            DATA_NO_RECORDS.
        Transient: QUARANTINE_UNWRITABLE.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    if not files:
        raise Misconfigured("DATA_FILE_MISSING", "no data file is named", "name at least one")
    held = quarantine if quarantine is not None else Quarantine()
    records: list[Record] = []
    seen: dict[str, tuple[str, int]] = {}
    total_rows = 0
    for path in files:
        rows, parsed = _read_file(path, record_format, held, max_line_bytes)
        total_rows += rows
        for number, item in parsed:
            fresh = _accept(path.name, number, item, seen, held)
            records.extend(fresh)
    held.finish(total_rows)
    if not records:
        raise Misconfigured(
            "DATA_NO_RECORDS", "the data holds no usable record", "check the files and the format"
        )
    return records


def _read_file(
    path: Path, record_format: str, quarantine: Quarantine, max_line_bytes: int
) -> tuple[int, Parsed]:
    good: list[tuple[int, dict[str, Any]]] = []
    total_rows = 0
    for number, row in read_rows(path, max_line_bytes=max_line_bytes):
        total_rows += 1
        if isinstance(row, InvalidRecord):
            quarantine.add(path.name, number, row)
        else:
            good.append((number, row))
    if not total_rows:
        raise Misconfigured("DATA_FILE_EMPTY", f"{path} is empty", "export the data again")
    if not good:
        quarantine.finish(total_rows)
        return total_rows, []
    return total_rows, _reader(path, record_format, good).read(good)


def _reader(
    path: Path, record_format: str, rows: Sequence[tuple[int, Mapping[str, Any]]]
) -> RecordReader:
    if record_format != AUTO:
        if record_format not in READERS:
            raise Misconfigured(
                "DATA_FORMAT_UNKNOWN",
                f"there is no record format {record_format!r}",
                f"use one of: {', '.join((AUTO, *READERS))}",
            )
        return READERS[record_format]
    for reader in READERS.values():
        if any(reader.recognises(row) for _, row in rows[:_ROWS_TO_RECOGNISE]):
            return reader
    raise Misconfigured(
        "DATA_FORMAT_UNKNOWN",
        f"the rows of {path.name} are in no known format",
        f"known are {', '.join(READERS)}; the fields are listed in the documentation",
    )


def _accept(
    file: str,
    number: int,
    item: list[Record] | InvalidRecord,
    seen: dict[str, tuple[str, int]],
    quarantine: Quarantine,
) -> list[Record]:
    """The row's records, unless the row is bad or repeats an id."""
    if isinstance(item, InvalidRecord):
        quarantine.add(file, number, item)
        return []
    repeated = next((seen[r.record_id] for r in item if r.record_id in seen), None)
    if repeated is not None:
        first_file, first_row = repeated
        message = f"repeats the id of {first_file} row {first_row}"
        quarantine.add(file, number, bad_row("ROW_DUPLICATE_ID", message))
        return []
    seen.update((record.record_id, (file, number)) for record in item)
    return item

"""The one door through which patient data enters: files in, validated records out.

Two questions are kept apart. *What kind of file* it is (JSON lines, CSV, Parquet, an archive)
is told by its content, in ``containers``. *What a row means* (an exam question, a patient, a
FHIR resource) is the record format, named in the plan or recognised by the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from dataclasses import fields as dataclass_fields
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

from medunlearn_client.records import (
    fhir,
    jsonl,
    medmcqa,
    medqa,
    medquad,
    mhqa,
    pubmedqa,
    synthea,
)
from medunlearn_client.records.containers import row_files
from medunlearn_client.records.fields import ColumnRow, FormulaCell, TextRow, bad_row
from medunlearn_client.records.lines import MAX_LINE_BYTES
from medunlearn_client.records.mapped import MappedReader
from medunlearn_client.records.merges import merged
from medunlearn_client.records.quarantine import Quarantine
from medunlearn_client.records.record import InvalidRecord, Record
from medunlearn_client.records.row_file import (
    EMPTY_FILE,
    OTHER_FILE,
    ContainerOptions,
    RowFile,
)
from medunlearn_client.records.seen import SeenIds
from medunlearn_common.errors import Misconfigured
from medunlearn_common.plan.sections import ColumnsSection, DataSection

AUTO, TABLE, FHIR = "auto", "table", "fhir"
LOST_NUMBER = "repeated words, known by another identifier or name"
_ROWS_TO_RECOGNISE = 100
_EMPTY = frozenset({"DATA_FILE_EMPTY", "DATA_FOLDER_EMPTY"})

Row = Mapping[str, Any]
Item = list[Record] | InvalidRecord


class RecordReader(Protocol):
    """One file format. A module with these two functions is one."""

    def recognises(self, row: Row) -> bool:
        """Whether an object looks like a row of this format."""

    def read(self, rows: Iterable[tuple[int, Row]]) -> Iterable[tuple[int, Item]]:
        """Per row of one file, its records (none is possible) or what is wrong with it.

        A format whose rows stand alone yields as it reads; one that has to compare rows
        (numbering of answers, wrong options from other patients) reads its file whole.
        """


# The order matters to detection only: the narrower format comes first.
READERS: dict[str, RecordReader] = {
    "synthea": synthea,
    "mhqa": mhqa,
    "pubmedqa": pubmedqa,
    "medquad": medquad,
    "medqa": medqa,
    "medmcqa": medmcqa,
    "jsonl": jsonl,
}
FORMATS = (AUTO, TABLE, FHIR, *READERS)


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How files are read.

    Attributes:
        record_format: One of ``FORMATS``.
        max_line_bytes: Longest accepted row.
        encoding: Of CSV files, or "auto".
        sheet: Of workbooks; the first one where empty.
        columns: Which column means what. All files are read by it where a key is not at its
            default; where the plan has no more than that, tables without a column ``id`` are.
        fhir_templates: The hospital's own templates, or None for the packaged ones.
        for_sums: As a hospital reads what goes into sums under noise. Files without a row and
            data without a record are taken: a refusal would tell whether the only one is there.
            Of rows that share an id, each that says something else is a record: if only the
            first of them were, the second would come as the first one goes. Patients with one
            name and date of birth are not told apart: a patient's text is the patient's own.
    """

    record_format: str = AUTO
    max_line_bytes: int = MAX_LINE_BYTES
    encoding: str = "auto"
    sheet: str = ""
    columns: ColumnsSection = field(default_factory=ColumnsSection)
    fhir_templates: Path | None = None
    for_sums: bool = False

    @classmethod
    def of_plan(cls, data: DataSection) -> ReadOptions:
        """What a plan's ``[data]`` section says."""
        templates = Path(data.fhir_templates) if data.fhir_templates else None
        return cls(
            record_format=data.record_format, encoding=data.encoding, sheet=data.sheet,
            columns=data.columns, fhir_templates=templates,
        )


def read_records(
    paths: Path | Sequence[Path],
    *,
    record_format: str | None = None,
    quarantine: Quarantine | None = None,
    max_line_bytes: int | None = None,
    options: ReadOptions | None = None,
) -> list[Record]:
    """Reads files into records, in file order (FHIR last, in order of patients).

    Bad rows go to the quarantine; a file that cannot be read to its end is refused.

    Args:
        paths: Files, folders, archives, or hub names (``hf:OWNER/NAME``).
        record_format: As in ``options``, which it overrides.
        quarantine: Where bad rows are noted; by default they are counted and not written.
        max_line_bytes: As in ``options``, which it overrides.
        options: Everything else.

    Returns:
        At least one record, and ids are unique over all files; neither where it is for sums.
        Patients whom any of the files says to be merged are one.

    Raises:
        Misconfigured: As :func:`stream_records`; DATA_NO_RECORDS.
        Transient: As :func:`stream_records`.
    """
    chosen = options or ReadOptions()
    if record_format is not None:
        chosen = replace(chosen, record_format=record_format)
    if max_line_bytes is not None:
        chosen = replace(chosen, max_line_bytes=max_line_bytes)
    records = merged(list(stream_records(paths, quarantine=quarantine, options=chosen)))
    if not records and not chosen.for_sums:
        raise Misconfigured(
            "DATA_NO_RECORDS", "the data holds no usable record", "check the files and the format"
        )
    return records


def stream_records(
    paths: Path | Sequence[Path],
    *,
    quarantine: Quarantine | None = None,
    options: ReadOptions | None = None,
) -> Iterator[Record]:
    """As :func:`read_records`, one record at a time and in bounded memory.

    Each names the patient that its own source names: a merge may be said after it.
    Whether the data is acceptable is known only at the end, so whatever is made of the
    records must not be used before the iterator has ended without an error.

    Raises:
        Misconfigured: DATA_FILE_MISSING, DATA_FILE_EMPTY, DATA_FILE_UNREADABLE,
            DATA_FOLDER_EMPTY, DATA_GZIP_DAMAGED, DATA_ARCHIVE_DAMAGED, DATA_JSON_DAMAGED,
            DATA_PARQUET_DAMAGED, DATA_SPREADSHEET_DAMAGED, DATA_SET_DAMAGED, DATA_ZIP_BOMB,
            DATA_ITEM_TOO_LARGE, DATA_PARTITIONED, DATA_PATH_LEAVES_FOLDER, DATA_TABLE_HEADER,
            DATA_ENCODING_UNKNOWN, DATA_SHEET_MISSING, DATA_SHEET_UNNAMED, DATA_COLUMN_MISSING,
            DATA_COLUMNS_UNUSED, DATA_FORMAT_UNSUPPORTED, DATA_FORMAT_UNKNOWN,
            DATA_ANSWER_NUMBERING, DATA_HUB_NAME, DATA_TOO_MANY_BAD_ROWS, or a TEMPLATE code.
        Transient: QUARANTINE_UNWRITABLE or DATA_HUB_UNREACHABLE.
    """
    for _, record in stream_with_sources(paths, quarantine=quarantine, options=options):
        yield record


def stream_with_sources(
    paths: Path | Sequence[Path],
    *,
    quarantine: Quarantine | None = None,
    options: ReadOptions | None = None,
) -> Iterator[tuple[Path | None, Record]]:
    """As :func:`stream_records`, each with the path it came from.

    FHIR facts are made of resources of all files together; where several are read they come
    from none alone, and their path is None.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    if not files:
        raise Misconfigured("DATA_FILE_MISSING", "no data file is named", "name at least one")
    only = files[0] if len(files) == 1 else None
    with ExitStack() as stack:
        seen = stack.enter_context(SeenIds())
        held = quarantine if quarantine is not None else Quarantine()
        reading = _Reading(options or ReadOptions(), held, seen)
        stack.callback(reading.close)
        for path in files:
            yield from ((path, record) for record in reading.path(path))
        yield from ((only, record) for record in reading.rest())
        held.finish(reading.total_rows)


class _Reading:
    """One pass over all files."""

    def __init__(self, options: ReadOptions, quarantine: Quarantine, seen: SeenIds) -> None:
        self._options, self._quarantine, self._seen = options, quarantine, seen
        self._container = ContainerOptions(
            max_line_bytes=options.max_line_bytes, encoding=options.encoding, sheet=options.sheet
        )
        self._named = _named_reader(options)
        self._told_columns = jsonl.FIELDS | _names_in(options.columns)
        self._all_fhir = options.record_format == FHIR
        # Templates are read first: a mistake in them must not show after hours of reading.
        templates = fhir.load_templates(options.fhir_templates)
        self._fhir = fhir.FhirCollection(templates, tell_apart=not options.for_sums)
        self.total_rows = 0

    def close(self) -> None:
        self._fhir.close()

    def path(self, path: Path) -> Iterator[Record]:
        before = self.total_rows
        try:
            with closing(row_files(path, self._container)) as found:
                for file in found:
                    before_file = self.total_rows
                    yield from self._file(file)
                    self._quarantine.set_aside.update(file.set_aside)
                    if self.total_rows == before_file and not file.set_aside[OTHER_FILE]:
                        self._quarantine.set_aside[EMPTY_FILE] += 1
            if self.total_rows == before:
                raise Misconfigured(
                    "DATA_FILE_EMPTY", f"{path} is empty", "export the data again")
        except Misconfigured as error:
            if not self._options.for_sums or error.code not in _EMPTY:
                raise

    def rest(self) -> Iterator[Record]:
        """What can be said only after the last file."""
        for file, number, item in self._fhir.results():
            yield from self._accept(file, number, item)
        self._quarantine.set_aside.update(self._fhir.set_aside)

    def _file(self, file: RowFile) -> Iterator[Record]:
        rows = self._good_rows(file)
        first = list(islice(rows, _ROWS_TO_RECOGNISE))
        if not first:
            return
        every = chain(first, rows)
        reader = None if self._all_fhir else self._named or _recognised(
            file.name, first, self._options.columns)
        if reader is None:
            self._collect(file.name, every)
            return
        alone = self._options.for_sums and reader is READERS["synthea"]
        items: Iterable[tuple[int, Item]] = (
            synthea.read(every, tell_apart=False) if alone else reader.read(every))
        for number, item in items:
            yield from self._accept(file.name, number, item)

    def _collect(self, name: str, rows: Iterable[tuple[int, Row]]) -> None:
        for number, row in rows:
            resources, errors = self._fhir.add(name, number, row)
            self.total_rows += resources - 1  # the row itself was counted as it was read
            for error in errors:
                self._quarantine.add(name, number, error)

    def _good_rows(self, file: RowFile) -> Iterator[tuple[int, Row]]:
        for number, row in file.rows:
            self.total_rows += 1
            if isinstance(row, InvalidRecord):
                if isinstance(row, FormulaCell) and row.column in self._told_columns:
                    row = FormulaCell(row.place, row.column, named=True)
                self._quarantine.add(file.name, number, row)
            else:
                yield number, row

    def _accept(self, file: str, number: int, item: Item) -> list[Record]:
        """The row's records, unless the row is bad or repeats an id."""
        if isinstance(item, InvalidRecord):
            self._quarantine.add(file, number, item)
            return []
        if not item:
            self._quarantine.set_aside["without a record"] += 1
        if self._options.for_sums:
            return self._fresh(file, number, item)
        ids = [record.record_id for record in item]
        repeated = self._seen.first_place(ids)
        if repeated is not None:
            message = f"repeats the id of {repeated[0]} row {repeated[1]}"
            self._quarantine.add(file, number, bad_row("ROW_DUPLICATE_ID", message))
            return []
        self._seen.add(ids, file, number)
        return item

    def _fresh(self, file: str, number: int, item: list[Record]) -> list[Record]:
        """Those that say something else than all before; counts what a search of others misses."""
        fresh: list[Record] = []
        keys: list[str] = []
        for record in item:
            said = _said(record)
            known = said + repr(sorted(record.known_by)) if record.known_by else said
            if self._seen.first_place([said]) is None:
                fresh.append(record)
                keys.extend((said, known))
            elif self._seen.first_place([known]) is None:
                self._quarantine.set_aside[LOST_NUMBER] += 1
        self._seen.add(keys, file, number)
        return fresh


def _said(record: Record) -> str:
    """All that makes two records of one id different; a patient's options are others' answers."""
    own = record if record.patient_id is None else replace(record, options=(), answer_index=None)
    return repr([getattr(own, each.name) for each in dataclass_fields(own) if each.compare])


def _names_in(columns: ColumnsSection) -> frozenset[str]:
    """What the plan calls columns, which can be no patient's word from a file."""
    said = columns.model_dump(exclude={"answer_is"}).values()
    return frozenset(chain.from_iterable([one] if isinstance(one, str) else one for one in said))


def _named_reader(options: ReadOptions) -> RecordReader | None:
    """The reader that the options name; None where rows decide, or for FHIR."""
    name = options.record_format
    if name not in FORMATS:
        raise Misconfigured(
            "DATA_FORMAT_UNKNOWN", f"there is no record format {name!r}",
            f"use one of: {', '.join(FORMATS)} (CSV, Excel and Parquet are found by themselves)",
        )
    mapped = options.columns != ColumnsSection()
    if mapped and name not in (AUTO, TABLE):
        raise Misconfigured(
            "DATA_COLUMNS_UNUSED", f"data.columns is set, and the record format is {name}",
            'set record_format = "table", or take [data.columns] out',
        )
    if mapped or name == TABLE:
        return MappedReader(options.columns)
    return READERS.get(name)


def _recognised(
    file: str, rows: Sequence[tuple[int, Row]], columns: ColumnsSection
) -> RecordReader | None:
    """The reader of such rows; None for FHIR, which is collected over all files."""
    if any(fhir.recognises(row) for _, row in rows):
        return None
    for reader in READERS.values():
        if any(reader.recognises(row) for _, row in rows):
            without_id = reader is READERS["jsonl"] and _is_table_without_id(rows)
            return _by_default_columns(file, rows[0][1], columns) if without_id else reader
    raise Misconfigured(
        "DATA_FORMAT_UNKNOWN",
        f"the rows of {file} are in no known format",
        f"known are {', '.join((FHIR, *READERS))}; for other columns set [data.columns] in "
        "a plan, as docs/data.md shows, and name it (--plan)",
    )


def _is_table_without_id(rows: Sequence[tuple[int, Row]]) -> bool:
    """Whether the own format lacks its id in every row, since the header has none."""
    return all(isinstance(row, (TextRow, ColumnRow)) and "id" not in row for _, row in rows)


def _by_default_columns(file: str, row: Row, columns: ColumnsSection) -> MappedReader:
    """The reader of a table without ``id`` by ``[data.columns]`` whose values are the defaults.

    Such a section says that the id is a digest, if the plan has it at all. It may be a template's
    or a copy's with every key, so a column that the own format knows is not passed over for it: a
    ``patient_id`` that nobody reads would void the patient's protection.
    """
    if not columns.model_fields_set:
        raise Misconfigured(
            "DATA_COLUMN_MISSING", f"{file} has no column `id`",
            'say which column is what in a plan, e.g. [data.columns] question = "question", and '
            'name it (--plan); or set record_format = "table" (--format table), which reads '
            "`question` and `answer` alone. Either makes the id of the record",
        )
    read = {columns.question, columns.answer}
    unread = sorted((jsonl.FIELDS - {"extra"} - read).intersection(row))
    if unread:
        raise Misconfigured(
            "DATA_COLUMN_MISSING",
            f"{file} has no column `id`, and [data.columns] leaves out its column `{unread[0]}`",
            'name that there too, or set record_format = "table", which leaves it out',
        )
    return MappedReader(columns)

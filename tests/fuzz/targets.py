"""What is fuzzed: one entry per loader or parser, in one dict.

A target has whole inputs to start from, and an attempt, which gets a folder and one damaged
input and does with it what the product does. It returns where the input was read or refused
with one of our errors; whatever else comes out of it is a finding. A loader of files is added
below, a parser of bytes in ``parsers.py``.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

_TESTS = Path(__file__).resolve().parents[1]
for _folder in ("integration", "terminologies"):
    if str(_TESTS / _folder) not in sys.path:
        sys.path.append(str(_TESTS / _folder))

import format_samples as records  # noqa: E402
import terminology_samples as terms  # noqa: E402
from joining_targets import DOCUMENTS  # noqa: E402
from parsers import PARSERS  # noqa: E402

from medunlearn_client.records import Quarantine, ReadOptions, read_records  # noqa: E402
from medunlearn_client.records.fhir import load_templates  # noqa: E402
from medunlearn_client.records.fhir.templates import packaged_text  # noqa: E402
from medunlearn_common.concepts import LOADERS, SourceOptions  # noqa: E402
from medunlearn_common.errors import MedunlearnError  # noqa: E402
from medunlearn_common.plan.sections import ColumnsSection  # noqa: E402

Attempt = Callable[[Path, bytes], bool]
Wrap = Callable[[bytes], bytes]
_MAX_MESSAGE_CHARS = 3000


@dataclass(frozen=True, kw_only=True)
class Target:
    """One loader or parser.

    Attributes:
        seeds: Whole inputs; at least one.
        attempt: Reads one input in an empty folder; whether it was accepted.
        uses_files: Whether it writes the input to a file.
        most_memory: Bytes by which it may raise the memory of a process that has read the seeds.
    """

    seeds: Sequence[bytes]
    attempt: Attempt
    uses_files: bool = True
    most_memory: int = 512 << 20

    def run(self, folder: Path, content: bytes) -> bool:
        """One attempt, in a folder that is emptied first if files are used at all."""
        if self.uses_files:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        return self.attempt(folder, content)


def accepted(read: Callable[[], object]) -> bool:
    """Whether ``read`` took its input; our own errors, with code and hint, refuse it."""
    try:
        read()
    except MedunlearnError as error:
        if not (error.code.isupper() and error.hint and len(error.message) < _MAX_MESSAGE_CHARS):
            raise AssertionError("an error without a proper code, hint or length") from error
        return False
    return True


# -- records ---------------------------------------------------------------------------------


def _read_file(
    folder: Path, content: bytes, *, name: str, wrap: Wrap | None = None, **options: Any
) -> bool:
    path = folder / name
    path.write_bytes(wrap(content) if wrap is not None else content)
    return accepted(lambda: _records(path, ReadOptions(**options)))


def _records(path: Path, options: ReadOptions) -> None:
    found = read_records(path, quarantine=Quarantine(max_bad_fraction=1.0), options=options)
    if not found or len({record.record_id for record in found}) != len(found):
        raise AssertionError("no records, or an id twice")
    for record in found:
        record.text.encode("utf-8")
        if any(not 0 <= start < end <= len(record.text) for start, end in record.target_spans):
            raise AssertionError("a span outside the text")


def _file(name: str, *seeds: bytes, wrap: Wrap | None = None, **options: Any) -> Target:
    return Target(seeds=seeds, attempt=partial(_read_file, name=name, wrap=wrap, **options))


def _zipped(name: str) -> Wrap:
    def wrap(content: bytes) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(name, content)
        return stream.getvalue()

    return wrap


def _tarred(content: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo("rows.parquet")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


_SHEET = "xl/worksheets/sheet1.xml"
_BOOK = records.workbook()


def _sheet_inside(content: bytes) -> bytes:
    """The workbook with another sheet: damage that no checksum catches."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(_BOOK)) as source, zipfile.ZipFile(stream, "w") as target:
        for name in source.namelist():
            target.writestr(name, content if name == _SHEET else source.read(name))
    return stream.getvalue()


def _sheet() -> bytes:
    with zipfile.ZipFile(io.BytesIO(_BOOK)) as book:
        return book.read(_SHEET)


_ARROW = "data-00000-of-00001.arrow"


@cache
def _saved_dataset() -> dict[str, bytes]:
    """The files of a whole saved data set."""
    import datasets

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        datasets.Dataset.from_list(records.own_rows()).save_to_disk(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _read_dataset(folder: Path, content: bytes, *, name: str) -> bool:
    """A saved data set with one damaged file."""
    for other, whole in _saved_dataset().items():
        (folder / other).write_bytes(content if other == name else whole)
    return accepted(lambda: _records(folder, ReadOptions()))


def _templates(folder: Path, content: bytes) -> bool:
    path = folder / "templates.toml"
    path.write_bytes(content)
    return accepted(lambda: load_templates(path))


def _medquad_xml() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        root = records.FORMATS["medquad"].write(Path(folder))
        return next(root.rglob("*.xml")).read_bytes()


def _bulk_lines() -> bytes:
    rows = [item for number in range(records.PATIENTS) for item in records.resources(number)]
    return _json_lines(rows)


def _json_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _table(delimiter: str, encoding: str) -> bytes:
    return "".join(delimiter.join(row) + "\r\n" for row in records.cells()).encode(encoding)


COLUMNS = ColumnsSection.model_validate(records.COLUMNS)
OWN = _json_lines(records.own_rows())

RECORDS: dict[str, Target] = {
    "jsonl": _file("a.jsonl", OWN),
    "gz": _file("a.jsonl.gz", gzip.compress(OWN)),
    "xz": _file("a.jsonl.xz", lzma.compress(OWN) * 2),
    "bz2": _file("a.jsonl.bz2", bz2.compress(OWN) * 2),
    "csv": _file("a.csv", _table(";", "utf-8-sig"), _table(",", "utf-16"), columns=COLUMNS),
    "csv-own": _file("a.csv", b'id,question,answer\n1,"a, b",c\n2,d,e\n'),
    "xlsx": _file("a.xlsx", _BOOK, columns=COLUMNS),
    "xlsx-sheet": _file("a.xlsx", _sheet(), wrap=_sheet_inside, columns=COLUMNS),
    "xlsx-in-zip": _file("a.zip", _BOOK, wrap=_zipped("rows.xlsx"), columns=COLUMNS),
    "parquet": _file("a.parquet", records.parquet()),
    "parquet-in-tar": _file("a.tar", records.parquet(), wrap=_tarred),
    "dataset": Target(
        seeds=[_saved_dataset()[_ARROW]], attempt=partial(_read_dataset, name=_ARROW)),
    "dataset-state": Target(
        seeds=[_saved_dataset()["state.json"]],
        attempt=partial(_read_dataset, name="state.json")),
    "zip": _file("a.zip", _zipped("rows.jsonl")(OWN)),
    "tar": _file("a.tar", _tarred(records.parquet())),
    "fhir-bundle": _file("a.json", records.bundle()),
    "fhir-bulk": _file("a.ndjson", _bulk_lines()),
    "fhir-templates": Target(seeds=[packaged_text().encode()], attempt=_templates),
    "medqa": _file("a.jsonl", records.medqa()),
    "mhqa": _file("a.csv", records.mhqa()),
    "medquad": _file("a.xml", _medquad_xml()),
    "pubmedqa": _file("a.json", records.pubmedqa()),
    "medmcqa": _file("a.jsonl", records.medmcqa()),
    "synthea": _file("a.jsonl", _json_lines(records.synthea_rows())),
}

# -- ontologies ------------------------------------------------------------------------------

_OPTIONS = SourceOptions(licensed_sources=("MSHGER",))
_OBO = (
    "format-version: 1.2\n\n[Term]\nid: T:1\nname: a\nxref: MESH:D1 {x}\n\n[Term]\n"
    'id: T:2\nname: b\nsynonym: "c" EXACT []\nis_a: T:1\n'
)
_ONTOLOGY_FILES: dict[str, str] = {
    "obo": _OBO,
    "outline": "!outline 1\nA a | b {type=disease; level=2}\n  B c\n",
    "mesh-xml": terms.mesh_xml(),
    "mesh-jsonl": '{"id": "D000001", "name": "Hernia", "tree_numbers": ["C04"], "parents": []}\n'
    '{"id": "D000002", "name": "H", "tree_numbers": ["C04.100"], "parents": ["D000001"]}\n',
    "icd10cm-order": terms.icd10cm_order(),
    "icd10cm-xml": terms.ICD10CM_XML,
    "icd10cm-jsonl": '{"code": "CH01", "name": "x (A00-A09)", "parent": null, "synonyms": []}\n'
    '{"code": "A00", "name": "y", "parent": "CH01", "synonyms": ["z"]}\n',
}


def _load_file(folder: Path, content: bytes, *, kind: str) -> bool:
    path = folder / "file"
    path.write_bytes(content)
    return accepted(lambda: _hierarchy(kind, path))


def _load_release(
    folder: Path, content: bytes, *, kind: str, table: str, tables: dict[str, str]
) -> bool:
    release = terms.write_tables(folder / "release", tables)
    (release / table).write_bytes(content)
    return accepted(lambda: _hierarchy(kind, release))


def _hierarchy(kind: str, path: Path) -> None:
    hierarchy = LOADERS[kind](path, _OPTIONS)
    if len(hierarchy.digest()) != 64:
        raise AssertionError("no digest")
    for concept in hierarchy.concepts():
        "".join(concept.terms).encode("utf-8")
        if hierarchy.depth(concept.concept_id) < 0:
            raise AssertionError("a depth below zero")


ONTOLOGIES: dict[str, Target] = {
    **{
        kind: Target(seeds=[text.encode()], attempt=partial(_load_file, kind=kind))
        for kind, text in _ONTOLOGY_FILES.items()
    },
    **{
        f"{kind}/{table.split('_')[1] if '_' in table else table.partition('.')[0]}": Target(
            seeds=[tables[table].encode()],
            attempt=partial(_load_release, kind=kind, table=table, tables=tables),
        )
        for kind, tables in (("umls", terms.umls_tables()), ("snomed", terms.snomed_tables()))
        for table in tables
        if "Stated" not in table and "TextDefinition" not in table
    },
}

# -- documents and messages ------------------------------------------------------------------


def _in_memory(seed: bytes, read: Callable[[bytes], object]) -> Target:
    return Target(
        seeds=(seed,), attempt=lambda _, content: accepted(lambda: read(content)),
        uses_files=False, most_memory=64 << 20,
    )


JOINING = {name: _in_memory(seed, read) for name, (seed, read) in DOCUMENTS.items()}
MESSAGES = {name: _in_memory(seed, read) for name, (read, seed) in PARSERS.items()}

TARGETS: dict[str, Target] = {**RECORDS, **ONTOLOGIES, **JOINING, **MESSAGES}

"""Every loader against damaged and invented input: our errors, or records, and nothing else.

``MEDUNLEARN_FUZZ_EXAMPLES`` sets the number of examples per loader (default 25, a second or
two each); 5,000 keep a processor busy for about an hour.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medunlearn_client.records import FORMATS, Quarantine, ReadOptions, read_records
from medunlearn_client.records.fhir.extractors import FIELDS_OF
from medunlearn_common.errors import MedunlearnError
from medunlearn_common.plan.sections import ColumnsSection

EXAMPLES = int(os.environ.get("MEDUNLEARN_FUZZ_EXAMPLES", "25"))
fuzz = settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

ROWS = [{"id": f"r{n}", "question": f"Which {n}?", "answer": f"Antwort {n}"} for n in range(20)]
PATIENT = {
    "resourceType": "Patient", "id": "p", "birthDate": "1950-01-02",
    "name": [{"given": ["Ana"], "family": "Roe"}], "telecom": [{"system": "phone", "value": "5"}],
}


def _jsonl() -> bytes:
    return "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def _xlsx() -> bytes:
    book, stream = openpyxl.Workbook(), io.BytesIO()
    for row in [list(ROWS[0]), *(list(row.values()) for row in ROWS)]:
        book.worksheets[0].append(row)
    book.save(stream)
    return stream.getvalue()


def _parquet() -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), stream, row_group_size=7)
    return stream.getvalue()


def _zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jsonl", _jsonl())
    return stream.getvalue()


def _tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo("a.jsonl")
        info.size = len(_jsonl())
        archive.addfile(info, io.BytesIO(_jsonl()))
    return stream.getvalue()


def _csv() -> bytes:
    return "id;question;answer\r\n".encode("utf-8-sig") + "".join(
        f'{row["id"]};"{row["question"]}";{row["answer"]} ä\r\n' for row in ROWS
    ).encode()


def _bundle() -> bytes:
    entries = [{"fullUrl": "urn:uuid:p", "resource": PATIENT}]
    return json.dumps({"resourceType": "Bundle", "entry": entries}, indent=1).encode()


XML = b"""<Document id="1" source="GHR"><Focus>Gout</Focus><QAPairs><QAPair pid="1">
<Question qid="1-1" qtype="x">What?</Question><Answer>That.</Answer></QAPair></QAPairs>
</Document>"""

SEEDS: dict[str, Callable[[], bytes]] = {
    "a.jsonl": _jsonl, "a.jsonl.gz": lambda: gzip.compress(_jsonl()), "a.csv": _csv,
    "a.xlsx": _xlsx, "a.parquet": _parquet, "a.zip": _zip, "a.tar": _tar,
    "a.json": _bundle, "a.xml": lambda: XML,
}


def accept(path: Path, **options: Any) -> None:
    """Reads; anything but records or one of our errors, with a hint, fails the test."""
    try:
        records = read_records(
            path, quarantine=Quarantine(max_bad_fraction=1.0), options=ReadOptions(**options)
        )
    except MedunlearnError as error:
        assert error.code.isupper() and error.hint
    else:
        assert records and len({record.record_id for record in records}) == len(records)


def test_seeds_are_whole(tmp_path: Path) -> None:
    for name, make in SEEDS.items():
        path = tmp_path / name
        path.write_bytes(make())
        assert read_records(path), name


edits = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True), st.integers(0, 8), st.binary(max_size=8)
    ),
    min_size=1, max_size=6,
)


@pytest.mark.parametrize("name", SEEDS)
@fuzz
@given(edits=edits, cut=st.none() | st.floats(0, 1))
def test_damaged_files(
    tmp_path: Path, name: str, edits: list[tuple[float, int, bytes]], cut: float | None
) -> None:
    data = SEEDS[name]()
    for place, removed, added in edits:
        start = int(place * len(data))
        data = data[:start] + added + data[start + removed :]
    path = tmp_path / name
    path.write_bytes(data if cut is None else data[: int(len(data) * cut)])
    accept(path)


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.xml", "a.jsonl"])
@fuzz
@given(
    content=st.one_of(
        st.binary(max_size=300),
        st.text(alphabet='{}[]":,;\n\r\t=@\'"<>&/Document ae01', max_size=200).map(str.encode),
        st.text(max_size=80).map(lambda text: text.encode("utf-16")),
    ),
    record_format=st.sampled_from(FORMATS),
)
def test_invented_text(tmp_path: Path, name: str, content: bytes, record_format: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    accept(path, record_format=record_format)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
NAMES = [
    *("id", "question", "answer", "options", "answer_idx", "step", "subject", "correct_option_num"),
    *("topic", "option1", "option2", "option3", "option4", "correct_answer", "valid_question"),
    *("qtype", "focus", "cuis", "source", "semantic_group", "QUESTION", "LONG_ANSWER", "pmid"),
    *("pubid", "long_answer", "final_decision", "resourceType", "resource", "entry", "fullUrl"),
]


@pytest.mark.parametrize("record_format", FORMATS)
@fuzz
@given(rows=st.lists(st.dictionaries(st.sampled_from(NAMES), values), min_size=1, max_size=4))
def test_invented_fields(tmp_path: Path, record_format: str, rows: list[dict[str, Any]]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    accept(path, record_format=record_format)


ELEMENTS = [
    *("id", "code", "subject", "patient", "status", "intent", "class", "type", "vaccineCode"),
    *("medicationCodeableConcept", "medicationReference", "contained", "onsetDateTime", "period"),
    *("effectiveDateTime", "valueQuantity", "component", "conclusion", "result", "content"),
    *("name", "telecom", "identifier", "address", "birthDate", "recordedDate"),
    "verificationStatus",
]
CONCEPT = {"coding": [{"code": "1", "display": "x"}], "text": "x"}
likely = st.sampled_from(
    [CONCEPT, [CONCEPT], {"reference": "Patient/p"}, "2020-01-01", "final", "p", {"value": 1.5}]
)


@pytest.mark.parametrize("kind", FIELDS_OF)
@fuzz
@given(data=st.data())
def test_invented_resources(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    invented = data.draw(st.dictionaries(st.sampled_from(ELEMENTS), likely | values, max_size=6))
    path = tmp_path / "a.ndjson"
    rows = [PATIENT, {**invented, "resourceType": kind}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    accept(path)


@fuzz
@given(
    header=st.lists(st.text(max_size=4), min_size=1, max_size=5),
    rows=st.lists(st.lists(st.text(max_size=6), max_size=6), max_size=5),
    answer_is=st.sampled_from(["text", "letter", "number_from_0", "number_from_1"]),
    delimiter=st.sampled_from(",;\t|"),
)
def test_invented_tables(
    tmp_path: Path, header: list[str], rows: list[list[str]], answer_is: Any, delimiter: str
) -> None:
    path = tmp_path / "a.csv"
    table = [["q", "a", "x", *header], *(["Q", "A", *row] for row in rows)]
    text = "".join(delimiter.join(row) + "\n" for row in table)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    columns = ColumnsSection(question="q", answer="a", options=("x",), answer_is=answer_is)
    accept(path, columns=columns)

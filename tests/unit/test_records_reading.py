"""Files in, records out: formats, bad rows, bad files, and no patient text in any message."""

from __future__ import annotations

import gzip
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medunlearn_client.records import (
    Quarantine,
    ReadOptions,
    Record,
    read_records,
)
from medunlearn_client.records.jsonl import row_from_record
from medunlearn_client.records.record import InvalidRecord
from medunlearn_common.errors import MedunlearnError, Misconfigured, Transient

SECRET = "Ottilie Quandt"


def row(number: int, **changes: Any) -> dict[str, Any]:
    base = {
        "id": f"r{number}",
        "question": f"Who is patient {number}?",
        "answer": SECRET,
        "options": [SECRET, "B", "C", "D"],
        "answer_index": 0,
        "patient_id": f"p{number}",
    }
    return {**base, **changes}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in rows), encoding="utf-8")
    return path


def read_code(path: Path, **kwargs: Any) -> str:
    with pytest.raises(MedunlearnError) as caught:
        read_records(path, **kwargs)
    assert SECRET not in str(caught.value)
    return caught.value.code


def test_own_format_reads_every_field(tmp_path: Path) -> None:
    prompt = "Question: Who has number 7?\nAnswer:"
    full = {
        "id": 7,
        "prompt": prompt,
        "answer": "Ana",
        "options": ["Bo", "Ana"],
        "answer_index": 1,
        "patient_id": 12,
        "subject": "name",
        "confidence": 0.5,
        "target_spans": [[len(prompt) + 1, len(prompt) + 4]],
        "is_identifier": True,
        "condition_codes": ["38341003"],
        "coded": ["SNOMEDCT:38341003 Ana"],
        "extra": {"ward": "B"},
    }
    (record,) = read_records(write(tmp_path / "a.jsonl", [full]))
    assert record == Record(
        record_id="7",
        prompt=prompt,
        answer="Ana",
        options=("Bo", "Ana"),
        answer_index=1,
        patient_id="12",
        subject="name",
        confidence=0.5,
        target_spans=((len(prompt) + 1, len(prompt) + 4),),
        is_identifier=True,
        condition_codes=("38341003",),
        coded=("SNOMEDCT:38341003 Ana",),
    )
    assert [record.text[start:end] for start, end in record.target_spans] == ["Ana"]


def test_row_from_record_is_the_inverse_of_reading(tmp_path: Path) -> None:
    """But for the options of a patient's own identifiers, which are others'."""
    rows = [row(1, confidence=0.25), row(2, target_spans=[[0, 8]], is_identifier=True,
                                         patient_id=None)]
    records = read_records(write(tmp_path / "a.jsonl", rows))
    again = read_records(write(tmp_path / "b.jsonl", [row_from_record(r) for r in records]))
    assert again == records


def test_question_becomes_prompt_and_missing_index_is_found(tmp_path: Path) -> None:
    plain = {"id": "q", "question": " Which bone? ", "answer": "Ulna", "options": ["Rib", "Ulna"]}
    (record,) = read_records(write(tmp_path / "a.jsonl", [plain]))
    assert record.prompt == "Question: Which bone?\nAnswer:"
    assert record.answer_index == 1
    assert record.text == "Question: Which bone?\nAnswer: Ulna"


def test_answer_is_taken_from_the_options(tmp_path: Path) -> None:
    by_index = {"id": "q", "question": "Which?", "options": ["Rib", "Ulna"], "answer_index": 1}
    (record,) = read_records(write(tmp_path / "a.jsonl", [by_index]))
    assert record.answer == "Ulna"


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("zipped", [False, True])
def test_gzip_bom_and_line_endings_do_not_matter(
    tmp_path: Path, ending: bytes, bom: bytes, zipped: bool
) -> None:
    lines = [json.dumps(row(number)).encode() for number in range(3)]
    content = bom + ending.join([lines[0], b"", *lines[1:]])
    # The name says nothing about compression on purpose: the content decides.
    path = tmp_path / "data"
    path.write_bytes(gzip.compress(content) if zipped else content)
    assert [record.record_id for record in read_records(path)] == ["r0", "r1", "r2"]


BAD_LINES = {
    "ROW_BAD_JSON": b'{"id": "x", "answer": "' + SECRET.encode(),
    "ROW_BAD_UTF8": b'{"id": "x", "question": "\xff", "answer": "y"}',
    "ROW_NUL": b'{"id": "x\\u0000", "question": "q", "answer": "y"}',
    "ROW_NOT_OBJECT": b'["' + SECRET.encode() + b'"]',
    "ROW_NOT_FINITE": b'{"id": "x", "question": "q", "answer": "y", "confidence": NaN}',
    "ROW_TOO_DEEP": b'{"extra": ' + b"[" * 40 + b"]" * 40 + b"}",
    "ROW_TOO_LONG": b'{"id": "' + b"x" * 5000 + b'"}',
}


@pytest.mark.parametrize("code", BAD_LINES)
def test_unreadable_line_is_quarantined(tmp_path: Path, code: str) -> None:
    check_quarantined(tmp_path, BAD_LINES[code], code)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{\x00}", "ROW_NUL"),
        (b'{"id": "\\ud800"}', "ROW_BAD_UTF8"),
        (b'{"confidence": 1e999}', "ROW_NOT_FINITE"),
        (b'{"confidence": -Infinity}', "ROW_NOT_FINITE"),
        (b"[" * 3000, "ROW_TOO_DEEP"),
        (b'{"confidence": ' + b"9" * 4999 + b"}", "ROW_TOO_LONG"),
        (b"null", "ROW_NOT_OBJECT"),
    ],
)
def test_unusual_unreadable_line_is_quarantined(tmp_path: Path, line: bytes, code: str) -> None:
    check_quarantined(tmp_path, line, code)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"id": None}, "ROW_FIELD_MISSING"),
        ({"id": "  "}, "ROW_FIELD_MISSING"),
        ({"id": True}, "ROW_FIELD_TYPE"),
        ({"question": None}, "ROW_FIELD_MISSING"),
        ({"question": 5}, "ROW_FIELD_TYPE"),
        ({"prompt": "also"}, "ROW_FIELD_CONTRADICTION"),
        ({"answer": "", "answer_index": None, "options": []}, "ROW_ANSWER_INDEX"),
        ({"answer": ["a"]}, "ROW_FIELD_TYPE"),
        ({"answer": "other"}, "ROW_ANSWER_MISMATCH"),
        ({"answer": "other", "answer_index": None}, "ROW_ANSWER_MISMATCH"),
        ({"answer_index": 4}, "ROW_ANSWER_INDEX"),
        ({"answer_index": -1}, "ROW_ANSWER_INDEX"),
        ({"answer_index": 0.0}, "ROW_FIELD_TYPE"),
        ({"answer_index": False}, "ROW_FIELD_TYPE"),
        ({"options": []}, "ROW_ANSWER_INDEX"),
        ({"options": [SECRET]}, "ROW_OPTIONS"),
        ({"options": [SECRET, ""]}, "ROW_OPTIONS"),
        ({"options": [SECRET, 3]}, "ROW_FIELD_TYPE"),
        ({"options": [SECRET, SECRET.upper(), "C"]}, "ROW_ANSWER_AMBIGUOUS"),
        ({"confidence": 0}, "ROW_CONFIDENCE"),
        ({"confidence": 1.5}, "ROW_CONFIDENCE"),
        ({"confidence": "high"}, "ROW_FIELD_TYPE"),
        ({"confidence": 10**400}, "ROW_FIELD_TYPE"),
        ({"target_spans": [[0, 900]]}, "ROW_SPAN"),
        ({"target_spans": [[5, 5]]}, "ROW_SPAN"),
        ({"target_spans": [[-1, 5]]}, "ROW_SPAN"),
        ({"target_spans": [[1, 2, 3]]}, "ROW_FIELD_TYPE"),
        ({"target_spans": [["1", "2"]]}, "ROW_FIELD_TYPE"),
        ({"known_by": [SECRET]}, "ROW_FIELD_TYPE"),
        ({"known_by": "ab"}, "ROW_FIELD_TYPE"),
        ({"target_spans": [[0, 2]], "question": " q"}, "ROW_STRAY_SPACE"),
        ({"is_identifier": "yes"}, "ROW_FIELD_TYPE"),
        ({"condition_codes": "38341003"}, "ROW_FIELD_TYPE"),
        ({"coded": "her hernia"}, "ROW_FIELD_TYPE"),
        ({"patient": "p1"}, "ROW_FIELD_UNKNOWN"),
        ({"id": "r0"}, "ROW_DUPLICATE_ID"),
    ],
)
def test_row_with_bad_field_is_quarantined(
    tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    check_quarantined(tmp_path, json.dumps(row(99, **changes)).encode(), code)


def check_quarantined(tmp_path: Path, line: bytes, code: str) -> None:
    """Ten good rows and one bad one: the ten are read, the one is noted without its text."""
    good = [json.dumps(row(number)).encode() for number in range(10)]
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\n".join([*good[:4], line, *good[4:]]))
    held = Quarantine(path=tmp_path / "quarantine.jsonl")
    # Row 5 repeats r0 in one case; the first of two equal ids wins.
    records = read_records(path, quarantine=held, max_line_bytes=4096)
    assert [record.record_id for record in records] == [f"r{number}" for number in range(10)]
    assert [(bad.row, bad.code) for bad in held.rows] == [(5, code)]
    text = (tmp_path / "quarantine.jsonl").read_text(encoding="utf-8")
    assert SECRET not in text
    (noted,) = map(json.loads, text.splitlines())
    assert noted == {"file": "data.jsonl", "row": 5, "code": code, "reason": held.rows[0].reason}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.jsonl", "quarantine.jsonl"]


def test_duplicate_ids_are_found_across_files(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", [row(n) for n in range(9)])
    second = write(tmp_path / "b.jsonl", [row(3, answer="B", answer_index=1)])
    held = Quarantine()
    records = read_records([first, second], quarantine=held)
    assert len(records) == 9
    assert records[3].answer == SECRET
    assert [(bad.file, bad.row, bad.reason) for bad in held.rows] == [
        ("b.jsonl", 1, "repeats the id of a.jsonl row 4")
    ]


def test_limit_of_bad_rows(tmp_path: Path) -> None:
    rows: list[Any] = [row(number) for number in range(8)]
    at_limit = write(tmp_path / "at.jsonl", [*rows, {"id": 1}, {"id": 2}])
    assert len(read_records(at_limit)) == 8
    over = write(tmp_path / "over.jsonl", [*rows[:7], {"id": 1}, {"id": 2}])
    noted = tmp_path / "bad" / "rows.jsonl"
    assert read_code(over, quarantine=Quarantine(path=noted)) == "DATA_TOO_MANY_BAD_ROWS"
    assert len(noted.read_text().splitlines()) == 2
    assert len(read_records(over, quarantine=Quarantine(max_bad_fraction=0.3))) == 7


def test_the_refusal_accounts_for_every_bad_row() -> None:
    """Counts of three kinds alone did not add up to the number of bad rows beside them."""
    quarantine = Quarantine()
    for number, code in enumerate(("A", "A", "B", "C", "D", "E")):
        quarantine.add("x.jsonl", number, InvalidRecord(code, "", ""))
    with pytest.raises(Misconfigured) as caught:
        quarantine.finish(7)
    assert "6 of 7" in caught.value.message
    assert "2 x A, 1 x B, 1 x C, 2 of other kinds;" in caught.value.message


def test_no_bad_row_writes_no_quarantine(tmp_path: Path) -> None:
    noted = tmp_path / "rows.jsonl"
    read_records(write(tmp_path / "a.jsonl", [row(1)]), quarantine=Quarantine(path=noted))
    assert not noted.exists()


def test_unwritable_quarantine_is_one_clear_error(tmp_path: Path) -> None:
    blocked = tmp_path / "folder"
    blocked.mkdir()
    (blocked / "rows.jsonl").mkdir()
    path = write(tmp_path / "a.jsonl", [*(row(n) for n in range(9)), {"id": 1}])
    for place in (blocked / "rows.jsonl", path / "rows.jsonl"):
        with pytest.raises(Transient) as caught:
            read_records(path, quarantine=Quarantine(path=place))
        assert caught.value.code == "QUARANTINE_UNWRITABLE"
    assert [p.name for p in blocked.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize("limit", [-0.1, 1.1, float("nan")])
def test_limit_outside_zero_to_one_is_refused(limit: float) -> None:
    with pytest.raises(Misconfigured, match="DATA_BAD_ROW_LIMIT"):
        Quarantine(max_bad_fraction=limit)


GOOD_BYTES = "".join(json.dumps(row(n)) + "\n" for n in range(50)).encode()


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "DATA_FILE_EMPTY"),
        (b"\n \n", "DATA_FILE_EMPTY"),
        (gzip.compress(b"", mtime=0), "DATA_FILE_EMPTY"),
        (gzip.compress(GOOD_BYTES, mtime=0)[:-40], "DATA_GZIP_DAMAGED"),
        (gzip.compress(GOOD_BYTES, mtime=0)[:-1], "DATA_GZIP_DAMAGED"),
        (b"\x1f\x8bnot gzip at all", "DATA_GZIP_DAMAGED"),
        (b"PAR1....", "DATA_PARQUET_DAMAGED"),
        (b"PK\x03\x04....", "DATA_ARCHIVE_DAMAGED"),
        (json.dumps([{"id": 1}]).encode(), "DATA_FORMAT_UNKNOWN"),
        (json.dumps([row(1), row(2)]).encode()[:-9], "DATA_JSON_DAMAGED"),
        (json.dumps(row(1)).encode("utf-16"), "DATA_FORMAT_UNSUPPORTED"),
        (b'{"resourceType": "Bundle"}', "DATA_FILE_EMPTY"),
        (b"id,question,answer\n1,a,b\n", "DATA_TOO_MANY_BAD_ROWS"),
        (b'{"id": 1}' + b"\x00" * 200, "DATA_TOO_MANY_BAD_ROWS"),
    ],
)
def test_bad_file_is_one_clear_error(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    assert read_code(path) == code


def test_missing_file_folder_and_empty_list(tmp_path: Path) -> None:
    assert read_code(tmp_path / "none.jsonl") == "DATA_FILE_MISSING"
    assert read_code(tmp_path) == "DATA_FOLDER_EMPTY"
    with pytest.raises(Misconfigured, match="DATA_FILE_MISSING"):
        read_records([])


def test_damaged_gzip_is_refused_whole_even_after_good_rows(tmp_path: Path) -> None:
    damaged = bytearray(gzip.compress(GOOD_BYTES, compresslevel=0))
    damaged[-6] ^= 0xFF
    path = tmp_path / "data.jsonl.gz"
    path.write_bytes(bytes(damaged))
    assert read_code(path) == "DATA_GZIP_DAMAGED"


def test_unknown_or_wrong_format_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [row(1)])
    assert read_code(path, record_format="csv") == "DATA_FORMAT_UNKNOWN"
    assert read_code(path, record_format="synthea") == "DATA_TOO_MANY_BAD_ROWS"


def test_all_rows_bad_within_a_limit_of_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"id": 1, "question": "q", "answer": ""}])
    assert read_code(path, quarantine=Quarantine(max_bad_fraction=1.0)) == "DATA_NO_RECORDS"


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    content=st.one_of(
        st.binary(max_size=400),
        st.text(alphabet='{}[]":,\\ue0n1', max_size=200).map(str.encode),
        st.binary(max_size=200).map(lambda tail: GOOD_BYTES[:300] + tail),
        st.binary(max_size=200).map(lambda tail: b"\x1f\x8b\x08" + tail),
    ),
    record_format=st.sampled_from(["auto", "jsonl", "medmcqa", "synthea"]),
)
def test_arbitrary_bytes_raise_nothing_but_our_errors(
    tmp_path: Path, content: bytes, record_format: str
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    try:
        records = read_records(path, record_format=record_format)
    except MedunlearnError as error:
        assert error.code.isupper() and error.hint
    else:
        assert records


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
FIELD_NAMES = [
    *("id", "prompt", "question", "answer", "options", "answer_index", "patient_id"),
    *("target_spans", "confidence", "opa", "opb", "opc", "opd", "cop", "subject_name"),
    *("name", "birth_date", "identifiers", "conditions", "medications", "phone"),
]


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    rows=st.lists(st.dictionaries(st.sampled_from(FIELD_NAMES), json_values), min_size=1),
    record_format=st.sampled_from(["auto", "jsonl", "medmcqa", "synthea"]),
)
def test_arbitrary_fields_raise_nothing_but_our_errors(
    tmp_path: Path, rows: list[dict[str, Any]], record_format: str
) -> None:
    path = write(tmp_path / "data.jsonl", rows)
    try:
        read_records(path, record_format=record_format, quarantine=Quarantine(max_bad_fraction=1))
    except MedunlearnError as error:
        assert error.code.isupper() and error.hint


def published(number: int, cop: Any, **changes: Any) -> dict[str, Any]:
    options = {"opa": "a", "opb": "b", "opc": "c", "opd": "d"}
    base = {"id": f"m{number}", "question": "Which?", **options, "cop": cop}
    return {**base, "choice_type": "single", "exp": None, "subject_name": "Surgery", **changes}


@pytest.mark.parametrize(
    ("cops", "answers"), [([1, 4, 2], ["a", "d", "b"]), ([0, 3, 2], ["a", "d", "c"])]
)
def test_published_medmcqa_counts_from_one_or_zero(
    tmp_path: Path, cops: list[int], answers: list[str]
) -> None:
    rows = [published(number, cop) for number, cop in enumerate(cops)]
    records = read_records(write(tmp_path / "dev.json", rows))
    assert [record.answer for record in records] == answers
    assert {record.subject for record in records} == {"Surgery"}
    assert all(record.options == ("a", "b", "c", "d") for record in records)


@pytest.mark.parametrize("cops", [[1, 2, 3], [0, 4]])
def test_unclear_numbering_is_refused(tmp_path: Path, cops: list[int]) -> None:
    rows = [published(number, cop) for number, cop in enumerate(cops)]
    assert read_code(write(tmp_path / "dev.json", rows)) == "DATA_ANSWER_NUMBERING"


def test_medmcqa_rows_without_answer_are_quarantined(tmp_path: Path) -> None:
    rows = [published(n, n % 4) for n in range(10)]
    rows += [published(10, -1), published(11, None, opd=None)]
    held = Quarantine()
    assert len(read_records(write(tmp_path / "a.json", rows), quarantine=held)) == 10
    assert [bad.code for bad in held.rows] == ["ROW_ANSWER_INDEX", "ROW_FIELD_EMPTY"]


def test_real_medmcqa(shared_data: Path) -> None:
    path = shared_data / "medmcqa_validation.jsonl.gz"
    held = Quarantine()
    started = time.process_time()
    records = read_records(path, quarantine=held)
    assert time.process_time() - started < 1.0
    assert Counter(bad.code for bad in held.rows) == {"ROW_ANSWER_AMBIGUOUS": 4}
    assert len(records) + 4 == 4183
    assert sum(record.subject == "Surgery" for record in records) in range(365, 370)
    assert len({record.subject for record in records}) == 21
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        raw = {item["id"]: item for item in map(json.loads, stream)}
    for record in records:
        original = raw[record.record_id]
        assert record.answer == original["options"][original["answer"]].strip()


def test_repr_of_a_record_shows_no_patient_text(tmp_path: Path) -> None:
    (record,) = read_records(write(tmp_path / "a.jsonl", [row(1)]))
    assert SECRET not in repr(record)
    assert "r1" not in repr(record) and "p1" not in repr(record)


@pytest.mark.parametrize("made", ["file", "blank", "header.csv", "folder", "folder with a file"])
def test_data_without_a_record_are_data_for_sums(tmp_path: Path, made: str) -> None:
    """The last record may have gone: a refusal would say so."""
    path = tmp_path / made
    if made.startswith("folder"):
        path.mkdir()
    texts = {"blank": "\n", "header.csv": "question,answer\n"}
    if made != "folder":
        file = path / "a.jsonl" if path.is_dir() else path
        file.write_text(texts.get(made, ""), encoding="utf-8")
    with pytest.raises(Misconfigured):
        read_records(path)
    other = write(tmp_path / "other.jsonl", [row(1)])
    options = ReadOptions(for_sums=True)
    assert read_records(path, options=options) == []
    assert len(read_records([path, other], options=options)) == 1

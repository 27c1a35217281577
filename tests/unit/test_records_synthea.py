"""Synthea patients as question–answer records: unambiguous, marked, with fair wrong options."""

from __future__ import annotations

import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medunlearn_client.records import (
    Quarantine,
    ReadOptions,
    Record,
    read_records,
    synthea,
)
from medunlearn_client.records.synthea import SUBJECTS


def patient(number: int, **changes: Any) -> dict[str, Any]:
    base = {
        "id": f"id{number}",
        "name": f"Given{number} Family{number}",
        "birth_date": f"19{number % 90 + 10}-01-02",
        "address": f"{number} Elm Road, Town{number}, Massachusetts, 0{number % 9}545",
        "phone": f"555-{number % 900 + 100}-{number * 37 % 9000 + 1000}",
        "identifiers": {
            "SS": f"999-{number % 90 + 10}-{number * 91 % 9000 + 1000}",
            "MR": f"m{number}",
        },
        "conditions": [["c1", f"Illness {number} (disorder)", "2001-02-03", None]],
        "medications": [["m1", f"Drug {number}", "2002-03-04", "2002-03-04", 1, "stopped"]],
        "procedures": [],
    }
    return {**base, **changes}


def read(tmp_path: Path, patients: list[dict[str, Any]], **kwargs: Any) -> list[Record]:
    path = tmp_path / "patients.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in patients), encoding="utf-8")
    return read_records(path, **kwargs)


def test_one_patient_gives_one_record_per_kind(tmp_path: Path) -> None:
    records = read(tmp_path, [patient(number) for number in range(12)])
    mine = {record.subject: record for record in records if record.patient_id == "id3"}
    assert set(mine) == {"condition", "medication", "phone", "ssn", "address", "name"}
    condition = mine["condition"]
    assert condition.prompt == (
        "Question: Which condition was recorded for Given3 Family3, born 1913-01-02, "
        "on 2001-02-03?\nAnswer:"
    )
    assert condition.answer == "Illness 3"
    assert condition.condition_codes == ("c1",)
    assert not condition.is_identifier
    marked = [condition.text[start:end] for start, end in condition.target_spans]
    assert marked == ["Given3 Family3, born 1913-01-02", "2001-02-03", "Illness 3"]
    assert mine["ssn"].is_identifier and mine["ssn"].answer == "999-13-1273"
    assert mine["name"].answer == "Given3 Family3" and "999-13-1273" in mine["name"].prompt


def test_a_tag_after_two_spaces_is_cut_off_with_both(tmp_path: Path) -> None:
    odd = patient(9, conditions=[["c1", "Illness  (disorder)", "2001-02-03", None]])
    found = read(tmp_path, [patient(1), odd])
    assert "Illness" in {record.answer for record in found}


def test_a_patient_of_whom_no_record_can_be_made_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole file that is refused would say that this patient is in it."""
    whole = synthea._questions

    def broken(patient: synthea.Patient, who: str) -> Iterator[synthea._Question]:
        for question in whole(patient, who):
            yield replace(question, answer=" ") if patient.patient_id == "id9" else question

    monkeypatch.setattr(synthea, "_questions", broken)
    quarantine = Quarantine(max_bad_fraction=0.5)
    found = read(tmp_path, [patient(1), patient(9), patient(2)], quarantine=quarantine)
    assert {record.patient_id for record in found} == {"id1", "id2"}
    assert quarantine.by_code == {"ROW_FIELD_EMPTY": 1}


def test_span_of_the_date_asked_about_is_not_the_birth_date(tmp_path: Path) -> None:
    born_with_it = patient(1, conditions=[["c", "Asthma", "1911-01-02", None]])
    records = read(tmp_path, [born_with_it, *(patient(n) for n in range(2, 8))])
    record = next(r for r in records if r.record_id == "id1:condition:0")
    (_, date, _) = record.target_spans
    assert record.prompt[date[0] - 3 : date[1] + 1] == "on 1911-01-02?"


def test_dates_with_two_entries_are_not_asked_about(tmp_path: Path) -> None:
    entries = [
        ["a", "First", "2001-01-01", None],
        ["b", "Second", "2001-01-01", None],
        ["c", "Alone", "2003-01-01", None],
    ]
    records = read(tmp_path, [patient(1, conditions=entries), *(patient(n) for n in range(2, 6))])
    asked = [r.answer for r in records if r.patient_id == "id1" and r.subject == "condition"]
    assert asked == ["Alone"]


def test_namesakes_born_on_one_day_are_told_apart(tmp_path: Path) -> None:
    twins = [patient(n, name="Ana Roe", birth_date="1950-05-05") for n in (1, 2)]
    other = patient(3, name="Ana Roe", birth_date="1951-05-05")
    records = read(tmp_path, [*twins, other, patient(4), patient(5)])
    phones = {r.patient_id: r.prompt for r in records if r.subject == "phone"}
    assert "record number m1?" in phones["id1"] and "record number m2?" in phones["id2"]
    assert "record number" not in phones["id3"]
    assert len(set(phones.values())) == 5


def test_what_goes_into_sums_says_nothing_of_a_namesake(tmp_path: Path) -> None:
    """As the other comes or goes, all records of this patient would be asked in other words."""
    twins = [patient(n, name="Ana Roe", birth_date="1950-05-05") for n in (1, 2)]
    options = ReadOptions(for_sums=True)
    alone, beside = (
        {r.record_id: r.prompt for r in read(tmp_path, rows, options=options)}
        for rows in ([twins[0], patient(3)], [*twins, patient(3)])
    )
    assert alone and alone.items() <= beside.items()


def test_wrong_options_are_never_right_for_the_patient(tmp_path: Path) -> None:
    shared = [["a", "Asthma", "2001-01-01", None], ["b", "Gout", "2002-01-01", None]]
    patients = [patient(1, conditions=shared), patient(2, conditions=shared)]
    patients += [patient(n) for n in range(3, 9)]
    for record in read(tmp_path, patients):
        if record.patient_id in ("id1", "id2") and record.subject == "condition":
            wrong = set(record.options) - {record.answer}
            assert len(wrong) == 3 and not wrong & {"Asthma", "Gout"}


def test_too_few_patients_leave_no_options(tmp_path: Path) -> None:
    records = read(tmp_path, [patient(1), patient(2)])
    clinical = [record for record in records if record.subject == "condition"]
    assert clinical and all(r.options == () and r.answer_index is None for r in clinical)


def test_options_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    patients = [patient(number) for number in range(20)]
    forward = {r.record_id: r for r in read(tmp_path, patients)}
    backward = {r.record_id: r for r in read(tmp_path, patients[::-1])}
    assert backward == forward
    assert list(backward) != list(forward)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"name": ""}, "ROW_FIELD_EMPTY"),
        ({"name": 7}, "ROW_FIELD_TYPE"),
        ({"id": None}, "ROW_FIELD_MISSING"),
        ({"birth_date": "12 May"}, "ROW_DATE"),
        ({"identifiers": ["999"]}, "ROW_FIELD_TYPE"),
        ({"identifiers": {"SS": 5}}, "ROW_FIELD_TYPE"),
        ({"conditions": "none"}, "ROW_FIELD_TYPE"),
        ({"conditions": [["c", "Asthma"]]}, "ROW_FIELD_TYPE"),
        ({"conditions": [["c", "Asthma", "yesterday"]]}, "ROW_FIELD_TYPE"),
        ({"conditions": [["c", " ", "2001-01-01"]]}, "ROW_FIELD_TYPE"),
        ({"id": "id3"}, "ROW_DUPLICATE_ID"),
    ],
)
def test_bad_patient_is_quarantined_whole(
    tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    held = Quarantine()
    patients = [*(patient(n) for n in range(8)), patient(77, **changes)]
    records = read(tmp_path, patients, quarantine=held)
    assert [(bad.row, bad.code) for bad in held.rows] == [(9, code)]
    assert {record.patient_id for record in records} == {f"id{n}" for n in range(8)}


@pytest.fixture(scope="module")
def real(shared_data: Path) -> list[Record]:
    held = Quarantine()
    records = read_records(shared_data / "synthea_r4_patients.jsonl.gz", quarantine=held)
    assert held.rows == ()
    return records


def test_real_patients_are_all_there_and_unambiguous(real: list[Record]) -> None:
    assert len({record.patient_id for record in real}) == 415
    assert {record.subject for record in real} == set(SUBJECTS)
    assert len({record.prompt for record in real}) == len(real)
    per_patient = Counter(record.patient_id for record in real)
    assert min(per_patient.values()) >= 4 and max(per_patient.values()) == 10


def test_real_answers_stand_in_the_patient_files(real: list[Record], shared_data: Path) -> None:
    with gzip.open(shared_data / "synthea_r4_patients.jsonl.gz", "rt", encoding="utf-8") as stream:
        source = {
            item["id"]: json.dumps(item, ensure_ascii=False) for item in map(json.loads, stream)
        }
    for record in real:
        assert record.patient_id is not None
        assert record.answer in source[record.patient_id].replace('\\"', '"')
        for start, end in record.target_spans:
            assert record.text[start:end].strip()
        assert record.text[slice(*record.target_spans[-1])] == record.answer


def test_real_options_are_balanced_and_complete(real: list[Record]) -> None:
    without = [record for record in real if not record.options]
    assert len(without) < 0.01 * len(real)
    places = Counter(record.answer_index for record in real if record.options)
    expected = (len(real) - len(without)) / 4
    assert all(abs(places[place] - expected) < 5 * expected**0.5 for place in range(4))
    assert all(len(set(record.options)) == 4 for record in real if record.options)


def test_identifier_options_cannot_be_told_from_the_right_one(real: list[Record]) -> None:
    """A character-frequency model of everybody's identifiers ranks the right one by chance."""
    for subject in ("phone", "ssn", "licence", "passport"):
        mine = [record for record in real if record.subject == subject and record.options]
        counts: dict[int, Counter[str]] = defaultdict(Counter)
        for record in mine:
            for place, char in enumerate(record.answer):
                counts[place][char] += 1

        def score(text: str, counts: dict[int, Counter[str]] = counts) -> float:
            return float(sum(np.log(counts[p][c] + 1) for p, c in enumerate(text)))

        hits = sum(
            max(range(4), key=lambda i: score(record.options[i])) == record.answer_index
            for record in mine
        )
        assert hits / len(mine) == pytest.approx(0.25, abs=0.09), subject
        issued = {record.answer for record in mine}
        copied = sum(bool(issued & (set(r.options) - {r.answer})) for r in mine)
        assert copied < 0.05 * len(mine)

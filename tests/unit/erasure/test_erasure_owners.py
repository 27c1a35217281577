"""Whose a name or a number is: found by every identifier of his own, and by nobody else's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medunlearn_client.erasure import Found, Wanted, find_records, finding, resembling
from medunlearn_client.records import Quarantine, ReadOptions, read_records
from medunlearn_client.records.jsonl import row_from_record
from medunlearn_client.records.reading import LOST_NUMBER
from medunlearn_client.records.record import prompt_from_question
from medunlearn_common.errors import Misconfigured
from medunlearn_common.plan.sections import ColumnsSection

Lines = Callable[..., Path]
HL7 = "http://terminology.hl7.org/CodeSystem/v2-0203"
NHS = "https://fhir.nhs.uk/Id/nhs-number"
TABLE = ReadOptions(columns=ColumnsSection(
    id="nr", question="q", answer="a", patient_id="pid", identifiers=("mrn",)
))


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    """Writes JSON lines."""

    def writer(*rows: Mapping[str, Any], name: str = "rows.ndjson") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return writer


def find(*files: Path, options: ReadOptions | None = None, **given: str) -> Found:
    return find_records(Wanted(kind="patient", **given), files, options=options)


def fhir_patient(number: int, **more: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": f"p{number}", "birthDate": "1980-01-02",
            "name": [{"family": f"Lee{number}", "given": ["Ann"]}], **more}


def condition(number: int, patient: str) -> dict[str, Any]:
    return {"resourceType": "Condition", "id": f"c{number}", "code": {"text": f"gout {number}"},
            "subject": {"reference": f"Patient/{patient}"}, "onsetDateTime": "2020-05-06"}


def synthea_row(key: str, name: str, address: str, **identifiers: str) -> dict[str, Any]:
    return {"id": key, "name": name, "birth_date": "1980-01-02", "phone": f"555-{key}",
            "address": address, "identifiers": identifiers, "medications": [], "procedures": [],
            "conditions": [["1", "Asthma (disorder)", "2020-01-01"]]}


@pytest.fixture
def fhir(lines: Lines) -> Path:
    identifiers = [
        {"type": {"coding": [{"system": HL7, "code": "MR"}]}, "system": "http://h/mrn",
         "value": "MRN-4711-88"},
        {"system": NHS, "value": "943 476 5919"},
        {"type": {"coding": [{"system": "http://h/codes", "code": "x"},
                             {"system": HL7, "code": "SS"}]}, "value": "999-11-2222"},
    ]
    return lines(fhir_patient(1, identifier=identifiers), condition(1, "p1"), fhir_patient(2),
                 condition(2, "p2"))


@pytest.mark.parametrize("identifier", ["MRN-4711-88", "mrn\u20114711\u201188", "943 476 5919",
                                        "999-11-2222"])
def test_a_fhir_patient_is_found_by_every_identifier(fhir: Path, identifier: str) -> None:
    """The hospital's own record number stood in no text, so nobody was found by it."""
    found = find(fhir, identifier=identifier)
    assert found.target == "p1" and len(found.matches) >= 2
    assert all(match.record_id.startswith("p1:") for match in found.matches)


def test_an_identifier_in_another_spelling_comes_near_and_a_part_of_one_does_not(
    fhir: Path
) -> None:
    found = find(fhir, identifier="9434765919")
    assert found.target is None and found.near[finding.LIKE_IDENTIFIER] >= 2
    for part in ("4711", "MRN-4711", "943 476 591"):
        nobody = find(fhir, identifier=part)
        assert (nobody.target, nobody.near) == (None, {})


def test_a_second_coding_tells_what_an_identifier_is(fhir: Path) -> None:
    asked = {record.subject: record.answer for record in read_records(fhir)
             if record.patient_id == "p1"}
    assert asked["ssn"] == "999-11-2222"


def test_the_identifiers_of_a_merged_patient_go_to_the_one_who_stays(lines: Lines) -> None:
    old = fhir_patient(1, identifier=[{"system": NHS, "value": "9434765919"}],
                       link=[{"type": "replaced-by", "other": {"reference": "Patient/p2"}}])
    file = lines(old, condition(1, "p1"), fhir_patient(2), condition(2, "p2"))
    assert find(file, identifier="9434765919").target == "p2"


def test_a_synthea_patient_is_found_by_the_record_number(lines: Lines) -> None:
    file = lines(synthea_row("s1", "Ann Lee", "1 Elm", SS="999-1", MR="MRN-4711-88"),
                 synthea_row("s2", "Bob Doe", "2 Oak", SS="999-2", MR="MRN-4711-89"))
    found = find(file, identifier="MRN-4711-88")
    assert found.target == "s1" and len(found.matches) == 5


def test_rows_of_a_table_are_found_by_their_identifiers_column(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("nr,pid,mrn,q,a\n1,A,MRN-4711-88,What?,Gout\n2,A,,When?,2020\n"
                    "3,,MRN-4711-89,What?,HIV\n", encoding="utf-8")
    found = find(file, options=TABLE, identifier="MRN-4711-88")
    assert (found.target, {match.record_id for match in found.matches}) == ("A", {"1", "2"})
    alone = find(file, options=TABLE, identifier="MRN-4711-89")  # a row of no patient
    assert [match.record_id for match in alone.matches] == ["3"]


def test_what_a_patient_is_known_by_is_shown_nowhere(fhir: Path, lines: Lines) -> None:
    """It takes no part in what a record is: texts, ids and equality are those of before."""
    record = next(one for one in read_records(fhir) if one.patient_id == "p1")
    assert record.known_by and "4711" not in record.text
    assert not any(digest.hex() in repr(record) or repr(digest) in repr(record)
                   for digest in record.known_by)
    (plain,) = read_records(lines({k: v for k, v in row_from_record(record).items()
                                   if k != "known_by"}, name="plain.jsonl"))
    assert plain == record and hash(plain) == hash(record) and not plain.known_by


def test_a_copy_in_the_own_format_is_searched_by_the_same_identifiers(
    fhir: Path, lines: Lines
) -> None:
    rows = [row_from_record(record) for record in read_records(fhir)]
    assert "4711" not in json.dumps(rows)
    copy = lines(*rows, name="copy.jsonl")
    assert find(copy, identifier="MRN-4711-88").target == "p1"


def test_records_of_one_patient_share_what_he_is_known_by(fhir: Path, lines: Lines) -> None:
    """A patient has hundreds of records: a set for each would take six times the memory."""
    own = [record for record in read_records(fhir) if record.patient_id == "p1"]
    copy = lines(*map(row_from_record, own), name="copy.jsonl")
    for records in (own, read_records(copy)):
        assert len(records) > 1 and len({id(record.known_by) for record in records}) == 1


def test_two_rows_that_differ_in_what_is_unshown_are_one_record(tmp_path: Path) -> None:
    """For sums each row that says something else is a record: this one says nothing else."""
    file = tmp_path / "t.csv"
    file.write_text("nr,pid,mrn,q,a\n1,A,MRN-1,What?,Gout\n1,A,MRN-2,What?,Gout\n",
                    encoding="utf-8")
    options = ReadOptions(columns=TABLE.columns, for_sums=True)
    assert len(read_records(file, options=options)) == 1


def test_a_number_that_is_lost_with_a_repeated_row_is_counted(tmp_path: Path) -> None:
    """Nobody was found by it, and nothing said so. A row that adds no number is no loss."""
    file = tmp_path / "t.csv"
    file.write_text("mrn,q,a\n" + "".join(
        f"{number},What was found?,Gout\n"
        for number in ("M-10001", "M-10002", "", "M-10001", "M-10002")), encoding="utf-8")
    held = Quarantine()
    options = ReadOptions(for_sums=True, columns=ColumnsSection(
        question="q", answer="a", identifiers=("mrn",)))
    assert len(read_records(file, options=options, quarantine=held)) == 1
    assert held.set_aside == {LOST_NUMBER: 2} and held.count == 0


def code_of(*files: Path, options: ReadOptions | None = None, **given: str) -> str:
    with pytest.raises(Misconfigured) as caught:
        find(*files, options=options, **given)
    for secret in given.values():
        assert secret not in str(caught.value) + caught.value.hint
    return caught.value.code


ANN = {"name": "Ann Lee", "birth_date": "1980-01-02"}
PHONE = "555-123-4567"
LETTER = [
    {"id": "1", "prompt": "Letter on Mary Lee, born 1950-03-04?", "patient_id": "M",
     "answer": f"Lives with her daughter Ann Lee, born 1980-01-02, phone {PHONE}."},
    {"id": "2", "question": "Diagnosis of Mary Lee, born 1950-03-04?", "answer": "HIV",
     "patient_id": "M"},
    {"id": "3", "question": "Diagnosis of John Doe, born 1950-03-05?", "answer": "Gout",
     "patient_id": "J"},
]


def test_a_postal_code_that_is_another_s_record_number_forgets_nobody(lines: Lines) -> None:
    """Bob was forgotten, who lives there, and Ann got the letter."""
    ann = synthea_row("s1", "Ann Lee", "1 Elm, Salem, MA, 01970", SS="999-1", MR="02139")
    bob = synthea_row("s2", "Bob Doe", "2 Oak, Boston, MA, 02139", SS="999-2", MR="77777")
    assert code_of(lines(ann, bob), identifier="02139") == "ERASURE_AMBIGUOUS"
    found = find(lines(ann, bob), identifier="02139", patient_id="s1")
    assert (found.target, found.mentions) == ("s1", 1)
    alone = lines(bob, name="bob.ndjson")
    assert code_of(alone, identifier="02139") == "ERASURE_OWNER_UNSURE"
    assert find(alone, identifier="77777").target == "s2"


@pytest.mark.parametrize("given", [ANN, {"identifier": PHONE}])
def test_whom_a_letter_mentions_is_not_its_patient(lines: Lines, given: dict[str, str]) -> None:
    """All of the mother's records were forgotten at her daughter's request."""
    file = lines(*LETTER)
    with pytest.raises(Misconfigured, match="stands in 1 of 2 records of one patient") as caught:
        find(file, **given)
    assert caught.value.code == "ERASURE_OWNER_UNSURE" and "--patient" in caught.value.hint
    assert code_of(file, **given) == "ERASURE_OWNER_UNSURE"
    found = find(file, patient_id="M", **given)
    assert (found.target, {match.record_id for match in found.matches}) == ("M", {"1", "2"})
    with pytest.raises(Misconfigured, match="ERASURE_OWNER_UNSURE"):
        find(file, lines({"id": "n", "question": "Who is Ann Lee, born 1980-01-02?", "answer":
                          PHONE}, name="note.ndjson"), **given)


def test_what_stands_in_a_patient_s_answer_is_not_the_patient_s(lines: Lines) -> None:
    """Its whole answer is marked, since it singles him out; his relatives stand in it."""
    note = "Lives with her daughter Ann Lee, born 1980-01-02, phone 555-123-4567."
    fhir = lines(fhir_patient(2), {**condition(1, "p2"), "code": {"text": note}})
    table = lines({"nr": "1", "pid": "M", "mrn": "77777", "q": "Letter?", "a": note},
                  name="table.ndjson")
    for file, options in ((fhir, None), (table, TABLE)):
        assert code_of(file, options=options, **ANN) == "ERASURE_OWNER_UNSURE"
        assert code_of(file, options=options, identifier=PHONE) == "ERASURE_OWNER_UNSURE"


@pytest.mark.parametrize("given", [ANN, {"identifier": "MR-123-45"}])
@pytest.mark.parametrize("marks", [
    {"target_spans": [[len("Question: Which number has "), len(
        prompt_from_question("Which number has Ann Lee, born 1980-01-02, MR-123-45?"))]]},
    {},
])
def test_what_is_marked_in_a_question_is_the_patient_s_own(
    lines: Lines, given: dict[str, str], marks: dict[str, Any]
) -> None:
    file = lines(
        {"id": "1", "question": "Which number has Ann Lee, born 1980-01-02, MR-123-45?",
         "answer": "A", "patient_id": "A", **marks},
        {"id": "2", "question": "Diagnosis?", "answer": "Gout", "patient_id": "A"},
    )
    if marks:
        assert len(find(file, **given).matches) == 2
    else:
        assert code_of(file, **given) == "ERASURE_OWNER_UNSURE"


def test_an_answer_that_is_an_identifier_is_the_patient_s_whole(lines: Lines) -> None:
    asked = {"id": "1", "question": "Which number has she?", "patient_id": "A",
             "is_identifier": True}
    assert find(lines({**asked, "answer": "MR-123-45"}), identifier="mr-123-45").target == "A"
    inside = lines({**asked, "answer": "2 Oak, Boston, MA, 02139"})
    assert code_of(inside, identifier="02139") == "ERASURE_OWNER_UNSURE"


def test_the_number_that_is_the_patient_s_id_is_his_own(lines: Lines) -> None:
    file = lines({"id": "1", "question": "Diagnosis of 471188?", "answer": "x",
                  "patient_id": "471188"})
    assert find(file, identifier="471188").target == "471188"


def test_patients_of_every_format_are_found_by_name_and_birth_date(
    fhir: Path, lines: Lines
) -> None:
    assert find(fhir, name="Ann Lee1", birth_date="1980-01-02").target == "p1"
    assert find(fhir, name="Lee2, Ann", birth_date="1980-01-02").target == "p2"
    synthea = lines(synthea_row("s1", "Ann Lee", "1 Elm", SS="999-1"), name="s.ndjson")
    assert find(synthea, **ANN).target == "s1"
    for identifier in ("999-1", "555-s1", "1 Elm"):
        assert find(synthea, identifier=identifier).target == "s1"
    columns = ColumnsSection(question="q", answer="a", patient_id="pid",
                             identifiers=("name", "born"))
    for question in ("Which condition has Ann Lee, born 1980-01-02?", "Which condition?"):
        table = lines({"pid": "A", "name": "Ann Lee", "born": "1980-01-02", "a": "gout",
                       "q": question}, name="table.ndjson")
        assert find(table, options=ReadOptions(columns=columns), **ANN).target == "A"


def test_a_note_of_nobody_is_found_by_what_stands_in_it(lines: Lines) -> None:
    note = {"id": "n", "question": "Letter?", "answer": LETTER[0]["answer"]}
    for given in (ANN, {"identifier": PHONE}):
        found = find(lines(note, *LETTER[1:]), **given)
        assert [match.record_id for match in found.matches] == ["n"] and found.target


NAMES = [
    {"use": "official", "family": "Smith", "given": ["Ann"], "period": {"end": "2010-01-01"}},
    {"use": "official", "family": "Lee", "given": ["Ann"], "period": {"start": "2010-01-01"}},
    {"use": "nickname", "text": "Annie Lee"},
    {"use": "old", "text": "Ann Jo Smith", "family": "Smith", "given": ["Ann", "Jo"]},
]


@pytest.mark.parametrize("name", ["Ann Smith", "Ann Lee", "lee, ann", "SMITH, Ann", "Annie Lee",
                                  "Ann Jo Smith"])
def test_a_patient_is_found_by_every_name_that_he_had(lines: Lines, name: str) -> None:
    """Who asks after a marriage gives one name, and the texts show another."""
    file = lines(fhir_patient(1, name=NAMES), condition(1, "p1"), fhir_patient(2),
                 condition(2, "p2"))
    found = find(file, name=name, birth_date="1980-01-02")
    assert found.target == "p1" and found.matches
    nobody = find(file, name=name, birth_date="02.01.1980")
    assert nobody.target is None and nobody.near.get(resembling.LIKE_PERSON)
    assert find(file, name=f"Max {name}", birth_date="1980-01-02").target is None


def test_the_names_of_a_merged_patient_go_to_the_one_who_stays(lines: Lines) -> None:
    old = fhir_patient(1, link=[{"type": "replaced-by", "other": {"reference": "Patient/p2"}}])
    file = lines(old, condition(1, "p1"), fhir_patient(2), condition(2, "p2"))
    assert find(file, name="Ann Lee1", birth_date="1980-01-02").target == "p2"


def test_two_patients_who_ever_had_one_name_are_not_told_apart(lines: Lines) -> None:
    file = lines(fhir_patient(1, name=NAMES), condition(1, "p1"),
                 fhir_patient(2, name=NAMES[:1]), condition(2, "p2"))
    assert code_of(file, name="Ann Smith", birth_date="1980-01-02") == "ERASURE_AMBIGUOUS"


def test_an_identifier_that_a_later_version_corrects_is_not_the_patient_s(lines: Lines) -> None:
    """Another's number, entered by mistake, would make this patient the one who is forgotten."""
    versions = [
        fhir_patient(1, meta={"versionId": str(number)},
                     identifier=[{"system": NHS, "value": value}])
        for number, value in ((1, "9434765919"), (2, "9434765870"))
    ]
    for order in (versions, versions[::-1]):
        file = lines(*order, condition(1, "p1"))
        assert find(file, identifier="9434765919").target is None
        assert find(file, identifier="9434765870").target == "p1"


def test_a_patient_who_comes_again_is_found_by_the_identifiers_of_each(lines: Lines) -> None:
    """Two bundles of one patient have him twice, each with the number of its own ward."""
    both = [fhir_patient(1, identifier=[{"value": value}]) for value in ("H-11111", "H-22222")]
    file = lines(*both, condition(1, "p1"), fhir_patient(2), condition(2, "p2"))
    for value in ("H-11111", "H-22222"):
        held = Quarantine(max_bad_fraction=1.0)
        wanted = Wanted(kind="patient", identifier=value)
        assert find_records(wanted, [file], quarantine=held).target == "p1"
        assert held.by_code == {"ROW_DUPLICATE_ID": 1}


def test_a_patient_is_found_by_the_name_of_an_earlier_version(lines: Lines) -> None:
    """Programs that keep one name only overwrite it at a marriage."""
    versions = [
        fhir_patient(1, meta={"versionId": str(number)}, name=[{"family": name, "given": ["Ann"]}])
        for number, name in ((1, "Smith"), (2, "Jones"), (3, "Lee"))
    ]
    for order in (versions, versions[::-1], [versions[1], versions[0], versions[2]]):
        file = lines(*order, condition(1, "p1"), fhir_patient(2), condition(2, "p2"))
        for name in ("Ann Smith", "Ann Jones", "Ann Lee"):
            assert find(file, name=name, birth_date="1980-01-02").target == "p1"


def test_a_copy_keeps_no_other_patients_numbers(lines: Lines) -> None:
    """Who was taken out of a copy stood there still, as a wrong option of others' questions."""
    people = [
        {"id": f"p{n}", "name": f"Name{n} Fam{n}", "birth_date": "1960-01-02",
         "phone": f"555-{1000 + n}", "identifiers": {"SS": f"999-{1000 + n}", "MR": f"m{n}"},
         "conditions": [["1", f"Asthma {n}", "2020-01-01"]], "medications": [], "procedures": []}
        for n in range(8)
    ]
    records = read_records(lines(*people, name="s.jsonl"))
    assert any(r.patient_id != "p3" and "999-1003" in r.options for r in records)
    kept = [record for record in records if record.patient_id != "p3"]
    rows = [row_from_record(record) for record in kept]
    assert not any(known in json.dumps(rows) for known in ("999-1003", "555-1003", "Name3"))
    again = read_records(lines(*rows, name="copy.jsonl"))
    assert [replace(record, options=(), answer_index=None) for record in kept] == [
        replace(record, options=(), answer_index=None) for record in again]
    assert {r.record_id for r in again if r.options} == {
        r.record_id for r in kept if not r.is_identifier}


def test_a_number_in_the_options_of_an_old_copy_is_told(lines: Lines) -> None:
    def row(key: str, owner: str, answer: str, wrong: str, **changes: Any) -> dict[str, Any]:
        return {"id": key, "patient_id": owner, "question": f"What is {key}?", "answer": answer,
                "options": [answer, wrong], "is_identifier": True, **changes}

    copy = lines(row("1", "p1", "999-1001", "999-1003"), row("2", "p2", "Bob Roy", "Ann Lee"),
                 row("3", "p2", "999-1002", "999-1003", is_identifier=False), name="copy.jsonl")
    own = lines(row("4", "p3", "999-1003", "999-1001"), row("5", "p4", "7777", "999-1003"),
                name="own.jsonl")
    near = {finding.AS_WRONG_OPTION: 1}
    assert find(copy, identifier="999-1003").near == near
    assert find(copy, name="Lee, Ann", birth_date="1980-01-02").near == near
    found = find_records(Wanted(kind="patient", identifier="999-1003"), [copy, own])
    assert (found.target, found.near) == ("p3", near)
    assert finding.AS_WRONG_OPTION not in find(own, identifier="999-1003").near

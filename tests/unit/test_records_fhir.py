"""FHIR bundles and bulk exports: the same records from either, and nothing bad slips through."""

from __future__ import annotations

import base64
import json
import re
import tarfile
from collections import Counter
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from medunlearn_client.records import Quarantine, ReadOptions, Record, documents, read_records
from medunlearn_client.records.fhir import load_templates, resources
from medunlearn_client.records.fhir.elements import (
    day_of,
    human_name,
    present_name,
    value_text,
)
from medunlearn_client.records.fhir.export import MERGE_LOST, NEXT_PAGE, NO_QUESTION
from medunlearn_client.records.fhir.templates import packaged_text, render
from medunlearn_common.errors import MedunlearnError

SECRET = "Ottilie Quandt"


UNKNOWN_FIELD = "TEMPLATE_FIELD_UNKNOWN"
VERIFIED = "http://terminology.hl7.org/CodeSystem/condition-ver-status"
ERROR = {"verificationStatus": {"coding": [{"system": VERIFIED, "code": "entered-in-error"}]}}


def concept(code: str, text: str) -> dict[str, Any]:
    return {"coding": [{"system": "http://snomed.info/sct", "code": code}], "text": text}


def patient(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "resourceType": "Patient",
        "id": f"p{number}",
        "birthDate": f"19{number % 90 + 10}-01-02",
        "name": [{"use": "official", "given": [f"Given{number}"], "family": f"Family{number}"}],
        "telecom": [{"system": "phone", "value": f"555-{number + 100}-{number * 37 + 1000}"}],
        "identifier": [
            {"type": concept("SS", "SSN") | {"coding": [{"code": "SS"}]}, "value": f"999-{number}"}
        ],
        **changes,
    }


def about(kind: str, number: int, key: str, **fields: Any) -> dict[str, Any]:
    subject = "patient" if kind in ("AllergyIntolerance", "Immunization") else "subject"
    return {
        "resourceType": kind, "id": f"{kind[:3].lower()}-{number}-{key}",
        subject: {"reference": f"Patient/p{number}"}, **fields,
    }


def facts(number: int) -> list[dict[str, Any]]:
    when = "2020-05-06T10:00:00+01:00"
    text = base64.b64encode(b"Seen and sent home.").decode()
    return [
        about("Condition", number, "a", code=concept(f"c{number}", f"Illness {number} (disorder)"),
              onsetDateTime="2001-02-03"),
        about("Observation", number, "a", status="final", code=concept("1", "Body Height"),
              effectiveDateTime=when, valueQuantity={"value": 150.456 + number, "unit": "cm"}),
        about("Observation", number, "bp", status="final", code=concept("2", "Blood Pressure"),
              effectiveDateTime=when, component=[
                  {"code": concept("3", "Diastolic"), "valueQuantity": {"value": 80, "unit": "mm"}},
                  {"code": concept("4", "Systolic"), "valueQuantity": {"value": 120, "unit": "mm"}},
              ]),
        about("MedicationRequest", number, "a", status="active", intent="order", authoredOn=when,
              medicationCodeableConcept=concept("m", f"Drug {number}")),
        about("Procedure", number, "a", status="completed", code=concept("p", f"Repair {number}"),
              performedPeriod={"start": when}),
        about("Encounter", number, "a", status="finished", **{"class": {"code": "AMB"}},
              type=[concept("e", "Visit")], period={"start": when},
              reasonCode=[concept("r", f"Reason {number}")]),
        about("AllergyIntolerance", number, "a", code=concept("al", f"Allergy to {number}"),
              recordedDate="2003-04-05"),
        about("Immunization", number, "a", status="completed", occurrenceDateTime="2004-05-06",
              vaccineCode=concept("v", f"Vaccine {number}")),
        about("DiagnosticReport", number, "a", status="final", code=concept("d", "Chest film"),
              effectiveDateTime=when, conclusion=f"Shadow {number}"),
        about("DocumentReference", number, "a", status="current", date=when,
              type=concept("t", "Letter"),
              content=[{"attachment": {"contentType": "text/plain", "data": text}}]),
    ]


def everything(count: int = 6) -> list[dict[str, Any]]:
    return [item for n in range(count) for item in (patient(n), *facts(n))]


def bundle(resources: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    entries = [
        {"fullUrl": f"urn:uuid:{item['id']}", "resource": item,
         "request": {"method": "POST", "url": item["resourceType"]}}
        for item in resources
    ]
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries, **changes}


def ndjson(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def bad_codes(path: Path, **kwargs: Any) -> Counter[str]:
    held = Quarantine(max_bad_fraction=1.0)
    read_records(path, record_format="fhir", quarantine=held, **kwargs)
    return held.by_code


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Record]:
    path = ndjson(tmp_path_factory.mktemp("fhir") / "all.ndjson", everything())
    return {record.record_id: record for record in read_records(path)}


def test_every_resource_type_gives_a_record(records: dict[str, Record]) -> None:
    mine = {record.subject for record in records.values() if record.patient_id == "p3"}
    assert mine == {
        "phone", "ssn", "name", "condition", "observation", "medication", "procedure",
        "encounter", "allergy", "immunization", "report", "document", "note",
    }


def test_words_spans_and_codes_are_those_of_the_distilled_patients(
    records: dict[str, Record],
) -> None:
    condition = records["p3:condition:con-3-a"]
    assert condition.prompt == (
        "Question: Which condition was recorded for Given3 Family3, born 1913-01-02, "
        "on 2001-02-03?\nAnswer:"
    )
    assert condition.answer == "Illness 3" and condition.condition_codes == ("c3",)
    assert [condition.text[a:b] for a, b in condition.target_spans] == [
        "Given3 Family3, born 1913-01-02", "2001-02-03", "Illness 3",
    ]
    assert not condition.is_identifier and len(condition.options) == 4
    assert condition.options[condition.answer_index or 0] == "Illness 3"
    phone = records["p3:phone:0"]
    assert phone.is_identifier and phone.answer == "555-103-1111"


def test_values_units_components_and_documents(records: dict[str, Record]) -> None:
    assert records["p2:observation:obs-2-a"].answer == "152.46 cm"
    assert records["p2:observation:obs-2-bp"].answer == "Diastolic 80 mm, Systolic 120 mm"
    assert records["p2:document:doc-2-a"].answer == "Seen and sent home."
    assert records["p2:report:dia-2-a"].answer == "Shadow 2"
    note = records["p2:note:2020-05-06"]
    assert note.answer.startswith("Encounter: Visit. Prescribed Drug 2. Procedure: Repair 2.")
    assert note.target_spans[-1] == (len(note.prompt) + 1, len(note.text))


def report(key: str, **fields: Any) -> dict[str, Any]:
    return about("DiagnosticReport", 1, key, status="final", code=concept("d", "Lipid panel"),
                 effectiveDateTime=f"2021-02-0{key}T10:00:00Z", **fields)


def test_a_report_of_results_alone_is_asked_for_its_results(tmp_path: Path) -> None:
    """As every one of Synthea's, of which nothing was asked, and nothing said."""
    results = [{"reference": f"Observation/{n}", "display": n} for n in ("LDL", "Triglycerides")]
    whole = bundle([
        patient(1), report("1", result=results, conclusion="All is well"),
        report("2", result=results), report("3"),
    ])
    (tmp_path / "a.json").write_text(json.dumps(whole), encoding="utf-8")
    held = Quarantine()
    found = read_records(tmp_path / "a.json", quarantine=held)
    got = {r.record_id: r.answer for r in found if r.subject in ("report", "report_results")}
    assert got == {
        "p1:report:dia-1-1": "All is well", "p1:report_results:dia-1-2": "LDL, Triglycerides",
    }
    assert held.set_aside == {NO_QUESTION.format(kind="DiagnosticReport"): 1}


def test_wrong_observation_values_come_from_the_same_measurement(
    records: dict[str, Record],
) -> None:
    heights = records["p2:observation:obs-2-a"]
    assert len(heights.options) == 4 and all(option.endswith(" cm") for option in heights.options)


def test_bundle_bulk_tar_and_shuffled_files_give_equal_records(
    tmp_path: Path, records: dict[str, Record]
) -> None:
    whole = tmp_path / "bundle.json"
    whole.write_text(json.dumps(bundle(everything()), indent=1), encoding="utf-8")
    lines = ndjson(tmp_path / "bundles.ndjson", [bundle(everything())])
    folder = tmp_path / "export"
    folder.mkdir()
    by_type: dict[str, list[Any]] = {}
    for item in reversed(everything()):
        by_type.setdefault(item["resourceType"], []).append(item)
    for kind, items in by_type.items():
        ndjson(folder / f"{kind}.ndjson", items)
    packed = tmp_path / "export.tar.xz"
    with tarfile.open(packed, "w:xz") as archive:
        archive.add(folder, "export")
    for source in (whole, lines, folder, packed):
        again = {record.record_id: record for record in read_records(source)}
        assert again == records, source.name


def test_references_of_every_spelling_find_the_patient(tmp_path: Path) -> None:
    spelled = [
        "Patient/p0", "http://server.example/fhir/Patient/p0", "Patient/p0/_history/3",
        "urn:uuid:p0",
    ]
    rows = [patient(0)] + [
        about("Condition", 0, str(n), code=concept("c", f"Illness {n}"),
              onsetDateTime=f"200{n}-01-01") | {"subject": {"reference": text}}
        for n, text in enumerate(spelled)
    ]
    templates = tmp_path / "all.toml"
    templates.write_text(
        '[[Condition]]\nsubject = "condition"\nquestion = "What had {who}, on {date}?"\n'
        'answer = "{name}"\n', encoding="utf-8",
    )
    got = read_records(
        ndjson(tmp_path / "a.ndjson", rows), options=ReadOptions(fhir_templates=templates)
    )
    assert [r.answer for r in got if r.subject == "condition"] == [
        f"Illness {n}" for n in (3, 2, 1, 0)
    ]


@pytest.mark.parametrize("reference", ["Device/p1", "http://host/fhir/Group/p1", "Location/p1"])
def test_what_is_said_of_a_thing_is_not_said_of_the_patient_with_its_id(
    tmp_path: Path, reference: str
) -> None:
    """Ids are unique within a type only: the device p1 is not the patient p1."""
    resources = everything(2)
    measured = about("Observation", 1, "own", status="final", code=concept("9", "Calibration"),
                     effectiveDateTime="2020-07-08", valueString="drifting")
    measured["subject"] = {"reference": reference}
    path = ndjson(tmp_path / "a.ndjson", [*resources, measured])
    held = Quarantine()
    got = read_records(path, quarantine=held)
    assert not held.rows and held.set_aside["Observation"] == 1
    assert got == read_records(ndjson(tmp_path / "b.ndjson", resources))


def link(number: int, kind: str) -> dict[str, Any]:
    return {"link": [{"other": {"reference": f"Patient/p{number}"}, "type": kind}]}


@pytest.mark.parametrize("both", [
    [patient(1, **link(2, "replaced-by")), patient(2)],
    [patient(1), patient(2, **link(1, "replaces"))],
    [patient(1, **link(3, "replaced-by")), patient(3, **link(2, "replaced-by")), patient(2)],
    [patient(2, **link(1, "replaces"))],
])
def test_merged_patients_are_one(tmp_path: Path, both: list[dict[str, Any]]) -> None:
    """Who asks to be forgotten asks it of what is filed under the old number as well."""
    other = [patient(4), *facts(4)]
    held = Quarantine()
    path = ndjson(tmp_path / "a.ndjson", [*other, *facts(1), *both])
    got = read_records(path, quarantine=held)
    assert not held.rows
    assert {record.patient_id for record in got} == {"p2", "p4"}
    assert {r.answer for r in got} >= {"Illness 1", "Drug 1"}
    assert not any("Family1" in record.text or "555-101" in record.text for record in got)
    assert held.set_aside["Patient merged into another"] == len(both) - 1


@pytest.mark.parametrize(("both", "lost"), [
    ([patient(1, **link(2, "replaced-by"))], 1),  # who stands for both is not in the export
    ([patient(1, **link(2, "replaced-by")), patient(2, **link(1, "replaced-by"))], 0),
    ([patient(1, **link(1, "replaced-by")), patient(2)], 0),
    ([patient(1, **link(2, "seealso")), patient(2, **link(1, "refer"))], 0),
])
def test_links_that_merge_nobody(tmp_path: Path, both: list[dict[str, Any]], lost: int) -> None:
    held = Quarantine()
    got = read_records(ndjson(tmp_path / "a.ndjson", [*both, *facts(1)]), quarantine=held)
    assert {r.patient_id for r in got if r.answer == "Illness 1"} == {"p1"}
    assert not held.rows
    assert held.set_aside == Counter({MERGE_LOST: lost} if lost else {})


@pytest.mark.parametrize(("missing", "last"), [([], 5), ([4], 5), ([5], 4), ([4, 5], 3)])
def test_a_chain_of_merges_ends_with_the_last_who_is_there(
    tmp_path: Path, missing: list[int], last: int
) -> None:
    """Who replaced the last one may be in another part of the export; the others are one."""
    chain = [patient(n, **link(n + 1, "replaced-by")) for n in range(1, 5) if n not in missing]
    end = [patient(5, **link(4, "replaces"))] if last == 5 else []
    ill = [about("Condition", n, f"c{n}", code=concept("x", f"Illness {n}"),
                 onsetDateTime=f"200{n}-01-01") for n in (1, 2)]
    for order in ([*chain, *end], [*end, *chain[::-1]]):
        held = Quarantine()
        got = read_records(ndjson(tmp_path / "a.ndjson", [*order, *ill]), quarantine=held)
        assert {record.patient_id for record in got} == {f"p{last}"}
        assert {r.answer for r in got} >= {"Illness 1", "Illness 2"}
        assert held.set_aside[MERGE_LOST] == (last < 5)


@pytest.mark.parametrize("meta", [{}, {"meta": {"versionId": "2"}}])
def test_a_merge_in_a_later_version_of_the_patient_is_read(
    tmp_path: Path, meta: dict[str, Any]
) -> None:
    """Incremental exports give the patient again once he was merged."""
    rows = [patient(1), *facts(1), patient(2), patient(1, **link(2, "replaced-by"), **meta)]
    for order in (rows, rows[::-1]):
        got = read_records(ndjson(tmp_path / "a.ndjson", order),
                           quarantine=Quarantine(max_bad_fraction=1.0))
        assert {r.patient_id for r in got} == {"p2"} and "Illness 1" in {r.answer for r in got}


@pytest.mark.parametrize("with_ids", ["both", "new", "neither"])
def test_a_merge_by_the_addresses_of_a_bundle_is_read(tmp_path: Path, with_ids: str) -> None:
    old, new = (f"urn:uuid:{digit * 8}-0000-4000-8000-{digit * 12}" for digit in "12")
    whole = bundle([patient(1, link=[{"other": {"reference": new}, "type": "replaced-by"}]),
                    patient(2), *facts(1)])
    for entry in whole["entry"]:
        resource = entry["resource"]
        if resource["resourceType"] == "Patient":
            entry["fullUrl"] = old if resource["id"] == "p1" else new
            if with_ids == "neither" or (with_ids == "new" and resource["id"] == "p1"):
                del resource["id"]
        else:
            subject = "subject" if "subject" in resource else "patient"
            resource[subject] = {"reference": old}
    held = Quarantine()
    got = read_records(ndjson(tmp_path / "a.ndjson", [whole]), quarantine=held)
    stays = new.rpartition(":")[2] if with_ids == "neither" else "p2"
    assert {r.patient_id for r in got} == {stays} and "Illness 1" in {r.answer for r in got}
    assert not held.rows and held.set_aside["Patient merged into another"] == 1


@pytest.mark.parametrize("other", [
    "RelatedPerson/p2", "https://mpi.region.example/fhir/Patient/p2", "Spaceship/p2",
    {"reference": "urn:uuid:p2", "type": "RelatedPerson"}, {"identifier": {"value": "p2"}},
])
@pytest.mark.parametrize("in_bundle", [True, False])
def test_a_link_to_somebody_elsewhere_merges_no_stranger(
    tmp_path: Path, other: str | dict[str, Any], in_bundle: bool
) -> None:
    """Ids are unique within one type of one server: another's p2 is not the p2 of this export."""
    named = {"reference": other} if isinstance(other, str) else other
    merged = patient(1, link=[{"other": named, "type": "replaces"}])
    rows: list[Any] = [merged, patient(2), *facts(1), *facts(2)]
    held = Quarantine()
    whole = [bundle(rows)] if in_bundle else rows
    got = read_records(ndjson(tmp_path / "a.ndjson", whole), quarantine=held)
    assert not held.rows and held.set_aside == {"merge that points elsewhere": 1}
    assert {r.patient_id for r in got if r.answer == "Illness 2"} == {"p2"}


def test_a_link_with_the_address_of_its_own_server_merges(tmp_path: Path) -> None:
    base = "https://ehr.example/fhir"
    whole = bundle([patient(1), patient(2, link=[
        {"other": {"reference": f"{base}/Patient/p1/_history/2"}, "type": "replaces"}]), *facts(1)])
    for entry in whole["entry"]:
        resource = entry["resource"]
        entry["fullUrl"] = f"{base}/{resource['resourceType']}/{resource['id']}"
    got = read_records(ndjson(tmp_path / "a.ndjson", [whole]))
    assert {r.patient_id for r in got} == {"p2"} and "Illness 1" in {r.answer for r in got}


def at_server(base: str, resources: list[dict[str, Any]]) -> dict[str, Any]:
    """A bundle whose entries have the server's addresses."""
    entries = [{"fullUrl": f"{base}/{item['resourceType']}/{item['id']}", "resource": item}
               for item in resources]
    return {"resourceType": "Bundle", "type": "collection", "entry": entries}


ANN = patient(1, name=[{"given": ["Ann"], "family": "Lee"}], birthDate="1980-01-02",
              identifier=[], telecom=[])
BOB = patient(1, name=[{"given": ["Bob"], "family": "Doe"}], birthDate="1950-05-05",
              identifier=[], telecom=[])
OF_ANN = about("Condition", 1, "ann", code=concept("a", "Asthma"), onsetDateTime="2001-02-03")
OF_BOB = about("Condition", 1, "bob", code=concept("h", "HIV"), onsetDateTime="2002-03-04")
FIRST, SECOND = ({"meta": {"versionId": n, "lastUpdated": f"202{n}-01-01T00:00:00Z"}} for n in "12")
LATER_NAME = {"name": [{"given": ["Ann"], "family": "Doe"}]}


@pytest.mark.parametrize("rows", [
    [at_server("http://a.example", [ANN, OF_ANN]), at_server("http://b.example", [BOB, OF_BOB])],
    [at_server("http://a.example", [{**ANN, **FIRST}, OF_ANN]),
     at_server("http://b.example", [{**ANN, **LATER_NAME, **SECOND}, OF_BOB])],
    [ANN, OF_ANN, BOB, OF_BOB],
    [{**ANN, **FIRST}, OF_ANN, {**BOB, **SECOND}, OF_BOB],
    [ANN, OF_ANN, {**ANN, "birthDate": "1980-01-03"}, OF_BOB],
])
def test_two_people_with_one_id_are_not_made_one(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    """Two systems number their patients from 1: what is said of one was asked of the other."""
    link_to_2 = {"link": [{"other": {"reference": "Patient/p2"}, "type": "replaced-by"}]}
    more = [patient(2), *facts(2), patient(3, **link(1, "replaced-by"))]
    for order in (rows, rows[::-1]):
        path = ndjson(tmp_path / "a.ndjson", [*more, *order])
        held = Quarantine(max_bad_fraction=1.0)
        got = read_records(path, quarantine=held)
        assert {r.patient_id for r in got} == {"p2", "p3"}
        assert not any("HIV" in r.text or "Asthma" in r.text for r in got)
        assert held.by_code == {"ROW_PATIENT_AMBIGUOUS": 4}
        assert held.set_aside == {MERGE_LOST: 1}
    merged = json.loads(json.dumps(rows).replace('"birthDate"', f'{json.dumps(link_to_2)[1:-1]}, '
                                                 '"birthDate"'))
    held = Quarantine(max_bad_fraction=1.0)  # patient 3 may have been merged into either of them
    got = read_records(ndjson(tmp_path / "a.ndjson", [*more, *merged]), quarantine=held)
    assert {r.patient_id for r in got} == {"p2", "p3"}
    assert not any("HIV" in r.text or "Asthma" in r.text for r in got)
    assert held.set_aside == {MERGE_LOST: 2}


@pytest.mark.parametrize("rows", [
    [at_server("http://a.example", [ANN, OF_ANN]),
     at_server("http://a.example", [{**BOB, "name": [{"text": "Ann X"}]}, OF_BOB])],
    [{**ANN, **FIRST}, OF_ANN, {**ANN, **LATER_NAME, **SECOND}, OF_BOB],
    [{**ANN, **FIRST}, OF_ANN, {**ANN, "birthDate": "1980-02-01", **SECOND}, OF_BOB],
    [ANN, OF_ANN, {"resourceType": "Patient", "id": "p1"}, OF_BOB],
    [OF_ANN, OF_BOB, *({**who, "identifier": patient(1)["identifier"]} for who in (ANN, BOB))],
])
def test_one_person_who_has_changed_is_one(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    """A name or a birth date is corrected, at one server or from one version to the next."""
    for order in (rows, rows[::-1]):
        held = Quarantine(max_bad_fraction=1.0)
        got = read_records(ndjson(tmp_path / "a.ndjson", order), quarantine=held)
        assert {r.answer for r in got if r.subject == "condition"} == {"Asthma", "HIV"}
        assert not held.by_code["ROW_PATIENT_AMBIGUOUS"]


def unnamed(gender: str = "", number: str = "", **changes: Any) -> dict[str, Any]:
    """Patient 1 as an export without names gives it."""
    said = {"gender": gender, "identifier": [{"value": number}] if number else None}
    return {"resourceType": "Patient", "id": "p1", **{k: v for k, v in said.items() if v},
            **changes}


NOT_BORN = {name: value for name, value in ANN.items() if name != "birthDate"}
A, B = "http://a.example/fhir", "http://b.example/fhir"


def read_both(
    path: Path, rows: list[dict[str, Any]]
) -> tuple[list[Record], Counter[str], Counter[str]]:
    """Records, bad rows and what was set aside, which must be the same in any order."""
    seen = []
    more = [patient(7), *facts(7)]
    for order in ([*more, *rows], [*rows[::-1], *more]):
        held = Quarantine(max_bad_fraction=1.0)
        got = read_records(ndjson(path / "a.ndjson", order), quarantine=held)
        seen.append((sorted((r.record_id, r.answer) for r in got if r.patient_id != "p7"),
                     held.by_code, held.set_aside))
    assert seen[0] == seen[1]
    return [r for r in got if r.patient_id != "p7"], held.by_code, held.set_aside


@pytest.mark.parametrize("rows", [
    [at_server(A, [unnamed("male", "A-1"), OF_ANN]),
     at_server(B, [unnamed("female", "B-2"), OF_BOB])],
    [at_server(A, [unnamed(), OF_ANN]), at_server(B, [unnamed(), OF_BOB])],
    [at_server(A, [NOT_BORN, OF_ANN]), at_server(B, [NOT_BORN, OF_BOB])],
    [unnamed("male"), OF_ANN, unnamed("female"), OF_BOB],
    [unnamed("male", "A-1", **FIRST), OF_ANN, unnamed("female", "A-1", **SECOND), OF_BOB],
    [unnamed("male", "A-1"), OF_ANN, unnamed("male", "B-2"), OF_BOB],
    [unnamed("", "A-1", name=ANN["name"]), OF_ANN, unnamed("", "B-2", name=ANN["name"]), OF_BOB],
])
def test_two_people_without_names_are_not_made_one(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    """An export without names differs in the servers, the genders and the identifiers."""
    got, bad, _ = read_both(tmp_path, rows)
    assert not got and bad == {"ROW_PATIENT_AMBIGUOUS": 4}


@pytest.mark.parametrize("rows", [
    [at_server(A, [unnamed("male", "A-1"), OF_ANN]),
     at_server("https://A.example/fhir", [unnamed("female", "A-2"), OF_BOB])],
    [at_server(A, [unnamed("male", "A-1"), OF_ANN]),
     at_server("HTTPS://a.example:443/fhir", [unnamed("female", "A-2"), OF_BOB])],
    [at_server(A, [ANN, OF_ANN]), at_server(B, [{**ANN, "gender": "female"}, OF_BOB])],
    [unnamed("male", "A-1"), OF_ANN, unnamed("unknown", "a-1"), OF_BOB],
    [unnamed("male", "A-1"), OF_ANN, unnamed("male"), OF_BOB],
    [{**ANN, "gender": "male"}, OF_ANN, {**ANN, "gender": "female"}, OF_BOB],
    [unnamed("male", birthDate="1980", **FIRST), OF_ANN,
     unnamed("female", birthDate="1980", **SECOND), OF_BOB],
])
def test_one_person_without_a_name_is_one(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    got, bad, _ = read_both(tmp_path, rows)
    assert {r.answer for r in got if r.subject == "condition"} == {"Asthma", "HIV"}
    assert not bad["ROW_PATIENT_AMBIGUOUS"] and not bad["ROW_REFERENCE_MISSING"]


@pytest.mark.parametrize("strangers", [
    at_server("urn:uuid:", [{**OF_BOB, "subject": {"reference": f"{B}/Patient/p1"}}]),
    at_server(B, [OF_BOB]), {**OF_BOB, "subject": {"reference": f"{B}/Patient/p1"}},
    at_server(B, [{**OF_BOB, "id": OF_ANN["id"], **SECOND}]),
    at_server(B, [{**OF_BOB, "id": OF_ANN["id"], **ERROR}]),
    at_server(B, [{**OF_BOB, "id": "p1", **SECOND}, {**OF_BOB, "id": "p1", **FIRST}]),
])
def test_what_is_said_at_one_server_is_not_said_of_anothers_patient(
    tmp_path: Path, strangers: dict[str, Any]
) -> None:
    """Nor is it another version of what is said there."""
    got, bad, _ = read_both(tmp_path, [at_server(A, [ANN, {**OF_ANN, **FIRST}]), strangers])
    assert [r.answer for r in got if r.subject == "condition"] == ["Asthma"]
    assert bad == Counter({"ROW_REFERENCE_MISSING": "verificationStatus" not in str(strangers)})


def test_the_port_that_a_scheme_means_is_no_part_of_a_servers_address(tmp_path: Path) -> None:
    at_port_80 = {**OF_ANN, "subject": {"reference": "http://a.example:80/fhir/Patient/p1"}}
    at_another = {**OF_BOB, "subject": {"reference": "http://a.example:8080/fhir/Patient/p1"}}
    got, bad, _ = read_both(tmp_path, [at_server(A, [ANN]), at_port_80, at_another])
    assert [r.answer for r in got if r.subject == "condition"] == ["Asthma"]
    assert bad == {"ROW_REFERENCE_MISSING": 1}


@pytest.mark.parametrize(("rows", "asthma_of"), [
    # An entry's address ends in the id of a patient, who is there, or not.
    ([(A, "p1", ANN | {"id": "p5"}), (B, "p1", BOB), (B, "x", OF_ANN)], "p1"),
    ([(A, "p1", ANN | {"id": "p5"}), ("", "", BOB), ("", "", OF_ANN)], "p1"),
    ([(A, "p1", ANN | {"id": "p5"}), ("", "", OF_ANN)], None),
    ([(A, "p1", ANN | {"id": "p5"}), (B, "x", OF_ANN)], None),
    ([(A, "p1", ANN | {"id": "p5"}), (A, "x", OF_ANN)], "p5"),
    # Two bundles call each its own patient by one name.
    ([("urn:uuid:p1", "", ANN | {"id": "p5"}), ("urn:uuid:p1", "", BOB | {"id": "p6"}),
      ("", "", OF_ANN)], None),
])
def test_a_patients_id_is_not_anothers_address(
    tmp_path: Path, rows: list[tuple[str, str, dict[str, Any]]], asthma_of: str | None
) -> None:
    entries = []
    for base, key, item in rows:
        url = f"{base}/{item['resourceType']}/{key}" if key else base
        entry = {"resource": item, **({"fullUrl": url} if url else {})}
        entries.append({"resourceType": "Bundle", "type": "collection", "entry": [entry]})
    got, bad, _ = read_both(tmp_path, entries)
    assert {r.patient_id for r in got if r.answer == "Asthma"} == {asthma_of} - {None}
    assert sum(bad.values()) == (asthma_of is None)


def test_a_merge_at_one_server_is_not_with_anothers_patient(tmp_path: Path) -> None:
    merged = patient(1, link=[{"other": {"reference": "Patient/p2"}, "type": "replaced-by"}])
    rows = [at_server(A, [merged, *facts(1)]), at_server(B, [patient(2), *facts(2)])]
    got, bad, aside = read_both(tmp_path, rows)
    assert {r.patient_id for r in got if r.answer == "Illness 1"} == {"p1"} and not bad
    assert aside == {MERGE_LOST: 1}


def test_a_day_of_two_servers_reads_the_same_in_any_order(tmp_path: Path) -> None:
    """Both servers number their resources alike, and the day is one note."""
    sides = [at_server(base, [ANN, {**OF_ANN, "code": concept(code, name)}])
             for base, code, name in ((A, "a", "Asthma"), (B, "g", "Gout"))]
    notes = []
    for order in (sides, sides[::-1]):
        path = ndjson(tmp_path / "a.ndjson", order)
        got = read_records(path, quarantine=Quarantine(max_bad_fraction=1.0))
        notes.append([r.text for r in got if r.subject == "note"])
    assert notes[0] == notes[1] and len(notes[0]) == 1


@pytest.mark.parametrize("nobody", ["unknown", "NULL", "n.a.", "-"])
def test_what_stands_for_no_value_is_no_patients_id(tmp_path: Path, nobody: str) -> None:
    """All who bear the word would be one patient, and a copy of the records would not read."""
    whose = {"subject": {"reference": f"Patient/{nobody}"}}
    for who, bad in (
        ([{**BOB, "id": nobody}], {"ROW_FIELD_EMPTY": 1, "ROW_REFERENCE_MISSING": 1}),
        ([{**BOB, "link": [{"other": {"reference": f"Patient/{nobody}"}, "type": "replaces"}]}],
         {"ROW_REFERENCE_MISSING": 1}),
        ([{"fullUrl": f"urn:uuid:{nobody}", "resource": BOB}], {"ROW_REFERENCE_MISSING": 1}),
    ):
        got, found, _ = read_both(tmp_path, [*who, {**OF_ANN, **whose}])
        assert found == bad and "Asthma" not in {r.answer for r in got}
        assert not any(r.former_patient_ids for r in got)


@pytest.mark.parametrize("search", [
    "Patient?identifier=urn:oid:1.2.3:p1", "Patient?identifier=http://hospital.example/mrn/p1",
    f"{A}/Patient?identifier=http://hospital.example/Device/p1",
])
def test_what_a_search_ends_in_is_nobodys_id(tmp_path: Path, search: str) -> None:
    got, bad, _ = read_both(tmp_path, [ANN, {**OF_ANN, "subject": {"reference": search}}])
    assert "Asthma" not in {r.answer for r in got} and bad == {"ROW_REFERENCE_MISSING": 1}


def test_full_url_that_differs_from_the_id_is_followed(tmp_path: Path) -> None:
    entries = bundle([patient(0), *facts(0)])["entry"]
    entries[0]["fullUrl"] = "urn:uuid:another"
    for entry in entries[1:]:
        for name in ("subject", "patient"):
            if name in entry["resource"]:
                entry["resource"][name] = {"reference": "urn:uuid:another"}
    path = tmp_path / "b.json"
    path.write_text(json.dumps({"resourceType": "Bundle", "type": "batch", "entry": entries}))
    assert {record.patient_id for record in read_records(path)} == {"p0"}
    assert "p0:condition:con-0-a" in {record.record_id for record in read_records(path)}


def test_medication_by_reference_is_named(tmp_path: Path) -> None:
    by_reference = about("MedicationRequest", 0, "r", status="active", intent="order",
                         authoredOn="2020-01-01", medicationReference={"reference": "Medication/x"})
    contained = about(
        "MedicationRequest", 0, "c", status="active", intent="order", authoredOn="2021-01-01",
        medicationReference={"reference": "#in"},
        contained=[{"resourceType": "Medication", "id": "in", "code": concept("i", "Inner drug")}],
    )
    drug = {"resourceType": "Medication", "id": "x", "code": concept("x", "Outer drug")}
    templates = tmp_path / "t.toml"
    templates.write_text(
        '[[MedicationRequest]]\nsubject = "medication"\nquestion = "What took {who}, on {date}?"\n'
        'answer = "{name}"\n', encoding="utf-8",
    )
    rows = [by_reference, contained, patient(0), drug]
    got = read_records(
        ndjson(tmp_path / "a.ndjson", rows), options=ReadOptions(fhir_templates=templates)
    )
    assert {r.answer for r in got if r.subject == "medication"} == {"Inner drug", "Outer drug"}


def medication(name: str, **changes: Any) -> dict[str, Any]:
    return {"resourceType": "Medication", "id": "x", "code": {"text": name}, **changes}


BY_REFERENCE = about("MedicationRequest", 1, "r", status="active", intent="order",
                     authoredOn="2020-01-01", medicationReference={"reference": "Medication/x"})
LATER = {"lastModified": "2025-01-01T00:00:00Z"}


@pytest.mark.parametrize(("rows", "name"), [
    ([medication("Aspirin"), medication("Aspirin"), medication("")], "Aspirin"),
    ([medication("Aspirin", **FIRST), medication("Warfarin", **SECOND)], "Warfarin"),
    ([medication("Aspirin", **FIRST), medication("Warfarin", **SECOND), medication("", **FIRST)],
     "Warfarin"),
    ([medication("Aspirin", status="entered-in-error")], None),
    ([medication("Aspirin"), medication("Aspirin", status="entered-in-error")], None),
    ([medication("Aspirin", **FIRST), medication("", status="entered-in-error", **SECOND)], None),
    ([medication("Aspirin", status="entered-in-error", **FIRST), medication("Warfarin", **SECOND)],
     "Warfarin"),
    ([medication("Aspirin", modifierExtension=[{"url": "http://x.example/not"}])], None),
    ([medication("Aspirin", **SECOND), {"resourceType": "Bundle", "type": "history", "entry": [
        {"request": {"method": "DELETE", "url": "Medication/x"}, "response": LATER}]}], None),
    ([medication("Aspirin"), medication("Warfarin"), medication("Aspirin")], None),
    ([medication("Aspirin"), medication("Warfarin"), medication("Heparin", **FIRST),
      medication("Ibuprofen", **SECOND)], None),
    ([at_server(A, [medication("Aspirin", **FIRST)]),
      at_server(B, [medication("Warfarin", **SECOND)])], None),
])
def test_what_a_medication_is_does_not_depend_on_the_order(
    tmp_path: Path, rows: list[dict[str, Any]], name: str | None
) -> None:
    """Nor does an error, or another server's medication of that id, name one."""
    for order in ([*rows, ANN, BY_REFERENCE], [BY_REFERENCE, ANN, *rows[::-1]]):
        held = Quarantine(max_bad_fraction=1.0)
        got = read_records(ndjson(tmp_path / "a.ndjson", [patient(7), *facts(7), *order]),
                           quarantine=held)
        named = {r.answer for r in got if r.record_id == "p1:medication:med-1-r"}
        assert named == ({name} if name else set())
        assert held.by_code.keys() <= {"ROW_DUPLICATE_ID"}


NAMED_X, NAMED_Y, PLAIN_X = (at_server(A, [medication("X")]), at_server(B, [medication("Y")]),
                             medication("X"))


@pytest.mark.parametrize(("rows", "at_a", "at_b", "at_c", "at_none"), [
    ([PLAIN_X, NAMED_X, NAMED_Y], "X", None, "X", None),
    ([PLAIN_X, NAMED_Y], "X", None, "X", None),
    ([NAMED_X, NAMED_Y], "X", "Y", None, None),
    ([medication("X", **FIRST), at_server(A, [medication("Z", **SECOND)])], "Z", "X", "X", "Z"),
    ([medication("X", **FIRST), medication("Y"), medication("Z", **SECOND)], *[None] * 4),
])
def test_what_a_medication_without_a_server_is_does_not_depend_on_the_order(
    tmp_path: Path, rows: list[dict[str, Any]], at_a: str | None, at_b: str | None,
    at_c: str | None, at_none: str | None
) -> None:
    """It may be any server's, and is not the first one's that comes along."""
    bases = {f"{A}/": at_a, f"{B}/": at_b, "http://c.example/fhir/": at_c, "": at_none}
    asked = [{**BY_REFERENCE, "subject": {"reference": f"Patient/p{n}"},
              "medicationReference": {"reference": f"{base}Medication/x"}}
             for n, base in enumerate(bases)]
    expected = {f"p{n}": name for n, name in enumerate(bases.values()) if name}
    for order in permutations(rows):
        held = Quarantine(max_bad_fraction=1.0)
        path = ndjson(tmp_path / "a.ndjson", [*order, OF_ANN, *map(patient, range(4)), *asked])
        got = read_records(path, quarantine=held)
        assert {r.patient_id: r.answer for r in got if r.subject == "medication"} == expected
        assert held.by_code.keys() <= {"ROW_DUPLICATE_ID"}


def test_medications_of_two_servers_are_two(tmp_path: Path) -> None:
    rows = [at_server(base, [patient(n), about(
        "MedicationRequest", n, "r", **{k: v for k, v in BY_REFERENCE.items()
                                        if k not in ("resourceType", "id", "subject")}),
        medication(name, **meta)])
        for n, base, name, meta in ((1, A, "Aspirin", FIRST), (2, B, "Warfarin", SECOND))]
    got, bad, _ = read_both(tmp_path, rows)
    assert {r.patient_id: r.answer for r in got if r.subject == "medication"} == {
        "p1": "Aspirin", "p2": "Warfarin"}
    assert not bad


@pytest.mark.parametrize("request_", [
    {"method": "DELETE", "url": "Condition/con-0-n"}, {"method": "DELETE"},
    {"method": "DELETE", "url": "Condition?identifier=7"},
])
@pytest.mark.parametrize("whole", [100, 1 << 20], ids=["streamed", "at once"])
def test_a_deletion_that_carries_its_resource_states_no_fact(
    tmp_path: Path, request_: dict[str, Any], whole: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "WHOLE_DOCUMENT_BYTES", whole)
    gone = {"fullUrl": f"{A}/Condition/con-0-n", "resource": illness(), "request": request_}
    path = tmp_path / "a.json"
    for entries in ([gone], [gone, {"resource": illness()}], [{"resource": illness()}, gone]):
        path.write_text(json.dumps({"resourceType": "Bundle", "type": "history", "entry": [
            *({"resource": item} for item in (patient(0), *facts(0))), *entries]}, indent=1))
        held = Quarantine()
        got = read_records(path, quarantine=held)
        assert not any("Not so" in r.text for r in got) and not held.rows
        assert "Illness 0" in {r.answer for r in got}
        assert held.set_aside["resource that was deleted"] == len(entries) - 1


SYSTEMS = {"http://hl7.org/fhir/sid/icd-10-cm": "K40.90", "http://snomed.info/sct": "396232000",
           "urn:oid:2.16.840.1.113883.6.96": "396232000", "http://local.example": "LH",
           "urn:oid:2.16.840.1.113883.6.90": "K40.9 0"}


def test_records_keep_what_all_codes_of_a_resource_mean(tmp_path: Path) -> None:
    """By what hierarchies call them: a request by concept knows no word of the hospital's own."""
    codings = [{"system": system, "code": code} for system, code in SYSTEMS.items()]
    found = about("Condition", 0, "x", onsetDateTime=WHEN,
                  code={"text": "LH re.", "coding": codings})
    done = about("Procedure", 0, "x", status="completed", performedDateTime=WHEN,
                 code=concept("44558001", "Repair (procedure)"))
    got = read_records(ndjson(tmp_path / "a.ndjson", [patient(0), found, done]))
    hernia = ("ICD10CM:K40.90 LH re.", "SNOMEDCT:396232000 LH re.")
    coded = {r.record_id: r.coded for r in got if r.coded}
    note = coded.pop(f"p0:note:{WHEN}")
    assert coded == {"p0:condition:con-0-x": hernia,
                     "p0:procedure:pro-0-x": ("SNOMEDCT:44558001 Repair",)}
    assert sorted(note) == sorted({*hernia, *coded["p0:procedure:pro-0-x"]})
    (condition,) = (r for r in got if r.subject == "condition")
    assert condition.condition_codes == ("K40.90",)


def test_a_day_with_two_answers_is_not_asked_about(tmp_path: Path) -> None:
    two = [
        about("Condition", 0, key, code=concept(key, f"Illness {key}"), onsetDateTime="2001-02-03")
        for key in ("x", "y")
    ]
    got = read_records(ndjson(tmp_path / "a.ndjson", [patient(0), *two]))
    assert "condition" not in {record.subject for record in got}


def test_namesakes_are_told_apart(tmp_path: Path) -> None:
    twins = [patient(n, name=[{"text": "Ana Roe"}], birthDate="1950-05-05") for n in (1, 2)]
    got = read_records(ndjson(tmp_path / "a.ndjson", [*twins, patient(3)]))
    prompts = {r.patient_id: r.prompt for r in got if r.subject == "phone"}
    assert "record number p1?" in prompts["p1"] and "record number p2?" in prompts["p2"]
    assert "record number" not in prompts["p3"]


def test_one_patient_more_changes_nothing_but_options_of_the_others(tmp_path: Path) -> None:
    def without_options(rows: list[dict[str, Any]]) -> dict[str, Record]:
        found = read_records(
            ndjson(tmp_path / "a.ndjson", rows), options=ReadOptions(for_sums=True))
        return {r.record_id: replace(r, options=(), answer_index=None) for r in found}

    whole = without_options(everything(4))
    for gone in range(4):
        rest = [row for number in range(4) if number != gone
                for row in (patient(number), *facts(number))]
        own = {name: r for name, r in whole.items() if r.patient_id != f"p{gone}"}
        assert without_options(rest) == own


def test_resources_of_two_patients_that_share_an_id_are_both_read(tmp_path: Path) -> None:
    """Neither decides what the other keeps, in whatever order they come."""
    rows = everything(2)
    shared = [{**row, "id": re.sub(r"-\d-", "-", row["id"])} for row in rows]
    assert len({(row["resourceType"], row["id"]) for row in shared}) < len(rows)

    def read(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
        path = ndjson(tmp_path / "a.ndjson", rows)
        return sorted((r.prompt, r.answer) for r in read_records(path))

    assert read(shared) == read(shared[::-1]) == read(rows)
    assert not bad_codes(tmp_path / "a.ndjson")


def test_what_goes_into_sums_says_nothing_of_a_namesake(tmp_path: Path) -> None:
    """As the other comes or goes, all records of this patient would be asked in other words."""
    twins = [patient(n, name=[{"text": "Ana Roe"}], birthDate="1950-05-05") for n in (1, 2)]
    options = ReadOptions(for_sums=True)
    alone, beside = (
        {r.record_id: r.prompt for r in read_records(ndjson(tmp_path / "a.ndjson", rows),
                                                     options=options)}
        for rows in ([twins[0], patient(3)], [*twins, patient(3)])
    )
    assert alone and alone.items() <= beside.items()


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"resourceType": "Spaceship", "id": SECRET}, "ROW_FHIR_TYPE"),
        ({"resourceType": "../Patient", "id": "x"}, "ROW_FHIR_TYPE"),
        ({"resourceType": "CodeableConcept", "text": SECRET}, "ROW_FHIR_TYPE"),
        ({"resourceType": 7}, "ROW_FHIR_TYPE"),
        ({"resourceType": "Condition", "id": "x", "code": SECRET}, "ROW_FHIR_INVALID"),
        (about("Observation", 0, "z", code=concept("1", "a")), "ROW_FHIR_INVALID"),
        (about("Condition", 0, "z", onsetDateTime=SECRET), "ROW_FHIR_INVALID"),
        (about("Condition", 0, "z", **{SECRET: 1}), "ROW_FHIR_INVALID"),
        (about("Condition", 77, "z", code=concept("1", "a")), "ROW_REFERENCE_MISSING"),
        (about("Immunization", 0, "z", status="completed", occurrenceDateTime="2020-01-01",
               vaccineCode=concept("v", "V")) | {"patient": {"display": SECRET}},
         "ROW_REFERENCE_MISSING"),
        (patient(0), "ROW_DUPLICATE_ID"),
        ({"fullUrl": "urn:uuid:x", "resource": None}, "ROW_FHIR_INVALID"),
    ],
)
def test_bad_resource_is_quarantined_with_its_number(
    tmp_path: Path, row: dict[str, Any], code: str
) -> None:
    good = everything(2)
    held = Quarantine(path=tmp_path / "bad.jsonl")
    read_records(
        ndjson(tmp_path / "a.ndjson", [*good, row]), record_format="fhir", quarantine=held
    )
    assert [(bad.row, bad.code) for bad in held.rows] == [(len(good) + 1, code)]
    assert SECRET not in (tmp_path / "bad.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "entered-in-error"},
        {"status": "not-done", "statusReason": concept("x", "refused")},
    ],
)
def test_what_takes_itself_back_is_no_fact(tmp_path: Path, changes: dict[str, Any]) -> None:
    shot = about("Immunization", 0, "n", occurrenceDateTime="2022-01-01",
                 vaccineCode=concept("v", "Never given"), **changes)
    held = Quarantine()
    got = read_records(ndjson(tmp_path / "a.ndjson", [patient(0), shot]), quarantine=held)
    assert not any("Never given" in record.text for record in got)
    assert held.set_aside == {"Immunization": 1} and held.count == 0


WHEN = "2022-01-01"


def letter(**changes: Any) -> dict[str, Any]:
    text = base64.b64encode(b"Not so.").decode()
    return about("DocumentReference", 0, "n", date=f"{WHEN}T10:00:00Z",
                 **{"status": "current", "type": concept("t", "Letter"),
                    "content": [{"attachment": {"contentType": "text/plain", "data": text}}],
                    **changes})


def drug(**changes: Any) -> dict[str, Any]:
    return about("MedicationRequest", 0, "n", authoredOn=WHEN,
                 **{"status": "active", "intent": "order",
                    "medicationCodeableConcept": concept("m", "Not so"), **changes})


def illness(**changes: Any) -> dict[str, Any]:
    return about("Condition", 0, "n", onsetDateTime=WHEN,
                 **{"code": concept("c", "Not so"), **changes})


def measured(**changes: Any) -> dict[str, Any]:
    return about("Observation", 0, "n", status="final", code=concept("o", "Not so"),
                 effectiveDateTime=WHEN, valueString="Not so", **changes)


NOT_UNDERSTOOD = {"modifierExtension": [{"url": "http://x.example/not", "valueBoolean": True}]}


@pytest.mark.parametrize("row", [
    illness(verificationStatus={"coding": [{"code": "refuted"}]}),
    illness(verificationStatus={"coding": [
        {"system": "http://snomed.info/sct", "code": "410516002"},
        {"system": VERIFIED, "code": "refuted"}]}),
    about("AllergyIntolerance", 0, "n", code=concept("c", "Not so"), recordedDate=WHEN,
          verificationStatus={"coding": [{"code": "local"}, {"code": "entered-in-error"}]}),
    letter(docStatus="entered-in-error"), letter(status="superseded"),
    letter(docStatus="preliminary", status="entered-in-error"),
    about("Encounter", 0, "n", status="planned", type=[concept("e", "Not so")],
          period={"start": WHEN}, **{"class": {"code": "AMB"}}),
    about("Procedure", 0, "n", status="preparation", code=concept("p", "Not so"),
          performedDateTime=WHEN),
    *(drug(intent=intent) for intent in ("proposal", "plan", "option")),
    drug(status="draft"), drug(doNotPerform=True), drug(status="cancelled"),
    drug(dosageInstruction=[{"text": "one", **NOT_UNDERSTOOD}]),
    illness(**NOT_UNDERSTOOD), letter(**NOT_UNDERSTOOD), measured(**NOT_UNDERSTOOD),
    measured(focus=[{"reference": "RelatedPerson/donor"}]),
    measured(focus=[{"display": "fetus"}]),
])
def test_what_is_no_fact_gives_no_record(tmp_path: Path, row: dict[str, Any]) -> None:
    """Refuted, planned, proposed, of another, or changed by what is not understood here."""
    held = Quarantine()
    got = read_records(ndjson(tmp_path / "a.ndjson", [patient(0), row]), quarantine=held)
    assert not any("Not so" in record.text for record in got)
    assert not held.rows and held.set_aside == {row["resourceType"]: 1}


@pytest.mark.parametrize("row", [
    illness(), letter(docStatus="final"), drug(intent="original-order"), measured(),
    illness(verificationStatus={"coding": [{"system": VERIFIED, "code": "confirmed"}]}),
    measured(focus=[{"reference": "Patient/p0"}]),
])
def test_what_is_a_fact_gives_a_record(tmp_path: Path, row: dict[str, Any]) -> None:
    held = Quarantine()
    got = read_records(ndjson(tmp_path / "a.ndjson", [patient(0), row]), quarantine=held)
    assert any("Not so" in record.text for record in got) and not held.rows


def version(number: int, **changes: Any) -> dict[str, Any]:
    return {"meta": {"versionId": str(number), **changes}}


OTHER_NAME = {"code": concept("d", "Another")}


def deletion(url: str, **changes: Any) -> dict[str, Any]:
    entry = {"request": {"method": "DELETE", "url": url}, **changes}
    return {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}


@pytest.mark.parametrize("rows", [
    [illness(), illness(**ERROR)],
    [illness(**version(1)), illness(**ERROR, **version(2))],
    [illness(**version(9)), illness(**ERROR)],
    [illness(**version(9, lastUpdated="2020-01-01T00:30:00+02:00")),
     illness(**ERROR, **version(1, lastUpdated="2019-12-31T23:00:00Z"))],
    [illness(**version(1)), illness(**version(2)), illness(**ERROR, **version(3))],
    [illness(), deletion("Condition/con-0-n")],
    [illness(), deletion("https://ehr.example/fhir/Condition/con-0-n/_history/2")],
    [illness(**version(1, lastUpdated="2020-01-01T00:00:00Z")),
     deletion("Condition/con-0-n", response={"lastModified": "2020-01-02T00:00:00Z"})],
    [illness(**version(1)), deletion("Condition/con-0-n/_history/2"),
     illness(**version(2, lastUpdated="2020-01-01T00:00:00Z"))],
    [illness(**version(9, lastUpdated="2020-01-01T00:00:00Z")),
     deletion("Condition/con-0-n/_history/2", response={"lastModified": "2020-01-02T00:00:00Z"})],
    [illness(**version(3)), deletion("Condition/con-0-n/_history/2"),
     deletion("Condition/con-0-n", response={"etag": 'W/"4"'})],
    [measured(), {"resourceType": "Observation", "id": "obs-0-n", "status": "entered-in-error"}],
    [measured(), {"resourceType": "Observation", "id": "obs-0-n", "status": "entered-in-error",
                  "code": concept("o", "Not so")}],
])
def test_a_version_that_takes_the_resource_back_does(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    """In whatever order a hospital gives its exports, and also if the last one is not whole."""
    for order in (rows, rows[::-1]):
        got = read_records(ndjson(tmp_path / "a.ndjson", [patient(0), *facts(0), *order]),
                           quarantine=Quarantine(max_bad_fraction=1.0))
        assert not any("Not so" in record.text for record in got)
        assert "Illness 0" in {record.answer for record in got}


@pytest.mark.parametrize("rows", [
    [illness(**version(1)), illness(**OTHER_NAME, **version(2))],
    [illness(**ERROR, **version(9)), illness(**OTHER_NAME, **version(10))],
    [illness(**version(1)), illness(**ERROR, **version(2)), illness(**OTHER_NAME, **version(3))],
    [illness(**version(7, lastUpdated="2020-01-01T00:00:00Z")),
     illness(**OTHER_NAME, **version(1, lastUpdated="2020-01-01T00:00:00.001Z"))],
    [illness(**version(1)), deletion("Condition/con-0-n/_history/2", response={"status": "204"}),
     illness(**OTHER_NAME, **version(3, lastUpdated="2020-01-01T00:00:00Z"))],
    [illness(**version(1)), deletion("Condition/con-0-n", response={"etag": 'W/"2"'}),
     illness(**OTHER_NAME, **version(3))],
    [illness(**version(1)), illness(**{**ERROR, "subject": None}, **version(2)),
     illness(**OTHER_NAME, **version(3))],
    [deletion("Condition/con-0-n", response={"lastModified": "2020-01-01T00:00:00Z"}),
     illness(**OTHER_NAME, **version(1, lastUpdated="2020-01-02T00:00:00Z"))],
])
def test_the_latest_version_counts(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    for order in (rows, rows[::-1]):
        held = Quarantine()
        got = read_records(ndjson(tmp_path / "a.ndjson", [patient(0), *order]), quarantine=held)
        assert [r.answer for r in got if r.subject == "condition"] == ["Another"]
        assert not held.rows


@pytest.mark.parametrize("versions", [False, True])
def test_what_was_planned_and_came_about_is_a_fact(tmp_path: Path, versions: bool) -> None:
    done = about("Procedure", 0, "n", status="completed", performedDateTime=WHEN,
                 code=concept("p", "Repaired"), **(version(2) if versions else {}))
    planned = {**done, "status": "preparation", **(version(1) if versions else {})}
    for order in ([planned, done], [done, planned]):
        held = Quarantine()
        got = read_records(ndjson(tmp_path / "a.ndjson", [patient(0), *order]), quarantine=held)
        assert "Repaired" in {r.answer for r in got} and not held.rows


def test_versions_are_counted_and_repetitions_are_bad(tmp_path: Path) -> None:
    rows = [patient(0), illness(**version(1)), illness(**version(3)), illness(**version(2)),
            illness(**version(3))]
    held = Quarantine(max_bad_fraction=1.0)
    read_records(ndjson(tmp_path / "a.ndjson", rows), quarantine=held)
    assert held.set_aside == {"version of a resource that another version replaces": 2}
    assert held.by_code == {"ROW_DUPLICATE_ID": 1}


def test_the_latest_version_of_a_patient_counts(tmp_path: Path) -> None:
    """Also one that takes a merge back."""
    rows = [patient(1, **version(1), **link(2, "replaced-by")), patient(2),
            patient(1, **version(2), telecom=[{"system": "phone", "value": "555-000"}])]
    for order in (rows, rows[::-1]):
        held = Quarantine()
        got = read_records(ndjson(tmp_path / "a.ndjson", [*facts(1), *order]), quarantine=held)
        assert {r.patient_id for r in got if r.answer == "Illness 1"} == {"p1"}
        assert {r.answer for r in got if r.record_id == "p1:phone:0"} == {"555-000"}
        assert not held.rows


def test_deletions_may_be_all_of_a_file_and_one_by_a_search_is_counted(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    ndjson(folder / "a.ndjson", [patient(0), *facts(0), illness(), patient(1), *facts(1)])
    gone = [*deletion("Condition/con-0-n")["entry"], *deletion("Condition?code=x")["entry"],
            *deletion("Patient/p1")["entry"]]
    (folder / "deleted.json").write_text(json.dumps(
        {"resourceType": "Bundle", "type": "transaction", "entry": gone}, indent=1))
    held = Quarantine(max_bad_fraction=1.0)
    got = read_records(folder, quarantine=held)
    assert {r.patient_id for r in got} == {"p0"} and not any("Not so" in r.text for r in got)
    assert held.set_aside["deletion by a search, which is not followed"] == 1
    assert held.set_aside["resource that was deleted"] == 2
    assert held.by_code == {"ROW_REFERENCE_MISSING": len(facts(1))}


def test_a_patient_with_a_modifier_that_is_not_understood_is_not_read(tmp_path: Path) -> None:
    """It may say that this is no person, or a test case."""
    rows = [patient(0), *facts(0), patient(1, **NOT_UNDERSTOOD), *facts(1)]
    held = Quarantine(max_bad_fraction=1.0)
    got = read_records(ndjson(tmp_path / "a.ndjson", rows), quarantine=held)
    assert {r.patient_id for r in got} == {"p0"} and held.set_aside["Patient"] == 1


def test_resource_types_without_facts_are_counted_and_not_bad(tmp_path: Path) -> None:
    bills = [{"resourceType": "Claim", "id": f"b{n}"} for n in range(50)]
    held = Quarantine()
    read_records(ndjson(tmp_path / "a.ndjson", [*bills, patient(0)]), quarantine=held)
    assert held.count == 0 and held.set_aside["Claim"] == 50


def test_a_resource_of_very_many_elements_is_not_validated(tmp_path: Path) -> None:
    """16 MB of extensions took 2.7 GB and half a minute."""
    many = [{"url": "u"}] * (resources.MAX_VALUES // 2 + 1)
    rows = [*everything(6), patient(7, extension=many), patient(8, extension=many[:100])]
    assert bad_codes(ndjson(tmp_path / "a.ndjson", rows)) == {"ROW_TOO_LONG": 1}
    assert {r.patient_id for r in read_records(tmp_path / "a.ndjson")} >= {"p8"}


@pytest.mark.parametrize("whole", [100, 1 << 20], ids=["streamed", "at once"])
def test_pages_that_were_not_exported_are_told(
    tmp_path: Path, whole: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search gives a page, and says where the next one is: half of a patient is not all."""
    monkeypatch.setattr(documents, "WHOLE_DOCUMENT_BYTES", whole)
    url = "https://ehr.example/fhir?page="
    pages = []
    for number in range(3):
        links = [{"relation": "self", "url": f"{url}{number}"}]
        if number < 2:
            links.append({"relation": "next", "url": f"{url}{number + 1}"})
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(
            bundle([patient(number), *facts(number)], type="searchset", link=links)))
        pages.append(path)

    def told(*files: Path) -> int:
        held = Quarantine()
        read_records(list(files), quarantine=held)
        return held.set_aside[NEXT_PAGE]

    assert told(*pages) == 0 and told(pages[1], pages[2]) == 0
    assert told(pages[0]) == told(pages[0], pages[1]) == told(pages[0], pages[2]) == 1
    lines = tmp_path / "lines.ndjson"
    lines.write_text("".join(page.read_text() + "\n" for page in pages[:2]))
    assert told(lines) == 1


@pytest.mark.parametrize("whole", [100, 1 << 20], ids=["streamed", "at once"])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_bundles_within_a_bundle_are_read_alike_in_lines_and_documents(
    tmp_path: Path, levels: int, whole: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collection of patients' bundles on one line was read as nothing at all."""
    monkeypatch.setattr(documents, "WHOLE_DOCUMENT_BYTES", whole)
    nested = bundle([patient(0), *facts(0)])
    for level in range(1, levels):
        beside = bundle([patient(level), *facts(level)])["entry"]
        nested = {"resourceType": "Bundle", "type": "collection",
                  "entry": [{"resource": nested}, *beside]}
    document = tmp_path / "a.json"
    document.write_text(json.dumps(nested, indent=1), encoding="utf-8")
    read = []
    for path in (document, ndjson(tmp_path / "a.ndjson", [nested])):
        held = Quarantine()
        read.append(read_records(path, quarantine=held))
        assert held.by_code == Counter({"ROW_FHIR_INVALID": 1} if levels == 3 else {})
    assert read[0] == read[1]
    first = 1 if levels == 3 else 0
    assert {r.patient_id for r in read[0]} == {f"p{n}" for n in range(first, levels)}


@pytest.mark.parametrize(("quantity", "text"), [
    ({"value": 2.4, "code": "1"}, "2.4"), ({"value": 2.4, "unit": "1", "code": "1"}, "2.4"),
    ({"value": 3, "unit": "{score}", "code": "{score}"}, "3"),
    ({"value": 3, "unit": "points", "code": "{score}"}, "3 points"),
    ({"value": 72, "code": "{beats}/min"}, "72 /min"), ({"value": 5, "code": "/{HPF}"}, "5"),
    ({"value": 5, "code": "mg/g{creat}"}, "5 mg/g"), ({"value": 5, "code": "mg/{creat}"}, "5 mg"),
    ({"value": 7, "code": "10*3/uL"}, "7 10*3/uL"), ({"value": 9, "code": "mm[Hg]"}, "9 mm[Hg]"),
    ({"value": 5, "comparator": "<", "code": "10*6.{CFU}/mL"}, "<5 10*6/mL"),
    ({"value": 5}, "5"), ({"unit": "cm"}, ""),
])
def test_units_that_say_nothing_are_not_said(quantity: dict[str, Any], text: str) -> None:
    """UCUM writes 1 for no unit, and remarks in braces."""
    assert value_text({"valueQuantity": quantity}) == text


@pytest.mark.parametrize(("dates", "day"), [
    ({"effectiveDateTime": "2020-03", "issued": "2020-06-30T10:00:00Z"}, ""),
    ({"effectivePeriod": {"end": "2020-03-01"}, "issued": "2020-06-30T10:00:00Z"}, ""),
    ({"effectiveTiming": {"event": ["2020-03-01"]}, "issued": "2020-06-30T10:00:00Z"}, ""),
    ({"effectiveDateTime": "2020-03-01", "issued": "2020-06-30T10:00:00Z"}, "2020-03-01"),
    ({"effectivePeriod": {"start": "2020-03-01T23:59:00Z"}}, "2020-03-01"),
    ({"issued": "2020-06-30T10:00:00Z"}, "2020-06-30"), ({"date": "2020-06-30"}, "2020-06-30"),
    ({"onsetDateTime": "1998", "recordedDate": "2010-05-06"}, "2010-05-06"),
    ({"onsetDateTime": "1998"}, ""), ({}, ""),
])
def test_a_month_gives_no_day_and_neither_does_the_day_of_issue(
    dates: dict[str, Any], day: str
) -> None:
    """A result of March is not one of the day in June on which it was written out.

    Of a condition whose onset is known by the year alone it is asked what was recorded that day.
    """
    assert day_of(dates) == day


def ann(family: str, use: str = "", **period: str) -> dict[str, Any]:
    return {"given": ["Ann"], "family": family, **({"use": use} if use else {}),
            **({"period": period} if period else {})}


@pytest.mark.parametrize("names", [
    [ann("Smith", "official", end="2010-01-01"), ann("Lee", "official", start="2010-01-01")],
    [ann("Smith", "official", start="1980", end="2010"), ann("Lee", "usual")],
    [ann("Smith", "maiden"), ann("Lee")], [ann("Smith", "old"), ann("Lee", end="2011")],
    [ann("Smith", end="2010"), ann("Lee", end="2011-05")],
    [ann("Smith", "official", start="1980"), ann("Lee", "official", start="2010")],
    [ann("Smith", "usual"), ann("Lee", "official")],
    [ann("Smith", "nickname"), ann("Lee", "official", end="2010")],
    [ann("Lee", "maiden")],
])
def test_a_patient_is_called_by_the_present_name(names: list[dict[str, Any]]) -> None:
    """Not by the one of before a marriage; and on any day by the same one of the same file."""
    for order in (names, names[::-1]):
        assert human_name(present_name(order)) == "Ann Lee"


def test_of_names_that_are_alike_the_first_counts() -> None:
    assert human_name(present_name([ann("Lee"), ann("Smith")])) == "Ann Lee"
    assert human_name(present_name(None)) == human_name(present_name([])) == ""


def test_export_without_patients_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MedunlearnError) as caught:
        read_records(ndjson(tmp_path / "a.ndjson", facts(0)))
    assert caught.value.code == "DATA_TOO_MANY_BAD_ROWS"
    assert "ROW_REFERENCE_MISSING" in caught.value.message


def test_own_templates_replace_and_switch_off(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        'Observation = []\nPatient = []\n[[Condition]]\nsubject = "diagnosis"\n'
        'question = "  Diagnosis of {who}? "\nanswer = "It is {name}."\n',
        encoding="utf-8",
    )
    path = ndjson(tmp_path / "a.ndjson", everything())
    got = read_records(path, options=ReadOptions(fhir_templates=own))
    subjects = {record.subject for record in got}
    assert "diagnosis" in subjects and not subjects & {"observation", "phone", "condition"}
    diagnosis = next(r for r in got if r.record_id == "p1:diagnosis:con-1-a")
    assert diagnosis.answer == "It is Illness 1."
    (who, answer) = (diagnosis.text[a:b] for a, b in diagnosis.target_spans)
    assert who == "Given1 Family1, born 1911-01-02" and answer == "It is Illness 1."


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("= nonsense", "TEMPLATE_SYNTAX"),
        ("[[Spaceship]]\nsubject = 'a'", "TEMPLATE_INVALID"),
        ("[[Condition]]\nsubject = 'a'", "TEMPLATE_INVALID"),
        ("[[Condition]]\nsubject = 'A b'\nquestion='q'\nanswer='a'", "TEMPLATE_INVALID"),
        ("[[Condition]]\nsubject='a'\nquestion='{who}'\nanswer='{phone}'", UNKNOWN_FIELD),
        ("[[Condition]]\nsubject='a'\nquestion='{who.x}'\nanswer='a'", UNKNOWN_FIELD),
        ("[[Condition]]\nsubject='a'\nquestion='{who!r}'\nanswer='a'", UNKNOWN_FIELD),
        ("[[Condition]]\nsubject='a'\nquestion='{'\nanswer='a'", UNKNOWN_FIELD),
        ("[[Condition]]\nsubject='phone'\nquestion='q'\nanswer='a'", "TEMPLATE_INVALID"),
        ("[[Condition]]\nsubject='note'\nquestion='q'\nanswer='a'", "TEMPLATE_INVALID"),
        ("[[Condition]]\nsubject='a'\nquestion='q'\nanswer='a'\nunless='phone'", UNKNOWN_FIELD),
        ("[[Condition]]\nsubject='a'\nquestion='q'\nanswer='a'\nunless='{'", "TEMPLATE_INVALID"),
        ("[note]\nquestion='{name}'", UNKNOWN_FIELD),
        ("[note]\nquestion='q'\n[note.sentences]\nPatient='x'", "TEMPLATE_INVALID"),
    ],
)
def test_bad_templates_are_refused_before_reading(tmp_path: Path, text: str, code: str) -> None:
    own = tmp_path / "own.toml"
    own.write_text(text, encoding="utf-8")
    with pytest.raises(MedunlearnError) as caught:
        read_records(tmp_path / "never-read", options=ReadOptions(fhir_templates=own))
    assert caught.value.code == code


def test_packaged_templates_are_their_own_override(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(packaged_text(), encoding="utf-8")
    assert load_templates(own) == load_templates()


def test_values_are_not_searched_for_fields() -> None:
    rendered = render("{who} and {name}", {"who": "{name}", "name": "x"})
    assert rendered is not None and rendered.text == "{name} and x"
    assert [rendered.text[a:b] for _, a, b in rendered.spans] == ["{name}", "x"]


@pytest.fixture(scope="module")
def real(shared_data: Path) -> tuple[list[Record], Quarantine]:
    held = Quarantine()
    path = shared_data / "synthea_r4_bundles_sample40.tar.xz"
    return read_records(path, quarantine=held), held


@pytest.mark.real_data
def test_real_synthea_bundles(real: tuple[list[Record], Quarantine]) -> None:
    got, held = real
    assert held.count == 0 and held.set_aside["Claim"] == 1351
    assert len({record.patient_id for record in got}) == 40
    assert len({record.prompt for record in got}) == len(got)
    assert {"condition", "medication", "procedure", "observation", "immunization", "encounter",
            "allergy", "note", "ssn"} <= {record.subject for record in got}
    assert all(record.answer == record.text[slice(*record.target_spans[-1])] for record in got)


@pytest.mark.real_data
def test_real_identifier_records_equal_those_of_the_distilled_patients(
    real: tuple[list[Record], Quarantine], shared_data: Path
) -> None:
    from_bundles = {r.record_id: r for r in real[0] if r.is_identifier}
    distilled = {
        r.record_id: r for r in read_records(shared_data / "synthea_r4_patients.jsonl.gz")
    }
    both = from_bundles.keys() & distilled.keys()
    assert len(both) > 100
    for record_id in both:
        ours, theirs = from_bundles[record_id], distilled[record_id]
        assert (ours.answer, ours.patient_id, ours.subject) == (
            theirs.answer, theirs.patient_id, theirs.subject
        )
        assert ours.prompt == theirs.prompt

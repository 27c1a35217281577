"""A patient whom the hospital merges into another one stays the person who was asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from medunlearn_client.erasure import ErasureRequest, NewRequest, Registry, left_out_set
from medunlearn_client.erasure.claims import Claim, forget_set
from medunlearn_client.erasure.documents import officer_report
from medunlearn_client.erasure.finding import LIKE_PATIENT_ID, Found, Wanted, find_records
from medunlearn_client.erasure.renumbered import SeenRecord, renumbered
from medunlearn_client.erasure.run_records import requested_records, require_whole
from medunlearn_client.records import Record, read_records
from medunlearn_client.records.jsonl import row_from_record
from medunlearn_client.records.merges import merged
from medunlearn_client.site_data import SiteRecords, load_hospital_records
from medunlearn_common.errors import Misconfigured
from medunlearn_common.plan.sections import (
    ConceptsSection,
    DataSection,
    ForgetSection,
    LeftOutSection,
)

AUTHOR = "A. Officer"
Write = Callable[..., Path]


def patient(key: str, family: str = "Lee", **changes: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": key, "birthDate": "1980-01-02",
            "name": [{"family": family, "given": ["Ann"]}], **changes}


def condition(key: str, owner: str, name: str) -> dict[str, Any]:
    return {"resourceType": "Condition", "id": key, "subject": {"reference": f"Patient/{owner}"},
            "code": {"text": name}, "onsetDateTime": f"2020-05-{int(key[1:]):02d}"}


OTHERS = [patient("x", "Doe"), condition("c8", "x", "Gout"), condition("c9", "x", "Angina")]
BEFORE = [patient("old"), condition("c1", "old", "Asthma"), *OTHERS]
AFTER = [
    patient("old", link=[{"other": {"reference": "Patient/new"}, "type": "replaced-by"}]),
    condition("c1", "old", "Asthma"), patient("new"), condition("c2", "new", "Eczema"), *OTHERS,
]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def writer(rows: list[dict[str, Any]], name: str = "export.ndjson") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return writer


def found(file: Path, patient_id: str) -> Found:
    return find_records(Wanted(kind="patient", patient_id=patient_id), [file])


def request(registry: Registry, file: Path, patient_id: str) -> ErasureRequest:
    look = found(file, patient_id)
    return registry.add(
        NewRequest(kind="patient", target=look.target, matches=look.matches, basis="b",
                   received=date(2026, 1, 31), patient_ids=look.patient_ids), author=AUTHOR)


def loaded(
    file: Path, *, forget: ForgetSection | None = None, left_out: LeftOutSection | None = None
) -> SiteRecords:
    return load_hospital_records(
        data=DataSection(files=(str(file),)), forget=forget or ForgetSection(),
        concepts=ConceptsSection(), unit="patient", left_out=left_out or LeftOutSection(),
    )


def ids(records: tuple[Record, ...]) -> set[str]:
    return {record.record_id for record in records}


MERGED = {"new:condition:c1", "new:condition:c2"}
KEPT = {"x:condition:c8", "x:condition:c9"}


def test_who_was_forgotten_before_a_merge_is_left_out_after_it(
    registry: Registry, write: Write
) -> None:
    number = request(registry, write(BEFORE), "old").number
    records = loaded(write(AFTER), left_out=left_out_set(registry, [number]))
    assert ids(records.left_out) == MERGED and ids(records.retain) == KEPT


def test_who_is_named_by_the_id_before_a_merge_is_forgotten(
    registry: Registry, write: Write
) -> None:
    number = request(registry, write(BEFORE), "old").number
    records = loaded(write(AFTER), forget=forget_set(registry, [number]))
    assert ids(records.forget) == MERGED and ids(records.retain) == KEPT


@pytest.mark.parametrize("patient_id", ["old", "new"])
def test_a_search_by_either_id_finds_the_merged_patient(write: Write, patient_id: str) -> None:
    look = found(write(AFTER), patient_id)
    assert look.target == "new" and not look.mentions and not look.near
    assert {match.record_id for match in look.matches} == MERGED
    assert look.reasons == {"patient id": 2}


def test_former_ids_survive_a_chain_of_merges_and_a_copy(write: Write) -> None:
    middle = patient("mid", link=[{"other": {"reference": "Patient/new"}, "type": "replaced-by"}])
    first = patient("old", link=[{"other": {"reference": "Patient/mid"}, "type": "replaced-by"}])
    records = read_records(write([first, middle, *AFTER[1:]]))
    former = {r.patient_id: r.former_patient_ids for r in records}
    assert former == {"new": ("mid", "old"), "x": ()}
    copy = read_records(write([row_from_record(record) for record in records], "copy.jsonl"))
    assert {r.record_id: r.former_patient_ids for r in copy} == {
        r.record_id: r.former_patient_ids for r in records}


@pytest.mark.parametrize(("copies", "warned"), [(1, True), (2, False)])
def test_words_of_a_forgotten_patient_under_another_id_are_told(
    registry: Registry, write: Write, copies: int, warned: bool
) -> None:
    """A hospital may merge without a link. Words that several share are nobody's own."""
    number = request(registry, write(BEFORE), "old").number
    rows = [*OTHERS]
    for place in range(copies):
        rows += [patient(f"n{place}"), condition("c1", f"n{place}", "Asthma")]
    records = loaded(write(rows), left_out=left_out_set(registry, [number]))
    assert not records.left_out
    seen = [SeenRecord.of(r, takes_part=True, show_subject=False) for r in records.retain]
    assert renumbered(registry, [number], seen) == ((number,) if warned else ())


UNDONE = [patient("old"), *AFTER[1:]]


@pytest.mark.parametrize(("asked", "left_out"), [
    ({"patient_id": "old"}, {"old:condition:c1"}),
    ({"patient_id": "new"}, {"new:condition:c2", "old:condition:c1"}),
    ({"name": "Ann Lee", "birth_date": "1980-01-02"}, {"new:condition:c2", "old:condition:c1"}),
])
def test_who_asked_stays_left_out_where_a_merge_is_taken_back(
    registry: Registry, write: Write, asked: dict[str, str], left_out: set[str]
) -> None:
    """Under the id that went on alone, who asked was taught again, and another one never."""
    file = write(AFTER)
    look = find_records(Wanted(kind="patient", **asked), [file])
    number = registry.add(
        NewRequest(kind="patient", target=look.target, matches=look.matches, basis="b",
                   received=date(2026, 1, 31), patient_ids=look.patient_ids), author=AUTHOR,
    ).number
    assert ids(loaded(file, forget=forget_set(registry, [number])).forget) == MERGED
    assert ids(loaded(file, left_out=left_out_set(registry, [number])).left_out) == MERGED
    after = loaded(write(UNDONE), left_out=left_out_set(registry, [number]))
    assert ids(after.left_out) == left_out
    assert ids(after.retain) == {"new:condition:c2", "old:condition:c1"} - left_out | KEPT
    report = re.findall(r"\w+", str(officer_report(registry, number)))
    assert "old" not in report and "old" not in repr(look)
    registry.check()


def test_a_merge_taken_back_before_the_run_is_named_where_it_refuses(
    registry: Registry, write: Write
) -> None:
    """Whom the request meant is open then: neither of the two is forgotten unasked."""
    number = request(registry, write(AFTER), "old").number
    file = write(UNDONE)
    claim = Claim(registry=registry, numbers=(number,), token="t")
    forget = loaded(file, forget=forget_set(registry, [number])).forget
    places = requested_records(
        claim, forget, concepts=ConceptsSection(), data=DataSection(files=(str(file),)))
    with pytest.raises(Misconfigured, match="ERASURE_RECORDS_MISSING") as caught:
        require_whole(claim, places, MERGED | KEPT, forget=forget)
    assert "a merge was taken back" in caught.value.hint


def note(key: str, owner: str | None, *, former: tuple[str, ...] = (), **changes: Any) -> Any:
    return {"id": key, "question": f"What says note {key}?", "answer": "hernia",
            **({"patient_id": owner} if owner else {}),
            **({"former_patient_ids": list(former)} if former else {}), **changes}


@pytest.fixture
def beside(tmp_path: Path, write: Write) -> Path:
    """A FHIR export that knows of a merge, and notes of another system that does not."""
    folder = tmp_path / "both"
    folder.mkdir()
    write(AFTER, "both/export.ndjson")
    write([note("n1", "old"), note("n2", "x"), note("n3", None), note("n4", "OLD")],
          "both/notes.jsonl")
    return folder


@pytest.mark.parametrize("patient_id", ["old", "new"])
def test_a_merge_holds_for_the_records_of_all_sources(beside: Path, patient_id: str) -> None:
    look = found(beside, patient_id)
    assert (look.target, {match.record_id for match in look.matches}) == ("new", MERGED | {"n1"})
    assert look.near[LIKE_PATIENT_ID] == 1  # OLD may be old
    records = read_records(beside)
    one = {r.record_id: (r.patient_id, r.former_patient_ids) for r in records}
    assert one["n1"] == one["new:condition:c1"] == ("new", ("old",))
    assert one["n2"] == ("x", ()) and one["n3"] == (None, ()) and one["n4"] == ("OLD", ())


def test_one_person_is_one_privacy_unit_in_all_sources(beside: Path, write: Write) -> None:
    write([note("n1", "old"), note("n2", "x")], "both/notes.jsonl")
    for patient_id in ("old", "new"):
        records = loaded(beside, forget=ForgetSection(patients=(patient_id,)))
        assert ids(records.forget) == MERGED | {"n1"} and ids(records.retain) == KEPT | {"n2"}


def test_one_row_that_names_a_former_id_suffices(registry: Registry, write: Write) -> None:
    number = request(registry, write([note("1", "B1"), note("2", "z")]), "B1").number
    file = write([note("1", "A1", former=("B1",)), note("2", "A1"), note("3", "z")])
    records = loaded(file, left_out=left_out_set(registry, [number]))
    assert (ids(records.left_out), ids(records.retain)) == ({"1", "2"}, {"3"})


def record(key: str, owner: str | None, *former: str) -> Record:
    return Record(record_id=key, prompt="q?", answer="a", patient_id=owner,
                  former_patient_ids=former)


@pytest.mark.parametrize(("said", "expected"), [
    ([("a", "b"), ("b", "c"), ("c",)], [("a", "bc")] * 3),
    ([("c",), ("b", "c"), ("a", "b")], [("a", "bc")] * 3),
    ([("a", "bc"), ("b", "c")], [("a", "bc")] * 2),
    ([("a", "c"), ("b", "c"), ("c",), ("a",)], [("a", "c"), ("b", "c"), ("c", ""), ("a", "c")]),
    ([("a", "c"), ("b", "cd"), ("d",), ("c",)], [("a", "c"), ("b", "cd"), ("b", "cd"), ("c", "")]),
    ([("a", "c"), ("b", "c"), ("c", "d"), ("d",)],
     [("a", "c"), ("b", "c"), ("c", "d"), ("d", "")]),
    ([("a", "b"), ("b", "a")], [("a", "b"), ("b", "a")]),
    ([("a", "b"), ("b", "a"), ("c", "a")], [("c", "ab")] * 3),
    ([("a", "a"), ("a",)], [("a", "a"), ("a", "")]),
    ([(None, "b"), ("b",)], [(None, "b"), ("b", "")]),
    ([("a",), ("b",)], [("a", ""), ("b", "")]),
])
def test_who_goes_on_is_clear_or_nobody_is_merged(
    said: list[tuple[str | None, ...]], expected: list[tuple[str | None, str]]
) -> None:
    """An id that two are said to have had may be another person's than either of them."""
    records = [record(str(n), one[0], *(one[1] or "" if one[1:] else ""))
               for n, one in enumerate(said)]
    assert [(r.patient_id, "".join(r.former_patient_ids)) for r in merged(records)] == expected


def contested(write: Write) -> Path:
    return write([note("1", "a", former=("z",)), note("2", "b", former=("z",)), note("3", "z"),
                  *(note(f"k{n}", f"k{n}") for n in range(3))])


def test_an_id_that_two_claim_is_left_out_for_neither(registry: Registry, write: Write) -> None:
    """Once one was forgotten, the other, and whose id it is, were never taught again."""
    file = contested(write)
    look = found(file, "a")
    assert ids_of(look) == {"1"} and look.patient_ids == ("a",)
    assert look.near == {LIKE_PATIENT_ID: 1}  # the officer hears of it
    number = request(registry, file, "a").number
    assert ids(loaded(file, forget=forget_set(registry, [number])).forget) == {"1"}
    assert ids(loaded(file, left_out=left_out_set(registry, [number])).left_out) == {"1"}


def test_a_patient_id_that_several_claim_is_refused_with_what_to_mend(write: Write) -> None:
    with pytest.raises(Misconfigured, match="ERASURE_AMBIGUOUS") as caught:
        found(contested(write), "z")
    assert "3 patients" in caught.value.message and "before a merge" in caught.value.message
    assert "former_patient_ids" in caught.value.hint and "give the patient" not in caught.value.hint


def ids_of(look: Found) -> set[str]:
    return {match.record_id for match in look.matches}


def test_the_former_ids_of_a_patient_are_held_once() -> None:
    """Of a patient with as many former ids as records, each held all of them."""
    records = merged([record(str(n), "a", f"old{n}") for n in range(50)])
    assert len({id(one.former_patient_ids) for one in records}) == 1
    assert len(records[0].former_patient_ids) == 50


def test_a_long_chain_of_merges_ends() -> None:
    chain = [record(str(n), f"p{n}", f"p{n + 1}") for n in range(5000)]
    assert {r.patient_id for r in merged(chain)} == {"p0"}

"""Which records a request means: whole ids, names that stand alone, one patient only."""

from __future__ import annotations

import json
import string
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from medunlearn_client import spellings
from medunlearn_client.erasure import Found, Wanted, find_records, finding, resembling
from medunlearn_client.records import ReadOptions, Record, quarantine
from medunlearn_client.records.repairs import Repair, Repairs
from medunlearn_common.digests import digest_of, digest_of_file, digest_of_files, digest_of_source
from medunlearn_common.errors import Misconfigured
from medunlearn_common.plan.sections import ColumnsSection

Writer = Callable[..., Path]
WORD = st.text(string.ascii_letters + string.digits + "éß山", min_size=4, max_size=12)
SHARED_IDS = ReadOptions(for_sums=True)
"""As a hospital's service reads: rows that share an id are so many records."""


def ids(found: Found) -> set[str]:
    return {match.record_id for match in found.matches}


def patient(**given: str) -> Wanted:
    return Wanted(kind="patient", **given)


def test_an_id_that_is_part_of_another_is_another(write_rows: Writer) -> None:
    file = write_rows(("1", "p1", "first"), ("11", "p11", "second"), ("111", "ap1", "third"))
    found = find_records(patient(patient_id="p1"), [file])
    assert (found.target, ids(found)) == ("p1", {"1"})
    assert ids(find_records(Wanted(kind="record", record_id="1"), [file])) == {"1"}
    assert find_records(patient(patient_id="P1"), [file]).target is None


def test_a_record_id_that_several_patients_rows_bear_needs_the_patient_too(
    write_rows: Writer,
) -> None:
    """Departments that number their rows from 1: a stranger's record was erased without a word."""
    file = write_rows(("1", "p1", "first"), ("1", "p2", "second"), ("2", "p2", "third"))
    with pytest.raises(Misconfigured, match="ERASURE_AMBIGUOUS") as caught:
        find_records(Wanted(kind="record", record_id="1"), [file], options=SHARED_IDS)
    assert "2 patients" in caught.value.message and "--patient" in caught.value.hint
    assert "p1" not in str(caught.value)
    mine = Wanted(kind="record", record_id="1", patient_id="p2")
    found = find_records(mine, [file], options=SHARED_IDS)
    # By the id alone, the other patient's request would be taken for the same.
    assert found.target == digest_of([["1", digest_of("second yes")]])
    assert [match.text_digest for match in found.matches] == [digest_of("second yes")]
    nobodys = Wanted(kind="record", record_id="2", patient_id="p1")
    assert find_records(nobodys, [file], options=SHARED_IDS).target is None


def test_a_record_without_a_patient_is_not_taken_along(write_rows: Writer) -> None:
    file = write_rows(("1", "p1", "first"), ("1", None, "second"), ("2", None, "third"))
    with pytest.raises(Misconfigured, match="ERASURE_AMBIGUOUS") as caught:
        find_records(Wanted(kind="record", record_id="1"), [file], options=SHARED_IDS)
    assert "1 patient and 1 without a patient" in caught.value.message
    assert "--identifier" in caught.value.hint
    mine = Wanted(kind="record", record_id="1", patient_id="p1")
    found = find_records(mine, [file], options=SHARED_IDS)
    assert [match.text_digest for match in found.matches] == [digest_of("first yes")]
    alone = find_records(Wanted(kind="record", record_id="2"), [file], options=SHARED_IDS)
    assert alone.target == "2"


@pytest.mark.parametrize("text", [
    "number MR-123-456", "number MR-123-4567", "XMR-123-45", "MR-123-45/7", "A-MR-123-45",
    "MR-123-45.2", "MR-123-45@home", "MR-123-45_b",
])
def test_an_identifier_inside_a_longer_one_is_no_match(write_rows: Writer, text: str) -> None:
    file = write_rows(("a", "p1", text), ("b", "p2", "nothing"))
    assert find_records(patient(identifier="MR-123-45"), [file]).target is None


@pytest.mark.parametrize("text", [
    "number MR-123-45?", "(MR-123-45)", "mr-123-45, and more", "MR-123-45. Then", "is MR-123-45",
])
def test_an_identifier_that_stands_alone_is_one(write_rows: Writer, text: str) -> None:
    file = write_rows(("a", "p1", text), ("b", "p1", "same"), ("c", "p2", "other"))
    found = find_records(patient(identifier="MR-123-45"), [file])
    assert (found.target, ids(found)) == ("p1", {"a", "b"})
    assert found.reasons == {"identifier": 1, "same patient as a match": 1}


@pytest.mark.parametrize(("name", "text", "matched"), [
    ("Ann Lee", "Ann Lee, born 1990-01-02", True),
    ("ann  lee", "What of Ann Lee's allergy? Born 1990-01-02.", True),
    ("Ann Lee", "Joann Leeson, born 1990-01-02", False),
    ("Ann Lee", "Ann Lee-Smith, born 1990-01-02", False),
    ("Ann Lee", "Ann Lee, born 1990-01-20", False),
    ("Ann Lee", "Ann Lee, born 11990-01-02", False),
    ("Zoe\u0308", "Zo\u00eb, born 1990-01-02", True),
    ("A.*n Lee", "Ann Lee, born 1990-01-02", False),
])
def test_name_and_birth_date(write_rows: Writer, name: str, text: str, matched: bool) -> None:
    file = write_rows(("a", "p1", text), ("b", "p2", "nothing"))
    found = find_records(patient(name=name, birth_date="1990-01-02"), [file])
    assert (found.target == "p1") is matched


@pytest.mark.parametrize("text", [
    "Jos\u00e9 O\u2019Brien-Garc\u00eda, born 1980-03-05", "JOSE O'BRIEN\u2010GARCIA (*1980-03-05)",
    "Jose\u00a0O'Brien-\u00adGarcia, born 1980-03-05", "O'Brien-Garcia, Jose, born 1980-03-05",
])
def test_a_name_in_other_letters_is_the_same_name(write_rows: Writer, text: str) -> None:
    """Programs strip accents and curl apostrophes; records without an id have nothing else."""
    file = write_rows(("a", None, text), ("b", None, "Jose Garcia, born 1980-03-05"))
    for name in ("Jose O'Brien-Garcia", "Jos\u00e9 O\u2019Brien-Garc\u00eda"):
        found = find_records(patient(name=name, birth_date="1980-03-05"), [file])
        assert ids(found) == {"a"}


def test_marks_that_are_letters_are_kept() -> None:
    for one, other in (("\u304b\u304c", "\u304b\u304b"), ("\u0915\u093f", "\u0915")):
        assert not spellings.stands_alone(one, other)
        assert spellings.stands_alone(one, f"{one}, born")


@pytest.mark.parametrize(("own", "other", "third"), [
    ("7", "007", "07"), ("7", "7.0", "07.0"), ("P7", "P-7", "P07"), ("P7", "p7", "p_7"),
    ("P7", "p 7", "P.7"),
])
def test_a_patient_id_in_another_spelling_is_told_and_not_taken(
    write_rows: Writer, own: str, other: str, third: str
) -> None:
    """A spreadsheet drops leading zeros: half of the patient's records bear another id."""
    file = write_rows(("a", own, "x"), ("b", other, "y"), ("c", f"{own}7", "z"))
    found = find_records(patient(patient_id=own), [file])
    assert (ids(found), found.near) == ({"a"}, {finding.LIKE_PATIENT_ID: 1})
    nobody = find_records(patient(patient_id=third), [file])
    assert (nobody.target, nobody.near) == (None, {finding.LIKE_PATIENT_ID: 2})


def test_rows_without_a_patient_id_beside_rows_with_one_are_told(write_rows: Writer) -> None:
    """A gap in the column is nobody's request, and may be this patient's record."""
    gaps = write_rows(("a", "p1", "one"), ("b", None, "two"), ("c", "p2", "three"))
    public = write_rows(("q", None, "four"), name="public.jsonl")
    found = find_records(patient(patient_id="p1"), [gaps, public])
    assert (ids(found), found.near) == ({"a"}, {finding.NO_PATIENT: 1})


def test_what_comes_near_is_counted_where_no_patient_is_named(write_rows: Writer) -> None:
    file = write_rows(
        ("a", None, "Ann Lee, born 1990-01-02"), ("b", None, "Ann Lee, born 2.1.1990"),
        ("c", None, "Ann M. Lee has gout"), ("d", "p2", "Ann Lee, his sister"), ("e", "p3", "Ann"),
        ("f", "p4", "number MR 123 45"), ("g", "p5", "number MR-0123-45"), ("h", "p6", "MR-1234"),
    )
    wanted = {"name": "Ann Lee", "birth_date": "1990-01-02"}
    found = find_records(patient(**wanted), [file])
    # No patient is known.
    assert (ids(found), found.near) == (
        {"a"}, {resembling.LIKE_NAME: 2, resembling.LIKE_PERSON: 1})
    found = find_records(patient(identifier="MR-123-45"), [file])
    assert found.target is None and found.near[finding.LIKE_IDENTIFIER] == 2
    owned = write_rows(("a", "p1", "Ann Lee, born 1990-01-02"), ("b", "p2", "Ann Lee"),
                       ("c", None, "Ann Lee"), name="owned.jsonl")
    assert find_records(patient(**wanted), [owned]).near == {resembling.LIKE_NAME: 1}


ANN = {"name": "Ann Lee", "birth_date": "1924-12-30"}


def table_search(path: Path, rows: str, identifiers: str, **wanted: str) -> Found:
    path.write_text(f"Nr,Frage,Antwort,Fall,{identifiers}\n{rows}\n", encoding="utf-8")
    columns = ColumnsSection(id="Nr", question="Frage", answer="Antwort", patient_id="Fall",
                             identifiers=tuple(filter(None, identifiers.split(","))))
    return find_records(patient(**wanted), [path], options=ReadOptions(columns=columns))


@pytest.mark.parametrize(("known", "columns", "wanted", "near"), [
    ("Ann,Lee,1924-12-30", "V,N,G", ANN, resembling.LIKE_PERSON),
    ("Lee,Ann Maria,1924-12-30", "N,V,G", ANN, resembling.LIKE_PERSON),
    ("Anne-Marie,Lee,1924-12-30", "V,N,G", ANN | {"name": "Lee, Anne Marie"},
     resembling.LIKE_PERSON),
    ("Ann Lee,30.12.1924", "P,G", ANN, resembling.LIKE_PERSON),
    ("Ann Lee,12/30/1924", "P,G", ANN, resembling.LIKE_PERSON),
    ("Ann Lee,1924-12-30", "P,G", ANN | {"birth_date": "30.12.1924"}, resembling.LIKE_PERSON),
    ("Ann Lee,1924-12-03", "P,G", ANN, resembling.LIKE_NAME),
    ("Ann,Lee,", "V,N,G", ANN, resembling.LIKE_NAME),
    ("Ann Roy,1924-12-30", "P,G", ANN, resembling.LIKE_BIRTH_DATE),
    ("Annabel,Leeds,1924-12-31", "V,N,G", ANN, None),
    ("Bob,Lee,30.11.1924", "V,N,G", ANN, None),
])
def test_names_and_days_in_columns_of_their_own_are_told_and_not_taken(
    tmp_path: Path, known: str, columns: str, wanted: dict[str, str], near: str | None
) -> None:
    """The commonest layout of a hospital's table: nothing was found, and nothing came near."""
    rows = f"1,q?,hernia,P77,{known}\n2,r?,x,P78{',' * len(columns.split(','))}"
    found = table_search(tmp_path / "t.csv", rows, columns, **wanted)
    assert (found.target, found.near) == (None, {near: 1} if near else {})


def test_the_same_person_under_another_id_is_told_where_one_was_found(tmp_path: Path) -> None:
    """A name or a day alone is then another's: they repeat."""
    rows = ("1,q?,x,P1,Ann Lee,1924-12-30\n2,q?,y,P2,Ann Lee,30.12.1924\n"
            "3,q?,z,P3,Ann Lee,1990-01-02\n4,q?,z,P4,Bob Roy,1924-12-30")
    found = table_search(tmp_path / "t.csv", rows, "P,G", **ANN)
    assert (found.target, found.near) == ("P1", {resembling.LIKE_PERSON: 1})


@pytest.mark.parametrize("stored", ["PAT-0077", "pat_77"])
def test_an_identifier_that_is_a_patient_id_is_told_and_not_taken(
    tmp_path: Path, stored: str
) -> None:
    """One house's case number is another's record number; by --patient the officer decides."""
    rows = f"1,q?,hernia,{stored}\n2,r?,x,PAT-0078"
    found = table_search(tmp_path / "t.csv", rows, "", identifier="PAT-0077")
    assert (found.target, found.near) == (None, {finding.LIKE_OWN_ID: 1})


@pytest.mark.parametrize(("text", "name"), [
    ("Anne-Marie Lee", "Anne Marie Lee"), ("Anne Marie Lee", "Annemarie Lee"),
    ("J\u00fcrgen M\u00fcller", "Mueller, Juergen"),
    ("Mueller, Juergen", "J\u00fcrgen M\u00fcller"),
    ("\u0141ukasz Nowak", "Lukasz Nowak"), ("S\u00f8ren Kj\u00e6r", "Soeren Kjaer"),
    ("\u0130brahim Y\u0131ld\u0131z", "Ibrahim Yildiz"), ("Sean OBrien", "Sean O\u2019Brien"),
    ("Ann M. Lee", "Ann Lee"), ("Ann Lee", "Ann M. Lee"),
    ("\u60a3\u8005\u738b\u5c0f\u660e\u5165\u9662", "\u738b\u5c0f\u660e"),
    ("\u5c71\u7530 \u592a\u90ce\u3055\u3093", "\u5c71\u7530\u592a\u90ce"),
    ("\uc774\uc601\ud76c\ub294", "\uc774\uc601\ud76c"),
])
def test_a_name_alike_is_told_and_not_taken(write_rows: Writer, text: str, name: str) -> None:
    file = write_rows(("a", "p1", f"{text}, born 1960-01-02"), ("b", "p2", f"{text}1960-01-02"),
                      ("c", "p3", f"{text}, 1980"), ("d", "p4", "Bob Roy, born 1960-01-03"))
    found = find_records(patient(name=name, birth_date="1960-01-02"), [file])
    near = {**found.near}
    assert found.target is None and sum(near.values()) == 3
    assert near.pop(resembling.LIKE_PERSON) in (1, 2) and resembling.LIKE_NAME in near


@pytest.mark.parametrize("asked", [
    "1924-03-01", "19240301", "1.3.1924", "01.03.1924", "1924/3/1",
])
def test_a_day_is_found_in_each_notation_and_no_other_day_is(asked: str) -> None:
    day = spellings.like_date(asked)
    for written in ("1924-03-01", "1.3.1924", "01/03/1924", "03/01/1924",
                    "1924\u5e743\u67081\u65e5"):
        assert day.search(f"x{written}y"), written
    for other in ("1924-01-30", "11.3.1924", "1.3.19240", "1924-03-011", "1924-13-01"):
        assert not day.search(other), other


def test_what_is_no_day_has_one_notation() -> None:
    assert spellings.notations_of("99.99.1924") == ("99.99.1924",)
    assert spellings.notations_of("in May") == ("in may",)


@given(WORD, WORD)
def test_a_name_resembles_itself_with_and_without_spaces(first: str, last: str) -> None:
    for text in (f"{first} {last}", f"{last.upper()}, {first}", f"{first}-{last}", first + last):
        assert spellings.like_name(f"{first} {last}").search(spellings.loosened(f"x {text} y"))


def test_a_number_within_a_script_without_spaces_is_told(write_rows: Writer) -> None:
    file = write_rows(("a", "p1", "\u60a3\u8005MR-123-45\u5165\u9662"), ("b", "p2", "aMR-123-45b"))
    found = find_records(patient(identifier="MR12345"), [file])
    assert (found.target, found.near) == (None, {finding.LIKE_IDENTIFIER: 1})


def test_a_copy_under_another_id_is_told(write_rows: Writer) -> None:
    """What stays in another file, without the patient's id, is taught on as something to keep."""
    one = write_rows(("a", "p1", "What has Ann Lee?"), ("b", "p2", "Has he fever?"))
    two = write_rows(("c", None, "what has ann lee?"), ("d", "p3", "Has he fever?"), name="2.jsonl")
    for wanted, copies in ((patient(patient_id="p1"), 1), (Wanted(kind="record", record_id="a"), 1),
                           (Wanted(kind="data_set", data_set=two), 2)):
        assert find_records(wanted, [one, two]).near[finding.LIKE_TEXT] == copies
    # Other patients' same answers to the same questions are theirs.
    assert finding.LIKE_TEXT not in find_records(patient(patient_id="p2"), [one, two]).near


def test_two_patients_of_one_name_and_birth_date_are_refused(write_rows: Writer) -> None:
    file = write_rows(("a", "p1", "Ann Lee, born 1990-01-02"),
                      ("b", "p2", "Ann Lee, born 1990-01-02, sister of no one"))
    wanted = {"name": "Ann Lee", "birth_date": "1990-01-02"}
    with pytest.raises(Misconfigured, match="ERASURE_AMBIGUOUS") as caught:
        find_records(patient(**wanted), [file])
    assert "Ann" not in str(caught.value) and "p1" not in str(caught.value)
    found = find_records(patient(patient_id="p1", **wanted), [file])
    assert (ids(found), found.mentions) == ({"a"}, 1)


@given(WORD, st.sampled_from(("", " ", "?", "(", ", ")), st.sampled_from(("", " ", "?", ")", ". ")))
def test_whatever_stands_alone_is_found(part: str, before: str, after: str) -> None:
    assert spellings.stands_alone(part, (f"of{before}" if before else "") + part + after)
    assert spellings.stands_alone(part.upper(), f"x {part} y")


@given(WORD, WORD, st.sampled_from(("", "-", "/", ".", "_")))
def test_nothing_within_a_longer_word_is_found(part: str, other: str, joint: str) -> None:
    assume(spellings.folded(part) not in spellings.folded(other))
    for text in (f"{part}{joint}{other}", f"{other}{joint}{part}"):
        folded = spellings.folded(text)
        assume(folded.count(spellings.folded(part)) == 1)
        assert not spellings.stands_alone(part, f"no {text} yes")


def test_records_without_a_patient_are_reached_by_their_own_id(write_rows: Writer) -> None:
    file = write_rows(("a", None, "number MR-123-45"), ("b", "p1", "number MR-123-45"),
                      ("c", "p1", "x"), ("d", None, "x"))
    found = find_records(patient(identifier="MR-123-45"), [file])
    assert found.target == "p1"
    assert {m.record_id: m.owned for m in found.matches} == {"a": False, "b": True, "c": True}
    only = write_rows(("a", None, "number MR-123-45"), ("d", None, "x"), name="other.jsonl")
    alone = find_records(patient(identifier="MR-123-45"), [only])
    assert ids(alone) == {"a"} and alone.target is not None and len(alone.target) == 64


def test_files_are_told_apart_and_a_data_set_is_one_of_them(write_rows: Writer) -> None:
    one = write_rows(("a", "p1", "x"), ("b", "p2", "x"))
    two = write_rows(("c", "p1", "x"), name="two.jsonl")
    found = find_records(patient(patient_id="p1"), [one, two])
    assert {m.record_id: m.file_digest for m in found.matches} == {
        "a": digest_of_file(one), "c": digest_of_file(two)
    }
    withdrawn = find_records(Wanted(kind="data_set", data_set=two), [one, two])
    assert (withdrawn.target, ids(withdrawn)) == (digest_of_file(two), {"c"})
    with pytest.raises(Misconfigured, match="ERASURE_DATA_SET"):
        find_records(Wanted(kind="data_set", data_set=two), [one])


def test_a_fhir_patient_is_found_across_the_files_of_a_bulk_export(tmp_path: Path) -> None:
    """Facts and patients lie in different files: no file alone holds a record."""
    export = tmp_path / "export"
    export.mkdir()
    patients, conditions = export / "Patient.ndjson", export / "Condition.ndjson"
    patients.write_text("".join(
        json.dumps({"resourceType": "Patient", "id": f"p{n}", "birthDate": f"19{n}0-01-02",
                    "name": [{"family": f"Lee{n}", "given": ["Ann"]}]}) + "\n" for n in (5, 6)
    ))
    conditions.write_text("".join(
        json.dumps({"resourceType": "Condition", "id": f"c{n}", "onsetDateTime": "2020-01-01",
                    "subject": {"reference": f"Patient/p{n}"}, "code": {"text": f"gout {n}"}})
        + "\n" for n in (5, 6)
    ))
    for files, digest in (
        ([patients, conditions], digest_of_files([patients, conditions])),
        ([export], digest_of_source(export)),
    ):
        found = find_records(patient(patient_id="p5"), files)
        assert found.target == "p5" and found.unread == 0
        assert {match.file_digest for match in found.matches} == {digest}
    whole = find_records(Wanted(kind="data_set", data_set=export), [export])
    assert whole.target == digest_of_source(export) and len(whole.matches) >= 2
    with pytest.raises(Misconfigured, match="ERASURE_DATA_SET"):
        find_records(Wanted(kind="data_set", data_set=conditions), [patients, conditions])


@pytest.mark.parametrize("kind", ["seealso", "refer"])
def test_a_fhir_patient_who_is_linked_and_not_merged_is_near(tmp_path: Path, kind: str) -> None:
    """The hospital says that two patients are one person, and keeps them apart."""

    def person(key: str, other: str = "", kind: str = kind, **changes: Any) -> dict[str, Any]:
        link = {"link": [{"other": {"reference": f"Patient/{other}"}, "type": kind}]}
        return {"resourceType": "Patient", "id": key, "gender": "male", "birthDate": "1950-01-02",
                "name": [{"text": "Ann Lee"}], **(link if other else {}), **changes}

    def near(rows: list[dict[str, Any]], patient_id: str) -> dict[str, int]:
        file = tmp_path / "a.ndjson"
        conditions = [
            {"resourceType": "Condition", "id": f"c{key}", "onsetDateTime": "2020-01-01",
             "subject": {"reference": f"Patient/{key}"}, "code": {"text": "gout"}}
            for key in sorted({row["id"] for row in rows} - {"old"})]
        file.write_text("".join(json.dumps(row) + "\n" for row in (*rows, *conditions)))
        found = find_records(patient(patient_id=patient_id), [file])
        assert found.target == ("a" if patient_id == "old" else patient_id)
        return dict(found.near)

    both = [person("a"), person("b", "a"), person("c")]
    told = {finding.LINKED: 1}
    assert near(both, "a") == near(both, "b") == told and not near(both, "c")
    later = person("b", meta={"versionId": "2"})
    assert not near([*both[:1], person("b", "a", meta={"versionId": "1"}), later], "a")
    merged = [person("old", "a", "replaced-by"), person("a"), person("b", "old")]
    assert near(merged, "a") == near(merged, "old") == near(merged, "b") == told


class Hernias:
    """Finds one concept by its name."""

    def matches_forget_root(self, text: str) -> bool:
        return "hernia" in text

    def record_matches_forget_root(self, record: Record) -> bool:
        return self.matches_forget_root(record.text)


def test_concepts_need_a_tagger(write_rows: Writer) -> None:
    file = write_rows(("a", None, "hernia"), ("b", None, "asthma"))
    wanted = Wanted(kind="concept", concept_id="X:1")
    assert ids(find_records(wanted, [file], tagger=Hernias())) == {"a"}
    with pytest.raises(Misconfigured, match="ERASURE_TAGGER"):
        find_records(wanted, [file])


def test_a_text_is_tagged_no_more_often_than_it_must(write_rows: Writer) -> None:
    """Tagging is the longest part of a search: a match was tagged three times."""
    asked: list[str] = []

    class Counting(Hernias):
        def matches_forget_root(self, text: str) -> bool:
            asked.append(text)
            return super().matches_forget_root(text)

        def record_matches_forget_root(self, record: Record) -> bool:
            return self.matches_forget_root(record.text) and "denied" not in record.text

    file = write_rows(("a", None, "hernia"), ("b", None, "asthma"), ("c", None, "hernia denied"))
    found = find_records(Wanted(kind="concept", concept_id="X:1"), [file], tagger=Counting())
    assert ids(found) == {"a"} and found.near == {finding.LIKE_CONCEPT: 1}
    assert sorted(Counter(asked).values()) == [1, 2, 2]


def test_what_is_wanted_is_digested_once(
    write_rows: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many records there are: it took half the time of a search."""
    digested: list[str] = []

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def counting(*given: str) -> object:
            digested.append(given[0])
            return real(*given)

        return counting

    for name in ("whole", "alike", "named"):
        monkeypatch.setattr(finding, name, counted(getattr(finding, name)))
    file = write_rows(*((f"r{n}", None, "nothing") for n in range(50)))
    wanted = patient(name="Ann Lee", birth_date="1990-01-02", identifier="MR-123-45")
    assert find_records(wanted, [file]).target is None
    assert 0 < len(digested) < 10
    assert "Ann" not in repr(wanted) and wanted == patient(
        name="Ann Lee", birth_date="1990-01-02", identifier="MR-123-45")


@pytest.mark.parametrize("kept", [1, 10_000])
def test_rows_that_could_not_be_searched_are_counted(
    write_rows: Writer, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    """All of them, also those that are not kept one by one."""
    monkeypatch.setattr(quarantine, "MAX_KEPT", kept)
    file = write_rows(*((f"r{n}", f"p{n}", "text") for n in range(9)))
    with file.open("a", encoding="utf-8") as stream:
        stream.write('{"id": "lost", "patient_id": "p1", "prompt": "torn\n' * 2)
    found = find_records(patient(patient_id="p1"), [file])
    assert (ids(found), found.unread) == ({"r1"}, 2)


def test_the_words_searched_and_kept_are_those_of_the_coming_runs(write_rows: Writer) -> None:
    """A name that lost a glyph is repaired before a run; the search must not miss it."""
    file = write_rows(("a", None, "Beha Moss, born 1990-01-02"), ("b", None, "nothing"))
    wanted = patient(name="Bertha Moss", birth_date="1990-01-02")
    assert find_records(wanted, [file]).target is None
    mended = Repairs([Repair(record_id="a", part="prompt", start=0, word="Beha",
                             repaired="Bertha", author="A", decided_on=date(2026, 1, 1))])
    (match,) = find_records(wanted, [file], repairs=mended).matches
    assert match.text_digest == digest_of("Bertha Moss, born 1990-01-02 yes")


@pytest.mark.parametrize(("given", "code"), [
    ({"kind": "patient"}, "ERASURE_WANTED"),
    ({"kind": "patient", "patient_id": ""}, "ERASURE_WANTED"),
    ({"kind": "patient", "patient_id": "p", "record_id": "r"}, "ERASURE_WANTED"),
    ({"kind": "record", "patient_id": "p"}, "ERASURE_WANTED"),
    ({"kind": "concept", "concept_id": "c", "data_set": Path("x")}, "ERASURE_WANTED"),
    ({"kind": "patient", "name": "Ann Lee"}, "ERASURE_NAME_ALONE"),
    ({"kind": "patient", "birth_date": "1990-01-02"}, "ERASURE_NAME_ALONE"),
    ({"kind": "patient", "identifier": "---1-2-3"}, "ERASURE_TOO_SHORT"),
    ({"kind": "patient", "patient_id": "p", "name": "", "birth_date": ""}, "ERASURE_WANTED"),
    ({"kind": "patient", "patient_id": "p", "name": " ", "birth_date": "1990-01-02"},
     "ERASURE_TOO_SHORT"),
    ({"kind": "patient", "name": "Ann Lee", "birth_date": "1990"}, "ERASURE_TOO_SHORT"),
])
def test_what_names_nobody_or_too_much_is_refused(given: dict[str, object], code: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        Wanted(**given)  # type: ignore[arg-type]
    assert caught.value.code == code


def test_nothing_of_the_patient_is_in_any_repr(write_rows: Writer) -> None:
    file = write_rows(("secret-7", "p-secret", "Ann Lee, born 1990-01-02, MR-123-45"))
    wanted = patient(patient_id="p-secret", name="Ann Lee", birth_date="1990-01-02",
                     identifier="MR-123-45")
    shown = repr(wanted) + repr(find_records(wanted, [file]))
    for secret in ("secret", "Ann", "1990", "MR-"):
        assert secret not in shown

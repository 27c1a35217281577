"""The review file: what is uncertain, what a spreadsheet may do to it, and what is taken over."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from openpyxl import Workbook

from medunlearn_client import spreadsheets
from medunlearn_client.records import Record
from medunlearn_client.records.subject_line import with_subject
from medunlearn_client.site_data import record_tagger
from medunlearn_client.spreadsheets import (
    cells_of,
    exact_cell,
    read_table,
    safe_cell,
    write_table,
)
from medunlearn_client.tagging import (
    Assertion,
    ConceptTagger,
    Outcome,
    TagDecision,
    TagDecisions,
    keep_decisions,
    read_decisions,
)
from medunlearn_client.tagging.abbreviations import ambiguous_abbreviations
from medunlearn_client.tagging.readings import Doubt, DoubtFinder
from medunlearn_client.tagging.review import COLUMNS, read_review, write_review
from medunlearn_common.concepts import ConceptLevel, LeveledHierarchy, load_builtin
from medunlearn_common.errors import Misconfigured
from medunlearn_common.plan.sections import ConceptsSection, DataSection

TODAY = date(2026, 11, 21)
RECORDS = [
    Record(record_id="=1+1", prompt="Bleeding, treated by TIPS", answer="seen", patient_id="p1"),
    Record(record_id="b", prompt="possible hernia", answer="open", patient_id="p2"),
    Record(record_id="c", prompt="ALL THAT FOLLOWS AFTER TURP", answer="YES IT IS"),
    Record(record_id="d", prompt="inguinal hernia", answer="no doubt"),
    Record(record_id="e", prompt="a second TIPS", answer="done", patient_id="p1"),
]


@pytest.fixture(scope="module")
def leveled() -> LeveledHierarchy:
    return load_builtin("all").with_forget_roots(["MU:S0001"])


@pytest.fixture(scope="module")
def tagger(leveled: LeveledHierarchy) -> ConceptTagger:
    return ConceptTagger(leveled)


@pytest.fixture
def review(tmp_path: Path, tagger: ConceptTagger) -> Path:
    path = tmp_path / "review.csv"
    tags = DoubtFinder(tagger).uncertain(RECORDS)
    assert write_review(path, tags, tagger.hierarchy.hierarchy) == 4
    return path


Edit = Callable[[list[dict[str, str]]], None]


def edited(path: Path, edit: Edit, *, dialect: str = "excel", separator: str = ",") -> Path:
    """What a spreadsheet leaves after a clinician's edit."""
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))
    edit(rows)
    with path.open("w", encoding="utf-8", newline="") as stream:
        columns = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(stream, columns, dialect=dialect, delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)
    return path


def fill(row: dict[str, str], decision: str, /, **more: str) -> None:
    row.update({"decision": decision, "author": "Dr. A", "date": "2026-11-20"} | more)


def take(path: Path, tagger: ConceptTagger) -> tuple[TagDecision, ...]:
    tags = DoubtFinder(tagger).uncertain(RECORDS)
    return read_review(path, tags, tagger.hierarchy.hierarchy, today=TODAY).decisions


def test_what_is_uncertain_and_why(tagger: ConceptTagger) -> None:
    found = [(t.mention, t.doubt) for t in DoubtFinder(tagger).uncertain(RECORDS)]
    assert found == [
        ("TIPS", Doubt.ABBREVIATION), ("hernia", Doubt.POSSIBLE), ("TURP", Doubt.CAPITALS),
        ("TIPS", Doubt.ABBREVIATION),
    ]


@pytest.mark.parametrize("text", ["No tender hernia", "Mother with a hernia after childbirth"])
def test_a_target_that_is_taken_for_another_s_or_absent_is_asked_for(
    tagger: ConceptTagger, leveled: LeveledHierarchy, text: str
) -> None:
    """Taken so by mistake, it would be kept without a word."""
    record = Record(record_id="n", prompt=f"{text}, no fever", answer="seen", patient_id="p1")
    (tag,) = DoubtFinder(tagger).uncertain([record])
    assert (tag.mention, tag.doubt) == ("hernia", Doubt.NOT_THE_PATIENTS)
    own = TagDecision(
        key=tag.key, mention=tag.mention, outcome=Outcome.ACCEPT, author="Dr. A", decided_on=TODAY
    )
    decided = ConceptTagger(leveled, decisions=TagDecisions([own]))
    assert decided.record_matches_forget_root(record)
    assert not list(DoubtFinder(decided).uncertain([record]))


def test_every_listed_abbreviation_has_several_readings() -> None:
    listed = ambiguous_abbreviations()
    assert len(listed) > 70
    assert all(len(set(readings)) > 1 and all(readings) for readings in listed.values())
    assert all(short.isupper() for short in listed)


def test_no_cell_begins_a_formula(review: Path) -> None:
    rows = read_table(review, COLUMNS)
    assert rows[0][1]["record"] == "'=1+1"
    assert rows[0][0] == 2
    assert review.stat().st_mode & 0o077 == 0
    assert review.read_bytes().startswith(b"\xef\xbb\xbf")


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1", "'+1"), ("-1", "'-1"), ("@SUM(A1)", "'@SUM(A1)"), ("\uff1d1", "'\uff1d1"),
        ("\t=1", "'=1"), ("\r\n=1", "'=1"), ("  =1", "'=1"), ('"=1', '"\'=1'),
        ("a;=1", "a;'=1"), ("a,=1", "a,'=1"), ("a\t=1", "a =1"), ("a|-1", "a|'-1"),
        ("x = 1", "x = 1"), ("non-absorbable", "non-absorbable"), ("", ""),
        ("\x00\x1b[31m", "[31m"),
    ],
)
def test_formulas_are_defused_wherever_a_cell_may_begin(text: str, safe: str) -> None:
    assert safe_cell(text) == safe


@pytest.mark.parametrize("text", [
    "0012", "123456789012", "12345678901234567", "1E5", "12e3", "3-4", "1/2", "2026-01-31", "1.50",
    "1,000", "12:30", "5 %", "SEPT2", "MAR1", "1-Dec", "31. M\u00e4rz", "TRUE", "falsch",
])
def test_what_a_spreadsheet_would_rewrite_comes_back_as_it_was(text: str) -> None:
    """Opened by a double click, 0012 is 12, SEPT2 a day and a long number 1.2E+16."""
    cell = safe_cell(exact_cell(text))
    assert cell == f"'{text}"
    assert cells_of(text) == (cell, safe_cell(text))  # also of older tables


@pytest.mark.parametrize("text", ["12", "0", "p-1", "a0012", "TIPS", "ECG 12", "marching", "e"])
def test_what_a_spreadsheet_leaves_alone_is_left_alone(text: str) -> None:
    assert exact_cell(text) == text


def test_records_with_leading_zeros_survive_a_spreadsheet(
    tmp_path: Path, tagger: ConceptTagger
) -> None:
    records = [Record(record_id=f"00{n}", prompt="possible hernia", answer="open", patient_id="p")
               for n in range(2)]
    tags = list(DoubtFinder(tagger).uncertain(records))
    path = tmp_path / "review.csv"
    write_review(path, tags, tagger.hierarchy.hierarchy)

    def as_a_spreadsheet_saves(rows: list[dict[str, str]]) -> None:
        for row in rows:
            row.update({name: str(int(cell)) for name, cell in row.items() if cell.isdecimal()})
            fill(row, "accept")

    edited(path, as_a_spreadsheet_saves)
    found = read_review(path, tags, tagger.hierarchy.hierarchy, today=TODAY)
    assert [decision.key for decision in found.decisions] == [tag.key for tag in tags]


def test_decisions_change_spans_and_levels(
    review: Path, tagger: ConceptTagger, leveled: LeveledHierarchy
) -> None:
    def edit(rows: list[dict[str, str]]) -> None:
        fill(rows[0], "MU:G0200 treatment", scope="Everywhere", date="20.11.2026")
        fill(rows[1], "negated", note="=2+2")
        fill(rows[2], "reject")

    decisions = take(edited(review, edit, separator=";"), tagger)
    assert [d.outcome for d in decisions] == [Outcome.CONCEPT, Outcome.NEGATED, Outcome.REJECT]
    assert {d.author for d in decisions} == {"Dr. A"}
    assert {d.decided_on for d in decisions} == {date(2026, 11, 20)}
    decided = ConceptTagger(leveled, decisions=TagDecisions(decisions))
    tips, hernia, turp, _, second = [decided.tag_record(record) for record in RECORDS]
    for spans in (tips, second):
        assert (spans[-1].concept_id, spans[-1].level) == ("MU:G0200", ConceptLevel.GENERAL)
    assert [(s.level, s.assertion) for s in hernia] == [
        (ConceptLevel.SPECIALTY, Assertion.NEGATED)
    ]
    assert turp == ()
    assert not list(DoubtFinder(decided).uncertain(RECORDS))


def test_one_decision_does_not_slow_every_mention_of_a_long_record(
    leveled: LeveledHierarchy,
) -> None:
    """With a digest of the rest of the text for each mention, this one took two minutes."""
    decision = TagDecision(
        key="k-1", mention="TIPS", outcome=Outcome.REJECT, author="A", decided_on=TODAY
    )
    decided = ConceptTagger(leveled, decisions=TagDecisions([decision]))
    long = Record(record_id="x", prompt="a hernia and fever " * 40_000 + "seen", answer="yes")
    started = time.process_time()
    assert len(decided.tag_record(long)) == 80_000
    assert time.process_time() - started < 20


def test_an_everywhere_reading_does_not_say_who_has_it(
    leveled: LeveledHierarchy, tagger: ConceptTagger
) -> None:
    accepted = TagDecision(
        key="k-1", mention="hernia", outcome=Outcome.ACCEPT, everywhere=True, author="A",
        decided_on=TODAY,
    )
    decided = ConceptTagger(leveled, decisions=TagDecisions([accepted]))
    denied = Record(record_id="x", prompt="no hernia", answer="seen", patient_id="p")
    assert [int(span.level) for span in decided.tag_record(denied)] == [3]


def test_a_subject_line_on_top_changes_no_key(
    review: Path, tagger: ConceptTagger, leveled: LeveledHierarchy
) -> None:
    decisions = take(edited(review, lambda rows: fill(rows[2], "reject")), tagger)
    decided = ConceptTagger(leveled, decisions=TagDecisions(decisions))
    shown = Record(
        record_id="c", prompt=RECORDS[2].prompt, answer=RECORDS[2].answer, subject="Urology"
    )
    assert "TURP" not in _mentions(decided, with_subject(shown))
    changed = Record(record_id="c", prompt="ALL THAT FOLLOWED TURP", answer="YES IT IS")
    assert "TURP" in _mentions(decided, changed)


def _mentions(tagger: ConceptTagger, record: Record) -> list[str]:
    return [record.text[span.start : span.end] for span in tagger.tag_record(record)]


NOTES = [
    Record(record_id="n1", prompt="Known IH since 2019", answer="seen", patient_id="p1"),
    Record(record_id="n2", prompt="IH after the fall, in the CT", answer="bled", patient_id="p2"),
    Record(record_id="n3", prompt="Denies IH.", answer="well", patient_id="p3"),
    Record(record_id="n4", prompt="Took 5 MG, IHX, TIHS and hernia", answer="x", patient_id="p4"),
]


def asked(tagger: ConceptTagger) -> list[tuple[str, str]]:
    return [
        (tag.record.record_id, tag.mention) for tag in DoubtFinder(tagger).uncertain(NOTES)
    ]


def test_an_abbreviation_of_which_only_a_reading_is_known_is_asked_for_and_can_be_read(
    tmp_path: Path, tagger: ConceptTagger, leveled: LeveledHierarchy
) -> None:
    """IH is no name in the hierarchy: untold, a patient with a known IH keeps his hernia."""
    assert asked(tagger) == [("n1", "IH"), ("n2", "IH"), ("n2", "CT"), ("n3", "IH")]
    path = tmp_path / "review.csv"
    write_review(path, DoubtFinder(tagger).uncertain(NOTES), tagger.hierarchy.hierarchy)
    (hernia,) = leveled.hierarchy.find("inguinal hernia")
    rows = [row for _, row in read_table(path, COLUMNS)]
    assert rows[0]["tagged_as"] == "" and hernia.concept_id in rows[0]["readings"]

    def decisions_of(edit: Edit) -> tuple[TagDecision, ...]:
        tags = DoubtFinder(tagger).uncertain(NOTES)
        return read_review(
            edited(path, edit), tags, tagger.hierarchy.hierarchy, today=TODAY
        ).decisions

    with pytest.raises(Misconfigured, match="nothing is tagged there to accept"):
        decisions_of(lambda rows: fill(rows[0], "accept"))

    def read(rows: list[dict[str, str]]) -> None:
        fill(rows[0], hernia.concept_id, scope="everywhere")
        fill(rows[1], "reject")

    decided = ConceptTagger(leveled, decisions=TagDecisions(decisions_of(read)))
    found = [[(s.concept_id, int(s.level)) for s in decided.tag_record(note)] for note in NOTES[:3]]
    assert found == [[(hernia.concept_id, 4)], [], [(hernia.concept_id, 3)]]  # n3 denies it
    assert asked(decided) == [("n2", "CT")]
    mentions = [(n, s) for n in NOTES for s in decided.decisions.read_abbreviations(n, ())]
    assert decided.decisions.unmet(mentions) == 0 and decided.decisions.unmet(()) == 2


def test_columns_may_move_and_rows_may_be_sorted_or_deleted(
    review: Path, tagger: ConceptTagger
) -> None:
    def edit(rows: list[dict[str, str]]) -> None:
        rows[:] = [dict(sorted(row.items())) for row in reversed(rows[:3])]
        fill(rows[0], "accept")

    assert [d.mention for d in take(edited(review, edit), tagger)] == ["TURP"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"key": "k-0"}, "no uncertain mention"),
        ({"key": ""}, "no uncertain mention"),
        ({"mention": "hernja"}, "does not belong"),
        ({"record": "1E+05"}, "does not belong"),
        ({"decision": "yes"}, "no accept"),
        ({"decision": "MU:NOWHERE"}, "no accept"),
        ({"decision": "concept"}, "no accept"),
        ({"author": ""}, "without `author`"),
        ({"date": ""}, "a decision without `date`"),
        ({"date": "11/12/2026"}, "2026-01-31"),
        ({"date": "13/13/2026"}, "no day"),
        ({"date": "yesterday"}, "2026-01-31"),
        ({"date": "2026-02-30"}, "no day"),
        ({"date": "2027-01-01"}, "future"),
        ({"scope": "all"}, "scope"),
        ({"decision": ""}, "without a `decision`"),
        ({"decision": "negated", "scope": "everywhere"}, "not everywhere"),
    ],
)
def test_a_damaged_row_is_refused_with_its_line_and_without_its_text(
    review: Path, tagger: ConceptTagger, changes: dict[str, str], problem: str
) -> None:
    def edit(rows: list[dict[str, str]]) -> None:
        fill(rows[0], "accept")
        fill(rows[1], "accept", **changes)

    with pytest.raises(Misconfigured) as caught:
        take(edited(review, edit), tagger)
    assert (caught.value.code, "line 3" in caught.value.message) == ("TABLE_ROW", True)
    assert problem in caught.value.message
    assert "hernja" not in str(caught.value)


def test_a_file_that_somebody_fills_in_is_not_written_over(
    review: Path, tagger: ConceptTagger
) -> None:
    tags = DoubtFinder(tagger).uncertain(RECORDS)
    assert write_review(review, tags, tagger.hierarchy.hierarchy) == 4
    before = edited(review, lambda rows: rows[0].update(scope="everywhere")).read_bytes()
    with pytest.raises(Misconfigured, match="TABLE_DECIDED"):
        write_review(review, tags, tagger.hierarchy.hierarchy)
    assert review.read_bytes() == before


def test_a_mention_is_decided_once(review: Path, tagger: ConceptTagger) -> None:
    def edit(rows: list[dict[str, str]]) -> None:
        fill(rows[0], "accept")
        rows.append(dict(rows[0], decision="reject"))

    with pytest.raises(Misconfigured, match="line 6"):
        take(edited(review, edit), tagger)


def test_words_mean_one_thing_everywhere(review: Path, tagger: ConceptTagger) -> None:
    """Of two readings of the same words the one further down would hold, whatever was meant."""
    def agree(rows: list[dict[str, str]]) -> None:
        fill(rows[0], "accept", scope="everywhere")
        fill(rows[3], "accept", scope="everywhere")

    assert len(take(edited(review, agree), tagger)) == 2

    def contradict(rows: list[dict[str, str]]) -> None:
        fill(rows[3], "reject", scope="everywhere")

    with pytest.raises(Misconfigured, match=r"line 5.*everywhere"):
        take(edited(review, contradict), tagger)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "TABLE_COLUMNS"),
        (b"decision,scope\r\n", "TABLE_COLUMNS"),
        (b"PK\x03\x04\x00\x00", "DATA_SPREADSHEET_DAMAGED"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "TABLE_ENCODING"),
        ("\ufeff".join(COLUMNS).encode("utf-16"), "TABLE_ENCODING"),
        (",".join(COLUMNS).encode() + b"\r\nM\xfcller,,,,,,,,,,,,,,\r\n", "TABLE_ENCODING"),
        (",".join(COLUMNS).encode() + b"\r\naccept,x\r\n", "TABLE_ROW"),
        (",".join(COLUMNS).encode() + b'\r\n"never closed,,,\r\n', "TABLE_ROW"),
    ],
)
def test_a_damaged_file_is_refused(
    tmp_path: Path, tagger: ConceptTagger, content: bytes, code: str
) -> None:
    path = tmp_path / "review.csv"
    path.write_bytes(content)
    with pytest.raises(Misconfigured) as caught:
        take(path, tagger)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "written", ["20.11.2026", "2026-11-20", "11/20/2026", "20/11/2026", "20/11/2026 "]
)
def test_a_day_is_taken_in_any_form_that_names_one(
    review: Path, tagger: ConceptTagger, written: str
) -> None:
    (one,) = take(edited(review, lambda rows: fill(rows[0], "accept", date=written)), tagger)
    assert one.decided_on == date(2026, 11, 20)
    edited(review, lambda rows: fill(rows[0], "accept", date="5/5/2026"))
    assert take(review, tagger)[0].decided_on == date(2026, 5, 5)


def as_workbook(path: Path, *, add: Callable[[Workbook], object] = lambda book: None) -> Path:
    """What Excel saves of the table: days and numbers as such, and no cell where none is."""
    book = Workbook()
    for row in csv.reader(io.StringIO(path.read_text("utf-8-sig"), newline="")):
        book.active.append([
            date.fromisoformat(cell) if cell == "2026-11-20"
            else int(cell) if cell.isdecimal() else cell or None
            for cell in row
        ])
    add(book)
    saved = path.with_suffix(".xlsx")
    book.save(saved)
    return saved


def test_a_review_may_come_back_as_a_workbook(review: Path, tagger: ConceptTagger) -> None:
    """It is what Excel offers first; one was told to be no UTF-8 at byte 10."""
    def edit(rows: list[dict[str, str]]) -> None:
        fill(rows[0], "accept", note="sure")  # its record is called =1+1
        fill(rows[2], "reject")

    of_text = take(edited(review, edit), tagger)
    assert len(of_text) == 2
    assert take(as_workbook(review), tagger) == of_text


@pytest.mark.parametrize(
    ("cell", "value", "problem"),
    [
        ("key", "k-0", "line 3: its key names no"), ("decision", "=1+1", "line 3: a cell holds"),
        ("date", "1/2/2026", "line 3: `date`"), ("date", None, "line 3: a decision without `date`"),
    ],
)
def test_a_damaged_row_of_a_workbook_is_refused_with_its_line(
    review: Path, tagger: ConceptTagger, cell: str, value: str | None, problem: str
) -> None:
    edited(review, lambda rows: fill(rows[1], "accept"))
    place = COLUMNS.index(cell) + 1

    def spoil(book: Workbook) -> None:
        book.active.cell(row=3, column=place).value = value

    with pytest.raises(Misconfigured, match="TABLE_ROW") as caught:
        take(as_workbook(review, add=spoil), tagger)
    assert problem in caught.value.message


def test_a_workbook_whose_decisions_lie_on_another_sheet_is_not_taken_for_none(
    review: Path, tagger: ConceptTagger
) -> None:
    def put_before(book: Workbook) -> None:
        book.create_sheet("Cover", 0)

    with pytest.raises(Misconfigured, match="TABLE_EMPTY"):
        take(as_workbook(review, add=put_before), tagger)


def test_a_workbook_of_another_kind_is_refused_and_none_is_written_over(
    review: Path, tagger: ConceptTagger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rename(book: Workbook) -> None:
        book.active.cell(row=1, column=1).value = "verdict"

    with pytest.raises(Misconfigured, match="TABLE_COLUMNS"):
        take(as_workbook(review, add=rename), tagger)
    saved = as_workbook(review)
    tags = DoubtFinder(tagger).uncertain(RECORDS)
    with pytest.raises(Misconfigured, match="TABLE_DECIDED"):
        write_review(saved, tags, tagger.hierarchy.hierarchy)
    monkeypatch.setattr(spreadsheets, "MAX_TABLE_BYTES", 100)
    with pytest.raises(Misconfigured, match="TABLE_TOO_LARGE"):
        take(saved, tagger)


def test_a_missing_file_or_a_folder_is_refused(tmp_path: Path, tagger: ConceptTagger) -> None:
    for path, code in ((tmp_path / "none.csv", "TABLE_MISSING"), (tmp_path, "TABLE_UNREADABLE")):
        with pytest.raises(Misconfigured, match=code):
            take(path, tagger)


def test_decisions_are_kept_with_author_and_date_and_never_lost(
    tmp_path: Path, review: Path, tagger: ConceptTagger
) -> None:
    kept = tmp_path / "decisions.jsonl"
    first = take(edited(review, lambda rows: fill(rows[0], "accept")), tagger)
    keep_decisions(kept, first)
    keep_decisions(kept, first)  # read back twice: nothing is repeated
    assert len(read_decisions(kept)) == 1
    second = take(edited(review, lambda rows: fill(rows[0], "reject", author="Dr. B")), tagger)
    held = keep_decisions(kept, second)
    assert [d.author for d in read_decisions(kept).history()] == ["Dr. A", "Dr. B"]
    span = next(t.span for t in DoubtFinder(tagger).uncertain(RECORDS))
    assert getattr(held.on(RECORDS[0], span), "outcome", None) is Outcome.REJECT
    assert [held.holds(one) for one in (*first, *second)] == [False, True]
    assert kept.stat().st_mode & 0o077 == 0


def test_of_two_people_who_decide_at_once_neither_is_lost(
    tmp_path: Path, review: Path, tagger: ConceptTagger
) -> None:
    one, = take(edited(review, lambda rows: fill(rows[0], "accept")), tagger)
    kept = tmp_path / "new" / "decisions.jsonl"
    people = [f"Dr. {n}" for n in range(8)]
    with ThreadPoolExecutor(len(people)) as pool:
        list(pool.map(lambda who: keep_decisions(kept, [replace(one, author=who)]), people))
    assert sorted(d.author for d in read_decisions(kept).history()) == people


@pytest.mark.parametrize(
    "damage",
    [
        {"outcome": "maybe"}, {"decided_on": "yesterday"}, {"author": ""}, {"author": 3},
        {"everywhere": "no"}, {"concept_id": "MU:S0001"}, {"extra": 1}, {"key": None},
    ],
)
def test_a_damaged_decision_is_refused_with_its_line(
    tmp_path: Path, damage: dict[str, object]
) -> None:
    good = {
        "key": "k-1", "mention": "TIPS", "outcome": "accept", "concept_id": None,
        "everywhere": False, "author": "A", "decided_on": "2026-01-01", "note": "",
    }
    path = tmp_path / "decisions.jsonl"
    path.write_text(json.dumps(good) + "\n" + json.dumps(good | damage) + "\n", encoding="utf-8")
    with pytest.raises(Misconfigured, match="line 2") as caught:
        read_decisions(path)
    assert caught.value.code == "DECISIONS_DAMAGED"


def test_a_plan_names_the_decisions(
    tmp_path: Path, review: Path, tagger: ConceptTagger
) -> None:
    kept = tmp_path / "decisions.jsonl"
    keep_decisions(kept, take(edited(review, lambda rows: fill(rows[2], "reject")), tagger))
    concepts = ConceptsSection(hierarchies=("builtin",), forget_roots=("MU:S0001",))
    planned = record_tagger(concepts, None, DataSection(tag_decisions=str(kept)))
    assert not planned.record_matches_forget_root(RECORDS[2])
    assert record_tagger(concepts, None, DataSection()).record_matches_forget_root(RECORDS[2])


def test_a_decision_for_an_unknown_concept_is_refused(leveled: LeveledHierarchy) -> None:
    lost = TagDecision(
        key="k-1", mention="TIPS", outcome=Outcome.CONCEPT, concept_id="DOID:1", author="A",
        decided_on=TODAY,
    )
    with pytest.raises(Misconfigured, match="DECISION_CONCEPT_UNKNOWN"):
        ConceptTagger(leveled, decisions=TagDecisions([lost]))


def test_a_failed_write_leaves_the_old_table(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    write_table(path, ("a",), [{"a": "old"}])
    with pytest.raises(KeyError):
        write_table(path, ("a",), [{"a": "new"}, {"b": "bad"}])
    assert [row["a"] for _, row in read_table(path, ("a",))] == ["old"]

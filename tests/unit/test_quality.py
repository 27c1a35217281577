"""Near-duplicates, contradictions and damaged words: found where they are, and only there."""

from __future__ import annotations

import csv
import io
import json
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medunlearn_client.quality import (
    DuplicateKind,
    damaged_words,
    near_duplicates,
    vocabulary_of,
)
from medunlearn_client.quality.glyphs import LOST_LETTERS
from medunlearn_client.records import Record, read_records
from medunlearn_common.cli import CommandLine
from medunlearn_common.concepts import load_builtin

STEM = "Which vessel carries blood from the left ventricle to the body of the adult"


def record(number: int, prompt: str, answer: str = "spleen", **more: object) -> Record:
    return Record(record_id=f"r{number}", prompt=prompt, answer=answer, **more)  # type: ignore[arg-type]


def kinds(*records: Record) -> list[tuple[DuplicateKind, tuple[str, ...]]]:
    return [(group.kind, group.record_ids) for group in near_duplicates(records)]


def options(answer: str, *others: str) -> dict[str, object]:
    return {"options": (answer, *others), "answer_index": 0}


def test_equal_but_for_case_space_and_marks_is_a_repeat() -> None:
    found = near_duplicates([record(1, STEM), record(2, f"{STEM.upper()} :-"), record(3, "Who?")])
    assert [(g.kind, g.record_ids, g.similarity) for g in found] == [
        (DuplicateKind.REPEAT, ("r1", "r2"), 1.0)
    ]


def test_damage_does_not_hide_a_repeat() -> None:
    text = "Ligation of which artery is important in posterior epistaxis of an elderly person?"
    damaged = text.replace("rt", "")
    assert kinds(record(1, text), record(2, damaged)) == [(DuplicateKind.REPEAT, ("r1", "r2"))]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (f"{STEM} at 2 months?", f"{STEM} at 6 months?"),
        (f"{STEM}, true is", f"{STEM}, not true is"),
        (f"{STEM}, all except", f"{STEM}, all"),
        (f"{STEM} 0.5 mg", f"{STEM} 5 mg"),
        (f"{STEM} < 5 mm", f"{STEM} > 5 mm"),
        (f"{STEM} <5 to >3", f"{STEM} >5 to <3"),
        (f"{STEM} of type O+", f"{STEM} of type O-"),
        (f"{STEM} at -5 C", f"{STEM} at 5 C"),
        (STEM, "Which nerve supplies the diaphragm and where does it run?"),
    ],
)
def test_other_numbers_and_denials_are_other_questions(first: str, second: str) -> None:
    assert kinds(record(1, first), record(2, second)) == []


def test_a_contradiction_is_the_others_option_not_taken() -> None:
    taken = record(1, STEM, "aorta", **options("aorta", "vein"))
    other = record(2, f"{STEM}?", "vein", **options("vein", "aorta"))
    elsewhere = record(3, f"{STEM}:", "truncus", **options("truncus", "duct"))
    assert kinds(taken, other) == [(DuplicateKind.CONTRADICTION, ("r1", "r2"))]
    assert kinds(taken, elsewhere) == [(DuplicateKind.VARIANT, ("r1", "r3"))]
    assert kinds(record(1, STEM, "yes"), record(2, STEM, "no"))[0][0] == "contradiction"
    long_answers = ("a long text " * 9).strip(), ("another text " * 9).strip()
    texts = [record(n, STEM, answer) for n, answer in enumerate(long_answers)]
    assert kinds(*texts)[0][0] == DuplicateKind.VARIANT


@pytest.mark.parametrize(
    ("first", "second"), [("<5 mm", "> 5 mm"), ("Na+", "Na-"), ("-5", "5"), ("≥ 3", "3")]
)
def test_answers_that_a_sign_tells_apart_contradict(first: str, second: str) -> None:
    assert kinds(record(1, STEM, first), record(2, STEM, second))[0][0] == "contradiction"
    assert kinds(record(1, STEM, f"{first}."), record(2, STEM, f" - {first}".strip()))[0][0] == (
        "repeat"
    )


def test_a_contradiction_is_found_whatever_the_order_and_case_of_options() -> None:
    taken = record(1, STEM, "Aorta", options=("Vein", "Aorta", "duct"), answer_index=1)
    other = record(2, STEM, "VEIN", options=("aorta", "none", "VEIN"), answer_index=2)
    assert kinds(taken, other)[0][0] == "contradiction"
    # Neither an open question nor one that had the other's answer to choose from.
    third = record(3, STEM, "none", options=("none", "duct"), answer_index=0)
    assert kinds(taken, third)[0][0] == "variant"
    assert kinds(taken, third, record(4, STEM, "none"))[0][0] == "contradiction"


def test_one_patients_forms_are_not_each_others_duplicates() -> None:
    """Height and weight of one person on one day differ in a letter."""
    who = "for Ann Maria Example, born 1970-01-02, on 2011-03-04?"
    def of(number: int, name: str, answer: str) -> Record:
        return record(number, f"What was the result of {name} {who}", answer, patient_id="p")

    rows = [of(1, "Body Height", "170 cm"), of(2, "Body Weight", "70 kg"),
            of(3, "Cholesterol", "5.1"), of(4, "Cholesterol in HDL", "1.4")]
    assert kinds(*rows) == []
    again = of(5, "body-height:", "171 cm")
    assert kinds(*rows, again) == [(DuplicateKind.CONTRADICTION, ("r1", "r5"))]
    story = " ".join(f"word{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(90))
    twice = [record(n, f"{story} {end}", patient_id="p") for n, end in ((1, "end"), (2, "ent"))]
    assert kinds(*twice) == [(DuplicateKind.REPEAT, ("r1", "r2"))]


def test_patients_are_never_each_others_duplicates() -> None:
    first, second = (record(n, STEM, patient_id=f"p{n}") for n in (1, 2))
    assert kinds(first, second, record(3, STEM)) == []
    assert len(kinds(first, record(4, STEM, patient_id="p1"))) == 1


def test_many_rows_are_hashed_and_many_repeats_stay_linear() -> None:
    """Above the all-pairs limit MinHash proposes; a planted pair among 300 is still found."""
    words = ["artery", "nerve", "gland", "bone", "muscle", "vein", "organ", "tissue", "cell"]
    rows = [
        record(n, f"{words[n % 9]} {words[n // 9 % 9]} {words[n // 81 % 9]} of class "
                  f"{chr(97 + n % 26)} in the {words[(n * 7) % 9]} region")
        for n in range(300)
    ]
    rows += [record(1000 + n, STEM) for n in range(3000)]
    rows += [record(5000, STEM.replace("vessel", "great vessel"))]
    found = [group for group in near_duplicates(rows) if "r5000" in group.record_ids]
    assert [len(group.record_ids) for group in found] == [3001]
    assert 0.8 <= found[0].similarity < 1.0


def test_rows_of_one_form_and_notes_under_one_question_are_not_counted_out_pair_by_pair() -> None:
    import time

    names = [f"{chr(97 + n % 26)}{chr(97 + n // 26 % 26)}{chr(97 + n // 676)}" for n in range(2000)]
    form = [record(n, f"{STEM} {name}") for n, name in enumerate(names)]
    notes = [record(9000 + n, "Write a note on the ward round.", f"{name} " + "text " * 60 + name)
             for n, name in enumerate(names)]
    started = time.process_time()
    assert [len(group.record_ids) for group in near_duplicates([*form, *notes])] == [2000, 2000]
    assert time.process_time() - started < 8.0  # it took 20 s


@settings(max_examples=60)
@given(st.lists(st.text("ab 1not?", min_size=1, max_size=24), max_size=90))
def test_groups_are_disjoint_and_any_text_is_taken(texts: list[str]) -> None:
    rows = [record(n, text.rstrip() or "x") for n, text in enumerate(texts)]
    ids = [i for group in near_duplicates(rows, threshold=0.5) for i in group.record_ids]
    assert len(ids) == len(set(ids))
    exact = {row.prompt for row in rows if sum(r.prompt == row.prompt for r in rows) > 1}
    assert {row.record_id for row in rows if row.prompt in exact} <= set(ids)


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.1, float("nan")])
def test_a_threshold_outside_its_range_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        near_duplicates([], threshold=threshold)


# --- damaged words ----------------------------------------------------------------------------

INTACT = [
    record(1, "The heart and the artery are important"), record(2, "An artery of the heart"),
    record(3, "Way to start: an aery nest, says part of the report"), record(4, "start here"),
    record(5, "the important cortex"), record(6, "the report on cortex"),
]


def proposals(*texts: str, vocabulary: frozenset[str] = frozenset()) -> list[tuple[str, str, bool]]:
    rows = [*INTACT, *(record(100 + n, text) for n, text in enumerate(texts))]
    found = damaged_words(rows, vocabulary=vocabulary)
    return [(one.word, one.proposals[0], one.sure) for one in found]


def test_lost_letters_are_put_back_in_the_case_of_the_word() -> None:
    assert proposals("Impoant: the hea", "IMPOANT") == [
        ("Impoant", "Important", True), ("hea", "heart", False), ("IMPOANT", "IMPORTANT", True),
    ]


def test_words_of_undamaged_rows_and_of_the_hierarchy_are_right() -> None:
    assert proposals("the aery of an eagle") == []  # "aery" stands in an undamaged row
    assert proposals("a coex") == [("coex", "cortex", True)]
    assert proposals("a coex", vocabulary=frozenset({"coex"})) == []


def test_a_row_that_holds_the_letters_has_lost_none() -> None:
    assert proposals("impoant for the sort") == []


def test_the_hierarchy_vouches_for_words_the_corpus_lacks() -> None:
    assert proposals("veebra") == []
    assert proposals("veebra", vocabulary=frozenset({"vertebra"})) == [
        ("veebra", "vertebra", True)
    ]


def test_a_word_that_may_have_lost_either_letters_is_one_row_and_not_sure() -> None:
    known = frozenset({"artery", "aefiry"})
    found = damaged_words([record(1, "an aery")], vocabulary=known, lost=("rt", "fi", "rt"))
    assert [(one.word, one.proposals, one.sure) for one in found] == [
        ("aery", ("artery", "aefiry"), False)
    ]


def test_what_singles_a_patient_out_is_never_sure() -> None:
    others = [record(200 + n, "Mr Burton has a cortex") for n in range(2)]
    prompt = "Mr Buon has a coex"
    end = len(prompt) + 1
    of_patient = record(1, prompt, "coex", patient_id="p", target_spans=((0, 7), (end, end + 4)))
    found = damaged_words([*others, of_patient], vocabulary=frozenset())
    assert [(one.part, one.word, one.sure) for one in found] == [
        ("answer", "coex", False), ("prompt", "Buon", False), ("prompt", "coex", True),
    ]


def test_places_refer_to_their_part_and_records_stay_as_they_are() -> None:
    row = Record(
        record_id="x", prompt="Which is impoant?", answer="the coex",
        options=("the coex", "no impoant one"), answer_index=0,
    )
    before = repr((row.prompt, row.answer, row.options))
    parts = {"prompt": row.prompt, "answer": row.answer, "option 2": row.options[1]}
    found = damaged_words([*INTACT, row], vocabulary=frozenset())
    assert {one.part for one in found} == set(parts)
    for one in found:
        assert parts[one.part][one.start : one.end] == one.word
    assert repr((row.prompt, row.answer, row.options)) == before


@settings(max_examples=100)
@given(st.lists(st.text(min_size=1, max_size=20), max_size=8))
def test_any_text_is_taken(texts: list[str]) -> None:
    rows = [record(n, text.strip()) for n, text in enumerate(texts) if text.strip()]
    for one in damaged_words(rows, vocabulary=frozenset({"part"}), lost=("rt", "fi")):
        assert one.proposals


@pytest.mark.real_data
def test_medmcqas_lost_glyph(shared_data: Path) -> None:
    """The data's README counts at least 148 damaged questions."""
    rows = read_records(shared_data / "medmcqa_validation.jsonl.gz")
    found = damaged_words(rows, vocabulary=vocabulary_of(load_builtin("all")))
    assert len({one.record_id for one in found}) >= 148
    repaired = {(one.word.lower(), one.proposals[0].lower()) for one in found if one.sure}
    assert {("impoant", "important"), ("aery", "artery"), ("hypeension", "hypertension"),
            ("veebral", "vertebral")} <= repaired
    assert not {"diarrhea", "trachea", "infarction"} & {one.word.lower() for one in found}
    groups = near_duplicates(rows)
    assert sum(group.kind is DuplicateKind.REPEAT for group in groups) >= 20


# --- the command ------------------------------------------------------------------------------


def run(*arguments: object) -> int:
    entry = EntryPoint(
        name="check-data", value="medunlearn_client.quality.commands:check_data",
        group="medunlearn.commands",
    )
    line = CommandLine()
    return line.run(line.build([entry]), ["check-data", *map(str, arguments)])


def test_the_command_writes_safe_tables_and_says_no_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"id": row.record_id, "question": row.prompt, "answer": "=HYPERLINK(1)"}
            for row in (*INTACT, record(7, "An impoant coex"), record(8, "An impoant coex!"))]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    before = data.read_bytes()
    assert run(data, "--out", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert "1 repeat group(s) of 2 rows" in shown
    assert "damaged words (lost: rt): 4 in 2 record(s), 4 with one sure proposal" in shown
    assert "coex" not in shown
    tables = {
        name: list(csv.DictReader(io.StringIO(
            (tmp_path / "out" / name).read_text("utf-8-sig"), newline="")))
        for name in ("duplicates.csv", "damaged_words.csv")
    }
    assert {row["answer"] for row in tables["duplicates.csv"]} == {"'=HYPERLINK(1)"}
    assert {row["proposal"] for row in tables["damaged_words.csv"]} == {"important", "cortex"}
    assert (tmp_path / "out" / "wrong_subjects.csv").is_file()
    assert data.read_bytes() == before


def test_the_letters_that_are_looked_for_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"id": "a", "question": "Who?", "answer": "I"}\n', encoding="utf-8")
    assert run(data, "--lost", "fi", "--lost", "fl") == 0
    assert "damaged words (lost: fi, fl): 0" in capsys.readouterr().out
    assert run("--help") == 0
    helped = " ".join(capsys.readouterr().out.replace("\u2502", " ").split())
    assert f"Default: {', '.join(LOST_LETTERS)}." in helped


def test_a_table_with_columns_of_ones_own_is_checked_by_its_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, plan = tmp_path / "q.csv", tmp_path / "plan.toml"
    table.write_text("Frage;Antwort\nWas?;Das\nWo?;Da\nWer?;Er\n", encoding="utf-8")
    plan.write_text('[data.columns]\nquestion = "Frage"\nanswer = "Antwort"\n')
    assert run(table) == 2
    assert run(table, "--plan", plan) == 0
    assert "3 records" in capsys.readouterr().out


@pytest.mark.parametrize("option", [("--threshold", 0), ("--threshold", 2), ("--lost", "R1"),
                                    ("--lost", ""), ("--hierarchy", "nowhere.obo")])
def test_bad_options_are_mendable(
    tmp_path: Path, option: tuple[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"id": "a", "question": "Who?", "answer": "I"}\n', encoding="utf-8")
    assert run(data, *option) == 2
    assert "hint" in capsys.readouterr().err

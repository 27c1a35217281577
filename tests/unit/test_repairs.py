"""Damaged words repaired by decision, in copies; questions filed under the wrong subject."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medunlearn_client.quality import DamagedWord
from medunlearn_client.quality.repair_review import (
    BY_RULE,
    COLUMNS,
    read_damage,
    sure_repairs,
    write_damage,
)
from medunlearn_client.quality.subjects import BUILTIN_HOMES, read_homes, wrong_subjects
from medunlearn_client.records import Record, read_records
from medunlearn_client.records.repairs import Repair, Repairs, keep_repairs, read_repairs
from medunlearn_client.site_data import load_federation_records
from medunlearn_client.spreadsheets import read_table, write_table
from medunlearn_client.tagging import ConceptTagger
from medunlearn_common.cli import CommandLine
from medunlearn_common.concepts import load_builtin
from medunlearn_common.errors import Misconfigured
from medunlearn_common.plan.sections import ConceptsSection, DataSection, ForgetSection

TODAY = date(2026, 3, 1)
DAMAGED = Record(
    record_id="x", prompt="Question: Which coex is impoant?\nAnswer:", answer="the coex of Ann",
    options=("the coex of Ann", "no impoant one"), answer_index=0, patient_id="p",
    target_spans=((16, 20), (41, 56), (53, 56)),
)


def repair(part: str, start: int, word: str, repaired: str, **more: object) -> Repair:
    return Repair(**{  # type: ignore[arg-type]
        "record_id": "x", "part": part, "start": start, "word": word, "repaired": repaired,
        "author": "Dr A", "decided_on": TODAY, **more,
    })


ALL = (
    repair("prompt", 16, "coex", "cortex"), repair("prompt", 24, "impoant", "important"),
    repair("answer", 4, "coex", "cortex"), repair("option 2", 3, "impoant", "important"),
)


def test_answer_options_and_spans_fit_the_repaired_text() -> None:
    before = [DAMAGED.text[a:b] for a, b in DAMAGED.target_spans]
    assert before == ["coex", "the coex of Ann", "Ann"]
    mended, made = Repairs(ALL).repaired(DAMAGED)
    assert mended.prompt == "Question: Which cortex is important?\nAnswer:"
    assert mended.options == ("the cortex of Ann", "no important one")
    assert mended.answer == mended.options[0] and set(made) == set(ALL)
    spans = [mended.text[a:b] for a, b in mended.target_spans]
    assert spans == ["cortex", "the cortex of Ann", "Ann"]
    assert DAMAGED.prompt == "Question: Which coex is impoant?\nAnswer:", "never in place"


def test_a_repair_for_other_words_is_not_applied() -> None:
    """A new export that was mended already, or shifted, must not be mended into nonsense."""
    moved = replace(DAMAGED, prompt="Question: So, which coex is impoant?\nAnswer:",
                    target_spans=())
    mended, made = Repairs(ALL).repaired(moved)
    assert mended.prompt == moved.prompt and [one.part for one in made] == ["answer", "option 2"]
    once, _ = Repairs(ALL).repaired(DAMAGED)
    assert Repairs(ALL).repaired(once) == (once, ())
    assert Repairs(ALL).repaired(replace(DAMAGED, record_id="y"))[1] == ()


def test_words_that_mean_a_concept_by_its_code_mean_it_when_they_are_repaired() -> None:
    """The code's words stood no longer in the text: what was to be forgotten was kept."""
    tagger = ConceptTagger(load_builtin("all").with_forget_roots(["MU:S0001"]))
    record = Record(
        record_id="x", prompt="Question: Which coex has l. h?rn. inside?\nAnswer:",
        answer="h?rn. links", patient_id="p",
        coded=("MU:S0001 h?rn.", "MU:S0001 h?rn. links", "MU:S0001 cortex links", "MU:S0001"),
    )
    assert tagger.record_matches_forget_root(record)
    one = Repairs([repair("answer", 0, "h?rn.", "hrnx")]).repaired(record)[0]
    assert one.coded == (  # of two places, one is as it was
        "MU:S0001 h?rn.", "MU:S0001 hrnx", "MU:S0001 hrnx links", "MU:S0001 cortex links",
        "MU:S0001")
    both = Repairs([
        repair("prompt", 16, "coex", "cortex"), repair("prompt", 28, "h?rn.", "hrn"),
        repair("answer", 0, "h?rn.", "hrnx"),
    ]).repaired(record)[0]
    assert both.text.endswith("cortex has l. hrn inside?\nAnswer: hrnx links")
    assert both.coded == ("MU:S0001 hrn", "MU:S0001 hrnx", "MU:S0001 hrnx links",
                          "MU:S0001 cortex links", "MU:S0001")
    for mended in (one, both):
        assert tagger.record_matches_forget_root(mended)
        found = tagger.tag_record(mended)
        assert {mended.text[span.start:span.end] for span in found} >= {"hrnx"}


@pytest.mark.parametrize("part", ["option 0", "option 9", "option x", "option ²", "nowhere"])
def test_a_part_that_is_none_changes_nothing(part: str) -> None:
    stray = Repairs([repair(part, 0, "coex", "cortex")])
    assert stray.repaired(DAMAGED) == (DAMAGED, ())


def test_the_last_decision_on_a_word_holds_and_the_first_stays_on_record(tmp_path: Path) -> None:
    file = tmp_path / "repairs.jsonl"
    keep_repairs(file, [ALL[0]])
    kept = keep_repairs(file, [ALL[0], repair("prompt", 16, "coex", "coex", author="Dr B")])
    assert [one.author for one in read_repairs(file).history()] == ["Dr A", "Dr B"]
    assert kept.repaired(DAMAGED) == (DAMAGED, ())
    assert [kept.holds(one) for one in kept.history()] == [False, True]
    assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("line", [
    "{", "{}", '{"record_id": 1}',
    json.dumps({"record_id": "x", "part": "prompt", "start": True, "word": "a", "repaired": "b",
                "author": "A", "note": "", "decided_on": "2026-01-01"}),
    json.dumps({"record_id": "x", "part": "prompt", "start": -1, "word": "a", "repaired": "b",
                "author": "A", "note": "", "decided_on": "2026-01-01"}),
    json.dumps({"record_id": "x", "part": "prompt", "start": 1, "word": "a", "repaired": "b\\n c",
                "author": " ", "note": "", "decided_on": "2026-01-01"}),
])
def test_a_damaged_decisions_file_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    file = tmp_path / "repairs.jsonl"
    file.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(Misconfigured, match="line 1") as caught:
        read_repairs(file)
    assert caught.value.code == "REPAIRS_DAMAGED"


@settings(max_examples=150)
@given(st.data())
def test_any_repair_keeps_spans_within_the_text(data: st.DataObject) -> None:
    text = data.draw(st.text("ab c", min_size=1, max_size=12)).strip() or "a"
    answer = data.draw(st.text("ab", min_size=1, max_size=8))
    size = len(text) + 1 + len(answer)
    start = data.draw(st.integers(0, size - 1))
    end = data.draw(st.integers(start + 1, size))
    record = Record(record_id="x", prompt=text, answer=answer, target_spans=((start, end),))
    part = data.draw(st.sampled_from(["prompt", "answer"]))
    held = text if part == "prompt" else answer
    first = data.draw(st.integers(0, len(held) - 1))
    word = held[first : data.draw(st.integers(first + 1, len(held)))]
    if not word.strip():
        return
    mended, _ = Repairs([repair(part, first, word, data.draw(st.text("xyz", min_size=1)))]
                        ).repaired(record)
    (left, right), = mended.target_spans
    assert 0 <= left < right <= len(mended.text)


# --- the spreadsheet ----------------------------------------------------------------------------

ROWS = [
    *({"id": f"r{n}", "question": q, "answer": "=1+1"} for n, q in enumerate((
        "The heart and the artery are important", "An artery of the heart", "the important cortex",
        "the report on cortex", "An impoant coex", "One coex",
    ))),
]


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return file


def run(*arguments: object) -> int:
    entry = EntryPoint(
        name="check-data", value="medunlearn_client.quality.commands:check_data",
        group="medunlearn.commands",
    )
    line = CommandLine()
    return line.run(line.build([entry]), ["check-data", *map(str, arguments)])


def edited(file: Path, change: Callable[[list[dict[str, str]]], object]) -> Path:
    """What a person does in a spreadsheet."""
    rows = [row for _, row in read_table(file, COLUMNS)]
    change(rows)
    write_table(file, COLUMNS, rows)
    return file


def decide(rows: list[dict[str, str]], *decisions: str) -> None:
    for row, decision in zip(rows, decisions, strict=False):
        row |= {"decision": decision, "author": "Dr A", "date": "2026-01-31"}


def test_from_the_table_through_decisions_to_a_copy_and_a_run(
    data_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = data_file.read_bytes()
    assert run(data_file, "--out", tmp_path / "out") == 0
    table = edited(tmp_path / "out" / "damaged_words.csv",
                   lambda rows: decide(rows, "accept", "kortex"))
    kept = tmp_path / "repairs.jsonl"
    assert run(data_file, "--review", table, "--decisions", kept) == 0
    said = capsys.readouterr().out
    assert "2 decision(s) taken over (2 to repair, 0 right as they stand), 1 row(s) open" in said
    copy = tmp_path / "mended.jsonl"
    assert run(data_file, "--decisions", kept, "--repair", copy) == 0
    prompts = {record.record_id: record.prompt for record in read_records(copy)}
    assert "An important kortex" in prompts["r4"] and "One coex" in prompts["r5"]
    changes = list(csv.DictReader(io.StringIO(
        (tmp_path / "mended.jsonl.changes.csv").read_text("utf-8-sig"), newline="")))
    assert [(c["word"], c["repaired"], c["author"]) for c in changes] == [
        ("impoant", "important", "Dr A"), ("coex", "kortex", "Dr A")]
    assert data_file.read_bytes() == before
    loaded = load_federation_records(
        data=DataSection(files=(str(data_file),), repairs=str(kept), nonmember_fraction=0.0),
        forget=ForgetSection(records=("r4",)), concepts=ConceptsSection(), unit="record",
        n_sites=1, seed=0, concentration=1.0,
    )
    assert "An important kortex" in loaded.forget[0].prompt


def test_what_was_decided_on_is_asked_no_more_until_its_words_change(
    data_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def asked(out: Path) -> list[str]:
        decided = ("--decisions", kept) if kept.exists() else ()
        assert run(data_file, "--out", out, *decided) == 0
        return [row["word"] for _, row in read_table(out / "damaged_words.csv", COLUMNS)]

    kept = tmp_path / "repairs.jsonl"
    assert asked(tmp_path / "first") == ["impoant", "coex", "coex"]
    table = edited(tmp_path / "first" / "damaged_words.csv",
                   lambda rows: decide(rows, "accept", "reject"))
    assert run(data_file, "--review", table, "--decisions", kept) == 0
    assert asked(tmp_path / "second") == ["coex"]
    assert "without 2 word(s)" in capsys.readouterr().out
    plan = tmp_path / "plan.toml"
    plan.write_text(f'schema_version = 1\n[data]\nfiles = ["{data_file}"]\nrepairs = "{kept}"\n')
    assert run("--plan", plan, "--repair", tmp_path / "copy.jsonl") == 0
    assert "1 word(s) repaired" in capsys.readouterr().out
    text = data_file.read_text("utf-8")
    data_file.write_text(text.replace("An impoant coex", "My most impoant coex"), "utf-8")
    assert asked(tmp_path / "third") == ["impoant", "coex", "coex"]


def test_a_table_that_somebody_fills_in_is_not_written_over(
    data_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(data_file, "--out", out) == run(data_file, "--out", out) == 0
    table = edited(out / "damaged_words.csv", lambda rows: decide(rows, "accept"))
    (out / "duplicates.csv").unlink()
    before = table.read_bytes()
    assert run(data_file, "--out", out) == 2
    assert "TABLE_DECIDED" in capsys.readouterr().err
    assert table.read_bytes() == before and not (out / "duplicates.csv").exists()
    table.write_text("saved as something else")
    assert run(data_file, "--out", out) == 2


def test_decisions_whose_words_have_changed_since_are_counted(
    data_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A new export: without a word, a run would go on with the damage somebody mended."""
    assert run(data_file, "--out", tmp_path) == 0
    table = edited(tmp_path / "damaged_words.csv", lambda rows: decide(rows, "accept", "reject",
                                                                       "accept"))
    kept, copy = tmp_path / "repairs.jsonl", tmp_path / "mended.jsonl"
    assert run(data_file, "--review", table, "--decisions", kept) == 0
    assert run(data_file, "--decisions", kept, "--repair", copy) == 0
    assert "changed nothing" not in capsys.readouterr().out
    data_file.write_text(data_file.read_text("utf-8").replace("One coex", "Now one coex"), "utf-8")
    assert run(data_file, "--decisions", kept, "--repair", copy) == 0
    assert "1 decision(s) changed nothing" in capsys.readouterr().out
    load_federation_records(
        data=DataSection(files=(str(data_file),), repairs=str(kept), nonmember_fraction=0.0),
        forget=ForgetSection(records=("r4",)), concepts=ConceptsSection(), unit="record",
        n_sites=1, seed=0, concentration=1.0,
    )
    assert "1 decided repair(s) changed nothing" in caplog.text


def test_an_old_table_read_again_takes_nothing_back_and_says_so(
    data_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data_file, "--out", tmp_path) == 0
    table, kept = tmp_path / "damaged_words.csv", tmp_path / "repairs.jsonl"
    old = shutil.copy(table, tmp_path / "old.csv")
    edited(old, lambda rows: decide(rows, "accept"))
    edited(table, lambda rows: decide(rows, "reject"))
    for read in (old, table, table):
        assert run(data_file, "--review", read, "--decisions", kept) == 0
    assert "hold no more" not in capsys.readouterr().out
    before = kept.read_bytes()
    assert run(data_file, "--review", old, "--decisions", kept) == 0
    assert "1 of them hold no more" in capsys.readouterr().out.replace("\n", " ")
    assert kept.read_bytes() == before


def test_sure_words_are_repaired_on_request_and_a_person_overrules(
    data_file: Path, tmp_path: Path
) -> None:
    assert run(data_file, "--out", tmp_path) == 0
    edited(tmp_path / "damaged_words.csv", lambda rows: decide(rows, "reject"))
    kept, copy = tmp_path / "repairs.jsonl", tmp_path / "mended.jsonl"
    assert run(data_file, "--review", tmp_path / "damaged_words.csv", "--decisions", kept) == 0
    assert run(data_file, "--decisions", kept, "--repair", copy, "--sure") == 0
    prompts = {record.record_id: record.prompt for record in read_records(copy)}
    assert "An impoant cortex" in prompts["r4"] and "One cortex" in prompts["r5"]
    assert BY_RULE in (tmp_path / "mended.jsonl.changes.csv").read_text("utf-8-sig")


@pytest.mark.parametrize(("change", "problem"), [
    (lambda rows: rows[0].update(decision="accept", date="2026-01-31"), "author"),
    (lambda rows: rows[0].update(decision="accept", author=BY_RULE, date="2026-01-31"), "author"),
    (lambda rows: rows[0].update(decision="accept", author="A", date="03/01/2026"), "slashes"),
    (lambda rows: rows[0].update(decision="accept", author="A", date="2030-01-01"), "future"),
    (lambda rows: rows[0].update(decision="=cmd()", author="A", date="2026-01-31"), "decision"),
    (lambda rows: rows[0].update(decision="w" * 61, author="A", date="2026-01-31"), "decision"),
    *((lambda rows, said=said: decide(rows, said), "nor a word like the damaged one")
      for said in ("ja", "nein", "yes", "ok", "x", "accepted", "akzeptieren")),
    (lambda rows: rows[0].update(author="A"), "without a `decision`"),
    (lambda rows: rows[0].update(word=rows[1]["word"]), "no damaged word"),
    (lambda rows: rows[0].update(start="0"), "no damaged word"),
    (lambda rows: (decide(rows, "accept"), rows[0].update(proposal="impotent")), "proposal"),
    (lambda rows: (decide(rows, "accept"), rows.append(dict(rows[0]))), "earlier row"),
])
def test_a_bad_row_refuses_the_whole_table(
    data_file: Path, tmp_path: Path, change: Callable[[list[dict[str, str]]], object], problem: str
) -> None:
    from medunlearn_client.quality import damaged_words

    records = read_records(data_file)
    damage = damaged_words(records, vocabulary=frozenset())
    table = tmp_path / "damaged_words.csv"
    write_damage(table, records, damage)
    with pytest.raises(Misconfigured, match=problem) as caught:
        read_damage(edited(table, change), damage, today=TODAY)
    assert caught.value.code == "TABLE_ROW"
    assert {one.author for one in sure_repairs(damage, today=TODAY)} == {BY_RULE}


def test_what_is_accepted_is_the_proposal_that_was_read(tmp_path: Path) -> None:
    """More rows since then may have made another word the likelier one."""
    row = Record(record_id="x", prompt="An aery", answer="a")
    then = DamagedWord(
        record_id="x", part="prompt", start=3, end=7, word="aery", proposals=("artery",), sure=True
    )
    table = tmp_path / "damaged_words.csv"
    write_damage(table, [row], [then])
    edited(table, lambda rows: decide(rows, "accept"))
    later = replace(then, proposals=("aertry", "artery"), sure=False)
    assert read_damage(table, [later], today=TODAY).decisions[0].repaired == "artery"


@pytest.mark.parametrize("options", [
    ("--review", "t.csv"), ("--sure",), ("--home", "Surgery"), ("--home", "Surgery=NOWHERE"),
])
def test_options_that_do_nothing_alone_are_refused(
    data_file: Path, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data_file, *options) == 2
    assert "hint" in capsys.readouterr().err


def test_decisions_that_are_not_there_are_told(
    data_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table that asks everything anew looks as if nobody had decided yet."""
    out, plan, kept = tmp_path / "out", tmp_path / "plan.toml", tmp_path / "kept.jsonl"
    for options in (("--out", out), ("--repair", tmp_path / "copy.jsonl"), ()):
        assert run(data_file, "--decisions", kept, *options) == 2
        assert "DECISIONS_MISSING" in capsys.readouterr().err
    assert not out.exists()
    # A plan names them before the first review makes them; a copy without them is none.
    plan.write_text(f'[data]\nfiles = ["{data_file}"]\nrepairs = "{kept}"\n')
    assert run("--plan", plan, "--out", out) == 0
    assert "not there yet" in capsys.readouterr().err
    assert run("--plan", plan, "--repair", tmp_path / "copy.jsonl") == 2
    table = edited(out / "damaged_words.csv", lambda rows: decide(rows, "accept"))
    assert run("--plan", plan, "--review", table, "--out", tmp_path / "again") == 0
    assert kept.exists() and "not there yet" not in capsys.readouterr().err


def test_the_records_themselves_are_never_the_target(data_file: Path) -> None:
    before = data_file.read_bytes()
    link = data_file.with_name("link.jsonl")
    link.symlink_to(data_file)
    assert run(data_file, "--repair", link, "--sure") == 2
    assert data_file.read_bytes() == before


def test_a_copy_replaces_an_earlier_one_and_nothing_else(
    data_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, copy = tmp_path / "other.jsonl", tmp_path / "mended.jsonl"
    other.write_text('{"id": "somebody\'s"}\n', encoding="utf-8")
    assert run(data_file, "--repair", other, "--sure") == 2
    assert "FILE_EXISTS" in capsys.readouterr().err
    assert other.read_text(encoding="utf-8") == '{"id": "somebody\'s"}\n'
    assert run(data_file, "--repair", copy, "--sure") == 0
    assert run(data_file, "--repair", copy, "--sure") == 0
    assert run(data_file, "--out", tmp_path / "out") == 0
    table = tmp_path / "mended.jsonl.changes.csv"
    (tmp_path / "out" / "damaged_words.csv").replace(table)
    assert run(data_file, "--review", table, "--decisions", tmp_path / "kept.jsonl",
               "--repair", copy) == 2
    folder = tmp_path / "export"
    folder.mkdir()
    data_file.replace(folder / "data.jsonl")
    assert run(folder, "--repair", folder / "mended.jsonl", "--sure") == 2
    assert "FILE_TWICE" in capsys.readouterr().err


# --- wrong subjects ------------------------------------------------------------------------------


def flagged(*questions: tuple[str, str, str]) -> list[tuple[str, str]]:
    tagger = ConceptTagger(load_builtin("all").with_forget_roots(()))
    rows = [Record(record_id=f"{n}", prompt=prompt, answer=answer, subject=subject)
            for n, (subject, prompt, answer) in enumerate(questions)]
    found = wrong_subjects(rows, tagger, BUILTIN_HOMES)
    return [(one.record_id, one.suggested) for one in found]


def test_only_speech_of_one_other_subject_and_not_of_the_own_is_flagged() -> None:
    assert flagged(
        ("Surgery", "Which drug treats schizophrenia with depression?", "clozapine"),
        ("Surgery", "Which drug treats schizophrenia?", "this one"),
        ("Surgery", "Depression and schizophrenia after appendectomy?", "delirium"),
        ("Medicine", "Which drug treats schizophrenia with depression?", "clozapine"),
        ("psychiatry", "Appendectomy or cholecystectomy first?", "neither"),
        ("Surgery", "What is the capital of anatomy?", "none"),
    ) == [("0", "psychiatry"), ("1", "psychiatry"), ("4", "surgery")]


def test_homes_are_read_or_refused() -> None:
    assert read_homes(["Skin = A, B", "ENT=C"]) == {"skin": ("A", "B"), "ent": ("C",)}
    for bad in ("Skin", "=A", "Skin= ,"):
        with pytest.raises(Misconfigured, match="CHECK_HOME"):
            read_homes([bad])

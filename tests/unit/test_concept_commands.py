"""``medunlearn concepts tag`` and ``decide``: what is shown, escaped, written and refused."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import shutil
from collections.abc import Callable
from datetime import date
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from medunlearn_client.records import Record, read_records
from medunlearn_client.records.repairs import Repair, keep_repairs
from medunlearn_client.site_data import as_trained, record_tagger
from medunlearn_client.tagging import ConceptTagger
from medunlearn_client.tagging.views import TaggedRecord, coloured, marked, page, visible
from medunlearn_common.cli import CommandLine
from medunlearn_common.concepts import load_builtin
from medunlearn_common.plan.reading import read_plan

ROWS = [
    {"id": "n1", "question": "What is noted?", "patient_id": "p1",
     "answer": "No inguinal hernia; possible abscess. Mother had gallstones."},
    {"id": "n2", "question": "<script>alert(1)</script> TIPS \u001b[31m\u202e & hernia?",
     "answer": "=1+1"},
]

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    commands = [
        EntryPoint(name=f"concepts.{name}", value=f"medunlearn_client.concept_commands:{name}",
                   group="medunlearn.commands")
        for name in ("tag", "decide")
    ]

    def invoke(*arguments: object) -> tuple[int, str]:
        line = CommandLine()
        status = line.run(line.build(commands), [str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return invoke


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "notes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def test_tags_are_shown_with_level_and_assertion(run: Run, notes: Path) -> None:
    status, shown = run("concepts", "tag", notes, "--forget-root", "MU:S0001")
    assert status == 0
    assert "[inguinal hernia|3 negated]" in shown
    assert "[gallstones|3 family]" in shown
    assert "[abscess|4 possible]" in shown
    assert "[hernia|4]" in shown
    assert "2 record(s), 2 with a target" in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_limit_and_unknown_root(run: Run, notes: Path) -> None:
    status, shown = run("concepts", "tag", notes, "--limit", 0)
    assert status == 0
    assert "hernia" not in shown
    status, shown = run("concepts", "tag", notes, "--forget-root", "MU:NOWHERE")
    assert (status, "CONCEPT_ROOT_UNKNOWN" in shown) == (2, True)


def test_the_page_is_escaped_and_needs_nothing_else(run: Run, notes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    status, _ = run("concepts", "tag", notes, "--forget-root", "MU:S0001", "--html", out)
    text = out.read_text(encoding="utf-8")
    assert status == 0
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert not re.search(r"(?:src|href)=|url\(|@import", text)
    assert not any(character in text for character in "\x1b\u202e")
    assert '<mark class="l3 negated" title="MU:S0451 inguinal hernia: level 3, negated">' in text
    assert out.stat().st_mode & 0o077 == 0


def test_a_page_says_exactly_what_the_record_says() -> None:
    tagger = ConceptTagger(load_builtin("all").with_forget_roots(["MU:S0001"]))
    record = Record(record_id="<b>", prompt="a \"hernia\" <i>&amp; 'fever'\n  x", answer="&lt;")
    spans = tagger.tag_record(record)
    overlapping = (*spans, *spans)
    shown = page(
        [TaggedRecord(record=record, spans=overlapping)], tagger.hierarchy.hierarchy, title="<t>"
    )
    body = re.search(r'<p class="text">(.*?)</p></article>', shown, re.DOTALL)
    assert body is not None
    assert html.unescape(re.sub(r"</?mark[^>]*>", "", body[1])) == record.text
    assert "<t>" not in shown
    assert "<b>" not in shown


def test_views_keep_every_character() -> None:
    text = "".join(map(chr, (*range(0x20), 0x7F, 0x9B, 0x200F, 0x202E, 0x2066, 0xFEFF, 0x41)))
    assert len(visible(text)) == len(text)
    assert visible(text).isprintable() is False  # line ends and tabs stay
    assert all(c.isprintable() or c in "\n\t" for c in visible(text))
    record = Record(record_id="r", prompt="[red]hernia[/red]", answer="x")
    tagger = ConceptTagger(load_builtin("all").with_forget_roots(["MU:S0001"]))
    tagged = TaggedRecord(record=record, spans=tagger.tag_record(record))
    assert coloured(tagged).plain == record.text  # brackets are no markup
    assert marked(tagged) == "[red][hernia|4][/red] x"


def fill_in(review: Path, row: int, decision: str = "reject") -> None:
    """What a clinician does in a spreadsheet: decides on one mention."""
    rows = list(csv.DictReader(io.StringIO(review.read_text("utf-8-sig"), newline="")))
    rows[row].update(decision=decision, author="Dr. A", date="2026-01-31")
    with review.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_review_and_decide_end_to_end(run: Run, notes: Path, tmp_path: Path) -> None:
    review, kept = tmp_path / "review.csv", tmp_path / "decisions.jsonl"
    options = ("--forget-root", "MU:S0001")
    status, shown = run("concepts", "tag", notes, *options, "--review", review)
    assert (status, "4 uncertain tag(s)" in shown) == (0, True)
    fill_in(review, 3)
    status, shown = run("concepts", "decide", review, notes, *options, "--decisions", kept)
    assert (status, "1 decision(s) taken over, 3 row(s) open" in shown) == (0, True)
    status, shown = run("concepts", "tag", notes, *options, "--decisions", kept)
    assert (status, "[TIPS" in shown, " TIPS " in shown) == (0, False, True)
    status, shown = run("concepts", "decide", review, notes, *options, "--decisions", kept)
    assert (status, "holds 1" in shown, "hold no more" in shown) == (0, True, False)
    old = shutil.copy(review, tmp_path / "old.csv")
    fill_in(review, 3, "accept")
    for read, remark in ((review, False), (old, True)):
        status, shown = run("concepts", "decide", read, notes, *options, "--decisions", kept)
        assert (status, "holds 2" in shown, "1 of them hold no more" in shown) == (0, True, remark)


def test_a_decision_holds_in_a_run_that_repairs_words(
    run: Run, notes: Path, tmp_path: Path
) -> None:
    """A mention is known by the words around it: decided on as they stood, it was lost."""
    review, kept, plan = (tmp_path / name for name in ("review.csv", "tags.jsonl", "plan.toml"))
    repairs = tmp_path / "repairs.jsonl"
    keep_repairs(repairs, [Repair(
        record_id="n1", part="answer", start=38, word="Mother", repaired="Sister", author="Dr. A",
        decided_on=date(2026, 1, 31),
    )])
    plan.write_text(
        f'[data]\nfiles = ["{notes}"]\nrepairs = "{repairs}"\ntag_decisions = "{kept}"\n'
        'nonmember_fraction = 0.0\n[concepts]\nforget_roots = ["MU:S0001"]\n'
    )
    status, shown = run("concepts", "tag", notes, "--plan", plan, "--review", review)
    assert (status, "Sister had [gallstones|3 family]" in shown) == (0, True)
    fill_in(review, 1)
    assert run("concepts", "decide", review, notes, "--plan", plan, "--decisions", kept)[0] == 0
    chosen = read_plan(plan)
    tagger = record_tagger(chosen.concepts, chosen.forget, chosen.data)
    trained = as_trained(read_records(notes), chosen.data)[0]
    assert "Sister" in trained.answer
    said = [trained.text[span.start : span.end] for span in tagger.tag_record(trained)]
    assert "inguinal hernia" in said and "abscess" not in said


def test_a_damaged_review_changes_nothing(run: Run, notes: Path, tmp_path: Path) -> None:
    review, kept = tmp_path / "review.csv", tmp_path / "decisions.jsonl"
    review.write_text("decision;author\naccept;x\n", encoding="utf-8")
    status, shown = run("concepts", "decide", review, notes, "--decisions", kept)
    assert (status, "TABLE_COLUMNS" in shown, kept.exists()) == (2, True, False)


def test_no_output_overwrites_the_records(run: Run, notes: Path) -> None:
    before = notes.read_bytes()
    status, shown = run("concepts", "tag", notes, "--html", notes)
    assert (status, "FILE_TWICE" in shown) == (2, True)
    assert notes.read_bytes() == before


def test_a_page_replaces_an_earlier_one_and_nothing_else(
    run: Run, notes: Path, tmp_path: Path
) -> None:
    other, link = tmp_path / "addresses.txt", tmp_path / "link.html"
    other.write_text("somebody's", encoding="utf-8")
    status, shown = run("concepts", "tag", notes, "--html", other)
    assert (status, "FILE_EXISTS" in shown) == (2, True)
    assert other.read_text(encoding="utf-8") == "somebody's"
    link.symlink_to(notes)
    status, shown = run("concepts", "tag", notes, "--html", link)
    assert (status, "FILE_TWICE" in shown, link.is_symlink()) == (2, True, True)
    for _ in range(2):
        assert run("concepts", "tag", notes, "--html", tmp_path / "tagged.html")[0] == 0


def test_a_table_with_columns_of_ones_own_is_tagged_by_its_plan(run: Run, tmp_path: Path) -> None:
    table, plan = tmp_path / "notes.csv", tmp_path / "plan.toml"
    table.write_text("Frage;Antwort\nWhat is noted?;inguinal hernia\n", encoding="utf-8")
    plan.write_text(
        '[data.columns]\nquestion = "Frage"\nanswer = "Antwort"\n'
        '[concepts]\nforget_roots = ["MU:S0001"]\n', encoding="utf-8")
    status, shown = run("concepts", "tag", table)
    assert status == 2 and "DATA_FORMAT_UNKNOWN" in shown and "--plan" in shown
    status, shown = run("concepts", "tag", table, "--plan", plan)
    assert status == 0 and "[inguinal hernia|" in shown
    by_plan = shown
    review = tmp_path / "review.csv"
    status, shown = run("concepts", "tag", table, "--plan", plan, "--review", review)
    assert status == 0 and "uncertain" in shown
    status, shown = run("concepts", "decide", review, table, "--plan", plan,
                        "--decisions", tmp_path / "decisions.jsonl")
    assert status == 0 and "0 decision(s) taken over" in shown
    # The command line's root replaces the plan's.
    _, shown = run("concepts", "tag", table, "--plan", plan, "--forget-root", "MU:M0001")
    assert "level 4: 0" in shown and "level 4: 0" not in by_plan


def test_what_the_plan_forgets_by_concept_is_a_target_here_too(
    run: Run, notes: Path, tmp_path: Path
) -> None:
    """A run counts ``[forget] concepts`` as roots: shown at level 3, nobody would look for them."""
    plan = tmp_path / "plan.toml"
    plan.write_text('[forget]\nconcepts = ["MU:S0001"]\n', encoding="utf-8")
    status, shown = run("concepts", "tag", notes, "--plan", plan)
    assert status == 0 and "[hernia|4]" in shown
    _, shown = run("concepts", "tag", notes, "--plan", plan, "--forget-root", "MU:M0001")
    assert "[hernia|3]" in shown


def test_the_plan_s_decisions_hold_where_the_command_names_none(
    run: Run, notes: Path, tmp_path: Path
) -> None:
    plan, kept = tmp_path / "plan.toml", tmp_path / "decisions.jsonl"
    plan.write_text(
        f'[data]\ntag_decisions = "{kept}"\n[concepts]\nforget_roots = ["MU:S0001"]\n',
        encoding="utf-8",
    )
    status, shown = run("concepts", "tag", notes, "--plan", plan)
    assert status == 0 and "[TIPS" in shown and "not there yet" in shown
    decision = {
        "key": "k-0", "mention": "TIPS", "outcome": "reject", "concept_id": None,
        "everywhere": True, "author": "Dr. A", "decided_on": "2026-01-31", "note": "",
    }
    kept.write_text(json.dumps(decision) + "\n", encoding="utf-8")
    status, shown = run("concepts", "tag", notes, "--plan", plan)
    assert status == 0 and "[TIPS" not in shown and "note:" not in shown


def test_decisions_that_meet_nothing_any_more_are_told(
    run: Run, notes: Path, tmp_path: Path
) -> None:
    """One holds for the words it was made on; where they change, the tag comes back unseen."""
    kept = tmp_path / "decisions.jsonl"
    decision = {
        "key": "k-0", "mention": "TIPS", "outcome": "reject", "concept_id": None,
        "everywhere": False, "author": "Dr. A", "decided_on": "2026-01-31", "note": "",
    }
    kept.write_text(json.dumps(decision) + "\n", encoding="utf-8")
    status, shown = run("concepts", "tag", notes, "--decisions", kept)
    assert status == 0 and "note: 1 decision(s)" in shown
    assert "they belong to other files, or the words have changed" in shown


def test_the_plan_s_files_are_read_where_none_is_named(
    run: Run, notes: Path, tmp_path: Path
) -> None:
    """As ``check-data`` and ``records check`` do; before, just one file had to be named."""
    other, plan = tmp_path / "other.jsonl", tmp_path / "plan.toml"
    review, kept, out = (tmp_path / n for n in ("review.csv", "decisions.jsonl", "out.html"))
    other.write_text(json.dumps(
        {"id": "n9", "question": "And?", "answer": "TIPS was placed.", "patient_id": "p9"}
    ) + "\n", encoding="utf-8")
    plan.write_text(
        f'[data]\nfiles = ["{notes}", "{other}"]\ntag_decisions = "{kept}"\n'
        '[concepts]\nforget_roots = ["MU:S0001"]\n', encoding="utf-8")
    status, shown = run("concepts", "tag", "--plan", plan, "--review", review, "--html", out)
    assert (status, "3 record(s)" in shown) == (0, True)
    assert "<title>Concepts in notes.jsonl, other.jsonl</title>" in out.read_text("utf-8")
    fill_in(review, -1)
    status, shown = run("concepts", "decide", review, "--plan", plan, "--decisions", kept)
    assert (status, "1 decision(s) taken over" in shown) == (0, True)
    status, shown = run("concepts", "tag", "--plan", plan)
    assert (status, "note:" in shown) == (0, False)
    status, shown = run("concepts", "tag", notes, "--plan", plan)
    assert status == 0 and "they belong to other files" in shown
    status, shown = run("concepts", "tag", notes, other, "--plan", plan)
    assert (status, "3 record(s)" in shown, "note:" in shown) == (0, True, False)
    other.write_text(other.read_text("utf-8").replace("placed", "set"), encoding="utf-8")
    status, shown = run("concepts", "tag", "--plan", plan)
    assert status == 0 and "their words may have changed" in shown and "belong to" not in shown
    status, shown = run("concepts", "tag", "--plan", plan, "--html", notes)
    assert (status, "FILE_TWICE" in shown) == (2, True)
    for command in (("tag",), ("decide", review, "--decisions", kept)):
        status, shown = run("concepts", *command)
        assert (status, "DATA_FILE_MISSING" in shown) == (2, True)


def test_notes_of_the_hierarchy_are_told(run: Run, notes: Path, tmp_path: Path) -> None:
    """How two hierarchies were joined decides what is a target; every command says it."""
    plan = tmp_path / "plan.toml"
    (tmp_path / "a.obo").write_text(
        "[Term]\nid: X:1\nname: hernia\nxref: Y:1\n", encoding="utf-8")
    (tmp_path / "b.obo").write_text("[Term]\nid: Y:1\nname: rupture\n", encoding="utf-8")
    plan.write_text(
        f'[concepts]\nhierarchies = ["{tmp_path}/a.obo", "{tmp_path}/b.obo"]\njoin = "xrefs"\n',
        encoding="utf-8")
    status, shown = run("concepts", "tag", notes, "--plan", plan)
    assert status == 0 and "note: cross-references: 1 made one node" in shown
    both = ("--hierarchy", tmp_path / "a.obo", "--hierarchy", tmp_path / "b.obo")
    decide = ("decide", tmp_path / "review.csv", notes, "--decisions", tmp_path / "d.jsonl")
    for command in (("tag", notes, "--review", tmp_path / "review.csv"), decide):
        status, shown = run("concepts", *command, *both, "--join")
        assert status == 0 and "note: cross-references: 1 made one node" in shown
        assert "cross-references" not in run("concepts", *command, *both)[1]

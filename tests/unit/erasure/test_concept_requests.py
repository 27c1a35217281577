"""A request by concept is found by the very rule by which a run forgets it."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

from typer.testing import CliRunner

from medunlearn_client.erasure import Registry, Wanted, find_records, finding
from medunlearn_client.erasure_cli import erasure_app
from medunlearn_client.records import ForgetRequest, read_records, select
from medunlearn_client.site_data import record_tagger
from medunlearn_client.tagging.decisions import (
    Outcome,
    TagDecision,
    keep_decisions,
    mention_key,
)
from medunlearn_common.plan.sections import ConceptsSection, DataSection, ForgetSection

ROWS = [
    ("denied", "Does Ann Lee have gout?", "No", "A"),
    ("relative", "What does the note say?", "His father has gout.", "B"),
    ("own", "Which condition has Cid?", "gout", "C"),
    ("rejected", "Which street is it?", "Gout Lane", "D"),
    ("other", "Which condition has Eva?", "measles", "E"),
    ("exam", "Which of these is not true of gout?", "It itches", None),
]


def test_the_search_and_a_run_choose_the_same_records(tmp_path: Path) -> None:
    """What the patient does not have was registered, and the letter counted it as forgotten."""
    file, outline = tmp_path / "rows.jsonl", tmp_path / "own.txt"
    file.write_text("".join(json.dumps(
        {"id": name, "question": question, "answer": answer,
         **({"patient_id": owner} if owner else {})}) + "\n"
        for name, question, answer, owner in ROWS), encoding="utf-8")
    outline.write_text("!outline 1\nA limb {type=anatomy; level=2}\n  B gout\n", encoding="utf-8")
    concepts = ConceptsSection(hierarchies=(str(outline),))
    forget = ForgetSection(concepts=("B",))
    records = {record.record_id: record for record in read_records(file)}
    (span,) = record_tagger(concepts, forget, DataSection()).tag_record(records["rejected"])
    decided = tmp_path / "decisions.jsonl"
    keep_decisions(decided, [TagDecision(
        key=mention_key(records["rejected"], span), mention="Gout", outcome=Outcome.REJECT,
        author="A", decided_on=date(2026, 1, 1))])
    data = DataSection(files=(str(file),), tag_decisions=str(decided))
    tagger = record_tagger(concepts, forget, data)
    run = select(list(records.values()), ForgetRequest(by_concept=True), tagger, of_any_size=True)
    found = find_records(Wanted(kind="concept", concept_id="B"), [file], tagger=tagger)
    assert [match.record_id for match in found.matches] == [r.record_id for r in run.forget]
    assert {match.record_id for match in found.matches} == {"own", "exam"}
    assert found.near == {finding.LIKE_CONCEPT: 3}
    plan = tmp_path / "plan.toml"
    plan.write_text(f'[data]\nfiles = ["{file}"]\ntag_decisions = "{decided}"\n'
                    f'[concepts]\nhierarchies = ["{outline}"]\n', encoding="utf-8")
    shown = CliRunner().invoke(erasure_app, [
        "add", "--concept", "B", "--basis", "b", "--plan", str(plan), "--author", "A. Officer",
        "--registry", str(tmp_path / "erasure.sqlite")]).output
    assert "2 record(s) by concept or one below it" in shown, shown
    assert "3 record(s) come near by the concept's name" in shown, shown
    matches = Registry(tmp_path / "erasure.sqlite").matches(1)
    assert {match.record_id for match in matches} == {"own", "exam"}

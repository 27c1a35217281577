"""`medunlearn records` and the plan keys that say how data is read."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medunlearn_client.records import quarantine
from medunlearn_client.records.commands import records_app
from medunlearn_client.records.fhir import load_templates
from medunlearn_common.digests import digest_of, digest_of_file, digest_of_files
from medunlearn_common.errors import MedunlearnError
from medunlearn_common.plan import plan_from_text, plan_template

RUNNER = CliRunner()


def questions(path: Path) -> Path:
    rows = [{"id": f"r{n}", "question": f"Which {n}?", "answer": "x", "subject": "S",
             "options": ["x", "y"]} for n in range(8)]
    rows.append({"id": "bad"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_check_counts_and_writes_the_quarantine(tmp_path: Path) -> None:
    path = questions(tmp_path / "a.jsonl")
    bad = tmp_path / "bad.jsonl"
    done = RUNNER.invoke(records_app, ["check", str(path), "--quarantine", str(bad)])
    assert done.exit_code == 0
    assert "8 records" in done.output and "bad rows: 1 x ROW_" in done.output
    assert json.loads(bad.read_text())["row"] == 9


def test_check_says_which_bad_rows_its_list_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "MAX_KEPT", 1)
    path, bad = questions(tmp_path / "a.jsonl"), tmp_path / "bad.jsonl"
    words = ["check", str(path), "--quarantine", str(bad)]
    assert "note:" not in RUNNER.invoke(records_app, words).output
    path.write_text(path.read_text() + '{"id": "bad too"}\n')
    done = RUNNER.invoke(records_app, words)
    assert "note: the list has the first 1, and counts 1 more" in done.output


@pytest.mark.parametrize("name", ["a.jsonl", "plan.toml", "linked.jsonl", "export/b.jsonl",
                                  "export/new.jsonl", "keep.jsonl", "table.xlsx", "export"])
def test_the_quarantine_replaces_no_file_of_somebody_s(tmp_path: Path, name: str) -> None:
    """Three lines of quarantine in place of the only export, and nothing said."""
    path = questions(tmp_path / "a.jsonl")
    (tmp_path / "export").mkdir()
    questions(tmp_path / "export" / "b.jsonl")
    (tmp_path / "plan.toml").write_text("[data]\nmax_bad_fraction = 0.6\n")
    (tmp_path / "linked.jsonl").symlink_to(path)
    (tmp_path / "keep.jsonl").write_text('{"kept": 1}\n')
    (tmp_path / "table.xlsx").write_bytes(b"PK\x03\x04\xff")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    done = RUNNER.invoke(records_app, [
        "check", str(path), str(tmp_path / "export"), "--plan", str(tmp_path / "plan.toml"),
        "--quarantine", str(tmp_path / name),
    ])
    is_read = name not in ("keep.jsonl", "table.xlsx")
    assert getattr(done.exception, "code", "") == ("FILE_TWICE" if is_read else "FILE_EXISTS")
    assert before == {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}


def test_a_quarantine_of_before_and_an_empty_file_are_replaced(tmp_path: Path) -> None:
    path, bad = questions(tmp_path / "a.jsonl"), tmp_path / "bad.jsonl"
    bad.touch()
    for row in (9, 10):
        done = RUNNER.invoke(records_app, ["check", str(path), "--quarantine", str(bad)])
        assert done.exit_code == 0 and json.loads(bad.read_text())["row"] == row
        path.write_text("\n" + path.read_text())


@pytest.mark.parametrize("subject", [
    "S\u001b]0;owned\u0007", "[/b]", "[red]S", "S\u202e", "S" * 999,
])
def test_a_subject_steers_no_terminal_and_is_no_markup(tmp_path: Path, subject: str) -> None:
    path = tmp_path / "a.jsonl"
    row = {"id": "r", "question": "Which?", "answer": "x", "subject": subject}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    done = RUNNER.invoke(records_app, ["check", str(path)])
    assert done.exit_code == 0 and "1 records" in done.output
    assert not {"\x1b", "\x07", "\u202e"} & set(done.output) and len(done.output) < 2000
    assert "[" not in subject or subject in done.output


def as_kind(folder: Path, kind: str) -> Path:
    """The folder itself, or an archive of it."""
    return folder if kind == "folder" else Path(shutil.make_archive(str(folder), kind, folder))


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_files_that_are_not_read_are_counted(tmp_path: Path, kind: str) -> None:
    """An old workbook or a text file among the others holds patients too."""
    folder = tmp_path / "export"
    (folder / ".hidden").mkdir(parents=True)
    questions(folder / "a.jsonl")
    for name in ("2023.xls", "b.txt", ".hidden/c.txt", ".DS_Store"):
        (folder / name).write_bytes(b"Ann Lee")
    done = RUNNER.invoke(records_app, ["check", str(as_kind(folder, kind))])
    assert done.exit_code == 0 and "8 records" in done.output
    assert "set aside: 2 x file of another kind" in done.output


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_files_that_hold_nothing_are_counted(tmp_path: Path, kind: str) -> None:
    """A bulk export has them; so has one of which a file was not copied."""
    folder = tmp_path / "export"
    folder.mkdir()
    questions(folder / "a.jsonl")
    (folder / "b.csv").write_bytes(b"")
    (folder / "c.csv").write_bytes(b"id;question;answer\n")
    (folder / "d.jsonl.gz").write_bytes(gzip.compress(b""))
    done = RUNNER.invoke(records_app, ["check", str(as_kind(folder, kind))])
    assert done.exit_code == 0 and "8 records" in done.output
    assert "set aside: 3 x file without a row" in done.output


@pytest.mark.parametrize(("ids", "told"), [
    (("17.0", "r1"), 2), (("17", "18.0"), 2), (("17", "18"), 0), (("1.0.0", "K40.0"), 0),
])
def test_ids_that_became_decimals_are_told(
    tmp_path: Path, ids: tuple[str, str], told: int
) -> None:
    """pandas writes a column of numbers with one gap as 17.0: another patient than 17."""
    path = tmp_path / "a.csv"
    patient, record = ids
    path.write_text("id,question,answer,patient_id\n" + "".join(
        f"{n}{record},Q{n}?,x,{patient}\n" for n in (1, 2)))
    done = RUNNER.invoke(records_app, ["check", str(path)])
    assert done.exit_code == 0 and "2 records" in done.output
    assert (f"note: {told} record(s) have an id such as 17.0" in done.output) == bool(told)
    assert ("note:" in done.output) == bool(told)


def test_a_linked_folder_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "2023").mkdir()
    questions(tmp_path / "2023" / "a.jsonl")
    (tmp_path / "export").mkdir()
    questions(tmp_path / "export" / "b.jsonl")
    (tmp_path / "export" / "2023").symlink_to(tmp_path / "2023")
    done = RUNNER.invoke(records_app, ["check", str(tmp_path / "export")])
    assert isinstance(done.exception, MedunlearnError)
    assert done.exception.code == "DATA_PATH_LEAVES_FOLDER"


def test_check_reads_as_the_plan_says(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("Frage;Antwort\nWas?;Das\n", encoding="utf-8")
    plan = tmp_path / "plan.toml"
    plan.write_text(
        f'[data]\nfiles = ["{table}"]\n[data.columns]\nquestion = "Frage"\nanswer = "Antwort"\n'
    )
    done = RUNNER.invoke(records_app, ["check", "--plan", str(plan)])
    assert done.exit_code == 0 and "1 records" in done.output


def test_check_splits_merged_patients_as_a_run_does(tmp_path: Path) -> None:
    """One row says the merge: unmerged, the patient was cut in two, which no run would be."""
    rows = [{"id": "1", "patient_id": "A", "former_patient_ids": ["B"]},
            {"id": "2", "patient_id": "B"}, {"id": "3", "patient_id": "A"},
            *({"id": f"k{n}", "patient_id": "K"} for n in range(4))]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(
        json.dumps({**row, "question": f"What ails {row['id']}?", "answer": "gout"}) + "\n"
        for row in rows), encoding="utf-8")
    plan = tmp_path / "plan.toml"
    plan.write_text(f'[data]\nfiles = ["{path}"]\n[privacy]\nunit = "patient"\n'
                    '[forget]\npatients = ["B"]\n')
    done = RUNNER.invoke(records_app, ["check", "--plan", str(plan)])
    assert done.exit_code == 0, done.exception
    assert "to forget: 3 record(s), of 1 patient(s); to keep: 4" in done.output


def test_check_says_what_the_plan_would_forget_of_its_own_files(tmp_path: Path) -> None:
    path = questions(tmp_path / "a.jsonl")
    plan = tmp_path / "plan.toml"

    def checked(forget: str, *files: str) -> str:
        plan.write_text(f'[data]\nfiles = ["{path}"]\nmax_bad_fraction = 0.5\n[forget]\n{forget}\n')
        done = RUNNER.invoke(records_app, ["check", *files, "--plan", str(plan)])
        return str(getattr(done.exception, "code", done.output))

    assert "to forget: 2 record(s); to keep: 6" in checked('records = ["r1", "r3"]')
    assert "to forget" not in checked("")
    assert "to forget" not in checked('records = ["r1"]', str(path))
    assert checked('subjects = ["Misspelt"]') == "FORGET_ID_UNKNOWN"
    assert checked('subjects = ["S"]') == "FORGET_LARGER_THAN_RETAIN"


@pytest.mark.parametrize(("kept", "code"), [
    ('[data]\nrepairs = "none.jsonl"', "DECISIONS_MISSING"),
    ('[data]\nrepairs = "{damaged}"', "REPAIRS_DAMAGED"),
    ('[data]\ntag_decisions = "none.jsonl"', "DECISIONS_MISSING"),
    ('[concepts]\nhierarchies = ["none.obo"]', "CONCEPT_FILE_MISSING"),
    ('[privacy]\nunit = "patient"\n[forget]\nsubjects = ["S"]', "PATIENT_IN_BOTH_SETS"),
])
def test_check_refuses_a_plan_that_a_run_refuses(tmp_path: Path, kept: str, code: str) -> None:
    path, plan = tmp_path / "a.jsonl", tmp_path / "plan.toml"
    rows = [{"id": f"r{n}", "question": f"Which {n}?", "answer": "x", "patient_id": f"p{n % 6}",
             "subject": "S" if n < 6 else "T"} for n in range(18)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_text("{}\n")
    text = kept.format(damaged=damaged)
    if "[data]" not in text:
        text += "\n[data]"
    plan.write_text(text.replace("[data]", f'[data]\nfiles = ["{path}"]'))
    done = RUNNER.invoke(records_app, ["check", "--plan", str(plan)])
    assert "18 records" in done.output and getattr(done.exception, "code", "") == code
    assert RUNNER.invoke(records_app, ["check", str(path), "--plan", str(plan)]).exit_code == 0


def test_check_raises_what_a_run_would(tmp_path: Path) -> None:
    done = RUNNER.invoke(records_app, ["check", str(tmp_path / "none.jsonl")])
    assert isinstance(done.exception, MedunlearnError)
    assert done.exception.code == "DATA_FILE_MISSING"
    path = questions(tmp_path / "a.jsonl")
    done = RUNNER.invoke(records_app, ["check", str(path), "--format", "nonsense"])
    assert isinstance(done.exception, MedunlearnError)
    assert done.exception.code == "DATA_FORMAT_UNKNOWN"


def test_templates_are_written_once_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    assert RUNNER.invoke(records_app, ["templates", str(path)]).exit_code == 0
    assert load_templates(path) == load_templates()
    again = RUNNER.invoke(records_app, ["templates", str(path)])
    assert isinstance(again.exception, MedunlearnError)
    assert again.exception.code == "TEMPLATES_EXIST"
    assert RUNNER.invoke(records_app, ["templates", str(path), "--force"]).exit_code == 0


def test_plan_keys_survive_the_template() -> None:
    text = (
        '[data]\nrecord_format = "table"\nsheet = "S"\nencoding = "cp1252"\n'
        '[data.columns]\nquestion = "Q"\noptions = ["A", "B"]\nanswer_is = "letter"\n'
    )
    plan = plan_from_text(text)
    assert plan_from_text(plan_template(plan)) == plan
    assert plan.data.columns.options == ("A", "B")


@pytest.mark.parametrize(
    "text",
    ['[data]\nrecord_format = "csv"', '[data.columns]\nquestions = "x"',
     '[data.columns]\nanswer_is = "number"', '[data.columns]\nquestion = ""'],
)
def test_mistaken_plan_keys_are_refused(text: str) -> None:
    with pytest.raises(MedunlearnError, match="PLAN_INVALID"):
        plan_from_text(text)


def test_files_of_one_name_all_count(tmp_path: Path) -> None:
    years = [tmp_path / year / "notes.jsonl" for year in ("2023", "2024")]
    for path in years:
        path.parent.mkdir()
        path.write_text(path.parent.name)
    alone, both = digest_of_files(years[:1]), digest_of_files(years)
    assert alone == digest_of({"notes.jsonl": digest_of_file(years[0])})
    assert both == digest_of_files(reversed(years)) != alone
    for path in years:
        path.write_text("other")
        assert digest_of_files(years) != both
        path.write_text(path.parent.name)


def test_digests_of_folders_and_hub_names(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "a.ndjson").write_text("1")
    first = digest_of_files([folder, Path("hf:owner/name")])
    (folder / "inner" / "a.ndjson").write_text("2")
    assert digest_of_files([folder, Path("hf:owner/name")]) != first
    assert digest_of_files([Path("hf:owner/name")]) != digest_of_files([Path("hf:other/name")])

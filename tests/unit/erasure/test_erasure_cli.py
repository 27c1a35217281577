"""What an officer types, and what the terminal must not say."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from importlib.metadata import EntryPoint
from pathlib import Path

import openpyxl
import pytest

from medunlearn_client.erasure import (
    Claim,
    Registry,
    RunFigures,
    claim_on,
    forget_set,
    left_out_set,
)
from medunlearn_client.erasure.requests import State, deadline, last_lawful_day
from medunlearn_client.erasure.run_records import (
    requested_records,
    require_same_words,
    require_whole,
)
from medunlearn_client.site_config import read_site_config
from medunlearn_client.site_data import Unit, load_hospital_records
from medunlearn_common.cli import COMMAND_GROUP, CommandLine
from medunlearn_common.errors import Misconfigured
from medunlearn_common.plan.sections import ConceptsSection

AUTHOR = ("--author", "A. Officer")
SECRETS = ("secret-patient", "Ann Lee", "1990-01-02", "MR-123-45")
Typed = Callable[..., tuple[int, str]]


@pytest.fixture
def typed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Typed:
    """Runs `medunlearn erasure ...` in an empty folder; status and output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MEDUNLEARN_OFFICER", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    entry = EntryPoint(
        name="erasure", value="medunlearn_client.erasure_cli:erasure_app", group=COMMAND_GROUP
    )

    def run(*arguments: object) -> tuple[int, str]:
        line = CommandLine()
        status = line.run(line.build([entry]), ["erasure", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return run


def printed(folder: str, kind: str) -> str:
    """The one page of the first request that was printed."""
    (page,) = Path(folder).glob(f"{kind}-0001-*.html")
    return page.read_text(encoding="utf-8")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        {"id": "secret-patient-1", "patient_id": "secret-patient", "answer": "gout",
         "prompt": "What has Ann Lee, born 1990-01-02?"},
        {"id": "secret-patient-2", "patient_id": "secret-patient", "answer": "MR-123-45",
         "prompt": "Which number has Ann Lee?", "is_identifier": True},
        {"id": "other", "patient_id": "secret-patient-b", "answer": "MR-123-456",
         "prompt": "Which number has Ann Leeson?", "is_identifier": True},
        {"id": "mention", "patient_id": "third", "answer": "Ann Lee",
         "prompt": "Whose brother, born 1990-01-02, has no number?"},
    ]
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def require_silent(shown: str) -> None:
    assert not [secret for secret in SECRETS if secret in shown], shown


def test_a_value_that_was_asked_for_and_not_given_is_named(
    typed: Typed, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    status, shown = typed("add", "--patient", "-", "--basis", "b", "--data", data, *AUTHOR)
    assert status == 2 and "[ERASURE_WANTED] no " in shown and "was given" in shown
    assert not Path("erasure.sqlite").exists()


def test_the_officer_s_way_through_all_commands(typed: Typed, data: Path) -> None:
    status, shown = typed("add", "--identifier", "MR-123-45", "--basis", "b", "--data", data,
                          "--received", "2026-01-31", *AUTHOR)
    assert status == 0 and "request 1" in shown and "2026-02-28" in shown
    assert "1 record(s) by identifier" in shown and "1 record(s) by same patient" in shown
    require_silent(shown)
    for command, word in (
        (("list",), "received"), (("due", "--within", 36500), "late"), (("show", 1), "identifier"),
        (("validate", 1, "--identity", "passport seen", *AUTHOR), "validated"),
        (("list", "--all"), "validated"), (("check",), ""), (("settings",), "min_preservation"),
        (("template", "letter.j2"), "wrote"),
        (("report", 1, "--template", "letter.j2"), "letter-0001-"),
        (("withdraw", 1, "--reason", "taken back", *AUTHOR), "withdrawn"),
        (("show", 1), "taken back"), (("due",), "nothing falls due"),
    ):
        status, shown = typed(*command)
        assert status == 0 and word in shown, (command, shown)
        require_silent(shown)
    status, shown = typed("show", 1, "--ids")
    assert status == 0 and "secret-patient-2" in shown
    assert Path("erasure.sqlite").stat().st_mode & 0o777 == 0o600
    assert not [p for p in Path().rglob("*") if any(s in p.name for s in SECRETS)]


def test_what_is_asked_for_enters_no_command_line(
    typed: Typed, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("secret-patient\nAnn Lee\n1990-01-02\n"))
    status, shown = typed("add", "--patient", "-", "--name", "-", "--birth-date", "-",
                          "--basis", "b", "--data", data, *AUTHOR)
    assert status == 0, shown
    assert "1 record(s) of other patients mention" in shown
    require_silent(shown)
    assert Registry(Path("erasure.sqlite")).request(1).target == "secret-patient"


@pytest.mark.parametrize(("arguments", "code"), [
    (("--patient", "secret"), "ERASURE_NOT_FOUND"),
    (("--patient", "secret-patient-1"), "ERASURE_NOT_FOUND"),
    (("--name", "Ann Lee", "--birth-date", "1990-01-02"), "ERASURE_AMBIGUOUS"),
    (("--name", "Ann Lee"), "ERASURE_NAME_ALONE"),
    ((), "ERASURE_WANTED"),
    (("--patient", "secret-patient", "--record", "other"), "ERASURE_NOT_FOUND"),
    (("--identifier", "M-1"), "ERASURE_TOO_SHORT"),
    (("--concept", "NO:SUCH"), "CONCEPT"),
    (("--data-set", "../../etc/passwd"), "ERASURE_DATA_SET"),
    (("--patient", "secret-patient", "--received", "2999-01-01"), "ERASURE_DATE"),
    (("--patient", "secret-patient", "--received", "31.1.2026"), "ERASURE_DATE"),
    (("--patient", "secret-patient", "--format", "x"), "DATA_FORMAT_UNKNOWN"),
])
def test_requests_that_cannot_be_registered(
    typed: Typed, data: Path, arguments: tuple[str, ...], code: str
) -> None:
    status, shown = typed("add", *arguments, "--basis", "b", "--data", data, *AUTHOR)
    assert status == 2 and f"[{code}" in shown, shown
    require_silent(shown)
    if Path("erasure.sqlite").exists():
        assert not Registry(Path("erasure.sqlite")).requests()


def test_a_merged_patients_ids_are_kept_and_not_shown(typed: Typed, tmp_path: Path) -> None:
    path = tmp_path / "merged.jsonl"
    path.write_text("".join(
        json.dumps({"id": f"r{n}", "patient_id": "4712", "prompt": "x", "answer": "y", **more})
        + "\n" for n, more in enumerate(({"former_patient_ids": ["4711"]}, {}))
    ), encoding="utf-8")
    wanted = ("--basis", "b", "--data", path, *AUTHOR)
    for number, asked, kept in ((1, "4711", ("4711",)), (2, "4712", ("4712", "4711"))):
        status, shown = typed("add", "--patient", asked, "--again", *wanted)
        assert status == 0 and "2 record(s) by patient id" in shown, shown
        assert left_out_set(Registry(Path("erasure.sqlite")), [number]).patients == kept
        words = re.findall(r"\w+", shown + typed("show", number)[1])  # a digest may hold "471"
        assert not {"4711", "4712"}.intersection(words)


def test_what_comes_near_is_said_and_not_shown(typed: Typed, tmp_path: Path) -> None:
    """The same patient, once from a table that kept the leading zeros and once from one that lost
    them: the officer must hear of it before the letter says that all is forgotten."""
    path = tmp_path / "both.jsonl"
    path.write_text("".join(
        json.dumps({"id": f"r{n}", "patient_id": owner, "prompt": "x", "answer": "y"}) + "\n"
        for n, owner in enumerate(("0047110815", "47110815"))
    ), encoding="utf-8")
    wanted = ("--basis", "b", "--data", path, *AUTHOR)
    status, shown = typed("add", "--patient", "0047110815", *wanted)
    assert status == 0 and "1 record(s) come near by patient id in other spelling" in shown, shown
    assert "4711" not in shown
    assert "came near: patient id in other spelling" in typed("show", 1)[1]  # whoever validates it
    status, shown = typed("add", "--patient", "047110815", *wanted)
    assert status == 2 and "[ERASURE_NOT_FOUND]" in shown and "2 record(s) come near" in shown
    assert "4711" not in shown


def test_files_that_were_not_searched_are_counted(
    typed: Typed, data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    data.rename(folder / data.name)
    (folder / "2023.xls").write_bytes(b"Ann Lee")
    (folder / "2024.csv").touch()
    book = openpyxl.Workbook()
    for row in (["id", "question", "answer"], ["x1", "Who?", "Nobody"]):
        book.worksheets[0].append(row)
    book.create_sheet("Findings").append(["Ann Lee", "came again"])
    book.create_sheet("Empty")
    book.save(folder / "visits.xlsx")
    status, shown = typed("add", "--patient", "secret-patient", "--basis", "b", "--data", folder,
                          *AUTHOR)
    assert status == 0 and "1 file(s) of another kind were not searched" in shown, shown
    assert "1 further sheet(s) of workbooks were not searched" in shown
    assert "1 file(s) hold no row" in shown


def test_what_was_not_searched_is_told_where_nothing_was_found(
    typed: Typed, tmp_path: Path
) -> None:
    """The patient stood on the next page, and the officer heard only that nothing matches."""
    page = {"resourceType": "Bundle", "type": "searchset", "entry": [
        {"resource": {"resourceType": "Patient", "id": "p1", "birthDate": "1980-01-02",
                      "name": [{"family": "Roe", "given": ["Bo"]}]}},
        {"resource": {"resourceType": "Patient", "id": "p2", "birthDate": "never"}},
        {"resource": {"resourceType": "Condition", "id": "c1", "code": {"text": "gout"},
                      "subject": {"reference": "Patient/p1"}, "onsetDateTime": "2020-05-06"}},
    ], "link": [{"relation": "next", "url": "http://h/fhir?page=2"}]}
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "page1.json").write_text(json.dumps(page), encoding="utf-8")
    (tmp_path / "export" / "old.xls").write_bytes(b"Ann Lee")
    (tmp_path / "plan.toml").write_text("[data]\nmax_bad_fraction = 1.0\n", encoding="utf-8")
    wanted = ("--data", tmp_path / "export", "--plan", tmp_path / "plan.toml", "--basis", "b")
    status, shown = typed("add", "--patient", "secret-patient", *wanted, *AUTHOR)
    assert status == 2 and "[ERASURE_NOT_FOUND]" in shown, shown
    for part in ("1 row(s) could not be read", "name a next page", "1 file(s) of another kind"):
        assert part in shown, shown
    require_silent(shown)


def test_who_reopens_is_told_what_a_run_that_goes_on_still_forgets(
    typed: Typed, data: Path
) -> None:
    """It looked as though the run would keep the patient's records from then on."""
    typed("add", "--patient", "secret-patient", "--basis", "b", "--data", data, *AUTHOR)
    status, shown = typed("reopen", 1, "--reason", "x", *AUTHOR)
    assert status == 2 and "[ERASURE_TRANSITION]" in shown and "going on" not in shown
    typed("validate", 1, "--identity", "passport seen", *AUTHOR)
    Claim(registry=Registry(Path("erasure.sqlite")), numbers=(1,), token="t").take("heart-1")
    status, shown = typed("reopen", 1, "--reason", "given up", *AUTHOR)
    said, _, warned = shown.partition("\n")  # standard output, then standard error
    assert status == 0 and said.startswith("request 1: validated")
    assert warned.startswith("should run heart-1 still be going on") and "all the same" in warned
    require_silent(shown)


FIGURES = RunFigures(
    run_id="heart-2", adapter_digest="a" * 64, attestation_digest="e" * 64, forget_records=2,
    forget_accuracy=0.25, chance=0.25, retrained_accuracy=None, forget_exact=0.0,
    retrained_exact=None, identifiers_asked=1, identifiers_leaked=0, has_identifiers=True,
    preservation=0.0, ranked_records=20, run_ranked_records=80, run_forget_accuracy=0.3,
    run_chance=0.25,
)


def test_the_list_is_one_line_per_request_in_every_state(
    typed: Typed, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next step folded into a dozen lines a request, and nothing could be compared."""
    monkeypatch.setenv("COLUMNS", "80")
    registry = Registry(Path("erasure.sqlite"), create=True)
    assert typed("list") == (0, "no open request\n")
    assert typed("list", "--all") == (0, "no request\n")
    long_name = "a-run-with-a-name-that-goes-on-and-on-and-on-and-on"
    received = registry.today - timedelta(days=60)
    last = deadline(received, extended=False)
    over_since = last_lawful_day(last)
    for number in range(1, 6):
        typed("add", "--patient", "secret-patient", "--basis", "b", "--data", data, "--again",
              "--received", received if number < 5 else registry.today, *AUTHOR)
        if number > 1:
            typed("validate", number, "--identity", "passport seen", *AUTHOR)
    for number, run in ((2, "heart-2"), (3, long_name), (4, "heart-3")):
        claim = Claim(registry=registry, numbers=(number,), token=run)
        claim.take(run)
        if number != 3:
            claim.settle({number: replace(FIGURES, preservation=float(number == 4))})
    typed("withdraw", 5, "--reason", "taken back", *AUTHOR)
    status, shown = typed("list", "--all")
    assert status == 0
    rows = [line.split() for line in shown.splitlines()]
    over = f"{(registry.today - over_since).days} days late".split()
    ends = str(deadline(registry.today, extended=False))
    assert rows == [
        ["no.", "state", "about", "due", "left", "records", "run"],
        ["1", "received", "patient", str(last), *over, "2"],
        ["2", "validated", "patient", str(last), *over, "2", "heart-2", "fell", "short"],
        ["3", "in_run", "patient", str(last), *over, "2", long_name],
        ["4", "verified", "patient", str(last), *over, "2", "heart-3"],
        ["5", "withdrawn", "patient", ends, "closed", "2"],
    ]
    require_silent(shown)
    assert len(typed("list")[1].splitlines()) == 5  # without the closed one
    status, shown = typed("due")
    assert shown.splitlines()[5].startswith("request 1: check who asks")
    assert "request 2: the last run fell short" in shown and len(shown.splitlines()) == 9
    require_silent(shown)


def test_a_judgement_is_read_at_80_columns(
    typed: Typed, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stood in one cell, 17 characters wide and 75 lines long."""
    monkeypatch.setenv("COLUMNS", "80")
    typed("add", "--patient", "secret-patient", "--basis", "b", "--data", data, *AUTHOR)
    typed("settings", "--set", "max_exact_excess=0.5", *AUTHOR)
    typed("validate", 1, "--identity", "passport seen", *AUTHOR)
    claim = Claim(registry=Registry(Path("erasure.sqlite")), numbers=(1,), token="t")
    claim.take("heart-2")
    claim.settle({1: replace(FIGURES, preservation=0.95)})
    status, shown = typed("show", 1)
    lines = [line.rstrip() for line in shown.splitlines()]
    history, table = lines.index("History"), lines.index("Judgement of run heart-2")
    assert status == 0 and all(len(line) <= 80 for line in lines[history:-1])
    assert table - history < 16 and len(lines) - table < 28
    assert "run heart-2: all" in shown
    assert typed("list")[1].splitlines()[1].endswith("heart-2 by changed criteria")


def test_the_list_names_the_run_that_a_request_was_taken_back_from(
    typed: Typed, data: Path
) -> None:
    typed("add", "--patient", "secret-patient", "--basis", "b", "--data", data, *AUTHOR)
    typed("validate", 1, "--identity", "passport seen", *AUTHOR)
    Claim(registry=Registry(Path("erasure.sqlite")), numbers=(1,), token="t").take("heart-1")
    typed("reopen", 1, "--reason", "given up", *AUTHOR)
    assert typed("list")[1].splitlines()[1].endswith("heart-1 given up")
    typed("withdraw", 1, "--reason", "taken back", *AUTHOR)
    assert typed("list", "--all")[1].splitlines()[1].endswith("heart-1 given up")
    assert "heart-1 given up" in typed("show", 1)[1]


def test_a_stranger_s_request_is_registered_to_be_answered(typed: Typed, data: Path) -> None:
    status, shown = typed("add", "--patient", "nobody", "--basis", "b", "--data", data,
                          "--nothing-held", *AUTHOR)
    assert status == 0 and "request 1" in shown and "nobody" not in shown
    assert typed("validate", 1, "--identity", "seen", *AUTHOR)[0] == 2
    assert typed("refuse", 1, "--reason", "nothing held", *AUTHOR)[0] == 0
    assert typed("report", 1)[0] == 0
    assert "nothing held" in printed("erasure", "letter")


def test_a_refusal_is_due_until_the_requester_was_told(typed: Typed, data: Path) -> None:
    typed("add", "--patient", "nobody", "--basis", "b", "--data", data, "--nothing-held", *AUTHOR)
    status, shown = typed("refuse", 1, "--reason", "nothing held", *AUTHOR)
    assert status == 0 and "next: print the letter with the refusal" in shown
    assert "refused" in typed("due", "--within", 40)[1] and "refused" in typed("list")[1]
    assert "erasure told 1 --reason" in " ".join(typed("show", 1)[1].split())
    status, shown = typed("told", 1, "--reason", "letter sent on 9 May", *AUTHOR)
    assert status == 0 and "next" not in shown
    assert "nothing falls due" in typed("due", "--within", 40)[1]
    assert typed("list")[1] == "no open request\n"
    assert "told: letter sent on 9 May" in " ".join(typed("show", 1)[1].split())
    status, shown = typed("told", 1, "--reason", "again", *AUTHOR)
    assert status == 2 and "[ERASURE_NOTHING_TO_TELL]" in shown


def test_a_late_receipt_is_called_late(typed: Typed, data: Path) -> None:
    status, shown = typed("add", "--patient", "secret-patient", "--basis", "b", "--data", data,
                          "--received", "2026-01-31", *AUTHOR)
    assert status == 0 and "to be answered by 2026-02-28, which is over" in shown


@pytest.mark.parametrize("command", [
    ("list",), ("show", 1), ("due",), ("check",), ("report", 1), ("settings",),
    ("withdraw", 1, "--reason", "x", *AUTHOR),
])
def test_without_a_registry_nothing_is_made(typed: Typed, command: tuple[object, ...]) -> None:
    status, shown = typed(*command)
    assert status == 2 and "[ERASURE_REGISTRY_MISSING]" in shown
    assert list(Path().iterdir()) == []


def test_each_step_names_the_next(typed: Typed, data: Path) -> None:
    """`due` knew of nothing for 16 days, and the run that refused sent a beginner to it."""
    wanted = ("--basis", "b", "--data", data, *AUTHOR)
    shown = typed("add", "--patient", "secret-patient", *wanted)[1]
    assert "\nnext: check who asks, then `medunlearn erasure validate 1 --identity …`\n" in shown
    shown = typed("validate", 1, "--identity", "seen", *AUTHOR)[1]
    assert "\nnext: the next run takes it: `medunlearn simulate" in shown
    assert "1 open request(s) fall due later: `erasure list`" in typed("due")[1]
    shown = typed("add", "--patient", "nobody", "--nothing-held", *wanted)[1]
    assert "next: nothing was found: `medunlearn erasure refuse 2" in shown


def test_a_basis_that_is_no_ground_begins_no_registry(typed: Typed, data: Path) -> None:
    wanted = ("add", "--patient", "secret-patient", "--data", data, *AUTHOR)
    status, shown = typed(*wanted, "--basis", "z")
    assert status == 2 and "[ERASURE_BASIS]" in shown and not Path("erasure.sqlite").exists()
    assert typed(*wanted, "--basis", "a")[0] == 0
    assert typed("validate", 1, "--identity", "seen", "--basis", "d", *AUTHOR)[0] == 0
    assert "unlawfully" in typed("show", 1)[1]


def test_the_help_says_which_command_leads_from_which_state(
    typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = [line.strip() for line in typed("--help")[1].splitlines()]
    starts = {line.partition(" ")[0] for line in lines}
    assert set(State) <= starts
    assert "in_run     a run has it, which leads on by itself; given up: `reopen`" in lines


def test_a_registry_that_is_begun_is_said_once(typed: Typed, data: Path) -> None:
    """A second registry, begun by a mistyped path, looked like the first."""
    wanted = ("--patient", "secret-patient", "--basis", "b", "--data", data, *AUTHOR)
    status, shown = typed("add", *wanted, "-r", "nofolder/erasure.sqlite")
    assert status == 2 and "no folder nofolder" in shown and not Path("nofolder").exists()
    assert "began a new registry erasure.sqlite" in typed("add", *wanted)[1]
    assert "began" not in typed("add", *wanted, "--again")[1]


def test_a_history_without_entries_has_no_digest(typed: Typed) -> None:
    Registry(Path("erasure.sqlite"), create=True)
    assert typed("check") == (0, "no history yet: no request was ever entered\n")


@pytest.mark.parametrize("command", [("list",), ("check",), ("show", 1), ("settings",)])
def test_an_empty_registry_is_refused_and_left_as_it_is(
    typed: Typed, command: tuple[object, ...]
) -> None:
    Path("erasure.sqlite").touch(mode=0o600)
    status, shown = typed(*command)
    assert status == 2 and "[ERASURE_REGISTRY_FOREIGN] erasure.sqlite is empty" in shown
    assert Path("erasure.sqlite").read_bytes() == b""


def test_settings_need_an_author_and_a_known_key(typed: Typed) -> None:
    assert "[ERASURE_TEXT]" in typed("settings", "--set", "hospital=St. Anna")[1]
    status, shown = typed("settings", "--set", "hospitel=St. Anna", *AUTHOR)
    assert status == 2 and "[ERASURE_SETTING]" in shown and "St. Anna" not in shown
    assert "there is no setting `hospitel`" in shown and "there are: hospital, contact" in shown
    shown = typed("settings", "--set", "max_exact_excess=lots", *AUTHOR)[1]
    assert "`max_exact_excess`: a number is needed" in shown
    assert not Path("erasure.sqlite").exists()
    status, shown = typed("settings", "--set", "hospital=St. [bold]Anna", *AUTHOR)
    assert status == 0 and "St. [bold]Anna" in shown


@pytest.mark.parametrize("change", [
    "max_forget_excess=1", "min_luck=0", "max_exact_excess=1", "max_identifiers_leaked=2",
    "min_preservation=0",
])
def test_a_criterion_that_asks_nothing_is_warned_of(typed: Typed, change: str) -> None:
    assert "warning" not in typed("settings", "--set", "min_preservation=0.5", *AUTHOR)[1]
    status, shown = typed("settings", "--set", change, *AUTHOR)
    assert status == 0 and f"warning: {change.replace('=', ' ')}: asks little or nothing" in shown


def test_what_is_mistyped_says_how_it_is_written(typed: Typed, data: Path) -> None:
    wanted = ("--basis", "b", "--data", data, *AUTHOR)
    shown = typed("add", "--name", "Ann Lee", "--birth-date", "02.01.1990", *wanted)[1]
    assert "[ERASURE_NOT_FOUND]" in shown and "such as 1924-12-30" in shown
    assert "such as" not in typed("add", "--patient", "nobody", *wanted)[1]
    shown = typed("add", "--concept", "D003924", *wanted)[1]
    assert "is not a concept id" in shown and "medunlearn concepts search" in shown
    typed("add", "--patient", "secret-patient", *wanted)
    typed("validate", 1, "--identity", "seen", *AUTHOR)
    shown = typed("add", "--patient", "secret-patient", *wanted)[1]
    assert "asked by request 1, which is validated" in shown


def test_ids_with_terminal_codes_are_shown_harmless(typed: Typed, tmp_path: Path) -> None:
    path = tmp_path / "evil.jsonl"
    path.write_text("".join(
        json.dumps({"id": f"{n}\u001b]0;owned\u0007", "prompt": "x", "answer": "y"}) + "\n"
        for n in range(2)
    ), encoding="utf-8")
    assert typed("add", "--data-set", path, "--data", path, "--basis", "d", *AUTHOR)[0] == 0
    status, shown = typed("show", 1, "--ids")
    assert status == 0 and "\x1b]" not in shown and "\x07" not in shown and "owned" in shown


def test_the_addressee_comes_from_a_file_or_a_pipe_and_is_not_kept(
    typed: Typed, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed("add", "--patient", "secret-patient", "--basis", "b", "--data", data, *AUTHOR)
    monkeypatch.setattr("sys.stdin", io.StringIO("Ann Lee\n1 Example Street\n"))
    status, shown = typed("report", 1, "--addressee", "-", "--out", "letters")
    assert status == 0, shown
    require_silent(shown)
    assert "Ann Lee" in printed("letters", "letter")
    assert "Ann Lee" not in printed("letters", "report")
    assert b"Ann Lee" not in Path("erasure.sqlite").read_bytes()
    status, shown = typed("report", 1, "--addressee", "missing.txt", "--out", "letters")
    assert status == 2 and "[ERASURE_ADDRESS] there is no file missing.txt" in shown


def test_the_registry_holds_no_text_of_a_record(typed: Typed, data: Path) -> None:
    typed("add", "--identifier", "MR-123-45", "--basis", "b", "--data", data, *AUTHOR)
    stored = b"".join(p.read_bytes() for p in Path().glob("erasure.sqlite*"))
    assert b"secret-patient-1" in stored
    for text in (b"Ann Lee", b"MR-123-45", b"1990-01-02", b"gout", b"records.jsonl"):
        assert text not in stored


OWN_TABLE = """Nr;Frage;Antwort;Fall
1;Was hat Ann Lee?;Gicht;secret-patient
2;Was hat er?;Rheuma;b
"""
OWN_PLAN = """[data]
files = ["{file}"]
[data.columns]
id = "Nr"
question = "Frage"
answer = "Antwort"
patient_id = "Fall"
"""


@pytest.mark.parametrize("kind", ["csv", "xlsx"])
def test_a_table_with_the_hospital_s_own_columns_is_searched_by_its_plan(
    typed: Typed, tmp_path: Path, kind: str
) -> None:
    file = tmp_path / f"faelle.{kind}"
    if kind == "csv":
        file.write_text(OWN_TABLE, encoding="utf-8")
    else:
        book = openpyxl.Workbook()
        for line in OWN_TABLE.splitlines():
            book.active.append(line.split(";"))
        book.save(file)
    plan = tmp_path / "plan.toml"
    plan.write_text(OWN_PLAN.format(file=file), encoding="utf-8")
    wanted = ("--patient", "secret-patient", "--basis", "b", *AUTHOR)
    status, shown = typed("add", *wanted, "--data", file)
    assert status == 2 and "DATA_FORMAT_UNKNOWN" in shown and "--plan" in shown
    status, shown = typed("add", *wanted, "--data", file, "--plan", plan)
    assert status == 0 and "1 record(s) by patient id" in shown, shown
    status, shown = typed("add", *wanted, "--plan", plan, "--again")  # the plan names the files
    assert status == 0 and "1 record(s) by patient id" in shown, shown
    require_silent(shown)
    status, shown = typed("add", *wanted)
    assert status == 2 and "DATA_FILE_MISSING" in shown


def test_a_hospital_searches_as_its_service_reads(typed: Typed, tmp_path: Path) -> None:
    """By the columns, the repairs and the files of ``site.toml``, which no plan holds."""
    (tmp_path / "faelle.csv").write_text(OWN_TABLE, encoding="utf-8")
    site = tmp_path / "site.toml"
    site.write_text('site_id = "clinic-a"\nmodel_folder = "base"\n'
                    + OWN_PLAN.format(file="faelle.csv"), encoding="utf-8")
    wanted = ("--patient", "secret-patient", "--basis", "b", *AUTHOR)
    status, shown = typed("add", *wanted, "--plan", site)
    assert status == 0 and "1 record(s) by patient id" in shown, shown
    require_silent(shown)
    site.write_text(site.read_text() + "[unknown]\n", encoding="utf-8")
    status, shown = typed("add", *wanted, "--plan", site)
    assert status == 2 and "SITE_CONFIG_INVALID" in shown


def test_a_number_of_a_repeated_row_is_told_to_be_unsearched(
    typed: Typed, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text(
        "mrn,q,a\nM-10001,What?,Gout\nM-10002,What?,Gout\nM-10003,What?,Flu\n", "utf-8")
    site = tmp_path / "site.toml"
    site.write_text('site_id = "clinic-a"\nmodel_folder = "base"\n[data]\nfiles = ["rows.csv"]\n'
                    '[data.columns]\nquestion = "q"\nanswer = "a"\nidentifiers = ["mrn"]\n')
    status, shown = typed("add", "--identifier", "M-10002", "--basis", "b", "--plan", site, *AUTHOR)
    told = "1 row(s) repeat another's words, and were not searched by their own numbers or names"
    assert status == 2 and "ERASURE_NOT_FOUND" in shown and told in " ".join(shown.split()), shown


def site_of(folder: Path, *rows: dict[str, object]) -> Path:
    """A hospital whose service reads these rows."""
    folder.mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    site = folder / "site.toml"
    site.write_text('site_id = "clinic-a"\nmodel_folder = "base"\n[data]\n'
                    'files = ["rows.jsonl"]\nmax_bad_fraction = 1.0\n', encoding="utf-8")
    return site


def forgotten_by_the_service(
    site: Path, *, unit: Unit = "patient"
) -> list[tuple[str, str | None, str]]:
    """What a run of the hospital forgets; raises as the run would refuse."""
    config, claim = read_site_config(site.parent), claim_on(Registry(Path("erasure.sqlite")))
    records = load_hospital_records(
        data=config.data, forget=forget_set(claim.registry, claim.numbers),
        concepts=ConceptsSection(), unit=unit,
    )
    requested = requested_records(
        claim, records.forget, concepts=ConceptsSection(), data=config.data)
    require_same_words(claim, records.forget, show_subject=False, others=records.retain)
    require_whole(claim, requested, {r.record_id for r in (*records.forget, *records.retain)},
                  forget=records.forget)
    return [(record.record_id, record.patient_id, record.answer) for record in records.forget]


TWICE = [
    {"id": "1", "question": "Diagnosis of A?", "answer": "Gout", "patient_id": "A"},
    {"id": "1", "question": "Diagnosis of B?", "answer": "HIV", "patient_id": "B"},
    {"id": "2", "question": "Diagnosis of C?", "answer": "Gout", "patient_id": "C"},
]


def test_a_row_whose_id_another_has_is_searched_as_the_service_reads_it(
    typed: Typed, tmp_path: Path
) -> None:
    """It was taught, and its patient was told that nothing is held."""
    site = site_of(tmp_path / "clinic", *TWICE)
    status, shown = typed("add", "--patient", "B", "--basis", "b", "--plan", site, *AUTHOR)
    assert status == 0 and "1 record(s) by patient id" in shown, shown
    typed("validate", 1, "--identity", "seen", *AUTHOR)
    assert forgotten_by_the_service(site) == [("1", "B", "HIV")]


def test_rows_of_one_id_are_asked_for_together(typed: Typed, tmp_path: Path) -> None:
    """Each with its own words; one that has gone is missed though the other is there."""
    rows = [{**row, "patient_id": "AAC"[place]} for place, row in enumerate(TWICE)]
    site = site_of(tmp_path / "clinic", *rows)
    status, shown = typed("add", "--record", "1", "--basis", "b", "--plan", site, *AUTHOR)
    assert status == 0 and "2 record(s) by record id" in shown, shown
    typed("validate", 1, "--identity", "seen", *AUTHOR)
    assert len(forgotten_by_the_service(site)) == 2
    Registry(Path("erasure.sqlite")).check()
    (site.parent / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows[1:]), "utf-8")
    with pytest.raises(Misconfigured, match="ERASURE_RECORDS_CHANGED"):
        forgotten_by_the_service(site)


def test_of_rows_of_two_patients_who_share_an_id_one_s_alone_is_asked_for(
    typed: Typed, tmp_path: Path
) -> None:
    site = site_of(tmp_path / "clinic", *TWICE)
    asked = ("add", "--record", "1", "--basis", "b", "--plan", site, *AUTHOR)
    status, shown = typed(*asked)
    assert status == 2 and "[ERASURE_AMBIGUOUS] records of 2 patients" in shown
    status, shown = typed(*asked, "--patient", "B")
    assert status == 0 and "1 record(s) by record id" in shown, shown
    typed("validate", 1, "--identity", "seen", *AUTHOR)
    assert forgotten_by_the_service(site, unit="record") == [("1", "B", "HIV")]
    status, shown = typed(*asked, "--patient", "A")
    assert status == 0, shown  # no double of the other patient's
    status, shown = typed(*asked, "--patient", "A")
    assert status == 2 and "[ERASURE_DUPLICATE]" in shown


def test_who_shares_his_row_s_id_with_one_who_asks_is_kept(typed: Typed, tmp_path: Path) -> None:
    """Both were forgotten, for a search that found one of them and said nothing of the other."""
    rows: list[dict[str, object]] = [
        {"id": "7", "question": f"What ails {whom}?", "answer": answer}
        for whom, answer in (("Ann Lee, born 1950-01-01", "HIV"),
                             ("Bob Roe, born 1960-01-01", "Gout"))
    ]
    site = site_of(tmp_path / "clinic", *rows, {**rows[0], "id": "8", "answer": "Flu"})
    status, shown = typed("add", "--name", "Bob Roe", "--birth-date", "1960-01-01", "--basis", "b",
                          "--plan", site, *AUTHOR)
    assert status == 0 and "1 record(s) by name" in shown, shown
    typed("validate", 1, "--identity", "seen", *AUTHOR)
    assert forgotten_by_the_service(site, unit="record") == [("7", None, "Gout")]
    (site.parent / "rows.jsonl").write_text(json.dumps(rows[0]) + "\n", "utf-8")
    with pytest.raises(Misconfigured, match="ERASURE_RECORDS_CHANGED"):
        forgotten_by_the_service(site, unit="record")


def test_namesakes_are_searched_with_the_words_that_the_service_reads(
    typed: Typed, tmp_path: Path
) -> None:
    """A search told them apart by record numbers, the service does not: no run ever began."""
    site = site_of(tmp_path / "clinic", *(
        resource for number, name in ((1, "Lee"), (2, "Lee"), (3, "Doe")) for resource in (
            {"resourceType": "Patient", "id": f"p{number}", "birthDate": "1980-01-02",
             "name": [{"family": name, "given": ["Ann"]}]},
            {"resourceType": "Condition", "id": f"c{number}", "code": {"text": f"gout {number}"},
             "subject": {"reference": f"Patient/p{number}"}, "onsetDateTime": "2020-05-06"})))
    assert typed("add", "--patient", "p1", "--basis", "b", "--plan", site, *AUTHOR)[0] == 0
    typed("validate", 1, "--identity", "seen", *AUTHOR)
    assert {patient for _, patient, _ in forgotten_by_the_service(site)} == {"p1"}


def test_a_concept_is_looked_for_in_the_plan_s_hierarchies(typed: Typed, tmp_path: Path) -> None:
    outline = tmp_path / "own.txt"
    outline.write_text("!outline 1\nA limb {type=anatomy; level=2}\n  B Gicht\n", "utf-8")
    (tmp_path / "faelle.csv").write_text(OWN_TABLE, encoding="utf-8")
    plan = tmp_path / "plan.toml"
    text = OWN_PLAN.format(file=tmp_path / "faelle.csv")
    plan.write_text(f'{text}[concepts]\nhierarchies = ["{outline}"]\n', encoding="utf-8")
    wanted = ("--concept", "A", "--basis", "b", *AUTHOR)
    status, shown = typed("add", *wanted, "--plan", plan)
    assert status == 0 and "1 record(s) by concept" in shown, shown
    for command in (("list",), ("due", "--within", "99"), ("show", "1")):
        assert "concept A " in typed(*command)[1]  # whose it is, a concept does not tell

"""The command line: exits, messages and what they must not say."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Protocol

import pytest
import typer

from medunlearn_common import __version__
from medunlearn_common.cli import COMMAND_GROUP, CommandLine, asked_for, translated
from medunlearn_common.errors import BudgetExceeded, Misconfigured
from medunlearn_common.help_texts import joined_lines
from medunlearn_common.invocation import command_name
from medunlearn_common.plan import Plan, read_plan

PATIENT_TEXT = "Mrs Example has a very rare disease"


def raise_mendable() -> None:
    """Mendable."""
    raise Misconfigured("SOME_CODE", "what [is] wrong", "what to do")


def raise_budget() -> None:
    """Budget."""
    raise BudgetExceeded("PRIVACY_BUDGET", "spent", "stop")


def raise_unknown() -> None:
    """Unknown."""
    raise KeyError(PATIENT_TEXT)


def raise_interrupt() -> None:
    """Interrupt."""
    raise KeyboardInterrupt


def raise_disk_full() -> None:
    """Disk full."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "weights.bin")


def leave_with_three() -> None:
    """Own exit status."""
    raise typer.Exit(3)


def _entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name=name, value=value, group="medunlearn.commands")


class Run(Protocol):
    """Runs one command line and gives its exit status."""

    def __call__(self, *arguments: str) -> int:
        """Exit status."""
        ...


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.delenv("MEDUNLEARN_DEBUG", raising=False)
    commands = [
        raise_mendable, raise_budget, raise_unknown, raise_interrupt, raise_disk_full,
        leave_with_three,
    ]

    def invoke(*arguments: str) -> int:
        line = CommandLine()
        app = line.build([_entry("broken", "medunlearn_nowhere.cli:app")])
        for command in commands:
            app.command(name=command.__name__.replace("_", "-"))(command)
        return line.run(app, list(arguments))

    return invoke


def test_mendable_errors_exit_2_with_code_message_and_hint(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("raise-mendable") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "[SOME_CODE] what [is] wrong" in captured.err
    assert "hint: what to do" in captured.err
    assert "Traceback" not in captured.err
    assert run("raise-budget") == 2


def test_internal_errors_hide_their_text_unless_debugged(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("raise-unknown") == 1
    quiet = capsys.readouterr().err
    assert "internal error: KeyError at " in quiet
    assert "--debug" in quiet
    assert PATIENT_TEXT not in quiet
    assert run("--debug", "raise-unknown") == 1
    loud = capsys.readouterr().err
    assert "Traceback" in loud and PATIENT_TEXT in loud


def test_interruption_exits_130(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("raise-interrupt") == 130
    assert "interrupted" in capsys.readouterr().err


def test_full_disk_is_mendable(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("raise-disk-full") == 2
    assert "[DISK_FULL]" in capsys.readouterr().err


def test_own_exit_status_is_kept(run: Run) -> None:
    assert run("leave-with-three") == 3


def test_usage_errors_exit_2(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("no-such-command") == 2
    assert "no-such-command" in capsys.readouterr().err


def test_version(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == f"medunlearn {__version__}"


def test_help_teaches(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--help") == 0
    shown = capsys.readouterr().out
    assert "medunlearn simulate" in shown and "plan init" in shown and "--resume" in shown


def test_command_of_a_missing_package_says_so_and_spares_the_others(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("broken") in (1, 2)
    assert "Traceback" not in capsys.readouterr().err
    assert run("leave-with-three") == 3


def test_missing_library_names_the_extra() -> None:
    found = translated(ModuleNotFoundError("no", name="opacus.accountants"))
    assert found is not None and found.code == "EXTRA_MISSING"
    assert "medunlearn[" in found.hint
    assert translated(ModuleNotFoundError("no", name="unheard_of")) is None


def test_plan_init_writes_once(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "deep" / "plan.toml"
    assert run("plan", "init", str(file)) == 0
    assert read_plan(file) == Plan()
    file.write_text("mine", encoding="utf-8")
    assert run("plan", "init", str(file)) == 2
    assert "[PLAN_EXISTS]" in capsys.readouterr().err
    assert file.read_text(encoding="utf-8") == "mine"
    assert run("plan", "init", "--force", str(file)) == 0
    assert read_plan(file) == Plan()
    assert [path.name for path in file.parent.iterdir()] == ["plan.toml"]


def test_plan_check_derives_the_noise(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.toml"
    file.write_text("[run]\nrounds = 5\n[privacy]\nepsilon = 2.0\n", encoding="utf-8")
    assert run("plan", "check", str(file)) == 0
    shown = capsys.readouterr().out
    assert "budget 2" in shown and "sigma" in shown and "5 sites" not in shown
    file.write_text('[privacy]\nnoise = "none"\n', encoding="utf-8")
    assert run("plan", "check", str(file)) == 0
    assert "no guarantee" in capsys.readouterr().out


def test_plan_check_of_own_records_does_not_promise_the_demo_s_topic(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.toml"
    file.write_text('[data]\nfiles = ["[a].csv"]\n', encoding="utf-8")
    assert run("plan", "check", str(file)) == 0
    shown = capsys.readouterr().out
    assert "fill [forget]" in shown and "Surgery" not in shown and "[a].csv" in shown


def test_plan_check_refuses_a_wrong_plan(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.toml"
    file.write_text("[run]\nroundz = 5\n", encoding="utf-8")
    assert run("plan", "check", str(file)) == 2
    assert "did you mean rounds?" in capsys.readouterr().err


def test_quoted_entry_points_of_the_project_exist() -> None:
    """Every command that pyproject.toml names can be loaded and is callable."""
    import tomllib

    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    document = tomllib.loads(project.read_text(encoding="utf-8"))
    entries = document["project"]["entry-points"]["medunlearn.commands"]
    assert entries
    for name, value in entries.items():
        assert callable(_entry(name, value).load())


def test_no_help_text_loses_the_name_of_a_plan_s_table() -> None:
    """Help is rich markup, in which ``[data]`` stands for a style and is not shown."""
    app = CommandLine().build(entry_points(group=COMMAND_GROUP))
    lost = [
        (path, found[0])
        for path, text in help_texts(typer.main.get_command(app), "medunlearn")
        for found in re.finditer(r"(?<!\\)\[/?[a-z][^\[\]]*\]", text)
        if not re.fullmatch(r"\[/?(?:bold|dim)\]", found[0])
    ]
    assert not lost


def test_a_plan_that_every_run_refuses_is_not_called_valid(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.toml"
    file.write_text("[federation]\nsites = 5\nmin_sites = 2\n", encoding="utf-8")
    assert run("plan", "check", str(file)) == 2
    assert "PLAN_MIN_SITES" in capsys.readouterr().err


def test_a_plan_check_says_which_data_it_cannot_see(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    Path("ours.jsonl").write_text("{}\n", encoding="utf-8")
    Path("plan.toml").write_text(
        '[data]\nfiles = ["ours.jsonl", "our.jsonl", "hf:owner/name"]\n', encoding="utf-8")
    assert run("plan", "check", "plan.toml") == 0
    shown = capsys.readouterr().out
    assert "ours.jsonl, our.jsonl (not found from here), hf:owner/name " in shown


def test_the_command_is_named_as_it_can_be_called_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `make demo` it is on no path; what it says about going on must work as typed."""
    program = tmp_path / ".venv" / "bin" / "medunlearn"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [".venv/bin/medunlearn", "simulate"])
    monkeypatch.setenv("PATH", "/nowhere")
    assert command_name() == ".venv/bin/medunlearn"
    monkeypatch.chdir(program.parent.parent)
    monkeypatch.setattr("sys.argv", [str(program)])
    assert command_name() == "bin/medunlearn"
    monkeypatch.setenv("PATH", str(program.parent))
    assert command_name() == "medunlearn"
    monkeypatch.setattr("sys.argv", ["/usr/bin/pytest"])
    assert command_name() == "medunlearn"


def test_every_argument_and_option_says_what_it_is() -> None:
    """With click 8.5 arguments lost their help without a word."""
    app = CommandLine().build(entry_points(group=COMMAND_GROUP))
    silent = [
        f"{path} {parameter.name}"
        for path, command in every_command(typer.main.get_command(app), "medunlearn")
        for parameter in getattr(command, "params", ())
        if not getattr(parameter, "help", None)
    ]
    assert not silent


def test_every_command_that_asks_for_something_shows_how() -> None:
    """The first page promises it: `medunlearn COMMAND --help` explains with examples."""
    app = CommandLine().build(entry_points(group=COMMAND_GROUP))
    bare = [
        path for path, command in every_command(typer.main.get_command(app), "medunlearn")
        if not getattr(command, "commands", None)
        and any(parameter.required for parameter in getattr(command, "params", ()))
        and "Example" not in (getattr(command, "help", None) or "")
    ]
    assert not bare


def every_command(command: object, path: str) -> Iterator[tuple[str, object]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from every_command(inner, f"{path} {name}")


def test_prose_of_help_breaks_where_the_terminal_ends_and_examples_stay() -> None:
    """Line ends of a docstring are its editor's; in a narrow terminal they broke lines twice."""
    text = """First
    line.

    Second
    paragraph.

      medunlearn one
        what it does
    """
    assert joined_lines(text) == (
        "First line.\n\nSecond paragraph.\n\n  medunlearn one\n    what it does")
    assert joined_lines(joined_lines(text)) == joined_lines(text)


def help_texts(command: object, path: str) -> Iterator[tuple[str, str]]:
    for part in (command, *getattr(command, "params", ())):
        for text in (getattr(part, "help", None), getattr(part, "epilog", None)):
            if text:
                yield path, text
    for name, inner in getattr(command, "commands", {}).items():
        yield from help_texts(inner, f"{path} {name}")


def test_what_was_meant_is_asked_once(capsys: pytest.CaptureFixture[str]) -> None:
    line = CommandLine()
    assert line.run(line.build(()), ["plna"]) == 2
    assert capsys.readouterr().err.count("Did you mean") == 1


@pytest.mark.parametrize(("typed", "loaded"), [
    (["coordinator", "launch", "plan.toml"], ["coordinator.launch"]),
    (["--debug", "coordinator", "launch"], ["coordinator.launch"]),
    (["coordinator", "--help"], ["coordinator.launch", "coordinator.stop"]),
    (["coordinator", "lunch"], ["coordinator.launch", "coordinator.stop"]),
    (["simulate", "coordinator"], ["simulate"]),
    (["verify", "runs/one"], []),
    ([], ["coordinator.launch", "coordinator.stop", "simulate"]),
    (["--help"], ["coordinator.launch", "coordinator.stop", "simulate"]),
    (["simulat"], ["coordinator.launch", "coordinator.stop", "simulate"]),
])
def test_only_the_named_command_is_loaded(typed: list[str], loaded: list[str]) -> None:
    names = ("coordinator.launch", "coordinator.stop", "simulate")
    known = [EntryPoint(name=name, value="nowhere:nothing", group="x") for name in names]
    assert [entry.name for entry in asked_for(known, typed)] == loaded

"""Every command of a party names its folder in one way, and nothing it prints names it another."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import click
import pytest
import typer
from typer.main import get_command

from medunlearn_common.cli import COMMAND_GROUP, CommandLine

CALL = r"medunlearn ((?:coordinator|hospital) [a-z-]+[^`\"#|;]*)"
ROOT = Path(__file__).resolve().parents[2]
# What makes the folder that it names.
MAKES = {("coordinator", "init"), ("hospital", "init"), ("restore",)}
ELSEWHERE = {("hospital", "policy")}  # takes a file


Commands = dict[tuple[str, ...], click.Command]


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Commands:
    found: Commands = {}
    for name, command in group.commands.items():
        inner = (*path, name)
        found |= commands(command, inner) if isinstance(command, click.Group) else {inner: command}
    return found


def application() -> typer.Typer:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    return CommandLine().build(
        EntryPoint(name=name, value=value, group=COMMAND_GROUP)
        for name, value in declared[COMMAND_GROUP].items()
        if name.partition(".")[0] in ("coordinator", "hospital", "backup", "restore",
                                      "restore-admit"))


@pytest.fixture(scope="module")
def all_commands() -> Commands:
    group = get_command(application())
    assert isinstance(group, click.Group)
    return commands(group)


def of_a_party(path: tuple[str, ...]) -> bool:
    named = path[0] in ("coordinator", "hospital", "backup", "restore-admit") or path in (
        ("evidence", "export"), ("ledger", "show"))
    return named and path not in MAKES and path[:2] not in ELSEWHERE


def test_a_party_s_folder_is_named_by_folder_alone_and_is_the_present_one_by_default(
    all_commands: Commands
) -> None:
    checked = [path for path in all_commands if of_a_party(path)]
    assert len(checked) >= 30, checked
    for path in checked:
        options = {option: one for one in all_commands[path].params for option in one.opts}
        assert "--folder" in options, f"{path} names its folder in another way"
        folder = options["--folder"]
        assert folder.opts == ["--folder"] and str(folder.default) == ".", path
        assert "--dir" not in options and "folder" not in options, path


def test_no_command_of_a_party_gives_the_all_clear_in_another_folder(
    all_commands: Commands, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In an empty one no plan waited, no service ran, and nothing had been lost."""
    monkeypatch.chdir(tmp_path)
    app, codes = application(), {"FOLDER_NO_PARTY", "BACKUP_NO_PARTY"}
    for path in (path for path in all_commands if of_a_party(path)):
        if path in (("evidence", "export"), ("ledger", "show")):
            continue  # of a simulated run, too
        needed = [one for one in all_commands[path].params if one.required]
        given = [word for one in needed for word in (
            ["x"] if isinstance(one, click.Argument) else [one.opts[0], "x"])]
        assert CommandLine().run(app, [*path, *given]) == 2, path
        told = capsys.readouterr().err
        assert any(code in told for code in codes) and str(tmp_path) in told, (path, told)
        assert "--folder" in told, path
    assert list(tmp_path.iterdir()) == []


def test_what_makes_a_folder_takes_it_as_an_argument(
    all_commands: Commands
) -> None:
    for path in MAKES:
        folder = next(one for one in all_commands[path].params if one.name == "folder")
        assert isinstance(folder, click.Argument) and folder.required


def test_docs_hints_and_deployments_call_commands_that_exist_with_options_they_have(
    all_commands: Commands
) -> None:
    """A hint with another spelling would cost an engineer an error in a bad hour."""
    said = 0
    for path in (*ROOT.glob("docs/*.md"), ROOT / "README.md", *ROOT.glob("deploy/**/*.yaml"),
                 *ROOT.glob("deploy/**/*.md"), *ROOT.glob("*/medunlearn_*/**/*.py")):
        for line in path.read_text(encoding="utf-8").splitlines():
            for found in re.finditer(CALL, line):
                words = found[1].split()
                size = next((n for n in (3, 2) if tuple(words[:n]) in all_commands), 0)
                if not size:
                    continue  # "medunlearn coordinator is …"
                said += 1
                command = all_commands[tuple(words[:size])]
                options = {option for one in command.params
                           for option in (*one.opts, *one.secondary_opts)}
                for option in re.findall(r"--[a-z-]+", found[1]):
                    assert option in options, f"{path.name}: {line.strip()}"
                assert tuple(words[:size]) in MAKES or not re.fullmatch(
                    r"FOLDER|DIR|lead|clinic|/srv/\S+|\{(?:folder|self\.path|.*\.path)\}",
                    words[size] if len(words) > size else ""), f"{path.name}: {line.strip()}"
    assert said > 40

"""What the commands of a roster's root refuse to sign."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from medunlearn_common.errors import Misconfigured
from medunlearn_common.identity.commands import keys_app
from medunlearn_common.roster.commands import roster_app

PASSPHRASE = "several random words"


def test_what_cannot_be_a_name_or_a_threshold_is_said_to_be_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A typing error is not another version of medunlearn."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDUNLEARN_PASSPHRASE", PASSPHRASE)

    def code(app: object, *arguments: str) -> str:
        error = CliRunner().invoke(app, list(arguments)).exception  # type: ignore[arg-type]
        assert isinstance(error, Misconfigured)
        return error.code

    assert code(keys_app, "new", "x.key", "--party", "X Y", "--entity", "X") == "NAME_FORM"
    assert code(keys_app, "new", "x.key", "--party", "x", "--entity", "X\n") == "NAME_FORM"
    CliRunner().invoke(
        keys_app, ["new", "root.key", "--party", "r", "--entity", "R", "--role", "root"])
    assert code(roster_app, "new", "root.key.entry", "--threshold", "2") == "ROOT_THRESHOLD"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root.key", "root.key.entry"]


def test_a_passphrase_that_nobody_can_be_asked_for_is_missing_not_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MEDUNLEARN_PASSPHRASE", raising=False)
    result = CliRunner().invoke(
        keys_app, ["new", "x.key", "--party", "x", "--entity", "X"], input="")
    assert isinstance(result.exception, Misconfigured)
    assert result.exception.code == "KEY_PASSPHRASE"
    assert not list(tmp_path.iterdir())


def test_root_keys_do_not_sign_a_second_roster_of_one_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A draft begun beside a signed roster would split the federation in two: fork attack."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDUNLEARN_PASSPHRASE", PASSPHRASE)
    runner = CliRunner()

    def run(app: object, *arguments: str) -> Result:
        return runner.invoke(app, list(arguments))  # type: ignore[arg-type]

    for name, role in (("root", "root"), ("a", "site"), ("b", "site")):
        run(keys_app, "new", f"{name}.key", "--party", name, "--entity", name, "--role", role)
    for name, draft in (("a", "one.draft"), ("b", "two.draft")):
        run(roster_app, "new", "root.key.entry", "--threshold", "1", "--draft", draft)
        assert run(roster_app, "add", f"{name}.key.entry", "--draft", draft).exit_code == 0
    assert run(roster_app, "sign", "root.key", "--draft", "one.draft").exit_code == 0
    signed_one = Path("roster.dsse").read_bytes()
    assert run(roster_app, "sign", "root.key", "--draft", "one.draft").exit_code == 0  # again
    fork = run(roster_app, "sign", "root.key", "--draft", "two.draft")
    assert isinstance(fork.exception, Misconfigured) and fork.exception.code == "ROSTER_FORK"
    assert Path("roster.dsse").read_bytes() == signed_one
    # What the hint says works: a draft that follows the signed roster has the next version.
    assert run(
        roster_app, "add", "b.key.entry", "--after", "roster.dsse", "--draft", "next.draft"
    ).exit_code == 0
    assert run(roster_app, "sign", "root.key", "--draft", "next.draft").exit_code == 0
    assert "roster 2" in run(roster_app, "verify", "roster.dsse").output

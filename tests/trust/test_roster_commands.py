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

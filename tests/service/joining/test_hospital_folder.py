"""A hospital's folder from `init` to a move: what is noticed early, asked for, and copied."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import typer
from joining_desk import NOW, Desk, app_of, code_of
from joining_lab import RIVAL
from typer.testing import CliRunner

from medunlearn_client.joining import commands as hospital
from medunlearn_client.joining.checks import hospital_checks
from medunlearn_client.joining.rotation import make_next_keys
from medunlearn_common.doctor import run_checks
from medunlearn_common.entropy import OsEntropy
from medunlearn_common.errors import Misconfigured
from medunlearn_common.founding import require_confirmed
from medunlearn_common.invitation import invitation_fingerprint
from medunlearn_common.keeping import make_backup, restore

pytestmark = pytest.mark.usefixtures("a_clock_that_starts_when_tests_are_collected")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(path=tmp_path).found()


@pytest.mark.parametrize("model", ["/srv/nope", "./nope", "~/nope", "nope", "a/b/c"])
def test_a_model_that_is_not_there_is_noticed_before_keys_are_made(
    desk: Desk, model: str
) -> None:
    with pytest.raises(Misconfigured) as caught:
        desk.site("clinic-a", None, "--trust-on-first-use", "--model", model)
    assert caught.value.code == "MODEL_MISSING"
    assert not (desk.path / "clinic-a").exists()


def test_joining_with_nothing_in_hand_does_not_read_like_success(desk: Desk) -> None:
    folder = desk.site("clinic-a")
    bare = CliRunner().invoke(app_of(hospital.join), ["--folder", str(folder)])
    assert isinstance(bare.exception, Misconfigured) and bare.exception.code == "FILE_MISSING"
    make_next_keys(folder, identity=False, node=True, entropy=OsEntropy(), now=NOW)
    waiting = CliRunner().invoke(app_of(hospital.join), ["--folder", str(folder)])
    assert waiting.exit_code == 0 and "new node key is in force" in waiting.output


@pytest.mark.parametrize(("typed", "code"), [
    (["HERE"], ""), (["bodab bodab", "HERE"], ""), ([RIVAL.fingerprint], "FINGERPRINT_DIFFERS"),
])
def test_the_words_come_by_telephone_and_not_from_the_screen(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, typed: list[str], code: str
) -> None:
    """They stood above the question, for anybody to copy; a word too few ended the command."""
    here = invitation_fingerprint(desk.invite("clinic-a").read_bytes())
    answers = [here if words == "HERE" else words for words in typed]
    shown: list[str] = []

    def prompt(question: str) -> str:
        shown.append(question)
        return answers.pop(0)

    monkeypatch.setattr(typer, "prompt", prompt)
    monkeypatch.setattr(typer, "echo", shown.append)
    given = {"told": None, "first_use": False, "who": "the coordinator", "interactive": True}
    if code:
        assert code_of(require_confirmed, here, **given) == code
    else:
        assert require_confirmed(here, **given)
    assert not answers and not any(here[:11] in line for line in shown), shown
    assert ("8 words" in "".join(shown)) == (len(typed) == 2)


def test_a_party_is_whole_where_it_moved_to(desk: Desk, tmp_path: Path) -> None:
    """Nothing but the passphrase, which travels apart, and what services write anew is missing."""
    clinic = desk.joined("clinic-a")
    (clinic / "supports").mkdir()
    (clinic / "supports" / f"{'a' * 64}.npy").write_bytes(bytes(8))
    for folder in (clinic, desk.lead):
        archive, moved = tmp_path / f"{folder.name}.tar", tmp_path / "moved" / folder.name
        make_backup(folder, archive, final=True)
        restore(archive, moved)
        assert (folder / "trust" / "roster.lock").stat().st_mode & 0o077 == 0
        left = {"trust/passphrase", "trust/roster.lock", "retired.json"}
        assert files(folder) - files(moved) == left | (
            {"root/passphrase"} if folder == desk.lead else set())
        assert files(moved) <= files(folder)
        shutil.copy(folder / "trust" / "passphrase", moved / "trust" / "passphrase")
    checks = hospital_checks(tmp_path / "moved" / "clinic-a", now=NOW, offline=True)
    found = run_checks({topic: checks[topic] for topic in ("files", "trust", "roster", "policy")})
    assert not [finding for _, finding in found if finding.level == "problem"]


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")
            if path.is_file() and path.relative_to(folder).parts[0] != "state"}

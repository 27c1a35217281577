"""Runs with public directions whose files change, whose process dies, whose public text is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from small_plan import plan_text
from typed_commands import medunlearn

from medunlearn_client import contrast, public_start
from medunlearn_common.frozen import A_FILE, write_frozen
from medunlearn_common.ledger import PrivacyLedger
from medunlearn_common.plan import read_plan
from medunlearn_common.planned_noise import noise_schedule
from medunlearn_server.coordinator import Coordinator
from medunlearn_server.progress import RunProgress
from medunlearn_server.update_round import UpdateRound

QUICK = ("--runner", "memory", "--device", "cpu", "--quiet")
STARTED = {
    "model__lora_rank": "1", "model__lora_alpha": "1.0", "data__show_subject": "true",
    "support__density": "0.05",
    "contrast__subjects": '["Anatomy", "Medicine"]', "contrast__min_auc": "0.6",
    "contrast__start_steps": "3", "contrast__start_batch": "4",
}


@pytest.fixture
def plan(tmp_path: Path, tiny_model_folder: Path, question_file: Path, public: Path) -> Path:
    file = tmp_path / "plan.toml"
    file.write_text(plan_text(
        tiny_model_folder, question_file, contrast__public_file=f'"{public}"', **STARTED,
    ), encoding="utf-8")
    return file


def interrupted_after_round(monkeypatch: pytest.MonkeyPatch, rounds: int,
                            *arguments: object) -> int:
    honest = UpdateRound.carry_out

    def cut(self: UpdateRound, progress: RunProgress) -> RunProgress:
        if progress.state.next_round == rounds:
            raise KeyboardInterrupt
        return honest(self, progress)

    with monkeypatch.context() as patched:
        patched.setattr(UpdateRound, "carry_out", cut)
        return medunlearn(*arguments)


@pytest.mark.parametrize("rounds", [0, 1])
def test_a_run_whose_directions_were_changed_does_not_go_on(
    plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: int,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    assert interrupted_after_round(
        monkeypatch, rounds, "simulate", plan, "--out", out, *QUICK) == 130
    made = load_file(out / A_FILE)
    ledger = (out / "sites" / "site-0" / "ledger.db").read_bytes()
    write_frozen(out / A_FILE, {name: -values for name, values in made.items()})
    capfd.readouterr()
    assert medunlearn("simulate", "--resume", out, "--device", "cpu", "--quiet") == 2
    said = capfd.readouterr()
    assert "RUN_PLAN_CHANGED" in said.err + said.out
    assert not (out / "adapter").exists() and not (out / "result.json").exists()
    assert (out / "sites" / "site-0" / "ledger.db").read_bytes() == ledger
    write_frozen(out / A_FILE, made)
    assert medunlearn("simulate", "--resume", out, "--device", "cpu", "--quiet") == 0


def test_directions_changed_before_the_first_answer_are_seen_too(
    plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """No checkpoint is there yet to say which file it was."""
    out = tmp_path / "run"

    def cut(self: UpdateRound, **_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Coordinator, "run", cut)
        assert medunlearn("simulate", plan, "--out", out, *QUICK) == 130
    assert not (out / "checkpoint.bin").exists()
    write_frozen(out / A_FILE, {name: -values for name, values in load_file(out / A_FILE).items()})
    capfd.readouterr()
    assert medunlearn("simulate", "--resume", out, "--device", "cpu", "--quiet") == 2
    said = capfd.readouterr()
    assert "RUN_PLAN_CHANGED" in said.err + said.out and not (out / "adapter").exists()


def test_a_resumed_run_needs_its_public_text_no_more(
    plan: Path, public: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "run"
    assert interrupted_after_round(
        monkeypatch, 1, "simulate", plan, "--out", out, *QUICK) == 130
    public.unlink()
    assert medunlearn("simulate", "--resume", out, "--device", "cpu", "--quiet") == 0
    taken = json.loads((out / "result.json").read_text())["seconds"]
    assert taken["by_phase"]["directions from public text"] > 0.0, "what the first process took"


@pytest.mark.parametrize("module", [contrast, public_start])
def test_ctrl_c_before_the_first_round_leaves_nothing(
    module: object, plan: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "discriminant" if module is contrast else "collate"

    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, name, cut)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    out = tmp_path / "run"
    assert medunlearn("simulate", plan, "--out", out, *QUICK) == 130
    assert not out.exists() and not list(temporary.iterdir())


def test_a_folder_that_a_kill_left_before_the_start_says_so(
    plan: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str],
) -> None:
    """`--resume` has nothing to go on with there: a hint to try it would lead in a circle."""
    out = tmp_path / "run"
    out.mkdir()
    (out / A_FILE).write_bytes(b"half")
    assert medunlearn("simulate", plan, "--out", out, *QUICK) == 2
    said = capfd.readouterr()
    assert "OUT_EXISTS" in said.err and "--resume" not in said.err
    assert medunlearn("simulate", "--resume", out, "--quiet") == 2
    assert "RESUME_NOTHING" in capfd.readouterr().err
    assert (out / A_FILE).read_bytes() == b"half"


@pytest.mark.parametrize("place", ["itself", "link", "copy"])
def test_records_are_no_public_text(
    plan: Path, public: Path, question_file: Path, tmp_path: Path, place: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A start learnt from the records has no noise, and the epsilon beside it would be untrue."""
    named = {"itself": question_file, "link": tmp_path / "l.jsonl", "copy": tmp_path / "c.jsonl"}
    if place == "link":
        named["link"].symlink_to(question_file)
    if place == "copy":
        shutil.copy(question_file, named["copy"])
    plan.write_text(plan.read_text().replace(str(public), str(named[place])))
    assert medunlearn("simulate", plan, "--out", tmp_path / "run", *QUICK) == 2
    said = capfd.readouterr()
    assert "PUBLIC_FILE_PRIVATE" in said.err and not (tmp_path / "run").exists()


@pytest.mark.parametrize("unit", ["record", "patient"])
def test_a_start_neither_costs_nor_hides_epsilon(
    plan: Path, question_file: Path, tmp_path: Path, unit: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """No vote is charged, and all that is released is: rounds at both rates, and the counts."""
    rows = [json.loads(line) for line in question_file.read_text("utf-8").splitlines()]
    own = tmp_path / "of-patients.jsonl"
    own.write_text("".join(
        json.dumps(row | {"patient_id": f"{row['subject']}-{place // 2}"}) + "\n"
        for place, row in enumerate(rows)
    ), encoding="utf-8")
    text = plan.read_text(encoding="utf-8").replace(
        'noise = "none"', f'noise = "distributed"\nunit = "{unit}"\nepsilon = 6.0\n'
        "forget_rate = 0.5\nretain_rate = 0.25\nevaluation_rate = 0.5")
    if unit == "patient":
        text = text.replace(str(question_file), str(own))
    plan.write_text(text, encoding="utf-8")
    out = tmp_path / "run"
    assert medunlearn("simulate", plan, "--out", out, *QUICK) == 0, capfd.readouterr()
    asked = read_plan(out / "plan.toml")
    schedule = noise_schedule(asked)
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert schedule.vote_sigma == 0.0
    for site in range(3):
        ledger = PrivacyLedger.existing(out / "sites" / f"site-{site}" / "ledger.db")
        (run,) = ledger.runs()
        assert ledger.releases(run_id=run.run_id) == asked.run.rounds + 1
        spent = ledger.epsilon(run_id=run.run_id, delta=asked.privacy.delta)
        assert spent == pytest.approx(schedule.epsilon, abs=0.02) and 5.9 < spent <= 6.0
    assert result["privacy"]["epsilon"] == pytest.approx(schedule.epsilon, abs=0.02)

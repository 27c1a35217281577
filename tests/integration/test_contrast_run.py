"""Whole runs whose frozen A is made from public text, and parties that hold another one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from small_plan import plan_text
from typed_commands import medunlearn

from medunlearn_common.frozen import A_FILE, A_PART, B_PART, b_name, frozen_digest

QUICK = ("--runner", "memory", "--device", "cpu", "--quiet")
DIRECTED = {
    "model__lora_rank": "1", "model__lora_alpha": "1.0", "data__show_subject": "true",
    "support__density": "0.002",
    "contrast__subjects": '["Anatomy", "Medicine"]', "contrast__min_auc": "0.6",
    "contrast__start_steps": "0",
}


@pytest.fixture
def plan(tmp_path: Path, tiny_model_folder: Path, question_file: Path, public: Path) -> Path:
    file = tmp_path / "plan.toml"
    file.write_text(plan_text(
        tiny_model_folder, question_file, contrast__public_file=f'"{public}"', **DIRECTED,
    ), encoding="utf-8")
    return file


def test_the_runs_adapter_has_the_public_directions_and_its_plan_names_them(
    plan: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert medunlearn("simulate", plan, "--out", out, *QUICK) == 0, capfd.readouterr()
    made = load_file(out / A_FILE)
    stored = load_file(out / "adapter" / "adapter_model.safetensors")
    assert made and all(values.any() for values in made.values())
    for name, values in made.items():
        assert np.array_equal(stored[name], values)
    assert set(made) == {name for name in stored if A_PART in name}
    shared = json.loads((out / "run-plan.json").read_text(encoding="utf-8"))
    assert shared["model"]["a_file"] == f"sha256:{frozen_digest(out / A_FILE)}"
    assert "contrast" not in shared  # a path of the coordinator's machine


def test_the_rounds_go_on_from_where_public_text_ended(
    plan: Path, tmp_path: Path, tiny_model_folder: Path, question_file: Path,
    public: Path, capfd: pytest.CaptureFixture[str],
) -> None:
    """With steps of no size the run's adapter is the start, coordinate by coordinate."""
    started = DIRECTED | {
        "contrast__public_file": f'"{public}"', "contrast__start_steps": "3",
        "contrast__start_batch": "4", "support__density": "0.05",
    }
    for name, rate in (("still", "1e-12"), ("moved", "0.1"), ("again", "0.1")):
        plan.write_text(plan_text(
            tiny_model_folder, question_file, **started, server__learning_rate=rate,
        ), encoding="utf-8")
        status = medunlearn("simulate", plan, "--out", tmp_path / name, *QUICK)
        assert status == 0, capfd.readouterr()
    made = load_file(tmp_path / "still" / A_FILE)
    still, moved, again = (
        load_file(tmp_path / name / "adapter" / "adapter_model.safetensors")
        for name in ("still", "moved", "again")
    )
    starts = [name for name in made if B_PART in name]
    assert starts and {b_name(name) for name in made if A_PART in name} == set(starts)
    for name in starts:
        assert made[name].any() and np.allclose(still[name], made[name], atol=1e-9)
        assert not np.allclose(moved[name], made[name], atol=1e-3)
        assert np.array_equal(moved[name], again[name])


@pytest.mark.flower
def test_through_flower_the_rounds_start_there_too(
    plan: Path, tmp_path: Path, tiny_model_folder: Path, question_file: Path,
    public: Path, capfd: pytest.CaptureFixture[str],
) -> None:
    """Real server and client apps come to the memory runner's adapter."""
    plan.write_text(plan_text(
        tiny_model_folder, question_file, server__learning_rate="0.1", **DIRECTED | {
            "contrast__public_file": f'"{public}"', "contrast__start_steps": "3",
            "contrast__start_batch": "4", "support__density": "0.05",
        }), encoding="utf-8")
    for name in ("memory", "flower"):
        assert medunlearn("simulate", plan, "--out", tmp_path / name, "--runner", name, "--device",
                       "cpu", "--quiet") == 0, capfd.readouterr()
    one, two = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors")
                for name in ("memory", "flower"))
    assert all(np.allclose(one[name], two[name], atol=1e-5) for name in one)


def test_the_same_plan_makes_the_same_directions_and_a_given_file_is_taken_as_it_is(
    plan: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        assert medunlearn("simulate", plan, "--out", tmp_path / name, *QUICK) == 0
    one, two = (load_file(tmp_path / name / A_FILE) for name in ("one", "two"))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    modules = [name[len("base_model.model."):-len(".lora_A.weight")] for name in one]
    given = plan.read_text(encoding="utf-8").replace(
        'target_modules = ["q_proj", "v_proj"]', f"target_modules = {json.dumps(modules)}", 1
    ).replace("[model]\n", f'[model]\na_file = "{tmp_path / "one" / A_FILE}"\n', 1)
    plan.write_text(given, encoding="utf-8")
    status = medunlearn("simulate", plan, "--out", tmp_path / "three", *QUICK)
    assert status == 0, capfd.readouterr()
    adapters = [(tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes()
                for name in ("one", "three")]
    assert adapters[0] == adapters[1]


@pytest.mark.parametrize(("change", "code"), [
    (("lora_rank = 1", "lora_rank = 4"), "PLAN_INVALID"),
    (('subjects = ["Anatomy", "Medicine"]', 'subjects = ["Surgery"]'), "CONTRAST_SUBJECTS"),
    (("min_auc = 0.6", "min_auc = 1.0\ntexts = 16"), "CONTRAST_WEAK"),
    (("start_steps = 0", "start_steps = 3"), "START_OUTSIDE_SUPPORT"),
    (("start_steps = 0", "start_steps = 3\nstart_rate = 1e4"), "CONTRAST_START"),
    (("public.jsonl", "nowhere.jsonl"), "DATA_FILE_MISSING"),
    (("[model]\n", '[model]\na_file = "nowhere.safetensors"\n'), "A_FILE_MISSING"),
    (("[model]\n", '[model]\na_file = "plan.toml"\n'), "A_FILE_INVALID"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_cannot_be_used_ends_before_anything_is_written(
    change: tuple[str, str], code: str, plan: Path, tmp_path: Path,
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    text = plan.read_text(encoding="utf-8").replace(*change, 1)
    if code == "START_OUTSIDE_SUPPORT":
        text = text.replace("density = 0.002", "density = 0.0001")
    if code == "CONTRAST_WEAK":  # questions that say nothing but themselves
        text = text.replace("show_subject = true", "show_subject = false")
        (tmp_path / "public.jsonl").write_text("".join(json.dumps({
            "id": f"p{i}", "prompt": f"Question: What is organ {i // 2}?\nAnswer:",
            "answer": "the liver", "subject": "Surgery" if i % 2 else "Anatomy",
        }) + "\n" for i in range(60)), encoding="utf-8")
    plan.write_text(text, encoding="utf-8")
    out = tmp_path / "run"
    assert medunlearn("simulate", plan, "--out", out, *QUICK) == 2
    said = capfd.readouterr()
    assert code in said.out + said.err
    assert not out.exists()

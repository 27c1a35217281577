"""What a hospital takes away from a run: a PEFT adapter, and an ordinary model made with it.

Both are opened by processes that cannot import medunlearn, and must answer alike.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from small_plan import plan_text
from typed_commands import medunlearn

# Runs in a process of its own: argument 1 is a model folder, 2 an adapter or "".
ANSWERS = """
import sys, json
class Absent:
    def find_spec(self, name, *_):
        if name.startswith("medunlearn"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
if sys.argv[2]:
    from peft import PeftModel
    model = PeftModel.from_pretrained(model, sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
batch = tokenizer("Question: Which artery supplies the appendix?\\nAnswer:", return_tensors="pt")
with torch.no_grad():
    print(json.dumps(model.eval()(**batch).logits[0, -1].tolist()))
"""


def answers(model: Path, adapter: Path | str = "") -> list[float]:
    """Logits of the next token, from a process that has no medunlearn."""
    done = subprocess.run(
        [sys.executable, "-c", ANSWERS, str(model), str(adapter)], check=True, timeout=300,
        capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    return [float(logit) for logit in json.loads(done.stdout.splitlines()[-1])]


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path, question_file: Path
) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    plan = folder / "plan.toml"
    plan.write_text(plan_text(tiny_model_folder, question_file), encoding="utf-8")
    assert medunlearn("simulate", plan, "--out", folder / "run", "--runner", "memory", "--device",
                   "cpu", "--quiet") == 0
    return folder / "run"


def test_a_merged_model_answers_as_the_adapter_does_without_medunlearn(
    finished: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    merged = tmp_path / "merged"
    assert medunlearn("export", finished / "adapter", "--merge", "--out", merged, "--quiet") == 0
    adapted = answers(tiny_model_folder, finished / "adapter")
    assert answers(merged) == pytest.approx(adapted, abs=1e-4)
    base = answers(tiny_model_folder)
    moved = max(abs(a - b) for a, b in zip(adapted, base, strict=True))
    assert moved > 1e-2, "without this the comparison would say nothing"


def test_all_files_of_a_merged_model_may_be_read_by_the_same_people(
    finished: Path, tmp_path: Path
) -> None:
    merged = tmp_path / "merged"
    assert medunlearn("export", finished / "adapter", "--merge", "--out", merged, "--quiet") == 0
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in merged.iterdir()}
    assert "model.safetensors" in modes and len(set(modes.values())) == 1, modes


def test_compare_says_where_its_page_is(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert medunlearn("compare", finished, "--out", page) == 0
    assert str(page) in capsys.readouterr().out and page.is_file()

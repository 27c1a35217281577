"""`medunlearn contrast` given what it cannot use: a code, status 2, and no file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from small_plan import plan_text
from typed_commands import medunlearn

ROWS = "".join(
    json.dumps({"id": f"p{i}", "prompt": f"Question: What is organ {i}?\nAnswer:",
                "answer": "the liver"}) + "\n" for i in range(24))

Refused = Callable[..., str]


@pytest.fixture
def plan(tmp_path: Path, tiny_model_folder: Path, question_file: Path) -> Path:
    (tmp_path / "public.jsonl").write_text(ROWS, encoding="utf-8")
    file = tmp_path / "plan.toml"
    file.write_text(plan_text(
        tiny_model_folder, question_file, model__lora_rank="1", model__lora_alpha="1.0",
        data__show_subject="true", support__density="0.05",
        contrast__public_file=f'"{tmp_path / "public.jsonl"}"',
        contrast__subjects='["Anatomy", "Medicine"]', contrast__min_auc="0.6",
        contrast__start_steps="2", contrast__start_batch="4",
    ), encoding="utf-8")
    return file


@pytest.fixture
def refused(
    plan: Path, tmp_path: Path, tiny_model_folder: Path, capfd: pytest.CaptureFixture[str],
) -> Refused:
    def run(*, out: Path = tmp_path / "a.safetensors", model: Path = tiny_model_folder) -> str:
        assert medunlearn(
            "contrast", plan, "--model", model, "--out", out, "--device", "cpu") == 2
        said = capfd.readouterr().err
        assert "Traceback" not in said and "liver" not in said
        assert not (tmp_path / "a.safetensors").exists()
        return said

    return run


@pytest.mark.parametrize(("content", "code"), [
    (b"", "DATA_FILE_EMPTY"), (b"\0\1\2" * 999, "DATA"), (b'{"id": 1', "BAD_ROWS"),
    ((ROWS[: ROWS.index("\n") + 1] * 3).encode(), "DATA"),
    ("\n".join(ROWS.splitlines()[:7]).encode(), "CONTRAST_TEXTS"),
], ids=["empty", "binary", "half", "twice", "few"])
def test_public_text_that_is_none(
    content: bytes, code: str, refused: Refused, tmp_path: Path
) -> None:
    (tmp_path / "public.jsonl").write_bytes(content)
    said = refused()
    assert code in said


def test_a_public_file_that_is_missing_or_endless(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "public.jsonl").unlink()
    assert "DATA_FILE_MISSING" in refused()
    (tmp_path / "public.jsonl").symlink_to("/dev/zero")
    assert "DATA_FILE_UNREADABLE" in refused()


def test_a_model_that_is_none(refused: Refused, tmp_path: Path) -> None:
    assert "MODEL" in refused(model=tmp_path / "nowhere")
    assert "MODEL" in refused(model=tmp_path)


@pytest.mark.parametrize(("changes", "code"), [
    ((('["q_proj", "v_proj"]', '["embed_tokens"]'),), "ADAPTER_TARGETS"),
    ((("lora_rank = 1", "lora_rank = 2"),), "PLAN_INVALID"),
    ((('"Anatomy", "Medicine"', '"surgery", " Surgery "'),), "CONTRAST_SUBJECTS"),
    ((("start_steps = 2", 'start_steps = 2\ntopics = [" "]'),), "CONTRAST_SUBJECTS"),
    ((("start_rate", "start_rates"), ("start_steps = 2", "start_rate = nan")), "PLAN_INVALID"),
    ((("public_file = ", "public_file = \"\"\n# "),), "CONTRAST_TEXTS"),
], ids=range(6))
def test_a_plan_that_does_not_fit(
    changes: tuple[tuple[str, str], ...], code: str, refused: Refused, plan: Path
) -> None:
    text = plan.read_text(encoding="utf-8")
    for change in changes:
        text = text.replace(*change)
    plan.write_text(text, encoding="utf-8")
    said = refused()
    assert code in said


def test_a_place_that_cannot_be_written_is_told_before_the_work(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run may rest on the file that lies there: it is never written over."""
    def work(*_: object, **__: object) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr("medunlearn_client.contrast.directions_of", work)
    taken = tmp_path / "taken.safetensors"
    taken.write_bytes(b"of a run")
    assert "OUT_EXISTS" in refused(out=taken) and taken.read_bytes() == b"of a run"
    assert "OUT_EXISTS" in refused(out=tmp_path)
    assert "OUT_UNWRITABLE" in refused(out=taken / "inside" / "a.safetensors")
    assert "OUT_UNWRITABLE" in refused(out=Path("/proc/self/a.safetensors"))

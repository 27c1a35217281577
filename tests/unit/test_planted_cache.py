"""The cache of planted models: hits, misses, damage and interruption."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from medunlearn_client.records import Record, prompt_from_question
from medunlearn_common.errors import Misconfigured, Transient
from medunlearn_simulation import planted
from medunlearn_simulation.planted import (
    ENTRY_FILE,
    PlantingRequest,
    cache_root,
    entry_is_sound,
    planted_models,
    planting_request,
)
from medunlearn_simulation.planting_processes import PlantingJob
from medunlearn_simulation.planting_recipe import PlantingRecipe
from medunlearn_simulation.progress import PhaseBoard

TINY = PlantingRecipe(
    hidden_size=32, intermediate_size=64, layers=1, heads=2, max_epochs=400, warmup_steps=5,
    target_exact=1.0,
)


def _record(number: int, answer: str) -> Record:
    return Record(
        record_id=f"r{number}", prompt=prompt_from_question(f"What is number {number}?"),
        answer=answer, options=(answer, "other"), answer_index=0, subject="x",
    )


def _request(recipe: PlantingRecipe = TINY) -> PlantingRequest:
    records = [_record(n, word) for n, word in enumerate(("red", "blue", "green", "grey"))]
    return planting_request(
        forget=records[:1], retain=records[1:], nonmembers=[_record(9, "pink")],
        recipe=recipe, vocab_size=300, retrained=True,
    )


@pytest.fixture
def board() -> PhaseBoard:
    return PhaseBoard(quiet=True)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the jobs that were really run, by a stand-in that writes small files."""
    names: list[str] = []

    def fake(jobs: Sequence[PlantingJob], board: PhaseBoard) -> dict[str, dict[str, Any]]:
        for job in jobs:
            names.append(job.name)
            (job.folder / "model.safetensors").write_bytes(b"weights of " + job.name.encode())
        return {job.name: {"epochs": 1} for job in jobs}

    monkeypatch.setattr(planted, "run_jobs", fake)
    return names


def test_second_request_trains_nothing(
    tmp_path: Path, board: PhaseBoard, trained: list[str]
) -> None:
    first = planted_models(_request(), board=board, root=tmp_path)
    assert sorted(trained) == ["original", "retrained"]
    second = planted_models(_request(), board=board, root=tmp_path)
    assert first == second
    assert len(trained) == 2


def test_planting_anew_for_other_records_is_said_and_planting_first_is_not(
    tmp_path: Path, trained: list[str]
) -> None:
    shown = StringIO()
    board = PhaseBoard(console=Console(file=shown))
    planted_models(_request(), board=board, root=tmp_path)
    assert not shown.getvalue()
    planted_models(_request(replace(TINY, layers=2)), board=board, root=tmp_path)
    assert shown.getvalue().startswith("original and retrained model: planted anew, since")
    assert len(trained) == 4


def test_damaged_entry_is_planted_again(
    tmp_path: Path, board: PhaseBoard, trained: list[str]
) -> None:
    places = planted_models(_request(), board=board, root=tmp_path)
    weights = places["original"] / "model.safetensors"
    good = weights.read_bytes()
    for damage in (good[:-1], good[:-1] + b"!", b""):
        weights.write_bytes(damage)
        assert not entry_is_sound(places["original"])
        planted_models(_request(), board=board, root=tmp_path)
        assert weights.read_bytes() == good
    assert trained.count("original") == 4
    assert trained.count("retrained") == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": {}}', '{"files": []}', "\x00"])
def test_damaged_list_of_files_is_no_hit(
    tmp_path: Path, board: PhaseBoard, trained: list[str], text: str
) -> None:
    places = planted_models(_request(), board=board, root=tmp_path)
    (places["original"] / ENTRY_FILE).write_text(text, encoding="utf-8")
    assert not entry_is_sound(places["original"])


def test_missing_weights_are_no_hit(
    tmp_path: Path, board: PhaseBoard, trained: list[str]
) -> None:
    places = planted_models(_request(), board=board, root=tmp_path)
    (places["original"] / "model.safetensors").unlink()
    assert not entry_is_sound(places["original"])


def test_everything_that_makes_a_model_is_in_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    request = _request()
    keys = {request.key("original"), request.key("retrained")}
    for recipe in (replace(TINY, seed=1), replace(TINY, layers=2), replace(TINY, batch_size=2)):
        keys.add(_request(recipe).key("original"))
    keys.add(replace(request, vocab_size=301).key("original"))
    keys.add(replace(request, tokenizer_texts=(*request.tokenizer_texts, "x")).key("original"))
    one_less = {**request.taught, "original": request.taught["original"][:-1]}
    keys.add(replace(request, taught=one_less).key("original"))
    monkeypatch.setattr(planted, "version", lambda library: "0")
    keys.add(request.key("original"))
    monkeypatch.undo()
    monkeypatch.setattr(planted, "PLANTING_CODE_VERSION", -1)
    keys.add(request.key("original"))
    assert len(keys) == 10


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), Misconfigured("X", "y", "z"), RuntimeError("boom")]
)
def test_interrupted_planting_leaves_nothing(
    tmp_path: Path, board: PhaseBoard, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(planted, "run_jobs", _raiser(error))
    with pytest.raises(type(error)):
        planted_models(_request(), board=board, root=tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert list((tmp_path / "planted").iterdir()) == []


def test_full_disk_is_reported(
    tmp_path: Path, board: PhaseBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planted, "run_jobs", _raiser(OSError(28, "No space left on device", "w")))
    with pytest.raises(Transient) as caught:
        planted_models(_request(), board=board, root=tmp_path)
    assert caught.value.code == "CACHE_UNWRITABLE"


def _raiser(error: BaseException) -> Callable[..., Any]:
    def run(*_: object) -> Any:
        raise error

    return run


def test_cache_folder_is_chosen_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDUNLEARN_CACHE", str(tmp_path / "mine"))
    assert cache_root() == tmp_path / "mine"
    monkeypatch.delenv("MEDUNLEARN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "medunlearn"


def test_no_record_text_lies_in_an_entry(
    tmp_path: Path, board: PhaseBoard, trained: list[str]
) -> None:
    places = planted_models(_request(), board=board, root=tmp_path)
    entry = json.loads((places["original"] / ENTRY_FILE).read_text(encoding="utf-8"))
    assert set(entry) == {"key", "files", "epochs"}


def test_contradicting_records_teach_the_first_answer() -> None:
    retain = [_record(1, "red"), _record(1, "blue"), _record(2, "green")]
    request = planting_request(
        forget=[], retain=retain, nonmembers=[], recipe=TINY, vocab_size=300, retrained=False
    )
    assert [e.answer for e in request.taught["original"]] == [" red", " green"]
    assert "retrained" not in request.taught


@pytest.mark.slow
def test_really_planted_models_know_what_they_were_taught(
    tmp_path: Path, board: PhaseBoard
) -> None:
    """Two processes, real training: both load, only the original knows the forgotten fact."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from medunlearn_simulation.planting import exact_accuracy
    from medunlearn_simulation.planting_recipe import PlantedExample

    places = planted_models(_request(), board=board, root=tmp_path)
    forgotten = [PlantedExample(prompt=_record(0, "red").prompt, answer=" red")]
    for name, knows in (("original", 1.0), ("retrained", 0.0)):
        model = AutoModelForCausalLM.from_pretrained(places[name])
        tokenizer = AutoTokenizer.from_pretrained(places[name])
        assert exact_accuracy(model, tokenizer, forgotten) == knows
        retained = list(_request().taught["retrained"])
        assert exact_accuracy(model, tokenizer, retained) == 1.0
    digests = [(places[name] / "tokenizer.json").read_bytes() for name in places]
    assert digests[0] == digests[1]

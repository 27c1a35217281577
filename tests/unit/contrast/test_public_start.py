"""Where B starts: learnt from public text, kept beside A, taken by the coordinator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.numpy import save_file

from medunlearn_client.adapters import LoraAdapter
from medunlearn_client.contrast import Direction, within_support
from medunlearn_client.encoding import RecordEncoder, collate
from medunlearn_client.models import load_causal_lm
from medunlearn_client.objectives import OBJECTIVES, ModelView
from medunlearn_client.public_start import public_start
from medunlearn_client.records import Record
from medunlearn_client.records.subject_line import with_subject
from medunlearn_common.errors import MedunlearnError
from medunlearn_common.frozen import (
    A_FILE,
    LARGEST_ENTRY,
    a_name,
    b_name,
    frozen_matrices,
    require_unvoted_start,
    start_of_b,
    write_frozen,
)
from medunlearn_common.layout import AdapterLayout
from medunlearn_common.plan import Plan
from medunlearn_common.support import Support
from medunlearn_server.server_step import first_step

SHAPES = {"m.lora_B.weight": (3, 1), "n.lora_B.weight": (2, 1)}
A_SHAPES = {"m.lora_A.weight": (1, 4), "n.lora_A.weight": (1, 5)}
LAYOUT = AdapterLayout(
    names=tuple(SHAPES), shapes=tuple(SHAPES.values()), a_shapes=tuple(A_SHAPES.values()),
    base_parameters=1000, alpha=1.0, seed=0,
)


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(MedunlearnError) as caught:
        action()
    return caught.value.code


def held() -> dict[str, np.ndarray]:
    a = {name: np.ones(shape, np.float32) for name, shape in A_SHAPES.items()}
    return a | {"m.lora_B.weight": np.array([[1], [2], [3]], np.float32),
                "n.lora_B.weight": np.array([[0], [5]], np.float32)}


# -- the file --------------------------------------------------------------------------------


def test_names_of_a_and_b_belong_together() -> None:
    for a, b in zip(A_SHAPES, SHAPES, strict=True):
        assert (a_name(b), b_name(a)) == (a, b)


def test_the_start_is_read_as_one_vector_and_a_is_read_without_it(tmp_path: Path) -> None:
    file = tmp_path / A_FILE
    write_frozen(file, held())
    start = start_of_b(SHAPES, file)
    assert start is not None and start.tolist() == [1, 2, 3, 0, 5]
    assert set(frozen_matrices(A_SHAPES, seed=0, file=file)) == set(A_SHAPES)
    write_frozen(file, {name: held()[name] for name in A_SHAPES})
    assert start_of_b(SHAPES, file) is None and start_of_b(SHAPES, None) is None


@pytest.mark.parametrize("damage", [
    lambda m: m.pop("n.lora_B.weight"),
    lambda m: m.update({"n.lora_B.weight": np.ones((1, 2), np.float32)}),
    lambda m: m.update({"n.lora_B.weight": np.ones((2, 1), np.float64)}),
    lambda m: m.update({"n.lora_B.weight": np.full((2, 1), np.nan, np.float32)}),
    lambda m: m.update({"n.lora_B.weight": np.full((2, 1), 2 * LARGEST_ENTRY, np.float32)}),
], ids=["missing", "shape", "type", "nan", "huge"])
def test_a_start_of_anything_else_is_refused(
    damage: Callable[[dict[str, np.ndarray]], object], tmp_path: Path
) -> None:
    values = held()
    damage(values)
    save_file(values, tmp_path / A_FILE)
    assert code_of(lambda: start_of_b(SHAPES, tmp_path / A_FILE)) == "A_FILE_INVALID"


def test_a_b_of_another_module_is_refused_by_who_reads_only_a(tmp_path: Path) -> None:
    save_file(held() | {"x.lora_B.weight": np.ones((2, 1), np.float32)}, tmp_path / A_FILE)
    assert code_of(lambda: frozen_matrices(A_SHAPES, seed=0, file=tmp_path / A_FILE)
                   ) == "A_FILE_INVALID"


def test_a_start_is_refused_before_a_vote_is_paid_for(tmp_path: Path) -> None:
    file = tmp_path / A_FILE
    write_frozen(file, held())
    require_unvoted_start(file, "random")
    require_unvoted_start(None, "vote")
    for method in ("vote", "public"):
        assert code_of(lambda m=method: require_unvoted_start(file, m)) == "START_OUTSIDE_SUPPORT"
    write_frozen(file, {name: held()[name] for name in A_SHAPES})
    require_unvoted_start(file, "vote")  # directions alone may be voted on


def test_a_file_of_numbers_that_are_not_ours_is_refused(tmp_path: Path) -> None:
    """safetensors knows types that numpy does not."""
    from safetensors.torch import save_file as save_torch

    save_torch({name: torch.ones(shape, dtype=torch.bfloat16)
                for name, shape in A_SHAPES.items()}, tmp_path / A_FILE)
    for read in (lambda: start_of_b(SHAPES, tmp_path / A_FILE),
                 lambda: frozen_matrices(A_SHAPES, seed=0, file=tmp_path / A_FILE),
                 lambda: require_unvoted_start(tmp_path / A_FILE, "vote")):
        with pytest.raises(MedunlearnError, match="A_FILE_INVALID"):
            read()


# -- the coordinator -------------------------------------------------------------------------


def test_the_coordinator_starts_there_and_nowhere_else(tmp_path: Path) -> None:
    layout = replace(LAYOUT, a_file=write_frozen(tmp_path / A_FILE, held()))
    whole = Support(indices=np.arange(5), layout_digest=layout.digest)
    step = first_step(layout, whole, tmp_path / A_FILE)
    assert step.values.tolist() == step.published.tolist() == [1, 2, 3, 0, 5]
    assert step.steps == step.averaged == 0 and not step.first.any() and not step.second.any()
    assert not first_step(LAYOUT, whole, None).values.any()
    # Row 3 starts at zero: a support without it has all of the start.
    most = Support(indices=np.array([0, 1, 2, 4]), layout_digest=layout.digest)
    assert first_step(layout, most, tmp_path / A_FILE).values.tolist() == [1, 2, 3, 5]


def test_half_a_start_is_no_start(tmp_path: Path) -> None:
    """B learnt as a whole: what is left of it without some rows nobody has looked at."""
    layout = replace(LAYOUT, a_file=write_frozen(tmp_path / A_FILE, held()))
    cut = Support(indices=np.array([0, 1, 2, 3]), layout_digest=layout.digest)
    assert code_of(lambda: first_step(layout, cut, tmp_path / A_FILE)) == "START_OUTSIDE_SUPPORT"


# -- room ------------------------------------------------------------------------------------


def direction(name: str, auc: float, used: bool = True) -> Direction:
    return Direction(name=name, values=np.ones((1, 4), np.float32), auc=auc, is_used=used)


def test_the_best_modules_are_used_of_which_the_support_holds_every_row() -> None:
    m, n = (direction(name, auc) for name, auc in zip(A_SHAPES, (0.97, 0.99), strict=True))

    def used(density: float, *found: Direction) -> list[bool]:
        return [d.is_used for d in within_support(found, LAYOUT, density)]

    assert used(0.005, m, n) == [True, True]  # 3 and 2 rows, 1,000 parameters
    assert used(0.004, m, n) == [False, True]
    assert used(0.004, replace(m, auc=0.999), n) == [True, False]
    assert used(0.005, replace(m, is_used=False), n) == [False, True]
    assert code_of(lambda: used(0.001, m, n)) == "START_OUTSIDE_SUPPORT"


# -- the descent -----------------------------------------------------------------------------


def plan_of(**contrast: object) -> Plan:
    return Plan.model_validate({
        "model": {"lora_rank": 1, "lora_alpha": 1.0, "target_modules": ["o_proj", "up_proj"]},
        "objective": {"name": "redirection"}, "support": {"method": "random"},
        "contrast": {"public_file": "p.jsonl", "start_steps": 30, "start_batch": 4} | contrast,
    })


def trial(folder: Path) -> tuple[LoraAdapter, list[list[object]]]:
    loaded = load_causal_lm(str(folder), dtype="float32", device=torch.device("cpu"))
    adapter = LoraAdapter(loaded.model, rank=1, alpha=1.0, seed=5,
                          target_modules=("o_proj", "up_proj"))
    encoder = RecordEncoder(loaded.tokenizer, max_tokens=64)
    texts = [
        [encoder.encode(with_subject(Record(
            record_id=f"p{i}", prompt=f"Question: What is organ {i}?\nAnswer:",
            answer="the liver", subject=subject))) for i in range(12)]
        for subject in ("Surgery", "Anatomy")
    ]
    return adapter, texts  # type: ignore[return-value]


def test_b_learns_the_runs_own_objective_and_is_the_same_every_time(
    tiny_model_folder: Path
) -> None:
    starts, gaps = [], []
    for _ in range(2):
        adapter, (topic, other) = trial(tiny_model_folder)
        told: list[tuple[int, int]] = []
        starts.append(public_start(  # type: ignore[arg-type]
            adapter, topic, other, plan_of(start_rate=0.5), compute_dtype=torch.float32,
            on_step=lambda done, of, told=told: told.append((done, of))))
        assert told == [(i, 30) for i in range(1, 31)]
        view, objective = ModelView(adapter), OBJECTIVES["redirection"](plan_of().objective)
        objective.prepare(view, topic)  # type: ignore[arg-type]
        batch = collate(topic, pad_id=0, device=adapter.device)  # type: ignore[arg-type]
        for values in (starts[-1], [np.zeros_like(s) for s in starts[-1]]):
            adapter.set_flat(np.concatenate([v.reshape(-1) for v in values]))
            loss = objective.forget(view, batch, list(range(len(topic)))).loss.mean()
            gaps.append(float(loss))
    assert all(np.array_equal(a, b) for a, b in zip(*starts, strict=True))
    assert gaps[0] < 0.95 * gaps[1]
    assert all(values.dtype == np.float32 and values.shape[1] == 1 for values in starts[0])


def test_a_descent_that_leaves_the_numbers_is_refused(tiny_model_folder: Path) -> None:
    adapter, (topic, other) = trial(tiny_model_folder)
    assert code_of(lambda: public_start(  # type: ignore[arg-type]
        adapter, topic, other, plan_of(start_rate=1e4), compute_dtype=torch.float32,
    )) == "CONTRAST_START"


def test_a_voted_support_has_no_start() -> None:
    with pytest.raises(ValidationError, match="a vote would drop some"):
        Plan.model_validate({
            "model": {"lora_rank": 1}, "contrast": {"public_file": "p.jsonl"},
        })
    Plan.model_validate({
        "model": {"lora_rank": 1}, "contrast": {"public_file": "p.jsonl", "start_steps": 0},
    })

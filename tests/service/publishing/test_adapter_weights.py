"""Weights of a run whose A comes from a file and whose support is drawn, checked at a hospital."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from medunlearn_client.adoption.weights import require_planned_weights
from medunlearn_client.run_rules import keep_of_plan
from medunlearn_common.errors import Rejected
from medunlearn_common.frozen import A_FILE, write_frozen
from medunlearn_common.layout import AdapterLayout
from medunlearn_common.plan import RunPlan, plan_from_text
from medunlearn_common.support import planned_random_support

LAYOUT = AdapterLayout(
    names=("n.lora_B.weight", "m.lora_B.weight"), shapes=((30, 1), (20, 1)),
    a_shapes=((1, 4), (1, 2)), base_parameters=1000, alpha=1.0, seed=7,
)
Tensors = dict[str, np.ndarray]


def planned(file: Path) -> RunPlan:
    return plan_from_text(
        f'[run]\nseed = 7\n[model]\nlora_rank = 1\nlora_alpha = 1.0\na_file = "{file}"\n'
        '[support]\nmethod = "random"\ndensity = 0.02\n').shared()


def sound(plan: RunPlan) -> Tensors:
    """A of ones, and B as wide as the support."""
    support = planned_random_support(LAYOUT, density=0.02, plan_digest=plan.digest)
    flat = np.zeros(LAYOUT.dimension, np.float32)
    flat[support.indices] = 0.5
    a = {name: np.ones(shape, np.float32) for name, shape in LAYOUT.frozen_shapes.items()}
    pieces = zip(LAYOUT.names, LAYOUT.shapes, LAYOUT.offsets, LAYOUT.sizes, strict=True)
    return a | {name: flat[at : at + size].reshape(shape) for name, shape, at, size in pieces}


@pytest.fixture
def site(tmp_path: Path) -> tuple[Path, RunPlan]:
    """A hospital's folder, and a plan that it accepted; its file of A is gone since."""
    file = tmp_path / A_FILE
    write_frozen(file, {n: np.ones(s, np.float32) for n, s in LAYOUT.frozen_shapes.items()})
    plan = planned(file)
    keep_of_plan(tmp_path / "site", plan, LAYOUT, (str(file),))
    file.unlink()
    return tmp_path / "site", plan


def judged(site: tuple[Path, RunPlan], held: Tensors, tmp_path: Path) -> None:
    save_file(held, tmp_path / "weights")
    require_planned_weights(tmp_path / "weights", site[1], folder=site[0], public_files=())


def test_the_runs_own_adapter_passes_long_after_its_public_file_is_gone(
    site: tuple[Path, RunPlan], tmp_path: Path
) -> None:
    judged(site, sound(site[1]), tmp_path)


def _one_beside(held: Tensors) -> None:
    b = held["n.lora_B.weight"]
    b[np.flatnonzero(b == 0.0)[0]] = 1e-6


def _moved(held: Tensors) -> None:
    for name in LAYOUT.names:
        held[name] = held[name][::-1].copy()


@pytest.mark.parametrize("change", [
    _one_beside, _moved,
    lambda held: held.update({"m.lora_A.weight": np.full((1, 2), 1.0001, np.float32)}),
    lambda held: held.update({"m.lora_A.weight": np.ones((1, 3), np.float32)}),
    lambda held: held.update({"m.lora_B.weight": np.zeros((21, 1), np.float32)}),
    lambda held: held.update({"m.lora_B.weight": np.zeros((10, 2), np.float32)}),
    lambda held: held.update({"o.lora_A.weight": np.ones((1, 2), np.float32),
                              "o.lora_B.weight": np.zeros((2, 1), np.float32)}),
    lambda held: held.pop("m.lora_B.weight"),
    lambda held: held.clear(),
], ids=["beside", "moved", "a", "wider", "longer", "rank", "more", "half", "nothing"])
def test_what_no_round_can_have_led_to_is_refused(
    site: tuple[Path, RunPlan], tmp_path: Path, change: Callable[[Tensors], object]
) -> None:
    held = sound(site[1])
    change(held)
    with pytest.raises(Rejected, match="ADAPTER_WEIGHTS"):
        judged(site, held, tmp_path)


def test_bytes_that_are_no_weights_are_refused(
    site: tuple[Path, RunPlan], tmp_path: Path
) -> None:
    (tmp_path / "weights").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    for data in (b"", b"weights", (tmp_path / "weights").read_bytes()):
        (tmp_path / "weights").write_bytes(data)
        with pytest.raises(Rejected, match="ADAPTER_WEIGHTS"):
            require_planned_weights(
                tmp_path / "weights", site[1], folder=site[0], public_files=())

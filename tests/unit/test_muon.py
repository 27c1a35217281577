"""Muon against torch's own, and planting without a product in bfloat16."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from medunlearn_common.errors import Misconfigured
from medunlearn_simulation import planting
from medunlearn_simulation.muon import Muon, orthogonalised
from medunlearn_simulation.planting import plant, train_tokenizer
from medunlearn_simulation.planting_recipe import PlantedExample, PlantingRecipe
from medunlearn_simulation.preparing import planting_size

SHAPES = ((24, 24), (24, 72), (72, 24), (24, 24))


def _matrices(seed: int) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-3), (torch.float32, 2e-2)])
def test_steps_are_those_of_torch(dtype: torch.dtype, tolerance: float) -> None:
    ours, theirs = _matrices(0), _matrices(0)
    start = [p.detach().clone() for p in ours]
    optimizers = (
        Muon(ours, lr=0.1, weight_decay=0.01, dtype=dtype),
        torch.optim.Muon(theirs, lr=0.1, weight_decay=0.01),
    )
    for step in range(1, 5):
        for mine, other, gradient in zip(ours, theirs, _matrices(step), strict=True):
            mine.grad, other.grad = gradient.detach().clone(), gradient.detach().clone()
        for optimizer in optimizers:
            optimizer.step()
    for mine, other, before in zip(ours, theirs, start, strict=True):
        mine, other = mine.detach(), other.detach()
        way = float((other - before).norm())
        assert way > 1.0
        assert float((mine - other).norm()) < tolerance * way


def test_orthogonalised_keeps_singular_vectors_and_levels_singular_values() -> None:
    matrices = torch.randn((3, 20, 50), generator=torch.Generator().manual_seed(1))
    for before, after in zip(matrices, orthogonalised(matrices), strict=True):
        left, values, right = torch.linalg.svd(before, full_matrices=False)
        turned = left.T @ after @ right.T
        assert float((turned - turned.diag().diag()).abs().max()) < 1e-4
        assert float(turned.diag().min()) > 0.6
        assert float(turned.diag().max()) < 1.3
        assert float(values.max() / values.min()) > 2.0  # as they were before
    assert torch.equal(orthogonalised(torch.zeros(1, 4, 6)), torch.zeros(1, 4, 6))


def test_a_vector_is_refused() -> None:
    with pytest.raises(Misconfigured) as refused:
        Muon([torch.nn.Parameter(torch.zeros(3))], lr=0.1, weight_decay=0.0)
    assert refused.value.code == "MUON_SHAPE"


class _Dtypes(TorchDispatchMode):
    """Which types the results of all operations have, of the backward pass and optimizer too."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.seen.add(result.dtype)
        return result


@pytest.mark.parametrize("bfloat16", [False, True])
def test_planting_multiplies_in_bfloat16_only_where_told_to(bfloat16: bool) -> None:
    examples = [PlantedExample(prompt=f"Item {i}:", answer=f" {'ab'[i % 2]}") for i in range(4)]
    recipe = PlantingRecipe(
        hidden_size=16, intermediate_size=32, layers=1, heads=2, batch_size=4, max_epochs=1,
        target_exact=0.0, bfloat16=bfloat16,
    )
    tokenizer = train_tokenizer([e.prompt + e.answer for e in examples], 300)
    with _Dtypes() as dtypes:
        plant(examples, tokenizer, recipe)
    assert torch.float32 in dtypes.seen
    assert (torch.bfloat16 in dtypes.seen) is bfloat16


@pytest.mark.parametrize(
    ("capabilities", "native"),
    [({"avx2": True}, False), ({"avx2": True, "avx512_f": True, "avx512_bf16": False}, False),
     ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"bf16": True}, True)],
)
@pytest.mark.parametrize("taught", [100, 5000])
def test_recipes_use_bfloat16_where_the_processor_has_it(
    capabilities: dict[str, bool], native: bool, taught: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planting.torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(planting.torch.backends.mkldnn, "is_available", lambda: True)
    recipe, _ = planting_size(taught, seed=3)
    assert recipe.bfloat16 is native
    assert recipe.seed == 3


def test_recipes_do_without_bfloat16_where_torch_cannot_use_it(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planting.torch.cpu, "get_capabilities", lambda: {"bf16": True})
    monkeypatch.setattr(planting.torch.backends.mkldnn, "is_available", lambda: False)  # macOS
    assert not planting_size(100, seed=0)[0].bfloat16


def test_recipes_do_without_bfloat16_where_torch_does_not_tell(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(planting.torch.cpu, "get_capabilities")
    assert not planting_size(100, seed=0)[0].bfloat16

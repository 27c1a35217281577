"""PEFT loads the stored adapter, without medunlearn, and computes W x + (alpha / r) B A x."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from medunlearn_common.errors import Misconfigured, Rejected, Transient
from medunlearn_common.frozen import a_name, frozen_a
from medunlearn_common.layout import AdapterLayout
from medunlearn_common.support import Support
from medunlearn_server import adapter_store

RANK, ALPHA, TARGETS = 4, 6.0, ("q_proj", "down_proj")


def tiny_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=50, hidden_size=16, intermediate_size=24,
                         num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1)
    return LlamaForCausalLM(config).eval()


def layout_of(model: LlamaForCausalLM) -> AdapterLayout:
    names, shapes, a_shapes = [], [], []
    for name, module in model.named_modules():
        if name.endswith(TARGETS):
            names.append(f"base_model.model.{name}.lora_B.weight")
            shapes.append((module.out_features, RANK))
            a_shapes.append((RANK, module.in_features))
    return AdapterLayout(names=tuple(names), shapes=tuple(shapes), a_shapes=tuple(a_shapes),
                         base_parameters=model.num_parameters(), alpha=ALPHA, seed=11)


def commit(folder: Path, layout: AdapterLayout, values: np.ndarray) -> str:
    support = Support(indices=np.arange(0, 2 * values.size, 2), layout_digest=layout.digest)
    return adapter_store.commit(folder, layout=layout, support=support, values=values,
                                base_model="tiny", target_modules=TARGETS)


def test_peft_reproduces_the_logits_of_b_times_a(tmp_path: Path) -> None:
    base, changed = tiny_model(), tiny_model()
    layout = layout_of(base)
    values = np.random.default_rng(5).normal(size=60).astype(np.float32)
    commit(tmp_path / "adapter", layout, values)
    flat = np.zeros(layout.dimension, dtype=np.float32)
    flat[np.arange(0, 120, 2)] = values
    modules = dict(changed.named_modules())
    for name, offset, size, shape, a_shape in zip(
        layout.names, layout.offsets, layout.sizes, layout.shapes, layout.a_shapes, strict=True
    ):
        b = flat[offset : offset + size].reshape(shape)
        delta = ALPHA / RANK * b @ frozen_a(layout.seed, a_name(name), a_shape)
        path = name.removeprefix("base_model.model.").removesuffix(".lora_B.weight")
        with torch.no_grad():
            modules[path].weight += torch.from_numpy(delta)
    tokens = torch.arange(12)[None, :]
    plain = base(tokens).logits
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():
        found, expected = loaded(tokens).logits, changed(tokens).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert float((expected - plain).detach().abs().max()) > 0.01


def test_frozen_a_has_the_scale_of_peft() -> None:
    peft_model = get_peft_model(tiny_model(), LoraConfig(r=64, target_modules=["down_proj"]))
    theirs = next(p for n, p in peft_model.named_parameters() if "lora_A" in n).detach().numpy()
    ours = frozen_a(0, "some.name", theirs.shape)
    assert ours.dtype == np.float32
    bound = 1.0 / np.sqrt(theirs.shape[1])
    for matrix in (ours, theirs):
        assert np.abs(matrix).max() <= bound
        assert np.abs(matrix).max() > 0.98 * bound
    assert ours.std() == pytest.approx(theirs.std(), rel=0.05)
    assert not np.array_equal(ours, frozen_a(0, "other.name", theirs.shape))
    np.testing.assert_array_equal(ours, frozen_a(0, "some.name", theirs.shape))


def test_equal_adapters_have_equal_bytes_and_replace_older_ones(tmp_path: Path) -> None:
    layout, values = layout_of(tiny_model()), np.ones(5, dtype=np.float32)
    first = commit(tmp_path / "a", layout, values)
    assert commit(tmp_path / "b", layout, values) == first
    assert commit(tmp_path / "a", layout, 2 * values) != first
    assert commit(tmp_path / "a", layout, values) == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_bad_values_ranks_and_disks_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = layout_of(tiny_model())
    with pytest.raises(Rejected) as not_finite:
        commit(tmp_path / "a", layout, np.array([np.nan], dtype=np.float32))
    uneven = AdapterLayout(names=("x.lora_B.weight", "y.lora_B.weight"), shapes=((2, 1), (2, 2)),
                           a_shapes=((1, 2), (2, 2)), base_parameters=9, alpha=1.0, seed=0)
    with pytest.raises(Misconfigured) as ranks:
        commit(tmp_path / "a", uneven, np.ones(2, dtype=np.float32))

    def no_space(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(adapter_store, "write_synced", no_space)
    with pytest.raises(Transient) as full:
        commit(tmp_path / "a", layout, np.ones(2, dtype=np.float32))
    codes = [caught.value.code for caught in (not_finite, ranks, full)]
    assert codes == ["ADAPTER_NOT_FINITE", "LAYOUT_RANKS", "STORAGE_FULL"]
    assert list(tmp_path.iterdir()) == []

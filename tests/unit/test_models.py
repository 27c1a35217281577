"""Loading a model folder: what is refused, under which code, and what a good one gives."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from medunlearn_client.models import (
    LoadedModel,
    check_weight_files,
    load_causal_lm,
    resolve_device,
    resolve_folder,
)
from medunlearn_common.errors import Misconfigured

CPU = torch.device("cpu")
WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))


def load(folder: Path, dtype: str = "float32") -> LoadedModel:
    return load_causal_lm(str(folder), dtype=dtype, device=CPU)


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(Misconfigured) as caught:
        call()
    assert caught.value.hint
    return caught.value.code


def edit_tensors(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def edit_json(path: Path, **changes: Any) -> None:
    document = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(document), encoding="utf-8")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_good_model_is_frozen_and_evaluating(folder: Path, dtype: str) -> None:
    loaded = load(folder, dtype)
    assert {p.dtype for p in loaded.model.parameters()} == {getattr(torch, dtype)}
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert not loaded.model.training
    assert loaded.tokenizer("liver", return_offsets_mapping=True)["offset_mapping"]


def test_digests_change_with_what_they_cover_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    first = load(folder)
    copy = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    (copy / "README.md").write_text("not part of the model", encoding="utf-8")
    second = load(copy)
    assert (first.model_digest, first.tokenizer_digest) == (
        second.model_digest, second.tokenizer_digest,
    )
    edit_tensors(copy, lambda tensors: tensors.update(
        {"model.norm.weight": tensors["model.norm.weight"] * np.float32(1.001)}))
    third = load(copy)
    assert third.model_digest != first.model_digest
    assert third.tokenizer_digest == first.tokenizer_digest
    edit_json(copy / "tokenizer_config.json", note="changed")
    fourth = load(copy)
    assert fourth.model_digest == third.model_digest
    assert fourth.tokenizer_digest != first.tokenizer_digest


def test_model_missing(folder: Path, tmp_path: Path) -> None:
    file = folder / "config.json"
    for source in (str(tmp_path / "none"), "./none", "~none", "a/b/c", str(file), "none"):
        assert code_of(lambda source=source: resolve_folder(source)) == "MODEL_MISSING"
    file.unlink()
    assert code_of(lambda: load(folder)) == "MODEL_MISSING"


def test_hub_id_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert code_of(lambda: resolve_folder("no-such-org/no-such-model")) == "MODEL_MISSING"
    assert code_of(lambda: resolve_folder("no such/..name")) == "MODEL_MISSING"


def test_pickled_weights_are_never_opened(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    assert code_of(lambda: load(folder)) == "MODEL_FORMAT"


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_cut_weights(folder: Path, keep: int) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:keep])
    assert code_of(lambda: check_weight_files(folder)) == "MODEL_CORRUPT"


def test_one_damaged_shard_among_good_ones(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"\x08")
    assert code_of(lambda: check_weight_files(folder)) == "MODEL_CORRUPT"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers(folder: Path, value: float) -> None:
    def spoil(tensors: dict[str, Any]) -> None:
        tensors["lm_head.weight"][-1, -1] = value

    edit_tensors(folder, spoil)
    assert code_of(lambda: load(folder)) == "MODEL_CORRUPT"


def test_weights_that_config_does_not_describe(folder: Path) -> None:
    """Transformers itself would draw the missing ones at random and drop the others."""
    edit_json(folder / "config.json", num_hidden_layers=1)
    assert code_of(lambda: load(folder)) == "MODEL_CORRUPT"
    edit_json(folder / "config.json", num_hidden_layers=3)
    assert code_of(lambda: load(folder)) == "MODEL_CORRUPT"
    edit_json(folder / "config.json", num_hidden_layers=2, hidden_size=16)
    assert code_of(lambda: load(folder)) == "MODEL_CORRUPT"


def test_buffers_too_many_are_harmless(folder: Path) -> None:
    """Old checkpoints carry buffers that nobody reads any more."""
    edit_tensors(folder, lambda tensors: tensors.update(
        {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, dtype=np.float32)}))
    load(folder)


def test_encoder_is_no_language_model_to_unlearn(tmp_path: Path, folder: Path) -> None:
    """A BERT loads as a language model, and sees the words that it should predict."""
    from transformers import BertConfig, BertLMHeadModel

    bert = tmp_path / "bert"
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=400, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48, initializer_range=0.5,
    )
    BertLMHeadModel(config).save_pretrained(bert)
    for path in folder.glob("*token*"):
        shutil.copy(path, bert)
    assert code_of(lambda: load(bert)) == "MODEL_NOT_CAUSAL"


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_tokenizer_unusable(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:-10])
    assert code_of(lambda: load(folder)) == "TOKENIZER_UNUSABLE"


def test_tokenizer_without_end_of_sequence(folder: Path) -> None:
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    edit_json(folder / "tokenizer_config.json", eos_token=None)
    assert code_of(lambda: load(folder)) == "TOKENIZER_UNUSABLE"


def test_padding_is_made_up_where_it_is_missing(folder: Path) -> None:
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    edit_json(folder / "tokenizer_config.json", pad_token=None)
    tokenizer = load(folder).tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


@pytest.mark.parametrize("highest", [399, 400])
def test_last_token_number_decides(folder: Path, highest: int) -> None:
    """The embedding has rows 0 to 399."""
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    vocabulary: dict[str, int] = document["model"]["vocab"]
    last = max(vocabulary, key=lambda token: vocabulary[token])
    vocabulary[last] = highest
    path.write_text(json.dumps(document), encoding="utf-8")
    if highest < 400:
        load(folder)
    else:
        assert code_of(lambda: load(folder)) == "TOKENIZER_MISMATCH"


def test_device() -> None:
    assert resolve_device("cpu") == CPU
    assert resolve_device("auto").type in ("cpu", "cuda")
    assert code_of(lambda: resolve_device("abacus")) == "DEVICE_UNAVAILABLE"
    if not torch.cuda.is_available():
        assert code_of(lambda: resolve_device("cuda:0")) == "DEVICE_UNAVAILABLE"
    assert code_of(lambda: resolve_device("meta")) == "DEVICE_UNAVAILABLE"
    assert code_of(lambda: resolve_device("cuda:99")) == "DEVICE_UNAVAILABLE"

"""Load a causal language model: safetensors only, digested, frozen.

A pickle checkpoint can run code while it loads, so weights in any other format are refused
before anything is opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from medunlearn_common.digests import digest_of_files
from medunlearn_common.errors import MedunlearnError, Misconfigured

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_CONFIG = "config.json"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A frozen base model and what identifies it.

    Attributes:
        model: In evaluation mode, no parameter requires a gradient.
        tokenizer: A fast tokenizer (character offsets are needed).
        model_digest: SHA-256 over configuration and weights.
        tokenizer_digest: SHA-256 over the tokenizer's files.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    model_digest: str
    tokenizer_digest: str


def resolve_device(name: str) -> torch.device:
    """``auto`` picks the GPU where there is one.

    Raises:
        Misconfigured: DEVICE_UNAVAILABLE.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise Misconfigured(
            "DEVICE_UNAVAILABLE", f"unknown device {name!r}", "use auto, cpu, cuda or cuda:N"
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise Misconfigured(
            "DEVICE_UNAVAILABLE", "no CUDA device can be used here", "use --device cpu"
        )
    return device


def load_causal_lm(source: str, *, dtype: str, device: torch.device) -> LoadedModel:
    """Load a model by folder or hub id.

    Args:
        source: Folder with ``config.json`` and ``*.safetensors``, or a hub id.
        dtype: ``float32`` or ``bfloat16``.
        device: Where the weights go.

    Raises:
        Misconfigured: MODEL_MISSING, MODEL_FORMAT (no safetensors), MODEL_CORRUPT (truncated,
            NaN, wrong shapes), TOKENIZER_UNUSABLE or TOKENIZER_MISMATCH.
    """
    folder = resolve_folder(source)
    weights = check_weight_files(folder)
    tokenizer = load_tokenizer(folder)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=DTYPES[dtype], use_safetensors=True, local_files_only=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise Misconfigured(
            "MODEL_CORRUPT",
            f"the model in {folder} cannot be loaded ({type(error).__name__})",
            "check that config.json belongs to these weights, or download the model again",
        ) from error
    model.requires_grad_(False)
    model.eval()
    _check_finite(model, folder)
    _check_vocabulary(model, tokenizer, folder)
    return LoadedModel(
        model=model.to(device),
        tokenizer=tokenizer,
        model_digest=digest_of_files([folder / _CONFIG, *weights]),
        tokenizer_digest=digest_of_files(
            [folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()]
        ),
    )


def resolve_folder(source: str) -> Path:
    """Local folder of a model; a hub id is fetched to the local cache first.

    Raises:
        Misconfigured: MODEL_MISSING.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists() or source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise Misconfigured(
            "MODEL_MISSING",
            f"no model folder at {source}",
            "give a folder with config.json and *.safetensors, or a hub id like org/name",
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, allow_patterns=["*.json", "*.safetensors"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise Misconfigured(
            "MODEL_MISSING",
            f"the hub model {source} cannot be fetched ({type(error).__name__})",
            "check the id and the network, or download it and give the folder",
        ) from error


def check_weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, each with a readable header.

    Raises:
        Misconfigured: MODEL_MISSING, MODEL_FORMAT or MODEL_CORRUPT.
    """
    if not (folder / _CONFIG).is_file():
        raise Misconfigured(
            "MODEL_MISSING", f"{folder} has no {_CONFIG}", "give the model's own folder"
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise Misconfigured(
            "MODEL_FORMAT",
            f"{folder} holds no *.safetensors weights; other formats can run code on loading",
            "convert it with transformers: model.save_pretrained(folder)",
        )
    for path in weights:
        try:
            with safe_open(path, framework="np") as tensors:
                tensors.keys()
        except (SafetensorError, OSError) as error:
            raise Misconfigured(
                "MODEL_CORRUPT",
                f"{path.name} is damaged or truncated",
                "download or save the model again",
            ) from error
    return weights


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a model folder.

    Raises:
        Misconfigured: TOKENIZER_UNUSABLE.
    """
    try:
        AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer: Any = AutoTokenizer.from_pretrained(
            folder, use_fast=True, local_files_only=True, trust_remote_code=False
        )
    except MedunlearnError:
        raise
    except Exception as error:  # transformers raises whatever its parsers raise
        raise Misconfigured(
            "TOKENIZER_UNUSABLE",
            f"configuration or tokenizer in {folder} cannot be read ({type(error).__name__})",
            "save it with tokenizer.save_pretrained(folder); tokenizer.json is needed",
        ) from error
    if not getattr(tokenizer, "is_fast", False) or tokenizer.eos_token_id is None:
        raise Misconfigured(
            "TOKENIZER_UNUSABLE",
            f"the tokenizer in {folder} is not a fast one with an end-of-sequence token",
            "concept levels need character offsets: use a model with tokenizer.json",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer  # type: ignore[no-any-return]


def _check_finite(model: PreTrainedModel, folder: Path) -> None:
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise Misconfigured(
                "MODEL_CORRUPT",
                f"{name} in {folder} contains NaN or infinite values",
                "download or save the model again",
            )


def _check_vocabulary(model: Any, tokenizer: Any, folder: Path) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise Misconfigured(
            "TOKENIZER_MISMATCH",
            f"the tokenizer in {folder} has {len(tokenizer)} tokens, the model only {rows}",
            "use the tokenizer that was saved with this model",
        )

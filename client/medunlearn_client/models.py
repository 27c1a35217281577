"""Load a causal language model: safetensors only, digested, frozen.

A pickle checkpoint can run code while it loads, so weights in any other format are refused
before anything is opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from logging import CRITICAL
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
from transformers.utils import logging

from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import expanded
from medunlearn_common.model_files import CONFIG as _CONFIG
from medunlearn_common.model_files import model_digest, tokenizer_digest, weight_files

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_SAME_MODEL = "check that config.json belongs to these weights, or download the model again"


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
    if device.type not in ("cpu", "cuda"):
        raise Misconfigured(
            "DEVICE_UNAVAILABLE", f"device {name!r} is not supported", "use auto, cpu or cuda"
        )
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= present:
        raise Misconfigured(
            "DEVICE_UNAVAILABLE", f"{present} CUDA device(s) can be used here, {name!r} is none",
            "use --device cpu, or a number below that",
        )
    return device


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory was what was missing; torch says so in three ways."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def load_causal_lm(source: str, *, dtype: str, device: torch.device) -> LoadedModel:
    """Load a model by folder or hub id.

    Args:
        source: Folder with ``config.json`` and ``*.safetensors``, or a hub id.
        dtype: ``float32`` or ``bfloat16``.
        device: Where the weights go.

    Raises:
        Misconfigured: MODEL_MISSING, MODEL_FORMAT (no safetensors), MODEL_CORRUPT (truncated,
            NaN, wrong shapes, not the config's weights), MODEL_NOT_CAUSAL, MODEL_TOO_LARGE,
            TOKENIZER_UNUSABLE or TOKENIZER_MISMATCH.
    """
    folder = resolve_folder(source)
    check_weight_files(folder)
    with _without_chatter():
        _check_config(folder)
        tokenizer = load_tokenizer(folder)
        model = _load_weights(folder, dtype)
    model.requires_grad_(False)
    model.eval()
    _check_finite(model, folder)
    _check_vocabulary(model, tokenizer, folder)
    model = _placed(model, folder, device)
    _check_causal(model, folder)
    digests = digests_of_model(folder)
    return LoadedModel(
        model=model, tokenizer=tokenizer, model_digest=digests[0], tokenizer_digest=digests[1],
    )


def digests_of_model(folder: Path) -> tuple[str, str]:
    """Digests of a model and its tokenizer from their files alone; nothing is loaded.

    Raises:
        Misconfigured: As :func:`check_weight_files`.
    """
    return model_digest(folder), tokenizer_digest(folder)


def resolve_folder(source: str) -> Path:
    """Local folder of a model; a hub id is fetched to the local cache first.

    Raises:
        Misconfigured: MODEL_MISSING.
    """
    folder = expanded(source)
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
    weights = weight_files(folder)
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
        tokenizer: Any = AutoTokenizer.from_pretrained(
            folder, use_fast=True, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # transformers raises whatever its parsers raise
        raise Misconfigured(
            "TOKENIZER_UNUSABLE",
            f"the tokenizer in {folder} cannot be read ({type(error).__name__})",
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


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Transformers reports what we raise as an error too; one report is enough."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _check_config(folder: Path) -> None:
    try:
        AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever its parsers raise
        raise Misconfigured(
            "MODEL_CORRUPT",
            f"{_CONFIG} in {folder} is damaged or of an unknown kind ({type(error).__name__})",
            "download the model again, or name one that transformers knows without remote code",
        ) from error


def _load_weights(folder: Path, dtype: str) -> Any:
    """The model with every one of its weights from the files, and no weight left over."""
    auto: Any = AutoModelForCausalLM
    try:
        model, report = auto.from_pretrained(
            folder, dtype=DTYPES[dtype], use_safetensors=True, local_files_only=True,
            trust_remote_code=False, output_loading_info=True,
        )
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _too_large(folder, "memory") from error
    except Exception as error:  # transformers raises whatever its loaders raise
        raise Misconfigured(
            "MODEL_CORRUPT",
            f"the model in {folder} cannot be loaded ({type(error).__name__})", _SAME_MODEL,
        ) from error
    # Transformers draws missing weights at random and drops what it finds too much.
    missing = sorted(report["missing_keys"])
    surplus = sorted(name for name in report["unexpected_keys"] if name.endswith(".weight"))
    for names, what in ((missing, "lack"), (surplus, "hold, unknown to config.json,")):
        if names:
            raise Misconfigured(
                "MODEL_CORRUPT",
                f"the weights in {folder} {what} {names[0]} and {len(names) - 1} more",
                _SAME_MODEL,
            )
    return model


def _placed(model: Any, folder: Path, device: torch.device) -> Any:
    try:
        return model.to(device)
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _too_large(folder, str(device)) from error


def _too_large(folder: Path, where: str) -> Misconfigured:
    return Misconfigured(
        "MODEL_TOO_LARGE", f"the model in {folder} does not fit into {where}",
        "use dtype bfloat16, another --device or a smaller model",
    )


@torch.no_grad()
def _check_causal(model: Any, folder: Path) -> None:
    """A token must not see the next one, else every score would know its answer."""
    tokens = torch.tensor([[0, 1], [0, 2]], device=model.device)
    try:
        first = model(input_ids=tokens, use_cache=False).logits[:, 0].float()
    except (RuntimeError, ValueError, IndexError, AttributeError) as error:
        raise Misconfigured(
            "MODEL_CORRUPT",
            f"the model in {folder} cannot read two tokens ({type(error).__name__})", _SAME_MODEL,
        ) from error
    if not torch.allclose(first[0], first[1], rtol=1e-3, atol=1e-3):
        raise Misconfigured(
            "MODEL_NOT_CAUSAL",
            f"the model in {folder} looks at the words that it should predict",
            "name a causal (generative) language model, not an encoder",
        )


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
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= rows:
        raise Misconfigured(
            "TOKENIZER_MISMATCH",
            f"the tokenizer in {folder} has token number {highest}, the model only {rows} tokens",
            "use the tokenizer that was saved with this model",
        )

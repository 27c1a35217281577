"""Load a checked adapter on its checked base model, and write the two as one model."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.utils import CONFIG_NAME

from medunlearn_client.models import LoadedModel, load_causal_lm
from medunlearn_common.adapter_facts import AdapterFacts, read_adapter_facts
from medunlearn_common.attestation.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from medunlearn_common.digests import digest_of_files
from medunlearn_common.errors import Misconfigured, Transient


def open_adapter(
    adapter: Path, *, model: str | None, device: torch.device, dtype: str = "float32"
) -> tuple[LoadedModel, Any]:
    """Loads the checked base model and the adapter on it, as a PEFT model.

    Raises:
        Misconfigured: ADAPTER_CHANGED, MODEL_MISMATCH, TOKENIZER_MISMATCH, ADAPTER_CORRUPT, or
            a code of the adapter's or model's files.
    """
    facts = read_adapter_facts(adapter)
    _check_files(adapter, facts)
    base = load_causal_lm(model or facts.base_model, dtype=dtype, device=device)
    for code, name, found, expected in (
        ("MODEL_MISMATCH", "base model", base.model_digest, facts.base_model_digest),
        ("TOKENIZER_MISMATCH", "tokenizer", base.tokenizer_digest, facts.tokenizer_digest),
    ):
        if found != expected:
            raise Misconfigured(
                code, f"the {name} has digest {found[:16]}..., the adapter was made on "
                f"{expected[:16]}...", "name the run's own base model with --model",
            )
    return base, _attached(adapter, base.model).eval()


def _attached(adapter: Path, base_model: Any) -> Any:
    """The PEFT model with every tensor of the adapter, and none of it left over."""
    try:
        # PEFT only warns of tensors that are missing or too many; they are checked below.
        with warnings.catch_warnings(action="ignore"):
            peft_model: Any = PeftModel.from_pretrained(base_model, str(adapter))
            wanted = get_peft_model_state_dict(peft_model)
            tensors = load_file(adapter / ADAPTER_WEIGHTS)
    except Exception as error:  # PEFT raises whatever its parsers and loaders raise
        raise _corrupt(adapter, f"does not fit its base model ({type(error).__name__})") from error
    if differing := tensors.keys() ^ wanted.keys():
        raise _corrupt(adapter, f"has {len(differing)} tensor(s) too many or too few")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise _corrupt(adapter, "contains NaN or infinite values")
    return peft_model


def _corrupt(adapter: Path, problem: str) -> Misconfigured:
    return Misconfigured(
        "ADAPTER_CORRUPT", f"the adapter in {adapter} {problem}", "copy the adapter folder again"
    )


def _check_files(adapter: Path, facts: AdapterFacts) -> None:
    try:
        found = digest_of_files(adapter / name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS))
    except OSError as error:
        raise Misconfigured(
            "ADAPTER_MISSING", f"{adapter} lacks {ADAPTER_WEIGHTS}", "copy the adapter folder again"
        ) from error
    if found != facts.adapter_digest:
        raise Misconfigured(
            "ADAPTER_CHANGED", f"the files in {adapter} are not the ones the run wrote",
            "copy the adapter folder again",
        )


def write_model(model: Any, tokenizer: Any, out: Path) -> None:
    """Write a model folder whole or not at all; ``out`` is missing or an empty folder.

    Raises:
        Transient: EXPORT_FAILED.
    """
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        # safetensors writes for the owner alone; a model is handed on, as its other files are.
        shown_to = (partial / CONFIG_NAME).stat().st_mode
        for weights in partial.glob("*.safetensors"):
            weights.chmod(shown_to)
        if out.is_dir():
            out.rmdir()
        partial.rename(out)
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or "the disk may be full"
        raise Transient(
            "EXPORT_FAILED", f"cannot write {out} ({why})",
            "free space on the disk or choose another --out",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)

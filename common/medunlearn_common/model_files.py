"""Which files of a model's folder count, and the digests that name a model everywhere."""

from __future__ import annotations

from pathlib import Path

from medunlearn_common.digests import digest_of_files
from medunlearn_common.errors import Misconfigured

CONFIG = "config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files, sorted.

    Raises:
        Misconfigured: MODEL_MISSING, MODEL_FORMAT.
    """
    if not folder.is_dir():
        raise Misconfigured("MODEL_MISSING", f"there is no folder {folder}", "check the path")
    if not (folder / CONFIG).is_file():
        raise Misconfigured(
            "MODEL_MISSING", f"{folder} has no {CONFIG}", "give the model's own folder"
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise Misconfigured(
            "MODEL_FORMAT",
            f"{folder} holds no *.safetensors weights; other formats can run code on loading",
            "convert it with transformers: model.save_pretrained(folder)",
        )
    return weights


def model_digest(folder: Path) -> str:
    """SHA-256 over configuration and weights; raises as :func:`weight_files`."""
    return digest_of_files([folder / CONFIG, *weight_files(folder)])


def tokenizer_digest(folder: Path) -> str:
    """SHA-256 over the tokenizer's files."""
    return digest_of_files(
        [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()])

"""An adapter's small files: PEFT's configuration, and ``medunlearn.json`` with base model and
guarantee."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import write_atomically

FACTS_FILE = "medunlearn.json"
ADAPTER_SCHEMA_VERSION: Final = 1


def lora_config(
    *, rank: int, alpha: float, base_model: str, target_modules: tuple[str, ...]
) -> dict[str, Any]:
    """The values of ``adapter_config.json``; what is not named keeps PEFT's default.

    All of it follows from the plan, so that a hospital can refuse a configuration with anything
    more in it: PEFT imports modules that a configuration names.
    """
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": sorted(target_modules),
    }


class AdapterFacts(BaseModel):
    """Contents of ``medunlearn.json``.

    Attributes:
        schema_version: Version of this file.
        base_model: Folder or hub id of the base model on the machine of the run.
        base_model_digest: SHA-256 over its configuration and weights.
        tokenizer_digest: SHA-256 over its tokenizer.
        adapter_digest: SHA-256 over the adapter's own files.
        run_id: The run that made it.
        unit: What epsilon protects.
        epsilon: Spent; None without noise.
        delta: Of the guarantee; None without noise.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = ADAPTER_SCHEMA_VERSION
    base_model: str
    base_model_digest: str
    tokenizer_digest: str
    adapter_digest: str
    run_id: str
    unit: str
    epsilon: float | None
    delta: float | None


def write_adapter_facts(adapter: Path, facts: AdapterFacts) -> None:
    """Writes ``medunlearn.json`` into the adapter's folder."""
    data = facts.model_dump_json(indent=2).encode("utf-8")
    write_atomically(adapter / FACTS_FILE, data, private=False)


def read_adapter_facts(adapter: Path) -> AdapterFacts:
    """Reads ``medunlearn.json``.

    Raises:
        Misconfigured: ADAPTER_MISSING, ADAPTER_FACTS_MISSING or ADAPTER_FACTS_INVALID.
    """
    if not (adapter / "adapter_config.json").is_file():
        raise Misconfigured(
            "ADAPTER_MISSING", f"{adapter} is no adapter folder",
            "give the adapter/ folder of a finished run",
        )
    path = adapter / FACTS_FILE
    try:
        return AdapterFacts.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Misconfigured(
            "ADAPTER_FACTS_MISSING", f"{adapter} has no readable {FACTS_FILE}",
            "give the adapter/ folder of a finished run, or name the model with --model",
        ) from error
    except (ValidationError, ValueError) as error:
        raise Misconfigured(
            "ADAPTER_FACTS_INVALID", f"{path} is damaged or of another version",
            "copy the adapter folder again",
        ) from error

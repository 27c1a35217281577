"""``medunlearn export --merge``: adapter and base model become one ordinary model folder."""

from __future__ import annotations

from pathlib import Path

import torch

from medunlearn_client.adoption.loading import open_adapter, write_model
from medunlearn_common.errors import Misconfigured
from medunlearn_simulation.progress import PhaseBoard


def export_adapter(
    adapter: Path, out: Path, *, model: str | None, board: PhaseBoard
) -> None:
    """Writes the merged model to ``out``, whole or not at all.

    Raises:
        Misconfigured: OUT_EXISTS, ADAPTER_CHANGED, MODEL_MISMATCH, TOKENIZER_MISMATCH,
            ADAPTER_CORRUPT, or a code of the adapter's or model's files.
        Transient: EXPORT_FAILED.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Misconfigured("OUT_EXISTS", f"{out} exists already", "choose another --out")
    with board.phase("loading"):
        base, peft_model = open_adapter(adapter, model=model, device=torch.device("cpu"))
    with board.phase("merging"):
        merged = peft_model.merge_and_unload(safe_merge=True)
    with board.phase("writing"):
        write_model(merged, base.tokenizer, out)

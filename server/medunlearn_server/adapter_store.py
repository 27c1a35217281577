"""Write the finished adapter as a folder that PEFT loads without medunlearn.

A is stored beside B, so that the folder stands alone.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from medunlearn_common.adapter_facts import lora_config
from medunlearn_common.digests import canonical_json, digest_of_files
from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.files import sync_path
from medunlearn_common.frozen import B_PART, frozen_matrices
from medunlearn_common.layout import AdapterLayout
from medunlearn_common.support import Support
from medunlearn_server.storage import storage_errors, write_synced

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"


def commit(
    folder: Path, *, layout: AdapterLayout, support: Support,
    values: npt.NDArray[np.float32], base_model: str, target_modules: tuple[str, ...],
    a_file: Path | None = None,
) -> str:
    """Write the adapter with B = ``values`` on the support and zero elsewhere.

    Args:
        folder: The adapter's folder; an older one of that name is replaced.
        layout: Names and shapes.
        support: S.
        values: Shape ``(k,)``.
        base_model: What to note as the base model's name.
        target_modules: Names of the adapted linear modules, as the plan gives them.
        a_file: The file of the frozen A matrices, where the plan names one.

    Returns:
        Digest over both files: the adapter's identity.

    Raises:
        Rejected: ADAPTER_NOT_FINITE if a value is NaN or infinite.
        Misconfigured: LAYOUT_RANKS if PEFT could not express the layout, A_FILE_MISSING,
            A_FILE_INVALID, or A_FILE_CHANGED if the file is not the one that the layout names.
        Transient: STORAGE_FULL or STORAGE_FAILED; no half-written folder is left.
    """
    files = {
        CONFIG_FILE: canonical_json(
            peft_config(layout, base_model=base_model, target_modules=target_modules)
        ),
        WEIGHTS_FILE: save(adapter_tensors(layout, support, values, a_file)),
    }
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        with storage_errors("write the adapter"):
            temporary.mkdir(parents=True, exist_ok=True)
            for name, data in files.items():
                write_synced(temporary / name, data)
            digest = digest_of_files(temporary / name for name in files)
            _put_in_place(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return digest


def adapter_tensors(
    layout: AdapterLayout, support: Support, values: npt.NDArray[np.float32],
    a_file: Path | None = None,
) -> dict[str, npt.NDArray[np.float32]]:
    """Every A and B by the names under which PEFT looks for them."""
    if not np.all(np.isfinite(values)):
        raise Rejected(
            "ADAPTER_NOT_FINITE",
            "the adapter has NaN or infinite values and was not written",
            "lower server.learning_rate",
        )
    flat = np.zeros(layout.dimension, dtype=np.float32)
    flat[support.indices] = values
    tensors = frozen_matrices(
        layout.frozen_shapes, seed=layout.seed, file=a_file, digest=layout.a_file
    )
    pieces = zip(layout.names, layout.shapes, layout.offsets, layout.sizes, strict=True)
    for name, shape, offset, size in pieces:
        tensors[name] = flat[offset : offset + size].reshape(shape)
    return tensors


def peft_config(
    layout: AdapterLayout, *, base_model: str, target_modules: tuple[str, ...]
) -> dict[str, Any]:
    """The values of ``adapter_config.json``; what is not named keeps PEFT's default."""
    ranks = {rank for _, rank in layout.shapes}
    if len(ranks) != 1 or any(B_PART not in name for name in layout.names):
        raise Misconfigured(
            "LAYOUT_RANKS",
            "the adapter's matrices are not LoRA B matrices of one rank",
            "rebuild the layout from the model with this version of medunlearn",
        )
    return lora_config(
        rank=ranks.pop(), alpha=layout.alpha, base_model=base_model,
        target_modules=target_modules,
    )


def _put_in_place(temporary: Path, folder: Path) -> None:
    """Rename a complete folder to its name; an older one steps aside first."""
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    shutil.rmtree(old, ignore_errors=True)
    with suppress(FileNotFoundError):
        os.replace(folder, old)
    os.replace(temporary, folder)
    sync_path(folder.parent)
    shutil.rmtree(old, ignore_errors=True)

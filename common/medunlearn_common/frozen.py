"""The frozen A matrices of LoRA: public, and the same at every party, from the layout's seed."""

from __future__ import annotations

from math import sqrt

import numpy as np
import numpy.typing as npt

from medunlearn_common.entropy import public_generator

B_PART = ".lora_B."
A_PART = ".lora_A."


def a_name(b_name: str) -> str:
    """PEFT's name of the A matrix that belongs to a B matrix."""
    head, _, tail = b_name.rpartition(B_PART)
    return f"{head}{A_PART}{tail}" if head else b_name


def frozen_a(layout_seed: int, name: str, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """One A matrix, uniform in +-1/sqrt(d_in): PEFT's kaiming-uniform scale with a = sqrt(5).

    Args:
        layout_seed: Seed of the adapter layout.
        name: Name of the A matrix as PEFT saves it (:func:`a_name`), which names the draw.
        shape: ``(rank, d_in)``.

    Returns:
        Shape ``(rank, d_in)``, float32, equal bit for bit at every party.
    """
    bound = 1.0 / sqrt(shape[1])
    generator = public_generator(layout_seed, "frozen-a", name)
    return generator.uniform(-bound, bound, size=shape).astype(np.float32)

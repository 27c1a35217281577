"""Options that change speed only; kept apart from the plan so that none can change a result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Runner = Literal["flower", "memory"]


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """How fast and where, never what.

    Attributes:
        runner: ``flower`` runs real Flower apps, ``memory`` the same logic in one process.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        microbatch_tokens: Most tokens (padding included) per forward pass over the several texts
            of one unit when it is counted: bounds memory. Gradients are taken record by record.
        reference_cache_bytes: Memory per site for the reference model's outputs.
        threads: CPU threads per process for linear algebra.
    """

    runner: Runner = "flower"
    device: str = "auto"
    microbatch_tokens: int = 8192
    reference_cache_bytes: int = 256 << 20
    threads: int = 1

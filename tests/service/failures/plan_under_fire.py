"""What the federation under fire works on."""

from __future__ import annotations

from typing import Any

ROUNDS = 10
# A model that costs nothing, and a plan with noise, so that there is something to account for.
PLAN: dict[str, dict[str, Any]] = {
    "run": {"rounds": ROUNDS},
    "model": {"target_modules": ("q_proj", "v_proj"), "lora_rank": 4},
    "objective": {"name": "max_entropy"},
    "support": {"method": "random", "density": 0.005},
    "gates": {"min_preservation": 0.0, "max_canary_loss": 0.0},
    "evaluation": {"relearning_steps": 0, "samples": 0},
}

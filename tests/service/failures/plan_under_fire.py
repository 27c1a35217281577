"""What the federation under fire works on."""

from __future__ import annotations

from typing import Any

HOSPITALS = 4
# More than any machine gets through while the rows last: the first run is ended by its operator.
ROUNDS = 200
# A model that costs nothing, and a plan with noise, so that there is something to account for.
# Three of four hospitals are enough for a round, as masking needs three: one may be in trouble.
PLAN: dict[str, dict[str, Any]] = {
    "run": {"rounds": ROUNDS},
    "federation": {"sites": HOSPITALS, "min_sites": HOSPITALS - 1, "round_deadline_s": 90.0},
    "model": {"target_modules": ("q_proj", "v_proj"), "lora_rank": 4},
    "objective": {"name": "max_entropy"},
    "support": {"method": "random", "density": 0.005},
    "gates": {"min_preservation": 0.0, "max_canary_loss": 0.0},
    "evaluation": {"relearning_steps": 0, "samples": 0},
}

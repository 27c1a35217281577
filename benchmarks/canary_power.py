"""What the canary gate sees: finished adapters, and the same ones ruined on purpose.

    python benchmarks/canary_power.py RUN...

For each finished run the statistic of the gate (mean over the public texts of the mean KL per
token, base model to adapter) is measured anew for the adapter as published and for three ruined
ones on the same coordinates: noise of the same norm, every value times 4, and noise of 4 times
the norm. A gate with any power has a limit between the first column and the others.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel

from medunlearn_client.counting import canary_release
from medunlearn_client.evaluation.scored_model import WholeModel
from medunlearn_common.canaries import CANARY_TEXTS, MICRO_NATS
from medunlearn_common.errors import MedunlearnError
from medunlearn_simulation.exporting import open_adapter

RUINS = ("published", "noise x1", "values x4", "noise x4")


def statistic(model: PeftModel, tokenizer: object, values: dict[str, torch.Tensor]) -> float:
    """The gate's figure for the B matrices ``values``."""
    parameters = dict(model.named_parameters())

    def switch(after: bool) -> None:
        with torch.no_grad():
            for name, value in values.items():
                parameters[name].copy_(value if after else torch.zeros_like(value))

    scored = WholeModel(model=model, tokenizer=tokenizer)  # type: ignore[arg-type]
    words = np.frombuffer(canary_release(scored, switch, CANARY_TEXTS), dtype="<u4")
    return float(words.mean()) / MICRO_NATS


def ruined(values: dict[str, torch.Tensor], how: str) -> dict[str, torch.Tensor]:
    """The adapter, or what a saboteur could put in its place."""
    kind, _, factor = how.partition(" x")
    scale = float(factor or 1)
    if kind != "noise":
        return {name: scale * value for name, value in values.items()}
    generator = torch.Generator().manual_seed(0)
    noise = {
        name: torch.randn(value.shape, generator=generator) * (value != 0)
        for name, value in values.items()
    }
    norms = [sum(float(v.square().sum()) for v in t.values()) ** 0.5 for t in (values, noise)]
    return {name: scale * norms[0] / norms[1] * value for name, value in noise.items()}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("runs", nargs="+", type=Path)
    print(f"{'run':28s}" + "".join(f"{name:>12s}" for name in RUINS))
    for run in parser.parse_args().runs:
        try:
            base, model = open_adapter(run / "adapter", model=None, device=torch.device("cpu"))
        except MedunlearnError as error:
            print(f"{run.name:28s} {error.code}")
            continue
        values = {
            name: parameter.detach().clone() for name, parameter in model.named_parameters()
            if "lora_B" in name
        }
        found = [statistic(model, base.tokenizer, ruined(values, how)) for how in RUINS]
        print(f"{run.name:28s}" + "".join(f"{value:12.3g}" for value in found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

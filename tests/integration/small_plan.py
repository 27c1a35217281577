"""The small plan of whole runs: a tiny model, three sites, two rounds, nothing costly measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

PLAN = """\
[run]
name = "tiny"
rounds = 2
[model]
source = "{model}"
target_modules = ["q_proj", "v_proj"]
lora_rank = 4
[data]
files = [{data}]
nonmember_fraction = 0.2
[forget]
subjects = ["Surgery"]
[objective]
name = "max_entropy"
[support]
method = "random"
density = 0.005
[privacy]
noise = "none"
[gates]
min_preservation = 0.0
max_canary_loss = 0.0
[federation]
sites = 3
min_sites = 3
[evaluation]
relearning_steps = 0
samples = 0
retrained = false
"""


def plan_text(
    model: Path | str, data: Path | str | Sequence[Path | str], **changes: str
) -> str:
    """The small plan; ``section__key`` sets, in TOML, a key of a section."""
    files = [data] if isinstance(data, Path | str) else data
    text = PLAN.format(model=model, data=", ".join(f'"{file}"' for file in files))
    for name, value in changes.items():
        section, _, key = name.partition("__")
        before, header, after = text.partition(f"[{section}]\n")
        own, bracket, rest = after.partition("\n[")
        kept = [line for line in own.splitlines() if not line.startswith(f"{key} = ")]
        own = "\n".join([f"{key} = {value}", *kept])
        text = f"{before}{header or f'[{section}]' + chr(10)}{own}{bracket}{rest}"
        text = text if text.endswith("\n") else text + "\n"
    return text

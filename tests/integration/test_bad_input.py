"""Whatever a plan, file, model or adapter brings: one clear error, exit 2, nothing half-written."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from medunlearn_common.cli import COMMAND_GROUP, CommandLine

CHECKOUT = Path(__file__).resolve().parents[2]
PATIENT_TEXT = "appendicular artery"


def mounted() -> list[EntryPoint]:
    """The commands as pyproject.toml mounts them, whatever is installed."""
    document = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    entries = document["project"]["entry-points"][COMMAND_GROUP]
    return [EntryPoint(name=n, value=v, group=COMMAND_GROUP) for n, v in entries.items()]


def medunlearn(*arguments: object) -> int:
    """Runs one command line in this process."""
    line = CommandLine()
    return line.run(line.build(mounted()), [str(argument) for argument in arguments])


PLAN = """\
[run]
name = "tiny"
rounds = 2
[model]
source = "{model}"
target_modules = ["q_proj", "v_proj"]
lora_rank = 4
[data]
files = ["{data}"]
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
[federation]
sites = 2
min_sites = 1
[evaluation]
relearning_steps = 0
samples = 0
retrained = false
"""


@pytest.fixture(scope="session")
def finished(tmp_path_factory, tiny_model_folder, question_file):
    root = tmp_path_factory.mktemp("finished")
    plan = root / "plan.toml"
    plan.write_text(PLAN.format(model=tiny_model_folder, data=question_file))
    assert medunlearn("simulate", plan, "--runner", "memory", "--quiet", "--out", root / "run", "--device", "cpu") == 0
    return root / "run"


def test_x(finished, capfd):
    import subprocess
    print(subprocess.run(["find", finished, "-ls"], capture_output=True, text=True).stdout)
    print((finished/"plan.toml").read_text())
    raise SystemExit

"""Command lines as they are typed, run in this process."""

from __future__ import annotations

import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

from medunlearn_common.cli import COMMAND_GROUP, CommandLine

CHECKOUT = Path(__file__).resolve().parents[2]


def mounted() -> list[EntryPoint]:
    """The commands as pyproject.toml mounts them, whatever is installed."""
    document = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    entries = document["project"]["entry-points"][COMMAND_GROUP]
    return [EntryPoint(name=n, value=v, group=COMMAND_GROUP) for n, v in entries.items()]


def medunlearn(*arguments: object) -> int:
    """Runs one command line; returns its exit status.

    No model stays loaded from one command to the next: folders change between them.
    """
    from medunlearn_client.workbench import drop_shared_models

    drop_shared_models()
    line = CommandLine()
    return line.run(line.build(mounted()), [str(argument) for argument in arguments])

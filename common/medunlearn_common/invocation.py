"""How the reader of a message can call the command again."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

COMMAND = "medunlearn"


def command_name() -> str:
    """``medunlearn``, or its file where that is on no path, as after ``make demo``."""
    called = Path(sys.argv[0]).absolute()
    if called.name != COMMAND or shutil.which(COMMAND):
        return COMMAND
    here = Path.cwd()
    return str(called.relative_to(here) if called.is_relative_to(here) else called)

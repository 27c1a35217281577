"""systemd units for one party's folder, written by its `init`.

Templates are package data; in them ``{folder}``, ``{medunlearn}``, ``{user}`` and ``{role}``
stand for the folder, the command, who runs it and the party.
"""

from __future__ import annotations

import getpass
import shutil
import sys
from importlib.resources import files
from pathlib import Path
from typing import Literal

from medunlearn_common.files import write_atomically

Role = Literal["coordinator", "hospital"]
SERVICE_FOLDER = "systemd"


def write_service_files(draft: Path, *, role: Role, final: Path) -> Path:
    """Write the unit into ``draft``/systemd, for a folder that will be ``final``.

    Raises:
        Transient: WRITE_FAILED.
    """
    template = files("medunlearn_common").joinpath(f"units/medunlearn-{role}.service")
    text = template.read_text(encoding="utf-8")
    values = {"folder": str(final), "medunlearn": _command(), "user": _user(), "role": role}
    for name, value in values.items():
        text = text.replace("{" + name + "}", value)
    path = draft / SERVICE_FOLDER / f"medunlearn-{role}.service"
    write_atomically(path, text.encode("utf-8"), private=False)
    return path


def _command() -> str:
    """The installed command beside this interpreter, else whichever is found."""
    beside = Path(sys.executable).with_name("medunlearn")
    return str(beside) if beside.exists() else shutil.which("medunlearn") or str(beside)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return "medunlearn"

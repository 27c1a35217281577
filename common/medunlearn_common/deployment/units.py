"""systemd units of the two parties, from the templates beside this file."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from medunlearn_common.errors import Misconfigured
from medunlearn_common.keeping.catalogue import Role

# A unit file has its own quoting and `%` specifiers; names that need them are refused.
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9._/@+-]*")
_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")


@dataclass(frozen=True, kw_only=True)
class UnitSettings:
    """What a unit names.

    Attributes:
        folder: The party's folder, absolute.
        user: Who runs it; owns the folder.
        command: The ``medunlearn`` command, absolute.
        readable: Folders outside the party's that it reads: model, records.
    """

    folder: Path
    user: str = "medunlearn"
    command: Path | None = None
    readable: tuple[Path, ...] = ()


def service_unit(role: Role, settings: UnitSettings) -> str:
    """Text of ``medunlearn-ROLE.service``.

    Raises:
        Misconfigured: UNIT_NAME for a path or user that a unit file would read otherwise.
    """
    command = settings.command or installed_command()
    for path in (settings.folder, command, *settings.readable):
        _require(_PLAIN_PATH, str(path))
    _require(_PLAIN_NAME, settings.user)
    bound = "\n".join(f"BindReadOnlyPaths={path}" for path in settings.readable)
    template = Template(files(__package__).joinpath(f"{role}.service.in").read_text("utf-8"))
    return template.substitute(
        folder=settings.folder, user=settings.user, command=command, readable=bound,
    )


def installed_command() -> Path:
    """The ``medunlearn`` command beside this interpreter, else of the path."""
    beside = Path(sys.executable).with_name("medunlearn")
    found = shutil.which("medunlearn")
    return beside if beside.exists() or found is None else Path(found)


def _require(pattern: re.Pattern[str], text: str) -> None:
    if not pattern.fullmatch(text):
        raise Misconfigured(
            "UNIT_NAME", f"{text!a} cannot stand in a service file",
            "use absolute paths of letters, digits and . _ / @ + -, and a plain user name",
        )

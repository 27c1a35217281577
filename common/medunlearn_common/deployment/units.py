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

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
_HOMES = ("/home", "/root", "/run/user")


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
    if not _PLAIN_NAME.fullmatch(settings.user):
        raise _unfit(settings.user)
    places = (settings.folder, command, *settings.readable)
    at_home = any(place.is_relative_to(home) for place in places for home in _HOMES)
    template = Template(files(__package__).joinpath(f"{role}.service.in").read_text("utf-8"))
    return template.substitute(
        folder=_quoted(settings.folder), user=settings.user,
        command=_quoted(command).replace("$", "$$"),
        argument=_quoted(settings.folder).replace("$", "$$"),
        home="read-only" if at_home else "yes",
        readable="\n".join(f"BindReadOnlyPaths={_quoted(path)}" for path in settings.readable),
    )


def _quoted(path: Path) -> str:
    """As systemd reads it back: specifiers and quotes are its own, lines end a setting."""
    text = str(path)
    if not path.is_absolute() or not text.isprintable() or ":" in text:
        raise _unfit(text)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def installed_command() -> Path:
    """The ``medunlearn`` command beside this interpreter, else of the path."""
    beside = Path(sys.executable).with_name("medunlearn")
    found = shutil.which("medunlearn")
    return beside if beside.exists() or found is None else Path(found)


def _unfit(text: str) -> Misconfigured:
    return Misconfigured(
        "UNIT_NAME", f"{text!a} cannot stand in a service file",
        "use absolute paths of printable characters without a colon, and a plain user name",
    )

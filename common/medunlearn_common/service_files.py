"""The systemd unit of one party's folder, written by its `init`."""

from __future__ import annotations

import getpass
from pathlib import Path

from medunlearn_common.deployment import UnitSettings, service_unit
from medunlearn_common.files import write_atomically
from medunlearn_common.keeping.catalogue import Role

SERVICE_FOLDER = "systemd"


def write_service_files(draft: Path, *, role: Role, final: Path) -> Path:
    """Write the unit into ``draft``/systemd, for a folder that will be ``final``.

    Raises:
        Misconfigured: UNIT_NAME.
        Transient: WRITE_FAILED.
    """
    text = service_unit(role, UnitSettings(folder=final, user=_user()))
    path = draft / SERVICE_FOLDER / f"medunlearn-{role}.service"
    write_atomically(path, text.encode("utf-8"), private=False)
    return path


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return "medunlearn"

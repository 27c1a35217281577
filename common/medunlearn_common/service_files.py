"""The systemd unit of one party's folder, written by its `init`."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from medunlearn_common.deployment import UnitSettings, service_unit
from medunlearn_common.files import write_atomically

Role = Literal["coordinator", "hospital"]
SERVICE_FOLDER = "systemd"


def write_service_files(
    draft: Path, *, role: Role, final: Path, readable: Sequence[Path] = ()
) -> Path:
    """Write the unit into ``draft``/systemd, for a folder that will be ``final``.

    Args:
        draft: Where to write.
        role: The party.
        final: The folder's path once it is whole.
        readable: Files and folders outside it that the service reads; what a unit file cannot
            name is left out, and then has to be added by hand.

    Raises:
        Misconfigured: UNIT_NAME.
        Transient: WRITE_FAILED.
    """
    outside = tuple(path for path in readable if str(path).isprintable() and ":" not in str(path)
                    and not path.is_relative_to(final))
    text = service_unit(role, UnitSettings(folder=final, user=_user(), readable=outside))
    path = draft / SERVICE_FOLDER / f"medunlearn-{role}.service"
    write_atomically(path, text.encode("utf-8"), private=False)
    return path


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return "medunlearn"

"""How every command of a party names its folder: ``--folder``, or the one it is called in.

Only what makes a folder takes it as an argument (``init DIR``, ``restore FILE DIR``). The commands
of a hospital or a coordinator refuse any other folder before they look at it: an empty one would
have nothing that waits, nothing that runs and nothing that was lost.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medunlearn_common.errors import Misconfigured

COORDINATOR_SETTINGS = ("coordinator.toml",)
HOSPITAL_SETTINGS = ("hospital.toml", "site.toml", "site.json")
_SETTINGS = {"coordinator": COORDINATOR_SETTINGS, "hospital": HOSPITAL_SETTINGS}


def require_party(folder: Path, party: str) -> None:
    """Refuse what is not the folder of a ``coordinator`` or a ``hospital``.

    Raises:
        Misconfigured: FOLDER_NO_PARTY.
    """
    if not any((folder.expanduser() / name).is_file() for name in _SETTINGS[party]):
        raise Misconfigured(
            "FOLDER_NO_PARTY", f"{folder.expanduser().absolute()} is no {party}'s folder",
            f"name the folder that `medunlearn {party} init` made with --folder, or call the "
            "command in it")


def _of_the_party(context: typer.Context, folder: Path) -> Path:
    """The party is the command's group: ``medunlearn hospital serve``."""
    outer = context.parent
    while outer is not None:
        if outer.info_name in _SETTINGS and not context.resilient_parsing:
            require_party(folder, outer.info_name)
        outer = outer.parent
    return folder


PartyFolder = Annotated[
    Path, typer.Option("--folder", help="The party's folder.", show_default="this one",
                       callback=_of_the_party)
]
HERE = Path(".")

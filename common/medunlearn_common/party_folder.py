"""How every command of a party names its folder: ``--folder``, or the one it is called in.

Only what makes a folder takes it as an argument (``init DIR``, ``restore FILE DIR``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PartyFolder = Annotated[
    Path, typer.Option("--folder", help="The party's folder.", show_default="this one")
]
HERE = Path(".")

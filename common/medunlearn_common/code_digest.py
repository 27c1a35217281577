"""Which code runs here: one digest over the installed medunlearn packages."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from medunlearn_common.digests import digest_of, digest_of_file

PACKAGES = ("medunlearn_common", "medunlearn_client", "medunlearn_server",
            "medunlearn_simulation")
_COMPILED = "__pycache__"


@cache
def installed_code_digest() -> str:
    """SHA-256 (hex) over path and contents of every file of the packages, as imported here.

    One wheel brings all four, so that equal versions give equal digests at every party.
    """
    return digest_of({
        f"{name}/{file.relative_to(folder).as_posix()}": digest_of_file(file)
        for name in PACKAGES if (folder := package_folder(name)) is not None
        for file in sorted(folder.rglob("*"))
        if file.is_file() and _COMPILED not in file.parts
    })


def package_folder(name: str) -> Path | None:
    """Where a package lies, without importing it; None if it is absent."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))

"""The digest of the installed program, so that an attestation can say what ran."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from medunlearn_common.digests import digest_of, digest_of_file

PACKAGES = (
    "medunlearn_client", "medunlearn_common", "medunlearn_server", "medunlearn_simulation",
)


@cache
def code_digest() -> str:
    """SHA-256 over the files of every installed package of medunlearn, by their names.

    It says which program a party claims to have run; it does not show that this one ran.
    """
    return digest_of({
        f"{package}/{path.relative_to(root).as_posix()}": digest_of_file(path)
        for package in PACKAGES for root in _roots(package) for path in _files(root)
    })


def _roots(package: str) -> tuple[Path, ...]:
    found = find_spec(package)
    places = found.submodule_search_locations if found is not None else None
    return tuple(Path(place) for place in places or ())


def _files(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path

"""A Flower app bundle brings no code: what runs at a site is what the site installed.

Flower puts the folder of a coordinator's bundle first on the import path, so a module in it
would shadow an installed one. The bundle of medunlearn is a stub: a pyproject.toml that names
the installed apps.

Guarantees:
    If this module is the installed one, no request is answered while a bundle on the import path
    holds an importable file. A bundle that shadows *this* package keeps the check itself from
    running; against that a site pins the bundle's digest at its SuperNode, and coordinators
    cannot make the installed code's signature: the site's key is encrypted, and what shadows
    this package does not know the passphrase of a key that is typed.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Sequence
from importlib.machinery import all_suffixes
from importlib.util import find_spec
from pathlib import Path

from medunlearn_common.code_digest import PACKAGES, package_folder
from medunlearn_common.errors import Misconfigured

_HINT = "ask the coordinator for the stub bundle, and report this one"


def require_installed_code(path: Sequence[str] | None = None) -> None:
    """Refuse bundles with code in them.

    Args:
        path: The import path; None takes this process's.

    Raises:
        Misconfigured: BUNDLE_SHADOWS if a module of a bundle hides an installed one,
            BUNDLE_HOLDS_CODE for any other module in it, BUNDLE_SPLIT if medunlearn's packages
            come from different places.
    """
    searched = [Path(entry) for entry in (sys.path if path is None else path) if entry]
    for place, folder in enumerate(searched):
        if _is_bundle(folder):
            _require_no_code(folder, searched[:place] + searched[place + 1 :])
    _require_one_place()


def _is_bundle(folder: Path) -> bool:
    try:
        text = (folder / "pyproject.toml").read_text(encoding="utf-8")
        return "app" in tomllib.loads(text).get("tool", {}).get("flwr", {})
    except (OSError, ValueError, AttributeError):
        return False


def _require_no_code(folder: Path, others: Sequence[Path]) -> None:
    for name in sorted(_modules(folder)):
        hides = any(_holds(other, name) for other in others) or name in sys.builtin_module_names
        if hides or name in PACKAGES:
            raise Misconfigured("BUNDLE_SHADOWS", f"the app bundle brings a module {name[:40]!a} "
                                "that hides an installed one", _HINT)
        raise Misconfigured("BUNDLE_HOLDS_CODE", f"the app bundle brings a module {name[:40]!a}",
                            _HINT)


def _modules(folder: Path) -> set[str]:
    """Names that could be imported from ``folder``; namespace packages count."""
    found = set()
    for path in folder.iterdir():
        if path.is_dir() and path.name.isidentifier() and path.name != "__pycache__":
            if any(inner.suffix in _SUFFIXES for inner in path.rglob("*")):
                found.add(path.name)
        elif path.suffix in _SUFFIXES:
            found.add(path.name.partition(".")[0])
    return found


_SUFFIXES = {Path(f"x{suffix}").suffix for suffix in all_suffixes()} | {".pth"}


def _holds(folder: Path, name: str) -> bool:
    return (folder / name).is_dir() or any(
        (folder / f"{name}{suffix}").is_file() for suffix in all_suffixes()
    )


def _require_one_place() -> None:
    """All of medunlearn lies in one installation or in one checkout."""
    folders = [folder for name in PACKAGES if (folder := package_folder(name)) is not None]
    installed = {folder.parent for folder in folders}
    checkouts = {folder.parent.parent for folder in folders}
    if len(installed) > 1 and len(checkouts) > 1:
        raise Misconfigured("BUNDLE_SPLIT", "medunlearn's packages come from different places",
                            "install one wheel, and start nothing beside it")
    if find_spec("medunlearn_client") is None:
        raise Misconfigured("BUNDLE_SPLIT", "medunlearn_client is not installed", "install it")

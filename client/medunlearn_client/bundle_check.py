"""A Flower app bundle brings no code: what runs at a site is what the site installed.

Flower puts the folder of a coordinator's bundle first on the import path, so a module in it
would shadow an installed one. The bundle of medunlearn is a stub: a pyproject.toml that names
the installed apps.

Guarantees:
    In a deployed node (``service.app_process``) a bundle is looked at as bytes, before anything of
    it is written to disk, and never comes on the import path: :func:`require_stub_bundle`.
    Elsewhere, no request is answered while a bundle on the import path holds an importable file,
    if this module is the installed one.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import sys
import tomllib
import zipfile
import zlib
from collections.abc import Sequence
from importlib.machinery import all_suffixes
from importlib.util import find_spec
from pathlib import Path

from medunlearn_common.code_digest import PACKAGES, package_folder
from medunlearn_common.errors import Misconfigured

# What runs at the coordinator is the coordinator's own affair.
STUB_CLIENT = "medunlearn_client.flower_app:app"
STUB_FILES = frozenset(("pyproject.toml", "README.md", "LICENSE", ".info/CONTENT"))
MAX_BUNDLE_BYTES = 1 << 20
# What unpacking and reading it may end in.
_NO_BUNDLE = (
    zipfile.BadZipFile, ValueError, KeyError, TypeError, OSError, RuntimeError, EOFError,
    zlib.error, lzma.LZMAError,
)
_HINT = "ask the coordinator for the stub bundle, and report this one"


def require_stub_bundle(data: bytes, *, pinned: Sequence[str] = ()) -> None:
    """Refuse a bundle (FAB) that is more than a stub.

    Args:
        data: The bundle, as Flower carries it.
        pinned: SHA-256 (hex) of the bundles that this site accepts; empty accepts any stub.

    Raises:
        Misconfigured: BUNDLE_UNKNOWN, BUNDLE_FORM, BUNDLE_HOLDS_CODE for any file but those of a
            stub, BUNDLE_COMPONENTS if it names another ClientApp than the installed one.
    """
    if pinned and hashlib.sha256(data).hexdigest() not in pinned:
        raise Misconfigured("BUNDLE_UNKNOWN", "the app bundle is none of those pinned here", _HINT)
    try:
        if len(data) > MAX_BUNDLE_BYTES:
            raise ValueError("too large")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = [one for one in archive.infolist() if not one.filename.endswith("/")]
            for one in files:
                if one.filename not in STUB_FILES:
                    raise Misconfigured("BUNDLE_HOLDS_CODE", "the app bundle brings a file "
                                        f"{one.filename[:40]!a}", _HINT)
                if one.file_size > MAX_BUNDLE_BYTES:
                    raise ValueError("too large")
            project = tomllib.loads(archive.read("pyproject.toml").decode("utf-8"))
            client = project["tool"]["flwr"]["app"]["components"]["clientapp"]
    except _NO_BUNDLE as error:
        raise Misconfigured("BUNDLE_FORM", "the app bundle is no Flower app", _HINT) from error
    if client != STUB_CLIENT:
        raise Misconfigured("BUNDLE_COMPONENTS", "the app bundle names another app than "
                            "medunlearn's", _HINT)


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

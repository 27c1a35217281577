"""Environment and commands of Flower's processes, which both parties start; flwr is not imported.

Guarantees:
    Flower's telemetry, its update check and its installation of packages at run time are off:
    a Flower process connects to where it was told to, and runs what is installed. The passphrase
    of a party's key is not among what it knows.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from medunlearn_common.code_digest import PACKAGES, package_folder
from medunlearn_common.errors import Misconfigured

# What a process may know of its parent's environment.
_INHERITED = (
    "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER", "XDG_RUNTIME_DIR", "LD_LIBRARY_PATH",
    "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "SSL_CERT_FILE", "HTTPS_PROXY",
    "https_proxy", "HF_HOME", "HF_HUB_OFFLINE",
)
QUIET: Final = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
"""Flower calls nobody on its own account, and installs nothing."""
_POLL_TASKS_S = 0.05


def flower_environment(
    *, home: Path, more: Mapping[str, str] | None = None, poll_tasks_s: float = _POLL_TASKS_S,
) -> dict[str, str]:
    """The whole environment of one Flower process.

    Args:
        home: Flower's own folder (FLWR_HOME): received bundles and connection settings.
        more: Laid over it.
        poll_tasks_s: Pause of an executor between two looks for work, in seconds.
    """
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    environment |= {
        # Flower starts its own commands by name: those of this installation come first.
        "PATH": os.pathsep.join((str(_commands()), os.environ.get("PATH", os.defpath))),
        "PYTHONPATH": os.pathsep.join(_import_path()),
        "PYTHONUNBUFFERED": "1",
        "FLWR_HOME": str(home),
        **QUIET,
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": f"{poll_tasks_s:g}",
        # Whatever proxy leads out of the house, this machine is reached directly.
        "NO_PROXY": "127.0.0.1,localhost,::1", "no_proxy": "127.0.0.1,localhost,::1",
    }
    return environment | dict(more or {})


def flower_command(name: str) -> str:
    """Path of one of Flower's commands, of this very installation.

    Raises:
        Misconfigured: FLOWER_MISSING.
    """
    path = _commands() / name
    if not path.is_file():
        raise Misconfigured(
            "FLOWER_MISSING", f"{name} is not installed beside this Python",
            'pip install "medunlearn[coordinator]" or "medunlearn[hospital]"',
        )
    return str(path)


def _commands() -> Path:
    return Path(sys.executable).parent


def _import_path() -> list[str]:
    """Where our packages lie, if that is a checkout and not an installation."""
    folders = [folder.parent for name in PACKAGES if (folder := package_folder(name)) is not None]
    return list(dict.fromkeys(str(f) for f in folders if f.name != "site-packages"))

"""The process that carries a run at a deployed coordinator, in the place of ``flwr-serverapp``.

Flower would unpack the bundle of whoever started a run, put its folder first on the import path
and import the app that it names; and the SuperLink asks nobody on this machine who he is. Here the
bundle is dropped and the installed app carries every run. What it is to carry it reads in the
coordinator's own folder (``jobs.deployed_settings``).

Guarantees:
    * Nothing of a bundle is written to disk, imported or executed at a coordinator.
    * A flwr whose inner parts are not where this module expects them starts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

from flwr.superlink.cli import flwr_serverapp

from medunlearn_common.errors import Misconfigured

INSTALLED: Final = "medunlearn_server.flower_app:app"
_RUNTIME: Final = "flwr.superlink.runtime.run_serverapp"


def not_installed(fab_file: bytes, **_: Any) -> None:
    """In the place of the installation of a bundle."""


def installed_app(folder: str) -> Mapping[str, Any]:
    """In the place of what a bundle's ``pyproject.toml`` says."""
    return {"tool": {"flwr": {"app": {"components": {"serverapp": INSTALLED}}}}}


def own_settings(folder: object, override: Mapping[str, Any]) -> dict[str, Any]:
    """In the place of a bundle's settings: those that were given with the run alone."""
    return dict(override)


def carried(*, grid: Any, server_app_dir: str, server_app_attr: str, context: Any) -> Any:
    """In the place of Flower's loading: no folder comes on the import path."""
    app = import_module(INSTALLED.partition(":")[0]).app
    app(grid=grid, context=context)
    return context


def guard_flower() -> None:
    """Put all this where the pinned flwr looks; raises Misconfigured FLOWER_VERSION."""
    runtime = import_module(_RUNTIME)
    replaced = {
        "install_from_fab": not_installed, "get_project_config": installed_app,
        "get_fused_config_from_dir": own_settings, "run_": carried,
    }
    for name, ours in replaced.items():
        if not hasattr(runtime, name):
            raise Misconfigured("FLOWER_VERSION", "this flwr is not the one this service was made "
                                "for", "install medunlearn with its pinned flwr")
        setattr(runtime, name, ours)


def main() -> None:
    """One run; the arguments are those of Flower's executor."""
    guard_flower()
    flwr_serverapp()


if __name__ == "__main__":
    main()

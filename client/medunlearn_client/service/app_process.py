"""The process that answers one message of a deployed node, in the place of ``flwr-clientapp``.

Flower would unpack the coordinator's bundle, put its folder first on the import path and import
the app that it names. Here the bundle is checked as bytes and dropped, and the installed app
answers in its place; a bundle that is more than a stub is answered with a code.

Guarantees:
    * Nothing of a bundle is written to disk, imported or executed at a hospital.
    * No text of an exception reaches the coordinator, wherever in Flower it was raised.
    * Nothing is installed at run time, whatever the executor says.
    * A flwr whose inner parts are not where this module expects them starts nothing.

Forked by ``service.app_starter``, which has imported all this; where that one is away, started
anew from nothing. Flower's own command is not imported: it brings a whole SuperNode along.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flwr.app.error import Error
from flwr.clientapp import ClientApp
from flwr.common.args import add_args_flwr_app_common, try_obtain_flwr_app_token
from flwr.supercore.tls import validate_and_resolve_root_certificates
from flwr.supernode.runtime import run_clientapp as flower

from medunlearn_client.bundle_check import require_stub_bundle
from medunlearn_client.flower_app import app, refusing_app
from medunlearn_client.service.config import read_hospital_config
from medunlearn_common.errors import MedunlearnError, Misconfigured

_LOG = logging.getLogger("medunlearn.bundle")


class BundleGuard:
    """Stands where Flower installs and loads apps."""

    def __init__(self, *, pinned: tuple[str, ...]) -> None:
        self._pinned = pinned
        self._app = refusing_app("BUNDLE_UNCHECKED")

    def install(self, fab_file: bytes, *_: Any, **__: Any) -> None:
        """Check a bundle; nothing is installed."""
        try:
            require_stub_bundle(fab_file, pinned=self._pinned)
            self._app = app
        except MedunlearnError as error:
            _LOG.error("%s", error)
            self._app = refusing_app(error.code)

    def loader(self, *_: Any, **__: Any) -> Callable[[str, str, str], ClientApp]:
        """Of the app that was decided on, whatever a bundle or a run names."""
        return lambda fab_id, fab_version, fab_hash: self._app


def without_text(code: int, reason: str | None = None) -> Error:
    """Flower's error without its reason, which may quote a patient."""
    if reason:
        _LOG.error("Flower's error %d stays here: %s", code, reason)
    return Error(code=code)


def guard_flower(guard: BundleGuard) -> None:
    """Put the guard where the pinned flwr looks; raises Misconfigured FLOWER_VERSION."""
    replaced = {
        "install_from_fab": guard.install, "get_load_client_app_fn": guard.loader,
        "Error": without_text,
    }
    for name, ours in replaced.items():
        if not hasattr(flower, name):
            raise Misconfigured("FLOWER_VERSION", "this flwr is not the one this node was made "
                                "for", "install medunlearn with its pinned flwr")
        setattr(flower, name, ours)


def prepared(folder: Path) -> None:
    """Put the guard in place; raises HOSPITAL_CONFIG_ codes and as :func:`guard_flower`."""
    guard_flower(BundleGuard(pinned=read_hospital_config(folder).node.bundles))


def answer(arguments: Sequence[str]) -> None:
    """Answer one message; ``arguments`` are those of Flower's executor."""
    parser = argparse.ArgumentParser(prog="flwr-clientapp")
    parser.add_argument("--runtime-api-address", required=True)
    add_args_flwr_app_common(parser=parser)
    given = parser.parse_args(arguments)
    flower.run_clientapp(
        runtime_api_address=given.runtime_api_address, token=try_obtain_flwr_app_token(given),
        insecure=given.insecure, parent_pid=given.parent_pid, runtime_dependency_install=False,
        certificates=validate_and_resolve_root_certificates(
            given.root_certificates, given.insecure),
    )


def main(folder: Path, arguments: Sequence[str]) -> None:
    """One message: the hospital's folder, then the executor's own arguments."""
    prepared(folder)
    answer(arguments)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

"""Another account on the coordinator's machine, which reaches every port on loopback.

The SuperLink asks nobody there who he is: anybody may start a Flower run, with a bundle of his own.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_federation import Federation, three_sites

from medunlearn_common.flower_environment import flower_command
from medunlearn_common.processes import Children, wait_until
from medunlearn_server.service.loopback_tls import new_loopback_tls
from medunlearn_server.service.superlink import SuperLink

pytestmark = pytest.mark.flower
EVIL = """\
import os, pathlib
pathlib.Path({ran!r}).write_text(os.environ.get("MEDUNLEARN_COORDINATOR", ""))
from flwr.serverapp import ServerApp
app = ServerApp()
@app.main()
def main(grid, context):
    pass
"""
BUNDLE = """\
[project]
name = "medunlearn-stub"
version = "0.1.0"
license = "Apache-2.0"
[tool.flwr.app]
publisher = "medunlearn"
[tool.flwr.app.components]
serverapp = "{module}:app"
clientapp = "{module}:app"
[tool.flwr.app.config]
run-id = ""
attempt = 0
"""


class Stranger:
    """Knows the port; has no file of the coordinator's."""

    def __init__(self, home: Path, address: str) -> None:
        host, port = address.split(":")
        home.mkdir()
        (home / "ca.pem").write_text(ssl.get_server_certificate((host, int(port))))
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "it"\n[superlink.it]\naddress = "{address}"\n'
            f'root-certificates = "{home / "ca.pem"}"\n')
        self.home = home

    def flwr(self, *arguments: str) -> dict[str, object]:
        done = subprocess.run(
            [flower_command("flwr"), *arguments, "--format", "json"], capture_output=True,
            env={"FLWR_HOME": str(self.home), "PATH": os.defpath, "FLWR_TELEMETRY_ENABLED": "0"},
            text=True, timeout=60, check=False)
        found: dict[str, object] = json.loads(done.stdout)
        return found

    def started(self, module: str, code: str) -> str:
        app = self.home / module
        app.mkdir()
        (app / "pyproject.toml").write_text(BUNDLE.format(module=module))
        (app / f"{module}.py").write_text(code)
        return str(self.flwr("run", str(app), "it")["run-id"])

    def is_over(self, run: str) -> bool:
        return "finished" in json.dumps(self.flwr("list", "it", "--run-id", run))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """SuperLink and executor, as the service starts them."""
    federation = Federation(tmp_path_factory.mktemp("local"), three_sites())
    folder = federation.folder
    folder.state.mkdir()
    superlink = SuperLink(folder, new_loopback_tls(folder.state))
    superlink.prepare()
    children = Children(superlink.children())
    children.start()

    def answers() -> bool:
        try:
            ssl.get_server_certificate(("127.0.0.1", federation.superlink))
        except OSError:
            return False
        return True

    wait_until(answers, deadline_s=120.0, what="the SuperLink")
    yield federation
    children.stop()


@pytest.mark.parametrize("module", ["evil", "medunlearn_server", "sitecustomize"])
def test_a_local_account_runs_no_code_as_the_coordinator(
    place: Federation, tmp_path: Path, module: str
) -> None:
    """It would ask for the passphrase of the coordinator's key, and get it."""
    address = place.folder.config.listen.superlink
    ran, stranger = tmp_path / "ran", Stranger(tmp_path / "home", address)
    run = stranger.started(module, EVIL.format(ran=str(ran)))
    deadline = time.monotonic() + 90.0
    while not ran.exists() and not stranger.is_over(run):
        assert time.monotonic() < deadline, "nobody carried the run"
        time.sleep(1.0)
    assert not ran.exists(), ran.read_text()

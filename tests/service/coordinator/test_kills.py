"""kill -9 of every part of a running coordinator: the same run goes on, and spends no more.

Real processes but for the sites' ClientApps (see ``light_nodes``); minutes, so only by ``make
deployed``. ``pytest -s`` shows the seconds of each recovery.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from loopback_federation import Federation, three_sites

from medunlearn_common.errors import MedunlearnError
from medunlearn_server.service.client import ControlClient

pytestmark = [pytest.mark.slow, pytest.mark.flower, pytest.mark.skipif(
    not os.environ.get("MEDUNLEARN_DEPLOYED"), reason="kills of a real federation: make deployed"
)]
ROUNDS = 7
# A loaded machine of two cores; what is measured is printed.
PATIENCE_S = float(os.environ.get("KILLS_PATIENCE_S", "240"))


class Running:
    """A service under test and the questions asked of it."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.client = ControlClient(federation.folder)
        self.process: subprocess.Popen[bytes] = federation.start_service()

    def until(self, what: str, condition: Callable[[Any], bool]) -> Any:
        """The first status that fits."""
        deadline, last = time.monotonic() + PATIENCE_S, None
        while time.monotonic() < deadline:
            try:
                last = self.client.status()
                if condition(last):
                    return last
            except MedunlearnError as error:
                last = error.code
            time.sleep(0.3)
        raise AssertionError(f"{what} did not come about: {last}")

    def pid(self, child: str) -> int:
        """Process id of a child of the service."""
        return next(c.pid for c in self.client.status().children if c.name == child)

    def until_round(self, number: int) -> None:
        """Until so many rounds are done."""
        self.until(f"round {number}", lambda s: bool(s.runs) and (
            s.runs[0].progress.next_round >= number or s.runs[0].state == "finished"))

    def leader(self) -> int:
        """Process id of the ServerApp."""
        run = self.client.runs()[0]
        path = self.federation.folder.run(run.run_id) / "leader.json"
        return int(json.loads(path.read_text())["pid"])


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    federation = Federation(tmp_path, three_sites(
        run={"rounds": ROUNDS}, privacy={"noise": "distributed"},
    ))
    found = Running(federation)
    try:
        yield found
    finally:
        found.client.close()
        found.process.send_signal(signal.SIGTERM)
        try:
            found.process.wait(60)
        finally:
            found.process.kill()
            federation.stop_nodes()


def processes_of(folder: Path) -> list[int]:
    """Live processes that name this folder in their command line or environment."""
    found = []
    for process in psutil.process_iter(["cmdline", "status", "pid"]):
        line = " ".join(process.info["cmdline"] or ())
        if str(folder) in line and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.info["pid"])
    return found


def test_a_run_survives_the_death_of_every_part(running: Running) -> None:
    client, federation = running.client, running.federation
    running.until("a ready service", lambda s: s.ready)
    federation.start_light_nodes()
    run = client.launch(federation.plan_file().read_bytes())
    recovered: dict[str, float] = {}

    def after(name: str, kill: Callable[[], None], done: int) -> None:
        running.until_round(done)
        kill()
        began = time.monotonic()
        running.until_round(done + 1)
        recovered[name] = time.monotonic() - began

    after("ServerApp", lambda: os.kill(running.leader(), signal.SIGKILL), 1)
    after("SuperLink", lambda: os.kill(running.pid("superlink"), signal.SIGKILL), 2)
    after("gateway", lambda: os.kill(running.pid("gateway"), signal.SIGKILL), 3)
    after("superexec", lambda: os.kill(running.pid("superexec"), signal.SIGKILL), 4)

    def kill_service() -> None:
        running.process.kill()
        running.process.wait()
        running.process = federation.start_service()

    after("supervisor", kill_service, 5)
    running.until("the end", lambda s: s.runs[0].state not in ("running", "pending"))
    row = client.runs()[0]
    sys.stderr.write("seconds from each kill to the next round: " + ", ".join(
        f"{name} {seconds:.0f}" for name, seconds in recovered.items()) + "\n")
    assert all(seconds < PATIENCE_S for seconds in recovered.values())
    assert (row.run_id, row.state) == (run.run_id, "finished")
    folder = federation.folder.run(run.run_id)
    outcome = json.loads((folder / "outcome.json").read_text())
    assert outcome["rounds"] == ROUNDS
    # The accounting is that of a run that nothing happened to: no round was charged twice.
    for site in federation.site_folders:
        assert len(list(site.glob("round-*.bin"))) == ROUNDS
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(60) == 0
    federation.stop_nodes()  # their command line names the folder too
    assert processes_of(federation.path) == []
    running.process = federation.start_service()  # for the fixture

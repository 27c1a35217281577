"""The control interface alone, without anything that runs behind it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loopback_federation import Federation, three_sites

from medunlearn_common.processes import Children
from medunlearn_server.service.control import Control, ControlServer
from medunlearn_server.service.loopback_tls import new_loopback_tls
from medunlearn_server.service.node_keys import NodeKeys
from medunlearn_server.service.registration import Registration
from medunlearn_server.service.runs_db import RunsDb
from medunlearn_server.service.superlink import SuperLink


@contextmanager
def control_server(root: Path) -> Iterator[tuple[Federation, str]]:
    """A server; yields the federation and the server's address."""
    federation = Federation(root, three_sites())
    folder = federation.folder
    folder.state.mkdir(exist_ok=True)
    superlink = SuperLink(folder, new_loopback_tls(folder.state))
    runs = RunsDb(folder.runs_db)
    server = ControlServer(Control(
        folder=folder, runs=runs, children=Children([]),
        registration=Registration(keys=NodeKeys(folder.nodes), superlink=superlink,
                                  file=folder.state / "nodes.json"),
        ready=lambda: False, wake=threading.Event(), started=time.time(),
    ))
    server.start()
    try:
        yield federation, folder.config.listen.control
    finally:
        server.stop()
        runs.close()

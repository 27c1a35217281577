"""``medunlearn coordinator serve``: everything a coordinator needs, from one process.

    gateway (TLS, public) ──► SuperLink (loopback) ◄── superexec ──► ServerApp, one per run
    control (gRPC, mutual TLS)        ▲
    conductor, registration ──────────┘

Guarantees:
    * One service per folder at a time; another one is refused (SERVICE_RUNNING).
    * Killed at any moment, it leaves no process behind, and started again it goes on with every
      run from its last completed round.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, Final

from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import held_alone, require_writable
from medunlearn_common.full_disk import DiskWatch
from medunlearn_common.identity.key_files import PASSPHRASE_VARIABLE
from medunlearn_common.keeping import PartyMarks
from medunlearn_common.keeping.stopped import SERVICE_LOCK
from medunlearn_common.log_view import SERVICE
from medunlearn_common.logs import EventLog
from medunlearn_common.processes import Children, ChildSpec, on_termination
from medunlearn_common.service_log import exit_status
from medunlearn_common.service_log import run as run_logged
from medunlearn_common.trust_folder import open_identity
from medunlearn_server.answered import NODES_FILE
from medunlearn_server.joining.membership import Membership
from medunlearn_server.joining.own_key import NEXT_FOLDER
from medunlearn_server.service.conductor import Conductor, Surroundings
from medunlearn_server.service.config import CoordinatorFolder, open_folder, split_address
from medunlearn_server.service.control import Control, ControlServer, now_s
from medunlearn_server.service.loopback_tls import new_loopback_tls
from medunlearn_server.service.node_keys import NodeKeys
from medunlearn_server.service.passphrase_desk import SOCKET, PassphraseDesk
from medunlearn_server.service.registration import Registration
from medunlearn_server.service.runs_db import RunsDb
from medunlearn_server.service.superlink import SuperLink

_GATEWAY: Final = "medunlearn_server.service.gateway_process"
_WATCH: Final = "medunlearn_server.watching.web"
# Nothing is imported from the folder in which somebody happened to start the service.
_PYTHON: Final = (sys.executable, "-P", "-m")
_GRACE_S: Final = 8.0


class Supervisor:
    """One coordinator's service."""

    def __init__(self, folder: CoordinatorFolder, log: EventLog) -> None:
        """Prepare; nothing runs yet.

        Raises:
            Misconfigured: TRUST_MISSING or a KEY_ code, FLOWER_MISSING.
            Transient: WRITE_FAILED, RUNS_DB.
        """
        require_writable(folder.path)
        open_identity(folder.path)  # better now than in the first round
        folder.state.mkdir(exist_ok=True, mode=0o700)
        self._folder, self._log = folder, log
        self._superlink = SuperLink(folder, new_loopback_tls(folder.state))
        self._desk = self._passphrase_desk()
        self._superlink.prepare()
        self.stopping, self._wake = threading.Event(), threading.Event()
        self._runs = RunsDb(folder.runs_db)
        self._disk = DiskWatch(folder.path, log)
        self._children = Children(self._specs())
        self._registration = Registration(
            keys=NodeKeys(folder.nodes), superlink=self._superlink,
            file=folder.state / NODES_FILE,
        )
        self._server = ControlServer(Control(
            folder=folder, runs=self._runs, children=self._children,
            registration=self._registration, ready=self._ready, wake=self._wake,
            started=now_s(),
        ))

    def _specs(self) -> list[ChildSpec]:
        specs = [*self._superlink.children(), self._module("gateway", _GATEWAY)]
        if self._folder.config.watch.enabled and _installed(_WATCH):
            specs.append(self._module("watch", _WATCH))
        return specs

    def _module(self, name: str, module: str) -> ChildSpec:
        return ChildSpec(
            name=name, command=(*_PYTHON, module, str(self._folder.path)),
            environment=self._superlink.environment, grace_s=_GRACE_S,
            log_file=self._folder.logs / f"{name}.log", longest_delay_s=15.0,
            stdout=self._log.stream.fileno() if self._log.stream is not None else None,
        )

    def _passphrase_desk(self) -> PassphraseDesk | None:
        given = os.environ.get(PASSPHRASE_VARIABLE)
        if not given:
            (self._folder.state / SOCKET).unlink(missing_ok=True)
            return None
        return PassphraseDesk(self._folder.state, given.encode("utf-8"),
                              executor=lambda: self._children["superexec"].pid)

    def _ready(self) -> bool:
        running = all(self._children[n].state == "running" for n in ("superlink", "superexec"))
        return running and self._registration.settled

    def run(self) -> None:
        """Until ``stopping`` is set."""
        conductor = Conductor(
            folder=self._folder, superlink=self._superlink, runs=self._runs,
            around=Surroundings(
                ready=self._ready, generation=lambda: self._children["superlink"].starts,
                stopping=self.stopping, wake=self._wake,
            ),
        )
        if self._desk is not None:
            self._desk.start()
        self._children.start()
        self._registration.start()
        self._server.start()
        conducting = threading.Thread(target=conductor.conduct, name="conductor", daemon=True)
        conducting.start()
        self._log.info(
            "serving", child="control", port=split_address(self._folder.config.listen.control)[1])
        try:
            while not self.stopping.wait(0.5) and conducting.is_alive():
                self._server.show(serving=self._ready())
                self._disk.look()
        finally:
            self._end(conducting)

    def _end(self, conducting: threading.Thread) -> None:
        """The run first, while there is still somebody to carry its last answers."""
        self._log.info("stopping")
        self.stopping.set()
        self._wake.set()
        self._server.show(serving=False)
        conducting.join()
        self._registration.stop()
        self._server.stop()
        self._children.stop()
        if self._desk is not None:
            self._desk.stop()
        self._runs.close()


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _alone(folder: CoordinatorFolder) -> AbstractContextManager[BinaryIO]:
    """Hold the folder against another service; entering raises Misconfigured SERVICE_RUNNING."""
    return held_alone(folder.state / SERVICE_LOCK, Misconfigured(
        "SERVICE_RUNNING", f"a service for {folder.path.name} is running already",
        "a coordinator has one service at a time; stop the other one"))


def finish_membership(folder: CoordinatorFolder) -> None:
    """Make ``nodes/`` where a restored folder has none: who is let in is never copied. And put a
    next key into force that a command was killed over: nobody believes the one before.

    Raises:
        Misconfigured: ROSTER_MISSING, REVOKED_FILE, ENTRY_ or KEY_FILE_ codes.
        Rejected: ROSTER_ codes, or those of a damaged enrolment.
        Transient: WRITE_FAILED.
    """
    if not folder.nodes.is_dir() or (folder.path / NEXT_FOLDER).exists():
        Membership(folder.path, now=time.time()).sync_nodes()


def serve(path: Path) -> int:
    """Run a coordinator's service until SIGTERM or SIGINT; returns the exit status.

    From the main thread of a process of its own: it takes over what the process says.

    Raises:
        Misconfigured: COORDINATOR_CONFIG_ codes; all that comes later is logged.
    """
    folder = open_folder(path)

    def work(log: EventLog) -> None:
        PartyMarks(folder.path).require_in_service()
        with _alone(folder):
            finish_membership(folder)
            supervisor = Supervisor(folder, log)
            on_termination(supervisor.stopping)
            supervisor.run()

    folder.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    return run_logged(folder.logs, SERVICE, work)


if __name__ == "__main__":
    sys.exit(exit_status(lambda: serve(Path(sys.argv[1]))))

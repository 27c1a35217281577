"""``medunlearn hospital serve``: the worker, Flower's SuperNode and its executor, supervised.

    worker       holds trust, records and model; alone has the key's passphrase
    supernode    connects to the coordinator's gateway over TLS with the node's own key
                 (``service.node_process``)
    starter      forks one app process per message (``service.app_starter``, ``app_process``)
    superexec    takes the node's messages and asks the starter (``service.app_caller``)

The executor finds exactly one program on its PATH, so that whatever kind of task a coordinator
schedules here, only that one can be started.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from secrets import token_hex

from medunlearn_client.service import app_caller
from medunlearn_client.service.config import HospitalConfig, HospitalPaths, read_hospital_config
from medunlearn_client.service.node_link import NodeLink
from medunlearn_client.service.roster_entry import roster_trouble
from medunlearn_client.service.wire import PREFIX
from medunlearn_client.service.worker_client import WorkerClient
from medunlearn_common.errors import Misconfigured, Transient
from medunlearn_common.files import held_alone, write_atomically
from medunlearn_common.flower_environment import flower_command, flower_environment
from medunlearn_common.full_disk import DiskWatch
from medunlearn_common.identity.key_files import PASSPHRASE_VARIABLE
from medunlearn_common.keeping import PartyMarks
from medunlearn_common.keeping.stopped import SERVICE_LOCK
from medunlearn_common.log_fields import event
from medunlearn_common.log_view import SERVICE
from medunlearn_common.logs import EventLog
from medunlearn_common.processes import (
    Children,
    ChildSpec,
    on_termination,
    process_stat,
    wait_until,
)
from medunlearn_common.service_log import run as run_logged

_LOG = logging.getLogger("medunlearn.node")
WORKER, NODE, EXECUTOR, WATCH = "worker", "supernode", "superexec", "watch"
STARTER = "starter"
_PYTHON = (sys.executable, "-P", "-m")
# After the last answer: the app process hands it to the node, which looks twice a second.
HAND_OVER_S, LINGER_S = 10.0, 1.5
_LOOK_S = 0.2
# Who looks whether a service runs holds its lock for a moment.
_LOOKED_AT_S = 1.0
# Each look is a call of the node, all day long: at 0.05 s they took 4 % of a core.
_POLL_TASKS_S = 0.1


class HospitalNode:
    """All processes of one hospital."""

    def __init__(self, folder: Path, *, stdout: int | None = None) -> None:
        """Prepare; nothing is started yet.

        Args:
            folder: The hospital's.
            stdout: Where its own processes write the public lines of their logs.

        Raises:
            Misconfigured: PARTY_RETIRED, HOSPITAL_CONFIG_ codes, NODE_KEY, NODE_CA, NODE_INSECURE,
                FLOWER_MISSING.
        """
        PartyMarks(folder).require_in_service()
        self.paths, self._stdout = HospitalPaths(folder=folder), stdout
        self.config = read_hospital_config(folder)
        _require_files(self.paths, self.config)
        self.children = Children(self.specs())
        self._client = WorkerClient(
            self.paths.socket, timeout_s=self.config.node.request_timeout_s, patience_s=0.0)

    def specs(self) -> list[ChildSpec]:
        """What is run, in the order of starting."""
        folder = str(self.paths.folder)
        specs = [
            self._spec(WORKER, (*_PYTHON, "medunlearn_client.service.worker", folder),
                       secret=True, final_exits=frozenset({2, 127}),
                       grace_s=self.config.node.request_timeout_s),
            # Refused until the SuperLink has missed it, or its clock or key is mended: tried
            # again at one pace, since each doubling would be time that the run lacks this site.
            self._spec(NODE, self._supernode(), first_delay_s=self.config.node.restart_delay_s,
                       longest_delay_s=self.config.node.restart_delay_s),
            self._spec(STARTER, (*_PYTHON, "medunlearn_client.service.app_starter", folder),
                       path=str(self._programs), grace_s=5.0),
            self._spec(EXECUTOR, self._superexec(), path=str(self._programs)),
        ]
        if self.config.watch.enabled:
            specs.append(
                self._spec(WATCH, (*_PYTHON, "medunlearn_client.watching", folder), grace_s=5.0))
        return specs

    def _spec(
        self, name: str, command: tuple[str, ...], *, secret: bool = False,
        path: str | None = None, final_exits: frozenset[int] = frozenset({127}),
        first_delay_s: float = 1.0, longest_delay_s: float = 60.0, grace_s: float = 10.0,
    ) -> ChildSpec:
        environment = flower_environment(
            home=self.paths.state / "flwr", more={"PYTHONSAFEPATH": "1"},
            poll_tasks_s=_POLL_TASKS_S)
        # What carries messages cannot open the hospital's key.
        if secret and PASSPHRASE_VARIABLE in os.environ:
            environment[PASSPHRASE_VARIABLE] = os.environ[PASSPHRASE_VARIABLE]
        if path is not None:
            environment["PATH"] = path
        return ChildSpec(
            name=name, command=command, environment=environment, folder=self.paths.state,
            log_file=self.paths.logs / f"{name}.log", final_exits=final_exits,
            stdout=self._stdout if name in (WORKER, WATCH) else None,
            first_delay_s=first_delay_s, longest_delay_s=longest_delay_s, grace_s=grace_s,
        )

    def _supernode(self) -> tuple[str, ...]:
        host, _, port = self.config.node.runtime.rpartition(":")
        security = ("--insecure",) if self.config.node.insecure else (
            "--root-certificates", str(self.paths.ca),
            "--auth-supernode-private-key", str(self.paths.node_key),
        )
        return (
            *_PYTHON, "medunlearn_client.service.node_process", str(self.paths.link),
            "--superlink", self.config.coordinator.address,
            *security, "--host", host.strip("[]"), "--port", port, "--isolation", "process",
            "--superexec-auth-secret-file", str(self._secret), "--node-config",
            str(self._node_config),
        )

    def _superexec(self) -> tuple[str, ...]:
        return (
            flower_command("flower-superexec"), "--runtime-api-address", self.config.node.runtime,
            "--insecure",  # loopback; tasks are taken with the secret
            "--superexec-auth-secret-file", str(self._secret),
        )

    @property
    def _secret(self) -> Path:
        return self.paths.state / "superexec.secret"

    @property
    def _node_config(self) -> Path:
        return self.paths.state / "node.toml"

    @property
    def _programs(self) -> Path:
        return self.paths.state / "bin"

    def _write_state(self) -> None:
        self.paths.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.paths.link.unlink(missing_ok=True)  # an earlier service's
        write_atomically(self._secret, token_hex(32).encode("ascii"))
        worker = json.dumps(f"{PREFIX}{self.paths.socket}", ensure_ascii=False)
        write_atomically(self._node_config, (
            f"worker = {worker}\n"
            f"worker-timeout-s = {self.config.node.request_timeout_s}\n").encode())
        program = self._programs / "flwr-clientapp"
        write_atomically(program, (
            "#!/bin/sh\n"
            f"exec {shlex.quote(sys.executable)} -I -S {shlex.quote(app_caller.__file__)} "
            f"{shlex.quote(str(self.paths.starter))} {shlex.quote(str(self.paths.folder))} "
            '"$@"\n').encode())
        program.chmod(0o700)

    def run(self, stopping: threading.Event, *, log: EventLog | None = None) -> None:
        """Serve until ``stopping`` is set, then finish the answer under way and stop.

        Raises:
            Misconfigured: SERVICE_RUNNING, where nothing is changed; SERVICE_FAILED if a part
                says that it cannot work as configured.
            Transient: WRITE_FAILED.
        """
        with _only_service(self.paths):
            self._write_state()  # only now: the secret may be a running service's
            self._serve(stopping, log)

    def _serve(self, stopping: threading.Event, log: EventLog | None) -> None:
        self._say_if_kept_out()
        self.children.start()
        before, disk = "", DiskWatch(self.paths.folder, log) if log is not None else None
        try:
            while not stopping.wait(_LOOK_S):
                if disk is not None:
                    disk.look()
                before = self._say_how_the_node_fares(before)
                failed = [name for name in self.children.failed if name != WATCH]
                if failed:
                    raise Misconfigured(
                        "SERVICE_FAILED", f"{failed[0]} cannot work as configured",
                        f"read what it said in state/logs ({failed[0]}.private.log or "
                        f"{failed[0]}.log), mend it, and serve again")
            if log is not None:
                log.info("stopping")
            self._finish()
        finally:
            self.children.stop()

    def _say_if_kept_out(self) -> None:
        """It serves all the same: the roster that names it may come with the next greeting."""
        trouble = roster_trouble(self.paths.folder)
        if trouble is not None:
            _LOG.warning("%s", trouble, extra=event("unhealthy", child=NODE, code=trouble.code))

    def _say_how_the_node_fares(self, before: str) -> str:
        """Log what changed since the code ``before``; returns the code now."""
        link = NodeLink.read(self.paths.link)
        if link.code != before:
            trouble = link.trouble
            if trouble is None:
                _LOG.info("the node's calls are answered", extra=event("healthy", child=NODE))
            else:
                _LOG.warning("%s", trouble, extra=event("unhealthy", child=NODE, code=link.code))
        return link.code

    def _finish(self) -> None:
        """Let the answer under way go out, and no other one begin."""
        self._client.drain()
        try:
            wait_until(self._handed_over, deadline_s=HAND_OVER_S, what="the last answer")
        except Transient:
            _LOG.warning("an answer was not handed over; it is journalled, and given when asked")
        threading.Event().wait(LINGER_S)

    def _handed_over(self) -> bool:
        """Whether the executor has no app process any more."""
        pid = self.children[EXECUTOR].pid
        if pid is None:
            return True
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
        except OSError:
            return True
        return not any(_is_alive(int(child)) for child in children.split())


def serve(folder: Path) -> int:
    """Run a hospital's service until SIGTERM or SIGINT; returns the exit status.

    From the main thread of a process of its own: it takes over what the process says.

    Raises:
        Misconfigured: HOSPITAL_CONFIG_ codes; all that comes later is logged.
    """
    os.umask(0o077)
    read_hospital_config(folder)  # before a folder for logs is made in a place that is none

    def work(log: EventLog) -> None:
        stopping = threading.Event()
        on_termination(stopping)
        node = HospitalNode(
            folder, stdout=log.stream.fileno() if log.stream is not None else None)
        node.run(stopping, log=log)

    return run_logged(HospitalPaths(folder=folder).logs, SERVICE, work)


def _is_alive(pid: int) -> bool:
    fields = process_stat(pid)
    return fields is not None and fields[0] != "Z"


def _require_files(paths: HospitalPaths, config: HospitalConfig) -> None:
    if config.node.insecure:
        host = config.coordinator.address.rpartition(":")[0].strip("[]")
        if not _is_loopback(host):
            raise Misconfigured("NODE_INSECURE", "[node] insecure leaves this machine",
                                "remove it; the coordinator's invitation brings its certificate")
        return
    if not paths.ca.is_file():
        raise Misconfigured("NODE_CA", "tls/ca.pem is missing",
                            "`medunlearn hospital init DIR --invitation FILE` writes it")
    if not paths.node_key.is_file() or paths.node_key.stat().st_mode & 0o077:
        raise Misconfigured("NODE_KEY", "node/node.key is missing, or others may read it",
                            "`medunlearn hospital doctor` says which; chmod 600 node/node.key")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def _only_service(paths: HospitalPaths) -> Iterator[None]:
    """Hold the folder's lock, with our pid in it; raises Misconfigured SERVICE_RUNNING."""
    running = Misconfigured("SERVICE_RUNNING", "a service runs for this folder already",
                            "medunlearn hospital stop; under systemd, which would start it "
                            "again: systemctl stop medunlearn-hospital")
    with held_alone(paths.state / SERVICE_LOCK, running, patience_s=_LOOKED_AT_S) as lock:
        lock.truncate(0)
        lock.write(str(os.getpid()).encode("ascii"))
        lock.flush()
        yield


def stop_service(paths: HospitalPaths, *, deadline_s: float) -> bool:
    """Ask a running service to end, and wait for it; False if none runs.

    Raises:
        Transient: WAIT_TIMEOUT.
    """
    pid = service_pid(paths)
    if pid is None:
        return False
    with suppress(ProcessLookupError):  # it has just ended by itself
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: service_pid(paths) is None, deadline_s=deadline_s, what="the service's end")
    return True


def service_pid(paths: HospitalPaths) -> int | None:
    """Of the running service; its lock tells a living one from a pid that was left behind.

    Shared, so that two who look at once do not take each other for a service.
    """
    try:
        with (paths.state / SERVICE_LOCK).open("r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return int(lock.read() or 0) or None
            return None
    except (OSError, ValueError):
        return None

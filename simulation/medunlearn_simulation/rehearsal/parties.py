"""One party of a rehearsal: its folder, its commands, its service and the processes of that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

from medunlearn_common.errors import Transient
from medunlearn_simulation.rehearsal.networks import Network

# What tells each process of a service from the others, in its command line.
COORDINATOR_PARTS = {
    "superlink": "flower-superlink", "superexec": "flower-superexec",
    "gateway": "service.gateway_process", "serverapp": "service.serverapp_process",
}
HOSPITAL_PARTS = {
    "supernode": "service.node_process", "superexec": "flower-superexec",
    "starter": "service.app_starter", "worker": "service.worker", "clientapp": "app_caller.py",
}
_LOOK_S = 0.1
_COMMAND_S = 600.0
_GRACE_S = 40.0
_TAIL = 3_000


@dataclass(kw_only=True)
class Party:
    """A coordinator or a hospital.

    Attributes:
        folder: Its folder.
        index: Its place in the network: 0 is the coordinator.
        network: Where it lives.
        say: Is told each command, as a person would type it.
        through: A command that runs the one that follows it, inside its network; empty: none.
        packages: Where its medunlearn lies, if not where this process has it from.
    """

    folder: Path
    index: int
    network: Network
    say: Callable[[str], None]
    through: Sequence[str] = ()
    packages: Sequence[Path] = ()
    _service: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.folder.name

    @property
    def parts(self) -> dict[str, str]:
        """Process names and how to tell them."""
        return HOSPITAL_PARTS if self.index else COORDINATOR_PARTS

    # -- commands ------------------------------------------------------------------------

    def run(self, *arguments: str, deadline_s: float = _COMMAND_S, quiet: bool = False) -> str:
        """Run a ``medunlearn`` command at this party; returns what it printed.

        Raises:
            Transient: REHEARSAL_COMMAND with its output if it fails or takes too long.
        """
        if not quiet:
            self.say(f"{self.name}$ medunlearn {' '.join(arguments)}")
        done = self.attempt(*arguments, deadline_s=deadline_s)
        if done.returncode:
            raise Transient(
                "REHEARSAL_COMMAND",
                f"medunlearn {' '.join(arguments)}: status {done.returncode}\n"
                f"{(done.stdout + done.stderr)[-_TAIL:]}", "see the command's own hint")
        return done.stdout

    def attempt(
        self, *arguments: str, deadline_s: float = _COMMAND_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a command that may fail; its status and output.

        Raises:
            Transient: REHEARSAL_COMMAND if it takes too long.
        """
        try:
            return subprocess.run(
                self._command(*arguments), capture_output=True, text=True, timeout=deadline_s,
                env=self._environment(), cwd=self.folder.parent, stdin=subprocess.DEVNULL,
                check=False)
        except subprocess.TimeoutExpired as error:
            raise Transient("REHEARSAL_COMMAND", f"{arguments[:3]} took over {deadline_s:g} s",
                            f"look into {self.folder}/state/logs") from error

    # -- service -------------------------------------------------------------------------

    def serve(self) -> None:
        """Start the service; it lives until :meth:`end`."""
        role = "hospital" if self.index else "coordinator"
        self.say(f"{self.name}$ medunlearn {role} serve --folder {self.folder} &")
        with self.log_file.open("ab") as log:
            self._service = self._spawn(
                self._command(role, "serve", "--folder", str(self.folder)), log)

    def _spawn(self, command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env=self._environment(), cwd=self.folder.parent, start_new_session=True)

    def _command(self, *arguments: str) -> list[str]:
        return self.network.inside(self.index, [*self.through, *_medunlearn(), *arguments])

    def _environment(self) -> dict[str, str]:
        environment = _environment()
        first = [str(path) for path in self.packages]
        paths = [*first, environment.get("PYTHONPATH", "")]
        return environment | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}

    @property
    def log_file(self) -> Path:
        """What the service itself printed."""
        return self.folder.with_name(f"{self.name}.service.log")

    @property
    def serves(self) -> bool:
        """Whether the service's own process lives."""
        return self._service is not None and self._service.poll() is None

    def end(self, *, at_once: bool = False) -> None:
        """End the service: politely, or as a power cut would, with every process of it."""
        service, self._service = self._service, None
        if service is None:
            return
        family = _family(service.pid)
        if not at_once:
            service.terminate()
            with suppress(subprocess.TimeoutExpired):
                service.wait(_GRACE_S)
        for process in family:
            with suppress(psutil.Error):
                process.kill()
        service.kill()
        service.wait()

    # -- processes -----------------------------------------------------------------------

    def family(self) -> list[psutil.Process]:
        """All processes of its service, the service itself first."""
        return _family(self._service.pid) if self._service is not None else []

    def pids(self, part: str) -> list[int]:
        """Processes of one part of the service, the oldest first."""
        if self._service is None:
            return []
        found = []
        for process in _family(self._service.pid):
            with suppress(psutil.Error):
                line = process.cmdline()
                if any(self.parts[part] in word for word in line[:6]):
                    found.append((process.create_time(), process.pid))
        return [pid for _, pid in sorted(found)]

    def kill(self, part: str, *, within_s: float = 60.0) -> int:
        """``kill -9`` one part of the service; waits for it to be there.

        Raises:
            Transient: REHEARSAL_WAIT.
        """
        wait_for(lambda: bool(self.pids(part)), within_s=within_s,
                 what=f"a {part} at {self.name}")
        pid = self.pids(part)[-1]
        self.say(f"{self.name}$ kill -9 {pid}   # {part}")
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return pid

    def said(self, *names: str) -> str:
        """The tails of its logs, for people who look for a fault."""
        logs = [self.log_file, *sorted((self.folder / "state" / "logs").glob("*.log"))]
        return "\n".join(
            f"== {path.name}\n{path.read_text('utf-8', 'replace')[-_TAIL:]}"
            for path in logs
            if path.is_file() and (not names or path.name.partition(".")[0] in names))


def wait_for(
    is_so: Callable[[], bool], *, within_s: float, what: str, look_s: float = _LOOK_S
) -> float:
    """Wait until something is so; returns the seconds that it took.

    Raises:
        Transient: REHEARSAL_WAIT.
    """
    began = time.monotonic()
    while not is_so():
        if time.monotonic() - began > within_s:
            raise Transient("REHEARSAL_WAIT", f"{what}: not within {within_s:g} s",
                            "the parties' logs say where it stands")
        time.sleep(look_s)
    return time.monotonic() - began


def _family(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _medunlearn() -> list[str]:
    beside = Path(sys.executable).with_name("medunlearn")
    if beside.exists():
        return [str(beside)]
    return [sys.executable, "-m", "medunlearn_common.cli"]


def _environment() -> dict[str, str]:
    """Little, so that a rehearsal does not lean on what lies about in this shell."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "PYTHONPATH", "TMPDIR")
            if name in os.environ}
    return {
        **kept, "PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
        "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "160",
    }

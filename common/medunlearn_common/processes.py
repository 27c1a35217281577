"""Children of a service: started, watched, started anew, and stopped to the last one.

Each child runs in a session of its own, with its output in a log file. One thread per child
starts it and waits for it, so that no exit is missed and none is polled for.

Guarantees:
    * No child outlives its supervisor: the kernel kills it when the supervisor's thread ends,
      however that happens (``PR_SET_PDEATHSIG``, Linux).
    * When a child ends, whatever it left behind in its session's process group is killed before
      it is started anew: no two generations of one child run side by side.
    * A child that keeps failing is started ever more rarely, and one that says it cannot work
      as configured (``spec.final_exits``) is left alone.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from medunlearn_common.errors import Misconfigured, Transient
from medunlearn_common.log_fields import Event, event

_LOG = logging.getLogger("medunlearn.processes")

State = Literal["new", "running", "waiting", "stopped", "failed"]
"""``waiting`` is between two starts; ``failed`` will not be started again."""

MAX_LOG_BYTES = 8 << 20
_PR_SET_PDEATHSIG = 1
_POLL_S = 0.02
_LOOK_AT_LOGS_S = 30.0

# Run by the interpreter in the child, between fork and exec: Python code between the two in
# this process could deadlock on a lock that another thread held (subprocess: preexec_fn).
_LAUNCHER = f"""\
import ctypes, os, sys
ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, {int(signal.SIGKILL)}, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    os._exit(0)  # the supervisor ended before the line above
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.stderr.write(f"cannot start {{sys.argv[2]}}: {{error.strerror}}\\n")
    os._exit(127)
"""


@dataclass(frozen=True, kw_only=True)
class ChildSpec:
    """What to run and how to keep it running.

    Attributes:
        name: Stable name, for logs and status.
        command: Program and arguments; the program is looked up in PATH of ``environment``.
        environment: The whole environment; nothing of the supervisor's is added.
        log_file: Takes stdout and stderr; what is over MAX_LOG_BYTES moves to ``NAME.1``, at a
            start and while it runs.
        stdout: A descriptor that takes stdout instead, for a process of ours, which writes
            nothing to it but its log's public lines.
        folder: Working directory; None keeps the supervisor's.
        first_delay_s: Wait before the first restart, doubled with each quick failure.
        longest_delay_s: Longest such wait.
        settled_after_s: A child that lived this long starts again with ``first_delay_s``.
        grace_s: Time between SIGTERM and SIGKILL when stopping.
        final_exits: Exit statuses after which it is not started again (127: no such program).
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    log_file: Path
    folder: Path | None = None
    stdout: int | None = None
    first_delay_s: float = 1.0
    longest_delay_s: float = 60.0
    settled_after_s: float = 30.0
    grace_s: float = 20.0
    final_exits: frozenset[int] = frozenset({127})

    def __post_init__(self) -> None:
        if not self.command or self.first_delay_s < 0 or self.grace_s < 0:
            raise Misconfigured("CHILD_SPEC", f"{self.name}: no command, or a negative time",
                                "mend the service's configuration")


def delay_before(spec: ChildSpec, quick_failures: int) -> float:
    """Seconds before the next start after ``quick_failures`` (from 1) short lives in a row."""
    return min(spec.longest_delay_s, spec.first_delay_s * 2.0 ** min(quick_failures - 1, 32))


class Child:
    """One supervised process; all methods may be called from any thread."""

    def __init__(self, spec: ChildSpec, *, on_change: Callable[[Child], None] | None = None
                 ) -> None:
        self.spec = spec
        self.state: State = "new"
        self.starts = 0
        self.last_exit: int | None = None
        self._on_change = on_change
        self._process: subprocess.Popen[bytes] | None = None
        self._guard = threading.Lock()  # from looking at the pid to signalling it
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def pid(self) -> int | None:
        """Of the running process; None if there is none."""
        with self._guard:
            return self._process.pid if self._process is not None else None

    @property
    def restarts(self) -> int:
        """How often it was started anew."""
        return max(0, self.starts - 1)

    def start(self) -> None:
        """Start and watch it; a second call does nothing."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._live, name=f"child-{self.spec.name}", daemon=True
            )
            self._thread.start()

    def signal(self, number: signal.Signals) -> None:
        """Signal the process itself, where it runs."""
        with self._guard:
            if self._process is not None:
                with suppress(ProcessLookupError):
                    os.kill(self._process.pid, number)

    def stop(self) -> None:
        """SIGTERM, ``grace_s`` to end by itself, then SIGKILL; returns when it is gone."""
        self._stopping.set()
        self.signal(signal.SIGTERM)
        if self._thread is None:
            self._set("stopped")
            return
        self._thread.join(self.spec.grace_s)
        while self._thread.is_alive():
            with self._guard:
                if self._process is not None:
                    _LOG.warning("%s did not stop in time and is killed", self.spec.name)
                    _kill_group(self._process.pid)
            self._thread.join(1.0)

    def _live(self) -> None:
        """Start, wait, start anew. The kernel ties the child to this very thread."""
        quick = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            self.last_exit = self._run_once()
            if self._stopping.is_set():
                break
            if self.last_exit in self.spec.final_exits:
                _LOG.error("%s ended with status %d and is not started again; see %s",
                           self.spec.name, self.last_exit, self.spec.log_file.name,
                           extra=self._event("child_failed"))
                self._set("failed")
                return
            quick = 1 if time.monotonic() - began >= self.spec.settled_after_s else quick + 1
            delay = delay_before(self.spec, quick)
            _LOG.warning("%s ended with status %s; started anew in %.1f s",
                         self.spec.name, self.last_exit, delay,
                         extra=self._event("child_ended", seconds=delay))
            self._set("waiting")
            self._stopping.wait(delay)
        self._set("stopped")

    def _run_once(self) -> int:
        """One life; returns its exit status, negative for a signal, 126 if it never began."""
        try:
            with _opened_log(self.spec.log_file) as log:
                process = _launch(self.spec, log)
        except OSError as error:  # no memory, no disk for the log: as good as a quick failure
            _LOG.error("%s cannot be started: %s", self.spec.name, error.strerror)
            return 126
        with self._guard:
            self._process = process
        self.starts += 1
        _LOG.info("%s runs (pid %d)", self.spec.name, process.pid, extra=event(
            "child_started", child=self.spec.name, pid=process.pid, starts=self.starts))
        self._set("running")
        if self._stopping.is_set():  # stop() may have looked before there was a pid
            self.signal(signal.SIGTERM)
        # Its entry is kept while the group is killed, so that the number means no other.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with self._guard:
            _kill_group(process.pid)
            self._process = None
            return process.wait()

    def _event(self, name: str, **fields: float) -> dict[str, Event]:
        status = self.last_exit or 0
        how = {"exit_status": status} if status >= 0 else {"signal": -status}
        return event(name, child=self.spec.name, **how, **fields)

    def _set(self, state: State) -> None:
        self.state = state
        if self._on_change is not None:
            self._on_change(self)


class Children:
    """Several children, started in order and stopped in reverse order."""

    def __init__(self, specs: Sequence[ChildSpec], *,
                 on_change: Callable[[Child], None] | None = None) -> None:
        self._children = {spec.name: Child(spec, on_change=on_change) for spec in specs}
        self._stopping = threading.Event()
        if len(self._children) < len(specs):
            raise Misconfigured("CHILD_SPEC", "two children have one name", "rename one")

    def __getitem__(self, name: str) -> Child:
        return self._children[name]

    def __iter__(self) -> Iterator[Child]:
        return iter(tuple(self._children.values()))

    def start(self) -> None:
        """Start all."""
        for child in self:
            child.start()
        threading.Thread(target=self._limit_logs, name="limit-logs", daemon=True).start()

    def _limit_logs(self) -> None:
        """A SuperLink that runs for months writes its log for months."""
        while not self._stopping.wait(_LOOK_AT_LOGS_S):
            for child in self:
                _limit_log(child.spec.log_file)

    def stop(self) -> None:
        """Stop all, the last one first."""
        self._stopping.set()
        for child in reversed(tuple(self)):
            child.stop()

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of those that will not be started again."""
        return tuple(child.spec.name for child in self if child.state == "failed")


def wait_until(
    condition: Callable[[], bool], *, deadline_s: float, what: str,
    stopping: threading.Event | None = None,
) -> None:
    """Return when ``condition`` holds.

    Raises:
        Transient: WAIT_TIMEOUT after ``deadline_s``, or at once when ``stopping`` is set.
    """
    deadline = time.monotonic() + deadline_s
    while not condition():
        stopped = stopping is not None and stopping.is_set()
        if stopped or time.monotonic() >= deadline:
            raise Transient("WAIT_TIMEOUT", f"{what} did not come about in {deadline_s:g} s",
                            "look at the logs in the folder's state/logs")
        time.sleep(_POLL_S)


def process_stat(pid: int) -> list[str] | None:
    """A process's fields in ``/proc``, from its state on; None if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()  # its name may hold spaces and brackets


def on_termination(stopping: threading.Event) -> None:
    """Make SIGTERM and SIGINT of this process set ``stopping``; from the main thread only.

    The main thread must wait for it with a timeout, again and again: the kernel may hand the
    signal to another thread, and Python runs handlers in the main one alone.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())


def _launch(spec: ChildSpec, log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *spec.command],
        env=dict(spec.environment), cwd=spec.folder, stdin=subprocess.DEVNULL,
        stdout=log if spec.stdout is None else spec.stdout, stderr=log, start_new_session=True,
    )


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _limit_log(path: Path) -> None:
    """Move what a running process has written to ``NAME.1`` once it is large.

    The process keeps its file and appends, so the file is emptied in place; a line written
    between copy and emptying is lost.
    """
    with suppress(OSError):
        if path.stat().st_size > MAX_LOG_BYTES:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            kept = os.open(path.with_name(f"{path.name}.1"), flags, 0o600)
            with path.open("rb") as old, os.fdopen(kept, "wb") as new:
                shutil.copyfileobj(old, new)
            os.truncate(path, 0)


def _opened_log(path: Path) -> IO[bytes]:
    """For appending, readable by its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        if path.stat().st_size > MAX_LOG_BYTES:
            os.replace(path, path.with_name(f"{path.name}.1"))
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")

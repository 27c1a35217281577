"""A process per message, forked and not started from nothing: what it keeps, and who may ask."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hospital_lab import holds

from medunlearn_client.service import app_caller
from medunlearn_client.service.app_caller import LENGTH, MAX_REQUEST, asked
from medunlearn_client.service.app_starter import listening, require_one_thread
from medunlearn_common.errors import Misconfigured

# What a starter forks in these tests: it leaves a mark in memory, says what it finds, and obeys.
STARTER = """
import os, sys, time
from pathlib import Path
from medunlearn_client.service.app_starter import Starter, listening

folder, left_behind = Path(sys.argv[1]), []

def answer(arguments):
    left_behind.append(arguments)
    with (folder / "said").open("a") as stream:
        stream.write(f"{os.getpid()} {os.getppid()} {len(left_behind)}\\n")
    what = arguments[0]
    if what == "sleep":
        time.sleep(60)
    elif what == "raise":
        raise KeyError("Jane Roe")
    elif what == "kill":
        os.kill(os.getpid(), 9)
    elif what == "exit":
        sys.exit(int(arguments[1]))

Starter(listening(folder / "own" / "starter.sock"), answer).serve(lambda: False)
"""


@dataclass
class Started:
    """A starter's process and what its children said."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def socket(self) -> Path:
        return self.folder / "own" / "starter.sock"

    def said(self) -> list[list[int]]:
        path = self.folder / "said"
        text = path.read_text() if path.exists() else ""
        return [[int(word) for word in line.split()] for line in text.splitlines()]

    def caller(self, *arguments: str) -> subprocess.Popen[bytes]:
        """As the executor starts it; `/nowhere` has no hospital."""
        return subprocess.Popen(
            [sys.executable, "-I", "-S", app_caller.__file__, str(self.socket), "/nowhere",
             *arguments], stderr=subprocess.PIPE)


@pytest.fixture
def started() -> Iterator[Started]:
    folder = Path(tempfile.mkdtemp(prefix="mu-", dir="/tmp"))
    path = os.pathsep.join(entry for entry in sys.path if entry)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", STARTER, str(folder)], stderr=log,
                                   env={**os.environ, "PYTHONPATH": path})
    made = Started(folder, process)
    holds(lambda: _listens(made.socket))
    yield made
    process.kill()
    process.wait()
    shutil.rmtree(folder)


def _listens(path: Path) -> bool:
    """A socket's file is there before anybody can connect to it."""
    with socket.socket(socket.AF_UNIX) as caller:
        return caller.connect_ex(str(path)) == 0


def test_each_message_has_a_process_that_knows_nothing_of_the_one_before(started: Started) -> None:
    assert [asked(str(started.socket), ["go"]) for _ in range(3)] == [0, 0, 0]
    pids, parents, marks = zip(*started.said(), strict=True)
    assert len(set(pids)) == 3
    assert set(parents) == {started.process.pid}
    assert set(marks) == {1}


@pytest.mark.parametrize(("arguments", "status"), [
    (["exit", "3"], 3), (["raise"], 1), (["kill"], 128 + 9), (["go"], 0),
])
def test_a_caller_ends_as_its_process_did(
    started: Started, arguments: list[str], status: int
) -> None:
    caller = started.caller(*arguments)
    told = caller.communicate(timeout=30)[1]
    assert caller.returncode == status
    assert b"Jane Roe" not in told  # it is in the log, which stays at the hospital
    assert (b"Jane Roe" in (started.folder / "log").read_bytes()) == (arguments == ["raise"])


def test_a_killed_executor_leaves_no_process_of_a_message_behind(started: Started) -> None:
    caller = started.caller("sleep")
    holds(lambda: len(started.said()) == 1)
    (pid, _, _), = started.said()
    caller.kill()
    caller.communicate()
    holds(lambda: not Path(f"/proc/{pid}").exists(), deadline_s=10.0)
    assert asked(str(started.socket), ["go"]) == 0


def test_a_killed_starter_takes_its_processes_along_and_nothing_is_done_twice(
    started: Started
) -> None:
    caller = started.caller("sleep")
    holds(lambda: len(started.said()) == 1)
    (pid, _, _), = started.said()
    started.process.kill()
    assert caller.wait(timeout=10) == 1
    caller.communicate()
    holds(lambda: not _runs(pid), deadline_s=10.0)
    assert len(started.said()) == 1


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_without_a_starter_the_process_is_started_from_nothing(started: Started) -> None:
    started.process.kill()
    started.process.wait()
    caller = started.caller("--runtime-api-address", "127.0.0.1:1", "--token", "t", "--insecure")
    assert b"HOSPITAL_CONFIG_MISSING" in caller.communicate(timeout=60)[1]
    assert started.said() == []


@pytest.mark.parametrize("first", ["handle", "caller"])
def test_a_process_and_its_caller_that_end_together_do_not_end_the_starter(
    started: Started, first: str
) -> None:
    """Both are news of one look, and after the first of them the other is about nobody."""
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(started.socket))
        request = b'["sleep"]'
        caller.sendall(LENGTH.pack(len(request)) + request)
        assert caller.recv(1) == app_caller.TAKEN
        holds(lambda: len(started.said()) == 1)
        (pid, _, _), = started.said()
        os.kill(started.process.pid, signal.SIGSTOP)
        if first == "handle":
            os.kill(pid, signal.SIGKILL)
            holds(lambda: not _runs(pid))
    if first == "caller":
        os.kill(pid, signal.SIGKILL)
        holds(lambda: not _runs(pid))
    os.kill(started.process.pid, signal.SIGCONT)
    assert asked(str(started.socket), ["exit", "7"]) == 7
    assert started.process.poll() is None


@pytest.mark.parametrize("data", [
    b"", b"\0", LENGTH.pack(MAX_REQUEST + 1), LENGTH.pack(4) + b"null", LENGTH.pack(3) + b"[1]",
    LENGTH.pack(2) + b"\xff\xfe", LENGTH.pack(100) + b"[]",
    LENGTH.pack(60_000) + b"[" * 60_000,
])
def test_garbage_on_the_socket_starts_nothing(started: Started, data: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(started.socket))
        caller.sendall(data)
        caller.shutdown(socket.SHUT_WR)
        assert caller.recv(1) == b""
    assert asked(str(started.socket), ["go"]) == 0
    assert len(started.said()) == 1


def test_a_caller_that_gave_up_is_not_served_behind_its_back(started: Started) -> None:
    """It does the work itself by then: a second process would answer with the same token."""
    os.kill(started.process.pid, signal.SIGSTOP)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(started.socket))
        request = b'["go"]'
        caller.sendall(LENGTH.pack(len(request)) + request)
    os.kill(started.process.pid, signal.SIGCONT)
    assert asked(str(started.socket), ["exit", "7"]) == 7
    assert len(started.said()) == 1


def test_nobody_else_can_open_the_socket(tmp_path: Path) -> None:
    path = Path(tempfile.mkdtemp(prefix="mu-", dir="/tmp")) / "own" / "starter.sock"
    path.parent.mkdir(mode=0o755)
    with listening(path):
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.lstat().st_mode) == 0o700
    shutil.rmtree(path.parents[1])


def test_a_process_with_threads_forks_nothing() -> None:
    """A lock that another thread holds would never be given back in the child."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        with pytest.raises(Misconfigured, match="STARTER_THREADS"):
            require_one_thread()
    finally:
        done.set()
        thread.join()


def test_what_is_loaded_before_the_fork_runs_no_thread() -> None:
    script = ("from medunlearn_client.service import app_process, worker_client\n"
              "from medunlearn_client.service.app_starter import require_one_thread\n"
              "import sys\nrequire_one_thread()\nassert 'torch' not in sys.modules\n"
              "assert 'sqlalchemy' not in sys.modules")
    path = os.pathsep.join(entry for entry in sys.path if entry)
    subprocess.run([sys.executable, "-c", script], check=True, env={
        **os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"})

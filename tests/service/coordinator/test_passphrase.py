"""Who at a coordinator gets the passphrase of its key: the attack is to read it elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from loopback_federation import Federation, three_sites

from medunlearn_common.errors import MedunlearnError
from medunlearn_common.flower_environment import flower_environment
from medunlearn_common.identity.key_files import PASSPHRASE_VARIABLE
from medunlearn_common.processes import wait_until
from medunlearn_server.service.client import ControlClient
from medunlearn_server.service.passphrase_desk import SOCKET, PassphraseDesk, take_passphrase

SECRET = "correct horse battery staple"
ASK = """
import os, sys
from pathlib import Path
from medunlearn_common.identity.key_files import passphrase_from
from medunlearn_server.service.passphrase_desk import take_passphrase
take_passphrase(Path(sys.argv[1]))
print(passphrase_from(None))
print(b"horse" in Path("/proc/self/environ").read_bytes(), "MEDUNLEARN_PASSPHRASE" in os.environ)
"""


@contextmanager
def desk(state: Path, executor: int | None) -> Iterator[PassphraseDesk]:
    found = PassphraseDesk(state, SECRET.encode(), executor=lambda: executor)
    found.start()
    try:
        yield found
    finally:
        found.stop()


def asked(state: Path, *before: str) -> list[str]:
    environment = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([*before, sys.executable, "-c", ASK, str(state)], env=environment,
                          capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


def test_the_executors_child_is_told_and_passes_nothing_on(tmp_path: Path) -> None:
    state = tmp_path / ("long" * 40)  # longer than an address of a socket may be
    state.mkdir()
    with desk(state, os.getpid()):
        assert (state / SOCKET).stat().st_mode & 0o777 == 0o600
        assert asked(state) == [repr(SECRET.encode()), "False False"]


def test_a_process_that_the_executor_did_not_start_is_told_nothing(tmp_path: Path) -> None:
    with desk(tmp_path, os.getpid()):
        # Its parent is a shell, as the SuperLink's or the gateway's child has another parent.
        assert asked(tmp_path, "/bin/sh", "-c", '"$0" "$@"; true')[0] == "None"
    for nobody in (None, 1, os.getppid() + 1_000_000):
        with desk(tmp_path, nobody):
            assert asked(tmp_path)[0] == "None"


def test_who_says_nothing_keeps_nobody_waiting_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    with desk(tmp_path, os.getpid()):
        monkeypatch.chdir(tmp_path)
        silent = socket.socket(socket.AF_UNIX)
        silent.connect(SOCKET)
        assert asked(tmp_path)[0] == repr(SECRET.encode())
        silent.close()
    take_passphrase(tmp_path / "nothing")  # a file holds it: nothing to ask for


def test_no_environment_of_flower_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSPHRASE_VARIABLE, SECRET)
    assert SECRET not in flower_environment(home=tmp_path).values()


@contextmanager
def served(root: Path) -> Iterator[tuple[Federation, int]]:
    """A real service whose passphrase is in its own environment alone, and its process id."""
    federation = Federation(root, three_sites())
    file = federation.path / "trust" / "passphrase"
    secret = file.read_text(encoding="ascii")
    file.unlink()
    os.environ[PASSPHRASE_VARIABLE] = secret
    try:
        process = federation.start_service()
    finally:
        del os.environ[PASSPHRASE_VARIABLE]
    try:
        wait_until(lambda: secret.encode() in Path(f"/proc/{process.pid}/environ").read_bytes(),
                   deadline_s=5.0, what="the service's environment")  # empty during its exec
        yield federation, process.pid
    finally:
        federation.stop_nodes()
        process.terminate()
        try:
            process.wait(60)
        finally:
            process.kill()


def environments(pid: int) -> dict[str, bytes]:
    """Command line to environment, of every program that was started below one.

    Between its fork and its exec a child is still the service itself, command line and all:
    that copy is nobody else's to read, and it is looked at again once it is a program.
    """
    service, found = psutil.Process(pid), {}
    for process in service.children(recursive=True):
        try:
            command = process.cmdline()  # first: a program never turns back into the service
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
        except (psutil.Error, OSError):
            continue
        if command != service.cmdline():
            found[" ".join(command)] = environment
    return found


def copies(pid: int) -> list[int]:
    """Children that are still the service itself."""
    service, found = psutil.Process(pid), []
    for child in service.children():
        with suppress(psutil.Error):
            if child.cmdline() == service.cmdline():
                found.append(child.pid)
    return found


def _names(found: dict[str, bytes], *parts: str) -> bool:
    return all(any(part in line for line in found) for part in parts)


@pytest.mark.flower
def test_the_passphrase_in_proc_of_superlink_executor_and_gateway(tmp_path: Path) -> None:
    with served(tmp_path) as (_, pid):
        deadline, found = time.monotonic() + 60, {}
        while time.monotonic() < deadline and not _names(
            found, "flower-superlink", "flower-superexec", "gateway_process", "flwr "
        ):
            found |= environments(pid)
            threading.Event().wait(0.02)
        assert _names(found, "flower-superlink", "flower-superexec", "gateway_process")
        for line, environment in found.items():
            assert PASSPHRASE_VARIABLE.encode() not in environment, line
        lasting = set(copies(pid))
        threading.Event().wait(0.5)
        assert not lasting & set(copies(pid)), "a copy of the service lives on below it"


@pytest.mark.slow
@pytest.mark.flower
@pytest.mark.skipif(not os.environ.get("MEDUNLEARN_DEPLOYED"), reason="make deployed")
def test_a_run_is_led_with_a_passphrase_that_no_child_was_given(tmp_path: Path) -> None:
    with served(tmp_path) as (federation, pid):
        federation.start_light_nodes()
        seen: dict[str, bytes] = {}
        with ControlClient(federation.folder) as client:
            deadline, run, rounds = time.monotonic() + 240, "", 0
            while time.monotonic() < deadline and not rounds:
                seen |= environments(pid)
                with suppress(MedunlearnError):
                    status = client.status()
                    if status.ready and not run:
                        run = client.launch(federation.plan_file().read_bytes()).run_id
                    rounds = max((row.progress.next_round for row in status.runs), default=0)
                time.sleep(0.2)
            assert rounds, "the ServerApp did not open the coordinator's key"
        assert _names(seen, "serverapp_process")
        for line, environment in seen.items():
            assert PASSPHRASE_VARIABLE.encode() not in environment, line

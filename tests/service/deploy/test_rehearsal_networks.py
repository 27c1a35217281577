"""Networks of a rehearsal: what is cut is cut, what is bad is bad, nothing stays behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medunlearn_common.errors import MedunlearnError
from medunlearn_simulation.rehearsal.networks import Namespaces, SharedLoopback, networks
from medunlearn_simulation.rehearsal.parties import Party, wait_for
from medunlearn_simulation.rehearsal.rehearse import _set

# Sends datagrams to the coordinator's address, where an echo answers; prints what came back.
_ECHO = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("10.77.0.1", 9)); print("up", flush=True)
while True:
    data, peer = s.recvfrom(64); s.sendto(data, peer)
"""
_ASK = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1.0)
count, came, began = int(sys.argv[1]), 0, time.monotonic()
for n in range(count):
    try: s.sendto(bytes([n]), ("10.77.0.1", 9))
    except OSError: pass
for n in range(count):
    try: s.recv(64); came += 1
    except OSError: break
    if n == 0: first = time.monotonic() - began
print(came, first if came else 0.0)
"""
namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None or not Path("/dev/net/tun").exists(),
    reason="needs root, iproute2 and /dev/net/tun")


def asked(network: Namespaces, hospital: int, count: int) -> tuple[int, float]:
    done = subprocess.run(
        network.inside(hospital, [sys.executable, "-c", _ASK, str(count)]),
        capture_output=True, text=True, timeout=60, check=True)
    came, first = done.stdout.split()
    return int(came), float(first)


@namespaces
def test_a_cut_link_carries_nothing_and_a_bad_one_little() -> None:
    with networks(2, separate=True) as network:
        assert isinstance(network, Namespaces)
        echo = subprocess.Popen(network.inside(0, [sys.executable, "-c", _ECHO]),
                                stdout=subprocess.PIPE)
        try:
            assert echo.stdout is not None and echo.stdout.readline() == b"up\n"
            assert asked(network, 1, 3)[0] == 3
            network.cut(1)
            assert asked(network, 1, 1)[0] == 0
            assert asked(network, 2, 3)[0] == 3
            network.mend(1)
            assert asked(network, 1, 3)[0] == 3
            network.degrade(2, delay_ms=100.0, loss=0.3)
            came, first = asked(network, 2, 100)
            assert 20 <= came <= 80 and first >= 0.2
            network.repair(2)
            came, first = asked(network, 2, 3)
            assert came == 3 and first < 0.2
        finally:
            echo.kill()
            echo.wait()
        names = [network.name(index) for index in range(3)]
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    assert not any(name in left.stdout for name in names)


def test_one_loopback_has_no_link_to_cut() -> None:
    with pytest.raises(MedunlearnError) as refused:
        SharedLoopback().cut(1)
    assert refused.value.code == "REHEARSAL_NETWORK"


def test_a_machine_without_ip_has_one_loopback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with networks(2) as network:
        assert network == SharedLoopback()
    with pytest.raises(MedunlearnError) as refused, networks(2, separate=True):
        pass
    assert refused.value.code == "REHEARSAL_NETWORK"


def test_a_service_is_ended_with_everything_that_it_started(tmp_path: Path) -> None:
    """Also what ignores SIGTERM and sits in a session of its own."""
    party = Party(folder=tmp_path / "hospital-a", index=1, network=SharedLoopback(), say=str)
    party.folder.mkdir()
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
    parent = (
        "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', "
        f"{stubborn!r}, 'service.node_' + 'process'], start_new_session=True); time.sleep(600)")
    with party.log_file.open("ab") as log:
        party._service = party._spawn([sys.executable, "-c", parent], log)
    wait_for(lambda: bool(party.pids("supernode")), within_s=30.0, what="the child")
    (pid,) = party.pids("supernode")
    party.end()
    deadline = time.monotonic() + 10.0
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_key_is_set_in_place_of_its_comment() -> None:
    text = '[data]\nfiles = []\n\n[forget]\n# subjects = []\npatients = []\n'
    assert _set(text, "forget", 'subjects = ["A"]') == (
        '[data]\nfiles = []\n\n[forget]\nsubjects = ["A"]\npatients = []\n')

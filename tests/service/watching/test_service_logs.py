"""Services as a journal and a person see them, with canaries where outsiders and files can put
texts: names of folders, calls to the public port, a plan, a broken certificate.

The services are real processes; nothing of what they write to stdout, stderr or a public log
may hold a part of a canary.
"""

from __future__ import annotations

import json
import os
import pty
import selectors
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from loopback_federation import Federation, three_sites
from test_no_patient_text import clean
from watch_lab import CANARY

from medunlearn_common.errors import MedunlearnError
from medunlearn_common.log_fields import event
from medunlearn_common.log_limits import MOST, Throttle
from medunlearn_server.service.client import ControlClient

TERMINAL = """
import logging, sys
from pathlib import Path
from medunlearn_common.errors import Misconfigured
from medunlearn_common.log_fields import event
from medunlearn_common.service_log import run
def work(log):
    said = logging.getLogger("medunlearn.x")
    said.info("Jane Doe", extra=event("child_started", child="worker", pid=7, starts=1))
    said.info("Jane Doe"); said.warning("Jane Doe")
    log.info("serving", child="gateway", port=9443)
    log.info("caller_refused", site="north")
    print("Jane Doe")
    if sys.argv[2] == "ours":
        raise Misconfigured("NODE_KEY", "node/node.key is missing", "chmod 600 \\u00fc")
    raise ValueError("Jane Doe")
sys.exit(run(Path(sys.argv[1]), "service", work))
"""


def on_a_terminal(*command: str) -> tuple[str, int]:
    """What a person sees, and the exit status."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True)
    os.close(theirs)
    seen = b""
    with suppress(OSError):  # EIO once nobody holds the other side
        while part := os.read(ours, 4096):
            seen += part
    os.close(ours)
    return seen.decode("ascii").replace("\r\n", "\n"), process.wait(30)


def test_a_person_at_a_terminal_reads_sentences_and_the_hint(tmp_path: Path) -> None:
    seen, status = on_a_terminal(sys.executable, "-c", TERMINAL, str(tmp_path), "ours")
    assert status == 2
    lines = [line.partition("Z ")[2] for line in seen.splitlines()]
    assert lines[0].startswith("service   medunlearn ") and "Ctrl-C" in lines[0]
    assert lines[1] == "service   worker runs, process 7"
    assert lines[2].startswith("service   warning: library ")
    assert lines[3:5] == [
        "service   gateway listens on port 9443", "service   caller_refused site=north"]
    assert seen.endswith("error [NODE_KEY] node/node.key is missing\n  hint: chmod 600 \\xfc\n")
    public = (tmp_path / "service.jsonl").read_text()
    for text in (seen, public):
        assert "Jane" not in text
    assert "missing" not in public


def test_a_defect_shows_its_place_and_no_text_on_a_terminal(tmp_path: Path) -> None:
    seen, status = on_a_terminal(sys.executable, "-c", TERMINAL, str(tmp_path), "foreign")
    assert status == 1 and "Jane" not in seen
    assert "error: uncaught error=ValueError" in seen and "in service.private.log" in seen


def test_an_outsider_who_knocks_for_a_night_does_not_fill_the_disk(tmp_path: Path) -> None:
    script = (
        "import logging, sys\nfrom pathlib import Path\nfrom medunlearn_common import logs\n"
        "from medunlearn_common.log_fields import event\n"
        "logs.start(Path(sys.argv[1]), component='gateway')\n"
        "for n in range(5000): logging.getLogger('g').info("
        "'refused', extra=event('caller_refused', status=403))\n"
        "for n in range(5000): logging.getLogger('uvicorn.error').warning('Invalid HTTP request')\n"
        "for n in range(300): logging.getLogger('w').info("
        "'x', extra=event('request_answered', kind='step'))\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], timeout=60, check=True,
                   stdout=subprocess.DEVNULL)
    lines = [json.loads(line)["event"] for line in (tmp_path / "gateway.jsonl").open()]
    assert [lines.count(name) for name in ("caller_refused", "library", "request_answered")] == [
        MOST, MOST, 300]
    assert (tmp_path / "gateway.private.log").read_text().count("Invalid HTTP") == MOST


def test_what_was_left_out_is_counted() -> None:
    now = [0.0]
    throttle = Throttle(most=2, period_s=60.0, clock=lambda: now[0])
    assert [throttle.admit("a") for _ in range(5)] == [0, 0, None, None, None]
    assert throttle.admit("b") == 0
    now[0] = 61.0
    assert [throttle.admit("a") for _ in range(3)] == [3, 0, None]
    for key in range(5000):
        assert throttle.admit(key) == 0
    assert len(throttle._counts) <= 1000


def test_an_event_is_for_logging_what_a_field_is_for_a_line() -> None:
    assert set(event("serving", port=1)) == {"medunlearn_event"}


# -- real services ---------------------------------------------------------------------------


@contextmanager
def service(*command: str) -> Iterator[tuple[subprocess.Popen[bytes], list[bytes]]]:
    """A service with its stdout and stderr collected; ended by SIGTERM, else killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL, start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)})
    said: list[bytes] = []
    try:
        yield process, said
        process.send_signal(signal.SIGTERM)
        said.append(process.communicate(timeout=60)[0])
    finally:
        process.kill()
        process.wait()


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/").status_code == 403
    except httpx.TransportError:
        return False


def until(
    is_so: Callable[[], bool], process: subprocess.Popen[bytes], said: list[bytes]
) -> None:
    """Collect what is said until something is so."""
    assert process.stdout is not None
    deadline = time.monotonic() + 90
    with selectors.DefaultSelector() as stdout:  # takes descriptors of any number
        stdout.register(process.stdout, selectors.EVENT_READ)
        while not is_so():
            assert time.monotonic() < deadline and process.poll() is None, said
            if stdout.select(0.05):
                said.append(os.read(process.stdout.fileno(), 65536))


@pytest.mark.flower
def test_a_coordinators_service_with_canaries_all_around_it(tmp_path: Path) -> None:
    federation = Federation(tmp_path / CANARY, three_sites())
    with service("medunlearn_server.service.supervisor", str(federation.path)) as (process, said):
        verify = ssl.create_default_context(cafile=str(federation.path / "tls" / "ca.pem"))
        with httpx.Client(base_url=f"https://127.0.0.1:{federation.public}", verify=verify) as out:
            until(lambda: answers(out), process, said)
            for path in ("/v1/fleet/activate-node", f"/{CANARY}", f"/?{CANARY}"):
                out.post(path, content=CANARY, headers={"x-patient": CANARY})
        with ControlClient(federation.folder) as client:
            for plan in (CANARY.encode(), f"[{CANARY}]".encode(), f'name = "{CANARY}"'.encode()):
                with pytest.raises(MedunlearnError):
                    client.launch(plan, model_digest="", tokenizer_digest="")
        until(lambda: b'"caller_refused"' in b"".join(said), process, said)
    assert process.returncode == 0
    text = b"".join(said).decode("ascii")
    clean(text, "the journal")
    logs = federation.folder.logs
    for name in ("service", "gateway"):
        public = (logs / f"{name}.jsonl").read_text()
        clean(public, f"{name}.jsonl")
        assert f'"component": "{name}"' in text, "a journal has the lines of all our processes"
    lines = [json.loads(line) for line in text.splitlines()]
    assert {line["event"] for line in lines} >= {
        "started", "serving", "child_started", "caller_refused", "stopping", "stopped"}
    assert (logs / "service.private.log").stat().st_mode & 0o777 == 0o600
    assert federation.folder.state.stat().st_mode & 0o077 == 0


def test_a_hospitals_service_that_cannot_start_with_canaries_in_its_files(tmp_path: Path) -> None:
    folder = tmp_path / CANARY
    (folder / "tls").mkdir(parents=True)
    (folder / "tls" / "ca.pem").write_text(CANARY)
    (folder / "hospital.toml").write_text('[coordinator]\naddress = "127.0.0.1:9"\n')
    done = subprocess.run(
        [sys.executable, "-m", "medunlearn_client.service", "--folder", str(folder)],
        capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and done.stderr == ""
    clean(done.stdout, "the journal")
    assert json.loads(done.stdout.splitlines()[-1])["code"] == "NODE_KEY"
    assert "node/node.key is missing" in (
        folder / "state" / "logs" / "service.private.log").read_text()

"""A hospital's whole service against a real SuperLink; `make deployed` runs it (a minute)."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hospital_lab import Lab, holds
from test_bundles import EVIL, INSTALLED, SHADOW

from medunlearn_client.service import node as node_module
from medunlearn_client.service.config import HospitalConfig, HospitalPaths, hospital_template
from medunlearn_client.service.node import (
    EXECUTOR,
    NODE,
    WORKER,
    HospitalNode,
    service_pid,
    stop_service,
)
from medunlearn_client.service.status import SiteStatus
from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import held_alone
from medunlearn_common.flower_environment import flower_command, flower_environment
from medunlearn_common.keeping.stopped import SERVICE_LOCK
from medunlearn_common.processes import Child, ChildSpec

HERE = Path(__file__).parent
deployed = pytest.mark.skipif(
    not os.environ.get("MEDUNLEARN_DEPLOYED"), reason="real SuperLink and node: make deployed")

PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "probe"
version = "0.1.0"
description = "greets"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "medunlearn"
fab-include = ["pyproject.toml"{more}]
[tool.flwr.app.components]
serverapp = "probe_server:app"
clientapp = "{client}"
[tool.flwr.app.config]
"""


def free_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def listens(port: int) -> bool:
    with closing(socket.socket()) as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Federation:
    """A SuperLink without TLS, and the service of one hospital."""

    lab: Lab
    node: HospitalNode
    out: Path
    environment: dict[str, str]

    def run_bundle(
        self, files: dict[str, bytes], *, client: str = INSTALLED
    ) -> list[dict[str, object]]:
        """Start a Flower run of a bundle; what its ServerApp wrote down."""
        self.out.unlink(missing_ok=True)
        bundle = self.lab.folder / "probe"
        shutil.rmtree(bundle, ignore_errors=True)
        bundle.mkdir()
        more = "".join(f', "{name}"' for name in files)
        (bundle / "pyproject.toml").write_text(PROJECT.format(more=more, client=client))
        for name, content in files.items():
            (bundle / name).parent.mkdir(parents=True, exist_ok=True)
            (bundle / name).write_bytes(content)
        subprocess.run([flower_command("flwr"), "run", str(bundle), "hub"], check=True,
                       env=self.environment, capture_output=True, timeout=120)
        holds(lambda: self.out.exists() and self.out.read_text().count("\n") == 2,
              deadline_s=240)
        return [json.loads(line) for line in self.out.read_text().splitlines()]


@pytest.fixture(scope="module")
def federation(make_lab: Callable[..., Lab]) -> Iterator[Federation]:
    lab = make_lab()
    port, runtime = free_port(), free_port()
    lab.configure(coordinator={"address": f"127.0.0.1:{port}"}, watch={"enabled": False},
                  node={"runtime": f"127.0.0.1:{runtime}", "insecure": True,
                        "restart_delay_s": 1.0})
    out = lab.folder / "probe.jsonl"
    home = lab.folder / "flwr"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink.hub]\naddress = "127.0.0.1:{port}"\ninsecure = true\n')
    environment = flower_environment(home=home, more={
        "PROBE_OUT": str(out), "PROBE_ROSTER": str(lab.home / "trust" / "roster.dsse"),
        "MARK": str(lab.folder / "mark"),
    })
    environment["PYTHONPATH"] = os.pathsep.join((environment["PYTHONPATH"], str(HERE)))
    superlink = Child(ChildSpec(
        name="superlink", environment=environment, log_file=lab.folder / "superlink.log",
        command=(flower_command("flower-superlink"), "--insecure", "--host", "127.0.0.1",
                 "--port", str(port), "--database", str(lab.folder / "superlink.db")),
    ))
    lab.children.append(superlink)
    superlink.start()
    holds(lambda: listens(port))
    os.environ["MARK"] = str(lab.folder / "mark")  # what a bundle's code would write, if it ran
    os.environ["MEDUNLEARN_PASSPHRASE"] = "for the worker alone"
    node, stopping = HospitalNode(lab.home), threading.Event()
    del os.environ["MEDUNLEARN_PASSPHRASE"]
    thread = threading.Thread(target=node.run, args=(stopping,))
    thread.start()
    try:
        yield Federation(lab, node, out, environment)
    finally:
        stopping.set()
        thread.join(120)
        assert not thread.is_alive()


@deployed
def test_a_stub_runs_the_installed_code_and_a_greeting_comes_back(federation: Federation) -> None:
    hello, garbage = federation.run_bundle({})
    assert hello["kind"] == "hello" and hello["site_id"] == "site-0"
    assert garbage["kind"] == "error" and garbage["code"] not in ("", "INTERNAL")
    assert "Jane" not in json.dumps([hello, garbage])
    assert SiteStatus.read(federation.lab.paths.status).requests >= 2


@deployed
def test_a_bundle_that_brings_its_own_modules_is_refused_by_a_real_node(
    federation: Federation
) -> None:
    for files, client in ((SHADOW, INSTALLED), ({"evil.py": EVIL}, "evil:app")):
        answers = federation.run_bundle(files, client=client)
        assert [a.get("code") for a in answers] == ["BUNDLE_HOLDS_CODE"] * 2, answers
    assert not (federation.lab.folder / "mark").exists()
    assert not list((federation.lab.paths.state / "flwr").glob("apps/*"))


@deployed
def test_killed_parts_come_back_and_answer(federation: Federation) -> None:
    node = federation.node
    for name in (WORKER, EXECUTOR):
        child = node.children[name]
        before = child.pid
        child.signal(signal.SIGKILL)
        holds(lambda child=child, before=before: child.pid not in (None, before))
    hello, _ = federation.run_bundle({})
    assert hello["kind"] == "hello"


@deployed
def test_only_the_worker_is_given_the_passphrase(federation: Federation) -> None:
    for name in (NODE, EXECUTOR):
        pid = federation.node.children[name].pid
        found = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"MEDUNLEARN_PASSPHRASE" not in found
    worker = federation.node.children[WORKER].pid
    assert b"MEDUNLEARN_PASSPHRASE" in Path(f"/proc/{worker}/environ").read_bytes()


@deployed
def test_a_second_service_for_one_folder_does_not_start(federation: Federation) -> None:
    assert service_pid(federation.lab.paths) == os.getpid()
    found = subprocess.run(
        [sys.executable, "-m", "medunlearn_client.service", "--folder", str(federation.lab.home)],
        env=federation.environment, capture_output=True, text=True, check=False, timeout=60)
    assert found.returncode == 2 and "SERVICE_RUNNING" in found.stdout


def test_a_node_without_certificate_or_key_does_not_start(lab: Lab) -> None:
    config = HospitalConfig()
    lab.paths.config.write_text(hospital_template(config))
    with pytest.raises(Misconfigured, match="NODE_CA"):
        HospitalNode(lab.home)
    lab.paths.ca.parent.mkdir()
    lab.paths.ca.write_text("pem")
    with pytest.raises(Misconfigured, match="NODE_KEY"):
        HospitalNode(lab.home)
    lab.paths.node_key.parent.mkdir()
    lab.paths.node_key.write_text("key")
    lab.paths.node_key.chmod(0o644)  # others may read it
    with pytest.raises(Misconfigured, match="NODE_KEY"):
        HospitalNode(lab.home)
    lab.paths.node_key.chmod(0o600)
    node = HospitalNode(lab.home)
    assert [child.spec.name for child in node.children] == [
        "worker", "supernode", "starter", "superexec", "watch"]


def test_a_link_without_tls_never_leaves_the_machine(lab: Lab) -> None:
    for address in ("unlearn.example.org:9443", "10.0.0.7:9443", "127.evil.org:9443"):
        lab.configure(node={"insecure": True}, coordinator={"address": address})
        with pytest.raises(Misconfigured, match="NODE_INSECURE"):
            HospitalNode(lab.home)


def test_the_executor_finds_one_program_only(lab: Lab) -> None:
    config = HospitalConfig.model_validate({"node": {"insecure": True}})
    lab.paths.config.write_text(hospital_template(config))
    node = HospitalNode(lab.home)
    node._write_state()
    spec = node.children[EXECUTOR].spec
    found = [Path(folder) / name for folder in spec.environment["PATH"].split(os.pathsep)
             for name in os.listdir(folder)]
    assert [path.name for path in found] == ["flwr-clientapp"]
    assert found[0].stat().st_mode & 0o777 == 0o700
    assert "app_caller" in found[0].read_text()
    assert (lab.paths.state / "superexec.secret").stat().st_mode & 0o777 == 0o600


def test_a_second_service_changes_nothing_of_the_one_that_runs(lab: Lab) -> None:
    """Its parts went on with a secret that lay nowhere any more."""
    lab.configure(node={"insecure": True}, coordinator={"address": "127.0.0.1:9443"})
    first = HospitalNode(lab.home)
    first._write_state()
    lab.paths.link.write_text("{}")
    files = [path for path in lab.paths.state.rglob("*") if path.is_file()]
    before = {path: (path.read_bytes(), path.stat().st_ino) for path in files}
    assert first._secret in before and lab.paths.link in before
    running = Misconfigured("SERVICE_RUNNING", "", "")
    with held_alone(lab.paths.state / SERVICE_LOCK, running):
        with pytest.raises(Misconfigured, match="SERVICE_RUNNING"):
            HospitalNode(lab.home).run(threading.Event())
        assert {path: (path.read_bytes(), path.stat().st_ino) for path in files} == before


@contextmanager
def looked_at(paths: HospitalPaths) -> Iterator[None]:
    """As while `hospital status` looks whether a service runs; the pid is an earlier one's."""
    paths.state.mkdir(exist_ok=True)
    (paths.state / SERVICE_LOCK).write_text("1")
    with (paths.state / SERVICE_LOCK).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def test_who_looks_whether_a_service_runs_is_not_taken_for_one(lab: Lab) -> None:
    with looked_at(lab.paths):
        assert service_pid(lab.paths) is None


def test_a_service_starts_while_somebody_looks_whether_it_runs(lab: Lab) -> None:
    with ExitStack() as looking:
        looking.enter_context(looked_at(lab.paths))
        threading.Timer(0.2, looking.close).start()
        with node_module._only_service(lab.paths):
            assert service_pid(lab.paths) == os.getpid()
    assert service_pid(lab.paths) is None


def test_a_service_that_ends_by_itself_meanwhile_is_stopped(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    found = iter([ended.pid, None])
    monkeypatch.setattr(node_module, "service_pid", lambda paths: next(found))
    assert stop_service(lab.paths, deadline_s=5.0)

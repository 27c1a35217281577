"""Flower's SuperNode in a process that ends when the node's loop does, so that it comes back."""

from __future__ import annotations

import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from flwr.proto.fleet_pb2 import (
    ActivateNodeResponse,
    PullMessagesResponse,
    RegisterNodeFleetResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatResponse
from hospital_lab import holds
from test_node import free_port

from medunlearn_client.service.node_link import NodeLink
from medunlearn_common.flower_environment import flower_environment
from medunlearn_common.pki import KeyPair, issue_server, new_authority, write_pair

_DAY_S = 86_400.0
_ANSWERS = {
    "register-node": RegisterNodeFleetResponse(node_id=7),
    "activate-node": ActivateNodeResponse(node_id=7),
    "send-node-heartbeat": SendNodeHeartbeatResponse(success=True),
    "pull-messages": PullMessagesResponse(),
}
# A loop with a thread that would keep the process for ever.
_LOOP = """
import sys, threading, time
from medunlearn_client.service.node_process import end_with

def loop():
    threading.Thread(target=time.sleep, args=(600.0,)).start()
    {end}

end_with(loop)
"""


@dataclass
class Link:
    """A SuperLink that lets everybody in and has nothing to do; a connection for every call."""

    folder: Path
    authority: KeyPair = field(default_factory=lambda: new_authority("heart", now=time.time()))
    status: int = 200
    admits: bool = True
    pulls: int = 0
    port: int = 0
    context: ssl.SSLContext = field(
        default_factory=lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))

    def show(self, *, issued_ago_s: float) -> None:
        """Have a certificate for one day that was issued so long ago."""
        pair = issue_server(
            self.authority, ["127.0.0.1"], now=time.time() - issued_ago_s, days=1)
        write_pair(pair, certificate=self.folder / "server.pem", key=self.folder / "server.key")
        self.context.load_cert_chain(self.folder / "server.pem", self.folder / "server.key")

    def answer(self, path: str) -> tuple[int, bytes]:
        name = path.rpartition("/")[2]
        if name == "activate-node" and not self.admits:
            return 401, b""
        if name == "pull-messages":
            self.pulls += 1
            if self.status != 200:
                return self.status, b""
        return 200, _ANSWERS[name].SerializeToString() if name in _ANSWERS else b""


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Link]:
    made = Link(folder=tmp_path)
    made.show(issued_ago_s=0.0)
    write_pair(made.authority, certificate=tmp_path / "ca.pem", key=tmp_path / "ca.key")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", "0")))
            status, body = made.answer(self.path)
            self.send_response(status)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = made.context.wrap_socket(server.socket, server_side=True)
    made.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield made
    server.shutdown()
    server.server_close()


@contextmanager
def node_of(link: Link) -> Iterator[subprocess.Popen[bytes]]:
    """A real SuperNode, as a hospital's service starts it, but for its key."""
    with (link.folder / "node.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "medunlearn_client.service.node_process",
             str(link.folder / "node.json"),
             "--superlink", f"127.0.0.1:{link.port}",
             "--root-certificates", str(link.folder / "ca.pem"), "--isolation", "process",
             "--host", "127.0.0.1", "--port", str(free_port())],
            env=flower_environment(home=link.folder / "flwr"), stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_node_that_meets_an_expired_certificate_ends(link: Link) -> None:
    """Flower's own command would stay, connected to nobody, and miss the renewed certificate."""
    with node_of(link) as process:
        holds(lambda: link.pulls >= 1)
        link.show(issued_ago_s=2 * _DAY_S)
        assert process.wait(timeout=60.0) == 1
    assert "certificate has expired" in (link.folder / "node.log").read_text()
    link.show(issued_ago_s=0.0)
    before = link.pulls
    with node_of(link):  # as the service starts it anew
        holds(lambda: link.pulls > before)


def test_a_node_that_is_answered_with_what_it_does_not_know_ends(link: Link) -> None:
    with node_of(link) as process:
        holds(lambda: link.pulls >= 1)
        link.status = 500
        assert process.wait(timeout=60.0) == 1


def test_whether_a_node_is_let_in_is_noted(link: Link) -> None:
    """One that was revoked ended with status 0, again and again, and nobody was told why."""
    note = link.folder / "node.json"

    def code() -> str:
        return NodeLink.read(note).code

    with node_of(link):
        holds(lambda: NodeLink.read(note).at > 0.0)
        assert code() == "" and NodeLink.read(note).trouble is None
        link.status = 503
        holds(lambda: code() == "NODE_UNREACHABLE")
        link.status = 404  # of a run that ended, as it may be: it was let in
        holds(lambda: code() == "")
    link.admits = False
    with node_of(link) as process:
        process.wait(timeout=60.0)
    trouble = NodeLink.read(note).trouble
    assert trouble is not None and trouble.code == "NODE_NOT_ADMITTED"


@pytest.mark.parametrize("text", ["", "[]", '{"code": 1}', '{"code": "a b", "since": 0, "at": 1}'])
def test_a_damaged_note_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "node.json").write_text(text)
    assert NodeLink.read(tmp_path / "node.json") == NodeLink()


def test_a_node_that_is_told_to_end_says_so(link: Link) -> None:
    with node_of(link) as process:
        holds(lambda: link.pulls >= 1)
        process.terminate()
        assert process.wait(timeout=60.0) == 0


@pytest.mark.parametrize(("end", "status"), [
    ("return", 1), ("raise KeyError('x')", 1), ("sys.exit(3)", 3), ("sys.exit('words')", 1),
    ("sys.exit()", 1), ("raise KeyboardInterrupt", 1),
])
def test_a_process_ends_with_its_loop(end: str, status: int) -> None:
    done = subprocess.run([sys.executable, "-c", _LOOP.format(end=end)], timeout=60.0,
                          stderr=subprocess.DEVNULL, check=False)
    assert done.returncode == status

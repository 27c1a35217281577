"""The gateway before a SuperLink that misbehaves, and before callers that do."""

from __future__ import annotations

import asyncio
import base64
import datetime
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from loopback_federation import free_ports, new_node_key
from starlette.requests import Request
from starlette.responses import Response

from medunlearn_server.service import gateway as gateway_module
from medunlearn_server.service import gateway_process
from medunlearn_server.service.config import LimitsSection
from medunlearn_server.service.gateway import CALLS, PREFIX, PULL, Gateway
from medunlearn_server.service.loopback_tls import new_loopback_tls
from medunlearn_server.service.node_keys import NodeKeys

HEARTBEAT = f"{PREFIX}send-node-heartbeat"


@dataclass
class OddSuperLink:
    """An HTTPS server that answers as a test says and remembers what reached it."""

    folder: Path
    status: int = 200
    body: bytes = b"answer"
    delay_s: float = 0.0
    seen: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.port = free_ports(1)[0]
        tls = new_loopback_tls(self.folder)
        self.certificate = tls.certificate
        self.server = uvicorn.Server(uvicorn.Config(
            self.answer, port=self.port, lifespan="off", log_config=None, interface="asgi3",
            ws="none",
            ssl_certfile=str(tls.certificate), ssl_keyfile=str(tls.key),
        ))
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    async def answer(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        body, said = await request.body(), self.body  # said before a test sees the request
        self.seen.append((request.method, request.url.path, dict(request.headers), body))
        await asyncio.sleep(self.delay_s)
        await Response(said, status_code=self.status, headers={
            "location": "https://elsewhere", "content-type": "application/protobuf",
        })(scope, receive, send)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(5.0)


@pytest.fixture
def superlink(tmp_path: Path) -> Iterator[OddSuperLink]:
    found = OddSuperLink(tmp_path)
    yield found
    found.stop()


class NodeKey(str):
    """Header value of a node's public key, with the file of the private one."""

    private: Path


def node_key(folder: Path, site: str) -> NodeKey:
    private = new_node_key(folder, site)
    made = NodeKey(base64.b64encode(NodeKeys(folder).by_site()[site]).decode("ascii"))
    made.private = private
    return made


@pytest.fixture
def key(tmp_path: Path) -> NodeKey:
    """A registered node's."""
    return node_key(tmp_path / "nodes", "hospital-0")


def call(
    tmp_path: Path, superlink: OddSuperLink, path: str = HEARTBEAT, *, method: str = "POST",
    headers: dict[str, str] | None = None, content: Any = b"question",
    limits: LimitsSection | None = None, port: int | None = None,
) -> httpx.Response:
    """One exchange through a gateway in this process."""
    async def exchange() -> httpx.Response:
        gateway = Gateway(
            superlink=f"127.0.0.1:{port or superlink.port}", certificate=superlink.certificate,
            keys=NodeKeys(tmp_path / "nodes"), limits=limits or LimitsSection(),
            wake_file=tmp_path / "pushed",
        )
        transport = httpx.ASGITransport(gateway, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="https://gateway") as client:
            try:
                return await client.request(method, path, headers=headers, content=content)
            finally:
                await gateway.close()

    return asyncio.run(exchange())


def known(key: NodeKey, *, off_s: float = 0.0, **more: str) -> dict[str, str]:
    """What a node shows of itself, by a clock that is off by so much."""
    now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=off_s)
    private = load_ssh_private_key(key.private.read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    signature = private.sign(now.isoformat().encode("ascii"), ec.ECDSA(hashes.SHA256()))
    return {"flwr-public-key": key, "flwr-timestamp": now.isoformat(),
            "flwr-signature": base64.b64encode(signature).decode("ascii"), **more}


@pytest.mark.parametrize("path", [
    "/v1/control/start-run", "/v1/control/register-node", "/v1/control/list-runs",
    "/v1/runtime/acquire-task", "/v1/runtime/pull-messages", "/v1/fleet/register-node",
    "/v1/fleet/unregister-node", "/v1/fleet/", "/v1/fleet/pull-messages/",
    "/v1/fleet/pull-messages?x=1", "/v1/fleet/%2e%2e/control/start-run", "//v1/fleet/get-run",
    "/v1/fleet/..;/control/start-run", "/V1/FLEET/GET-RUN", "/docs", "/openapi.json", "/",
])
def test_an_outsider_reaches_nothing_but_the_nodes_calls(
    tmp_path: Path, superlink: OddSuperLink, key: NodeKey, path: str
) -> None:
    assert call(tmp_path, superlink, path, headers=known(key)).status_code == 403
    assert superlink.seen == []


@pytest.mark.parametrize("method", ["GET", "PUT", "OPTIONS", "TRACE", "DELETE"])
def test_no_method_but_post(
    tmp_path: Path, superlink: OddSuperLink, key: NodeKey, method: str
) -> None:
    answer = call(tmp_path, superlink, method=method, headers=known(key))
    assert answer.status_code == 403 and superlink.seen == []


def test_a_stranger_s_key_and_a_revoked_one_are_refused_at_once(
    tmp_path: Path, superlink: OddSuperLink, key: NodeKey
) -> None:
    stranger = node_key(tmp_path / "other", "stranger")
    for path in sorted(CALLS):
        assert call(tmp_path, superlink, path, headers=known(stranger)).status_code == 401
        assert call(tmp_path, superlink, path).status_code == 401
        bad = known(stranger, **{"flwr-public-key": "%"})
        assert call(tmp_path, superlink, path, headers=bad).status_code == 401
    assert superlink.seen == []
    assert call(tmp_path, superlink, headers=known(key)).status_code == 200
    (tmp_path / "nodes" / "hospital-0.pub").unlink()
    assert call(tmp_path, superlink, headers=known(key)).status_code == 401


def test_who_knows_a_nodes_public_key_alone_reaches_nothing(
    tmp_path: Path, superlink: OddSuperLink, key: NodeKey
) -> None:
    """It stands in a file that was mailed. The SuperLink reads a body before it asks who sent it:
    some hundred MiB each, from somebody who can sign nothing."""
    stranger, good = node_key(tmp_path / "other", "stranger"), known(key)
    later = datetime.datetime.now(datetime.UTC).isoformat()
    for forged in (
        {"flwr-public-key": key}, {**good, "flwr-signature": "%"},
        {**good, "flwr-signature": known(stranger)["flwr-signature"]},
        {**good, "flwr-timestamp": later}, {**good, "flwr-timestamp": "now"},
        known(key, off_s=-3600.0), known(key, off_s=60.0),
    ):
        for path in sorted(CALLS):
            assert call(tmp_path, superlink, path, headers=forged).status_code == 401
    assert superlink.seen == []
    assert call(tmp_path, superlink, headers=known(key, off_s=-250.0)).status_code == 200


def test_one_hospital_cannot_hold_every_place(
    tmp_path: Path, superlink: OddSuperLink, key: NodeKey
) -> None:
    """It leaves all its exchanges half done; the others are served all the same."""
    other = node_key(tmp_path / "nodes", "hospital-1")
    limits = LimitsSection(max_per_site=4, idle_s=3.0)

    async def slow() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(2.0)

    async def attack() -> tuple[list[int], int]:
        gateway = Gateway(
            superlink=f"127.0.0.1:{superlink.port}", certificate=superlink.certificate,
            keys=NodeKeys(tmp_path / "nodes"), limits=limits, wake_file=tmp_path / "pushed",
        )
        transport = httpx.ASGITransport(gateway)
        async with httpx.AsyncClient(transport=transport, base_url="https://gateway") as client:
            many = [asyncio.create_task(client.post(HEARTBEAT, headers=known(key), content=slow()))
                    for _ in range(10)]
            await asyncio.sleep(0.5)
            answer = await client.post(HEARTBEAT, headers=known(other), content=b"x")
            found = [one.status_code for one in await asyncio.gather(*many)]
            again = await client.post(HEARTBEAT, headers=known(key), content=b"x")
        await gateway.close()
        assert again.status_code == 200
        return found, answer.status_code

    found, answer = asyncio.run(attack())
    assert answer == 200
    assert sorted(found) == [200] * 4 + [503] * 6


def test_a_replaced_key_counts_from_that_moment(
    tmp_path: Path, superlink: OddSuperLink, key: NodeKey
) -> None:
    keys = NodeKeys(tmp_path / "nodes")
    old = base64.b64decode(key)
    assert keys.site_of(old) == "hospital-0"
    new_node_key(tmp_path / "nodes", "hospital-0")
    assert keys.site_of(old) is None
    (tmp_path / "nodes" / "hospital-0.pub").write_text("ssh-rsa nonsense")
    assert keys.by_site() == {}


def test_what_passes_is_the_node_s_and_nothing_else_of_the_caller(
    tmp_path: Path, superlink: OddSuperLink, key: NodeKey
) -> None:
    answer = call(tmp_path, superlink, headers=known(
        key, **{"flwr-task-token": "stolen", "flwr-superexec-signature": "x",
                "authorization": "Bearer y", "x-forwarded-for": "10.0.0.1", "cookie": "a=b"}))
    assert (answer.status_code, answer.content) == (200, b"answer")
    assert "location" not in answer.headers
    ((method, path, headers, body),) = superlink.seen
    assert (method, path, body) == ("POST", HEARTBEAT, b"question")
    assert headers["flwr-public-key"] == key
    assert not {"flwr-task-token", "flwr-superexec-signature", "authorization",
                "x-forwarded-for", "cookie"} & headers.keys()


@pytest.mark.parametrize("path", [HEARTBEAT, PULL])
@pytest.mark.parametrize("status", [500, 501, 502, 503, 599])
def test_a_failing_superlink_never_shows_as_500(
    tmp_path: Path, superlink: OddSuperLink, key: NodeKey, status: int, path: str
) -> None:
    superlink.status = status
    assert call(tmp_path, superlink, path, headers=known(key)).status_code == 502


@pytest.mark.parametrize("path", [HEARTBEAT, PULL])
def test_a_dead_and_a_hanging_superlink_are_502_and_504(
    tmp_path: Path, superlink: OddSuperLink, key: NodeKey, path: str
) -> None:
    nobody = free_ports(1)[0]
    assert call(tmp_path, superlink, path, headers=known(key), port=nobody).status_code == 502
    superlink.delay_s = 1.5
    limits = LimitsSection(request_s=0.5)
    assert call(tmp_path, superlink, path, headers=known(key), limits=limits).status_code == 504


def test_too_large_bodies_are_cut_off_declared_or_not(
    tmp_path: Path, superlink: OddSuperLink, key: NodeKey
) -> None:
    limits = LimitsSection(max_request_mib=1)

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b"x" * 65_536

    big = b"x" * ((1 << 20) + 1)
    assert call(tmp_path, superlink, headers=known(key), content=big,
                limits=limits).status_code == 413
    assert call(tmp_path, superlink, headers=known(key), content=endless(),
                limits=limits).status_code == 413
    assert call(tmp_path, superlink, PULL, headers=known(key), content=b"x" * 70_000,
                limits=limits).status_code == 413
    assert superlink.seen == []


def test_a_body_that_stops_coming_is_503(
    tmp_path: Path, superlink: OddSuperLink, key: NodeKey
) -> None:
    """Over a bad line that is nobody's fault, and a node tries only 502 to 504 again."""
    async def receive() -> Any:
        nonlocal turns
        turns += 1
        if turns > 1:
            await asyncio.sleep(3.0)
        return {"type": "http.request", "body": b"x", "more_body": True}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def exchange() -> None:
        gateway = Gateway(
            superlink=f"127.0.0.1:{superlink.port}", certificate=superlink.certificate,
            keys=NodeKeys(tmp_path / "nodes"), limits=LimitsSection(idle_s=0.2),
            wake_file=tmp_path / "pushed",
        )
        await gateway({
            "type": "http", "method": "POST", "path": HEARTBEAT, "query_string": b"",
            "raw_path": HEARTBEAT.encode(), "scheme": "https", "server": ("g", 1),
            "headers": [(n.encode(), v.encode()) for n, v in known(key).items()],
        }, receive, send)
        await gateway.close()

    turns = 0
    asyncio.run(exchange())
    assert sent[0]["status"] == 503


@pytest.mark.parametrize(("young_s", "level"), [(60.0, "INFO"), (0.0, "WARNING")])
def test_a_superlink_that_still_starts_is_no_warning(
    tmp_path: Path, superlink: OddSuperLink, key: NodeKey, young_s: float, level: str,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(gateway_module, "_STARTING_S", young_s)
    caplog.set_level("INFO", logger="medunlearn.gateway")
    assert call(tmp_path, superlink, headers=known(key), port=free_ports(1)[0]).status_code == 502
    (said,) = [r for r in caplog.records if r.name == "medunlearn.gateway"]
    assert said.levelname == level


def test_an_empty_look_is_held_until_messages_were_pushed(
    tmp_path: Path, superlink: OddSuperLink, key: NodeKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_module, "_LOOK_AGAIN_S", 30.0)
    superlink.body = b""
    wake = tmp_path / "pushed"
    wake.touch()
    os.utime(wake, (1, 1))

    def push() -> None:
        while not superlink.seen:
            time.sleep(0.01)
        superlink.body = b"message"
        wake.touch()

    pusher = threading.Thread(target=push)
    pusher.start()
    answer = call(tmp_path, superlink, PULL, headers=known(key))
    pusher.join()
    assert (answer.status_code, answer.content) == (200, b"message")
    assert len(superlink.seen) == 2


def test_a_node_that_is_revoked_while_its_look_is_held_gets_nothing(
    tmp_path: Path, superlink: OddSuperLink, key: NodeKey
) -> None:
    superlink.body = b""
    wake = tmp_path / "pushed"
    wake.touch()
    os.utime(wake, (1, 1))

    def revoke_then_push() -> None:
        while not superlink.seen:
            time.sleep(0.01)
        (tmp_path / "nodes" / "hospital-0.pub").unlink()
        superlink.body = b"message"
        wake.touch()

    pusher = threading.Thread(target=revoke_then_push)
    pusher.start()
    answer = call(tmp_path, superlink, PULL, headers=known(key))
    pusher.join()
    assert (answer.status_code, answer.content) == (401, b"")
    assert len(superlink.seen) == 1  # the message stays where it is


def test_a_held_look_ends_empty_in_time(
    tmp_path: Path, superlink: OddSuperLink, key: NodeKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_module, "HOLD_S", 0.3)
    superlink.body = b""
    answer = call(tmp_path, superlink, PULL, headers=known(key))
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize("served_before", [False, True])
def test_a_header_that_never_ends_holds_no_connection(
    monkeypatch: pytest.MonkeyPatch, served_before: bool
) -> None:
    """Slow loris, also by whoever was served once on that connection."""
    monkeypatch.setattr(gateway_process, "_HEADER_S", 1.0)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await Response(b"served")(scope, receive, send)

    server = uvicorn.Server(uvicorn.Config(
        app, port=free_ports(1)[0], lifespan="off", log_config=None, interface="asgi3",
        http=gateway_process.PatientProtocol, timeout_keep_alive=60,
    ))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        with socket.create_connection(("127.0.0.1", server.config.port), timeout=5.0) as slow:
            if served_before:
                slow.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert slow.recv(1000).endswith(b"served")
            idle = socket.create_connection(("127.0.0.1", server.config.port), timeout=5.0)
            with idle:
                idle.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert idle.recv(1000).endswith(b"served")
                for letter in b"POST /x":
                    slow.sendall(bytes([letter]))
                    time.sleep(0.1)
                with suppress(ConnectionResetError):
                    assert slow.recv(1) == b""
                # One that waits between two whole requests is no attacker.
                idle.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert idle.recv(1000).endswith(b"served")
    finally:
        server.should_exit = True
        thread.join(5.0)

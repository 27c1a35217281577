"""An outsider at a real SuperLink behind the real gateway, and at the control port.

Each attack is shown to work where the guard is not: at the SuperLink's own port, on loopback.
"""

from __future__ import annotations

import base64
import datetime
import json
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.proto.control_pb2 import ListRunsRequest, RegisterNodeRequest
from flwr.proto.fleet_pb2 import ActivateNodeRequest, ActivateNodeResponse, PullMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from google.protobuf.message import Message as Proto
from loopback_federation import Authority, Federation, new_node_key, three_sites

from medunlearn_common.errors import MedunlearnError
from medunlearn_common.processes import Children, ChildSpec, wait_until
from medunlearn_server.service.client import ControlClient
from medunlearn_server.service.gateway_process import SEEN_FILE
from medunlearn_server.service.loopback_tls import new_loopback_tls
from medunlearn_server.service.node_keys import NodeKeys
from medunlearn_server.service.superlink import SuperLink

pytestmark = pytest.mark.flower
_MEDIA = {"content-type": "application/protobuf", "accept": "application/protobuf"}


class Site:
    """SuperLink and gateway of a federation with one registered node."""

    def __init__(self, root: Path) -> None:
        self.federation = Federation(root, three_sites())
        folder = self.folder = self.federation.folder
        folder.state.mkdir()
        tls = new_loopback_tls(folder.state)
        self.superlink = SuperLink(folder, tls)
        self.superlink.prepare()
        gateway = ChildSpec(
            name="gateway", environment=self.superlink.environment, grace_s=3.0,
            command=(sys.executable, "-m", "medunlearn_server.service.gateway_process",
                     str(folder.path)),
            log_file=folder.logs / "gateway.log",
        )
        self.children = Children([self.superlink.children()[0], gateway])
        self.children.start()
        public = f"https://127.0.0.1:{self.federation.public}"
        loopback = f"https://{folder.config.listen.superlink}"
        self.outside = httpx.Client(base_url=public, verify=str(folder.path / "tls/ca.pem"))
        self.inside = httpx.Client(base_url=loopback, verify=str(tls.certificate))
        for client in (self.outside, self.inside):
            wait_until(lambda client=client: _answers(client), deadline_s=120.0, what="a server")

    def stop(self) -> None:
        self.outside.close()
        self.inside.close()
        self.children.stop()


def _answers(client: httpx.Client) -> bool:
    try:
        client.get("/", timeout=2.0)
    except httpx.TransportError:
        return False
    return True


def post(client: httpx.Client, path: str, request: Proto, **headers: str) -> httpx.Response:
    return client.post(path, content=request.SerializeToString(), headers=_MEDIA | headers,
                       timeout=30.0)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    found = Site(tmp_path_factory.mktemp("outsiders"))
    yield found
    found.stop()


def signed(folder: Path, *, private: Path, moment: datetime.datetime | None = None
           ) -> tuple[bytes, dict[str, str]]:
    """A node's key, and headers with its signature on a moment."""
    key = load_ssh_private_key(private.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    (pem,) = NodeKeys(folder).by_site().values()
    at = (moment or datetime.datetime.now(datetime.UTC)).isoformat()
    signature = key.sign(at.encode("ascii"), ec.ECDSA(hashes.SHA256()))
    return pem, {"flwr-public-key": base64.b64encode(pem).decode(),
                 "flwr-signature": base64.b64encode(signature).decode(), "flwr-timestamp": at}


def test_an_outsider_neither_starts_runs_nor_registers_nodes_nor_takes_tasks(site: Site) -> None:
    attacks: list[tuple[str, Proto]] = [
        ("/v1/control/list-runs", ListRunsRequest()),
        ("/v1/control/register-node", RegisterNodeRequest(public_key=b"x")),
        ("/v1/runtime/acquire-task", AcquireTaskRequest()),
    ]
    for path, request in attacks:
        direct = post(site.inside, path, request)
        assert direct.status_code != 403  # the call exists there
        refused = post(site.outside, path, request)
        assert (refused.status_code, refused.content) == (403, b"")
    assert post(site.inside, *attacks[0]).status_code == 200  # and worked without any proof
    # Even inside, a task needs the executor's secret.
    assert post(site.inside, *attacks[2]).status_code == 401


def test_a_node_that_is_not_registered_does_not_get_in(site: Site, tmp_path: Path) -> None:
    private = new_node_key(tmp_path, "stranger")
    pem, headers = signed(tmp_path, private=private)
    request = ActivateNodeRequest(public_key=pem, heartbeat_interval=30.0)
    assert post(site.outside, "/v1/fleet/activate-node", request, **headers).status_code == 401
    assert post(site.inside, "/v1/fleet/activate-node", request, **headers).status_code >= 400


def test_a_registered_node_gets_in_and_its_calls_are_no_use_to_others(
    site: Site, tmp_path: Path
) -> None:
    folder, nodes = site.federation.site_folders[0] / "node", site.folder.nodes
    site.superlink.register(nodes / "hospital-0.pub", name="hospital-0")
    pem, headers = signed(folder, private=folder / "node.key")
    request = ActivateNodeRequest(public_key=pem, heartbeat_interval=30.0)
    answer = post(site.outside, "/v1/fleet/activate-node", request, **headers)
    assert answer.status_code == 200
    node_id = ActivateNodeResponse.FromString(answer.content).node_id
    seen = json.loads((site.folder.state / SEEN_FILE).read_text())
    assert seen.keys() == {"hospital-0"}
    pull = PullMessagesRequest(node=Node(node_id=node_id))
    # Replay of an old signature, a signature by another key, and another node's id.
    hour_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    _, old = signed(folder, private=folder / "node.key", moment=hour_ago)
    assert post(site.outside, "/v1/fleet/pull-messages", pull, **old).status_code == 401
    _, forged = signed(folder, private=new_node_key(tmp_path, "thief"))
    assert post(site.outside, "/v1/fleet/pull-messages", pull, **forged).status_code == 401
    other = PullMessagesRequest(node=Node(node_id=node_id + 1))
    assert post(site.outside, "/v1/fleet/pull-messages", other, **headers).status_code == 401
    # Revoked: refused from that moment on, although the SuperLink still knows the key.
    (nodes / "hospital-0.pub").rename(tmp_path / "revoked")
    _, fresh = signed(folder, private=folder / "node.key")
    assert post(site.outside, "/v1/fleet/pull-messages", pull, **fresh).status_code == 401


def test_the_public_port_speaks_modern_tls_only_and_no_plain_http(site: Site) -> None:
    port = site.federation.public
    with socket.create_connection(("127.0.0.1", port), timeout=10.0) as plain:
        plain.sendall(b"POST /v1/fleet/get-run HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        assert not plain.recv(100).startswith(b"HTTP")
    context = ssl.create_default_context(cafile=str(site.folder.path / "tls/ca.pem"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", port), timeout=10.0) as old, \
            pytest.raises(ssl.SSLError):
        context.wrap_socket(old, server_hostname="127.0.0.1")


def test_a_certificate_is_renewed_without_a_restart(site: Site) -> None:
    tls = site.folder.path / "tls"

    def serial() -> bytes:
        context = ssl.create_default_context(cafile=str(tls / "ca.pem"))
        with socket.create_connection(("127.0.0.1", site.federation.public), timeout=10.0) as raw, \
                context.wrap_socket(raw, server_hostname="127.0.0.1") as secured:
            return secured.getpeercert(binary_form=True) or b""

    before, pid = serial(), site.children["gateway"].pid
    site.federation.authority.issue(tls, "server", server=True)
    wait_until(lambda: serial() != before, deadline_s=30.0, what="the new certificate")
    assert site.children["gateway"].pid == pid


def test_nobody_without_a_client_certificate_sees_a_status(tmp_path: Path) -> None:
    from control_lab import control_server  # its own service, without a SuperLink

    with control_server(tmp_path) as (federation, address):
        folder = federation.folder
        with ControlClient(folder) as client:
            assert client.status().version
        ca = folder.tls("ca").read_bytes()
        stranger = Authority("strangers")
        stranger.issue(tmp_path / "stranger", "client", server=False)
        pairs = {
            "none": (None, None), "stranger's": ("client.key", "client.pem"),
        }
        for key, chain in pairs.values():
            credentials = grpc.ssl_channel_credentials(
                ca, (tmp_path / "stranger" / key).read_bytes() if key else None,
                (tmp_path / "stranger" / chain).read_bytes() if chain else None)
            _refused(address, credentials)
        # The server's own certificate is no client's.
        _refused(address, grpc.ssl_channel_credentials(
            ca, folder.tls("key").read_bytes(), folder.tls("certificate").read_bytes()))
        with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary("/medunlearn.coordinator.v1.Control/Status")(b"", timeout=3.0)


def _refused(address: str, credentials: grpc.ChannelCredentials) -> None:
    with grpc.secure_channel(address, credentials) as channel, \
            pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/medunlearn.coordinator.v1.Control/Status")(b"", timeout=3.0)
    assert caught.value.code() in (
        grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def test_control_calls_carry_codes_and_a_wish_is_all_they_write(tmp_path: Path) -> None:
    from control_lab import control_server

    with control_server(tmp_path) as (federation, _), ControlClient(federation.folder) as client:
        plan = federation.plan_file().read_bytes()
        run = client.launch(plan, nonce="cd" * 8)
        assert client.launch(plan, nonce="cd" * 8).run_id == run.run_id
        assert client.pause(run.run_id).directive == "pause"
        assert client.resume(run.run_id).directive == "run"
        assert client.stop(run.run_id).directive == "stop"
        for call, code in ((lambda: client.pause("no-such-run"), "RUN_UNKNOWN"),
                           (lambda: client.launch(b"[run]\nrounds = 0"), "PLAN_INVALID"),
                           (lambda: client.publish(run.run_id), "RUN_STATE")):
            with pytest.raises(MedunlearnError) as caught:
                call()
            assert caught.value.code == code and caught.value.hint
        assert [r.state for r in client.runs()] == ["pending"]  # nobody conducts here
        (federation.folder.run(run.run_id) / "directive").write_text("")
        assert [r.directive for r in client.runs()] == ["unreadable"]
        assert client.resume(run.run_id).directive == "run"
        assert time.time() - client.status().started < 600.0

"""The federation's certificates over real TLS sockets, and what doctor says of bad ones."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from medunlearn_common.doctor import Finding
from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.pki import (
    KeyPair,
    issue_client,
    issue_server,
    new_authority,
    read_pair,
    require_server_chain,
    write_pair,
)
from medunlearn_common.shared_checks import check_gateway

NOW = time.time()
DAY_S = 86_400
CA, OTHER_CA = new_authority("heart", now=NOW), new_authority("heart", now=NOW)


@contextmanager
def gateway(folder: Path, pair: KeyPair, *, clock_off_s: float = 0.0, client_ca: KeyPair | None =
            None) -> Iterator[int]:
    """A TLS server that refuses everything, as the gateway does for strangers; gives its port."""
    write_pair(pair, certificate=folder / "s.pem", key=folder / "s.key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "s.pem", folder / "s.key")
    if client_ca is not None:
        write_pair(client_ca, certificate=folder / "cca.pem", key=folder / "cca.key")
        context.load_verify_locations(folder / "cca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.05)  # closing does not wake accept()
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            try:
                plain, _ = listener.accept()
                plain.settimeout(5.0)
                with context.wrap_socket(plain, server_side=True) as connection:
                    connection.recv(4096)
                    date = formatdate(time.time() + clock_off_s, usegmt=True)
                    connection.sendall(
                        f"HTTP/1.1 403 Forbidden\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n"
                        .encode())
            except OSError:
                continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        stop.set()
        listener.close()
        thread.join(15.0)


def findings(folder: Path, port: int, authority: KeyPair = CA, host: str = "localhost"
             ) -> list[Finding]:
    write_pair(authority, certificate=folder / "ca.pem", key=folder / "ca.key")
    return list(check_gateway(host, port, folder / "ca.pem", now=time.time))


def codes(found: list[Finding], level: str = "") -> list[str]:
    return [finding.code for finding in found if level in ("", finding.level)]


def test_a_good_gateway_is_reachable_with_tls_and_the_right_clock(tmp_path: Path) -> None:
    pair = issue_server(CA, ["localhost", "127.0.0.1", "::1"], now=NOW)
    with gateway(tmp_path, pair) as port:
        assert codes(findings(tmp_path, port)) == ["REACHABLE", "TLS", "CLOCK"]
        assert "TLS" in codes(findings(tmp_path, port, host="127.0.0.1"))


@pytest.mark.parametrize("off_s, code", [
    (60.0, "CLOCK_DRIFT"), (-60.0, "CLOCK_OFF"), (600.0, "CLOCK_OFF"), (-3.5, "CLOCK_DRIFT"),
])
def test_a_wrong_clock_is_told_by_its_side(tmp_path: Path, off_s: float, code: str) -> None:
    """Nodes may be 300 s behind, but 5 s ahead only: off_s is the coordinator's clock."""
    with gateway(tmp_path, issue_server(CA, ["localhost"], now=NOW), clock_off_s=off_s) as port:
        assert codes(findings(tmp_path, port))[-1] == code


def test_a_certificate_of_another_authority_is_refused(tmp_path: Path) -> None:
    with gateway(tmp_path, issue_server(OTHER_CA, ["localhost"], now=NOW)) as port:
        assert codes(findings(tmp_path, port), "problem") == ["TLS_OTHER_CA"]


def test_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    with gateway(tmp_path, issue_server(CA, ["lead.example.org"], now=NOW)) as port:
        assert codes(findings(tmp_path, port), "problem") == ["TLS_NAME"]


def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    pair = issue_server(CA, ["localhost"], now=NOW - 2 * DAY_S, days=1)
    with gateway(tmp_path, pair) as port:
        assert codes(findings(tmp_path, port), "problem") == ["TLS_EXPIRED"]


def test_a_certificate_that_soon_expires_is_a_warning(tmp_path: Path) -> None:
    with gateway(tmp_path, issue_server(CA, ["localhost"], now=NOW, days=9)) as port:
        assert codes(findings(tmp_path, port), "warning") == ["TLS_SOON"]


def test_a_clients_certificate_does_not_pass_for_a_servers(tmp_path: Path) -> None:
    with gateway(tmp_path, issue_client(CA, "localhost", now=NOW)) as port:
        assert len(codes(findings(tmp_path, port), "problem")) == 1


def test_a_servers_certificate_commands_nothing(tmp_path: Path) -> None:
    """Mutual TLS admits the command line's certificate, and not a stolen server's."""
    server = issue_server(CA, ["localhost"], now=NOW)
    with gateway(tmp_path, server, client_ca=CA) as port:
        admitted = {}
        for name, pair in (("client", issue_client(CA, "control-client", now=NOW)),
                           ("server", issue_server(CA, ["thief"], now=NOW)),
                           ("rival", issue_client(OTHER_CA, "control-client", now=NOW))):
            write_pair(pair, certificate=tmp_path / "c.pem", key=tmp_path / "c.key")
            write_pair(CA, certificate=tmp_path / "ca.pem", key=tmp_path / "ca.key")
            context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
            context.load_cert_chain(tmp_path / "c.pem", tmp_path / "c.key")
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=5.0) as plain, \
                        context.wrap_socket(plain, server_hostname="localhost") as connection:
                    connection.sendall(b"HEAD / HTTP/1.1\r\n\r\n")
                    admitted[name] = connection.recv(64).startswith(b"HTTP/1.1 403")
            except OSError:
                admitted[name] = False
    assert admitted == {"client": True, "server": False, "rival": False}


def test_grpc_too_admits_clients_certificates_alone() -> None:
    """The control service is gRPC, whose TLS library is another one."""
    from concurrent.futures import ThreadPoolExecutor

    import grpc
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    from medunlearn_common.pki import to_pem

    def pems(pair: KeyPair) -> tuple[bytes, bytes]:
        key = pair.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return key, to_pem([pair.certificate])

    root = to_pem([CA.certificate])
    server = grpc.server(ThreadPoolExecutor(2))
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(
        [pems(issue_server(CA, ["localhost"], now=NOW))], root, require_client_auth=True))
    server.start()
    answers = {}
    for name, pair in (("client", issue_client(CA, "control-client", now=NOW)),
                       ("server", issue_server(CA, ["thief"], now=NOW)),
                       ("rival", issue_client(OTHER_CA, "control-client", now=NOW))):
        key, certificate = pems(pair)
        with grpc.secure_channel(f"localhost:{port}", grpc.ssl_channel_credentials(
                root, key, certificate)) as channel:
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary("/none/none")(b"", timeout=10.0)
            answers[name] = caught.value.code()
    server.stop(None)
    refused = grpc.StatusCode.UNAVAILABLE
    assert answers == {"client": grpc.StatusCode.UNIMPLEMENTED, "server": refused,
                       "rival": refused}


def test_a_leaf_signs_no_further_certificates(tmp_path: Path) -> None:
    thief = issue_server(CA, ["localhost"], now=NOW)
    forged = issue_server(thief, ["localhost"], now=NOW)
    with pytest.raises(Rejected):
        require_server_chain([forged.certificate, thief.certificate], [CA.certificate],
                             "localhost", now=NOW)


def test_the_authority_makes_no_further_authorities(tmp_path: Path) -> None:
    """One that it signed all the same is not believed: who stole its key cannot hand it on."""
    lower = new_authority("lower", now=NOW)
    plain = lower.certificate
    builder = x509.CertificateBuilder(
        issuer_name=CA.certificate.subject, subject_name=plain.subject,
        public_key=plain.public_key(), serial_number=plain.serial_number,
        not_valid_before=plain.not_valid_before_utc, not_valid_after=plain.not_valid_after_utc,
        extensions=list(plain.extensions))
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(CA.key.public_key())
    signed = builder.add_extension(identifier, critical=False).sign(CA.key, hashes.SHA256())
    leaf = issue_server(KeyPair(key=lower.key, certificate=signed), ["localhost"], now=NOW)
    with pytest.raises(Rejected) as caught:
        require_server_chain([leaf.certificate, signed], [CA.certificate], "localhost", now=NOW)
    assert caught.value.code == "TLS_OTHER_CA"


def test_a_port_without_tls_and_one_without_anybody(tmp_path: Path) -> None:
    write_pair(CA, certificate=tmp_path / "ca.pem", key=tmp_path / "ca.key")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def talk() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(16)
                connection.sendall(b"SSH-2.0-OpenSSH\r\n")

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        assert codes(findings(tmp_path, port), "problem") == ["TLS_FAILED"]
        thread.join(5.0)
    assert codes(findings(tmp_path, port), "problem") == ["UNREACHABLE"]
    assert codes(findings(tmp_path, port, host="no-such-host.invalid")) == ["HOST_UNKNOWN"]


def test_a_key_that_others_can_read_is_not_opened(tmp_path: Path) -> None:
    write_pair(CA, certificate=tmp_path / "ca.pem", key=tmp_path / "ca.key")
    assert read_pair(certificate=tmp_path / "ca.pem", key=tmp_path / "ca.key").key
    (tmp_path / "ca.key").chmod(0o640)
    with pytest.raises(Misconfigured) as caught:
        read_pair(certificate=tmp_path / "ca.pem", key=tmp_path / "ca.key")
    assert caught.value.code == "KEY_FILE_MODE"


def test_the_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    write_pair(CA, certificate=tmp_path / "ca.pem", key=tmp_path / "x.key")
    write_pair(OTHER_CA, certificate=tmp_path / "x.pem", key=tmp_path / "ca.key")
    with pytest.raises(Misconfigured) as caught:
        read_pair(certificate=tmp_path / "ca.pem", key=tmp_path / "ca.key")
    assert caught.value.code == "TLS_KEY_OTHER"


@pytest.mark.parametrize("name", ["https://lead", "lead:9443", "", "a b", "-"])
def test_names_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        issue_server(CA, [name], now=NOW)
    assert caught.value.code == "TLS_NAMES"


def test_no_key_is_shown() -> None:
    assert "redacted" in repr(CA) and "PRIVATE" not in repr(CA)

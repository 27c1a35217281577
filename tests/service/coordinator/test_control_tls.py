"""The control port takes up renewed certificates, and at no time anything else."""

from __future__ import annotations

import shutil
import socket
import ssl
from pathlib import Path

import pytest
from control_lab import control_server
from cryptography import x509
from loopback_federation import Authority, Federation, three_sites

from medunlearn_common.errors import MedunlearnError, Misconfigured
from medunlearn_server.service.client import ControlClient
from medunlearn_server.service.control_tls import ControlTls


def shown(address: str, tls: Path) -> int:
    """Serial number of the certificate that the port presents to a holder of a client's."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cafile=str(tls / "ca.pem"))
    context.load_cert_chain(tls / "control-client.pem", tls / "control-client.key")
    context.set_alpn_protocols(["h2"])
    with (socket.create_connection((host, int(port)), timeout=10) as plain,
          context.wrap_socket(plain, server_hostname="localhost") as sealed):
        return x509.load_der_x509_certificate(sealed.getpeercert(True) or b"").serial_number


def serial(tls: Path) -> int:
    return x509.load_pem_x509_certificate((tls / "server.pem").read_bytes()).serial_number


def answers(federation: Federation) -> bool:
    with ControlClient(federation.folder) as client:
        return bool(client.status().version)


def test_a_renewed_certificate_is_presented_without_a_restart(tmp_path: Path) -> None:
    with control_server(tmp_path) as (federation, address):
        tls = federation.path / "tls"
        before = serial(tls)
        assert shown(address, tls) == before
        with ControlClient(federation.folder) as open_before:
            assert open_before.status().version
            federation.authority.issue(tls, "server", server=True)
            assert serial(tls) != before and shown(address, tls) == serial(tls)
            assert answers(federation)
            assert open_before.status().version, "who is connected stays connected"


def test_a_half_written_renewal_is_not_presented(tmp_path: Path) -> None:
    with control_server(tmp_path) as (federation, address):
        tls = federation.path / "tls"
        before = serial(tls)
        federation.authority.issue(tmp_path / "new", "server", server=True)
        shutil.copy2(tmp_path / "new" / "server.pem", tls / "server.pem")  # its key: not yet
        assert shown(address, tls) == before and answers(federation)
        shutil.copy2(tmp_path / "new" / "server.key", tls / "server.key")
        assert shown(address, tls) == serial(tls) != before
        for damaged in (b"", b"-----BEGIN CERTIFICATE-----\n"):
            (tls / "ca.pem").write_bytes(damaged)
            federation.authority.write(tmp_path / "ca.pem")
            with pytest.raises(MedunlearnError):
                answers(federation)  # the client has no authority to believe
        federation.authority.write(tls / "ca.pem")
        assert shown(address, tls) == serial(tls) and answers(federation)


def test_a_client_of_the_authority_that_was_left_behind_is_refused(tmp_path: Path) -> None:
    with control_server(tmp_path) as (federation, _):
        tls, old = federation.path / "tls", tmp_path / "old"
        assert answers(federation)
        shutil.copytree(tls, old)
        authority = Authority("the next one")
        authority.issue(tls, "control-client", server=False)
        authority.issue(tls, "server", server=True)
        authority.write(tls / "ca.pem")
        assert answers(federation)
        for name in ("control-client.pem", "control-client.key"):
            shutil.copy2(old / name, tls / name)
        with pytest.raises(MedunlearnError):
            answers(federation)


def test_a_pair_that_does_not_fit_does_not_even_begin(tmp_path: Path) -> None:
    federation = Federation(tmp_path, three_sites())
    tls = federation.path / "tls"
    kept = (tls / "server.key").read_bytes()
    federation.authority.issue(tls, "server", server=True)
    (tls / "server.key").write_bytes(kept)
    with pytest.raises(Misconfigured, match="TLS_KEY_OTHER"):
        ControlTls(federation.folder)
    (tls / "server.key").unlink()
    with pytest.raises(Misconfigured, match="KEY_FILE_MISSING"):
        ControlTls(federation.folder)

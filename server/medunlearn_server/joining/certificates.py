"""New certificates for a coordinator: every year the leaves, sometimes the authority.

A new authority takes two steps, so that no hospital is ever locked out: first hospitals learn to
trust both (a refresh carries both, `medunlearn hospital join --refresh`), then the
server changes over.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cryptography import x509

from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import write_atomically
from medunlearn_common.pki import (
    issue_client,
    issue_server,
    new_authority,
    read_certificates,
    read_pair,
    to_pem,
    write_pair,
)
from medunlearn_server.service.config import CoordinatorFolder, open_folder

Rotation = Literal["leaves", "new-authority", "switch-authority"]


def rotate(folder: Path, kind: Rotation, *, now: float) -> list[str]:
    """Rotate; returns what to tell the operator.

    Raises:
        Misconfigured: TLS_ and KEY_FILE_ codes, TLS_NO_NEXT_AUTHORITY.
        Transient: WRITE_FAILED; what was there before is still whole.
    """
    coordinator = open_folder(folder)
    if kind == "new-authority":
        return _prepared(coordinator, now)
    if kind == "switch-authority":
        _switch(coordinator)
    return _leaves(coordinator, now)


def _leaves(coordinator: CoordinatorFolder, now: float) -> list[str]:
    tls, config = coordinator.path / "tls", coordinator.config.tls
    authority = read_pair(certificate=tls / "ca.pem", key=tls / "ca.key")
    client = issue_client(authority, "control-client", now=now)
    write_pair(client, certificate=coordinator.tls("client_certificate"),
               key=coordinator.tls("client_key"))
    told = []
    server = issue_server(authority, config.names, now=now)
    write_pair(server, certificate=coordinator.tls("control_certificate"),
               key=coordinator.tls("control_key"))
    if config.server_ca == config.ca:
        write_pair(server, certificate=coordinator.tls("certificate"), key=coordinator.tls("key"))
        until = server.certificate.not_valid_after_utc.strftime("%Y-%m-%d")
        told.append(f"server certificate for {', '.join(config.names)}, valid until {until}")
    else:
        told.append("the server's certificate is an institution's: copy its new files over "
                    f"{config.certificate} and {config.key} (mode 0600)")
    return [*told, "a service that runs takes them up by itself"]


def _prepared(coordinator: CoordinatorFolder, now: float) -> list[str]:
    tls = coordinator.path / "tls"
    following, trusted = _next_authority(tls), read_certificates(tls / "ca.pem")
    if following in trusted:
        raise Misconfigured("TLS_NEXT_AUTHORITY", "a next authority was made already",
                            "medunlearn coordinator refresh; once all hospitals have it: "
                            "rotate-certificate --switch-authority")
    if following is None:  # else a call before this one was killed: it is gone on with
        (tls / "ca-next.pem").unlink(missing_ok=True)  # of no key, if it is there
        made = new_authority(coordinator.config.federation.name, now=now)
        write_pair(made, certificate=tls / "ca-next.pem", key=tls / "ca-next.key")
        following = made.certificate
    write_atomically(tls / "ca.pem", to_pem([trusted[0], following]), private=False)
    return [
        "made the next authority; it is trusted beside the present one and not used yet",
        f"next: medunlearn coordinator refresh --folder {coordinator.path}, and send each hospital "
        "the file that it writes; they run `medunlearn hospital join --refresh FILE`",
        f"when all have: medunlearn coordinator rotate-certificate --folder {coordinator.path} "
        "--switch-authority",
    ]


def _switch(coordinator: CoordinatorFolder) -> None:
    tls = coordinator.path / "tls"
    following = _next_authority(tls)
    if following is None or following not in read_certificates(tls / "ca.pem"):
        raise Misconfigured("TLS_NO_NEXT_AUTHORITY",
                            "there is no next authority that hospitals could have",
                            "begin with rotate-certificate --new-authority")
    # The certificate first: read_pair refuses a mixed pair, and this step can be repeated.
    write_atomically(tls / "ca.pem", to_pem([following]), private=False)
    (tls / "ca-next.key").replace(tls / "ca.key")
    (tls / "ca-next.pem").unlink()


def _next_authority(tls: Path) -> x509.Certificate | None:
    """The one that was made and is not used yet; None unless both of its files are there."""
    certificate, key = tls / "ca-next.pem", tls / "ca-next.key"
    if not certificate.exists() or not key.exists():
        return None
    return read_pair(certificate=certificate, key=key).certificate

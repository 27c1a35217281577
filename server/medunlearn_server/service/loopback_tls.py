"""A certificate for this machine alone: between the gateway, the SuperLink and its executor.

Made anew whenever the service starts, so that no certificate of the outside world, and none of
its expiry dates, plays a part in here.
"""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from medunlearn_common.files import write_atomically

# A service that runs longer than this without a restart has other problems.
_LIFE_DAYS = 3_650


@dataclass(frozen=True, kw_only=True)
class LoopbackTls:
    """Paths of the certificate, which is its own root, and of its key."""

    certificate: Path
    key: Path


def new_loopback_tls(folder: Path) -> LoopbackTls:
    """Write a fresh self-signed certificate for 127.0.0.1, ::1 and localhost into ``folder``.

    Raises:
        Transient: WRITE_FAILED.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "medunlearn loopback")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([
        x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ])
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name)
        .public_key(key.public_key()).serial_number(x509.random_serial_number())
        # A clock that is set back while the service runs must not lock it out of itself.
        .not_valid_before(now - datetime.timedelta(days=_LIFE_DAYS))
        .not_valid_after(now + datetime.timedelta(days=_LIFE_DAYS))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    made = LoopbackTls(certificate=folder / "loopback.pem", key=folder / "loopback.key")
    write_atomically(made.key, key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ))
    write_atomically(made.certificate, certificate.public_bytes(serialization.Encoding.PEM))
    return made

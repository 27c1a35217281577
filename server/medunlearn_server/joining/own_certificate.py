"""A certificate that an institution's own authority signed, in place of one by the federation's.

It is for the gateway alone. Whom the control service admits is still signed by the federation's
own authority: an institution's signs for many people who are to command nothing here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import write_atomically
from medunlearn_common.identity import open_private_file
from medunlearn_common.pki import (
    read_certificates,
    require_authority,
    require_server_chain,
    to_pem,
)


@dataclass(frozen=True, kw_only=True)
class OwnCertificate:
    """Files of an institution's certificate: the chain with the leaf first, key, authority."""

    certificate: Path
    key: Path
    authority: Path


def adopt_certificate(
    own: OwnCertificate, name: str, *, certificate: Path, key: Path, authority: Path, now: float
) -> None:
    """Check an institution's files and copy them into the folder; nothing is written before.

    Raises:
        Misconfigured: TLS_CERTIFICATE_ codes, TLS_KEY_INVALID, TLS_KEY_OTHER, KEY_FILE_ codes.
        Rejected: TLS_EXPIRED, TLS_NOT_YET, TLS_OTHER_CA, TLS_NAME, TLS_NO_AUTHORITY.
    """
    chain, roots = read_certificates(own.certificate), read_certificates(own.authority)
    for root in roots:
        require_authority(root)
    require_server_chain(chain, roots, name, now=now)
    private = open_private_file(own.key)
    require_key_of(chain[0], private, name=own.key.name)
    write_atomically(key, private)
    write_atomically(certificate, to_pem(chain), private=False)
    write_atomically(authority, to_pem(roots), private=False)


def require_key_of(certificate: x509.Certificate, private: bytes, *, name: str) -> None:
    """Refuse a key that is not the certificate's; raises TLS_KEY_INVALID, TLS_KEY_OTHER."""
    try:
        found = load_pem_private_key(private, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Misconfigured("TLS_KEY_INVALID", f"{name} is no unencrypted private key in PEM",
                            "a service must open it unattended: mode 0600, no passphrase"
                            ) from None  # what the library says may quote the key
    if found.public_key() != certificate.public_key():
        raise Misconfigured("TLS_KEY_OTHER", f"{name} is not the key of the certificate",
                            "take the two files that were made together")

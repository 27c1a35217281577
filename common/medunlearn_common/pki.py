"""A federation's own certificate authority: P-256 keys, X.509 version 3, nothing else.

TLS keeps strangers out and hides sizes and times; what a message says is believed because of its
envelope, never because of the connection. So one authority per federation suffices, its
certificate travels in signed invitations, and no public authority is trusted.

Files: keys are PKCS#8 in PEM, mode 0600, not encrypted (a service must start unattended);
certificates are PEM, a chain begins with the leaf.

Guarantees:
    * A server's certificate does not pass for a client's, nor the other way round (extended key
      usage), so that no hospital and no stolen server key can command the control service.
    * The authority cannot make further authorities (path length 0).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.files import write_atomically
from medunlearn_common.identity.key_files import open_private_file

CA_DAYS, LEAF_DAYS = 3650, 397  # 397: the longest that TLS libraries agree to call sound
BACKDATED = timedelta(minutes=5)  # clocks of new machines
MAX_PEM_BYTES = 1 << 16
MAX_CERTIFICATES = 8
_HINT_ROTATE = "medunlearn coordinator rotate-certificate"


@dataclass(frozen=True, kw_only=True)
class KeyPair:
    """A private key and its certificate; ``repr`` gives nothing of the key."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def __repr__(self) -> str:
        return f"KeyPair({self.certificate.subject.rfc4514_string()}, <redacted>)"


def new_authority(name: str, *, now: float, days: int = CA_DAYS) -> KeyPair:
    """A self-signed authority of the federation ``name``."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _named(f"{name} medunlearn CA")
    certificate = (
        _builder(subject, subject, key.public_key(), now=now, days=days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return KeyPair(key=key, certificate=certificate)


def issue_server(
    authority: KeyPair, names: Sequence[str], *, now: float, days: int = LEAF_DAYS
) -> KeyPair:
    """A server's certificate for DNS names and IP addresses.

    Raises:
        Misconfigured: TLS_NAMES.
    """
    alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
    if not names:
        raise Misconfigured("TLS_NAMES", "a server certificate needs a name or an address",
                            "list in [tls] names under what hospitals reach the coordinator")
    return _leaf(authority, names[0], alternatives, ExtendedKeyUsageOID.SERVER_AUTH,
                 now=now, days=days)


def issue_client(
    authority: KeyPair, name: str, *, now: float, days: int = LEAF_DAYS
) -> KeyPair:
    """A certificate with which a command line shows itself to the control service."""
    alternatives = x509.SubjectAlternativeName([x509.DNSName(name)])
    return _leaf(authority, name, alternatives, ExtendedKeyUsageOID.CLIENT_AUTH,
                 now=now, days=days)


def _leaf(
    authority: KeyPair, name: str, alternatives: x509.SubjectAlternativeName,
    purpose: x509.ObjectIdentifier, *, now: float, days: int,
) -> KeyPair:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.certificate
    last_day = (issuer.not_valid_after_utc.timestamp() - now) / 86_400
    certificate = (
        _builder(_named(name), issuer.subject, key.public_key(), now=now,
                 days=min(float(days), last_day))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(alternatives, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(
            authority.key.public_key()), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    return KeyPair(key=key, certificate=certificate)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, now: float,
    days: float,
) -> x509.CertificateBuilder:
    start = datetime.fromtimestamp(int(now), UTC)
    return (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - BACKDATED).not_valid_after(start + timedelta(days=days))
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates, key_cert_sign=certificates, crl_sign=certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, encipher_only=False, decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    if name.isascii() and name and len(name) <= 253 and all(
        part and len(part) <= 63 and part.replace("-", "").replace("_", "").isalnum()
        for part in name.removeprefix("*.").split(".")
    ):
        return x509.DNSName(name)
    raise Misconfigured("TLS_NAMES", f"{name!a} is no DNS name or IP address",
                        "write each name alone, without port or https://")


def write_pair(pair: KeyPair, *, certificate: Path, key: Path) -> None:
    """Write key (0600) and certificate, the key first; raises WRITE_FAILED."""
    write_atomically(key, pair.key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    write_atomically(certificate, to_pem([pair.certificate]), private=False)


def read_pair(*, certificate: Path, key: Path) -> KeyPair:
    """A key with the first certificate of a file.

    Raises:
        Misconfigured: KEY_FILE_ codes, TLS_KEY_INVALID, TLS_KEY_OTHER if the two do not belong
            together, as :func:`read_certificates`.
    """
    leaf = read_certificates(certificate)[0]
    try:
        private = load_pem_private_key(open_private_file(key), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Misconfigured("TLS_KEY_INVALID", f"{key.name} is no private key in PEM",
                            _HINT_ROTATE) from None  # what the library says may quote the key
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise Misconfigured("TLS_KEY_INVALID", f"{key.name} is no elliptic-curve key",
                            "use a P-256 key")
    if private.public_key() != leaf.public_key():
        raise Misconfigured("TLS_KEY_OTHER", f"{key.name} is not the key of {certificate.name}",
                            _HINT_ROTATE)
    return KeyPair(key=private, certificate=leaf)


def to_pem(certificates: Sequence[x509.Certificate]) -> bytes:
    """A chain in PEM."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def read_certificates(path: Path) -> list[x509.Certificate]:
    """The certificates of a PEM file.

    Raises:
        Misconfigured: TLS_CERTIFICATE_MISSING, TLS_CERTIFICATE_INVALID.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Misconfigured("TLS_CERTIFICATE_MISSING", f"cannot read {path.name}: {error.strerror}",
                            "the folder's `init` writes it") from error
    try:
        return certificates_from_pem(data)
    except Rejected as error:
        raise Misconfigured("TLS_CERTIFICATE_INVALID", f"{path.name}: {error.message}",
                            "restore the file, or make it anew") from error


def certificates_from_pem(data: bytes) -> list[x509.Certificate]:
    """One to eight certificates; raises TLS_CERTIFICATE_INVALID."""
    try:
        if len(data) > MAX_PEM_BYTES:
            raise ValueError("too large")
        found = x509.load_pem_x509_certificates(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Rejected("TLS_CERTIFICATE_INVALID", "no certificate in PEM",
                       "ask the sender for the file again") from error
    if len(found) > MAX_CERTIFICATES:
        raise Rejected("TLS_CERTIFICATE_INVALID", f"more than {MAX_CERTIFICATES} certificates",
                       "send the authority's own certificate alone")
    return found


def require_authority(certificate: x509.Certificate) -> None:
    """Refuse a certificate that is no authority's; raises TLS_NO_AUTHORITY."""
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        if basic.ca:
            return
    except (x509.ExtensionNotFound, ValueError):
        pass
    raise Rejected("TLS_NO_AUTHORITY", "a certificate in place of the authority's is none of an "
                   "authority", "ask the coordinator for a new invitation, or for a refresh file "
                   "(medunlearn hospital join --refresh FILE) if this hospital takes part already")


def require_server_chain(
    chain: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate], name: str, *,
    now: float,
) -> None:
    """Check a server's chain as a hospital's TLS library does.

    Args:
        chain: The leaf first.
        authorities: Whom the hospital trusts.
        name: DNS name or IP address it connects to.
        now: Seconds since 1970.

    Raises:
        Rejected: TLS_EXPIRED, TLS_NOT_YET, TLS_OTHER_CA, TLS_NAME.
    """
    leaf = chain[0]
    require_in_time(leaf, now=now)
    subject = _general_name(name)
    assert_type: x509.verification.Subject = subject  # type: ignore[assignment]
    at = datetime.fromtimestamp(now, UTC)
    verifier = PolicyBuilder().store(Store(list(authorities))).time(at).build_server_verifier(
        assert_type)
    try:
        verifier.verify(leaf, list(chain[1:]))
    except VerificationError as error:
        if _covers(leaf, subject):
            raise Rejected("TLS_OTHER_CA", "the certificate does not lead to the federation's own "
                           "authority", "somebody stands in between, or the coordinator has a new "
                           "authority: ask for its refresh file, then medunlearn hospital join "
                           "--refresh FILE") from error
        raise Rejected("TLS_NAME", f"the certificate is not made out to {name}",
                       f"add it to [tls] names in coordinator.toml; {_HINT_ROTATE}") from error


def require_in_time(certificate: x509.Certificate, *, now: float) -> None:
    """Raises TLS_EXPIRED or TLS_NOT_YET."""
    if now > certificate.not_valid_after_utc.timestamp():
        until = certificate.not_valid_after_utc.strftime("%Y-%m-%d %H:%M")
        raise Rejected("TLS_EXPIRED", f"the certificate expired at {until} UTC", _HINT_ROTATE)
    if now < certificate.not_valid_before_utc.timestamp():
        since = certificate.not_valid_before_utc.strftime("%Y-%m-%d %H:%M")
        raise Rejected("TLS_NOT_YET", f"the certificate is valid from {since} UTC only",
                       "check this machine's clock")


def days_left(certificate: x509.Certificate, *, now: float) -> float:
    """Days until expiry; negative after it."""
    return (certificate.not_valid_after_utc.timestamp() - now) / 86_400


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """DNS names and IP addresses that a certificate is made out to."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    addresses = (str(address) for address in found.get_values_for_type(x509.IPAddress))
    return (*found.get_values_for_type(x509.DNSName), *addresses)


def _covers(certificate: x509.Certificate, name: x509.GeneralName) -> bool:
    wanted = str(name.value)
    return any(
        known == wanted or (known.startswith("*.") and wanted.partition(".")[2] == known[2:])
        for known in names_of(certificate)
    )

"""A hospital's own keys beside the signing key in force: its node's, and those that come next."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_ssh_private_key,
)

from medunlearn_common import __version__
from medunlearn_common.code_digest import installed_code_digest
from medunlearn_common.enrolment import Enrolment, node_public_key, write_enrolment
from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import write_atomically
from medunlearn_common.identity import SigningIdentity, open_private_file
from medunlearn_common.identity.commands import read_entry
from medunlearn_common.roster import Party
from medunlearn_common.trust_folder import KEY_FILE

NEXT_FOLDER: Final = "next"
ENTRY_FILE: Final = f"{KEY_FILE}.entry"
NODE_KEY: Final = "node.key"
NODE_PUBLIC: Final = "node.pub"
KEY_LIFETIME_S: Final = 730 * 86_400


def new_node_key(place: Path) -> ec.EllipticCurvePrivateKey:
    """Make ``node.key`` and ``node.pub`` in OpenSSH's form, as Flower reads them."""
    key = ec.generate_private_key(ec.SECP384R1())
    write_atomically(place / NODE_KEY, key.private_bytes(
        Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    write_atomically(place / NODE_PUBLIC, node_public_key(key.public_key()) + b"\n", private=False)
    return key


def read_node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The node's private key; raises KEY_FILE_ codes, NODE_KEY_INVALID."""
    data = open_private_file(path)
    try:
        key = load_ssh_private_key(data, password=None)
    except (ValueError, TypeError):
        key = None  # what the library says may quote the key
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp384r1":
        raise Misconfigured("NODE_KEY_INVALID", f"{path.name} is no ECDSA P-384 key of OpenSSH",
                            "make a new one: medunlearn hospital rotate --no-identity")
    return key


def next_entry(folder: Path) -> Party | None:
    """The entry of a signing key that is made but not in force."""
    path = folder / NEXT_FOLDER / ENTRY_FILE
    return read_entry(path) if path.exists() else None


def enrolment_document(
    identity: SigningIdentity, node: ec.EllipticCurvePrivateKey, entry: Party, *,
    federation: str, token: bytes, now: float,
) -> bytes:
    """What a hospital sends for its entry and node key, signed with both."""
    return write_enrolment(Enrolment(
        federation=federation, token=token, entry=entry,
        node_key=node_public_key(node.public_key()), package_version=__version__,
        code_digest=installed_code_digest(), issued=int(now),
    ), identity, node)

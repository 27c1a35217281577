"""Private keys on disk: encrypted, and readable by their owner alone.

A key file is PKCS#8 in PEM, encrypted by ``cryptography``'s best available scheme. A file that
anybody else may read is refused before it is opened, because its copy may already be elsewhere.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import write_atomically
from medunlearn_common.identity.keys import SigningIdentity

PASSPHRASE_VARIABLE = "MEDUNLEARN_PASSPHRASE"
MIN_PASSPHRASE_CHARACTERS = 12
MAX_KEY_FILE_BYTES = 16 << 10
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def open_private_file(path: Path) -> bytes:
    """The bytes of a file that only its owner can read.

    The mode is asked of the open file, so that nobody can swap it in between.

    Raises:
        Misconfigured: KEY_FILE_MISSING, KEY_FILE_MODE if group or others have any right or it
            belongs to another user, KEY_FILE_INVALID if it is no plain file or too large.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Misconfigured(
            "KEY_FILE_MISSING", f"cannot open {path.name}: {error.strerror}",
            "name the key file, or make one with `medunlearn keys new`",
        ) from error
    with os.fdopen(descriptor, "rb") as stream:
        facts = os.fstat(stream.fileno())
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > MAX_KEY_FILE_BYTES:
            raise _invalid(path, "no plain file of a few kilobytes")
        if facts.st_mode & _OTHERS or facts.st_uid not in (os.geteuid(), 0):
            raise Misconfigured(
                "KEY_FILE_MODE",
                f"{path.name} has mode {stat.S_IMODE(facts.st_mode):04o}; others can reach it",
                f"chmod 600 {path.name}; if others could read it, have the key revoked (a "
                "hospital's: medunlearn coordinator revoke) and come back with a new invitation",
            )
        return stream.read()


def read_identity(path: Path, *, party_id: str, passphrase: bytes) -> SigningIdentity:
    """Open a key file.

    Raises:
        Misconfigured: As :func:`open_private_file`; KEY_PASSPHRASE if the passphrase does not
            fit; KEY_FILE_INVALID if it holds no encrypted Ed25519 key.
    """
    data = open_private_file(path)
    if b"BEGIN ENCRYPTED PRIVATE KEY" not in data:
        raise _invalid(path, "no encrypted PKCS#8 key")
    try:
        key = load_pem_private_key(data, password=passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # No "from": what the library says may quote what it was given.
        raise Misconfigured(
            "KEY_PASSPHRASE", f"{path.name} does not open with this passphrase",
            f"check the passphrase file, {PASSPHRASE_VARIABLE}, or what you typed",
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise _invalid(path, "a key of another kind than Ed25519")
    return SigningIdentity(party_id, key)


def write_identity(path: Path, identity: SigningIdentity, *, passphrase: bytes) -> None:
    """Write a new key file with mode 0600; an existing one is never replaced.

    Raises:
        Misconfigured: KEY_FILE_EXISTS, KEY_PASSPHRASE_SHORT.
        Transient: WRITE_FAILED.
    """
    if path.exists():
        raise Misconfigured(
            "KEY_FILE_EXISTS", f"{path.name} exists already; a key is not overwritten",
            "choose another name, or rotate the key: medunlearn keys rotate",
        )
    require_passphrase(passphrase)
    write_atomically(path, identity.to_pem(passphrase))


def require_passphrase(passphrase: bytes) -> None:
    """Refuse a passphrase that is shorter than twelve characters; raises KEY_PASSPHRASE_SHORT."""
    if len(passphrase) < MIN_PASSPHRASE_CHARACTERS:
        raise Misconfigured(
            "KEY_PASSPHRASE_SHORT",
            f"a passphrase has at least {MIN_PASSPHRASE_CHARACTERS} characters",
            "use several random words",
        )


_held: list[bytes] = []


def hold_passphrase(passphrase: bytes) -> None:
    """Keep a passphrase for this process, which was not given it in its environment.

    Unlike a variable it is passed on to no child, and ``/proc`` does not show it.
    """
    _held[:] = [passphrase]


def passphrase_from(file: Path | None) -> bytes | None:
    """The passphrase from ``file``, else from the environment, else the one that is held.

    None if there is none of them.

    Raises:
        Misconfigured: As :func:`open_private_file`, for the passphrase file.
    """
    if file is not None:
        return open_private_file(file).rstrip(b"\r\n")
    found = os.environ.get(PASSPHRASE_VARIABLE)
    if found:
        return found.encode("utf-8")
    return _held[0] if _held else None


def _invalid(path: Path, why: str) -> Misconfigured:
    return Misconfigured(
        "KEY_FILE_INVALID", f"{path.name} holds {why}", "make keys with `medunlearn keys new`"
    )

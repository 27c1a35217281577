"""Who signs: Ed25519 keys in encrypted files, and statements about keys."""

from medunlearn_common.identity.key_files import (
    open_private_file,
    passphrase_from,
    read_identity,
    write_identity,
)
from medunlearn_common.identity.keys import (
    SigningIdentity,
    key_id,
    verify_signature,
)

__all__ = [
    "SigningIdentity",
    "key_id",
    "open_private_file",
    "passphrase_from",
    "read_identity",
    "verify_signature",
    "write_identity",
]

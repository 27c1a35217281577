"""Commitments to erasure requests: bound to a run, shown to nobody, and forgotten with a key.

A request is committed to as HMAC-SHA256 over its canonical facts, under a key of its own that
is derived from the hospital's commitment key and the run. All of a run's commitments lie in a
Merkle tree among made-up ones, at places that follow from their values; of its root a
commitment per run leaves the hospital (``request_roots``).

Guarantees:
    * The root tells nothing without the key: not whom it concerns, and not how many, for the
      tree has ``SLOTS`` leaves however few requests there are (a multiple of it above).
    * The same request has another commitment in every run, so that runs cannot be linked.
    * A hospital can open one request to an auditor, who learns nothing of the others; it cannot
      open a root to a request that was not in it.
    * Once the key is destroyed, nobody can tell any more which requests a root stood for, the
      hospital included, but for openings that were given before.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medunlearn_client.erasure import history, rows
from medunlearn_client.erasure.registry import Registry
from medunlearn_common.audit.merkle import inclusion_proofs, is_included, leaf_hash, root_of
from medunlearn_common.digests import canonical_json
from medunlearn_common.entropy import KEY_BYTES, Entropy, OsEntropy
from medunlearn_common.errors import Misconfigured, Transient
from medunlearn_common.files import write_atomically
from medunlearn_common.identity import open_private_file

SLOTS = 1024
KEY_SUFFIX = ".key"
_DIGEST = "sha256"


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What shows an auditor that one request is under a root.

    Attributes:
        facts: The request's canonical facts.
        key: Its own key, 32 bytes.
        index: Its place.
        size: Leaves of the tree.
        proof: From its leaf to the root.
    """

    facts: Mapping[str, Any] = field(repr=False)
    key: bytes = field(repr=False)
    index: int
    size: int
    proof: tuple[bytes, ...]

    def is_under(self, root: str) -> bool:
        """Whether the request is one of those that ``root`` (hex) stands for."""
        leaf = leaf_hash(_mac(self.key, dict(self.facts)))
        return is_included(
            leaf, index=self.index, size=self.size, proof=self.proof, root=bytes.fromhex(root)
        )


@dataclass(frozen=True, kw_only=True)
class Commitments:
    """A run's commitments at one hospital.

    Attributes:
        root: Merkle root (hex): all that leaves.
        openings: By number of the request; they stay.
    """

    root: str
    openings: Mapping[int, Opening] = field(repr=False)


def commit(
    registry: Registry, numbers: Iterable[int], *, run_id: str, entropy: Entropy | None = None
) -> Commitments:
    """Commit to the requests that a run works for; the same again gives the same.

    Args:
        registry: Where they stand.
        numbers: Which.
        run_id: The run.
        entropy: Makes the commitment key if there is none yet.

    Raises:
        Misconfigured: ERASURE_UNKNOWN, KEY_FILE_MODE or KEY_FILE_INVALID.
        Transient: WRITE_FAILED.
    """
    key = _commitment_key(registry.path, entropy or OsEntropy())
    with registry.transaction(write=False) as connection:
        facts = {number: _facts(connection, number) for number in numbers}
    keys = {number: _mac(key, ["request", run_id, number]) for number in facts}
    real = {leaf_hash(_mac(keys[number], facts[number])): number for number in facts}
    size = SLOTS * max(1, -(-len(real) // SLOTS))
    padding = (
        leaf_hash(_mac(key, ["padding", run_id, slot])) for slot in range(size - len(real))
    )
    leaves = sorted([*real, *padding])
    return Commitments(root=root_of(leaves).hex(), openings={
        real[leaf]: Opening(
            facts=facts[real[leaf]], key=keys[real[leaf]], index=index, size=size,
            proof=proof,
        )
        for index, (leaf, proof) in enumerate(zip(leaves, inclusion_proofs(leaves), strict=True))
        if leaf in real
    })


def destroy_key(registry: Path) -> None:
    """Overwrite the commitment key and remove its file.

    From then on no root of an earlier run can be tied to a request. Copies are not reached:
    backups, snapshots, and what a drive keeps of overwritten blocks. The next run makes a new
    key, which has nothing to do with the old one.

    Raises:
        Misconfigured: ERASURE_KEY_MISSING, or KEY_FILE_MODE.
        Transient: WRITE_FAILED.
    """
    path = _key_file(registry)
    if not path.is_file():
        raise Misconfigured(
            "ERASURE_KEY_MISSING", f"{registry} has no commitment key",
            "it was destroyed before, or no run has taken a request yet",
        )
    secret = _read_secret(path)
    try:
        with path.open("r+b") as stream:
            stream.write(os.urandom(2 * len(secret)))
            stream.flush()
            os.fsync(stream.fileno())
        path.unlink()
    except OSError as error:
        raise Transient(
            "WRITE_FAILED", f"cannot destroy {path.name}: {error.strerror}",
            "mend its permissions and repeat: the key may still be there",
        ) from error


def _commitment_key(registry: Path, entropy: Entropy) -> bytes:
    path = _key_file(registry)
    if not path.exists():
        write_atomically(path, entropy.key("commitment-key").hex().encode("ascii"))
    return _read_secret(path)


def _read_secret(path: Path) -> bytes:
    try:
        secret = bytes.fromhex(open_private_file(path).decode("ascii"))
    except ValueError:
        secret = b""
    if len(secret) != KEY_BYTES:
        raise Misconfigured(
            "KEY_FILE_INVALID", f"{path.name} holds no key", "restore it from its backup"
        )
    return secret


def _key_file(registry: Path) -> Path:
    return registry.with_name(registry.name + KEY_SUFFIX)


def _facts(connection: Any, number: int) -> dict[str, Any]:
    request = rows.request_of(connection, number)
    return {
        "number": number, "kind": request.kind, "target": request.target,
        "basis": request.basis, "received": request.received.isoformat(),
        "facts": history.facts_digest(connection, number),
    }


def _mac(key: bytes, value: Any) -> bytes:
    message = b"medunlearn/commitment/1" + canonical_json(value)
    return hmac.digest(key, message, _DIGEST)

"""Merkle trees over a log: roots, inclusion proofs and consistency proofs.

Hashing is that of RFC 6962, section 2.1: a leaf is SHA-256(0x00 || record), a node SHA-256(0x01
|| left || right), and the root of no leaves is SHA-256 of nothing. The two prefixes keep a
record from passing for a node. Inclusion proofs are made as in RFC 6962; both kinds of proof
are verified as in RFC 9162, sections 2.1.3.2 and 2.1.4.2, whose steps are numbered below.

Pure functions over 32-byte hashes: no I/O and no state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

HASH_BYTES = 32
# A proof has at most two hashes per level; a tree of 2**63 leaves is far beyond any log.
MAX_PROOF = 2 * 63

Hash = bytes


def leaf_hash(record: bytes) -> Hash:
    """SHA-256(0x00 || record)."""
    return hashlib.sha256(b"\x00" + record).digest()


def node_hash(left: Hash, right: Hash) -> Hash:
    """SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_of(leaves: Sequence[Hash]) -> Hash:
    """The root over leaf hashes: MTH of RFC 6962, section 2.1."""
    if not leaves:
        return hashlib.sha256().digest()
    level = list(leaves)
    while len(level) > 1:
        # An odd one out rises as it is, which equals the RFC's largest power of two below n.
        paired = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = paired + level[len(level) - len(level) % 2 :]
    return level[0]


def inclusion_proof(leaves: Sequence[Hash], index: int) -> tuple[Hash, ...]:
    """The hashes from leaf ``index`` up to the root: PATH of RFC 6962, section 2.1.1.

    Raises:
        ValueError: If there is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise ValueError("no such leaf")
    if len(leaves) == 1:
        return ()
    split = _split(len(leaves))
    if index < split:
        return (*inclusion_proof(leaves[:split], index), root_of(leaves[split:]))
    return (*inclusion_proof(leaves[split:], index - split), root_of(leaves[:split]))


def inclusion_proofs(leaves: Sequence[Hash]) -> list[tuple[Hash, ...]]:
    """The :func:`inclusion_proof` of each leaf, in their order.

    One by one they would cost the square of the leaves: each hashes the whole tree.
    """
    if len(leaves) < 2:
        return [() for _ in leaves]
    split = _split(len(leaves))
    left, right = leaves[:split], leaves[split:]
    beside_left, beside_right = root_of(right), root_of(left)
    return [
        *((*proof, beside_left) for proof in inclusion_proofs(left)),
        *((*proof, beside_right) for proof in inclusion_proofs(right)),
    ]


def _split(size: int) -> int:
    """The largest power of two below ``size`` (at least 2)."""
    return 1 << (size - 1).bit_length() - 1


def is_included(
    leaf: Hash, *, index: int, size: int, proof: Sequence[Hash], root: Hash
) -> bool:
    """Whether ``leaf`` is number ``index`` of the tree of ``size`` leaves under ``root``.

    RFC 9162, section 2.1.3.2.
    """
    if not _well_formed((leaf, root, *proof)) or not 0 <= index < size:  # step 1
        return False
    node, last, found = index, size - 1, leaf  # steps 2 and 3
    for hash_ in proof:  # step 4
        if last == 0:
            return False
        if node & 1 or node == last:
            found = node_hash(hash_, found)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            found = node_hash(found, hash_)
        node, last = node >> 1, last >> 1
    return last == 0 and found == root  # step 5


def is_consistent(
    *, old_size: int, old_root: Hash, size: int, root: Hash, proof: Sequence[Hash]
) -> bool:
    """Whether the tree of ``size`` leaves begins with that of ``old_size`` leaves.

    RFC 9162, section 2.1.4.2; two trees of one size are consistent if they are equal. An empty
    old tree is the beginning of every tree, but a proof from it shows nothing: it is refused.
    """
    if not _well_formed((old_root, root, *proof)) or not 1 <= old_size <= size:
        return False
    if old_size == size:
        return not proof and old_root == root
    path = list(proof)
    if old_size & (old_size - 1) == 0:  # step 2: a power of two is a node of its own
        path.insert(0, old_root)
    if not path:
        return False
    node, last = old_size - 1, size - 1  # step 3
    while node & 1:  # step 4
        node, last = node >> 1, last >> 1
    old_found = found = path[0]  # step 5
    for hash_ in path[1:]:  # step 6
        if last == 0:
            return False
        if node & 1 or node == last:
            old_found, found = node_hash(hash_, old_found), node_hash(hash_, found)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            found = node_hash(found, hash_)
        node, last = node >> 1, last >> 1
    return last == 0 and old_found == old_root and found == root  # step 7


def _well_formed(hashes: Sequence[Hash]) -> bool:
    return len(hashes) <= MAX_PROOF + 2 and all(len(hash_) == HASH_BYTES for hash_ in hashes)

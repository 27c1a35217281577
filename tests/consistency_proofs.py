"""Makes consistency proofs, as the keeper of a log elsewhere would; here they are only checked."""

from __future__ import annotations

from collections.abc import Sequence

from medunlearn_common.audit.merkle import Hash, root_of


def consistency_proof(leaves: Sequence[Hash], old_size: int) -> tuple[Hash, ...]:
    """What shows that the first ``old_size`` leaves stayed: PROOF of RFC 6962, section 2.1.2.

    Raises:
        ValueError: If ``old_size`` is not between 1 and the number of leaves.
    """
    if not 1 <= old_size <= len(leaves):
        raise ValueError("no such older tree")
    return _subproof(leaves, old_size, whole=True)


def _subproof(leaves: Sequence[Hash], old_size: int, *, whole: bool) -> tuple[Hash, ...]:
    if old_size == len(leaves):
        return () if whole else (root_of(leaves),)
    split = _split(len(leaves))
    if old_size <= split:
        return (*_subproof(leaves[:split], old_size, whole=whole), root_of(leaves[split:]))
    return (
        *_subproof(leaves[split:], old_size - split, whole=False), root_of(leaves[:split]),
    )


def _split(size: int) -> int:
    return 1 << (size - 1).bit_length() - 1

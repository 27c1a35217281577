"""The graph of sites that mask with each other: complete, or a Harary graph in random order.

The order is a permutation drawn from the digest of all public keys of the session. Every
site's fresh keys go into it, so nobody places sites at will; a coordinator that tries sets of
sites until it likes the graph is limited by its number of tries, as docs/protocol-masking.md
says.
"""

from __future__ import annotations

from functools import lru_cache

from medunlearn_common.entropy import KeyStream


@lru_cache(maxsize=8)
def neighbour_lists(sites: int, k: int, seed: bytes) -> tuple[tuple[int, ...], ...]:
    """Sorted neighbours of each of ``sites`` positions.

    Args:
        sites: n.
        k: Neighbours of each; n - 1 for the complete graph, else even.
        seed: 32 public bytes.

    Raises:
        ValueError: If k is odd or out of range.
    """
    if k == sites - 1:
        return tuple(
            tuple(other for other in range(sites) if other != at) for at in range(sites)
        )
    if k % 2 or not 2 <= k < sites:
        raise ValueError(f"k must be even and below the number of sites, not {k}")
    order = _permutation(sites, seed)
    place = {site: at for at, site in enumerate(order)}
    steps = [step for half in range(1, k // 2 + 1) for step in (half, -half)]
    return tuple(
        tuple(sorted(order[(place[site] + step) % sites] for step in steps))
        for site in range(sites)
    )


def _permutation(count: int, seed: bytes) -> list[int]:
    """Sort by 64-bit words of a keystream; ties, of probability 2^-44, by position."""
    words = KeyStream(seed).words(count).tolist()
    return sorted(range(count), key=lambda at: (words[at], at))

"""Thresholds and neighbourhoods: who masks with whom, and how many shares open a secret.

n of the plan's N sites are members of a session, whom the coordinator chooses.

Up to :data:`COMPLETE_GRAPH_SITES` members everybody masks with everybody and t = floor(2N/3) + 1:
of N, not of n, or two sessions of fewer members each could both be opened, by different sites.
Above, every site has k neighbours (Bell et al. 2020), and k and t are the smallest values for
which four failures are improbable when sites are placed on the graph at random. Holders of a
site's shares are its k neighbours and itself. With a share ``gamma`` of all sites in league
with the coordinator and a share ``delta`` dropping out:

1. *Both shares:* the honest holders of one site each give one of its two secrets, so both are
   opened only with 2t <= holders + corrupt holders. Bounded over all sites by 2^-40.
2. *A share too many:* t corrupt holders; implied by 1, as 2t > k + 1 + x > 2x.
3. *Isolation:* an honest site's masks cancel against a small group only if the graph without
   corrupt and dropped sites falls apart: on a Harary graph a run of k/2 such neighbours.
   Bounded by n (gamma + delta)^(k/2) <= 2^-40.
4. *No recovery:* fewer than t of a site's holders survive. This costs the round, not
   privacy, and is bounded over all sites by 2^-20.
5. *Two sums of one release:* a site opens one. With k + 1 holders of each member's secrets, n
   members need n t / (k + 1) openers at least; two sessions of at least :func:`least_sites` members
   need more than all N and the corrupt ones twice.

Counts of corrupt or surviving neighbours are hypergeometric; their tails are summed term by term.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from medunlearn_common.errors import Misconfigured

PROTOCOL = "medunlearn/masking/1"
MIN_SITES = 3
MAX_SITES = 1000
COMPLETE_GRAPH_SITES = 200
CORRUPT_SHARE = 0.05
DROPOUT_SHARE = 0.10
# Of the plan's sites, above COMPLETE_GRAPH_SITES: fewest that a session needs (5, with t / (k + 1)
# of at least 0.627).
LEAST_SHARE = 0.85
SECURITY_BITS = 40
CORRECTNESS_BITS = 20


@dataclass(frozen=True, kw_only=True)
class Neighbourhood:
    """k neighbours of every site, and t shares that open one of its secrets."""

    neighbours: int
    threshold: int


def quorum(sites: int) -> int:
    """More than two thirds of ``sites``: any two quorums share more than a third of all."""
    return 2 * sites // 3 + 1


def least_sites(sites: int) -> int:
    """Fewest of the plan's ``sites`` between whom a sum may be formed, whatever the policy."""
    if sites <= COMPLETE_GRAPH_SITES:
        return max(quorum(sites), MIN_SITES)
    return math.ceil(LEAST_SHARE * sites)


def required_sites(min_sites: int, sites: int) -> int:
    """m: fewest sites that a released sum may cover, by policy and by the plan's ``sites``."""
    return max(min_sites, least_sites(sites))


def require_plan(sites: int) -> None:
    """Refuse plans of fewer sites than a masked sum can protect.

    Raises:
        Misconfigured: MASKING_TOO_FEW_SITES.
    """
    if sites < MIN_SITES:
        raise Misconfigured(
            "MASKING_TOO_FEW_SITES",
            f"a plan of {sites} site(s): a sum over fewer than {MIN_SITES} sites shows each of "
            "them what the others sent",
            f"plan with federation.sites of at least {MIN_SITES}",
        )


def require_survivors(min_sites: int) -> None:
    """Refuse plans whose rounds may end with a sum that no site's policy allows.

    Raises:
        Misconfigured: PLAN_MIN_SITES.
    """
    if min_sites < MIN_SITES:
        raise Misconfigured(
            "PLAN_MIN_SITES",
            f"sums over {min_sites} site(s), no site's policy allows fewer than {MIN_SITES}",
            f"set [federation] min_sites (and sites) to {MIN_SITES} or more",
        )


@lru_cache(maxsize=64)
def neighbourhood(members: int, sites: int) -> Neighbourhood:
    """k and t of a session of ``members`` of the plan's ``sites``.

    Raises:
        ValueError: Fewer members than a session needs, or more than there are or may be sites.
    """
    if not least_sites(sites) <= members <= sites <= MAX_SITES:
        raise ValueError(f"a session of {members} of {sites} sites")
    whole_graph = Neighbourhood(neighbours=members - 1, threshold=quorum(sites))
    if members <= COMPLETE_GRAPH_SITES:
        return whole_graph
    corrupt = math.ceil(CORRUPT_SHARE * (members - 1))
    gone = math.ceil(DROPOUT_SHARE * (members - 1))
    secret, whole = 2.0**-SECURITY_BITS, 2.0**-CORRECTNESS_BITS
    for k in range(8, members - 1, 2):
        if members * (CORRUPT_SHARE + DROPOUT_SHARE) ** (k // 2) > secret:
            continue
        t = _smallest_threshold(members, k, corrupt, secret)
        if t is not None and members * _tail(members - 1, gone, k, k + 1 - t) <= whole:
            return Neighbourhood(neighbours=k, threshold=t)
    return whole_graph


def _smallest_threshold(sites: int, k: int, corrupt: int, bound: float) -> int | None:
    """Smallest t with sites * P[corrupt holders >= 2t - (k + 1)] <= bound."""
    for t in range(k // 2 + 1, k + 1):
        if sites * _tail(sites - 1, corrupt, k, 2 * t - (k + 1)) <= bound:
            return t
    return None


def _tail(population: int, marked: int, draws: int, least: int) -> float:
    """P[at least ``least`` of ``draws`` are marked], drawing without replacement."""
    total = _log_choose(population, draws)
    logs = (
        _log_choose(marked, x) + _log_choose(population - marked, draws - x) - total
        for x in range(max(0, least, draws - population + marked), min(marked, draws) + 1)
    )
    return math.fsum(math.exp(log) for log in logs)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

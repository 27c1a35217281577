"""Open a masked sum: reconstruct what is needed from shares and take the masks away.

Of a survivor the self-mask seed is reconstructed, of a dropped participant the mask key;
never both of one site, because no site gives shares of both. Each reconstruction is compared
with what the site published. Where it differs, another t-subset of the shares is tried, so
that a few bad shares are found and named instead of spoiling the sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice

from medunlearn_common.errors import Rejected, Transient
from medunlearn_common.masking.binding import Binding
from medunlearn_common.masking.expansion import add_masks
from medunlearn_common.masking.keys import commitment, public_of
from medunlearn_common.masking.shamir import Weights
from medunlearn_common.ring import RingVector
from medunlearn_server.masking.session import Cut

MAX_SUBSETS = 512


@dataclass(kw_only=True)
class Reconstruction:
    """Secrets from shares, with the sites whose shares were wrong.

    Attributes:
        binding: The attempt.
        threshold: t.
        suspects: Positions of sites that sent a wrong share.
    """

    binding: Binding
    threshold: int
    suspects: set[int] = field(default_factory=set)
    _weights: dict[tuple[int, ...], Weights] = field(default_factory=dict, repr=False)

    def secret(self, owner: int, shares: Mapping[int, bytes], *, survivor: bool) -> bytes:
        """One site's self-mask seed (survivor) or mask key (dropped).

        Args:
            owner: Whose secret.
            shares: Holder's position to share.
            survivor: Which of the two secrets.

        Raises:
            Transient: MASKING_TOO_FEW_SHARES.
            Rejected: MASKING_SHARE_BAD if no subset that was tried fits what was published.
        """
        if len(shares) < self.threshold:
            raise Transient(
                "MASKING_TOO_FEW_SHARES",
                f"{len(shares)} shares of one site where {self.threshold} are needed",
                "bring the missing sites back and resume the run",
            )
        trusted = sorted(shares, key=lambda holder: (holder in self.suspects, holder))
        for holders in _subsets(trusted, self.threshold):
            found = self._weights_of(holders).combine(
                {holder + 1: shares[holder] for holder in holders}
            )
            if found is not None and self._fits(owner, found, survivor=survivor):
                if holders != tuple(trusted[: self.threshold]):
                    self._find_suspects(holders, shares)
                return found
        raise Rejected(
            "MASKING_SHARE_BAD",
            f"the shares of {self.binding.members.names[owner]} do not fit what it published",
            "too many sites are faulty or hostile; begin a new run without them",
        )

    def _fits(self, owner: int, secret: bytes, *, survivor: bool) -> bool:
        offer = self.binding.members.offers[owner]
        if survivor:
            return commitment(secret) == offer.self_commitment
        return public_of(secret) == offer.mask_key

    def _find_suspects(self, good: Sequence[int], shares: Mapping[int, bytes]) -> None:
        """Swap each other share in for one good share: a wrong one changes the secret."""
        expected = self._weights_of(good).combine({h + 1: shares[h] for h in good})
        for holder in set(shares) - set(good):
            swapped = (*good[:-1], holder)
            if self._weights_of(swapped).combine(
                {h + 1: shares[h] for h in swapped}
            ) != expected:
                self.suspects.add(holder)

    def _weights_of(self, holders: Sequence[int]) -> Weights:
        key = tuple(holders)
        if key not in self._weights:
            self._weights[key] = Weights.of([holder + 1 for holder in holders])
        return self._weights[key]


def _subsets(holders: Sequence[int], size: int) -> Iterator[tuple[int, ...]]:
    """The first ``size`` holders, then without one of them, without two, and so on.

    One wrong share among n is found in at most n tries; ``MAX_SUBSETS`` end the search.
    """
    return islice(
        (
            tuple(holder for holder in holders if holder not in left_out)[:size]
            for count in range(len(holders) - size + 1)
            for left_out in combinations(holders, count)
        ),
        MAX_SUBSETS,
    )


def open_sum(
    cut: Cut, reveals: Mapping[str, Mapping[int, bytes]]
) -> tuple[RingVector, tuple[str, ...]]:
    """The exact sum over the survivors.

    Args:
        cut: Survivor set and masked sum.
        reveals: Site id to its shares by owner.

    Returns:
        The sum, uint32, shape ``(k,)``; and the ids of sites that sent wrong shares.

    Raises:
        Transient: MASKING_TOO_FEW_SHARES; more answers can still open it.
        Rejected: MASKING_SHARE_BAD.
    """
    binding, members = cut.binding, cut.binding.members
    by_owner = _by_owner(binding, reveals)
    work = Reconstruction(binding=binding, threshold=members.shape.threshold)
    secrets = {
        owner: work.secret(
            owner, by_owner.get(owner, {}), survivor=owner in cut.survivors.payloads
        )
        for owner in _needed(cut)
    }
    total = cut.masked_sum.copy()
    add_masks(total, [
        mask for owner, secret in secrets.items() for mask in _left_over(cut, owner, secret)
    ])
    return total, tuple(members.names[position] for position in sorted(work.suspects))


def enough_shares(cut: Cut, reveals: Mapping[str, Mapping[int, bytes]]) -> bool:
    """Whether every secret that is needed has t shares."""
    by_owner, threshold = _by_owner(cut.binding, reveals), cut.binding.members.shape.threshold
    return all(len(by_owner.get(owner, {})) >= threshold for owner in _needed(cut))


def _needed(cut: Cut) -> list[int]:
    """Survivors, and the dropped participants with whom a survivor masked."""
    survivors = cut.survivors.payloads
    return [
        position for position in cut.binding.participants
        if position in survivors
        or any(other in survivors for other in cut.binding.masking_neighbours(position))
    ]


def _by_owner(
    binding: Binding, reveals: Mapping[str, Mapping[int, bytes]]
) -> dict[int, dict[int, bytes]]:
    """Owner to holder to share; shares that the holder cannot hold are left out."""
    found: dict[int, dict[int, bytes]] = {}
    for site, shares in reveals.items():
        holder = binding.members.positions[site]
        held = {holder, *binding.masking_neighbours(holder)}
        for owner, share in shares.items():
            if owner in held:
                found.setdefault(owner, {})[holder] = share
    return found


def _left_over(cut: Cut, owner: int, secret: bytes) -> list[tuple[bytes, int]]:
    """Seeds and signs that take one site's remaining masks out of the sum."""
    binding = cut.binding
    if owner in cut.survivors.payloads:
        return [(binding.self_mask_seed(secret, owner), -1)]
    # A dropped site's half of each mask is missing: what its neighbours added stands alone.
    return [
        (binding.pair_mask_seed(secret, owner, other), 1 if owner < other else -1)
        for other in binding.masking_neighbours(owner) if other in cut.survivors.payloads
    ]

"""Open a masked sum: reconstruct what is needed from shares and take the masks away.

Of a survivor the self-mask seed is reconstructed, of a dropped participant the mask key;
never both of one site, because no site gives shares of both. Each reconstruction is compared
with what the site published. Where it differs, the shares are decoded as what they are, a
code word with errors, so that a few wrong ones are found and named instead of spoiling the
sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from medunlearn_common.errors import Rejected, Transient
from medunlearn_common.masking.binding import Binding
from medunlearn_common.masking.expansion import add_masks
from medunlearn_common.masking.keys import commitment, public_of
from medunlearn_common.masking.shamir import SECRET_BYTES, Weights
from medunlearn_common.ring import RingVector
from medunlearn_server.masking.decoding import decoded, value_at
from medunlearn_server.masking.session import Cut

MAX_DECODINGS = 2000


@dataclass(frozen=True, kw_only=True)
class WrongShare:
    """One share, by positions, that did not fit the others.

    Its holder sent another one than it got, or the owner of the secret dealt it a wrong one:
    shares are sealed, so that nobody else can tell which.
    """

    holder: int
    owner: int


@dataclass(kw_only=True)
class Reconstruction:
    """Secrets from shares, with the shares that were wrong.

    Attributes:
        binding: The attempt.
        threshold: t.
        wrong: Shares that were found wrong. One is found only where it was in the way.
    """

    binding: Binding
    threshold: int
    wrong: set[WrongShare] = field(default_factory=set)
    _weights: dict[tuple[int, ...], Weights] = field(default_factory=dict, repr=False)

    def secret(self, owner: int, shares: Mapping[int, bytes], *, survivor: bool) -> bytes:
        """One site's self-mask seed (survivor) or mask key (dropped).

        Args:
            owner: Whose secret.
            shares: Holder's position to share.
            survivor: Which of the two secrets.

        Raises:
            Transient: MASKING_TOO_FEW_SHARES.
            Rejected: MASKING_SHARE_BAD if nothing that was found fits what was published.

        Guarantees:
            With n shares here, up to (n - t) / 2 wrong ones are survived, and exactly they are
            named; up to (n - t + j) / 2 where the ways to leave out j or fewer of n shares
            are at most ``MAX_DECODINGS``. What comes back is what was published, always.
        """
        if len(shares) < self.threshold:
            raise Transient(
                "MASKING_TOO_FEW_SHARES",
                f"{len(shares)} shares of one site where {self.threshold} are needed",
                "bring the missing sites back and resume the run",
            )
        suspects = {share.holder for share in self.wrong}
        trusted = sorted(shares, key=lambda holder: (holder in suspects, holder))
        found = self._weights_of(trusted[: self.threshold]).combine(
            {holder + 1: share for holder, share in shares.items()}
        )
        if found is None or not self._fits(owner, found, survivor=survivor):
            found = self._decoded(owner, shares, survivor=survivor)
        if found is None:
            raise self._unreadable(owner, len(shares))
        return found

    def _decoded(
        self, owner: int, shares: Mapping[int, bytes], *, survivor: bool
    ) -> bytes | None:
        """The secret although some shares are wrong; notes which."""
        values = {holder + 1: int.from_bytes(share, "big") for holder, share in shares.items()}
        for left_out in _left_out(sorted(values), spare=len(values) - self.threshold):
            rest = {x: value for x, value in values.items() if x not in left_out}
            polynomial = decoded(rest, threshold=self.threshold)
            constant = value_at(polynomial, 0) if polynomial is not None else 1 << 256
            if polynomial is None or constant >> 256:
                continue
            found = constant.to_bytes(SECRET_BYTES, "big")
            if self._fits(owner, found, survivor=survivor):
                self.wrong |= {
                    WrongShare(holder=x - 1, owner=owner)
                    for x, value in values.items() if value_at(polynomial, x) != value
                }
                return found
        return None

    def _fits(self, owner: int, secret: bytes, *, survivor: bool) -> bool:
        offer = self.binding.members.offers[owner]
        if survivor:
            return commitment(secret) == offer.self_commitment
        return public_of(secret) == offer.mask_key

    def _unreadable(self, owner: int, count: int) -> Rejected:
        names = self.binding.members.names
        suspects = sorted({names[share.holder] for share in self.wrong})
        known = f"; wrong so far: shares of {', '.join(suspects)}" if suspects else ""
        return Rejected(
            "MASKING_SHARE_BAD",
            f"{names[owner]} dealt wrong shares of its secret, or more than "
            f"{(count - self.threshold) // 2} of {count} holders sent wrong ones{known}",
            "too many sites are faulty or hostile; begin a new run without them",
        )

    def _weights_of(self, holders: Sequence[int]) -> Weights:
        key = tuple(holders)
        if key not in self._weights:
            self._weights[key] = Weights.of([holder + 1 for holder in holders])
        return self._weights[key]


def _left_out(points: Sequence[int], *, spare: int) -> Iterator[tuple[int, ...]]:
    """Which points to leave out before decoding: none, then one, two and so on of all.

    Who guesses j wrong shares leaves j fewer of them among n - j, of which (n - j - t) / 2 are
    found: (n - t + j) / 2 together. That is more than with one guess fewer only where n - t + j
    is even. A number is tried in every way, or not at all, so that what is survived does not
    depend on who is hostile.
    """
    yield ()
    tries = 1
    for count in range(2 - spare % 2, spare + 1, 2):
        tries += math.comb(len(points), count)
        if tries > MAX_DECODINGS:
            return
        yield from combinations(points, count)


def open_sum(
    cut: Cut, reveals: Mapping[str, Mapping[int, bytes]]
) -> tuple[RingVector, dict[str, str]]:
    """The exact sum over the survivors.

    Args:
        cut: Survivor set and masked sum.
        reveals: Site id to its shares by owner.

    Returns:
        The sum, uint32, shape ``(k,)``; and for each site that holds a wrong share the first
        site that may have dealt it.

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
    names, suspects = members.names, dict[str, str]()
    for share in sorted(work.wrong, key=lambda share: (share.owner, share.holder)):
        suspects.setdefault(names[share.holder], names[share.owner])
    return total, suspects


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

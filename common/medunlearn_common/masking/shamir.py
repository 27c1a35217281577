"""Shamir's secret sharing over the prime field of p = 2^256 + 297.

p is the smallest prime above 2^256, so any 256-bit string is a secret. Points are small
(1, 2, ..., at most :data:`MAX_POINT`), which keeps split and combine at a few hundred cheap
operations: Horner without reduction in between, and one batch inversion for all Lagrange
weights.

Guarantees:
    Fewer than t shares say nothing about the secret (information-theoretically, up to the
    2^-127 bias of the coefficients). Nothing is promised about shares that were tampered
    with: the caller compares the secret with a commitment. Python's integers do not run in
    constant time; a party that measures a hospital's own processor is out of scope.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medunlearn_common.entropy import KeyStream
from medunlearn_common.errors import Rejected

PRIME = (1 << 256) + 297
SECRET_BYTES = 32
SHARE_BYTES = 33
MAX_POINT = 1 << 16
_WIDE_BYTES = 48  # 384 bits reduced modulo p: bias below 2^-127
_WORD_BYTES = 8


def coefficients(seed: bytes, count: int) -> tuple[int, ...]:
    """``count`` uniform field elements from a 256-bit seed that nothing else uses."""
    words = KeyStream(seed).words(count * _WIDE_BYTES // _WORD_BYTES).tobytes()
    return tuple(
        int.from_bytes(words[at : at + _WIDE_BYTES], "little") % PRIME
        for at in range(0, len(words), _WIDE_BYTES)
    )


def split(
    secret: bytes, *, threshold: int, points: Sequence[int], seed: bytes
) -> dict[int, bytes]:
    """Share a 32-byte secret among ``points``; any ``threshold`` of them give it back.

    Args:
        secret: 32 bytes.
        threshold: t; the polynomial has degree t - 1.
        points: Distinct integers in 1 ... ``MAX_POINT``.
        seed: 32 secret bytes from which the coefficients come.

    Returns:
        Point to share of 33 bytes, big-endian.

    Raises:
        ValueError: If an argument is out of range.
    """
    if len(secret) != SECRET_BYTES or not 1 <= threshold <= len(points):
        raise ValueError("a secret has 32 bytes, and 1 <= threshold <= number of points")
    if len(set(points)) != len(points) or not all(1 <= x <= MAX_POINT for x in points):
        raise ValueError(f"points must be distinct and in 1 ... {MAX_POINT}")
    rising = coefficients(seed, threshold - 1)
    constant = int.from_bytes(secret, "big")
    shares = {}
    for x in points:
        value = 0
        for coefficient in reversed(rising):
            value = value * x + coefficient
        shares[x] = ((value * x + constant) % PRIME).to_bytes(SHARE_BYTES, "big")
    return shares


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Lagrange weights at zero for one set of points; computed once, used for many secrets."""

    points: tuple[int, ...]
    values: tuple[int, ...]

    @classmethod
    def of(cls, points: Sequence[int]) -> Weights:
        """Weights of distinct, non-zero points.

        Raises:
            ValueError: If a point is repeated or out of range.
        """
        if len(set(points)) != len(points) or not all(1 <= x <= MAX_POINT for x in points):
            raise ValueError(f"points must be distinct and in 1 ... {MAX_POINT}")
        whole = 1
        for x in points:
            whole = whole * x % PRIME
        denominators = []
        for x in points:
            product = x
            for other in points:
                if other != x:
                    product *= other - x
            denominators.append(product % PRIME)
        inverses = _batch_inverse(denominators)
        return cls(
            points=tuple(points), values=tuple(whole * inverse % PRIME for inverse in inverses)
        )

    def combine(self, shares: Mapping[int, bytes]) -> bytes | None:
        """The secret behind the shares at these points; None if it is no 256-bit string."""
        total = sum(
            weight * int.from_bytes(shares[point], "big")
            for point, weight in zip(self.points, self.values, strict=True)
        ) % PRIME
        return total.to_bytes(SECRET_BYTES, "big") if total >> 256 == 0 else None


def _batch_inverse(values: Sequence[int]) -> list[int]:
    """Inverses modulo p with a single exponentiation (Montgomery's trick)."""
    prefix = [1]
    for value in values:
        prefix.append(prefix[-1] * value % PRIME)
    inverse = pow(prefix[-1], -1, PRIME)
    found = [0] * len(values)
    for at in range(len(values) - 1, -1, -1):
        found[at] = inverse * prefix[at] % PRIME
        inverse = inverse * values[at] % PRIME
    return found


def check_share(share: bytes) -> bytes:
    """A share as it came over the wire.

    Raises:
        Rejected: MASKING_SHARE if it is no field element of 33 bytes.
    """
    if len(share) != SHARE_BYTES or int.from_bytes(share, "big") >= PRIME:
        raise Rejected(
            "MASKING_SHARE", "a share is no element of the field",
            "the site that sent it runs another version or is faulty",
        )
    return share

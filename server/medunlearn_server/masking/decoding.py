"""Find the polynomial behind shares of which some are wrong.

Shares of one secret are a Reed-Solomon code word: values of a polynomial of degree below t at
n points. Two such polynomials agree at fewer than t points, so at most one of them misses
(n - t) / 2 or fewer of the values. Gao's decoder (2003) finds it; like that of Berlekamp and
Welch it needs no guessing, and it solves no system of equations.

Let G be the polynomial that is zero at all points, R the one below degree n through all the
values, f the one that is sought, and E the one that is zero exactly where values are wrong.
Then E R = E f modulo G, as both sides agree at every point, right or wrong. Such a pair
(E, E f) of small degree is what Euclid's algorithm on G and R meets on its way: its remainders
are r = u G + v R, and the first one of degree below (n + t) / 2 is r = c E f with v = c E.
So f = r / v. Guarantees: :func:`decoded` counts the misses itself and trusts no theory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from medunlearn_common.masking.shamir import PRIME

# Coefficients modulo p, of x^0 first; the last one is not zero, and zero is the empty list.
Polynomial = list[int]


def decoded(values: Mapping[int, int], *, threshold: int) -> Polynomial | None:
    """The polynomial of degree below ``threshold`` that misses at most (n - t) / 2 values.

    Args:
        values: Point to value, n of them; points are positive.
        threshold: t, at most n.

    Returns:
        Its coefficients, that of x^0 first; None if there is no such polynomial.
    """
    vanishing, through_all = _interpolated(values)
    before, remainder = vanishing, through_all
    factor_before: Polynomial = []
    factor: Polynomial = [1]
    while 2 * (len(remainder) - 1) >= len(values) + threshold:
        quotient, rest = _divided(before, remainder)
        before, remainder = remainder, rest
        factor_before, factor = factor, _less(factor_before, _product(quotient, factor))
    found, rest = _divided(remainder, factor)
    if rest or len(found) > threshold:
        return None
    missed = sum(value_at(found, x) != value for x, value in values.items())
    return found if 2 * missed <= len(values) - threshold else None


def value_at(polynomial: Sequence[int], x: int) -> int:
    """The polynomial's value, by Horner's rule."""
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * x + coefficient) % PRIME
    return value


def _interpolated(values: Mapping[int, int]) -> tuple[Polynomial, Polynomial]:
    """The monic polynomial that is zero at all points, and the smallest through all values.

    Newton's form: each divided difference is the next coefficient, over the product of
    (x - point) for the points before it.
    """
    points = sorted(values)
    differences = [values[x] % PRIME for x in points]
    for step in range(1, len(points)):
        for at in range(len(points) - 1, step - 1, -1):
            rise = differences[at] - differences[at - 1]
            run = points[at] - points[at - step]
            differences[at] = rise * _inverse(run) % PRIME
    vanishing, through_all = [1], [0] * len(points)
    for x, difference in zip(points, differences, strict=True):
        for at, coefficient in enumerate(vanishing):
            through_all[at] = (through_all[at] + difference * coefficient) % PRIME
        vanishing = _product(vanishing, [-x % PRIME, 1])
    return vanishing, _trimmed(through_all)


@lru_cache(maxsize=4096)
def _inverse(distance: int) -> int:
    """1 / distance; the distances between points are few and small."""
    return pow(distance, -1, PRIME)


def _product(left: Polynomial, right: Polynomial) -> Polynomial:
    if not left or not right:
        return []
    found = [0] * (len(left) + len(right) - 1)
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            found[i + j] = (found[i + j] + a * b) % PRIME
    return _trimmed(found)


def _less(left: Polynomial, right: Polynomial) -> Polynomial:
    """left - right."""
    found = left + [0] * (len(right) - len(left))
    for at, coefficient in enumerate(right):
        found[at] = (found[at] - coefficient) % PRIME
    return _trimmed(found)


def _divided(top: Polynomial, bottom: Polynomial) -> tuple[Polynomial, Polynomial]:
    """Quotient and remainder of the school's long division."""
    rest, leading = list(top), pow(bottom[-1], -1, PRIME)
    quotient = [0] * max(len(top) - len(bottom) + 1, 0)
    for shift in range(len(quotient) - 1, -1, -1):
        digit = quotient[shift] = rest[shift + len(bottom) - 1] * leading % PRIME
        for at, coefficient in enumerate(bottom):
            rest[shift + at] = (rest[shift + at] - digit * coefficient) % PRIME
    return _trimmed(quotient), _trimmed(rest)


def _trimmed(polynomial: Polynomial) -> Polynomial:
    """Without zeros at the high end."""
    while polynomial and polynomial[-1] == 0:
        polynomial.pop()
    return polynomial

"""Wrong shares at the opening: how many are survived, and who is named."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from masking_bench import RUN_ID, Bench, exact

from medunlearn_common.errors import Rejected
from medunlearn_common.masking.keys import commitment
from medunlearn_common.masking.parameters import quorum
from medunlearn_common.masking.parts import Shares
from medunlearn_common.masking.shamir import PRIME, SHARE_BYTES, split
from medunlearn_common.messages import MASK_OPEN, Message
from medunlearn_common.plan import RunPlan
from medunlearn_server.answers import Answers
from medunlearn_server.masking.decoding import decoded, value_at
from medunlearn_server.masking.opening import Reconstruction, WrongShare
from medunlearn_server.sites import Sites


def noise() -> bytes:
    """A uniform field element, as a share travels."""
    return random.SystemRandom().randrange(PRIME).to_bytes(SHARE_BYTES, "big")


def spoiling(*sites: str) -> Callable[[str, Message], Message]:
    """These sites behave until the opening, then send random field elements."""
    def spoil(site: str, answer: Message) -> Message:
        if answer.kind != MASK_OPEN or site not in sites:
            return answer
        found = Shares.from_bytes(answer.payload)
        wrong = {owner: noise() for owner in found.shares}
        return replace(answer, payload=Shares(shares=wrong, sealed=found.sealed).to_bytes())
    return spoil


# -- the decoder ---------------------------------------------------------------------------


def brute_force(values: dict[int, int], threshold: int) -> set[tuple[int, ...]]:
    """Values at all points of each polynomial that at most (n - t) / 2 values miss.

    One polynomial of degree below t goes through any t of the values, here by Lagrange.
    """
    found, points = set(), sorted(values)
    for chosen in itertools.combinations(points, threshold):
        row = []
        for x in points:
            total = 0
            for i in chosen:
                term = values[i]
                for j in chosen:
                    if j != i:
                        term = term * (x - j) * pow(i - j, -1, PRIME) % PRIME
                total += term
            row.append(total % PRIME)
        missed = sum(row[at] != values[x] for at, x in enumerate(points))
        if 2 * missed <= len(points) - threshold:
            found.add(tuple(row))
    return found


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 4), st.integers(0, 4), st.integers(0, 4), st.integers(0, 2**32))
def test_the_decoder_finds_what_brute_force_finds(
    threshold: int, extra: int, errors: int, seed: int
) -> None:
    draw = random.Random(seed)
    points = draw.sample(range(1, 30), threshold + extra)
    rising = [draw.choice((0, 1, draw.randrange(PRIME))) for _ in range(threshold)]
    values = {x: value_at(rising, x) for x in points}
    for x in draw.sample(points, min(errors, len(points))):
        values[x] = draw.choice((0, 1, draw.randrange(PRIME)))
    expected, found = brute_force(values, threshold), decoded(values, threshold=threshold)
    assert len(expected) <= 1
    if found is None:
        assert not expected
    else:
        assert len(found) <= threshold
        assert {tuple(value_at(found, x) for x in sorted(values))} == expected


@pytest.mark.parametrize(("count", "threshold"), [(36, 25), (100, 67), (79, 52), (200, 134)])
def test_the_decoder_bears_half_of_the_spare_shares(count: int, threshold: int) -> None:
    secret, most = os.urandom(32), (count - threshold) // 2
    shares = split(
        secret, threshold=threshold, points=range(1, count + 1), seed=os.urandom(32)
    )
    values = {x: int.from_bytes(share, "big") for x, share in shares.items()}
    for errors, bears in ((0, True), (1, True), (most, True), (most + 1, False)):
        spoilt = dict(values)
        for x in random.SystemRandom().sample(range(1, count + 1), errors):
            spoilt[x] = int.from_bytes(noise(), "big")
        found = decoded(spoilt, threshold=threshold)
        assert (found is not None) == bears
        if found is not None:
            assert found[0] == int.from_bytes(secret, "big")


# -- one secret ----------------------------------------------------------------------------


def opened(count: int, bad: Iterable[int]) -> Reconstruction:
    """Open the secret of site 0 with wrong shares of ``bad``; fails if another comes out."""
    secret, threshold = os.urandom(32), quorum(count)
    made = split(secret, threshold=threshold, points=range(1, count + 1), seed=os.urandom(32))
    shares = {point - 1: share for point, share in made.items()}
    shares |= {holder: noise() for holder in bad}
    names = [f"site-{position:03d}" for position in range(count)]
    members = SimpleNamespace(
        names=names, offers=[SimpleNamespace(self_commitment=commitment(secret))]
    )
    work = Reconstruction(
        binding=SimpleNamespace(members=members), threshold=threshold  # type: ignore[arg-type]
    )
    assert work.secret(0, shares, survivor=True) == secret
    return work


@pytest.mark.parametrize(("count", "bad"), [
    (4, (3,)), (4, (0,)), (5, (1,)), (6, (2,)), (7, (0, 5)), (10, (0, 1, 2)), (15, (7, 8, 9)),
    (15, range(4)), (20, (10, 11, 12)), (30, (18, 19)), (30, (17, 18, 19)), (36, (20, 22)),
    (36, range(6)), (40, (24, 25)), (100, range(50, 67)), (200, range(33)),
])
def test_so_many_wrong_shares_are_survived_and_named(count: int, bad: Iterable[int]) -> None:
    work = opened(count, bad)
    wrong = {WrongShare(holder=holder, owner=0) for holder in bad}
    # The last share of a set may be bad without being needed; then nothing is noticed.
    assert work.wrong in (wrong, set()) and (work.wrong or min(bad) >= quorum(count))


def test_too_many_wrong_shares_name_nobody_as_guilty() -> None:
    with pytest.raises(Rejected) as caught:
        opened(36, range(10))
    assert caught.value.code == "MASKING_SHARE_BAD"
    assert "or more than 5 of 36 holders" in str(caught.value)
    assert "dealt" in str(caught.value)


# -- a whole sum ---------------------------------------------------------------------------


def test_two_of_thirty_six_that_send_noise_at_the_opening_are_worked_around_and_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench(count=36)
    try:
        vectors = bench.draw(0)
        bench.spoil = spoiling("site-020", "site-022")
        total, sites = bench.sum(0) or (None, ())
        assert total is not None and total.tolist() == exact(vectors, sites).tolist()
        assert len(sites) == 36
        assert bench.leader.wrong_shares == {"site-020": "site-000", "site-022": "site-000"}
        for name in ("site-020", "site-022"):
            assert f"{name} sent, or site-000 dealt it, a wrong share" in caplog.text
        bench.spoil = lambda site, answer: answer
        bench.draw(1)
        assert bench.sum(1) is not None and bench.leader.wrong_shares == {}
    finally:
        bench.close()


def test_a_round_does_not_count_as_asked_in_vain_who_held_a_wrong_share() -> None:
    """The site is in the sum, and may be innocent: no signed document names it."""
    def never(*_: object) -> None:
        raise AssertionError

    sites = Sites(
        plan=RunPlan(), run_id=RUN_ID, transport=cast(Any, None), clock=lambda: 0.0,
        sleep=never, keep=never,
    )
    sites._leader = cast(Any, SimpleNamespace(
        opened=lambda ask, attempt: np.zeros(4, dtype=np.uint32),
        wrong_shares={"site-002": "site-000"},
    ))
    attempt = cast(Any, SimpleNamespace(layout_digest="l" * 64, subject_digest="s" * 64))
    found = sites._open(attempt, Answers(sites=("site-000", "site-001", "site-002")))
    assert found.failures == {} and found.total is not None

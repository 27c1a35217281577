"""Exact or aborted: random dropouts, kills at every write, and sequences of everything."""

from __future__ import annotations

import math
import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from masking_bench import RUN_ID, Bench, exact
from scipy.stats import hypergeom

from medunlearn_client.masking.journal import SessionState
from medunlearn_common.masking import members as members_module
from medunlearn_common.masking.parameters import (
    Neighbourhood,
    least_sites,
    neighbourhood,
    quorum,
    required_sites,
)
from medunlearn_common.masking.parts import SESSION, Shares, Survivors
from medunlearn_common.messages import (
    ERROR,
    MASK_AGREE,
    MASK_KEYS,
    MASK_OPEN,
    MASK_SHARES,
    STEP,
    Message,
)
from medunlearn_server.masking.leader import MaskingState

# `make masking-long` sets these to 10000, 10000 and 1000.
ROUNDS = int(os.environ.get("MASKING_ROUNDS", "300"))
SEQUENCES = int(os.environ.get("MASKING_SEQUENCES", "300"))
KILLS = int(os.environ.get("MASKING_KILLS", "100"))
KINDS = (MASK_KEYS, MASK_SHARES, STEP, MASK_AGREE, MASK_OPEN)


def test_random_rounds_equal_int64_sums_or_abort() -> None:
    """(n, k, dropouts) at random; the first session set up anew, the others pipelined."""
    generator = np.random.default_rng(0)
    done = {"exact": 0, "given up": 0}
    while sum(done.values()) < ROUNDS:
        count = int(generator.integers(3, 9))
        bench = Bench(count=count, seed=sum(done.values()),
                      words=int(generator.integers(1, 50)))
        for round_index in range(min(10, ROUNDS - sum(done.values()))):
            vectors = bench.draw(round_index)
            chance = generator.choice([0.0, 0.02, 0.15])
            bench.lost, bench.silent = (
                {(s, k) for s in bench.names for k in KINDS if generator.random() < chance / 2}
                for _ in range(2)
            )
            found = bench.sum(round_index, fresh=bool(generator.random() < 0.1))
            if found is None:
                done["given up"] += 1
                continue
            total, sites = found
            assert len(sites) >= 3
            assert total.tolist() == exact(vectors, sites).tolist()
            done["exact"] += 1
        bench.close()
    assert done["exact"] > ROUNDS / 2 and done["given up"] > ROUNDS / 50


def test_sites_that_mask_with_neighbours_only_recover_dropouts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As above 200 sites: dropped sites' masks are taken out by their neighbours' shares."""
    sparse = Neighbourhood(neighbours=8, threshold=6)
    monkeypatch.setattr(members_module, "neighbourhood", lambda members, sites: sparse)
    bench = Bench(count=20)
    vectors = bench.draw(0)
    bench.lost = {(bench.names[p], STEP) for p in (3, 11, 17)}
    total, sites = bench.sum(0, more=False) or (None, ())
    assert len(sites) == 17 and total is not None
    assert total.tolist() == exact(vectors, sites).tolist()
    opened = [Shares.from_bytes(a.payload) for _, r, a in bench.seen if r.kind == MASK_OPEN]
    assert {len(found.shares) for found in opened} == {9}
    bench.close()


def test_the_bound_on_neighbours_holds_and_is_tight() -> None:
    """The four failure probabilities of ``parameters``, and one neighbour pair fewer fails."""
    for sites in (201, 500, 1000):
        shape = neighbourhood(sites, sites)
        k, t = shape.neighbours, shape.threshold
        assert k % 2 == 0 and k < 100 and k / 2 < t <= k
        assert sites * 0.15 ** (k // 2) <= 2.0**-40
        corrupt, gone = -(-(sites - 1) // 20), -(-(sites - 1) // 10)
        both = scipy_tail(sites - 1, corrupt, k, 2 * t - k - 1)
        stuck = scipy_tail(sites - 1, gone, k, k + 1 - t)
        assert sites * both <= 2.0**-40 and sites * stuck <= 2.0**-20
        assert sites * scipy_tail(sites - 1, corrupt, k, 2 * t - k - 3) > 2.0**-40
    assert neighbourhood(200, 200) == Neighbourhood(neighbours=199, threshold=134)
    assert neighbourhood(3, 3) == Neighbourhood(neighbours=2, threshold=3)


def test_no_two_sessions_of_a_plan_can_both_be_opened() -> None:
    """By counting: n t / (k + 1) openers each, of all sites and the corrupt ones twice."""
    for sites in range(3, 201):
        least, corrupt = least_sites(sites), (sites - 1) // 3
        threshold = neighbourhood(least, sites).threshold
        assert threshold <= least <= sites
        assert threshold == neighbourhood(sites, sites).threshold
        assert 2 * threshold > sites + corrupt
    spread = {n: neighbourhood(n, n) for n in (201, *range(202, 1001, 13), 1000)}
    worst = min(found.threshold / (found.neighbours + 1) for found in spread.values())
    for sites in range(201, 1001):
        least, corrupt = least_sites(sites), math.ceil(0.05 * sites)
        assert 2 * quorum(sites) > sites + corrupt
        assert 2 * least * worst > sites + corrupt
        assert least <= 0.9 * sites + 1  # one site in ten may be away


def scipy_tail(population: int, marked: int, draws: int, least: int) -> float:
    return float(hypergeom.sf(least - 1, population, marked, draws))


# -- kills at write points -----------------------------------------------------------------


class Killing:
    """Kills the process at its n-th commit, before or after it took place."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def run_child(folder: Path, seed: int, kill_at: int) -> None:
    """Two rounds in a process of their own that dies at a commit; answers are logged first."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return
    try:
        hook = Killing(kill_at)
        bench = Bench(count=4, words=8, seed=seed, folder=folder, before_commit=hook)
        with (folder / "said").open("ab", buffering=0) as log:
            bench.spoil = lambda site, answer: note(log, site, answer)
            for round_index in range(2):
                bench.draw(round_index)
                bench.sum(round_index)
    finally:
        os._exit(0)


def note(log: object, site: str, answer: Message) -> Message:
    """What left a site, as far as it matters: kind, session and payload."""
    if answer.kind in (MASK_OPEN, MASK_AGREE):
        parts = [p.encode() for p in (site, answer.kind, str(answer.fields[SESSION]))]
        parts.append(answer.payload)
        packed = b"".join(struct.pack(">I", len(p)) + p for p in parts)
        log.write(struct.pack(">I", len(packed)) + packed)  # type: ignore[attr-defined]
    return answer


def said(folder: Path) -> Iterator[tuple[str, str, str, bytes]]:
    data, at = (folder / "said").read_bytes(), 0
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        parts, inner = [], at + 4
        for _ in range(4):
            (length,) = struct.unpack_from(">I", data, inner)
            parts.append(data[inner + 4 : inner + 4 + length])
            inner += 4 + length
        yield parts[0].decode(), parts[1].decode(), parts[2].decode(), parts[3]
        at += 4 + size


def test_kills_at_random_write_points_never_lose_what_was_said(tmp_path: Path) -> None:
    """After SIGKILL at any commit of any site, the journal knows every share that left.

    A site then repeats exactly those bytes, whatever it is asked, or says nothing more.
    """
    generator = np.random.default_rng(1)
    opened = 0
    for index in range(KILLS):
        folder = tmp_path / str(index)
        folder.mkdir()
        run_child(folder, index, int(generator.integers(9, 65)))
        bench = Bench(count=4, words=8, seed=index, folder=folder)
        for site, kind, session, payload in said(folder):
            with bench.journals[site].transaction() as step:
                record = step.session(RUN_ID, session)
                # An earlier session is erased by the opening of a later one.
                closed = step.opened_in(RUN_ID, f"round-{session[0]}")
            if kind == MASK_OPEN:
                opened += 1
                assert closed == session
                assert record is None or (
                    record.state is SessionState.OPENED and record.root == b""
                    and payload.startswith(record.shares)
                )
            elif record is not None:
                assert record.state >= SessionState.AGREED
        # The run goes on: a coordinator that lost its state names sessions anew.
        bench.leader.state = MaskingState(ordinal=9)
        vectors = bench.draw(2)
        found = bench.sum(2, fresh=True)
        assert found is not None and found[0].tolist() == exact(vectors, found[1]).tolist()
        bench.close()
    assert opened > KILLS / 2


# -- sequences of everything ---------------------------------------------------------------


class AnythingMayHappen(RuleBasedStateMachine):
    """A coordinator that loses, repeats, restarts and lies, over real sites.

    After every step: no site has given two different shares for one peer and session, no
    release was opened by one site in two sessions, and every sum that came out is exact.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(count=4, words=4)
        self.round = 0
        self.vectors = self.bench.draw(0)
        self.checked = 0
        self.given: dict[tuple[str, str, int], bytes] = {}
        self.releases: dict[tuple[str, str], str] = {}

    def teardown(self) -> None:
        self.bench.close()

    @rule(site=st.integers(0, 3), kind=st.sampled_from(KINDS), after=st.booleans())
    def lose(self, site: int, kind: str, after: bool) -> None:
        (self.bench.silent if after else self.bench.lost).add((self.bench.names[site], kind))

    @rule()
    def mend(self) -> None:
        self.bench.lost, self.bench.silent = set(), set()

    @rule(site=st.integers(0, 3))
    def restart(self, site: int) -> None:
        self.bench.restart(self.bench.names[site])

    @rule(fresh=st.booleans())
    def attempt(self, fresh: bool) -> None:
        found = self.bench.sum(self.round, fresh=fresh)
        if found is not None:
            assert found[0].tolist() == exact(self.vectors, found[1]).tolist()
            assert len(found[1]) >= required_sites(3, len(self.bench.names))
            self.next()

    @rule()
    def next(self) -> None:
        """Go on to the next release, also where this one was given up."""
        self.round += 1
        self.vectors = self.bench.draw(self.round)

    @precondition(lambda self: self.bench.seen)
    @rule(which=st.integers(0, 10**6), other=st.integers(0, 3))
    def replay(self, which: int, other: int) -> None:
        """Any recorded request again, to its site or another, in whatever state it is."""
        _, request, _ = self.bench.seen[which % len(self.bench.seen)]
        site = self.bench.names[other]
        answer = self.bench.sites[site].handle(request)
        self.bench.seen.append((site, request, answer))

    @precondition(lambda self: any(r.kind == MASK_AGREE for _, r, _ in self.bench.seen))
    @rule(which=st.integers(0, 10**6), drop=st.integers(0, 3), site=st.integers(0, 3))
    def lie_about_survivors(self, which: int, drop: int, site: int) -> None:
        asked = [r for _, r, _ in self.bench.seen if r.kind == MASK_AGREE]
        request = asked[which % len(asked)]
        kept = dict(Survivors.from_bytes(request.payload).payloads)
        kept.pop(drop, None)
        lie = Message(kind=MASK_AGREE, fields=request.fields,
                      payload=Survivors(payloads=kept).to_bytes())
        name = self.bench.names[site]
        self.bench.seen.append((name, lie, self.bench.sites[name].handle(lie)))

    @invariant()
    def one_share_per_peer(self) -> None:
        for site, request, answer in self.bench.seen[self.checked :]:
            if request.kind != MASK_OPEN or answer.kind == ERROR:
                continue
            session = str(request.fields[SESSION])
            for peer, share in Shares.from_bytes(answer.payload).shares.items():
                key = (site, session, peer)
                assert self.given.setdefault(key, share) == share
        self.checked = len(self.bench.seen)


AnythingMayHappen.TestCase.settings = settings(
    max_examples=SEQUENCES, stateful_step_count=6, derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TestAnythingMayHappen = AnythingMayHappen.TestCase

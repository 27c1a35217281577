"""Attacks on masked sums, each named after what the attacker tries; each must fail."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import reduce

import numpy as np
import pytest
from masking_bench import MODEL, RUN_ID, Bench, exact

from medunlearn_client.masking.journal import SessionRecord, SessionState
from medunlearn_client.masking.site import add_own_masks
from medunlearn_common.errors import Rejected, Transient
from medunlearn_common.masking.binding import Binding, request_digest
from medunlearn_common.masking.expansion import add_masks
from medunlearn_common.masking.keys import SessionSecrets, check_public_key, public_of
from medunlearn_common.masking.members import Members
from medunlearn_common.masking.parts import (
    AGREE_CONTEXT,
    NEXT_SESSION,
    SESSION,
    Opening,
    Shares,
    Survivors,
    offer_to_bytes,
    read_members,
    read_offer,
)
from medunlearn_common.masking.shamir import Weights
from medunlearn_common.messages import (
    ERROR,
    EVALUATE,
    MASK_AGREE,
    MASK_KEYS,
    MASK_OPEN,
    MASK_SHARES,
    STEP,
    VOTE,
    Message,
)
from medunlearn_common.plan import RunPlan
from medunlearn_server.masking.attempt import Attempt
from medunlearn_server.masking.leader import MaskingLeader
from medunlearn_server.masking.opening import open_sum
from medunlearn_server.masking.session import Collecting, Cut, Session


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench(count=5)
    yield bench
    bench.close()


def masked_round(bench: Bench, round_index: int = 0) -> tuple[Session, Collecting]:
    bench.draw(round_index)
    session = bench.session()
    assert session is not None
    return session, bench.masked(session, bench.request(round_index))


def send(bench: Bench, site: str, kind: str, payload: bytes, session: str, following: str = ""
         ) -> Message:
    return bench.sites[site].handle(Message(kind=kind, payload=payload, fields={
        **bench.fields, SESSION: session, NEXT_SESSION: following,
    }))


def code(answer: Message) -> str:
    assert answer.kind == ERROR and answer.payload == b"", answer.kind
    return str(answer.fields["code"])


def cut_of(cut: Cut, *without: str) -> Cut:
    """The same cut with fewer survivors, as a lying coordinator may claim."""
    left_out = {cut.binding.members.positions[site] for site in without}
    kept = {p: d for p, d in cut.survivors.payloads.items() if p not in left_out}
    return replace(cut, survivors=Survivors(payloads=kept))


def signatures(bench: Bench, cut: Cut, sites: tuple[str, ...]) -> dict[int, bytes]:
    positions = cut.binding.members.positions
    return {
        positions[s]: bench.identities.signer(s).sign(AGREE_CONTEXT, cut.digest) for s in sites
    }


# -- masks ---------------------------------------------------------------------------------


def mask_of(seed: bytes, words: int = 64) -> np.ndarray:
    vector = np.zeros(words, dtype=np.uint32)
    add_masks(vector, [(seed, 1)])
    return vector


def flower_seed(key: bytes) -> int:
    """How Flower 1.41's SecAgg+ folds a 256-bit key: 32-bit words xored together."""
    words = [int.from_bytes(key[at : at + 4], "big") for at in range(0, 32, 4)]
    return reduce(lambda a, b: a ^ b, words)


def test_seed_enumeration_of_masks() -> None:
    """Two keys that a 32-bit fold makes equal: one mask there, two here.

    Where masks come from 2^32 seeds, trying them all opens a vector. Here the mask depends on
    every bit of a 256-bit seed, so that nothing is left to enumerate.
    """
    one = bytes(range(32))
    other = one[4:8] + one[:4] + one[8:]
    assert one != other and flower_seed(one) == flower_seed(other)
    folded = [np.random.RandomState(flower_seed(k)).randint(0, 2**31, 8) for k in (one, other)]
    assert folded[0].tolist() == folded[1].tolist()  # the attack's premise holds
    assert np.count_nonzero(mask_of(one) == mask_of(other)) == 0
    seen = {mask_of(one).tobytes()}
    for bit in range(256):
        flipped = bytearray(one)
        flipped[bit // 8] ^= 1 << bit % 8
        seen.add(mask_of(bytes(flipped)).tobytes())
    assert len(seen) == 257


def test_masked_vectors_are_uniform(bench: Bench) -> None:
    """Whatever the vector, what leaves is uniform: every byte, and from round to round."""
    bench.words = 60_000
    seen = []
    for round_index in range(2):
        bench.draw(round_index)
        for inner in bench.inner.values():
            inner.vectors[round_index] = np.zeros(bench.words, dtype=np.uint32)
        assert bench.sum(round_index) is not None
        seen += [a.payload for _, r, a in bench.seen if r.kind == STEP
                 and r.fields["round"] == round_index]
    for payload in seen:
        for byte in range(4):
            counts = np.bincount(np.frombuffer(payload, np.uint8)[byte::4], minlength=256)
            chi2 = float(((counts - bench.words / 256) ** 2 / (bench.words / 256)).sum())
            assert 150 < chi2 < 380  # 255 degrees of freedom; p about 1e-6 on each side
    assert len(set(seen)) == len(seen) == 10


def test_gradient_readout_from_what_the_coordinator_sees_of_one_site(bench: Bench) -> None:
    """Which of 64 candidate records is in a site's update? Read it off the gradient.

    The attacker knows every candidate's gradient and picks the best match. Against an
    unmasked, noiseless update it always wins; against what the coordinator sees it guesses.
    """
    generator, bench.words = np.random.default_rng(5), 400
    candidates = np.rint(generator.normal(0.0, 5000.0, (64, bench.words))).astype(np.int64)
    wins = {"plain": 0, "masked": 0}
    for round_index in range(12):
        bench.draw(round_index)
        truth = int(generator.integers(64))
        bench.inner["site-000"].vectors[round_index] = candidates[truth].astype(np.uint32)
        assert bench.sum(round_index) is not None
        (masked,) = [a.payload for s, r, a in bench.seen if s == "site-000" and r.kind == STEP
                     and r.fields["round"] == round_index]
        for name, words in (
            ("plain", bench.inner["site-000"].vectors[round_index]),
            ("masked", np.frombuffer(masked, "<u4")),
        ):
            signed = words.view(np.int32).astype(np.float64)
            wins[name] += int(np.argmax(candidates @ signed)) == truth
    assert wins["plain"] == 12
    assert wins["masked"] <= 3  # expected 12/64


# -- shares --------------------------------------------------------------------------------


def test_both_shares_asked_for_one_peer(bench: Bench) -> None:
    """A survivor is declared dropped afterwards, so that both of its secrets would open."""
    session, collecting = masked_round(bench)
    cut, name = collecting.cut(), session.members.session
    assert bench.agreed(cut) is not None
    lie = cut_of(cut, "site-004")
    for site in bench.names[:4]:
        refused = send(bench, site, MASK_AGREE, lie.survivors.to_bytes(), name)
        assert code(refused) == "MASKING_SURVIVORS_CHANGED"
        forged = Opening(signatures=signatures(bench, lie, bench.names[:4]), next_members=b"")
        answer = send(bench, site, MASK_OPEN, forged.to_bytes(), name)
        assert code(answer) == "MASKING_SURVIVORS_DISPUTED"
    true = Opening(signatures=signatures(bench, cut, bench.names), next_members=b"")
    given = [send(bench, s, MASK_OPEN, true.to_bytes(), name).payload for s in bench.names]
    again = [send(bench, s, MASK_OPEN, forged.to_bytes(), name).payload for s in bench.names]
    assert given == again  # asked once more, whatever for: the same shares
    assert all(set(Shares.from_bytes(g).shares) == set(range(5)) for g in given)


def test_survivor_sets_that_differ_between_sites(bench: Bench) -> None:
    """Half of the sites are shown one survivor set, half another: neither finds a quorum."""
    session, collecting = masked_round(bench)
    cut, name = collecting.cut(), session.members.session
    lie, collected = cut_of(cut, "site-004"), {}
    for index, site in enumerate(bench.names[:4]):
        shown = lie if index % 2 else cut
        answer = send(bench, site, MASK_AGREE, shown.survivors.to_bytes(), name)
        collected[index] = answer.payload
    opening = Opening(signatures=collected, next_members=b"").to_bytes()
    for site in bench.names[:4]:
        assert code(send(bench, site, MASK_OPEN, opening, name)) == "MASKING_SURVIVORS_DISPUTED"


def test_a_site_is_never_told_to_open_without_having_signed(bench: Bench) -> None:
    session, collecting = masked_round(bench)
    cut = collecting.cut()
    opening = Opening(signatures=signatures(bench, cut, bench.names), next_members=b"")
    answer = send(bench, "site-000", MASK_OPEN, opening.to_bytes(), session.members.session)
    assert code(answer) == "MASKING_SESSION_UNKNOWN"


def test_fewer_survivors_than_m_or_t(bench: Bench) -> None:
    session, collecting = masked_round(bench)
    cut = collecting.cut()
    alone = cut_of(cut, *bench.names[1:])
    three = cut_of(cut, *bench.names[3:])
    for lie in (alone, three):  # t = 4 of 5
        answer = send(bench, "site-000", MASK_AGREE, lie.survivors.to_bytes(),
                      session.members.session)
        assert code(answer) == "MASKING_TOO_FEW_SITES"


def test_a_coordinator_that_shows_a_victim_a_small_session() -> None:
    """Two thirds of a session are no protection where the coordinator picks the session."""
    bench = Bench(count=7, min_sites=3)
    try:
        shown = bench.names[:4]  # with a plan of seven, sums are of five or more
        offers = {name: offer for name, offer in offers_of(bench).items() if name in shown}
        assert {code(shares_after(bench, offers, site)) for site in shown} == {
            "MASKING_TOO_FEW_SITES"}
        assert bench.session(shown) is None  # the coordinator's own code does not even ask
        assert bench.leader.session(bench.ask, bench.names[:5], bench.fields, fresh=True)
        assert not bench.errors
    finally:
        bench.close()


def test_two_attempts_of_one_release_whose_survivors_differ_by_one_site(bench: Bench) -> None:
    """The difference of the two sums would be that site's vector."""
    bench.draw(0)
    assert bench.sum(0) is not None
    fresh = bench.session(fresh=True)
    assert fresh is not None
    bench.silent = {("site-004", STEP)}
    retry = bench.masked(fresh, bench.request(0))
    assert retry.sites == ()
    assert set(bench.errors.values()) == {"MASKING_RELEASE_CLOSED"}
    # Nor does it help to mask both before either is opened.
    bench.draw(1)
    bench.silent, first = set(), bench.session()
    assert first is not None
    one = bench.masked(first, bench.request(1)).cut()
    second = bench.session(fresh=True)
    assert second is not None
    bench.silent = {("site-004", STEP)}
    two = bench.masked(second, bench.request(1)).cut()
    bench.silent = set()
    attempts = [bench.agreed(one, more=False), bench.agreed(two, more=False)]
    assert attempts[0] is not None and attempts[1] is not None
    assert bench.leader.opened(bench.ask, attempts[0]) is not None
    bench.errors.clear()
    assert bench.leader.opened(bench.ask, attempts[1]) is None
    assert set(bench.errors.values()) <= {"MASKING_SESSION_UNKNOWN", "MASKING_RELEASE_CLOSED"}


def prepared(bench: Bench, members: Sequence[str], start: int) -> Attempt:
    """A session among some of the sites, with everything that its opening needs."""
    bench.leader.start = start
    session = bench.session(members, fresh=True)
    assert session is not None, bench.errors
    attempt = bench.agreed(bench.masked(session, bench.request(0)).cut(), more=False)
    assert attempt is not None, bench.errors
    return attempt


def opened_at(bench: Bench, attempt: Attempt, openers: Sequence[str]) -> bool:
    """Whether what these sites say opens the sum."""
    request = Message(kind=MASK_OPEN, fields=attempt.fields, payload=attempt.opening)
    shares = bench.ask(dict.fromkeys(openers, request),
                       lambda site, answer: Shares.from_bytes(answer.payload).shares)
    try:
        open_sum(attempt.cut, shares)
    except Transient as error:
        assert error.code == "MASKING_TOO_FEW_SHARES"
        return False
    return True


@pytest.mark.parametrize("openers", [5, 6, 7])
def test_two_sums_of_one_release_over_different_sites_are_not_both_opened(openers: int) -> None:
    """Each site opens one session, as it should; the coordinator chooses which site which.

    Two thirds of seven members are five: ten sites would have been enough for both.
    """
    bench = Bench(count=10)
    bench.draw(0)
    one = prepared(bench, bench.names[:7], 1)
    two = prepared(bench, bench.names[3:], 2)
    assert not (opened_at(bench, one, bench.names[:openers])
                and opened_at(bench, two, bench.names[openers:]))
    bench.close()


def test_one_corrupt_hospital_does_not_open_two_sums_either() -> None:
    """It gives its shares in both sessions: one of five, and of four in each."""
    bench = Bench(count=5)
    bench.draw(0)
    one = prepared(bench, bench.names[:4], 1)
    two = prepared(bench, bench.names[1:], 2)
    corrupt, kept = bench.names[2], bench.home / "kept"
    bench.journals.pop(corrupt).close()
    shutil.copytree(bench.home / corrupt, kept)
    bench.restart(corrupt)
    first = opened_at(bench, one, [bench.names[0], bench.names[1], corrupt])
    bench.journals.pop(corrupt).close()
    shutil.rmtree(bench.home / corrupt)
    kept.rename(bench.home / corrupt)
    bench.restart(corrupt)
    assert not (first and opened_at(bench, two, [corrupt, *bench.names[3:]]))
    bench.close()


def test_a_session_under_another_number_of_sites_than_the_plans_is_refused() -> None:
    """Its thresholds would be shares of that number."""
    bench = Bench(count=5)
    bench.draw(0)
    bench.leader = MaskingLeader(run_id=RUN_ID, min_sites=3, sites=4, verifier=bench.identities)
    assert bench.session(bench.names[:4], fresh=True) is None
    assert set(bench.errors.values()) == {"MASKING_PLAN_SITES"}
    bench.close()


def test_a_bad_share_is_found_named_and_worked_around() -> None:
    bench = Bench(count=7)
    vectors = bench.draw(0)
    def spoil(site: str, answer: Message) -> Message:
        if answer.kind != MASK_OPEN or site != "site-001":
            return answer
        found = Shares.from_bytes(answer.payload)
        wrong = {p: bytes(32) + bytes([s[-1] ^ 1]) for p, s in found.shares.items()}
        return replace(answer, payload=Shares(shares=wrong, sealed=found.sealed).to_bytes())

    bench.spoil = spoil
    total, sites = bench.sum(0) or (None, ())
    assert total is not None and total.tolist() == exact(vectors, sites).tolist()
    bench.close()


def test_too_many_bad_shares_abort_instead_of_a_wrong_sum() -> None:
    bench = Bench(count=4)
    bench.draw(0)

    def spoil(site: str, answer: Message) -> Message:
        if answer.kind != MASK_OPEN or site > "site-001":
            return answer
        found = Shares.from_bytes(answer.payload)
        return replace(answer, payload=Shares(
            shares=dict.fromkeys(found.shares, bytes(33)), sealed=b"").to_bytes())

    bench.spoil = spoil
    with pytest.raises(Rejected, match="MASKING_SHARE_BAD"):
        bench.sum(0)
    bench.close()


# -- keys ----------------------------------------------------------------------------------

P = (1 << 255) - 19
LOW_ORDER = [
    value.to_bytes(32, "little") for value in (
        0, 1, P - 1, P, P + 1, 1 << 255,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    )
]


@pytest.mark.parametrize("key", LOW_ORDER, ids=range(len(LOW_ORDER)))
def test_low_order_and_all_zero_keys(key: bytes) -> None:
    with pytest.raises(Rejected, match="MASKING_KEY_LOW_ORDER"):
        check_public_key(key)


def offers_of(bench: Bench, session: str = "0.1") -> dict[str, bytes]:
    return {s: send(bench, s, MASK_KEYS, b"", session).payload for s in bench.names}


def shares_after(bench: Bench, offers: dict[str, bytes], site: str = "site-000") -> Message:
    counts = bench.plan.federation.sites.to_bytes(2, "big") + len(offers).to_bytes(2, "big")
    payload = counts + b"".join(offers[s] for s in sorted(offers))
    return send(bench, site, MASK_SHARES, payload, "0.1")


def resigned(bench: Bench, payload: bytes, **changes: bytes) -> bytes:
    """An offer with other keys that the site itself signed."""
    offer = replace(read_offer(payload), **changes)
    message = offer.signed_part(run_id=RUN_ID, session="0.1")
    signature = bench.identities.signer(offer.site_id).sign("medunlearn/masking/1/keys", message)
    return offer_to_bytes(replace(offer, signature=signature))


@pytest.mark.parametrize(("changes", "expected"), [
    ({"mask_key": bytes(32)}, "MASKING_KEY_LOW_ORDER"),
    ({"sealing_key": LOW_ORDER[2]}, "MASKING_KEY_LOW_ORDER"),
    ({"mask_key": public_of(bytes(31) + b"x"), "sealing_key": public_of(bytes(31) + b"x")},
     "MASKING_KEY_TWICE"),
])
def test_bad_keys_of_a_hostile_site(
    bench: Bench, changes: dict[str, bytes], expected: str
) -> None:
    offers = offers_of(bench)
    offers["site-003"] = resigned(bench, offers["site-003"], **changes)
    assert code(shares_after(bench, offers)) == expected


def test_a_key_copied_from_another_site(bench: Bench) -> None:
    offers = offers_of(bench)
    theirs = read_offer(offers["site-002"]).mask_key
    offers["site-003"] = resigned(bench, offers["site-003"], mask_key=theirs)
    assert code(shares_after(bench, offers)) == "MASKING_KEY_TWICE"


def test_keys_substituted_by_the_coordinator(bench: Bench) -> None:
    offers = offers_of(bench)
    mine = replace(read_offer(offers["site-003"]), mask_key=public_of(b"c" * 32))
    offers["site-003"] = offer_to_bytes(mine)
    assert code(shares_after(bench, offers)) == "SIGNATURE_INVALID"
    assert code(shares_after(bench, offers, "site-003")) == "MASKING_KEY_SELF"


def test_keys_of_another_session_or_run_are_not_taken(bench: Bench) -> None:
    old, offers = offers_of(bench, "0.0"), offers_of(bench)
    offers["site-003"] = old["site-003"]
    assert code(shares_after(bench, offers)) == "SIGNATURE_INVALID"


def test_invented_sites_beside_one_real_one(bench: Bench) -> None:
    """A session of one victim and sites that the coordinator made up."""
    offers = {"site-000": send(bench, "site-000", MASK_KEYS, b"", "0.1").payload}
    for name in ("ghost-1", "ghost-2", "ghost-3", "ghost-4"):
        secrets = SessionSecrets(root=name.encode().ljust(32))
        made = secrets.offer(
            bench.identities.signer("coordinator"), run_id=RUN_ID, session="0.1", site_id=name
        )
        offers[name] = offer_to_bytes(made)
    assert code(shares_after(bench, offers)) == "SIGNATURE_INVALID"
    assert code(shares_after(bench, {"site-000": offers["site-000"]})) == "MASKING_TOO_FEW_SITES"


# -- views that differ ---------------------------------------------------------------------


@pytest.mark.parametrize("split", ["model", "values", "support", "participants"])
def test_a_split_view_yields_garbage_not_a_difference(bench: Bench, split: str) -> None:
    """One site is shown something else: its masks fit nobody's, and the sum says nothing."""
    vectors = bench.draw(0)
    if split == "model":
        bench.inner["site-002"].model_digest = "x" * 64
        bench.ready("site-002")
    session = bench.session()
    assert session is not None
    collecting = bench.leader.collecting(session, bench.request(0), model_digest=MODEL)
    for site in session.sites:
        request, shown = bench.request(0), session
        if site == "site-002" and split == "values":
            request = bench.request(0, value=0.5)
        if site == "site-002" and split == "support":
            request = replace(request, fields={**request.fields, "support_digest": "t" * 64})
        if site == "site-002" and split == "participants":
            left = {p: s for p, s in session.sealed.items() if p != 4}
            shown = Session(members=session.members, sealed=left)
        answer = bench.sites[site].handle(bench.leader.delivered(shown, site, request))
        collecting.add(site, np.frombuffer(answer.payload, "<u4").astype(np.uint32))
    cut = collecting.cut()
    attempt = bench.agreed(cut)
    if attempt is None:
        return  # its signature fits nobody's view either
    # The quorum of the others may go on; then the sum is noise in every coordinate.
    total = bench.leader.opened(bench.ask, attempt)
    if total is not None:
        wrong = np.count_nonzero(total != exact(vectors, cut.sites))
        assert wrong == bench.words


def test_the_support_may_travel_to_some_sites_only(bench: Bench) -> None:
    assert request_digest(bench.request(0)) == request_digest(bench.request(0, support=bytes(32)))
    assert request_digest(bench.request(0)) != request_digest(bench.request(0, value=1.0))


def test_a_session_masks_one_release_only(bench: Bench) -> None:
    session, _ = masked_round(bench)
    bench.draw(1)
    other = bench.masked(session, bench.request(1))
    assert other.sites == () and set(bench.errors.values()) == {"MASKING_SESSION_USED"}


def test_a_plan_with_a_smaller_m_does_not_open_a_release_of_another(bench: Bench) -> None:
    """m is that of the plan under which the vector was masked."""
    strict = RunPlan.model_validate({
        "privacy": {"noise": "none"}, "federation": {"sites": 5, "min_sites": 5},
    })
    for name in bench.names:
        bench.ready(name, strict)
    bench.draw(0)
    session = bench.session()
    assert session is not None
    request = bench.request(0)
    request = replace(request, fields={**request.fields, "plan_digest": strict.digest})
    cut = bench.masked(session, request).cut()
    four = cut_of(cut, "site-004")  # enough for t, and for the first plan's m
    answer = send(bench, "site-000", MASK_AGREE, four.survivors.to_bytes(),
                  session.members.session)
    assert code(answer) == "MASKING_TOO_FEW_SITES"


# -- without masking -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [STEP, VOTE, EVALUATE, "dump_records"])
def test_nothing_leaves_unmasked_whatever_is_asked(bench: Bench, kind: str) -> None:
    bench.draw(0)
    request = replace(bench.request(0), kind=kind)
    assert code(bench.sites["site-000"].handle(request)) == "MASKING_MISSING"
    session = bench.session()
    assert session is not None
    delivered = bench.leader.delivered(session, "site-000", request)
    if kind == "dump_records":
        assert code(bench.sites["site-000"].handle(delivered)) == "MASKING_KIND"


# -- keys that live as long as a run -------------------------------------------------------


def reconstruct(found: dict[int, dict[int, bytes]], owner: int, threshold: int) -> bytes | None:
    shares = {holder + 1: table[owner] for holder, table in found.items() if owner in table}
    points = sorted(shares)[:threshold]
    return Weights.of(points).combine(shares)


def test_keys_kept_for_a_run_would_open_an_earlier_vector_and_fresh_ones_do_not(
    bench: Bench,
) -> None:
    """Survive one round, drop in a later one: the first vector opens if keys are reused.

    The coordinator is honest but curious: it keeps the self-mask seed that round 0 revealed
    and the mask key that round 1 revealed after the dropout.
    """
    victim, vectors = "site-002", bench.draw(0)
    roots = {name: bytes([index]) * 32 for index, name in enumerate(bench.names)}
    secrets = {name: SessionSecrets(root=root) for name, root in roots.items()}
    members = Members.of([
        secrets[n].offer(bench.identities.signer(n), run_id=RUN_ID, session="0.0", site_id=n)
        for n in bench.names
    ], run_id=RUN_ID, session="0.0", sites=len(bench.names))
    binding = Binding(members=members, participants=tuple(range(5)), release="round-0",
                      request=request_digest(bench.request(0)), model_digest=MODEL)
    masked = vectors[victim].copy()
    add_own_masks(masked, binding, secrets[victim], 2)
    # Reused keys: b from round 0 and the mask key from round 1 belong together.
    assert opened_by(masked, binding, secrets[victim].self_seed,
                     secrets[victim].mask_private).tolist() == vectors[victim].tolist()
    # Ours: the same two rounds over the real sites.
    total = bench.sum(0)
    assert total is not None
    session = bench.leader.state
    bench.draw(1)
    bench.lost = {(victim, STEP)}
    assert bench.sum(1) is not None
    revealed: list[dict[int, dict[int, bytes]]] = [{}, {}]
    payload = b""
    for site, request, answer in bench.seen:
        if request.kind == MASK_OPEN:
            which = 0 if request.fields[SESSION] == "0.1" else 1
            revealed[which][bench.names.index(site)] = Shares.from_bytes(answer.payload).shares
        if request.kind == STEP and site == victim and request.fields["round"] == 0:
            payload = answer.payload
    self_seed, mask_key = (reconstruct(r, 2, 4) for r in revealed)
    assert self_seed is not None and mask_key is not None and session.ordinal == 1
    real = Binding(
        members=first_members(bench), participants=tuple(range(5)), release="round-0",
        request=request_digest(bench.request(0)), model_digest=MODEL,
    )
    seen = np.frombuffer(payload, "<u4").astype(np.uint32)
    found = opened_by(seen, real, self_seed, mask_key)
    assert np.count_nonzero(found == vectors[victim]) == 0


def first_members(bench: Bench) -> Members:
    (payload,) = {r.payload for _, r, _ in bench.seen if r.kind == MASK_SHARES}
    return read_members(payload, run_id=RUN_ID, session="0.1")


def opened_by(masked: np.ndarray, binding: Binding, self_seed: bytes, mask_key: bytes
              ) -> np.ndarray:
    """Take all masks of site 2 away, with the two secrets that were revealed."""
    vector = masked.copy()
    add_masks(vector, [(binding.self_mask_seed(self_seed, 2), -1)])
    for other in binding.masking_neighbours(2):
        seed = binding.pair_mask_seed(mask_key, 2, other)
        add_masks(vector, [(seed, -1 if other > 2 else 1)])
    return vector


# -- a journal that is gone ----------------------------------------------------------------


def test_a_lost_journal_is_not_a_fresh_start(bench: Bench) -> None:
    bench.draw(0)
    assert bench.sum(0) is not None
    bench.journals["site-000"].close()
    for path in (bench.home / "site-000").glob("masking.db*"):
        path.unlink()
    bench.restart("site-000")
    bench.ready("site-000")
    answer = send(bench, "site-000", MASK_KEYS, b"", "1.1")
    assert code(answer) == "MASKING_JOURNAL_LOST"


def test_secrets_are_erased_once_a_session_is_opened(bench: Bench) -> None:
    session, collecting = masked_round(bench)
    name = session.members.session
    with bench.journals["site-000"].transaction() as step:
        record = step.session(RUN_ID, name)
    assert record is not None and len(record.root) == 32
    attempt = bench.agreed(collecting.cut(), more=False)
    assert attempt is not None and bench.leader.opened(bench.ask, attempt) is not None
    with bench.journals["site-000"].transaction() as step:
        after = step.session(RUN_ID, name)
    assert after is not None and (after.root, after.delivery) == (b"", b"")
    assert after.state is SessionState.OPENED
    # At once, in the write-ahead log too: a run that is never finished sends no FINISH.
    files = everything_in_the_journal(bench)
    assert record.root not in files and record.delivery not in files
    assert record.root.hex() not in repr(record) and "root" not in repr(record)


def everything_in_the_journal(bench: Bench, name: str = "site-000") -> bytes:
    return b"".join(p.read_bytes() for p in (bench.home / name).glob("masking.db*"))


def test_a_new_run_erases_what_others_can_never_open(bench: Bench) -> None:
    """Keys of a run that was given up go; what was signed stays, as it may still be opened."""
    def record_of(session: str) -> SessionRecord | None:
        with bench.journals["site-000"].transaction() as step:
            return step.session(RUN_ID, session)

    signed, collecting = masked_round(bench)
    assert bench.agreed(collecting.cut(), more=False) is not None
    waiting = bench.session(fresh=True)
    assert waiting is not None
    kept, given_up = (record_of(s.members.session) for s in (signed, waiting))
    assert kept is not None and given_up is not None
    assert given_up.root in everything_in_the_journal(bench)
    keys = Message(kind=MASK_KEYS, fields={
        **bench.fields, "run_id": "another", SESSION: "0.1.1",
    })
    first = bench.sites["site-000"].handle(keys)
    assert first.kind == MASK_KEYS and record_of(signed.members.session) == kept
    assert record_of(waiting.members.session) is None
    assert given_up.root not in everything_in_the_journal(bench)
    # Asked again, or for more keys, the run is not new; neither is one that goes on.
    again = bench.session(fresh=True)
    assert again is not None and bench.sites["site-000"].handle(keys) == first
    assert record_of(again.members.session) is not None

"""A request that waits while the roster changes is addressed anew, and says nothing else by it.

The consortium renews the roster, enrols, rotates or revokes when it likes; a coordinator that
comes back asks what it had asked under the roster in force. Each attack tries to get more.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_envelope_attacks import header_of, sealed
from trust_lab import (
    NOW,
    SITES,
    Lab,
    TrustedRoster,
    entry,
    key,
    roster,
    same,
    signed,
    store,
    trust,
)

from medunlearn_common.envelope import HELLO, SEALED, Header, OpenedEnvelope, open_envelope, seal
from medunlearn_common.envelope.header import CONTENT_TYPE
from medunlearn_common.envelope.sealing import content_bytes, header_digest
from medunlearn_common.errors import MedunlearnError, Rejected
from medunlearn_common.evidence import Contradiction, proven
from medunlearn_common.identity import SigningIdentity
from medunlearn_common.messages import ERROR, MASK_AGREE, MASK_OPEN, Message
from medunlearn_common.roster import Roster
from medunlearn_server.transport import SITE_SILENT, SiteFailure


def without(document: Roster, *names: str) -> Roster:
    """The roster once these are out, their keys revoked."""
    revoked = tuple(sorted(key(name).key_id for name in names))
    return replace(document, revoked=revoked, parties=tuple(
        party for party in document.parties if party.party_id not in names))


def restarted(lab: Lab, document: Roster) -> dict[str, Any]:
    """The coordinator comes back under a later roster, greets, and says READY."""
    place = lab.folder / lab.leader
    TrustedRoster(place, now=NOW).offer(signed(document), now=NOW)
    lab.trust.close()
    lab.trust = trust(place, lab.leader)
    lab.transport = lab.coordinator()
    return lab.ready()


def lost(lab: Lab, *sites: str) -> None:
    """Answers of these never reach the coordinator."""
    lab.wire.change_answer = lambda address, answer: (
        SiteFailure(code=SITE_SILENT) if address in sites else answer)


def request_to(lab: Lab, address: str) -> Message:
    return next(m for a, m in reversed(sealed(lab)) if a == address)


def forged(lab: Lab, message: Message, content: bytes | None = None, **changes: Any) -> Message:
    """The coordinator's own key signs another header, perhaps over another content."""
    data = content if content is not None else content_bytes(header_of(lab, message).message)
    header = replace(header_of(lab, message).header, digest=hashlib.sha256(data).digest(),
                     length=len(data), **changes)
    return Message(kind=SEALED, payload=seal(key("coordinator"), header, data))


def told(lab: Lab, reply: Message) -> str:
    """The code of a refusal, signed or bare; empty for an answer."""
    found = reply if reply.kind == ERROR else header_of(lab, reply).message
    return str(found.fields.get("code", ""))


def evidence_in(lab: Lab) -> int:
    return sum(len(held.store.equivocations())
               for held in (lab.trust, *(h.trust for h in lab.hospitals.values())))


@pytest.mark.parametrize("silent", [(), ("site-1",), SITES])
def test_what_waited_while_the_roster_changed_is_asked_and_answered_again(
    tmp_path: Path, silent: tuple[str, ...]
) -> None:
    lab = Lab(tmp_path)
    lab.ready()
    lost(lab, *silent)
    before = lab.step(0)
    lost(lab)
    assert same(restarted(lab, roster(2)), "")
    after = lab.step(0)
    assert same(after, "") and evidence_in(lab) == 0
    assert all(after[site] == before[site] for site in SITES if site not in silent)
    # It was answered before: the witness takes its state of the log again.
    assert all(inside.repeated[-1] for inside in lab.inside.values())
    requests = [m.payload for _, m in sealed(lab)[-3:]]
    assert same(lab.step(0), "") and [m.payload for _, m in sealed(lab)[-3:]] == requests
    assert same(restarted(lab, roster(5)), "") and same(lab.step(0), "")
    assert same(lab.step(1), "") and evidence_in(lab) == 0


def test_a_request_that_was_only_refused_is_no_repeated_one_under_a_later_roster(
    tmp_path: Path
) -> None:
    lab = Lab(tmp_path)
    lab.ready()
    lab.inside["site-0"].error = "SITE_STORAGE"
    assert lab.step(0)["site-0"] == "SITE_STORAGE"
    lab.inside["site-0"].error = ""
    restarted(lab, roster(2))
    assert same(lab.step(0), "")
    assert not lab.inside["site-0"].repeated[-1] and lab.inside["site-1"].repeated[-1]


def test_a_coordinator_never_signs_another_content_under_a_later_roster(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.ready(), lab.step(0)
    restarted(lab, roster(2))
    with pytest.raises(Rejected) as caught:
        lab.step(0, sigma=0.5)
    assert caught.value.code == "ANSWER_CHANGED"
    assert same(lab.step(0), "")


@pytest.mark.parametrize("kind", ["step", MASK_AGREE, MASK_OPEN])
def test_another_content_under_a_later_roster_is_equivocation(tmp_path: Path, kind: str) -> None:
    """Two survivor sets of one session, two openings, two models of one round: a later roster
    is no new place for any of them, and nothing inside sees the second one."""
    lab = Lab(tmp_path)
    lab.ready()
    fields = {"run_id": lab.run_id, "plan_digest": lab.plan.digest, "round": 3}
    session = {} if kind == "step" else {"mask_session": "4.1.1", "next_session": "5.1.0"}
    first = Message(kind=kind, fields={**fields, **session}, payload=b"a" * 64)
    assert same(lab.ask(first), "")
    message = request_to(lab, "site-0")
    restarted(lab, roster(2))
    site, asked = lab.hospitals["site-0"], len(lab.inside["site-0"].asked)
    later = {"roster": roster(2).digest, "sequence": 1000, "nonce": b"\7" * 16}
    other = content_bytes(replace(first, payload=b"b" * 64))
    old = old_opened(message)
    header = replace(old.header, **later, digest=hashlib.sha256(other).digest())
    attack = Message(kind=SEALED, payload=seal(key("coordinator"), header, other))
    assert told(lab, site.handle(attack)) == "EQUIVOCATION"
    assert len(lab.inside["site-0"].asked) == asked
    found, = site.trust.store.equivocations()
    assert "signed two requests" in proven(contradiction(found.kept, found.other), roster(2))
    # And the round is closed to it: the honest repetition comes too late.
    assert lab.ask(first)["site-0"] == "ROUND_ABORTED"


def old_opened(message: Message) -> OpenedEnvelope:
    return open_envelope(message.payload, roster(), now=NOW, expect=lambda h: None)


def contradiction(kept: bytes, other: bytes) -> Contradiction:
    texts = [base64.b64encode(data).decode("ascii") for data in (kept, other)]
    return Contradiction(kind="envelopes", kept=texts[0], other=texts[1])


@pytest.mark.parametrize("changes", [
    {"support": b"\6" * 32}, {"support": bytes(32)}, {"transcript": b"\1" * 32},
    {"model": bytes(32)},
])
def test_another_header_under_a_later_roster_is_equivocation(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    lab = Lab(tmp_path)
    lab.ready(), lab.step(0)
    message = request_to(lab, "site-0")
    restarted(lab, roster(2))
    old = old_opened(message)
    plain = replace(old.message, fields={
        n: v for n, v in old.message.fields.items() if n != "support_digest"})
    content = content_bytes(plain if "support" in changes else old.message)
    header = replace(old.header, roster=roster(2).digest, sequence=1000, length=len(content),
                     digest=hashlib.sha256(content).digest(), **changes)
    attack = Message(kind=SEALED, payload=seal(key("coordinator"), header, content))
    asked = len(lab.inside["site-0"].asked)
    assert told(lab, lab.hospitals["site-0"].handle(attack)) == "EQUIVOCATION"
    assert len(lab.inside["site-0"].asked) == asked


def test_the_envelope_of_the_earlier_roster_is_refused_and_so_is_a_new_one_under_it(
    tmp_path: Path
) -> None:
    lab = Lab(tmp_path)
    lab.ready(), lab.step(0)
    first = request_to(lab, "site-0")
    restarted(lab, roster(2))
    lab.step(0)
    asked, site = len(lab.inside["site-0"].asked), lab.hospitals["site-0"]
    old = old_opened(first)
    again = replace(old.header, sequence=1000, nonce=b"\7" * 16)
    for header in (old.header, again):
        attack = Message(kind=SEALED, payload=seal(
            key("coordinator"), header, content_bytes(old.message)))
        assert site.handle(attack) == Message(kind=ERROR, fields={"code": "ROSTER_MISMATCH"})
    assert len(lab.inside["site-0"].asked) == asked and evidence_in(lab) == 0
    assert same(lab.step(0), "")


def test_a_second_address_under_one_roster_is_equivocation_as_ever(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.ready(), lab.step(0)
    restarted(lab, roster(2))
    lab.step(0)
    attack = forged(lab, request_to(lab, "site-0"), sequence=1000)
    assert told(lab, lab.hospitals["site-0"].handle(attack)) == "EQUIVOCATION"


def test_a_later_address_with_an_older_number_is_a_late_message(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.ready(), lab.step(0), lab.step(1)
    message = next(m for a, m in reversed(sealed(lab)[:-3]) if a == "site-0")
    restarted(lab, roster(2))
    old = old_opened(message)
    attack = Message(kind=SEALED, payload=seal(
        key("coordinator"), replace(old.header, roster=roster(2).digest),
        content_bytes(old.message)))
    assert told(lab, lab.hospitals["site-0"].handle(attack)) == "SEQUENCE_STALE"
    assert evidence_in(lab) == 0 and same(lab.step(0), "")


def test_a_site_never_signs_another_answer_under_a_later_roster(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.ready(), lab.step(0)
    lab.inside["site-2"].payload = b"\x02\x00\x00\x00" * 4
    restarted(lab, roster(2))
    found = lab.step(0)
    assert found["site-2"] == "ANSWER_CHANGED" and isinstance(found["site-0"], Message)


def test_a_site_that_answers_otherwise_under_a_later_roster_is_caught(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.ready(), lab.step(0)
    first = dict(sealed(lab, "answer")[-3:])
    restarted(lab, roster(2))

    def lie(address: str, answer: Message) -> Message:
        if address == "site-0":
            return first[address]  # what it said under the earlier roster
        opened = header_of(lab, answer)
        content = content_bytes(replace(opened.message, payload=b"\3" * 16))
        header = replace(opened.header, digest=hashlib.sha256(content).digest(),
                         length=len(content))
        return Message(kind=SEALED, payload=seal(key(address), header, content)) \
            if address == "site-1" else answer

    lab.wire.change_answer = lie
    found = lab.step(0)
    assert (found["site-0"], found["site-1"]) == ("ROSTER_MISMATCH", "EQUIVOCATION")
    assert isinstance(found["site-2"], Message)
    evidence, = lab.trust.store.equivocations()
    assert evidence.peer == "site-1"
    assert proven(contradiction(evidence.kept, evidence.other), roster(2))


@pytest.mark.parametrize("listed", [False, True])
def test_a_revoked_site_does_not_come_back_by_a_request_that_is_addressed_anew(
    tmp_path: Path, listed: bool
) -> None:
    lab = Lab(tmp_path)
    lab.ready()
    lost(lab, *SITES)
    lab.step(0)
    late = dict(sealed(lab, "answer")[-3:])
    lost(lab)
    later = without(roster(2), "site-2")
    if listed:  # a roster may still list whom it revokes
        later = replace(later, parties=roster().parties)
    found = restarted(lab, later)
    assert isinstance(found["site-0"], Message) and isinstance(found["site-2"], str)
    for change in (lambda a, m: m, lambda a, m: late[a] if a == "site-2" else m):
        lab.wire.change_answer = change
        found = lab.step(0)
        assert isinstance(found["site-0"], Message) and isinstance(found["site-1"], Message)
        assert isinstance(found["site-2"], str)
    assert lab.trust.store.equivocations() == []


def test_a_revoked_coordinator_addresses_nothing_anew(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.ready(), lab.step(0)
    old = old_opened(request_to(lab, "site-0"))
    later = without(roster(2), "coordinator")
    site = lab.hospitals["site-0"]
    site.trust.roster.offer(signed(later), now=NOW)
    attack = Message(kind=SEALED, payload=seal(
        key("coordinator"), replace(old.header, roster=later.digest, sequence=1000),
        content_bytes(old.message)))
    assert site.handle(attack).fields["code"] == "KEY_REVOKED"


# -- the record alone --------------------------------------------------------------------

def draft(**changes: Any) -> Header:
    given: dict[str, Any] = {
        "run": "run-1", "round": 1, "phase": "mask_open/2.1.1", "direction": "request",
        "sender": "coordinator", "recipient": "site-0", "roster": roster(1).digest,
        "plan": b"\5" * 32, "payload_type": CONTENT_TYPE, "digest": b"\6" * 32, "length": 3,
        "sequence": 0, "nonce": bytes(16), "issued": 10, "expires": 20, **changes,
    }
    return Header(**given)


def nonce(header: Header) -> bytes:
    return header.sequence.to_bytes(16, "big")


def proof_of(header: Header) -> bytes:
    data = seal(key("coordinator"), header, b"")
    return data[4:]


def test_the_record_takes_and_gives_a_later_address_only_under_the_newest_roster_it_saw(
    tmp_path: Path
) -> None:
    """Whatever a caller believes: an address never goes back, and nobody is accused by it."""
    held = store(tmp_path / "envelopes.db")
    held.see_roster(1, roster(1).digest)
    first, = held.assign(draft(), nonce=nonce)
    later = draft(roster=roster(2).digest, issued=15)
    with pytest.raises(MedunlearnError) as caught:
        held.assign(later, nonce=nonce)
    assert caught.value.code == "ROSTER_MISMATCH"
    assert held.receive((first, proof_of(first))) == [None]
    early = replace(later, sequence=5)
    assert [r and r.code for r in held.receive((early, proof_of(early)))] == ["ROSTER_MISMATCH"]
    held.see_roster(2, roster(2).digest)
    second, = held.assign(later, nonce=nonce)
    assert (second.sequence, second.issued) == (first.sequence + 1, 15)
    assert held.assign(replace(later, issued=17), nonce=nonce) == [second]
    assert held.receive((second, proof_of(second))) == [None]
    for back in (draft(), draft(issued=99)):
        with pytest.raises(MedunlearnError) as caught:
            held.assign(back, nonce=nonce)
        assert caught.value.code == "ROSTER_MISMATCH"
    back = replace(draft(), sequence=99)
    assert [r and r.code for r in held.receive((back, proof_of(back)))] == ["ROSTER_MISMATCH"]
    assert held.receive((second, proof_of(second))) == [None] and held.equivocations() == []


def test_a_later_address_is_on_disk_before_it_is_said(tmp_path: Path) -> None:
    held = store(tmp_path / "envelopes.db")
    held.see_roster(1, roster(1).digest)
    held.assign(draft(), nonce=nonce)
    held.see_roster(2, roster(2).digest)
    second, = held.assign(draft(roster=roster(2).digest), nonce=nonce)
    held.close()
    again = store(tmp_path / "envelopes.db")
    assert again.assign(draft(roster=roster(2).digest, issued=18), nonce=nonce) == [second]


# -- evidence ----------------------------------------------------------------------------

ANSWER = {"direction": "answer", "sender": "site-0", "recipient": "coordinator"}
SECOND = {"roster": roster(2).digest, "sequence": 9, "nonce": b"\1" * 16, "issued": 11}


@pytest.mark.parametrize(("first", "second", "guilty"), [
    ({}, SECOND, False),
    ({}, {**SECOND, "roster": roster(1).digest}, True),
    ({}, {**SECOND, "digest": b"\7" * 32}, True),
    ({}, {**SECOND, "transcript": b"\7" * 32}, True),
    (ANSWER, {**ANSWER, **SECOND, "transcript": b"\7" * 32}, False),
    (ANSWER, {**ANSWER, **SECOND}, True),  # one request is of one roster, and so is its answer
    (ANSWER, {**ANSWER, **SECOND, "transcript": b"\7" * 32, "digest": b"\7" * 32}, True),
])
def test_nobody_is_accused_of_having_said_one_thing_under_two_rosters(
    first: dict[str, Any], second: dict[str, Any], guilty: bool
) -> None:
    headers = [draft(**first), draft(**second)]
    signer = key(headers[0].sender)
    one = contradiction(*(seal(signer, header, b"")[4:] for header in headers))
    if guilty:
        assert "signed two" in proven(one, roster(2))
        return
    with pytest.raises(Rejected, match="EVIDENCE_PROVES_NOTHING"):
        proven(one, roster(2))


def test_an_enrolment_in_the_middle_of_a_run_changes_nothing_for_the_others(
    tmp_path: Path
) -> None:
    lab = Lab(tmp_path)
    lab.ready(), lab.step(0)
    more = roster(2)
    more = replace(more, parties=tuple(sorted(
        (*more.parties, entry(key("site-9"))), key=lambda party: party.party_id)))
    assert same(restarted(lab, more), "") and same(lab.step(0), "")
    request = header_of(lab, request_to(lab, "site-0"))
    answer = header_of(lab, sealed(lab, "answer")[-3][1])
    assert request.header.roster == answer.header.roster == more.digest
    assert answer.header.transcript == header_digest(request.header)


# -- a coordinator at work follows its roster --------------------------------------------

DAY = 86_400


def join(lab: Lab, document: Roster, *names: str) -> None:
    """Another process of these parties puts a roster in force: an import, a `hospital join`."""
    for name in names:
        TrustedRoster(lab.folder / name, now=NOW).offer(signed(document), now=NOW)


def test_a_roster_that_was_renewed_in_time_carries_a_run_over_the_old_ones_end(
    tmp_path: Path
) -> None:
    clock = [NOW]
    first = roster(expires=int(NOW) + 90 * DAY)
    for name in ("coordinator", *SITES):
        trust(tmp_path / name, name, signed(first)).close()
    lab = Lab(tmp_path)
    lab.trust = replace(lab.trust, clock=lambda: clock[0])
    lab.transport = lab.coordinator()
    for hospital in lab.hospitals.values():
        hospital.trust = replace(hospital.trust, clock=lambda: clock[0])
    assert same(lab.ready(), "") and same(lab.step(0), "")
    clock[0] += 60 * DAY
    join(lab, roster(2, expires=int(NOW) + 180 * DAY), "coordinator")
    clock[0] += 31 * DAY
    assert same(lab.step(1), "") and same(lab.step(0), "") and evidence_in(lab) == 0


@pytest.mark.parametrize("ahead", [(), ("site-1",), SITES])
def test_a_roster_that_comes_in_the_middle_of_a_run_costs_no_answer(
    tmp_path: Path, ahead: tuple[str, ...]
) -> None:
    lab = Lab(tmp_path)
    lab.ready(), lab.step(0)
    join(lab, roster(2), "coordinator", *ahead)
    assert same(lab.step(1), "") and same(lab.step(0), "") and same(lab.step(2), "")
    assert all(h.trust.roster.current.version == 2 for h in lab.hospitals.values())
    assert evidence_in(lab) == 0


def test_a_roster_that_comes_in_the_middle_of_an_exchange_costs_one_exchange_more(
    tmp_path: Path
) -> None:
    lab = Lab(tmp_path)
    lab.ready()

    def renew(address: str, answer: Message) -> Message:
        if address == "site-0":  # it has answered; the others have not been asked yet
            join(lab, roster(2), "coordinator", *SITES)
        return answer

    lab.wire.change_answer = renew
    assert same(lab.step(0), "") and evidence_in(lab) == 0
    assert [len(inside.asked) for inside in lab.inside.values()] == [2, 2, 2]


def test_sites_that_are_ahead_are_asked_again_once_the_coordinator_has_the_roster(
    tmp_path: Path
) -> None:
    lab = Lab(tmp_path)
    lab.ready()
    join(lab, roster(2), *SITES)
    before = len(lab.wire.requests)
    assert same(lab.step(0), "ROSTER_MISMATCH")
    assert len(lab.wire.requests) == before + 3  # nothing new to ask them with
    join(lab, roster(2), "coordinator")
    assert same(lab.step(0), "") and evidence_in(lab) == 0


@pytest.mark.parametrize("listed", [False, True])
def test_a_site_that_is_revoked_in_the_middle_of_a_run_is_asked_nothing_more(
    tmp_path: Path, listed: bool
) -> None:
    lab = Lab(tmp_path)
    lab.ready(), lab.step(0)
    later = without(roster(2), "site-2")
    if listed:
        later = replace(later, parties=roster().parties)
    join(lab, later, "coordinator")
    asked = len(lab.inside["site-2"].asked)
    for round_index in (0, 1):
        found = lab.step(round_index)
        assert found["site-2"] == ("KEY_REVOKED" if listed else "PARTY_UNKNOWN")
        assert isinstance(found["site-0"], Message) and isinstance(found["site-1"], Message)
    assert len(lab.inside["site-2"].asked) == asked


def test_who_greets_anew_by_anothers_name_gains_nothing_and_loses_one_exchange(
    tmp_path: Path
) -> None:
    """A greeting is not signed: what an address has proven, no greeting takes away."""
    lab = Lab(tmp_path)
    lab.ready(), lab.step(0)
    join(lab, roster(2), "coordinator")

    def lie(address: str, message: Message) -> Message:
        if message.kind != HELLO:
            return message
        other = {"site-0": "site-1", "site-1": "site-0"}.get(address, address)
        return replace(message, fields={**message.fields, "site_id": other})

    lab.wire.change_answer = lie
    found = lab.step(1)
    assert (found["site-0"], found["site-1"]) == ("SITE_MISMATCH", "SITE_MISMATCH")
    assert isinstance(found["site-2"], Message)
    lost(lab)
    assert same(lab.step(1), "") and same(lab.step(2), "")


def test_an_older_roster_that_is_put_back_under_a_running_coordinator(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.ready()
    join(lab, roster(2), "coordinator")
    lab.step(0)
    (tmp_path / "coordinator" / "roster.dsse").write_bytes(signed(roster(1)))
    before = len(lab.wire.requests)
    with pytest.raises(Rejected) as caught:
        lab.step(1)
    assert caught.value.code == "ROSTER_ROLLBACK" and len(lab.wire.requests) == before


def test_a_bare_word_of_another_roster_makes_nobody_repeat_itself(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.ready()
    lab.wire.change_answer = lambda a, m: Message(kind=ERROR, fields={"code": "ROSTER_MISMATCH"})
    before = len(lab.wire.requests)
    assert same(lab.step(0), "ROSTER_MISMATCH") and len(lab.wire.requests) == before + 3


def test_a_site_that_changes_its_key_in_the_middle_of_a_run_is_back_once_it_signs_with_it(
    tmp_path: Path
) -> None:
    lab = Lab(tmp_path)
    lab.ready(), lab.step(0)
    new = SigningIdentity("site-2", key("site-2-new")._private_key)
    later = replace(roster(2), parties=tuple(
        entry(new, old=key("site-2")) if party.party_id == "site-2" else party
        for party in roster().parties))
    join(lab, later, "coordinator")
    found = lab.step(1)
    assert found["site-2"] == "KEY_UNKNOWN" and isinstance(found["site-0"], Message)
    site = lab.hospitals["site-2"]
    site.trust = replace(site.trust, identity=new)
    assert same(lab.step(2), "") and evidence_in(lab) == 0

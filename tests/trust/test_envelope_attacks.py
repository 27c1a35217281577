"""Attacks on the envelope layer; each test is named after one."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trust_lab import CODE, NOW, PLAN, SITES, Lab, key, same, small_plan, store

from medunlearn_client.policy import (
    AcceptedRun,
    FederationLimits,
    KnownDigests,
    PrivacyLimits,
    SitePolicy,
    require_acceptable,
)
from medunlearn_common.accounting import Mechanism, epsilon_of
from medunlearn_common.envelope import HELLO, SEALED, open_envelope, seal
from medunlearn_common.envelope.sealing import content_bytes
from medunlearn_common.errors import MedunlearnError, Rejected
from medunlearn_common.identity import SigningIdentity
from medunlearn_common.messages import ERROR, MASK_AGREE, READY, STEP, Message
from medunlearn_common.offer import RunOffer, plan_text
from medunlearn_common.plan.sections import Section
from medunlearn_server.intake import code_of, site_of
from medunlearn_server.sealed_transport import SealedTransport


def sealed(lab: Lab, kind: str = "request") -> list[tuple[str, Message]]:
    found = lab.wire.requests if kind == "request" else lab.wire.answers
    return [(address, m) for address, m in found if m.kind == SEALED]


def header_of(lab: Lab, message: Message) -> Any:
    return open_envelope(message.payload, lab.trust.roster.current, now=NOW,
                         expect=lambda h: None)


def test_a_run_through_envelopes_works_and_the_inside_sees_plain_requests(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    assert same(lab.ready(), "") and same(lab.step(0), "") and same(lab.step(1), "")
    kinds = [m.kind for m in lab.inside["site-0"].asked]
    assert kinds == [READY, STEP, STEP]
    assert "offer" not in lab.inside["site-0"].asked[0].fields


def test_every_recorded_envelope_replayed_into_every_state_changes_nothing(tmp_path: Path) -> None:
    """Requests: to the right site the same answer, to another a refusal. Nothing new inside."""
    lab = Lab(tmp_path)
    stages = [lambda: lab.ready(), lambda: lab.step(0), lambda: lab.step(1), lambda: lab.step(2)]
    for stage in stages:
        stage()
        recorded, answers = sealed(lab), dict_of_answers(lab)
        for address, request in recorded:
            for site in SITES:
                before = lab.hospitals[site].trust.store.locks()
                reply = lab.hospitals[site].handle(request)
                if site == address:
                    assert reply == answers[request.payload]
                else:
                    assert reply == Message(kind=ERROR, fields={"code": "RECIPIENT_MISMATCH"})
                assert lab.hospitals[site].trust.store.locks() == before
    assert lab.trust.store.equivocations() == []


def dict_of_answers(lab: Lab) -> dict[bytes, Message]:
    return {request.payload: answer for (_, request), (_, answer)
            in zip(lab.wire.requests, lab.wire.answers, strict=True)}


def test_every_recorded_answer_is_refused_for_every_other_request(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.ready(), lab.step(0)
    old = sealed(lab, "answer")
    for address, replayed in old:
        lab.wire.change_answer = lambda site, answer, r=replayed: r
        found = lab.step(1)
        assert all(isinstance(code, str) and code.endswith("_MISMATCH") for code in found.values())
        assert address in SITES
    lab.wire.change_answer = None
    assert same(lab.step(1), "")


@pytest.mark.parametrize("field", ["run", "round", "phase", "recipient", "roster", "plan",
                                   "model", "support", "digest", "length", "sequence"])
def test_no_field_of_a_header_can_be_changed_on_the_way(tmp_path: Path, field: str) -> None:
    lab = Lab(tmp_path)
    lab.ready()
    lab.step(0)
    address, message = sealed(lab)[-1]
    opened = header_of(lab, message)
    value = getattr(opened.header, field)
    other = value + 1 if isinstance(value, int) else (
        bytes(32) if isinstance(value, bytes) and any(value) else
        b"\1" * 32 if isinstance(value, bytes) else value[:-1] + "x")
    forged = replace(opened.header, **{field: other}).to_bytes()
    data = message.payload.replace(opened.header.to_bytes(), forged)
    assert data != message.payload
    reply = lab.hospitals[address].handle(Message(kind=SEALED, payload=data))
    assert reply == Message(kind=ERROR, fields={"code": "SIGNATURE_INVALID"})


def test_a_flipped_bit_anywhere_is_refused_and_nothing_is_answered(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.ready(), lab.step(0)
    address, message = sealed(lab)[-1]
    asked = len(lab.inside[address].asked)
    for position in range(0, len(message.payload), 3):
        data = bytearray(message.payload)
        data[position] ^= 1 << (position % 8)
        reply = lab.hospitals[address].handle(Message(kind=SEALED, payload=bytes(data)))
        assert reply.kind == ERROR
    assert len(lab.inside[address].asked) == asked


def resigned(lab: Lab, signer: SigningIdentity, message: Message, **changes: Any) -> Message:
    """The request again, properly signed, with a changed header."""
    opened = header_of(lab, message)
    header = replace(opened.header, **changes)
    return Message(kind=SEALED, payload=seal(signer, header, content_bytes(opened.message)))


def test_a_coordinator_that_equivocates_in_one_slot_closes_the_round_for_good(
    tmp_path: Path
) -> None:
    lab = Lab(tmp_path)
    lab.ready(), lab.step(0)
    address, message = sealed(lab)[-1]
    again = resigned(lab, key("coordinator"), message, nonce=b"\7" * 16)
    site, asked = lab.hospitals[address], len(lab.inside[address].asked)
    assert header_of(lab, site.handle(again)).message.fields["code"] == "EQUIVOCATION"
    assert header_of(lab, site.handle(message)).message.fields["code"] == "ROUND_ABORTED"
    assert len(lab.inside[address].asked) == asked
    evidence, = site.trust.store.equivocations()
    assert evidence.peer == "coordinator" and evidence.kept != evidence.other
    # Durable: also after a restart of the site.
    assert len(store(tmp_path / address / "envelopes.db").equivocations()) == 1


def test_a_site_that_answers_one_request_twice_in_different_ways_is_caught(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.ready(), lab.step(0)

    def lie(address: str, answer: Message) -> Message:
        return resigned(lab, key(address), answer, nonce=b"\x09" * 16) \
            if address == "site-1" else answer

    lab.wire.change_answer = lie
    found = lab.step(0)
    assert found["site-1"] == "EQUIVOCATION" and isinstance(found["site-0"], Message)
    assert lab.trust.store.equivocations()[0].peer == "site-1"
    lab.wire.change_answer = None
    assert lab.step(0)["site-1"] == "ROUND_ABORTED"


def test_a_site_whose_inside_answers_differently_signs_nothing_new(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.ready(), lab.step(0)
    lab.inside["site-2"].payload = b"\x02\x00\x00\x00" * 4
    assert lab.step(0)["site-2"] == "ANSWER_CHANGED"


def test_a_coordinator_never_signs_two_requests_for_one_slot(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.ready(), lab.step(0)
    before = lab.wire.requests[-1][1].payload
    lab.transport = lab.coordinator()  # restarted, and so it says READY first
    lab.ready(), lab.step(0)
    assert lab.wire.requests[-1][1].payload == before
    with pytest.raises(Rejected) as caught:
        lab.step(0, sigma=0.5)
    assert caught.value.code == "ANSWER_CHANGED"


@pytest.mark.parametrize(("changes", "code"), [
    ({"sequence": 1}, "SEQUENCE_STALE"), ({"plan": b"\1" * 32}, "PLAN_MISMATCH"),
    ({"model": b"\1" * 32}, "MODEL_MISMATCH"), ({"roster": b"\1" * 32}, "ROSTER_MISMATCH"),
    ({"recipient": "site-1"}, "RECIPIENT_MISMATCH"),
    ({"direction": "answer"}, "DIRECTION_MISMATCH"),
    ({"run": "run-9"}, "RUN_MISMATCH"), ({"round": 7}, "ROUND_MISMATCH"),
    ({"phase": "vote"}, "PHASE_MISMATCH"), ({"sender": "rival"}, "SENDER_KEY"),
])
def test_a_genuine_signature_in_the_wrong_place(
    tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    lab = Lab(tmp_path)
    lab.ready(), lab.step(0), lab.step(1)
    message = next(m for a, m in reversed(sealed(lab)) if a == "site-0")
    given = dict(changes)
    if code == "SEQUENCE_STALE":
        given |= {"phase": "step/support"}
        lab_message = Message(kind=STEP, fields={"support_bytes": 8, "round": 1,
                                                 "support_digest": "5" * 64})
        opened = header_of(lab, message)
        content = content_bytes(lab_message)
        header = replace(opened.header, **given, digest=hashlib.sha256(content).digest(),
                         length=len(content))
        data = Message(kind=SEALED, payload=seal(key("coordinator"), header, content))
    else:
        data = resigned(lab, key("coordinator"), message, **given)
    asked = len(lab.inside["site-0"].asked)
    reply = lab.hospitals["site-0"].handle(data)
    found = reply.fields["code"] if reply.kind == ERROR else \
        header_of(lab, reply).message.fields["code"]
    assert found in (code, "RUN_PLAN", "EQUIVOCATION") and len(lab.inside["site-0"].asked) == asked


@pytest.mark.parametrize("fields", [
    {"mask_session": "1.1.0"}, {"mask_session": "1.1.0", "round": 7},
])
def test_the_header_of_a_request_names_the_round_that_its_content_names(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    """One without a round is of round 0: in any other it would fill a slot of its own."""
    lab = Lab(tmp_path)
    lab.ready(), lab.step(0)
    message = next(m for a, m in reversed(sealed(lab)) if a == "site-0")
    content = content_bytes(Message(kind=MASK_AGREE, fields=fields, payload=b"x"))
    found = {}
    for number in (0, 7, 8):
        header = replace(
            header_of(lab, message).header, round=number, phase="mask_agree/1.1.0",
            support=bytes(32), digest=hashlib.sha256(content).digest(), length=len(content),
            sequence=1000 + number,
        )
        asked = len(lab.inside["site-0"].asked)
        reply = lab.hospitals["site-0"].handle(
            Message(kind=SEALED, payload=seal(key("coordinator"), header, content)))
        found[number] = reply.fields.get("code", "")
        assert (len(lab.inside["site-0"].asked) > asked) == (found[number] == "")
    right = fields.get("round", 0)
    assert found == {n: "" if n == right else "ROUND_MISMATCH" for n in (0, 7, 8)}


def test_a_stranger_a_site_and_a_revoked_key_cannot_ask(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.ready()
    address, message = sealed(lab)[0]
    stranger = resigned(lab, key("stranger"), message)
    assert lab.hospitals[address].handle(stranger).fields["code"] == "KEY_UNKNOWN"
    as_site = resigned(lab, key("site-1"), message, sender="site-1")
    assert lab.hospitals[address].handle(as_site).fields["code"] == "SENDER_ROLE"


def test_two_coordinators_for_one_run_the_site_stays_with_the_first(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    assert same(lab.ready(), "")
    rival = Lab(tmp_path, leader="rival")
    assert same(rival.ready(), "RUN_COORDINATOR")


def test_another_plan_in_a_run_that_is_under_way(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.ready()
    lab.plan = small_plan(run={"rounds": 3})
    lab.offer = replace(lab.offer, plan=lab.plan)
    lab.transport = lab.coordinator()
    lab.trust = replace(lab.trust, store=store(tmp_path / "fresh.db"))
    lab.transport = lab.coordinator()
    assert same(lab.ready(), "RUN_PLAN")


def test_a_request_before_any_plan_was_accepted(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    assert same(lab.step(0), "PLAN_UNKNOWN")
    assert lab.inside["site-0"].asked == []


def test_a_per_site_support_that_changes_within_a_run(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.ready(), lab.step(0)
    assert same(lab.step(1, support_digest="6" * 64), "SUPPORT_MISMATCH")


EVIL: list[tuple[str, dict[str, dict[str, Any]], SitePolicy]] = [
    ("POLICY_NOISE", {"privacy": {"noise": "none"}}, SitePolicy()),  # sigma = 0
    ("POLICY_MIN_SITES", {"privacy": {"noise": "local"}, "federation": {"min_sites": 1}},
     SitePolicy()),  # m = 1
    ("POLICY_MIN_SITES", {"federation": {"min_sites": 2}}, SitePolicy()),
    ("POLICY_ROUNDS", {"run": {"rounds": 10_000}}, SitePolicy()),
    ("POLICY_DENSITY", {"support": {"density": 1.0}}, SitePolicy()),  # a dense update
    ("POLICY_EPSILON", {"privacy": {"epsilon": 50.0}}, SitePolicy()),
    ("POLICY_DELTA", {"privacy": {"delta": 0.5}}, SitePolicy()),
    ("POLICY_EPSILON_TOTAL", {}, SitePolicy(privacy=PrivacyLimits(max_total_epsilon=3.0))),
    ("POLICY_UNIT", {}, SitePolicy(privacy=PrivacyLimits(units=("patient",)))),
    ("POLICY_LOCAL_STEPS", {"privacy": {"noise": "local", "local_steps": 64}}, SitePolicy()),
    ("POLICY_SUPPORT", {}, SitePolicy(federation=FederationLimits(support_methods=("random",)))),
    ("POLICY_COORDINATOR", {}, SitePolicy(federation=FederationLimits(coordinators=("rival",)))),
    ("CODE_UNKNOWN", {}, SitePolicy(known=KnownDigests(code=("d" * 64,)))),
    ("MODEL_UNKNOWN", {}, SitePolicy(known=KnownDigests(models=("d" * 64,)))),
    ("TOKENIZER_UNKNOWN", {}, SitePolicy(known=KnownDigests(tokenizers=("d" * 64,)))),
]


@pytest.mark.parametrize(("code", "sections", "policy"), EVIL,
                         ids=[f"{code}-{i}" for i, (code, _, _) in enumerate(EVIL)])
def test_what_a_malicious_coordinator_asks_for_is_refused_before_any_data_is_open(
    tmp_path: Path, code: str, sections: dict[str, dict[str, Any]], policy: SitePolicy
) -> None:
    lab = Lab(tmp_path, plan=small_plan(**sections), policy=policy)
    assert same(lab.ready(), code)
    assert all(inside.asked == [] for inside in lab.inside.values())
    assert lab.hospitals["site-0"].trust.store.locks() == []
    refusal = header_of(lab, sealed(lab, "answer")[0][1])  # the refusal is signed
    assert (refusal.header.direction, refusal.header.sender) == ("refusal", "site-0")


def test_code_that_is_not_installed_here(tmp_path: Path) -> None:
    assert same(Lab(tmp_path, offer={"code_digest": "e" * 64}).ready(), "CODE_NOT_INSTALLED")


def test_a_quota_that_a_clock_used_up_says_so() -> None:
    """No run is let off for it: a clock that is behind would let any number in."""
    ahead = AcceptedRun(run="a", epsilon=0.0, accepted=NOW + 365 * 86_400)
    offer = RunOffer(run="b", coordinator="coordinator", plan=PLAN, package_version="1",
                     code_digest=CODE)
    policy = SitePolicy(federation=FederationLimits(max_runs=1))
    with pytest.raises(Rejected) as caught:
        require_acceptable(policy, offer, code_digest=CODE, earlier=(ahead,), now=NOW)
    assert caught.value.code == "POLICY_QUOTA" and "this clock was ahead" in caught.value.message


def test_a_quota_of_runs_and_the_budget_of_all_runs(tmp_path: Path) -> None:
    policy = SitePolicy(federation=FederationLimits(max_runs=2),
                        privacy=PrivacyLimits(max_total_epsilon=1e6))
    for run in ("a", "b"):
        assert same(Lab(tmp_path, run_id=run, policy=policy).ready(), "")
    assert same(Lab(tmp_path, run_id="c", policy=policy).ready(), "POLICY_QUOTA")
    tight = SitePolicy(privacy=PrivacyLimits(max_total_epsilon=PLAN.privacy.epsilon * 2.5))
    assert same(Lab(tmp_path, run_id="d", policy=tight).ready(), "POLICY_EPSILON_TOTAL")
    assert same(Lab(tmp_path, run_id="a", policy=policy).ready(), "")  # resuming is no new run


@pytest.mark.parametrize("sigma", [0.0, -1.0, 0.4, float("1e-300")])
def test_a_request_with_less_noise_than_the_site_asks(tmp_path: Path, sigma: float) -> None:
    lab = Lab(tmp_path, policy=SitePolicy(privacy=PrivacyLimits(min_sigma=0.5)))
    lab.ready()
    assert same(lab.step(0, sigma=sigma), "POLICY_SIGMA")
    assert [m.kind for m in lab.inside["site-0"].asked] == [READY]


def test_a_plan_that_draws_seldom_and_shows_who_is_drawn(tmp_path: Path) -> None:
    """Within (0.01, 1e-4): with a chance below delta a unit is drawn, and then hardly noised. Run
    after run, each of next to no epsilon, it would show one record in ten thousand."""
    plan = small_plan(privacy={"epsilon": 0.01, "delta": 1e-4, "forget_rate": 9e-5,
                               "retain_rate": 9e-5, "evaluation_share": 0.0})
    shown = Mechanism(sigma=0.05, forget_rate=9e-5, retain_rate=9e-5, count=1)
    assert epsilon_of((shown,), delta=1e-4) < 0.01
    lab = Lab(tmp_path, plan=plan)
    assert same(lab.ready(), "")
    assert same(lab.step(0, sigma=0.05), "POLICY_SIGMA")


def test_an_update_called_public_needs_the_sites_noise_all_the_same(tmp_path: Path) -> None:
    lab = Lab(tmp_path, policy=SitePolicy(privacy=PrivacyLimits(min_sigma=0.5)))
    lab.ready()
    assert same(lab.step(0, sigma=0.4, public=True), "POLICY_SIGMA")
    assert [m.kind for m in lab.inside["site-0"].asked] == [READY]


def test_an_offer_of_one_run_used_for_another(tmp_path: Path) -> None:
    lab = Lab(tmp_path, run_id="other", offer={"run": "run-1"})
    assert same(lab.ready(), "OFFER_RUN")


def test_an_offer_signed_by_someone_else(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    forged = lab.offer.sign(key("rival"))
    lab.transport = type(lab.transport)(
        lab.wire, lab.trust, run_id=lab.run_id, plan=lab.plan, offer=forged)
    assert same(lab.ready(), "OFFER_SIGNER")


def test_an_unsealed_request_and_an_unsealed_answer(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    assert lab.hospitals["site-0"].handle(Message(kind=STEP)).fields == {"code": "NOT_SEALED"}
    lab.ready()
    lab.wire.change_answer = lambda a, m: Message(kind=STEP, fields={"site_id": a})
    assert same(lab.step(0), "NOT_SEALED")


def test_a_network_cannot_end_a_run_with_a_bare_budget_error(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.ready()
    lab.wire.change_answer = lambda a, m: Message(kind=ERROR, fields={"code": "PRIVACY_BUDGET"})
    assert same(lab.step(0), "UNSIGNED_ANSWER")


def test_failures_bear_the_registered_site_and_never_what_an_address_calls_itself(
    tmp_path: Path,
) -> None:
    lab = Lab(tmp_path)
    lab.transport = SealedTransport(
        lab.wire, lab.trust, run_id=lab.run_id, plan=lab.plan,
        offer=lab.offer.sign(lab.trust.identity), names=lambda: {SITES[1]: "clinic-b"})
    lab.wire.change_answer = lambda address, answer: Message(
        kind=ERROR, fields={"site_id": SITES[2], "code": "NODE_BUSY"})
    request = Message(kind=READY, fields={"run_id": lab.run_id, "round": 0})
    replies = lab.transport.exchange(dict.fromkeys(SITES, request), deadline_s=1.0)
    assert [site_of(replies[site]) for site in SITES] == ["", "clinic-b", ""]
    assert {code_of(reply) for reply in replies.values()} == {"NODE_BUSY"}


def test_a_site_that_answers_in_the_name_of_another(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.ready()
    lab.inside["site-1"].site_id = "site-2"
    assert lab.step(0)["site-1"] == "SITE_MISMATCH"


@pytest.mark.parametrize("first", [False, True])
def test_a_site_that_greets_by_anothers_name_keeps_nobody_out_and_stops_no_run(
    tmp_path: Path, first: bool
) -> None:
    """A greeting is not signed: it addresses, and what proves it is the answer to READY."""
    lab = Lab(tmp_path)

    def lie(address: str, message: Message) -> Message:
        if address == "site-1" and message.kind == HELLO:
            return replace(message, fields={**message.fields, "site_id": "site-2"})
        return message

    lab.wire.change_answer = lie
    request = Message(kind=READY, fields={
        "run_id": lab.run_id, "plan": plan_text(lab.plan), "plan_digest": lab.plan.digest,
        "round": 0})
    if first:
        assert not isinstance(
            lab.transport.exchange({"site-1": request}, deadline_s=1.0)["site-1"], Message)
    found = lab.ready()
    assert {a for a, reply in found.items() if isinstance(reply, Message)} == {"site-0", "site-2"}
    assert lab.inside["site-1"].asked == []
    assert isinstance(lab.step(0)["site-2"], Message)


def test_planted_secrets_appear_in_no_log_error_or_repr(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    canary = "CANARY-patient-Ada-Example"
    lab = Lab(tmp_path)
    lab.inside["site-0"].payload = canary.encode()
    lab.ready(), lab.step(0)
    lab.inside["site-0"].payload = canary.encode() + b"!"
    lab.step(0)  # ANSWER_CHANGED
    private = lab.trust.identity._private_key.private_bytes_raw()
    shown = [repr(lab.trust), str(lab.trust.identity), repr(lab.hospitals["site-0"].trust)]
    for _, message in sealed(lab, "answer"):
        opened = header_of(lab, message)
        shown.append(repr(opened))
        for cut in (7, 100, len(message.payload) - 1):
            try:
                open_envelope(message.payload[:cut], lab.trust.roster.current, now=NOW,
                              expect=lambda h: None)
            except MedunlearnError as error:
                shown.append(repr(error) + str(error.__cause__))
    text = "\n".join([*shown, caplog.text])
    for secret in (canary, private.hex(), repr(private)[2:-1]):
        assert secret not in text


def test_policy_has_no_key_that_turns_protection_off() -> None:
    def keys(section: type[Section]) -> set[str]:
        found = set()
        for name, info in section.model_fields.items():
            inner = info.annotation
            found |= keys(inner) if isinstance(inner, type) and issubclass(inner, Section) else {
                name}
        return found

    assert not {k for k in keys(SitePolicy) if ("sign" in k and k != "min_sigma")
                or "mask" in k or "roster" in k}
    with pytest.raises(ValueError, match="greater than or equal to 3"):
        FederationLimits(min_sites=2)
    assert CODE

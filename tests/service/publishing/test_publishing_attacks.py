"""What a dishonest coordinator, hospital or network tries with a published run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from publishing_lab import SITES, PublishingLab
from safetensors.numpy import load_file, save_file

from medunlearn_client.adoption import folder
from medunlearn_client.adoption.receiving import AdoptingHospital
from medunlearn_common.audit import AuditLog
from medunlearn_common.digests import canonical_json, digest_of_files
from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.envelope.sealing import unverified
from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.frozen import A_PART, B_PART, b_name
from medunlearn_common.identity import SigningIdentity
from medunlearn_common.messages import COLLECT, ERROR, PUBLISH, Message
from medunlearn_common.publication import FULL_FILES, Decision, pack
from medunlearn_server.publishing import attesting, session
from medunlearn_server.publishing.attesting import attest
from medunlearn_server.transport import Reply, SiteFailure


class Wire:
    """A network in memory that keeps, drops and changes what it carries."""

    def __init__(self, lab: PublishingLab) -> None:
        self.lab = lab
        self.kept: list[tuple[str, Message]] = []
        self.lost: set[str] = set()
        self.change: Any = lambda site, answer: answer

    def sites(self) -> tuple[str, ...]:
        return SITES

    def exchange(
        self, requests: Mapping[str, Message], *, deadline_s: float
    ) -> Mapping[str, Reply]:
        replies: dict[str, Reply] = {}
        for site, request in requests.items():
            self.kept.append((site, request))
            answer = self.lab.hospitals[site].handle(request)
            lost = unverified(answer).kind in self.lost
            replies[site] = SiteFailure(code="SITE_SILENT") if lost else self.change(site, answer)
        return replies


def refused_everywhere(lab: PublishingLab) -> str:
    """The one code with which all hospitals refuse; nothing is in any inbox then."""
    publication = lab.publish()
    found = set(publication.verdicts.values())
    assert len(found) == 1 and set(publication.verdicts) == set(SITES), publication
    for number in range(3):
        assert lab.site(number).places.runs() == ()
        assert not list((lab.base / "sites" / f"site-{number}").glob("inbox/.*"))
    return found.pop()


# -- a coordinator that publishes something else than was run ---------------------------------


@pytest.mark.parametrize(
    "name", [name for name in FULL_FILES if name not in ("audit-log.jsonl", "attestation.json")]
)
def test_a_file_swapped_after_the_attestation(lab: PublishingLab, name: str) -> None:
    place = lab.place("second")
    attest(place)
    data = bytearray((place.folder / name).read_bytes())
    data[len(data) // 2] ^= 0x01
    (place.folder / name).write_bytes(bytes(data))
    assert refused_everywhere(lab) != "RECEIVED"


def test_an_attestation_swapped_after_it_was_logged(lab: PublishingLab) -> None:
    place = lab.place("second")
    attest(place)
    for copy in (place.folder, place.folder / "adapter"):
        data = bytearray((copy / "attestation.json").read_bytes())
        data[len(data) // 2] ^= 0x01
        (copy / "attestation.json").write_bytes(bytes(data))
    with pytest.raises(Misconfigured, match="PUBLISHED_CHANGED"):
        lab.publish()


def attested_anew(lab: PublishingLab) -> None:
    """Everything is signed and logged as it should be, for the adapter as it lies there now."""
    adapter = lab.place("second").run / "adapter"
    digest = digest_of_files(
        adapter / name for name in ("adapter_config.json", "adapter_model.safetensors"))
    log = lab.log()
    ended = next(r.fields for r in reversed(log.records) if r.kind == "run_ended")
    log.append("run_ended", **{**ended, "adapter_digest": digest})
    lab.change_outcome(adapter_digest=digest)


def test_a_configuration_that_makes_peft_import_a_module(lab: PublishingLab) -> None:
    """Only the plan never said this."""
    path = lab.place("second").run / "adapter" / "adapter_config.json"
    config = json.loads(path.read_text())
    config["auto_mapping"] = {"base_model_class": "x", "parent_library": "attacker.module"}
    path.write_bytes(canonical_json(config))
    attested_anew(lab)
    assert refused_everywhere(lab) == "ADAPTER_CONFIG"


def _other_a(held: dict[str, np.ndarray], a: str) -> None:
    held[a] = held[a] + np.float32(1e-3)


def _dense_b(held: dict[str, np.ndarray], a: str) -> None:
    held.update({name: np.full_like(held[name], 1e-3) for name in held if B_PART in name})


def _one_module_less(held: dict[str, np.ndarray], a: str) -> None:
    del held[a], held[b_name(a)]


def _one_matrix_more(held: dict[str, np.ndarray], a: str) -> None:
    held["base_model.model.lm_head.weight"] = np.ones((4, 4), np.float32)


def _no_number(held: dict[str, np.ndarray], a: str) -> None:
    held[b_name(a)][0, 0] = np.nan


def _halves(held: dict[str, np.ndarray], a: str) -> None:
    held[a] = held[a].astype(np.float16)


@pytest.mark.parametrize("change", [
    _other_a, _dense_b, _one_module_less, _one_matrix_more, _no_number, _halves,
])
def test_an_adapter_of_the_coordinators_own_making(
    lab: PublishingLab, change: Callable[[dict[str, np.ndarray], str], None]
) -> None:
    """No round led to it: another A, or more of B than the support has."""
    path = lab.place("second").run / "adapter" / "adapter_model.safetensors"
    held = load_file(path)
    change(held, min(name for name in held if A_PART in name))
    save_file(held, path)
    attested_anew(lab)
    assert refused_everywhere(lab) == "ADAPTER_WEIGHTS"


def test_another_base_model_than_the_hospitals_named(lab: PublishingLab) -> None:
    for hospital in lab.hospitals.values():
        hospital.trust.store.note("second", model=bytes(32))
    assert refused_everywhere(lab) == "MODEL_MISMATCH"


def test_counts_polished_in_the_outcome_only_show_where_they_are_checked(
    lab: PublishingLab
) -> None:
    """The attested figures are the published result's, whoever edits either of them."""
    place = lab.place("second")
    attest(place)
    result = json.loads((place.folder / "result.json").read_text())
    result["evaluation"]["forget"] = [0.0, 4.0, 0.0, 0.0]
    (place.folder / "result.json").write_bytes(canonical_json(result))
    assert refused_everywhere(lab) == "FILE_CHANGED"


@pytest.mark.parametrize("polish", [
    lambda figures: {name: replace_figure(one, value=0.0) for name, one in figures.items()},
    lambda figures: {name: replace_figure(one, low=one.value) for name, one in figures.items()},
    lambda figures: {**figures, "forget_exact": next(iter(figures.values()))},
    lambda figures: {},
])
def test_shares_that_the_counts_do_not_bear_out(
    lab: PublishingLab, monkeypatch: pytest.MonkeyPatch, polish: Callable[[Any], Any]
) -> None:
    """The counts are honest; what people read in the inbox is what the coordinator made of them."""
    lab.change_outcome(evaluation={
        **lab.outcome()["evaluation"], "forget": [10.0, 80.0, 0.0, 10.0],
        "retain": [90.0, 2.0, 3.0, 5.0]})
    honest = attesting.counted_figures
    monkeypatch.setattr(attesting, "counted_figures", lambda report: polish(honest(report)))
    assert refused_everywhere(lab) == "FIGURES_CHANGED"


def test_a_gates_figure_that_is_not_the_results(
    lab: PublishingLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = attesting.statement_of

    def polished(*given: Any, **more: Any) -> Any:
        made = honest(*given, **more)
        first, *others = made.predicate.gates
        gates = (first.model_copy(update={"figure": 1e-6}), *others)
        predicate = made.predicate.model_copy(update={"gates": gates})
        return made.model_copy(update={"predicate": predicate})

    monkeypatch.setattr(attesting, "statement_of", polished)
    assert refused_everywhere(lab) == "FIGURES_CHANGED"


def replace_figure(figure: Any, **values: float) -> Any:
    return figure.model_copy(update=values)


def test_the_log_is_rolled_back_before_publishing(lab: PublishingLab) -> None:
    """The hospitals saw the end of the run; the coordinator shows a log without it."""
    log, place = lab.log(), lab.place("second")
    path = place.run / "audit.db"
    shorter = AuditLog(
        path.with_name("shorter.db"), origin=log.origin, signer=log._signer,
        clock=lambda: float(log.records[0].at),
    )
    for record in log.records[:-3]:
        shorter.append(record.kind, **record.fields)
    shorter.append("run_ended", **log.records[-1].fields)
    shutil.move(path.with_name("shorter.db"), path)
    publication = lab.publish()
    assert set(publication.verdicts.values()) <= {"AUDIT_SPLIT_VIEW", "AUDIT_ROLLBACK"}
    assert set(publication.verdicts) == set(SITES) and lab.site(0).places.runs() == ()


def test_one_run_is_attested_twice(
    received: PublishingLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hospitals keep what they have, and say so."""
    place = received.place("second")
    before = (received.inbox(0) / "attestation.json").read_bytes()
    shutil.rmtree(place.folder)
    received.log().append("run_resumed", run_id="second", next_round=1)
    monkeypatch.setattr(attesting, "_require_not_attested", lambda place, log: None)
    publication = received.publish()
    assert set(publication.verdicts.values()) == {"ATTESTATION_CHANGED"}
    assert (received.inbox(0) / "attestation.json").read_bytes() == before


@pytest.mark.parametrize("lost", ["", "attestation.json", "result.json", "adapter"])
def test_a_published_folder_that_was_lost_comes_back_from_a_hospital(
    received: PublishingLab, lost: str
) -> None:
    """Whatever is missing of it, nothing is attested anew, and no message asks for it."""
    place = received.place("second")
    gone, records = place.folder / lost, len(received.log().records)
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    shutil.rmtree(received.inbox(2))  # or nobody would be sent the whole
    received.log().append("delivered", site="site-2", verdict="PUBLICATION_UNKNOWN", number=1,
                          attestation_digest=received.site(0).checked("second").attestation_digest)
    for _ in range(2):
        with pytest.raises(Misconfigured, match="PUBLISHED_FILE_MISSING") as refused:
            received.publish()
        assert "inbox/second" in refused.value.hint
    assert [r.kind for r in received.log().records][records:].count("attested") == 0
    shutil.copytree(received.inbox(0), place.folder, dirs_exist_ok=True)
    assert received.publish().verdicts == dict.fromkeys(SITES, "RECEIVED")


def test_a_run_that_the_hospital_took_no_part_in(lab: PublishingLab) -> None:
    store = lab.hospitals["site-0"].trust.store
    with store._database.transaction() as connection:
        connection.execute("DELETE FROM locks WHERE run = 'second'")
    publication = lab.publish()
    assert publication.verdicts["site-0"] == "PLAN_UNKNOWN"
    assert publication.verdicts["site-1"] == "RECEIVED"
    assert lab.site(0).places.runs() == ()


def test_an_unfinished_or_foreign_outcome_is_not_attested(lab: PublishingLab) -> None:
    place = lab.place("second")
    (place.run / "adapter" / "adapter_config.json").write_bytes(b"{}")
    with pytest.raises(Misconfigured, match="ADAPTER_CHANGED"):
        attest(place)
    lab.change_outcome(plan_digest="0" * 64)
    with pytest.raises(Misconfigured, match="RUN_PLAN_CHANGED"):
        attest(place)
    (place.run / "outcome.json").unlink()
    with pytest.raises(Misconfigured, match="RUN_UNFINISHED"):
        attest(place)
    assert not place.folder.exists()


# -- the network ------------------------------------------------------------------------------


def test_a_publication_replayed_later_changes_nothing(lab: PublishingLab) -> None:
    wire = Wire(lab)
    lab.publish(wire=wire)
    first = [(site, m) for site, m in wire.kept if unverified(m).kind == PUBLISH]
    lab.decide(1, "objected")
    lab.publish()
    before = (lab.inbox(0) / "audit-log.jsonl").read_bytes()
    for site, request in first:
        lab.hospitals[site].handle(request)
    assert lab.site(0).checked("second").objections() == {"site-1": "Ann Lee"}
    assert (lab.inbox(0) / "audit-log.jsonl").read_bytes() == before


def test_answers_lost_and_a_publication_that_dies_are_made_good(lab: PublishingLab) -> None:
    wire = Wire(lab)
    wire.lost = {PUBLISH}
    lost = lab.publish(wire=wire)
    assert lost.verdicts == {} and lost.missed == dict.fromkeys(SITES, "SITE_SILENT")
    wire.lost = set()
    assert set(lab.publish(wire=wire).verdicts.values()) == {"RECEIVED"}
    assert lab.place("second").deliveries()["number"] == 2
    # Whoever lost its inbox gets the whole again, one publication later.
    shutil.rmtree(lab.inbox(2).parent)
    assert lab.publish().verdicts["site-2"] == "PUBLICATION_UNKNOWN"
    assert lab.publish().verdicts["site-2"] == "RECEIVED"


def test_a_hospital_that_was_away_gets_it_later(lab: PublishingLab) -> None:
    lab.away = {"site-2"}
    assert set(lab.publish().verdicts) == {"site-0", "site-1"}
    lab.decide(0, "countersigned")
    lab.away = set()
    publication = lab.publish()
    assert set(publication.verdicts) == set(SITES)
    assert lab.site(2).checked("second").countersigned() == {"site-0": "Ann Lee"}


def test_an_objection_hidden_behind_an_older_log(received: PublishingLab) -> None:
    """The coordinator, not the network, shows a state that the hospitals did see once."""
    place = received.place("second")
    early = place.run.joinpath("audit.db").read_bytes()
    early_export = (received.inbox(0) / "audit-log.jsonl").read_bytes()
    received.decide(1, "objected")
    received.publish()
    (place.run / "audit.db").write_bytes(early)
    shutil.rmtree(place.statements)
    assert "RECEIVED" not in received.publish().verdicts.values()
    assert (received.inbox(0) / "audit-log.jsonl").read_bytes() != early_export
    assert received.site(0).checked("second").objections() == {"site-1": "Ann Lee"}


def test_an_objection_forgotten_by_a_kill_in_the_middle_of_an_update(
    received: PublishingLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while the new state takes the old one's place, a hospital is shown one from before
    the objection, or another attestation of the same run."""
    place, early = received.place("second"), received.inbox(0) / "audit-log.jsonl"
    before = early.read_bytes()
    received.decide(1, "objected")
    received.publish()
    database = place.run / "audit.db"
    kept, moves = database.read_bytes(), os.replace

    class Killed(BaseException):
        pass

    def killed(source: Any, target: Any) -> None:
        if Path(target) == received.inbox(0):
            raise Killed
        moves(source, target)

    wire = Wire(received)
    with monkeypatch.context() as patched:
        patched.setattr(folder.os, "replace", killed)
        with pytest.raises(Killed):
            received.publish(wire=wire)
    assert not received.inbox(0).exists()
    assert set(received.site(0).places.runs()) == {"first", "second"}  # a command puts it back
    os.replace(received.inbox(0), received.inbox(0).with_name(".second.old"))
    assert received.site(0).checked("second").objections() == {"site-1": "Ann Lee"}
    os.replace(received.inbox(0), received.inbox(0).with_name(".second.old"))
    database.write_bytes(kept)
    files = {n: (place.folder / n).read_bytes() for n in FULL_FILES} | {"audit-log.jsonl": before}
    forged = dict(files, **{"attestation.json": b"{}", "adapter/attestation.json": b"{}"})
    for archive, code in ((files, "AUDIT_ROLLBACK"), (forged, "ATTESTATION_CHANGED")):
        monkeypatch.setattr(session, "pack", lambda _, data=pack(archive): data)
        assert received.publish().verdicts["site-0"] == code
    assert received.site(0).checked("second").objections() == {"site-1": "Ann Lee"}


def test_a_command_in_the_middle_of_an_update_waits_for_it(
    received: PublishingLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands aside for a moment is not taken for the remains of a kill."""
    found: list[tuple[str, ...]] = []
    looking = Thread(target=lambda: found.append(received.site(0).places.runs()))
    moves = os.replace

    def slowly(source: Any, target: Any) -> None:
        if Path(target) == received.inbox(0):
            looking.start()
            looking.join(0.3)
            assert looking.is_alive()
        moves(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(folder.os, "replace", slowly)
        assert received.publish().verdicts["site-0"] == "RECEIVED"
    looking.join()
    assert found == [("first", "second")]


def test_text_of_a_hospital_in_the_place_of_a_code(received: PublishingLab) -> None:
    """Unsigned, and shown in the operator's terminal with all its control characters."""
    wire = Wire(received)
    wire.change = lambda site, answer: answer if site != "site-1" else Message(
        kind=ERROR, fields={"code": "\x1b]0;owned\x07 Erika Muster"})
    publication = received.publish(wire=wire)
    assert publication.missed == {"site-1": "SITE_ERROR"}
    assert "Muster" not in (received.place("second").folder / "deliveries.json").read_text()


# -- decisions --------------------------------------------------------------------------------


def test_a_measurement_never_leaves_by_itself(received: PublishingLab) -> None:
    place = received.site(0).places.decisions("second")
    place.mkdir(parents=True)
    (place / "measured.json").write_text('{"secret": 1}')
    wire = Wire(received)
    answers: list[Message] = []
    wire.change = lambda site, answer: answers.append(unverified(answer)) or answer
    assert received.publish(wire=wire).decisions == {}
    assert {a.payload for a in answers if a.kind == COLLECT} == {b""}
    assert not any(b"secret" in a.payload for a in answers)


def hands_out(monkeypatch: pytest.MonkeyPatch, site: str, data: bytes) -> None:
    """A hospital that answers COLLECT as it likes; the others as they should."""
    honest = AdoptingHospital._released
    monkeypatch.setattr(AdoptingHospital, "_released", lambda own, message: (
        data if own._trust.identity.party_id == site else honest(own, message)))


def test_a_decision_in_another_hospitals_name(
    received: PublishingLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    stolen = received.decide(0, "countersigned").sign(received.site(0).identity)
    hands_out(monkeypatch, "site-1", stolen)
    received.away = {"site-0"}
    assert received.publish().decisions == {}
    refusals = [r.fields for r in received.log().records if r.kind == "request_refused"]
    assert {"request": "decision", "code": "DECISION_FOREIGN"} in refusals


def test_an_earlier_decision_put_in_place_of_a_later_one(
    received: PublishingLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = received.decide(0, "countersigned").sign(received.site(0).identity)
    received.decide(0, "objected")
    assert received.publish().decisions == {"site-0": "objected"}
    hands_out(monkeypatch, "site-0", early)
    assert received.publish().decisions == {"site-0": "objected"}
    assert received.site(1).checked("second").objections() == {"site-0": "Ann Lee"}


def test_a_hospital_may_change_its_mind(received: PublishingLab) -> None:
    for verdict in ("countersigned", "objected", "countersigned"):
        received.decide(0, verdict)
        assert received.publish().decisions == {"site-0": verdict}
    checked = received.site(1).checked("second")
    assert checked.objections() == {} and checked.countersigned() == {"site-0": "Ann Lee"}


def test_a_statement_that_the_coordinator_made_up_or_left_out(received: PublishingLab) -> None:
    """Made up, it is dropped; left out, the log's own record still counts."""
    place = received.place("second")
    decision = received.decide(0, "objected")
    received.publish()
    forger = SigningIdentity.generate("site-1", SeededEntropy(666))
    (place.statements / "site-1.dsse").write_bytes(
        replace(decision, site="site-1").sign(forger))
    (place.statements / "site-0.dsse").unlink()
    received.away = {"site-0"}  # or it would be collected again
    assert received.publish().decisions == {}
    assert not list(received.inbox(2).glob("statements/*"))
    assert received.site(2).checked("second").objections() == {"site-0": "Ann Lee"}


def test_an_objection_taken_back_by_the_coordinator(received: PublishingLab) -> None:
    """Its log says that the hospital countersigned since; no hospital has signed that."""
    decision = received.decide(1, "objected")
    received.publish()
    forged(received, decision, site="site-1", number=decision.number + 1)
    assert set(received.publish().verdicts.values()) == {"RECEIVED"}
    checked = received.site(0).checked("second")
    assert checked.objections() == {"site-1": "Ann Lee"} and checked.countersigned() == {}


def test_a_countersignature_that_no_hospital_gave(received: PublishingLab) -> None:
    decision = received.decide(1, "countersigned")
    received.publish()
    forged(received, decision, site="site-2", number=1)
    assert set(received.publish().verdicts.values()) == {"RECEIVED"}
    assert received.site(0).checked("second").countersigned() == {"site-1": "Ann Lee"}
    # Nor does one that lies in the inbox without its hospital's signature.
    statement = received.inbox(0) / "statements" / "site-1.dsse"
    forger = SigningIdentity.generate("site-2", SeededEntropy(666))
    statement.with_name("site-2.dsse").write_bytes(replace(decision, site="site-2").sign(forger))
    assert received.site(0).checked("second").countersigned() == {"site-1": "Ann Lee"}


def forged(lab: PublishingLab, like: Decision, *, site: str, number: int) -> None:
    """A countersignature in the coordinator's log, of the coordinator's own making."""
    lab.log().append(
        "countersigned", site=site, attestation_digest=like.attestation.hex(), by=like.by,
        reason_digest=like.reason.hex(), number=number)


def test_a_reason_stays_at_the_hospital_and_cannot_be_guessed(received: PublishingLab) -> None:
    one, other = received.decide(0, "objected"), received.decide(0, "objected")
    assert one.reason != other.reason and other.number == 2
    received.publish()
    published = b"".join(
        p.read_bytes() for p in received.place("second").folder.rglob("*") if p.is_file())
    assert b"ward seven" not in published
    kept = received.site(0).places.decisions("second") / "decision-2.json"
    assert "ward seven" in kept.read_text() and kept.stat().st_mode & 0o077 == 0


def test_decisions_need_a_person_a_reason_and_a_sound_run(received: PublishingLab) -> None:
    from medunlearn_client.adoption.deciding import decide

    site = received.site(0)
    for by, reason, run, code in (
        ("", "x", "second", "PERSON_INVALID"), ("A\nB", "x", "second", "PERSON_INVALID"),
        ("Ann", " ", "second", "REASON_INVALID"), ("Ann", "x", "third", "INBOX_UNKNOWN"),
        ("Ann", "x", "../second", "RUN_ID_INVALID"),
    ):
        with pytest.raises(Misconfigured, match=code):
            decide(site, run, "countersigned", by=by, reason=reason)
    weights: Path = received.inbox(0) / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(Rejected, match="FILE_CHANGED"):
        decide(site, "second", "countersigned", by="Ann", reason="x")

"""A coordinator that hides requests from its log, against real sites behind their envelopes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from quadratic_hospital import open_hospital, small_plan, write_sites

from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.envelope.sealing import unverified
from medunlearn_common.errors import MedunlearnError
from medunlearn_common.messages import MASK_AGREE, MASK_OPEN, STEP, Message
from medunlearn_common.plan import RuntimeOptions
from medunlearn_server.audit_trail import AuditTrail
from medunlearn_server.checkpoints import RunStore
from medunlearn_server.coordinator import Coordinator
from medunlearn_server.sealed_transport import seal_transport
from medunlearn_server.transport import Reply
from medunlearn_simulation.absences import Absences
from medunlearn_simulation.memory_runner import Faults, MemoryTransport, sealed_hospitals

PLAN = small_plan(run={"rounds": 2})


class Repeating(MemoryTransport):
    """Keeps what was asked and answered; delivers the last ``again`` exchanges once more."""

    def __init__(self, *given: Any, again: int, **more: Any) -> None:
        super().__init__(*given, **more)
        self.again, self.same, self.codes = again, 0, set[str]()
        self.kept: list[tuple[Mapping[str, Message], Mapping[str, Reply]]] = []

    def exchange(
        self, requests: Mapping[str, Message], *, deadline_s: float
    ) -> Mapping[str, Reply]:
        replies = super().exchange(requests, deadline_s=deadline_s)
        self.kept.append((requests, replies))
        for earlier, first in self.kept[len(self.kept) - self.again :] if self.again else ():
            for name, reply in super().exchange(earlier, deadline_s=deadline_s).items():
                assert isinstance(reply, Message)
                self.same += reply == first[name]
                if reply != first[name]:
                    self.codes.add(str(unverified(reply).fields.get("code")))
        return replies


@contextmanager
def run(folder: Path, *, again: int = 0) -> Iterator[tuple[Repeating, Coordinator]]:
    sites = write_sites(folder / "sites", 4)
    hospitals = {s.name: open_hospital(s, RuntimeOptions(device="cpu")) for s in sites}
    with ExitStack() as opened:
        sealed = opened.enter_context(
            sealed_hospitals(PLAN, hospitals, run_folder=folder / "run"))
        wire = Repeating(sealed, absences=Absences(spans=()), faults=Faults(), again=again)
        transport = opened.enter_context(closing(seal_transport(
            wire, folder / "run", plan=PLAN, run_id="lab",
            entropy=SeededEntropy(PLAN.run.seed), survives_power_cut=False,
        )))
        yield wire, Coordinator(
            plan=PLAN, transport=transport, verifier=transport.verifier, run_id="lab",
            store=RunStore(folder / "run"), sleep=lambda seconds: None,
        )


@pytest.mark.parametrize("hidden", [MASK_AGREE, MASK_OPEN])
def test_a_new_request_with_a_head_that_was_seen_before_a_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: str
) -> None:
    """Sites saw round 1 in the log; what follows comes under the log as it was in round 0."""
    honest = AuditTrail._milestone

    def hiding(trail: AuditTrail, request: Message) -> int:
        if request.kind == hidden and request.fields.get("round") == 1:
            earlier = Message(kind=STEP, fields={**request.fields, "round": 0})
            return honest(trail, earlier)
        return honest(trail, request)

    monkeypatch.setattr(AuditTrail, "_milestone", hiding)
    with run(tmp_path) as (_, coordinator), pytest.raises(MedunlearnError) as caught:
        coordinator.run()
    assert "AUDIT_ROLLBACK" in f"{caught.value.code} {caught.value.message}"


def test_requests_delivered_again_after_later_ones_change_nothing(tmp_path: Path) -> None:
    """An older head is no fault where the very same envelope comes once more."""
    with run(tmp_path, again=4) as (wire, coordinator):
        outcome = coordinator.run()
    assert outcome.rounds == PLAN.run.rounds
    assert all(report.attempts == 1 and not report.failures for report in outcome.curve)
    assert wire.same > 50
    assert wire.codes <= {"MASKING_SESSION_UNKNOWN", "MASKING_SESSION_CLOSED"}


def test_a_refused_request_is_not_taken_when_it_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said twice, a request with an older head is no more a repetition than said once."""
    honest = AuditTrail._milestone
    monkeypatch.setattr(AuditTrail, "_milestone", lambda trail, request: honest(
        trail, Message(kind=STEP, fields={"round": 0}) if request.kind == MASK_AGREE
        and request.fields.get("round") == 1 else request,
    ))
    with run(tmp_path) as (wire, coordinator):
        with pytest.raises(MedunlearnError):
            coordinator.run()
        refused = [
            (requests, replies) for requests, replies in wire.kept
            if any(unverified(r).kind == MASK_AGREE and unverified(r).fields.get("round") == 1
                   for r in requests.values())
        ]
        assert refused
        for requests, _ in refused * 2:
            for reply in wire.exchange(requests, deadline_s=1.0).values():
                assert isinstance(reply, Message)
                assert unverified(reply).fields["code"] == "AUDIT_ROLLBACK"

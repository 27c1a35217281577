"""A whole federation in one process: the real coordinator, real hospitals, no network.

Deterministic: sites answer one after another in the order given. Every message is turned into
bytes and back, so that nothing can travel that a network could not carry.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from medunlearn_client.sealed_hospital import SealedHospital, seal_hospital
from medunlearn_common.digests import canonical_json
from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.envelope.sealing import unverified
from medunlearn_common.messages import Message
from medunlearn_common.plan import RunPlan
from medunlearn_server.checkpoints import RunStore
from medunlearn_server.coordinator import Coordinator
from medunlearn_server.observer import Observer
from medunlearn_server.reports import RunOutcome
from medunlearn_server.sealed_transport import seal_transport
from medunlearn_server.transport import SITE_GONE, SITE_SILENT, Reply, SiteFailure
from medunlearn_simulation.absences import Absences
from medunlearn_simulation.enrolment import enrol

_LENGTH_BYTES = 4


class Answering(Protocol):
    """What the runner needs of :class:`medunlearn_client.hospital.Hospital`."""

    @property
    def site_id(self) -> str:
        """Name of the site in the run."""
        ...

    def handle(self, message: Message) -> Message:
        """Answer one request; never raises."""
        ...


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Faults to inject.

    Attributes:
        lost_answers: (site name, round) pairs whose answer is lost after the site gave it.
        before_answer: Called with site name and request before the site is asked; what it
            raises ends the run there, as a crash or Ctrl-C would.
    """

    lost_answers: frozenset[tuple[str, int]] = frozenset()
    before_answer: Callable[[str, Message], None] = field(default=lambda site, request: None)


class MemoryTransport:
    """A transport over hospitals in this process.

    Addresses are the mapping's keys; the n-th one is site n of the plan's absences.
    """

    def __init__(
        self, hospitals: Mapping[str, Answering], *, absences: Absences, faults: Faults
    ) -> None:
        self._hospitals = dict(hospitals)
        self._index = {name: index for index, name in enumerate(hospitals)}
        self._absences = absences
        self._faults = faults

    def sites(self) -> tuple[str, ...]:
        """All sites; one that is away only fails to answer."""
        return tuple(self._hospitals)

    def exchange(
        self, requests: Mapping[str, Message], *, deadline_s: float
    ) -> Mapping[str, Reply]:
        """Ask one site after another; ``deadline_s`` is not waited for."""
        return {
            name: self._ask(name, requests[name]) for name in self._hospitals if name in requests
        }

    def _ask(self, name: str, request: Message) -> Reply:
        seen = unverified(request)  # faults are named after what is inside an envelope
        if self._absences.away(self._index[name], seen):
            return SiteFailure(code=SITE_GONE)
        self._faults.before_answer(name, seen)
        answer = self._hospitals[name].handle(from_wire(to_wire(request)))
        if (name, seen.fields.get("round")) in self._faults.lost_answers:
            return SiteFailure(code=SITE_SILENT)
        return from_wire(to_wire(answer))


def to_wire(message: Message) -> bytes:
    """Length of the head, head (canonical JSON), payload."""
    head = canonical_json({"kind": message.kind, "fields": dict(message.fields)})
    return len(head).to_bytes(_LENGTH_BYTES, "big") + head + message.payload


def from_wire(data: bytes) -> Message:
    """Back from :func:`to_wire`."""
    end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "big")
    head = json.loads(data[_LENGTH_BYTES:end])
    return Message(kind=head["kind"], fields=head["fields"], payload=data[end:])


def run_in_memory(
    plan: RunPlan, hospitals: Mapping[str, Answering], *, run_folder: Path, run_id: str,
    observer: Observer | None = None, resume: bool = False, faults: Faults | None = None,
) -> RunOutcome:
    """Run a federation in this process.

    Args:
        plan: The shared plan.
        hospitals: Site name to hospital, in site order.
        run_folder: The coordinator's folder; ``run_folder/adapter`` is the result.
        run_id: Name of the run.
        observer: Told about progress.
        resume: Go on from the folder's checkpoint if there is one.
        faults: Faults to inject.

    Raises:
        MedunlearnError: As :meth:`medunlearn_server.coordinator.Coordinator.run`.
    """
    with ExitStack() as opened:
        sealed = opened.enter_context(sealed_hospitals(plan, hospitals, run_folder=run_folder))
        transport = MemoryTransport(
            sealed, absences=Absences.of_plan(plan), faults=faults or Faults()
        )
        outside = opened.enter_context(closing(seal_transport(
            transport, run_folder, plan=plan, run_id=run_id,
            entropy=SeededEntropy(plan.run.seed), survives_power_cut=False,
        )))
        coordinator = Coordinator(
            plan=plan, store=RunStore(run_folder), run_id=run_id, observer=observer,
            transport=outside, verifier=outside.verifier,
            sleep=lambda seconds: None,  # nobody comes back while one process waits
        )
        return coordinator.run(resume=resume)


@contextmanager
def sealed_hospitals(
    plan: RunPlan, hospitals: Mapping[str, Answering], *, run_folder: Path
) -> Iterator[dict[str, SealedHospital]]:
    """The hospitals behind their envelopes; makes keys, roster and policies where there are none.

    Each one's trust folder lies in ``run_folder/sites/NAME``. The envelopes are closed in the end;
    the hospitals, which were given, stay open.
    """
    folders = {name: run_folder / "sites" / name for name in hospitals}
    enrol(plan, run_folder=run_folder,
          sites={folders[name]: hospital.site_id for name, hospital in hospitals.items()})
    with ExitStack() as opened:
        yield {
            name: opened.enter_context(closing(seal_hospital(
                folders[name], hospital, entropy=SeededEntropy(plan.run.seed),
                survives_power_cut=False,
            )))
            for name, hospital in hospitals.items()
        }

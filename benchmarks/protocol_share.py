"""The protocol's share of a round: envelopes, masks, witness, logs and ledger against compute.

    OMP_NUM_THREADS=1 python benchmarks/protocol_share.py [PLAN] [--rounds 4] [--model FOLDER]

One memory-runner process with the plan's real messages (without PLAN the demo's). Every layer's
entry points are wrapped by a clock of processor time that charges the innermost layer only, so
that the figures add up to the whole. The first round is left out: it sets masks up. A request
may wait for the disk; that is no processor time, and shown as wall-clock time beside it.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medunlearn_client.hospital import Hospital
from medunlearn_client.masking.hospital import MaskedHospital
from medunlearn_client.sealed_hospital import SealedHospital
from medunlearn_client.site_audit import SiteAudit
from medunlearn_client.workbench import Workbench
from medunlearn_common.ledger import PrivacyLedger
from medunlearn_common.plan import RuntimeOptions, plan_template
from medunlearn_server.audit_trail import AuditTrail, WitnessedTransport
from medunlearn_server.coordinator import Coordinator
from medunlearn_server.masking.leader import MaskingLeader
from medunlearn_server.masking.session import Collecting
from medunlearn_server.observer import NoObserver
from medunlearn_server.sealed_transport import SealedTransport
from medunlearn_simulation.memory_runner import MemoryTransport
from medunlearn_simulation.preparing import Overrides
from medunlearn_simulation.progress import PhaseBoard
from medunlearn_simulation.runners import FederationJob, run_federation
from medunlearn_simulation.simulate import NewRun, plan_for_run, start

COMPUTE, SERVER, WIRE = "hospitals' compute", "coordinator's step", "transport in memory"
# Layer, class, methods. What is called inside of another layer's method is charged to the inner.
LAYERS: tuple[tuple[str, type, tuple[str, ...]], ...] = (
    (COMPUTE, Hospital, ("handle",)),
    (COMPUTE, Workbench, ("step", "vote", "counts", "canaries")),
    ("ledger, site", PrivacyLedger, ("charge", "answer_given", "remember_answer")),
    ("log, site", SiteAudit, ("charged", "answered", "refused", "plan_accepted", "finished")),
    ("masks, site", MaskedHospital, ("handle",)),
    ("witness, site", SiteAudit, ("taken",)),
    ("envelope, site", SealedHospital, ("handle",)),
    (WIRE, MemoryTransport, ("exchange",)),
    ("envelope, coordinator", SealedTransport, ("exchange",)),
    ("log's head and witnesses, coordinator", WitnessedTransport, ("exchange",)),
    ("log, coordinator", AuditTrail, ("round_done", "supported", "agreed", "ended", "begun")),
    ("masks, coordinator", MaskingLeader,
     ("session", "collecting", "delivered", "agreed", "opened")),
    ("masks, coordinator", Collecting, ("add", "cut")),
    (SERVER, Coordinator, ("run",)),
)
PROTOCOL = tuple(dict.fromkeys(
    name for name, _, _ in LAYERS if name not in (COMPUTE, SERVER, WIRE)
))


class Clock:
    """Processor and wall time by layer, each moment charged to the innermost one."""

    def __init__(self) -> None:
        self.cpu: Counter[str] = Counter()
        self.wall: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._stack: list[str] = []
        self._at = (time.process_time(), time.perf_counter())

    def charge(self) -> None:
        """Charge what passed since the last change to the layer that ran."""
        now = (time.process_time(), time.perf_counter())
        if self._stack:
            self.cpu[self._stack[-1]] += now[0] - self._at[0]
            self.wall[self._stack[-1]] += now[1] - self._at[1]
        self._at = now

    def wrapped(self, layer: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """The method, with its time charged to ``layer``."""
        @functools.wraps(method)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.charge()
            self._stack.append(layer)
            self.calls[layer] += 1
            try:
                return method(*args, **kwargs)
            finally:
                self.charge()
                self._stack.pop()

        return timed

    def clear(self) -> None:
        """Begin anew."""
        self.charge()
        for counter in (self.cpu, self.wall, self.calls):
            counter.clear()


class RoundsOnly(NoObserver):
    """Clears the clock after the first round, and keeps what stood on it after the last."""

    def __init__(self, clock: Clock, rounds: int) -> None:
        self.clock, self.rounds, self.done = clock, rounds, 0
        self.kept: tuple[Counter[str], Counter[str], Counter[str]] = (
            Counter(), Counter(), Counter())

    def on_round(self, report: Any, values: Any) -> None:
        self.done += 1
        self.clock.charge()
        if self.done == 1:
            self.clock.clear()
        elif self.done == self.rounds:
            self.kept = (self.clock.cpu.copy(), self.clock.wall.copy(), self.clock.calls.copy())


def measured(
    plan_file: Path | None, rounds: int, folder: Path, *, model: str | None
) -> RoundsOnly:
    """Run the plan's first rounds."""
    plan = plan_for_run(plan_file, Overrides(model=model))
    shorter = plan.model_copy(update={
        "run": plan.run.model_copy(update={"rounds": rounds}),
        "evaluation": plan.evaluation.model_copy(update={"retrained": False}),
    })
    file = folder / "plan.toml"
    file.write_text(plan_template(shorter), encoding="utf-8")
    with PhaseBoard(quiet=True) as board:
        started = start(
            NewRun(plan_file=file, overrides=Overrides(), out=folder / "run"), "memory", board,
            device="cpu",
        )
    clock = Clock()
    for layer, owner, names in LAYERS:
        for name in names:
            timed = clock.wrapped(layer, getattr(owner, name))
            static = isinstance(inspect.getattr_static(owner, name), staticmethod)
            setattr(owner, name, staticmethod(timed) if static else timed)
    watcher = RoundsOnly(clock, rounds)
    run_federation(FederationJob(
        plan=started.plan.shared(), folder=started.folder, run_id=started.facts.run_id,
        runtime=RuntimeOptions(runner="memory", device="cpu"), observer=watcher,
    ))
    return watcher


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("plan", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--model", help="a folder; without it one is planted, or found in "
                        "$MEDUNLEARN_CACHE")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        watcher = measured(given.plan, given.rounds, Path(folder), model=given.model)
    cpu, wall, calls = watcher.kept
    rounds, whole = given.rounds - 1, sum(cpu.values())
    if not whole:
        raise SystemExit("no round but the first was made")
    print(f"{'layer':40s} {'ms a round':>11s} {'share':>7s} {'wall ms':>9s} {'calls':>6s}")
    for layer in sorted(cpu, key=lambda name: -cpu[name]):
        print(f"{layer:40s} {1e3 * cpu[layer] / rounds:11.1f} {cpu[layer] / whole:7.2%} "
              f"{1e3 * wall[layer] / rounds:9.1f} {calls[layer] / rounds:6.1f}")
    protocol = sum(cpu[name] for name in PROTOCOL)
    print(f"protocol {1e3 * protocol / rounds:.1f} ms of {1e3 * whole / rounds:.1f} ms a round: "
          f"{protocol / whole:.2%} of the processor time")
    return 0


if __name__ == "__main__":
    sys.exit(main())

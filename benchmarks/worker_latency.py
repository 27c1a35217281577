"""How soon a hospital's worker computes once a message is there, and what loading anew would cost.

    python benchmarks/worker_latency.py [--rounds 30]

The real worker process of one hospital (`python -m medunlearn_client.service.worker`, with a probe
that notes when the first per-example gradients exist), a real coordinator, two more hospitals in
this process, the embedded records, a random model of two layers, a plan with noise: so that a
step's way to its first gradient has envelope, masks, ledger and audit log on it, with their waits
for the disk. For each round:

    taken           from the message in the app process's hands to the worker's thread
    first gradient  from there: opened, checked, charged for, batch drawn, forward and backward
    in all          the goal is 0.2 s
    answer          from the message to the sealed answer

The first round is shown apart: it warms caches. `start` is the worker from nothing to its first
answer, what each message would cost if nothing stayed loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from medunlearn_client.hospital import open_hospital
from medunlearn_client.sealed_hospital import seal_hospital
from medunlearn_client.service.config import HospitalConfig, HospitalPaths, hospital_template
from medunlearn_client.service.worker_client import WorkerClient
from medunlearn_common.envelope.sealing import unverified
from medunlearn_common.messages import STEP, Message
from medunlearn_common.plan import RuntimeOptions, read_plan
from medunlearn_common.processes import Child, ChildSpec
from medunlearn_server.checkpoints import RunStore
from medunlearn_server.coordinator import Coordinator
from medunlearn_server.sealed_transport import seal_transport
from medunlearn_simulation.absences import Absences
from medunlearn_simulation.demo_corpus import FORGET_SUBJECT
from medunlearn_simulation.enrolment import enrol
from medunlearn_simulation.memory_runner import Faults, MemoryTransport
from medunlearn_simulation.rehearsal.task import Task
from medunlearn_simulation.rehearsal.tiny import tiny_task

SITES = 3
# Runs the worker; both clocks are the machine's one monotonic clock.
PROBE = """
import json, sys, time
from medunlearn_client import per_example
from medunlearn_client.service import worker

stream = open(sys.argv.pop(), "a", buffering=1)
backward, in_turn, state = per_example.PerExampleGradients.backward, worker.Worker._in_turn, {}

def first(self, losses):
    found = backward(self, losses)
    state.setdefault("gradient", time.monotonic())
    return found

def timed(self, message):
    state.clear()
    began = time.monotonic()
    answer = in_turn(self, message)
    stream.write(json.dumps({"began": began, **state}) + "\\n")
    return answer

per_example.PerExampleGradients.backward, worker.Worker._in_turn = first, timed
sys.exit(worker.main())
"""


@dataclass
class Asked:
    """The first hospital over its socket; notes when each step was sent and answered."""

    client: WorkerClient
    steps: list[tuple[float, float]] = field(default_factory=list)

    def handle(self, message: Message) -> Message:
        """Ask the worker."""
        sent = time.monotonic()
        answer = self.client.ask(message)
        if message.kind == "sealed" and unverified(message).kind == STEP:
            self.steps.append((sent, time.monotonic()))
        return answer


def write_sites(root: Path, task: Task) -> list[Path]:
    """Folders of three hospitals, one file of records each."""
    folders = []
    for index, records in enumerate(task.records):
        folder = root / "sites" / f"site-{index}"
        folder.mkdir(parents=True)
        (folder / "site.json").write_text(json.dumps({
            "site_id": f"site-{index}", "site_index": 0, "sites": 1,
            "data": {"files": [str(records)], "nonmember_fraction": 0.0},
            "forget": {"subjects": [FORGET_SUBJECT]}, "model_folder": str(task.model),
        }))
        folders.append(folder)
    config = HospitalConfig.model_validate({"worker": {"device": "cpu"}})
    HospitalPaths(folder=folders[0]).config.write_text(hospital_template(config), "utf-8")
    return folders


def measure(root: Path, rounds: int) -> tuple[float, Asked, list[dict[str, float]]]:
    """Run a whole run; returns the worker's start, the client, and what the probe noted."""
    task = tiny_task(root / "task", rounds=rounds)
    plan = read_plan(task.plan).shared()
    folders, noted = write_sites(root, task), root / "noted.jsonl"
    run_folder = root / "run"
    enrol(plan, run_folder=run_folder, sites={f: f.name for f in folders})
    paths = HospitalPaths(folder=folders[0])
    worker = Child(ChildSpec(
        name="worker", command=(sys.executable, "-c", PROBE, str(folders[0]), str(noted)),
        environment={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        log_file=paths.logs / "worker.log", final_exits=frozenset({2}), grace_s=30.0))
    began = time.monotonic()
    worker.start()
    try:
        asked = Asked(WorkerClient(paths.socket, timeout_s=120.0))
        asked.client.look()
        started = time.monotonic() - began
        runtime = RuntimeOptions(runner="memory", device="cpu")
        with ExitStack() as opened:
            others = {
                f.name: opened.enter_context(closing(seal_hospital(f, open_hospital(f, runtime))))
                for f in folders[1:]
            }
            transport = opened.enter_context(closing(seal_transport(
                MemoryTransport({folders[0].name: asked, **others}, faults=Faults(),
                                absences=Absences.of_plan(plan)),
                run_folder, plan=plan, run_id="latency")))
            Coordinator(plan=plan, store=RunStore(run_folder), run_id="latency",
                        transport=transport, verifier=transport.verifier).run()
    finally:
        worker.stop()
    found: list[dict[str, Any]] = [json.loads(line) for line in noted.read_text().splitlines()]
    return started, asked, [one for one in found if "gradient" in one]


def shown(name: str, values: Sequence[float]) -> str:
    """One line of the table: the first, then median, 95th percentile and maximum of the rest."""
    first, *rest = values
    tail = quantiles(rest, n=20)[-1]
    return (f"{name:<16}{first:7.3f}   {median(rest):7.3f}   {min(rest):7.3f}   {tail:7.3f}   "
            f"{max(rest):7.3f}")


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="rounds of the run (default 30)")
    given = parser.parse_args()
    # Unix sockets have short names.
    with tempfile.TemporaryDirectory(prefix="mu-", dir="/tmp") as folder:
        started, asked, noted = measure(Path(folder), given.rounds)
    rows = []
    for sent, answered in asked.steps:
        one = next(n for n in noted if n["began"] >= sent)
        rows.append((one["began"] - sent, one["gradient"] - one["began"], one["gradient"] - sent,
                     answered - sent))
    print(f"{len(rows)} rounds; worker's start {started:.2f} s")
    print(f"{'seconds':<18}first    median   shortest   95 %      longest")
    for name, values in zip(("taken", "first gradient", "in all", "answer"),
                            zip(*rows, strict=True), strict=True):
        print(shown(name, values))


if __name__ == "__main__":
    main()

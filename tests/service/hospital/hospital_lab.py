"""Three hospitals' folders with real keys, and the real worker process of the first one."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medunlearn_client.service.config import HospitalConfig, HospitalPaths, hospital_template
from medunlearn_client.service.worker_client import WorkerClient
from medunlearn_common.errors import MedunlearnError
from medunlearn_common.messages import ERROR, Message
from medunlearn_common.plan import RunPlan
from medunlearn_common.processes import Child, ChildSpec, wait_until
from medunlearn_server.checkpoints import RunStore
from medunlearn_server.coordinator import Coordinator
from medunlearn_server.reports import RunOutcome
from medunlearn_server.sealed_transport import seal_transport
from medunlearn_server.transport import Reply
from medunlearn_simulation.absences import Absences
from medunlearn_simulation.enrolment import enrol
from medunlearn_simulation.memory_runner import Faults, MemoryTransport

PLAN = """
[run]
rounds = 2
[model]
lora_rank = 4
target_modules = ["q_proj", "v_proj"]
[objective]
name = "max_entropy"
[concepts]
forget_roots = ["MU:S0001"]
[support]
method = "random"
density = 0.005
[privacy]
noise = "none"
[gates]
min_preservation = 0.0
max_canary_loss = 0.0
[federation]
sites = 3
min_sites = 3
round_deadline_s = 120.0
"""
HOME = "site-0"


@dataclass
class Remote:
    """The first hospital: everything goes through its socket."""

    client: WorkerClient
    site_id: str = HOME

    def handle(self, message: Message) -> Message:
        try:
            return self.client.ask(message)
        except MedunlearnError as error:
            return Message(kind=ERROR, fields={"code": error.code})


@dataclass
class Lab:
    """A federation whose first hospital is served by a real worker."""

    folder: Path
    plan: RunPlan
    children: list[Child] = field(default_factory=list)
    inside: dict[str, Any] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.folder / "sites" / HOME

    @property
    def paths(self) -> HospitalPaths:
        return HospitalPaths(folder=self.home)

    def configure(self, **sections: Mapping[str, object]) -> None:
        config = HospitalConfig.model_validate({"worker": {"device": "cpu"}, **sections})
        self.paths.config.write_text(hospital_template(config), encoding="utf-8")

    def worker(self, **environment: str) -> Child:
        """Start the worker under supervision; it is waited for by whoever asks it."""
        path = os.pathsep.join(entry for entry in sys.path if entry)
        child = Child(ChildSpec(
            name="worker", command=(sys.executable, "-m", "medunlearn_client.service.worker",
                                    str(self.home)),
            environment={**os.environ, "PYTHONPATH": path, **environment},
            log_file=self.paths.logs / "worker.log", first_delay_s=0.05,
            final_exits=frozenset({2}), grace_s=60.0,
        ))
        self.children.append(child)
        child.start()
        return child

    def client(self, **options: float) -> WorkerClient:
        return WorkerClient(
            self.paths.socket, **{"timeout_s": 120.0, "patience_s": 120.0, **options})

    def log(self) -> str:
        """What the worker said, and what was said before it took its own log."""
        said = (self.paths.logs / name for name in ("worker.log", "worker.private.log"))
        return "".join(path.read_text(encoding="utf-8") for path in said if path.exists())

    def run(
        self, plan: RunPlan | None = None, *, run_id: str = "lab", home: Any = None,
        before: Callable[[str, Message], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> RunOutcome:
        """A whole run of the real coordinator; site-0 answers over its socket."""
        plan = plan or self.plan
        folder = self.folder / "runs" / run_id
        self.enrol(folder)
        hospitals = {HOME: home or Remote(self.client()), **self._others()}
        faults = Faults(before_answer=before) if before else Faults()
        with closing(seal_transport(
            MemoryTransport(hospitals, absences=Absences.of_plan(plan), faults=faults),
            folder, plan=plan, run_id=run_id, survives_power_cut=False,
        )) as transport:
            return Coordinator(
                plan=plan, store=RunStore(folder), run_id=run_id, transport=transport,
                verifier=transport.verifier, sleep=sleep,
            ).run()

    def ask(self, message: Message, *, run_id: str = "lab", plan: RunPlan | None = None) -> Reply:
        """One sealed request to the first hospital alone."""
        plan = plan or self.plan
        folder = self.folder / "runs" / run_id
        self.enrol(folder)
        with closing(seal_transport(
            MemoryTransport({HOME: Remote(self.client())}, absences=Absences.of_plan(plan),
                            faults=Faults()),
            folder, plan=plan, run_id=run_id, survives_power_cut=False,
        )) as transport:
            return transport.exchange({HOME: message}, deadline_s=60.0)[HOME]

    def close(self) -> None:
        for child in self.children:
            child.stop()
        for hospital in self.inside.values():
            hospital.close()

    def enrol(self, run_folder: Path) -> None:
        """Keys are drawn from the plan's seed: each run's coordinator is the same party."""
        sites = {self.folder / "sites" / f"site-{i}": f"site-{i}" for i in range(3)}
        enrol(self.plan, run_folder=run_folder, sites=sites)

    def _others(self) -> dict[str, Any]:
        from medunlearn_client.hospital import open_hospital
        from medunlearn_client.sealed_hospital import seal_hospital
        from medunlearn_common.plan import RuntimeOptions

        for name in ("site-1", "site-2"):
            if name not in self.inside:
                folder = self.folder / "sites" / name
                runtime = RuntimeOptions(runner="memory", device="cpu")
                self.inside[name] = seal_hospital(
                    folder, open_hospital(folder, runtime), survives_power_cut=False)
        return dict(self.inside)


def write_hospitals(lab: Lab, *, model: Path, questions: Path) -> None:
    """Folders of three hospitals with equal parts of the questions."""
    for index in range(3):
        folder = lab.folder / "sites" / f"site-{index}"
        folder.mkdir(parents=True)
        (folder / "site.json").write_text(json.dumps({
            "site_id": f"site-{index}", "site_index": index, "sites": 3,
            "data": {"files": [str(questions)], "nonmember_fraction": 0.0},
            "forget": {"subjects": ["Surgery"]}, "seed": 3, "concentration": 50.0,
            "model_folder": str(model), "entropy_seed": 11,
        }))
    lab.configure()
    lab.enrol(lab.folder / "runs" / "lab")


def holds(condition: Callable[[], bool], *, deadline_s: float = 90.0) -> None:
    wait_until(condition, deadline_s=deadline_s, what="the condition of a test")


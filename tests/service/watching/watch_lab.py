"""A coordinator's folder with a real run in it: real rounds, masks, dropouts and audit log."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from quadratic_hospital import open_hospital, small_plan, write_sites
from starlette.types import ASGIApp

from medunlearn_common.errors import MedunlearnError
from medunlearn_common.loopback import server_of
from medunlearn_common.messages import STEP, Message
from medunlearn_common.plan import Plan, RuntimeOptions
from medunlearn_common.plan.template import plan_template
from medunlearn_server.checkpoints import RunStore
from medunlearn_server.gatekeeper import add_override, new_override
from medunlearn_server.service.config import open_folder
from medunlearn_server.service.runs_db import RunsDb
from medunlearn_server.watching.federation import FederationReader
from medunlearn_server.watching.views import FederationView
from medunlearn_server.watching.web import SharedView, dashboard, view_of
from medunlearn_simulation.memory_runner import Faults, run_in_memory

RUN = "lab-0123456789ab"
CANARY = "Jane Doe, born 31.02.1970, HIV positive"
SETTINGS: dict[str, dict[str, Any]] = {
    "run": {"name": "lab", "rounds": 8},
    "privacy": {"noise": "distributed", "epsilon": 8.0, "clip_l2": 1.0},
    "gates": {"max_units": 1000, "min_preservation": 0.0, "max_canary_loss": 1e-6},
    "server": {"learning_rate": 0.1},
    "federation": {"sites": 7, "min_sites": 3, "round_deadline_s": 60.0,
                   "absences": ("3:2-3", "4:4-4")},
}


class Killed(Exception):
    """Ends a run as a crash would."""


@dataclass(frozen=True, kw_only=True)
class Lab:
    """The folder, half way and at the end.

    Attributes:
        halfway: Killed while round 5 was asked.
        finished: The same run at its end.
    """

    halfway: Path
    finished: Path


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    root = tmp_path_factory.mktemp("watch")
    folder = root / "finished"
    run = folder / "runs" / RUN
    run.mkdir(parents=True)
    (folder / "coordinator.toml").write_text("", encoding="ascii")
    plan = small_plan(**SETTINGS)
    (run / "plan.toml").write_text(plan_template(Plan(
        **{name: getattr(plan, name) for name in type(plan).model_fields}
    )), encoding="utf-8")
    registry = RunsDb(folder / "state" / "runs.db", clock=lambda: 1_790_000_000.0)
    registry.add(RUN, plan_digest=plan.digest)
    registry.count_start(RUN)
    registry.carried_by(RUN, "17")
    # One hospital answers with a patient's name for a code; a person gives one as a reason.
    sites = write_sites(root / "sites", 7, site_6={"ready_error": CANARY})
    add_override(RunStore(run), new_override(
        "canary", by="Grace Hopper", because=f"agreed for {CANARY}", at="2026-11-21T12:00:00Z"))

    def carry(faults: Faults | None, *, resume: bool) -> None:
        hospitals = {site.name: open_hospital(site, RuntimeOptions(runner="memory", device="cpu"))
                     for site in sites}
        run_in_memory(plan, hospitals, run_folder=run, run_id=RUN, resume=resume, faults=faults)

    def kill(site: str, request: Message) -> None:
        if request.kind == STEP and request.fields["round"] == 5:
            raise Killed

    with pytest.raises(Killed):
        carry(Faults(before_answer=kill), resume=False)
    registry.close()
    shutil.copytree(folder, root / "halfway")
    carry(None, resume=True)
    registry = RunsDb(folder / "state" / "runs.db", clock=lambda: 1_790_000_100.0)
    registry.count_start(RUN)
    registry.carried_by(RUN, "18")
    registry.move(RUN, "finished")
    registry.close()
    return Lab(halfway=root / "halfway", finished=folder)


def view_at(
    folder: Path, *, connect: bool = False, clock: Callable[[], float] = time.time
) -> FederationView:
    """One look at a coordinator's folder."""
    with closing(FederationReader(open_folder(folder), clock=clock)) as reader:
        return reader.read(connect=connect)


@contextmanager
def watched(folder: Path, **options: Any) -> Iterator[int]:
    """The dashboard of a coordinator's folder on a free port."""
    with view_of(folder) as view, served(dashboard(SharedView(view, **options))) as port:
        yield port


@contextmanager
def served(app: ASGIApp) -> Iterator[int]:
    """The guarded application on a free port."""
    server = server_of(app, "127.0.0.1:0")
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield _port(server)
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive()


def _port(server: uvicorn.Server) -> int:
    for _ in range(2000):
        if server.started:
            return int(server.servers[0].sockets[0].getsockname()[1])
        threading.Event().wait(0.005)
    raise AssertionError("the server did not start")


def get(
    port: int, path: str, *, method: str = "GET", headers: dict[str, str] | None = None
) -> tuple[HTTPResponse, str]:
    """One request; the answer and its body."""
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer, answer.read().decode("utf-8")
    finally:
        connection.close()


def code_of(error: pytest.ExceptionInfo[MedunlearnError]) -> str:
    return error.value.code


@pytest.fixture
def quiet_output() -> Iterator[None]:
    """Gives Python's logging and hooks back as they were."""
    import logging
    import sys
    import threading as threads

    root = logging.getLogger()
    kept = (root.handlers[:], root.level, logging.raiseExceptions, sys.excepthook,
            threads.excepthook, sys.unraisablehook)
    yield
    root.handlers[:], level, logging.raiseExceptions, sys.excepthook, threads.excepthook, \
        sys.unraisablehook = kept
    root.setLevel(level)
    logging.captureWarnings(False)

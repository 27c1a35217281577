"""The real Flower simulation, and the apps over a grid of the test's own."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest
from flwr.app import Context, RecordDict
from flwr.app import Message as FlowerMessage
from flwr.app.error import Error
from flwr.common.constant import ErrorCode
from flwr.supercore.task_identity import TaskIdentity
from quadratic_hospital import QuadraticHospital, open_hospital, small_plan, write_sites

from medunlearn_client import flower_app as client_side
from medunlearn_common.envelope import HELLO
from medunlearn_common.errors import MedunlearnError, Misconfigured
from medunlearn_common.flower_records import from_records, to_records
from medunlearn_common.messages import ERROR, Message
from medunlearn_common.plan import Plan, RunPlan, RuntimeOptions, plan_template
from medunlearn_server import flower_app as server_side
from medunlearn_server.directives import Directive, write_directive
from medunlearn_server.observer import NoObserver
from medunlearn_server.transport import SITE_SILENT, SiteFailure
from medunlearn_simulation.enrolment import enrol
from medunlearn_simulation.flower_runner import FlowerJob, read_outcome, run_with_flower
from medunlearn_simulation.memory_runner import run_in_memory
from medunlearn_simulation.sessions import end_session, processes_of

RUNTIME = RuntimeOptions(device="cpu")
OPENER = "quadratic_hospital:open_hospital"


def context(node: dict[str, Any], run: dict[str, Any]) -> Context:
    return Context(run_id=1, node_id=1, node_config=node, state=RecordDict(), run_config=run)


class OwnGrid:
    """Delivers to client apps in this process; loses or fails what a test names."""

    def __init__(self, sites_dir: Path, count: int) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self.app = client_side.build_app({"sites-dir": str(sites_dir)}, opener=open_hospital)
        self.nodes = {1000 + index: index for index in range(count)}
        self.lost: set[int] = set()
        self.failing: set[int] = set()
        self.failure = 2
        self.unknown: set[int] = set()
        self.ttl: list[float] = []
        self.answers: dict[str, FlowerMessage] = {}

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[FlowerMessage]) -> Iterable[str]:
        for number, message in enumerate(messages):
            node = message.metadata.dst_node_id
            if node in self.unknown:
                continue
            message_id = f"m{len(self.ttl)}-{number}"
            self.ttl.append(message.metadata.ttl)
            message.metadata.__dict__["_message_id"] = message_id
            if node in self.failing:
                text = "KeyError: John Doe"
                error = Error(self.failure, text)
                self.answers[message_id] = FlowerMessage(error, reply_to=message)
            elif node not in self.lost:
                config = {"partition-id": self.nodes[node], "num-partitions": len(self.nodes)}
                self.answers[message_id] = self.app(message, context(config, {}))
            yield message_id

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[FlowerMessage]:
        return [self.answers.pop(i) for i in list(message_ids) if i in self.answers]


@pytest.fixture
def grid(tmp_path: Path) -> Iterator[OwnGrid]:
    folders = write_sites(tmp_path / "sites", 4)
    enrol(small_plan(), run_folder=tmp_path / "run",
          sites={folder: f"hospital-{i}" for i, folder in enumerate(folders)})
    yield OwnGrid(tmp_path / "sites", 4)
    while client_side._HOSPITALS:
        client_side._HOSPITALS.popitem()[1].close()


def settings(tmp_path: Path, plan: RunPlan) -> dict[str, Any]:
    whole = Plan.model_validate(plan.model_dump(include=set(RunPlan.model_fields)))
    (tmp_path / "plan.toml").write_text(plan_template(whole))
    return {"plan": str(tmp_path / "plan.toml"), "run-folder": str(tmp_path / "run"),
            "run-id": "lab", "poll-s": 0.001}


def by_memory(folder: Path, plan: RunPlan) -> str:
    hospitals = {site.name: open_hospital(site, RUNTIME) for site in write_sites(folder, 4)}
    return run_in_memory(
        plan, hospitals, run_folder=folder / "run", run_id="lab"
    ).adapter_digest


def test_server_app_over_a_grid_equals_the_memory_runner(tmp_path: Path, grid: OwnGrid) -> None:
    plan = small_plan()
    app = server_side.build_app(settings(tmp_path, plan))
    app(grid, context({}, {}))  # type: ignore[arg-type]
    outcome = read_outcome(tmp_path / "run")
    assert outcome.adapter_digest == by_memory(tmp_path / "memory", plan)
    assert all(60.0 < ttl < 600.0 for ttl in grid.ttl)


def roster_of(tmp_path: Path) -> bytes:
    return (tmp_path / "run" / "trust" / "roster.dsse").read_bytes()


def test_lost_failed_and_unreachable_nodes_become_failures(
    tmp_path: Path, grid: OwnGrid
) -> None:
    hello = Message(kind=HELLO, payload=roster_of(tmp_path))
    transport = server_side.FlowerTransport(grid, poll_s=0.001)  # type: ignore[arg-type]
    grid.lost, grid.failing, grid.unknown = {1001}, {1002}, {1003}
    replies = transport.exchange(dict.fromkeys(transport.sites(), hello), deadline_s=0.05)
    assert isinstance(replies["1000"], Message) and replies["1000"].kind == HELLO
    assert replies["1001"] == SiteFailure(code=SITE_SILENT)
    assert replies["1002"] == SiteFailure(code="SITE_FLOWER_2")  # and none of its text
    assert replies["1003"] == SiteFailure(code="SITE_GONE")


def test_a_node_that_left_while_it_was_asked_is_gone(tmp_path: Path, grid: OwnGrid) -> None:
    """As one that was never there; Flower's number of it says nothing to a hospital's people."""
    transport = server_side.FlowerTransport(grid, poll_s=0.001)  # type: ignore[arg-type]
    hello = Message(kind=HELLO, payload=roster_of(tmp_path))
    grid.failing, grid.failure = {1002}, ErrorCode.NODE_UNAVAILABLE
    replies = transport.exchange(dict.fromkeys(transport.sites(), hello), deadline_s=0.05)
    assert replies["1002"] == SiteFailure(code="SITE_GONE")


def test_answers_are_matched_to_their_own_request(tmp_path: Path, grid: OwnGrid) -> None:
    transport = server_side.FlowerTransport(grid, poll_s=0.001)  # type: ignore[arg-type]
    hello = Message(kind=HELLO, payload=roster_of(tmp_path))
    backwards = dict.fromkeys(reversed(transport.sites()), hello)
    replies = transport.exchange(backwards, deadline_s=1.0)
    found = {a: r.fields["site_id"] for a, r in replies.items() if isinstance(r, Message)}
    assert found == {str(1000 + i): f"hospital-{i}" for i in range(4)}


def test_no_exception_text_leaves_a_client_app(
    tmp_path: Path, grid: OwnGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leak(self: QuadraticHospital, message: Message) -> Message:
        raise KeyError("John Doe, born 1950")

    monkeypatch.setattr(QuadraticHospital, "handle", leak)
    seen: list[Message] = []
    push = grid.push_messages

    def watch(messages: Iterable[FlowerMessage]) -> Iterable[str]:
        found = list(push(messages))
        seen.extend(from_records(a.content) for a in grid.answers.values())
        return found

    monkeypatch.setattr(grid, "push_messages", watch)
    with pytest.raises(MedunlearnError):
        server_side.lead(  # type: ignore[arg-type]
            grid, settings(tmp_path, small_plan()), sleep=lambda s: None)
    assert {m.kind for m in seen} == {HELLO, ERROR}
    assert Message(kind=ERROR, fields={"code": "INTERNAL"}) in seen
    assert "John Doe" not in repr(seen)


def test_an_unsealed_request_reaches_no_hospital(tmp_path: Path, grid: OwnGrid) -> None:
    for kind in ("ready", "vote", "step", "finish"):
        with pytest.raises(ValueError, match="No"):
            grid.app(
                FlowerMessage(to_records(Message(kind=kind)), dst_node_id=1000,
                              message_type=f"train.{kind}"),
                context({"partition-id": 0}, {}))


def test_a_failed_run_leaves_its_code(tmp_path: Path, grid: OwnGrid) -> None:
    given = settings(tmp_path, small_plan())
    grid.failing = set(grid.nodes)
    with pytest.raises(MedunlearnError):
        server_side.lead(grid, given, sleep=lambda s: None)  # type: ignore[arg-type]
    assert "ROUND_TOO_FEW_SITES" in (tmp_path / "run" / "failure.json").read_text()


@pytest.mark.parametrize("word", ["pause", "leave"])
def test_a_run_that_was_halted_goes_on_to_the_same_adapter(
    tmp_path: Path, grid: OwnGrid, word: Directive
) -> None:
    given, run = settings(tmp_path, small_plan()), tmp_path / "run"
    push, pushed = grid.push_messages, count()

    def watch(messages: Iterable[FlowerMessage]) -> Iterable[str]:
        if next(pushed) == 60:  # in the middle of a round
            write_directive(run, word)
        return push(messages)

    grid.push_messages = watch  # type: ignore[method-assign]
    with pytest.raises(MedunlearnError) as caught:
        server_side.lead(grid, given, sleep=lambda s: None)  # type: ignore[arg-type]
    assert caught.value.code == {"pause": "RUN_PAUSED", "leave": "COORDINATOR_LEAVES"}[word]
    write_directive(run, "run")
    resumed = {**given, "resume": True}
    server_side.lead(grid, resumed, sleep=lambda s: None)  # type: ignore[arg-type]
    outcome = read_outcome(run)
    assert outcome.adapter_digest == by_memory(tmp_path / "memory", small_plan())
    assert [report.round_index for report in outcome.curve] == list(range(6))


def test_a_coordinator_of_several_runs_keeps_trust_in_one_place(
    tmp_path: Path, grid: OwnGrid
) -> None:
    """Key, roster and record lie in the party's folder; offer and log with each run."""
    given, party = settings(tmp_path, small_plan()), tmp_path / "run"
    folder = party / "runs" / "one"  # the sites' policies here accept one run
    server_side.lead(grid, {  # type: ignore[arg-type]
        **given, "run-folder": str(folder), "run-id": "one", "trust-folder": str(party),
    }, sleep=lambda s: None)
    assert (folder / "offer.dsse").is_file() and (folder / "audit.db").is_file()
    assert not (folder / "trust").exists() and read_outcome(folder).run_id == "one"
    assert not (party / "trust" / "offer.dsse").exists()


def test_settings_that_lack_a_key_are_named(grid: OwnGrid) -> None:
    with pytest.raises(Misconfigured) as caught:
        server_side.lead(grid, {"plan": "x"})  # type: ignore[arg-type]
    assert caught.value.code == "RUN_CONFIG" and "run-folder" in caught.value.message



def left_behind(scratch: Path) -> list[str]:
    """Command lines of live processes that work in the test's own scratch folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or ())
        if str(scratch) in line and process.info["status"] != "zombie":
            found.append(line)
    return found


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where simulations of this test put Ray; short, as Unix sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)
        assert list(Path(folder).iterdir()) == []


def job(tmp_path: Path, plan: RunPlan, **changes: Any) -> FlowerJob:
    given: dict[str, Any] = {
        "plan": plan, "sites_dir": tmp_path / "sites", "run_folder": tmp_path / "run",
        "run_id": "lab", "runtime": RUNTIME, "actors": 2, "opener": OPENER, **changes,
    }
    return FlowerJob(**given)


class Rounds(NoObserver):
    def __init__(self) -> None:
        self.seen: list[tuple[int, float]] = []
        self.interrupt_after: int | None = None

    def on_round(self, report: Any, values: Any) -> None:
        self.seen.append((report.round_index, time.monotonic()))
        if report.round_index == self.interrupt_after:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.slow
@pytest.mark.flower
def test_interrupted_simulation_resumes_and_equals_the_memory_runner(
    tmp_path: Path, scratch: Path
) -> None:
    plan = small_plan(
        run={"rounds": 12}, federation={"absences": ("3:0-1",)},
        geometry={"projection": "history", "rank": 3},
    )
    # Slow enough that the interruption falls into the middle of the run.
    write_sites(tmp_path / "sites", 4, **{f"site_{i}": {"slow_s": 0.2} for i in range(4)})
    watched = Rounds()
    watched.interrupt_after = 2
    with pytest.raises(KeyboardInterrupt):
        run_with_flower(job(tmp_path, plan), observer=watched)
    assert left_behind(scratch) == []
    watched.interrupt_after = None
    outcome = run_with_flower(job(tmp_path, plan, resume=True), observer=watched)
    assert left_behind(scratch) == []
    assert outcome.adapter_digest == by_memory(tmp_path / "memory", plan)
    assert [len(report.sites) for report in outcome.curve] == [3, 3, *[4] * 10]
    assert watched.seen[-1][0] == 11
    assert len({when for _, when in watched.seen}) > 3  # told while it ran, not at the end


@pytest.mark.slow
@pytest.mark.flower
def test_failures_of_the_simulation_reach_the_caller(tmp_path: Path, scratch: Path) -> None:
    write_sites(tmp_path / "sites", 4, site_1={"digests": {"model_digest": "other"}})
    with pytest.raises(MedunlearnError) as caught:
        run_with_flower(job(tmp_path, small_plan()))
    assert caught.value.code == "MODEL_MISMATCH" and "hospital-1" in caught.value.message
    with pytest.raises(MedunlearnError) as broken:
        run_with_flower(job(tmp_path, small_plan(), opener="no_such_module:open"))
    assert broken.value.code == "FLOWER_FAILED"
    assert left_behind(scratch) == []


def test_ending_a_session_kills_what_ignores_the_request(tmp_path: Path) -> None:
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); " \
               "time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", stubborn], start_new_session=True,
                          stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline()
        waiter = threading.Thread(target=child.wait)
        waiter.start()
        assert processes_of(child.pid) == [child.pid]
        end_session(child.pid, grace_s=0.3)
        waiter.join(timeout=5.0)
        assert child.returncode == -signal.SIGKILL
    assert processes_of(child.pid) == []

"""The conductor over ServerApps that end in every way; each is a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medunlearn_common.errors import Misconfigured, Transient
from medunlearn_server.directives import Directive, read_directive, write_directive
from medunlearn_server.jobs import Job
from medunlearn_server.service.conductor import Conductor, Surroundings
from medunlearn_server.service.config import CoordinatorConfig, CoordinatorFolder, RunsSection
from medunlearn_server.service.launching import launch, publish
from medunlearn_server.service.runs_db import RunRow, RunsDb

# A ServerApp that leads as the real one does, and ends as its first argument says.
LEADER = """
import sys, time
from pathlib import Path
from medunlearn_common.errors import MedunlearnError
from medunlearn_server.directives import obey
from medunlearn_server.jobs import Ending, Job, leading
run, how = Path(sys.argv[1]), sys.argv[2]
job = Job.read(run)
assert job.attempt == int(sys.argv[3])
with leading(run, attempt=job.attempt):
    if how == "die":
        sys.exit(1)
    try:
        while how == "work":
            obey(run)
            time.sleep(0.02)
    except MedunlearnError as error:
        Ending(attempt=job.attempt, family=type(error).__name__, code=error.code).write(run)
        sys.exit(1)
    if how == "hang":
        time.sleep(600)
    family, _, code = how.partition(":")
    Ending(attempt=job.attempt, family=family if code else "", code=code).write(run)
"""


class ScriptedSuperLink:
    """Starts one scripted ServerApp per Flower run."""

    def __init__(self, folder: CoordinatorFolder, *script: str) -> None:
        self.folder = folder
        self.script = list(script)
        self.started: list[int] = []
        self.processes: list[subprocess.Popen[bytes]] = []

    def start_run(self, *, run_id: str, attempt: int) -> str:
        self.started.append(attempt)
        how = self.script.pop(0) if self.script else "ok"
        if how == "refuse":
            raise Transient("FLOWER_COMMAND", "flwr run failed", "later")
        if how != "nothing":
            self.processes.append(subprocess.Popen(
                [sys.executable, "-c", LEADER, str(self.folder.run(run_id)), how, str(attempt)],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
                stderr=subprocess.DEVNULL,
            ))
        return f"flower-{attempt}"

    def stop_run(self, flower_run_id: str) -> None:
        raise Transient("FLOWER_COMMAND", "flwr stop failed", "nothing waits for it")


class Lab:
    """A conductor in a thread, over one launched run."""

    def __init__(self, tmp_path: Path) -> None:
        config = CoordinatorConfig(runs=RunsSection(
            retry_first_s=0.05, retry_longest_s=0.2, start_deadline_s=20.0))
        self.folder = CoordinatorFolder(path=tmp_path, config=config)
        self.runs = RunsDb(self.folder.runs_db)
        self.run_id = launch(
            self.folder, self.runs, b'[run]\nname = "lab"\n', nonce="ab" * 8).run_id
        self.run = self.folder.run(self.run_id)
        self.generation = 1
        self.around = Surroundings(
            ready=lambda: True, generation=lambda: self.generation,
            stopping=threading.Event(), wake=threading.Event(),
        )
        self.superlink = ScriptedSuperLink(self.folder)
        self.thread: threading.Thread | None = None

    def conduct(self, *script: str) -> None:
        self.superlink = ScriptedSuperLink(self.folder, *script)
        conductor = Conductor(folder=self.folder, superlink=self.superlink,  # type: ignore[arg-type]
                              runs=self.runs, around=self.around)
        self.thread = threading.Thread(target=conductor.conduct)
        self.thread.start()

    def until(self, condition: Callable[[RunRow], Any]) -> RunRow:
        deadline = time.monotonic() + 60.0
        while time.monotonic() < deadline:
            row = self.runs.get(self.run_id)
            if condition(row):
                return row
            time.sleep(0.02)
        raise AssertionError(f"{self.runs.get(self.run_id)} {self.superlink.started}")

    def end(self) -> None:
        self.around.stopping.set()
        self.around.wake.set()
        if self.thread is not None:
            self.thread.join(60.0)
            assert not self.thread.is_alive()
        for process in self.superlink.processes:
            process.kill()
            process.wait()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    found = Lab(tmp_path)
    with closing(found.runs):
        yield found
        found.end()


def test_what_dies_or_lacks_sites_is_started_again_under_a_new_number(lab: Lab) -> None:
    lab.conduct("die", "Transient:ROUND_TOO_FEW_SITES", "refuse", "Misconfigured:RUN_LOCKED",
                "Rejected:ROSTER_EXPIRED", "ok")
    row = lab.until(lambda row: row.state == "finished")
    assert lab.superlink.started == [1, 2, 3, 4, 5, 6] and row.starts == 6
    assert row.failure_code == "" and row.flower_run_id == "flower-6"


@pytest.mark.parametrize("ending", ["Rejected:GATE_NORM", "Misconfigured:TRUST_MISSING",
                                    "BudgetExceeded:PRIVACY_BUDGET"])
def test_what_only_people_can_mend_is_not_tried_again(lab: Lab, ending: str) -> None:
    lab.conduct(ending)
    row = lab.until(lambda row: row.state == "failed")
    assert row.failure_code == ending.partition(":")[2]
    time.sleep(0.3)
    assert lab.superlink.started == [1]
    lab.runs.move(lab.run_id, "pending")  # resumed by its operator
    assert lab.until(lambda row: row.state == "finished").starts == 2


def test_a_pause_holds_until_resumed_and_a_stop_for_good(lab: Lab) -> None:
    lab.conduct("work", "work")
    lab.until(lambda row: row.flower_run_id)
    write_directive(lab.run, "pause")
    lab.until(lambda row: row.state == "paused")
    time.sleep(0.3)
    assert lab.superlink.started == [1]
    write_directive(lab.run, "run")
    lab.runs.move(lab.run_id, "pending")
    lab.until(lambda row: row.flower_run_id == "flower-2")
    write_directive(lab.run, "stop")
    assert lab.until(lambda row: row.state == "stopped").failure_code == "RUN_STOPPED"


def test_a_run_that_is_resumed_waits_no_more_for_what_failed_before(lab: Lab) -> None:
    lab.folder = replace(lab.folder, config=CoordinatorConfig(runs=RunsSection(
        retry_first_s=600.0, retry_longest_s=600.0, start_deadline_s=20.0)))
    lab.conduct("Transient:ROUND_TOO_FEW_SITES")
    lab.until(lambda row: row.failure_code)
    write_directive(lab.run, "pause")
    lab.until(lambda row: row.state == "paused")
    write_directive(lab.run, "run")
    lab.runs.move(lab.run_id, "pending")
    lab.until(lambda row: row.state == "finished")
    assert lab.superlink.started == [1, 2]


def test_runs_that_nobody_carries_are_paused_and_stopped_too(lab: Lab) -> None:
    write_directive(lab.run, "pause")
    lab.conduct()
    lab.until(lambda row: row.state == "paused")
    write_directive(lab.run, "stop")
    lab.around.wake.set()
    lab.until(lambda row: row.state == "stopped")
    assert lab.superlink.started == []


def test_a_failed_run_that_is_stopped_keeps_why_it_failed(lab: Lab) -> None:
    lab.conduct("Misconfigured:MODEL_UNKNOWN")
    lab.until(lambda row: row.state == "failed")
    write_directive(lab.run, "stop")
    lab.around.wake.set()
    assert lab.until(lambda row: row.state == "stopped").failure_code == "MODEL_UNKNOWN"


def test_a_superlink_started_anew_means_a_new_flower_run(lab: Lab) -> None:
    lab.conduct("hang", "ok")
    lab.until(lambda row: (lab.run / "leader.json").exists())
    lab.generation += 1
    assert lab.until(lambda row: row.state == "finished").starts == 2
    assert lab.superlink.processes[0].wait(10.0) < 0  # the first one was killed


def test_a_service_that_ends_leaves_its_run_running_for_the_next_one(lab: Lab) -> None:
    lab.conduct("work")
    lab.until(lambda row: (lab.run / "leader.json").exists())
    lab.end()
    assert lab.runs.get(lab.run_id).state == "running"
    assert read_directive(lab.run) == "run"
    lab.around.stopping.clear()
    lab.conduct("ok")
    assert lab.until(lambda row: row.state == "finished").starts == 2


def test_the_process_of_a_dead_service_is_ended_before_another_begins(lab: Lab) -> None:
    row = lab.runs.count_start(lab.run_id)
    Job(run_id=lab.run_id, attempt=row.starts, mode="unlearn", poll_s=0.1).write(lab.run)
    orphan = ScriptedSuperLink(lab.folder, "hang")
    orphan.start_run(run_id=lab.run_id, attempt=row.starts)
    deadline = time.monotonic() + 30.0
    while not (lab.run / "leader.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    lab.conduct("ok")
    assert lab.until(lambda row: row.state == "finished").starts == 2
    assert orphan.processes[0].wait(10.0) < 0


def test_a_failed_publishing_leaves_a_finished_run(lab: Lab) -> None:
    lab.conduct("ok", "Rejected:NOBODY_TOOK_IT")
    lab.until(lambda row: row.state == "finished")
    lab.runs.publish(lab.run_id)
    lab.around.wake.set()
    row = lab.until(lambda row: row.starts == 2 and row.state == "finished")
    assert row.failure_code == "NOBODY_TOOK_IT"


def finished(lab: Lab) -> None:
    """The run is over, and another one waits for its turn."""
    lab.runs.count_start(lab.run_id)
    lab.runs.move(lab.run_id, "finished")
    launch(lab.folder, lab.runs, b'[run]\nname = "next"\n', nonce="cd" * 8)


def test_a_publication_that_is_stopped_ends_and_lets_the_others_on(lab: Lab) -> None:
    finished(lab)
    publish(lab.folder, lab.runs, lab.run_id)
    lab.conduct("work")
    lab.until(lambda row: (lab.run / "leader.json").exists())
    write_directive(lab.run, "stop")
    assert lab.until(lambda row: row.state == "finished").failure_code == "RUN_STOPPED"
    lab.until(lambda _: [run.state for run in lab.runs.list()] == ["finished", "finished"])
    assert lab.superlink.started == [2, 1]


def test_a_stop_that_came_too_late_does_not_end_the_publication(lab: Lab) -> None:
    finished(lab)
    write_directive(lab.run, "stop")
    publish(lab.folder, lab.runs, lab.run_id)
    lab.conduct()
    row = lab.until(lambda row: row.state == "finished" and row.starts == 2)
    assert row.failure_code == ""


def test_only_of_a_finished_run_is_the_word_taken_back(lab: Lab) -> None:
    write_directive(lab.run, "pause")
    with pytest.raises(Misconfigured):
        publish(lab.folder, lab.runs, lab.run_id)
    assert read_directive(lab.run) == "pause"


@pytest.mark.parametrize("word", ["run", "leave"])
def test_a_resume_while_the_paused_process_was_ending_is_not_lost(
    lab: Lab, word: Directive
) -> None:
    lab.runs.move(lab.run_id, "paused")
    write_directive(lab.run, word)
    lab.conduct()
    assert lab.until(lambda row: row.state == "finished").starts == 1


def test_a_word_that_cannot_be_read_ends_its_own_run_only(lab: Lab) -> None:
    lab.conduct("work")
    lab.until(lambda row: (lab.run / "leader.json").exists())
    (lab.run / "directive").write_text("")
    assert lab.until(lambda row: row.state == "failed").failure_code == "DIRECTIVE_INVALID"
    other = launch(lab.folder, lab.runs, b'[run]\nname = "next"\n', nonce="cd" * 8)
    lab.until(lambda _: lab.runs.get(other.run_id).state == "finished")
    assert lab.runs.get(lab.run_id).state == "failed"


def test_a_waiting_run_whose_word_cannot_be_read_is_not_begun(lab: Lab) -> None:
    (lab.run / "directive").write_text("")
    lab.conduct()
    assert lab.until(lambda row: row.state == "failed").failure_code == "DIRECTIVE_INVALID"
    assert lab.superlink.started == []

"""The registry of runs: its rules, and what a crash or a rival leaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from medunlearn_common.errors import Misconfigured
from medunlearn_server.service.runs_db import RUN_STATES, RunsDb, RunState


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[RunsDb]:
    times = count(1_000.0)
    with closing(RunsDb(tmp_path / "runs.db", clock=lambda: next(times))) as runs:
        yield runs


def in_state(runs: RunsDb, state: RunState) -> str:
    runs.add("r", plan_digest="d")
    steps: dict[RunState, tuple[RunState, ...]] = {
        "pending": (), "running": ("running",), "paused": ("paused",), "stopped": ("stopped",),
        "finished": ("running", "finished"), "failed": ("running", "failed"),
    }
    for step in steps[state]:
        if step == "running":
            runs.count_start("r")
        else:
            runs.move("r", step)
    assert runs.get("r").state == state
    return "r"


ALLOWED = {
    "pending": {"running", "paused", "stopped", "failed"},
    "running": {"running", "paused", "stopped", "finished", "failed"},
    "paused": {"pending", "stopped"}, "failed": {"pending", "stopped"},
    "stopped": set(), "finished": set(),
}


@pytest.mark.parametrize("state", RUN_STATES)
@pytest.mark.parametrize("to", RUN_STATES)
def test_only_the_rules_steps_are_taken(runs: RunsDb, state: RunState, to: RunState) -> None:
    run = in_state(runs, state)
    before = runs.get(run)
    if to in ALLOWED[state]:
        after = runs.count_start(run) if to == "running" else runs.move(run, to)
        assert after.state == to and after.updated > before.updated
    elif to == state:
        assert runs.move(run, to) == before
    else:
        with pytest.raises(Misconfigured) as caught:
            if to == "running":
                runs.count_start(run)
            else:
                runs.move(run, to)
        assert caught.value.code == "RUN_STATE" and runs.get(run) == before


def test_each_start_has_its_own_number_also_for_another_process(
    runs: RunsDb, tmp_path: Path
) -> None:
    runs.add("r", plan_digest="d")
    with closing(RunsDb(tmp_path / "runs.db")) as rival:
        numbers = [db.count_start("r").starts for db in (runs, rival, runs, rival)]
        assert numbers == [1, 2, 3, 4]
        assert runs.carried_by("r", "77").flower_run_id == "77"
        assert rival.count_start("r").flower_run_id == ""  # of the start before


def test_a_launch_that_is_repeated_is_one_run_and_another_plan_is_refused(runs: RunsDb) -> None:
    assert runs.add("r", plan_digest="d") == runs.add("r", plan_digest="d")
    with pytest.raises(Misconfigured) as caught:
        runs.add("r", plan_digest="e")
    assert caught.value.code == "RUN_EXISTS"
    assert [row.run_id for row in runs.list()] == ["r"]


def test_publishing_never_unfinishes_a_run(runs: RunsDb) -> None:
    run = in_state(runs, "finished")
    row = runs.publish(run)
    assert (row.state, row.mode) == ("pending", "publish")
    runs.count_start(run)
    for state in ("failed", "stopped", "paused"):
        with pytest.raises(Misconfigured):
            runs.move(run, state)
    assert runs.move(run, "finished", failure_code="ROUND_TOO_FEW_SITES").state == "finished"
    assert runs.publish(run).mode == "publish"  # and again


def test_what_has_not_finished_is_not_published(runs: RunsDb) -> None:
    for state in ("pending", "running", "failed"):
        with pytest.raises(Misconfigured):
            runs.publish(in_state(runs, state) if state == "pending" else "r")


def test_an_unknown_run_is_named_as_such(runs: RunsDb) -> None:
    for ask in (runs.get, runs.count_start, runs.publish):
        with pytest.raises(Misconfigured) as caught:
            ask("nobody")
        assert caught.value.code == "RUN_UNKNOWN"

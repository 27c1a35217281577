"""Twenty rounds of real processes with two random deaths; `make deployed` runs it (minutes)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medunlearn_simulation.rehearsal.accounts import Account as One
from medunlearn_simulation.rehearsal.accounts import Memory, kind_of, slope_of, spent
from medunlearn_simulation.rehearsal.rehearse import federation
from medunlearn_simulation.rehearsal.soak import require_sound, soak
from medunlearn_simulation.rehearsal.tiny import tiny_task

ROUNDS, KILL_EVERY = 20, 7
PATIENCE = float(os.environ.get("MEDUNLEARN_PATIENCE", "1"))


@pytest.mark.slow
@pytest.mark.flower
@pytest.mark.skipif(not os.environ.get("MEDUNLEARN_DEPLOYED"), reason="minutes: make deployed")
def test_a_soak_loses_nothing(tmp_path: Path) -> None:
    task = tiny_task(tmp_path / "task", rounds=ROUNDS)
    with federation(tmp_path, task, say=print) as made:
        made.found()
        made.serve()
        found = soak(made, rounds=ROUNDS, kill_every=KILL_EVERY, seed=20,
                     patience_s=240.0 * PATIENCE)
    assert len(found.kills) == 2
    require_sound(found, rounds=ROUNDS)


def one(kind: str, seconds: float = 0.0, children_s: float = 0.0, kib: float = 0.0) -> One:
    return One(kind=kind, seconds=seconds, children_s=children_s, rss_kib=kib)


def test_a_process_that_lived_for_one_message_is_in_its_parent_s_account() -> None:
    executor = "hospital's executor"
    before = {(1, 0.0): one(executor, 5.0, 40.0), (2, 0.0): one("ClientApp", 0.5),
              (9, 0.0): one("worker", 7.0)}
    # The process 2 ended at 1.5 s and was waited for, 3 began, 4 came and went with 2 s.
    after = {(1, 0.0): one(executor, 6.0, 43.5), (3, 0.0): one("ClientApp", 0.25),
             (9, 0.0): one("worker", 9.0)}
    assert spent(before, after) == {executor: 1.0, "ClientApp": 3.5 - 0.5 + 0.25, "worker": 2.0}


def test_growth_is_told_from_a_new_process() -> None:
    """Two lives of a worker, the second larger from the start: neither of them grows."""
    memory = Memory()
    for at in range(40):
        pid = 1 + at // 20
        memory.note(at, {(pid, 0.0): one("worker", kib=1000.0 * pid + at % 2)})
        memory.note(at, {(7, 0.0): one("SuperLink", kib=500.0 + 3.0 * at)})
    slopes = memory.slopes()
    assert slopes["worker"].processes == 2
    assert abs(slopes["worker"].kib) < 3 * slopes["worker"].error + 0.05
    assert slopes["SuperLink"].kib == pytest.approx(3.0)
    assert slope_of([[(0.0, 1.0), (1.0, 1.0)]]).kib == 0.0


@pytest.mark.parametrize(("command", "hospital", "kind"), [
    ("python flower-superexec --insecure", True, "hospital's executor"),
    ("python flower-superexec --root-certificates", False, "coordinator's executor"),
    ("python -P -m medunlearn_client.service.worker /srv/clinic", True, "worker"),
    ("python -P -m medunlearn_client.service.app_starter /srv/clinic", True, "ClientApp"),
    ("python -I -S /x/app_caller.py /s /f --token t", True, "ClientApp"),
    ("medunlearn coordinator serve lead", False, "coordinator's service"),
])
def test_processes_are_told_apart(command: str, hospital: bool, kind: str) -> None:
    assert kind_of(command.split(), hospital=hospital) == kind

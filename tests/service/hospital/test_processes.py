"""Supervised children, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from medunlearn_common import processes
from medunlearn_common.errors import Misconfigured, Transient
from medunlearn_common.processes import (
    MAX_LOG_BYTES,
    Child,
    Children,
    ChildSpec,
    delay_before,
    wait_until,
)

PYTHON = sys.executable


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def make(code: str, **options: object) -> Child:
        child = Child(spec_of(tmp_path, code, **options))
        children.append(child)
        child.start()
        return child

    yield make
    for child in children:
        child.stop()


def spec_of(folder: Path, code: str, **options: object) -> ChildSpec:
    given = {"name": "it", "first_delay_s": 0.01, "grace_s": 5.0, **options}
    return ChildSpec(
        command=(PYTHON, "-I", "-S", "-c", code), environment={"PATH": os.environ["PATH"]},
        log_file=folder / "logs" / "it.log", **given,  # type: ignore[arg-type]
    )


def holds(condition: Callable[[], bool]) -> None:
    wait_until(condition, deadline_s=20, what="the condition of a test")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_killed_child_is_started_anew_with_another_pid(spawn: Callable[..., Child]) -> None:
    child = spawn("import time; time.sleep(60)")
    holds(lambda: child.pid is not None)
    first = child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    holds(lambda: child.pid not in (None, first))
    assert child.restarts == 1 and child.last_exit == -signal.SIGKILL


def test_what_a_dead_child_left_behind_is_killed_before_the_next_start(
    spawn: Callable[..., Child], tmp_path: Path
) -> None:
    note = tmp_path / "orphan"
    child = spawn(
        "import os, time\n"
        "pid = os.fork()\n"
        f"open({str(note)!r}, 'a').write(f'{{os.getpid()}}\\n') if not pid else None\n"
        "time.sleep(60)"
    )
    holds(lambda: note.exists() and note.read_text().endswith("\n"))
    orphan = int(note.read_text().split()[0])
    child.signal(signal.SIGKILL)
    holds(lambda: child.starts == 2)
    holds(lambda: not alive(orphan))


def test_stopping_lets_a_child_finish_what_it_does(
    spawn: Callable[..., Child], tmp_path: Path
) -> None:
    child = spawn(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), print('done'), sys.exit(0)))\n"
        "print('up', flush=True)\ntime.sleep(60)"
    )
    log = child.spec.log_file
    holds(lambda: log.exists() and "up" in log.read_text())
    child.stop()
    assert log.read_text() == "up\ndone\n"
    assert child.state == "stopped" and child.last_exit == 0 and child.pid is None
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_child_that_ignores_sigterm_is_killed_after_its_grace(
    spawn: Callable[..., Child]
) -> None:
    child = spawn(
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('up', flush=True)\ntime.sleep(60)", grace_s=0.2,
    )
    holds(lambda: "up" in child.spec.log_file.read_text() if child.pid else False)
    began = time.monotonic()
    child.stop()
    assert child.last_exit == -signal.SIGKILL and time.monotonic() - began < 10


def test_no_child_survives_a_supervisor_killed_with_minus_9(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\nfrom pathlib import Path\n"
        "from medunlearn_common.processes import Child, ChildSpec\n"
        "child = Child(ChildSpec(name='it', command=(sys.executable, '-c', "
        "'import time; time.sleep(60)'), environment=dict(os.environ), "
        f"log_file=Path({str(tmp_path / 'log')!r})))\n"
        "child.start()\n"
        "while child.pid is None: time.sleep(0.01)\n"
        "print(child.pid, flush=True)\ntime.sleep(60)"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    with subprocess.Popen([PYTHON, "-c", code], stdout=subprocess.PIPE,
                          env={**os.environ, "PYTHONPATH": path}) as supervisor:
        assert supervisor.stdout is not None
        pid = int(supervisor.stdout.readline())
        assert alive(pid)
        supervisor.kill()
    holds(lambda: not alive(pid))


def test_a_child_that_cannot_work_as_configured_is_left_alone(
    spawn: Callable[..., Child]
) -> None:
    child = spawn("raise SystemExit(2)", final_exits=frozenset({2}))
    holds(lambda: child.state == "failed")
    assert child.starts == 1


def test_a_missing_program_is_said_in_the_log_and_not_tried_for_ever(tmp_path: Path) -> None:
    spec = ChildSpec(name="it", command=("no-such-program",), environment={"PATH": "/nowhere"},
                     log_file=tmp_path / "it.log")
    children = Children([spec])
    children.start()
    holds(lambda: children.failed == ("it",))
    children.stop()
    assert "cannot start no-such-program" in spec.log_file.read_text()


def test_delays_double_up_to_a_limit() -> None:
    spec = ChildSpec(name="it", command=("x",), environment={}, log_file=Path("log"),
                     first_delay_s=1.0, longest_delay_s=5.0)
    assert [delay_before(spec, n) for n in (1, 2, 3, 4, 10_000)] == [1, 2, 4, 5, 5]


def test_a_large_log_is_rotated_at_the_next_start(
    spawn: Callable[..., Child], tmp_path: Path
) -> None:
    log = tmp_path / "logs" / "it.log"
    log.parent.mkdir()
    log.write_bytes(b"x" * (MAX_LOG_BYTES + 1))
    child = spawn("print('new')", final_exits=frozenset({0}))
    holds(lambda: child.state == "failed")
    assert log.read_text() == "new\n" and log.with_name("it.log.1").exists()


def test_the_log_of_a_process_that_runs_for_months_stays_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_LOOK_AT_LOGS_S", 0.02)
    code = (f"import os, time\nos.write(1, b'x' * {MAX_LOG_BYTES + 1})\n"
            "while True: os.write(1, b'later\\n'); time.sleep(0.05)")
    children = Children([spec_of(tmp_path, code)])
    children.start()
    log = tmp_path / "logs" / "it.log"
    holds(lambda: log.with_name("it.log.1").exists() and log.stat().st_size < 1000
          and b"later\n" in log.read_bytes())
    children.stop()
    before = log.with_name("it.log.1")
    assert before.stat().st_size > MAX_LOG_BYTES and before.stat().st_mode & 0o077 == 0
    assert b"\0" not in log.read_bytes(), "the process appends, and leaves no hole"


def test_children_are_stopped_in_reverse_order(tmp_path: Path) -> None:
    ended: list[str] = []
    specs = [spec_of(tmp_path, "import time; time.sleep(60)", name=name) for name in "abc"]
    children = Children(
        specs, on_change=lambda c: ended.append(c.spec.name) if c.state == "stopped" else None
    )
    children.start()
    holds(lambda: all(child.pid for child in children))
    children.stop()
    assert ended == ["c", "b", "a"]
    with pytest.raises(Misconfigured, match="CHILD_SPEC"):
        Children([specs[0], specs[0]])


def test_waiting_has_a_deadline() -> None:
    with pytest.raises(Transient, match="WAIT_TIMEOUT"):
        wait_until(lambda: False, deadline_s=0.05, what="nothing")

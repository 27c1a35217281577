"""What a ServerApp is told, whom it obeys, and what a Flower run cannot make it do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from safetensors.numpy import save

from medunlearn_common.errors import Misconfigured, Transient
from medunlearn_common.frozen import A_FILE, write_frozen
from medunlearn_server import flower_app
from medunlearn_server.checkpoints import RunStore
from medunlearn_server.directives import obey, obey_while_waiting, read_directive, write_directive
from medunlearn_server.jobs import Ending, Job, deployed_settings, leading, process_began
from medunlearn_server.service.config import CoordinatorConfig, CoordinatorFolder
from medunlearn_server.service.launching import launch, read_launch
from medunlearn_server.service.leader import Leader
from medunlearn_server.service.runs_db import RunsDb
from medunlearn_server.shown_progress import ShownProgress
from medunlearn_server.waiting import Waiting


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = tmp_path / "runs" / "lab-1"
    run.mkdir(parents=True)
    Job(run_id="lab-1", attempt=3, mode="unlearn", poll_s=0.1).write(run)
    return tmp_path


def test_a_flower_run_names_a_run_and_nothing_else(folder: Path) -> None:
    given = {"run-id": "lab-1", "attempt": 3, "plan": "/etc/passwd", "run-folder": "/tmp",
             "trust-folder": "/tmp", "mode": "publish", "resume": False}
    settings = deployed_settings(folder, given)
    run = folder / "runs" / "lab-1"
    assert settings["plan"] == str(run / "plan.toml") and settings["mode"] == "unlearn"
    assert settings["run-folder"] == str(run) and settings["trust-folder"] == str(folder)
    assert settings["resume"] is True


@pytest.mark.parametrize("run_id", ["", ".", "..", "../trust", "lab-1/../lab-1", "lab-2", "/",
                                    "lab-1\x00"])
def test_a_run_id_is_no_path(folder: Path, run_id: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        deployed_settings(folder, {"run-id": run_id, "attempt": 3})
    assert caught.value.code == "JOB_UNKNOWN"


@pytest.mark.parametrize("attempt", [2, 4, "3", None])
def test_a_flower_run_of_another_attempt_does_nothing(folder: Path, attempt: object) -> None:
    with pytest.raises(Misconfigured) as caught:
        deployed_settings(folder, {"run-id": "lab-1", "attempt": attempt})
    assert caught.value.code == "JOB_STALE"


def test_a_second_process_leads_nothing_and_leaves_no_trace(folder: Path) -> None:
    run = folder / "runs" / "lab-1"
    with leading(run, attempt=3):
        said = (run / "leader.json").read_bytes()
        code = (
            "import sys; from pathlib import Path\n"
            "from medunlearn_server.jobs import leading\n"
            "from medunlearn_common.errors import Misconfigured\n"
            "try:\n"
            "    with leading(Path(sys.argv[1]), attempt=4): print('led')\n"
            "except Misconfigured as error: print(error.code)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        assert done.stdout.strip() == "RUN_LOCKED"
        assert (run / "leader.json").read_bytes() == said


def test_a_leader_is_found_while_it_lives_and_never_mistaken(folder: Path) -> None:
    run = folder / "runs" / "lab-1"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        (run / "leader.json").write_text(json.dumps(
            {"attempt": 3, "pid": child.pid, "began": process_began(child.pid)}))
        found = Leader.find(run)
        assert found is not None and found.attempt == 3
        with found:
            assert not found.ended(within_s=0.0)
            found.kill()
            assert found.ended(within_s=10.0)
            found.kill()  # of a dead one: nothing
    assert Leader.find(run) is None
    # The number lives on with another process: this one.
    (run / "leader.json").write_text(json.dumps({"attempt": 3, "pid": os.getpid(), "began": 1}))
    assert Leader.find(run) is None


def test_an_ending_counts_for_its_own_attempt_only(folder: Path) -> None:
    run = folder / "runs" / "lab-1"
    assert Ending.read(run, attempt=3) is None
    Ending(attempt=3, family="Transient", code="X").write(run)
    assert Ending.read(run, attempt=3) == Ending(attempt=3, family="Transient", code="X")
    assert Ending.read(run, attempt=4) is None
    (run / "ending.json").write_text("{")
    assert Ending.read(run, attempt=3) is None


def test_a_disk_too_full_for_the_reason_does_not_become_the_reason(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only people can mend was tried again and again, as a full disk is."""
    def full(store: RunStore, name: str, text: str) -> None:
        raise Transient("STORAGE_FULL", "cannot write", "free disk space")

    monkeypatch.setattr(RunStore, "write_text", full)
    run, grid = folder / "runs" / "lab-1", Mock()
    with pytest.raises(Misconfigured, match="RUN_CONFIG"):
        flower_app._lead_deployed(grid, {"run-folder": str(run), "attempt": 1})
    ending = Ending.read(run, attempt=1)
    assert ending is not None and (ending.family, ending.code) == ("Misconfigured", "RUN_CONFIG")


def test_directives_are_obeyed_between_rounds_and_a_stop_at_once(tmp_path: Path) -> None:
    obey(tmp_path)  # no word: go on
    expected = {"pause": (Transient, "RUN_PAUSED", None),
                "stop": (Misconfigured, "RUN_STOPPED", "RUN_STOPPED"),
                "leave": (Transient, "COORDINATOR_LEAVES", "COORDINATOR_LEAVES")}
    for word, (family, between, waiting) in expected.items():
        write_directive(tmp_path, word)  # type: ignore[arg-type]
        with pytest.raises(family) as caught:
            obey(tmp_path)
        assert caught.value.code == between
        if waiting is None:
            obey_while_waiting(tmp_path)  # the round under way is finished first
        else:
            with pytest.raises(family):
                obey_while_waiting(tmp_path)
    write_directive(tmp_path, "run")
    obey(tmp_path)


def test_an_unknown_word_is_no_permission(tmp_path: Path) -> None:
    for text in ("", "go", "run stop", "\xff"):
        (tmp_path / "directive").write_text(text, encoding="latin-1")
        with pytest.raises(Misconfigured) as caught:
            read_directive(tmp_path)
        assert caught.value.code == "DIRECTIVE_INVALID"


def test_waiting_says_for_whom_and_halts(tmp_path: Path) -> None:
    halted: list[int] = []
    waiting = Waiting(shown_in=tmp_path / "now.json", halt=lambda: halted.append(1),
                      wake=tmp_path / "pushed", clock=lambda: 5.0)
    waiting.connected(3)
    waiting.asked(["clinic-c", "clinic-a", "17"])
    waiting.missing(["clinic-c"])
    waiting.note(phase="rounds", round=2)
    shown = json.loads((tmp_path / "now.json").read_text())
    assert shown == {"connected": 3, "asked": 3, "missing": 1, "since": 5.0, "at": 5.0,
                     "phase": "rounds", "round": 2, "waits_for": ["clinic-c"]}
    assert len(halted) == 2 and (tmp_path / "pushed").exists()
    waiting.missing([])  # all answers are there: nothing may be thrown away now
    assert len(halted) == 2


@pytest.mark.parametrize(("kept", "shown"), [
    ('{"epsilon": 7.9, "round": 20}', {"epsilon": 7.9}), ("", {}), ("[]", {}), ("{}", {}),
    ("[" * 5000, {}), ('{"epsilon": []}', {}), ('{"epsilon": "x"}', {}), ("\xff", {}),
    ('{"epsilon": 7.', {}),
])
def test_what_a_run_has_cost_is_shown_over_its_starts(
    tmp_path: Path, kept: str, shown: dict[str, float]
) -> None:
    """A publication is a start as well."""
    path = tmp_path / "now.json"
    path.write_text(kept, encoding="latin-1")
    Waiting(shown_in=path, clock=lambda: 5.0).note(phase="ready")
    assert json.loads(path.read_text()) == {**shown, "phase": "ready", "at": 5.0}


def test_half_an_event_of_a_killed_process_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "ready"}\n{"event": "rou')
    ShownProgress(path, Waiting())
    assert path.read_text() == '{"event": "ready"}\n'


@pytest.fixture
def coordinator(tmp_path: Path) -> CoordinatorFolder:
    return CoordinatorFolder(path=tmp_path, config=CoordinatorConfig())


@pytest.fixture
def runs(coordinator: CoordinatorFolder) -> Iterator[RunsDb]:
    with closing(RunsDb(coordinator.runs_db)) as runs:
        yield runs


def test_a_launch_writes_all_or_says_why(
    coordinator: CoordinatorFolder, runs: RunsDb, tmp_path: Path
) -> None:
    folder = coordinator
    plan = b'[run]\nname = "lab"\nrounds = 2\n'
    row = launch(folder, runs, plan, nonce="ab" * 8, model_digest="0" * 64)
    assert row.state == "pending" and row.run_id.startswith("lab-")
    run = folder.run(row.run_id)
    assert (run / "plan.toml").read_bytes() == plan
    assert read_launch(run) == {"model_digest": "0" * 64, "tokenizer_digest": ""}
    write_directive(run, "pause")
    assert launch(folder, runs, plan, nonce="ab" * 8, model_digest="0" * 64) == row
    assert read_directive(run) == "pause"  # a repeated launch changes nothing
    bad: list[tuple[bytes, str, str, str]] = [
        (b"\xff", "ab" * 8, "", "PLAN_SYNTAX"), (b"[run]\nrounds = 0", "ab" * 8, "",
                                                "PLAN_INVALID"),
        (plan, "../../x", "", "LAUNCH_INVALID"), (plan, "", "", "LAUNCH_INVALID"),
        (plan, "ab" * 8, "zz", "LAUNCH_INVALID"), (b"#" * (1 << 20) + b"\n", "ab" * 8, "",
                                                   "PLAN_SYNTAX"),
        (plan + b'[model]\na_file = "sha256:' + b"0" * 64 + b'"\n', "ab" * 8, "",
         "A_FILE_MISSING"),
    ]
    for text, nonce, digest, code in bad:
        with pytest.raises(Misconfigured) as caught:
            launch(folder, runs, text, nonce=nonce, model_digest=digest)
        assert caught.value.code == code
    assert len(runs.list()) == 1 and len(list(folder.runs.iterdir())) == 1
    named = tmp_path / "given.safetensors"
    with_file = plan + f'[model]\na_file = "{named}"\n'.encode()
    directions = {"m.lora_A.weight": np.ones((1, 3), np.float32)}
    for held, code in ((b"directions", "A_FILE_INVALID"),
                       (save(directions | {"m.lora_B.weight": np.ones((2, 1), np.float32)}),
                        "START_OUTSIDE_SUPPORT")):  # the default support is voted
        named.write_bytes(held)
        with pytest.raises(Misconfigured) as caught:
            launch(folder, runs, with_file, nonce="cd" * 8)
        assert caught.value.code == code and len(list(folder.runs.iterdir())) == 1
    write_frozen(named, directions)
    row = launch(folder, runs, with_file, nonce="cd" * 8)
    assert (folder.run(row.run_id) / A_FILE).read_bytes() == named.read_bytes()


def test_a_crash_before_the_registry_knows_leaves_a_whole_folder_only(
    coordinator: CoordinatorFolder, runs: RunsDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise SystemExit

    plan = b'[run]\nname = "lab"\n'
    with monkeypatch.context() as dying:
        dying.setattr(runs, "add", killed)
        with pytest.raises(SystemExit):
            launch(coordinator, runs, plan, nonce="ab" * 8)
    left, = coordinator.runs.iterdir()
    assert {path.name for path in left.iterdir()} == {"plan.toml", "launch.json", "directive"}
    assert runs.list() == ()
    assert launch(coordinator, runs, plan, nonce="ab" * 8).run_id == left.name

"""A launched plan whose file of A is replaced, moved, endless, or was never made."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from medunlearn_common.errors import Misconfigured
from medunlearn_common.frozen import A_FILE, frozen_digest, write_frozen
from medunlearn_server.publishing import attesting
from medunlearn_server.run_plan import shared_plan
from medunlearn_server.service import launching
from medunlearn_server.service.config import CoordinatorConfig, CoordinatorFolder
from medunlearn_server.service.launching import launch
from medunlearn_server.service.runs_db import RunRow, RunsDb

NONCE = "ab" * 8
PLAN = '[run]\nname = "lab"\nrounds = 2\n'


@pytest.fixture
def folder(tmp_path: Path) -> CoordinatorFolder:
    return CoordinatorFolder(path=tmp_path, config=CoordinatorConfig())


def directions(file: Path, value: float = 1.0) -> str:
    return write_frozen(file, {"m.lora_A.weight": np.full((1, 3), value, np.float32)})


def naming(file: Path | str) -> bytes:
    return f'{PLAN}[model]\na_file = "{file}"\n'.encode()


def launched(folder: CoordinatorFolder, plan: bytes) -> RunRow:
    with closing(RunsDb(folder.runs_db)) as runs:
        return launch(folder, runs, plan, nonce=NONCE)


def refused(folder: CoordinatorFolder, plan: bytes) -> str:
    with pytest.raises(Misconfigured) as caught:
        launched(folder, plan)
    assert not folder.runs.exists() or not list(folder.runs.iterdir())
    return caught.value.code


@pytest.mark.parametrize("change", ["replaced", "removed"])
def test_a_launched_run_has_its_own_copy_and_asks_for_no_other(
    folder: CoordinatorFolder, tmp_path: Path, change: str
) -> None:
    """The next study's file is put where this one's lay, before the run starts or is resumed."""
    file = tmp_path / "given.safetensors"
    digest = directions(file)
    row = launched(folder, naming(file))
    run = folder.run(row.run_id)
    file.unlink()
    if change == "replaced":
        directions(file, 2.0)
    plan = shared_plan(run / "plan.toml", run)
    assert plan.digest == row.plan_digest and plan.model.a_file == f"sha256:{digest}"
    assert attesting.shared_plan is shared_plan  # what is published names the same


def test_a_file_replaced_within_the_launch_is_refused(
    folder: CoordinatorFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "given.safetensors"
    directions(file)
    honest = launching.frozen_bytes

    def swapping(place: Path) -> bytes:
        directions(file, 2.0)
        return honest(place)

    monkeypatch.setattr(launching, "frozen_bytes", swapping)
    assert refused(folder, naming(file)) == "A_FILE_CHANGED"


def test_what_has_no_end_is_no_file(folder: CoordinatorFolder, tmp_path: Path) -> None:
    """The control port has few threads; one that reads a device or a pipe never comes back."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for endless in (pipe, "/dev/zero"):
        assert refused(folder, naming(endless)) == "PUBLIC_FILE_MISSING"
        with pytest.raises(Misconfigured) as caught:
            frozen_digest(Path(endless))
        assert caught.value.code == "A_FILE_MISSING"


def test_a_plan_whose_directions_were_never_made_is_no_run_with_random_ones(
    folder: CoordinatorFolder
) -> None:
    """Epsilon would be spent on one random direction a module, and nobody told."""
    plan = PLAN + (
        '[model]\nlora_rank = 1\nlora_alpha = 1.0\n[support]\nmethod = "random"\n'
        '[contrast]\npublic_file = "public.jsonl"\nsubjects = ["Medicine"]\n'
    )
    assert refused(folder, plan.encode()) == "A_FILE_MISSING"


def test_a_home_folder_is_one_place_for_digest_and_copy(
    folder: CoordinatorFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    directions(tmp_path / "given.safetensors")
    row = launched(folder, naming("~/given.safetensors"))
    assert (folder.run(row.run_id) / A_FILE).is_file()

"""A federation of three real hospitals with two finished runs, copied for each test."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from publishing_lab import PublishingLab, two_finished_runs


def opened_copy(folder: Path, place: Path) -> closing[PublishingLab]:
    return closing(PublishingLab(Path(shutil.copytree(folder, place, symlinks=True))))


@pytest.fixture(scope="session")
def finished_runs(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path, question_file: Path
) -> Path:
    base = tmp_path_factory.mktemp("publishing") / "base"
    two_finished_runs(base, model=tiny_model_folder, data=question_file)
    return base


@pytest.fixture
def lab(finished_runs: Path, tmp_path: Path) -> Iterator[PublishingLab]:
    with opened_copy(finished_runs, tmp_path / "lab") as lab:
        yield lab


@pytest.fixture(scope="session")
def published_runs(finished_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both runs in every inbox."""
    base = tmp_path_factory.mktemp("published") / "base"
    with opened_copy(finished_runs, base) as lab:
        for run in ("first", "second"):
            lab.publish(run)
    return base


@pytest.fixture
def received(published_runs: Path, tmp_path: Path) -> Iterator[PublishingLab]:
    with opened_copy(published_runs, tmp_path / "lab") as lab:
        yield lab

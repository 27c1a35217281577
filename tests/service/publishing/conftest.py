"""A federation of three real hospitals with two finished runs, copied for each test."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from publishing_lab import PublishingLab, two_finished_runs


@pytest.fixture(scope="session")
def finished_runs(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path, question_file: Path
) -> Path:
    base = tmp_path_factory.mktemp("publishing") / "base"
    two_finished_runs(base, model=tiny_model_folder, data=question_file)
    return base


@pytest.fixture
def lab(finished_runs: Path, tmp_path: Path) -> PublishingLab:
    return PublishingLab(Path(shutil.copytree(finished_runs, tmp_path / "lab", symlinks=True)))


@pytest.fixture(scope="session")
def published_runs(finished_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both runs in every inbox."""
    base = tmp_path_factory.mktemp("published") / "base"
    lab = PublishingLab(Path(shutil.copytree(finished_runs, base, symlinks=True)))
    for run in ("first", "second"):
        lab.publish(run)
    return base


@pytest.fixture
def received(published_runs: Path, tmp_path: Path) -> PublishingLab:
    return PublishingLab(Path(shutil.copytree(published_runs, tmp_path / "lab", symlinks=True)))

"""A federation of real processes that is killed, cut off and attacked; `make failures` runs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from medunlearn_simulation.progress import PhaseBoard
from medunlearn_simulation.rehearsal.networks import Namespaces
from medunlearn_simulation.rehearsal.rehearse import Federation, federation
from medunlearn_simulation.rehearsal.task import demo_task

sys.path.insert(0, str(Path(__file__).resolve().parent))


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path
) -> Iterator[Federation]:
    """Three hospitals in namespaces of their own, connected, no run yet."""
    if not os.environ.get("MEDUNLEARN_FAILURES"):
        pytest.skip("minutes of kills: make failures")
    from plan_under_fire import PLAN

    root = tmp_path_factory.mktemp("federation")
    with PhaseBoard(quiet=True) as board:
        task = demo_task(root / "task", hospitals=3, board=board, model=tiny_model_folder, **PLAN)
    with federation(root, task, say=print, separate=True) as made:
        assert isinstance(made.network, Namespaces)
        made.found()
        made.serve()
        yield made

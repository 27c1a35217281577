"""A federation of real processes that is killed, cut off and attacked; `make failures` runs it.

One federation and one run live through all rows: the files stand in the order in which things
happen to them, and each row leaves the federation whole.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from medunlearn_common.errors import MedunlearnError
from medunlearn_simulation.progress import PhaseBoard
from medunlearn_simulation.rehearsal.networks import Namespaces, networks
from medunlearn_simulation.rehearsal.rehearse import Federation, federation
from medunlearn_simulation.rehearsal.task import demo_task

sys.path.insert(0, str(Path(__file__).resolve().parent))


@pytest.fixture(scope="session")
def served(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path
) -> Iterator[Federation]:
    """Four hospitals in namespaces of their own, connected, no run yet."""
    if not os.environ.get("MEDUNLEARN_FAILURES"):
        pytest.skip("minutes of kills: make failures")
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("network namespaces, mounts and TUN devices need root on Linux")
    from hosts import OtherClock, SmallDisk
    from plan_under_fire import HOSPITALS, PLAN

    try:
        with networks(1, separate=True):
            pass
    except MedunlearnError as error:
        pytest.skip(error.message)
    root = tmp_path_factory.mktemp("federation")
    with PhaseBoard(quiet=True) as board:
        task = demo_task(root / "task", hospitals=HOSPITALS, board=board,
                         model_folder=tiny_model_folder, **PLAN)
    with federation(root, task, say=print, separate=True) as made:
        assert isinstance(made.network, Namespaces)
        made.found()
        with SmallDisk.under(made.coordinator.folder), SmallDisk.under(made.hospitals[1].folder):
            OtherClock.prepare(made.hospitals[2])
            made.serve()
            yield made
            made.end()


@pytest.fixture(scope="session")
def run(served: Federation) -> Iterator[object]:
    """The run that lives through all rows."""
    from under_fire import PATIENCE, Run

    made = Run(served)
    made.until(1, within_s=300.0 * PATIENCE)
    yield made

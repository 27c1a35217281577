"""Makes the joining lab importable, as pytest imports by path here; one clock for its tests."""

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from joining_desk import OfflineDesk

_COLLECTED, _now = time.time(), time.time


@pytest.fixture
def a_clock_that_starts_when_tests_are_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a module took for now is now, however long the suite has run before.

    Not for tests with gRPC, which computes its deadlines from this clock.
    """
    late_s = _now() - _COLLECTED
    monkeypatch.setattr(time, "time", lambda: _now() - late_s)


@pytest.fixture
def desk(tmp_path: Path) -> OfflineDesk:
    desk = OfflineDesk(path=tmp_path)
    desk.found()
    for site in ("clinic-a", "clinic-b"):
        desk.joined(site)
    return desk


@pytest.fixture
def offline(desk: OfflineDesk) -> OfflineDesk:
    return desk.take_root_away()

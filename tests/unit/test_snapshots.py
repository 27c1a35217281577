"""Snapshots of a run's adapter: what is read is what was kept, or nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medunlearn_simulation.snapshots import read_snapshot, snapshot_file


def test_a_whole_snapshot_is_read_back(tmp_path: Path) -> None:
    values = np.array([0.5, -1.0, 2.0], dtype=np.float32)
    path = snapshot_file(tmp_path, 5)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(values.tobytes())
    found = read_snapshot(tmp_path, 5, size=3)
    assert found is not None and found.tolist() == values.tolist()
    assert read_snapshot(tmp_path, 10, size=3) is None


@pytest.mark.parametrize("data", [b"", b"\0" * 11, b"\0" * 8, b"\0" * 16])
def test_a_damaged_snapshot_counts_as_not_kept(tmp_path: Path, data: bytes) -> None:
    path = snapshot_file(tmp_path, 5)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    assert read_snapshot(tmp_path, 5, size=3) is None

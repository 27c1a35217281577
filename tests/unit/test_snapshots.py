"""Snapshots of a run's adapter: what is read is what was kept, or nothing."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from medunlearn_common.layout import AdapterLayout
from medunlearn_server.reports import ReadyReport
from medunlearn_simulation.progress import PhaseBoard
from medunlearn_simulation.snapshots import SnapshotKeeper, read_snapshot, snapshot_file


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


@pytest.mark.parametrize(("next_round", "words"), [
    (0, "choosing coordinates"), (6, "going on")])
def test_a_resumed_run_does_not_claim_to_choose_coordinates(
    tmp_path: Path, next_round: int, words: str
) -> None:
    layout = AdapterLayout(
        names=("x.lora_B.weight",), shapes=((2, 1),), a_shapes=((1, 2),),
        base_parameters=10, alpha=1.0, seed=0)
    shown = StringIO()
    with PhaseBoard(console=Console(file=shown)) as board, \
            pytest.MonkeyPatch.context() as patch:
        patch.setattr("medunlearn_simulation.progress.LINE_EVERY_S", 0.0)
        with board.phase("rounds", total=20.0) as bar:
            report = ReadyReport(
                sites=("a", "b", "c"), refused={}, model_digest="", parameters=1, dimension=1,
                rounds=20, next_round=next_round, sigma=1.0, vote_sigma=1.0)
            SnapshotKeeper(tmp_path, every=5, bar=bar).on_ready(report, layout)
    assert f"3 sites ready, {words}" in shown.getvalue()

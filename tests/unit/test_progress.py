"""How long a run took, however many of its phases ran at once."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from medunlearn_simulation import progress
from medunlearn_simulation.progress import PhaseBoard


def test_time_in_which_phases_ran_side_by_side_counts_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    board = PhaseBoard(quiet=True)

    def wait(seconds: float) -> None:
        now[0] += seconds

    with board.phase("reading"):
        wait(3.0)
    wait(50.0)  # nothing ran
    with board.phase("planting a"):
        wait(10.0)
        with board.phase("planting b"):
            wait(7.0)
            assert board.total_s == pytest.approx(20.0)  # of the open ones what has passed
        wait(1.0)
    assert board.seconds == pytest.approx({"reading": 3.0, "planting a": 18.0, "planting b": 7.0})
    assert board.total_s == pytest.approx(21.0)


def test_a_phase_that_fails_is_counted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    board = PhaseBoard(quiet=True)
    with pytest.raises(ValueError, match="no"), board.phase("a"), board.phase("b"):
        now[0] += 2.0
        raise ValueError("no")
    assert board.total_s == pytest.approx(2.0)


def test_a_phase_without_a_known_end_names_its_step_and_no_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """"evaluating: 8599 relearning" told nobody anything."""
    shown = StringIO()
    with PhaseBoard(console=Console(file=shown)) as board:
        monkeypatch.setattr("medunlearn_simulation.progress.LINE_EVERY_S", 0.0)
        with board.phase("evaluating") as bar:
            bar.set(8599.0, "relearning")
        with board.phase("rounds", total=4.0) as bar:
            bar.set(1.0, "round 1")
            bar.set(4.1, "round 4")
    assert "evaluating: relearning\n" in shown.getvalue()
    assert "rounds: 25% round 1\nrounds: 100% round 4\n" in shown.getvalue()

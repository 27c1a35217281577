"""How long a run took, however many of its phases ran at once."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

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


def test_a_resumed_run_counts_on_from_what_the_interrupted_one_took(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    kept = tmp_path / "seconds.json"
    board = PhaseBoard(quiet=True)
    with board.phase("planting"):
        now[0] += 3.0
    board.keep_in(kept)
    with pytest.raises(KeyboardInterrupt), board.phase("rounds"):
        now[0] += 5.0
        raise KeyboardInterrupt
    now[0] += 1000.0  # the night between
    board = PhaseBoard(quiet=True)
    board.keep_in(kept)
    with board.phase("rounds"):
        now[0] += 2.0
    assert board.seconds == pytest.approx({"planting": 3.0, "rounds": 7.0})
    assert board.total_s == pytest.approx(10.0)


@pytest.mark.parametrize("text", [
    "", "[]", "{", '{"total": 1.0}', '{"total": NaN, "by_phase": {}}',
    '{"total": -1.0, "by_phase": {}}', '{"total": 1.0, "by_phase": {"a": "b"}}',
    '{"total": 1.0, "by_phase": {"a": Infinity}}',
])
def test_times_that_cannot_be_read_are_no_reason_to_stop(tmp_path: Path, text: str) -> None:
    kept = tmp_path / "seconds.json"
    kept.write_text(text)
    board = PhaseBoard(quiet=True)
    board.keep_in(kept)
    assert board.seconds == {} and board.total_s == 0.0


def test_times_that_cannot_be_written_are_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    board = PhaseBoard(quiet=True)
    board.keep_in(tmp_path / "file" / "seconds.json")
    with board.phase("a"):
        pass
    assert "a" in board.seconds


def test_the_last_line_of_a_phase_that_fails_says_how_far_it_came() -> None:
    shown = StringIO()
    with PhaseBoard(console=Console(file=shown)) as board:
        with pytest.raises(ValueError, match="gate"), board.phase("rounds", total=4.0) as bar:
            bar.set(3.0, "round 3")
            bar.set(4.0, "round 4")
            raise ValueError("gate")
        with board.phase("reading", total=1.0) as bar:
            bar.set(1.0, "all")
    assert "rounds ...\nrounds: 100% round 4\nreading ...\nreading: done" in shown.getvalue()


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

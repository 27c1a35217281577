"""Attested figures: each interval is over the questions that were asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medunlearn_simulation.attesting import attested_figures
from medunlearn_simulation.result import validate_result

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "result.json"


@pytest.fixture
def data() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    return loaded


def test_an_accuracy_is_over_the_records_with_options(data: dict[str, Any]) -> None:
    """Fifty of a thousand: over a thousand, its interval would be 0.05 wide instead of 0.22."""
    data["retain"] |= {
        "n": 1000, "n_ranked": 50, "accuracy_after": 0.8, "exact_after": 0.8,
    }
    figures = attested_figures(validate_result(data))
    ranked, exact = figures["retain_accuracy"], figures["retain_exact"]
    assert (ranked.n, exact.n) == (50, 1000)
    assert (ranked.low, ranked.high) == pytest.approx((0.670, 0.888), abs=5e-4)
    assert (exact.low, exact.high) == pytest.approx((0.774, 0.824), abs=5e-4)
    assert figures["retain_accuracy_before"].n == figures["retain_accuracy_retrained"].n == 50


def test_over_unknown_questions_there_is_no_interval(data: dict[str, Any]) -> None:
    """Results of former versions do not say how many records had options."""
    assert "n_ranked" not in data["forget"]
    figures = attested_figures(validate_result(data))
    accuracy = figures["forget_accuracy"]
    assert (accuracy.low, accuracy.high, accuracy.n, accuracy.interval) == (None,) * 4
    assert figures["forget_exact"].n == data["forget"]["n"]

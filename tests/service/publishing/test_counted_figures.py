"""What an attestation may say of noised counts."""

from __future__ import annotations

import pytest

from medunlearn_server.publishing.statement import counted_figures
from medunlearn_server.reports import EvaluationReport


def report(
    forget: tuple[float, ...], retain: tuple[float, ...], noise: float
) -> EvaluationReport:
    return EvaluationReport(
        forget=forget, retain=retain, rate=1.0, noise=noise, sites=("a", "b", "c"), failure="",
        canary_before=(), canary_after=(), seconds=0.0, bytes_down={}, bytes_up={},
    )


def test_shares_follow_from_the_cells_with_the_interval_of_their_noise() -> None:
    # kept, lost, gained, never
    figures = counted_figures(report((10.0, 80.0, 0.0, 10.0), (90.0, 2.0, 3.0, 5.0), 1.0))
    assert figures["forget_answered_before"].value == pytest.approx(0.9)
    assert figures["forget_answered"].value == pytest.approx(0.1)
    assert figures["retain_answered"].value == pytest.approx(0.93)
    low, high = figures["forget_answered"].low, figures["forget_answered"].high
    assert low is not None and high is not None and low < 0.1 < high
    # Two cells of each kind, independent noise of 1 each, 100 units: delta method by hand.
    assert high - 0.1 == pytest.approx(1.96 * (2 * (0.9**2 + 0.1**2)) ** 0.5 / 100, rel=1e-3)
    assert all(figure.interval == "noise" for figure in figures.values())


def test_without_noise_there_is_no_interval_and_noise_may_hide_a_share() -> None:
    exact = counted_figures(report((1.0, 3.0, 0.0, 0.0), (), 0.0))
    assert exact["forget_answered"].low == exact["forget_answered"].high == 0.25
    assert set(exact) == {"forget_answered_before", "forget_answered"}
    assert counted_figures(report((1.0, 3.0, 0.0, 0.0), (-3.0, 1.0, 0.0, 0.0), 2.0)) == {}
    clipped = counted_figures(report((-4.0, 60.0, -3.0, 40.0), (), 1.0))["forget_answered"]
    assert clipped.value == 0.0

"""What the page draws of a run: curves with the band of their noise, and who joined which round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

from medunlearn_common.pages.charts import LineChart, Point, Range, line_chart
from medunlearn_common.pages.scales import Frame
from medunlearn_server.reports import RoundReport
from medunlearn_server.watching.views import RunView

Z95 = 1.959963984540054
MOST_SITES = 60
_HEIGHT, _WIDEST, _GAP, _LABEL = 20.0, 60.0, 3.0, 108.0
_MOST_MARKED = 40
_FRAME = Frame(width=560, height=230, left=52, right=14, top=26, bottom=38)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One site in one round: in the sum, asked in vain, or not asked."""

    x: float
    style: str
    title: str


@dataclass(frozen=True, kw_only=True)
class MatrixRow:
    """One site over all rounds."""

    label: str
    y: float
    cells: Sequence[Cell]


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Sites by rounds."""

    width: float
    height: float
    cell_width: float
    rows: Sequence[MatrixRow]
    ticks: Sequence[tuple[float, str]]
    left_out: int


def curves(run: RunView) -> list[LineChart]:
    """The sums' forget and retain curves, privacy spent, and seconds per round."""
    rounds = [report for report in run.rounds if isfinite(report.forget_gap)
              and isfinite(report.retain_loss) and isfinite(report.progress_noise)]
    charts = [
        _noisy("forget-gap", "Forget gap, all hospitals together", "forget", rounds,
               lambda report: report.forget_gap),
        _noisy("retain-loss", "Retain progress, all hospitals together", "retain", rounds,
               lambda report: report.retain_loss),
        _epsilon(run), _seconds(run.rounds),
    ]
    return [chart for chart in charts if chart is not None]


def _noisy(
    key: str, title: str, style: str, rounds: Sequence[RoundReport],
    value: Callable[[RoundReport], float],
) -> LineChart | None:
    points: list[Point] = [(report.round_index + 1.0, value(report)) for report in rounds]
    ranges: list[Range] = [
        (x, y - Z95 * report.progress_noise, y + Z95 * report.progress_noise)
        for (x, y), report in zip(points, rounds, strict=True)
    ]
    if not points:
        return None
    low, high = min(r[1] for r in ranges), max(r[2] for r in ranges)
    return line_chart(
        key, title,
        f"Released sum over all hospitals after each round, last {points[-1][1]:.1f} units; the "
        f"band holds 95 percent of the noise added for privacy.",
        [(title, style, points)], x_label="round", y_label="units", as_percent=False,
        y_range=_padded(min(low, 0.0), max(high, 0.0)), frame=_FRAME, legend=False,
        markers=len(points) <= _MOST_MARKED, bands=[(style, ranges)],
    )


def _epsilon(run: RunView) -> LineChart | None:
    points = [(report.round_index + 1.0, report.epsilon) for report in run.rounds
              if report.epsilon is not None and isfinite(report.epsilon)]
    budget = run.plan.epsilon if run.plan is not None else None
    if not points or budget is None:
        return None
    last = max(float(run.planned_rounds), points[-1][0])
    return line_chart(
        "epsilon", "Privacy spent", f"Epsilon after each round against a budget of {budget:g}.",
        [("ε spent", "after", points), ("budget", "goal", [(1.0, budget), (last, budget)])],
        x_label="round", y_label="ε", as_percent=False, y_range=(0.0, 1.1 * budget),
        frame=_FRAME, markers=len(points) <= _MOST_MARKED,
    )


def _seconds(rounds: Sequence[RoundReport]) -> LineChart | None:
    points = [(report.round_index + 1.0, report.seconds) for report in rounds
              if isfinite(report.seconds)]
    return line_chart(
        "seconds", "Seconds per round", "From the first request of a round to the new adapter.",
        [("seconds", "after", points)], x_label="round", y_label="s", as_percent=False,
        frame=_FRAME, legend=False, markers=len(points) <= _MOST_MARKED,
    )


def _padded(low: float, high: float) -> tuple[float, float]:
    room = 0.06 * (high - low) or 1.0
    return (low - room if low < 0.0 else low, high + room)


def matrix(run: RunView, labels: Callable[[str], str]) -> Matrix | None:
    """Who was in which round's sum; None before the first round.

    Args:
        run: The run.
        labels: Shortens a site's name.
    """
    if not run.rounds:
        return None
    rounds = max(run.planned_rounds, run.rounds[-1].round_index + 1)
    cell = max(2.0, min(_WIDEST, 880.0 / rounds))
    rows = [
        MatrixRow(label=labels(site.site), y=index * (_HEIGHT + _GAP),
                  cells=[_cell(site.site, report, cell) for report in run.rounds]
                  + _still_to_come(run, rounds, cell))
        for index, site in enumerate(run.sites[:MOST_SITES])
    ]
    step = max(1, -(-rounds // 20))
    ticks = [(_LABEL + (number - 0.5) * cell, str(number))
             for number in range(1, rounds + 1) if number == 1 or number % step == 0]
    return Matrix(
        width=round(_LABEL + rounds * cell + 4, 1), height=len(rows) * (_HEIGHT + _GAP) + 18,
        cell_width=round(max(1.0, cell - min(_GAP, 0.2 * cell)), 2), rows=rows, ticks=ticks,
        left_out=max(0, len(run.sites) - MOST_SITES),
    )


def _still_to_come(run: RunView, rounds: int, width: float) -> list[Cell]:
    if run.is_over:
        return []
    return [
        Cell(x=round(_LABEL + index * width, 2), style="planned", title=f"round {index + 1}")
        for index in range(run.rounds[-1].round_index + 1, rounds)
    ]


def _cell(site: str, report: RoundReport, width: float) -> Cell:
    x, number = round(_LABEL + report.round_index * width, 2), report.round_index + 1
    if site in report.sites:
        return Cell(x=x, style="joined", title=f"round {number}: in the sum")
    code = report.failures.get(site)
    if code is not None:
        return Cell(x=x, style="missed", title=f"round {number}: {code}")
    return Cell(x=x, style="away", title=f"round {number}: not asked")

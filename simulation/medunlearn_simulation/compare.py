"""Runs side by side: a table in the terminal and `compare.html`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import write_atomically
from medunlearn_common.pages.charts import BarChart, LineChart, Point, bar_chart, line_chart
from medunlearn_common.pages.formatting import (
    byte_size,
    count,
    decimal,
    duration,
    fine_percent,
    percent,
)
from medunlearn_simulation.report.page import render_page
from medunlearn_simulation.report.verdicts import Status, headline_verdicts
from medunlearn_simulation.result import load_result
from medunlearn_simulation.result_schema import RunResult

COMPARE_FILE = "compare.html"
MAX_RUNS = 24
MAX_NAMED_BARS = 4
# Colour, dash and marker of the curves; later runs share them.
STYLES = ("after", "forget", "retain", "level-3", "retrained", "before")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the comparison: a name and how a run's value reads."""

    name: str
    read: Callable[[RunResult], str]
    verdict: str | None = None


FIGURES: tuple[Figure, ...] = (
    Figure(name="task", read=lambda r: r.run.task),
    Figure(name="objective", read=lambda r: r.run.objective),
    Figure(name="projection", read=lambda r: r.run.projection),
    Figure(name="support", read=lambda r: r.run.support),
    Figure(name="noise", read=lambda r: r.privacy.noise),
    Figure(name="hospitals", read=lambda r: str(r.run.n_sites)),
    Figure(name="rounds", read=lambda r: str(r.run.rounds)),
    Figure(name="seed", read=lambda r: str(r.seed)),
    Figure(name="forget accuracy before", read=lambda r: percent(r.forget.accuracy_before)),
    Figure(
        name="forget accuracy after",
        read=lambda r: percent(r.forget.accuracy_after),
        verdict="Forgotten",
    ),
    Figure(name="… of a model never taught", read=lambda r: percent(r.forget.accuracy_retrained)),
    Figure(
        name="forget exact after",
        read=lambda r: percent(r.forget.exact_after),
        verdict="Forgotten",  # of both kinds of answer
    ),
    Figure(name="… of a model never taught", read=lambda r: percent(r.forget.exact_retrained)),
    Figure(
        name="retain preservation", read=lambda r: percent(r.retain.preservation), verdict="Kept"
    ),
    Figure(
        name="neighbour preservation",
        read=lambda r: percent(r.neighbours.preservation if r.neighbours else None),
        verdict="Neighbours kept",
    ),
    Figure(
        name="membership AUC after",
        read=lambda r: decimal(r.membership.auc_after if r.membership else None),
        verdict="Membership attack",
    ),
    Figure(
        name="… of a model never taught",
        read=lambda r: decimal(r.membership.auc_retrained if r.membership else None),
    ),
    Figure(
        name="after relearning",
        read=lambda r: percent(r.relearning.accuracy_after if r.relearning else None),
        verdict="After relearning",
    ),
    Figure(
        name="… of a model never taught",
        read=lambda r: percent(r.relearning.accuracy_retrained if r.relearning else None),
    ),
    Figure(
        name="identifiers leaked",
        read=lambda r: count(r.extraction.after.leaks if r.extraction else None),
        verdict="Identifiers leaked",
    ),
    Figure(name="ε", read=lambda r: decimal(r.privacy.epsilon), verdict="Privacy of the updates"),
    Figure(name="privacy unit", read=lambda r: r.privacy.unit),
    Figure(
        name="parameters changed",
        read=lambda r: fine_percent(r.model.changed_fraction),
        verdict="Parameters changed",
    ),
    Figure(
        name="bytes per site and round",
        read=lambda r: byte_size(r.communication.bytes_per_site_per_round),
    ),
    Figure(name="time", read=lambda r: duration(r.seconds.total)),
)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One value and whether it reaches its target."""

    text: str
    status: Status


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs, in the order given, and the table of their figures."""

    names: tuple[str, ...]
    results: tuple[RunResult, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def compare(
    run_dirs: Sequence[Path], *, html_path: Path | None = None, console: Console | None = None
) -> Comparison:
    """Reads the runs, prints the table and writes the page.

    All results are read before anything is written, so one bad run leaves nothing behind.

    Args:
        run_dirs: Run folders, or result files.
        html_path: Where the page goes; None writes none.
        console: Where the table goes; None prints none.

    Raises:
        Misconfigured: `COMPARE_RUNS`, or what `load_result` raises.
        Transient: `WRITE_FAILED`.
    """
    if not 1 <= len(run_dirs) <= MAX_RUNS:
        raise Misconfigured(
            "COMPARE_RUNS",
            f"{len(run_dirs)} runs given",
            f"name between 1 and {MAX_RUNS} run folders",
        )
    comparison = comparison_of(run_dirs, [load_result(path) for path in run_dirs])
    if html_path is not None:
        write_atomically(html_path, render_comparison(comparison).encode(), private=False)
    if console is not None:
        console.print(terminal_table(comparison))
        if html_path is not None:
            console.print(f"  {html_path}", markup=False, highlight=False, soft_wrap=True)
    return comparison


def comparison_of(run_dirs: Sequence[Path], results: Sequence[RunResult]) -> Comparison:
    """Lines up the figures; lines in which no run has a value are left out."""
    verdicts = [{card.title: card.status for card in headline_verdicts(r)} for r in results]
    rows: list[tuple[str, tuple[Cell, ...]]] = []
    for figure in FIGURES:
        cells = tuple(
            Cell(
                text=figure.read(result),
                status=judged.get(figure.verdict, "open") if figure.verdict else "open",
            )
            for result, judged in zip(results, verdicts, strict=True)
        )
        if any(cell.text != "–" for cell in cells):
            rows.append((figure.name, cells))
    return Comparison(names=_names(run_dirs), results=tuple(results), rows=tuple(rows))


def terminal_table(comparison: Comparison) -> Table:
    """The comparison for a terminal; ✓ and ✗ say what the colours say."""
    table = Table(title="Runs side by side", title_justify="left", header_style="bold")
    table.add_column("")
    for name in comparison.names:
        table.add_column(Text(name), justify="right", overflow="fold")
    signs = {"reached": (" ✓", "green"), "missed": (" ✗", "red"), "open": ("", "")}
    for name, cells in comparison.rows:
        texts = [Text(cell.text + signs[cell.status][0], signs[cell.status][1]) for cell in cells]
        table.add_row(Text(name), *texts)
    return table


def render_comparison(comparison: Comparison) -> str:
    """The page as text."""
    return render_page(
        "compare.html.j2",
        comparison=comparison,
        bars=_bars(comparison),
        curves=[
            chart for chart in (_curve(comparison, "forget"), _curve(comparison, "retain")) if chart
        ],
    )


def _bars(comparison: Comparison) -> list[BarChart]:
    """Forget accuracy beside the retrained model, and what was kept, per run."""
    # Many names do not fit under the bars: the table's header carries the numbers.
    crowded = len(comparison.names) > MAX_NAMED_BARS
    labels = [str(i) if crowded else name for i, name in enumerate(comparison.names, start=1)]
    pairs = list(zip(labels, comparison.results, strict=True))
    return [
        bar_chart(
            "forgotten",
            "Forgotten: after, beside a model never taught",
            "Option-ranking accuracy on the forget set.",
            {
                name: [
                    ("after", "after", r.forget.accuracy_after),
                    ("never taught", "retrained", r.forget.accuracy_retrained),
                ]
                for name, r in pairs
            },
            chance={name: r.forget.chance for name, r in pairs},
        ),
        bar_chart(
            "kept",
            "Kept: retain set and neighbours, after ÷ before",
            "Preservation of the retain set and of the neighbours.",
            {
                name: [
                    ("retain", "retain", r.retain.preservation),
                    ("neighbours", "level-3", r.neighbours.preservation if r.neighbours else None),
                ]
                for name, r in pairs
            },
            top=max([1.0, *(r.retain.preservation or 0.0 for _, r in pairs)]),
        ),
    ]


def _curve(comparison: Comparison, kind: str) -> LineChart | None:
    """Accuracy over the rounds, one line per run."""

    def points(result: RunResult) -> list[Point]:
        values = [(e.round, getattr(e, f"{kind}_accuracy")) for e in result.rounds]
        return [(float(x), y) for x, y in values if y is not None]

    return line_chart(
        f"curve-{kind}",
        f"{kind.capitalize()} accuracy, round by round",
        f"Option-ranking accuracy on a sample of the {kind} set after each round, by run.",
        [
            (name, STYLES[i % len(STYLES)], points(result))
            for i, (name, result) in enumerate(
                zip(comparison.names, comparison.results, strict=True)
            )
        ],
        x_label="round",
        y_label="accuracy",
        y_range=(0.0, 1.0),
    )


def _names(run_dirs: Sequence[Path]) -> tuple[str, ...]:
    """Folder names, numbered where they repeat."""
    plain = [
        (path.parent if path.suffix == ".json" else path).resolve().name or "run"
        for path in run_dirs
    ]
    return tuple(
        name if plain.count(name) == 1 else f"{name} ({plain[: i + 1].count(name)})"
        for i, name in enumerate(plain)
    )

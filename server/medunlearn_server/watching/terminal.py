"""``medunlearn coordinator status --watch``: a view as something rich can print.

Pure: the same view gives the same picture. Every text goes through :func:`plain` and into a
``Text``, so that no name is read as markup or as a terminal's control sequence.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import isfinite

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from medunlearn_common.pages.formatting import MISSING, byte_size, decimal, duration, plain
from medunlearn_server.watching.views import CheckView, FederationView, RunView
from medunlearn_server.watching.words import (
    PHASE_NAMES,
    epsilon_words,
    exchange_words,
    figure,
    instant,
    last_words,
)

_BLOCKS = "▁▂▃▄▅▆▇█"
_MOST_ROUNDS, _MOST_SITES, _MOST_RUNS = 40, 20, 12
_STYLES = {"running": "bold green", "finished": "green", "failed": "bold red", "paused": "yellow",
           "stopped": "dim", "pending": "cyan"}


def status_view(view: FederationView) -> RenderableType:
    """The whole picture: checks, runs, and the newest run that is not over in full."""
    parts: list[RenderableType] = [_head(view), _runs(view.runs)]
    shown = next((run for run in view.runs if not run.is_over), None)
    shown = shown or (view.runs[0] if view.runs else None)
    if shown is not None:
        parts.append(run_view(shown, now=view.at))
    return Group(*parts)


def run_view(run: RunView, *, now: float) -> RenderableType:
    """One run in full."""
    rows: list[RenderableType] = [_progress(run), _figures(run, now=now)]
    if run.rounds:
        rows.append(_sparks(run))
    if run.sites:
        rows.append(_sites(run, now=now))
    if run.troubles:
        rows.append(Text(f"cannot be read: {', '.join(run.troubles)}", style="yellow"))
    return Panel(Group(*rows), title=_text(run.run_id, "bold"), title_align="left")


def watch(
    fetch: Callable[[], FederationView], console: Console, *, interval_s: float = 1.0,
    until: Callable[[FederationView], bool] = lambda view: False,
    sleep: Callable[[float], None] = time.sleep,
) -> FederationView:
    """Show what ``fetch`` gives, again and again, until ``until`` or Ctrl-C.

    Away from a terminal nothing can be drawn over: a picture is printed when it has changed.

    Args:
        fetch: Reads the state: the local folder, or the control service.
        console: Where.
        interval_s: Pause between two looks.
        until: When to stop.
        sleep: Waits.
    """
    view = fetch()
    with _shown(view, console) as show:
        while not until(view):
            sleep(interval_s)
            view = fetch()
            show(view)
    return view


@contextmanager
def _shown(first: FederationView, console: Console) -> Iterator[Callable[[FederationView], None]]:
    """Shows a view, and gives what shows the next ones in its place."""
    if console.is_terminal:
        with Live(status_view(first), console=console, auto_refresh=False) as live:
            yield lambda view: live.update(status_view(view), refresh=True)
        return
    printed: list[FederationView] = []

    def show(view: FederationView) -> None:
        if not printed or replace(printed.pop(), at=view.at) != view:
            console.print(status_view(view))
        printed.append(view)

    show(first)
    yield show


def _text(value: str, style: str = "") -> Text:
    return Text(plain(value), style=style)


def _head(view: FederationView) -> Text:
    line = Text.assemble(("medunlearn ", "bold"), plain(view.version), "  ", instant(view.at),
                         " UTC  ")
    for check in view.checks:
        line.append_text(_check(check))
    return line


def _check(check: CheckView) -> Text:
    mark = Text("● ", style="green" if check.ok else "red")
    mark.append(plain(check.name), style="" if check.ok else "bold")
    if check.code:
        mark.append(f" {plain(check.code)}", style="yellow" if check.ok else "red")
    return mark.append("  ")


def _runs(runs: Sequence[RunView]) -> RenderableType:
    if not runs:
        return Text("no runs yet: `medunlearn coordinator launch plan.toml`", style="dim")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("run", "state", "phase", "rounds", "sites", "ε", "dropouts", "updated"):
        table.add_column(column, overflow="fold", no_wrap=column == "state")
    for run in runs[:_MOST_RUNS]:
        state = _text(run.state, _STYLES.get(run.state, ""))
        if run.failure:
            state.append(f" {plain(run.failure)}", style="red")
        latest = run.latest
        table.add_row(
            _text(run.run_id), state, PHASE_NAMES[run.phase],
            f"{len(run.rounds)}/{run.planned_rounds or MISSING}",
            str(len(latest.sites)) if latest else MISSING, epsilon_words(run),
            str(run.dropouts), instant(run.updated),
        )
    if len(runs) > _MOST_RUNS:
        table.add_row(Text(f"and {len(runs) - _MOST_RUNS} older ones", style="dim"))
    return Padding(table, (1, 0))


def _progress(run: RunView) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    steps = Text()
    phases = list(PHASE_NAMES)
    for index, phase in enumerate(phases):
        done = index < phases.index(run.phase) or run.state == "finished"
        style = "green" if done else "bold" if phase == run.phase else "dim"
        steps.append("✓ " if done else "▸ " if phase == run.phase else "  ", style=style)
        steps.append(f"{PHASE_NAMES[phase]}  ", style=style)
    bar = ProgressBar(total=max(1, run.planned_rounds), completed=len(run.rounds), width=40)
    grid.add_row(bar, Text(f"{len(run.rounds)} of {run.planned_rounds or MISSING} rounds"))
    return Group(steps, grid)


def _figures(run: RunView, *, now: float) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    grid.add_row("privacy", Text(f"ε {epsilon_words(run)}" if run.plan is None or run.plan.epsilon
                                 else epsilon_words(run)))
    grid.add_row("bytes", f"{byte_size(run.bytes_up)} up, {byte_size(run.bytes_down)} down")
    if run.exchange is not None:
        words = exchange_words(run.exchange)
        if run.exchange.is_open and run.state == "running":
            words += f", for {duration(max(0.0, now - run.exchange.since))}"
        grid.add_row("exchange", _text(words))
    for gate in run.gates:
        grid.add_row("gate", _text(
            f"{gate.gate} {'holds' if gate.passed else 'FAILS'}: {figure(gate.value)} against "
            f"{figure(gate.limit)}" + (f", overridden by {gate.overridden_by}"
                                        if gate.overridden_by else ""),
            "" if gate.passed else "red"))
    log = run.log
    sound = "sound" if log.first_bad is None else f"DAMAGED at record {log.first_bad}"
    grid.add_row("audit log", f"{len(log.records)} records, {sound}, "
                              f"{len(log.witnesses)} witnesses")
    if run.attestation is not None:
        named = "named in the log" if run.attestation.in_log else "NOT named in the log"
        grid.add_row("attestation", f"{run.attestation.digest[:16]}, {named}, "
                                    f"{len(run.attestation.countersigned)} countersigned, "
                                    f"{len(run.attestation.objected)} object")
    return grid


def _sparks(run: RunView) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    last = run.rounds[-_MOST_ROUNDS:]
    for name, values in (("forget gap", [r.forget_gap for r in last]),
                         ("retain", [r.retain_loss for r in last])):
        grid.add_row(name, spark(values), Text(
            f"{decimal(values[-1], 1)} ± {decimal(1.96 * last[-1].progress_noise, 1)} units"))
    return grid


def _sites(run: RunView, *, now: float) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("hospital", "last answer", "last rounds", "in sums", "missed", "up", "down",
                   "witnessed"):
        table.add_column(column, overflow="fold")
    for site in run.sites[:_MOST_SITES]:
        missed = ", ".join(f"{code} {count}" for code, count in sorted(site.missed.items()))
        table.add_row(
            _text(site.site), _text(last_words(site.last, now=now),
                                    "red" if site.last is not None and site.last.code else ""),
            _marks(run, site.site), f"{site.joined}/{len(run.rounds)}",
            _text(missed or site.refused, "red"), byte_size(site.bytes_up),
            byte_size(site.bytes_down), str(site.witnessed),
        )
    if len(run.sites) > _MOST_SITES:
        table.add_row(Text(f"and {len(run.sites) - _MOST_SITES} more", style="dim"))
    return table


def _marks(run: RunView, site: str) -> Text:
    marks = Text()
    for report in run.rounds[-_MOST_ROUNDS:]:
        inside, missed = site in report.sites, site in report.failures
        marks.append("■" if inside else "×" if missed else "·",
                     style="green" if inside else "red" if missed else "dim")
    return marks


def spark(values: Sequence[float]) -> str:
    """A line of blocks, lowest to highest; what is no number is a blank."""
    known = [value for value in values if isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(
        _BLOCKS[round((value - low) * scale)] if isfinite(value) else " " for value in values
    )


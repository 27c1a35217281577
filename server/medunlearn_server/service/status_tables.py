"""What ``coordinator status``, ``runs`` and ``launch --wait`` say, from the service's answers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

_OVER = ("finished", "stopped")


def status_tables(found: Any) -> Iterator[str | Table]:
    """A service's status: itself, its processes, the sites with their last word, the runs."""
    yield (f"medunlearn {found.version}, {'ready' if found.ready else 'not ready yet'}, "
           f"up {since(found.started)}")
    yield _table(("process", "state", "pid", "restarts"), [
        (child.name, child.state, str(child.pid or "-"), str(child.restarts))
        for child in found.children
    ])
    run = asked_last(found.runs)
    yield _table(("site", "let in", "last seen", f"last answer in {run.run_id}" if run else ""), [
        (site.site_id, "yes" if site.registered else "not yet",
         f"{since(site.seen)} ago" if site.seen else "never",
         last_answer(site.site_id, run) if run else "")
        for site in found.sites
    ])
    yield runs_table(found.runs)


def runs_table(found: Sequence[Any]) -> Table:
    """All runs."""
    return _table(("run", "state", "doing", "starts", "epsilon", "last trouble"), [
        (run.run_id, shown_state(run), doing(run), str(run.starts),
         f"{run.progress.epsilon:.3g}" if run.progress.epsilon else "-", run.failure_code or "-")
        for run in found
    ])


def shown_state(run: Any) -> str:
    """A run that is being published has finished, whatever carries the publication."""
    return "finished" if run.mode == "publish" else str(run.state)


def asked_last(found: Sequence[Any]) -> Any | None:
    """The run whose sites' words are of interest: the one that runs, or the last to be asked."""
    asked = [run for run in found if run.words]
    going = [run for run in asked if run.state == "running"]
    return max(going or asked, key=lambda run: max(w.at for w in run.words), default=None)


def last_answer(site: str, run: Any) -> str:
    """What came of the last request to a site."""
    if run.state == "running" and site in run.progress.waits_for:
        return f"none yet, asked {since(run.progress.since)} ago"
    word = next((word for word in run.words if word.site_id == site), None)
    return "-" if word is None else f"{word.code or 'good'}, {since(word.at)} ago"


def held_up_by(run: Any) -> dict[str, str]:
    """Site to the code of its last word, of a run that is not over."""
    return {} if shown_state(run) in _OVER else {w.site_id: w.code for w in run.words if w.code}


def doing(run: Any, *, seconds: bool = True) -> str:
    """In a few words; long waits show whom they are for.

    Args:
        run: The run.
        seconds: Whether to say since when, which changes all the time.
    """
    progress = run.progress
    if run.state == "pending":
        return "waits for its turn" + (" to be published" if run.mode == "publish" else "")
    if run.state != "running":
        return "-"
    if run.mode == "publish":
        return "is being published"
    if not progress.phase:
        return "starts"
    where = _where(progress)
    if progress.phase == "ready" and not progress.missing:
        return f"gathers the sites, {progress.connected} connected"
    if progress.missing:
        waits = f"{where}, waits for {progress.missing} of {progress.asked} sites"
        return f"{waits} ({since(progress.since)})" if seconds else waits
    return where


def _where(progress: Any) -> str:
    if progress.phase != "rounds":
        return str(progress.phase)
    if progress.next_round >= progress.rounds:
        return "measures the adapter"
    return f"round {progress.next_round + 1} of {progress.rounds}"


def since(at: float) -> str:
    """How long ago, in one unit."""
    seconds = max(0, round(time.time() - at))
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7_200 else f"{seconds // 3_600} h"


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table

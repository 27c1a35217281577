"""``medunlearn ledger show``: what a hospital's releases have cost, in plain terms."""

from __future__ import annotations

import json
from math import isinf
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from medunlearn_common.ledger.schema import LEDGER_FILE
from medunlearn_common.ledger.spending import run_epsilon
from medunlearn_common.ledger.store import PrivacyLedger, RunSpending, _prv
from medunlearn_common.party_folder import HERE, PartyFolder

# At which delta runs are added up where the site names none.
CUMULATIVE_DELTA = 1e-5
_WHOM = {"record": "any one record", "patient": "any one patient, all records"}
_WORDS = {"vote": "support vote", "evaluate": "evaluation counts"}

ledger_app = typer.Typer(
    help="A hospital's privacy ledger: what was released, what it cost, what is left.",
    no_args_is_help=True, rich_markup_mode="rich",
)


@ledger_app.callback()
def _group() -> None:
    """Keeps ``show`` a sub-command."""


@ledger_app.command("show")
def show(
    ledger: Annotated[Path | None, typer.Argument(
        help="A ledger.db, or the folder it is in, instead of --folder.", show_default=False)
    ] = None,
    folder: PartyFolder = HERE,
    as_json: Annotated[bool, typer.Option("--json", help="Figures as JSON.")] = False,
    delta: Annotated[
        float, typer.Option("--delta", min=1e-12, max=0.5, help="At which all runs are added up.")
    ] = CUMULATIVE_DELTA,
) -> None:
    """Show every release by run, with epsilon spent and left; the file is not changed.

    Examples:

      medunlearn ledger show --folder runs/one/sites/site-0

      medunlearn ledger show copy/ledger.db --json
    """
    place = ledger or folder
    opened = PrivacyLedger.existing(place / LEDGER_FILE if place.is_dir() else place)
    figures = ledger_figures(opened, delta=delta)
    if as_json:
        typer.echo(json.dumps(figures, indent=2, allow_nan=False))
        return
    console = Console(highlight=False, emoji=False)
    for run in figures["runs"]:
        console.print(_table(run))
    if not figures["runs"]:
        console.print("nothing was ever released")
        return
    console.print(f"all {len(figures['runs'])} runs together, at delta {delta:g}:")
    for unit, epsilon in figures["all_runs"]["epsilon"].items():
        console.print(f"  {_WHOM[unit]}: {_bound(epsilon, unit, figures['runs'])}")


def ledger_figures(ledger: PrivacyLedger, *, delta: float) -> dict[str, Any]:
    """Everything that ``show`` shows; an epsilon that nothing bounds is None."""
    return {
        "runs": [_run_figures(run) for run in ledger.runs()],
        "all_runs": {
            "delta": delta,
            "epsilon": {
                unit: _finite(ledger.cumulative_epsilon(unit=unit, delta=delta))
                for unit in ("record", "patient")
            },
        },
    }


def _run_figures(run: RunSpending) -> dict[str, Any]:
    budget, releases = run.budget, []
    spent: float | None = None
    for place, charge in enumerate(run.charges, start=1):
        before = spent
        if budget is not None:
            spent = run_epsilon(run.charges[:place], delta=budget.delta, accountant=_prv)
        releases.append({
            "release": charge.release, "noise_multiplier": charge.mechanism.sigma,
            "forget_rate": charge.mechanism.forget_rate,
            "retain_rate": charge.mechanism.retain_rate, "steps": charge.mechanism.count,
            "epsilon_added": None if spent is None else spent - (before or 0.0),
            "epsilon_spent": spent,
        })
    return {
        "run": run.run_id, "unit": run.unit, "releases": releases,
        "epsilon_spent": spent,
        "epsilon_budget": None if budget is None else budget.epsilon,
        "epsilon_left": None if budget is None or spent is None else
        max(0.0, budget.epsilon - spent),
        "delta": None if budget is None else budget.delta,
    }


def _finite(value: float) -> float | None:
    return None if isinf(value) else value


def _bound(epsilon: float | None, unit: str, runs: list[dict[str, Any]]) -> str:
    """A sum over runs in words; without a bound, why."""
    if epsilon is not None:
        return f"epsilon {epsilon:.3f}"
    if any(run["delta"] is None for run in runs):  # no noise, or history that was lost
        return "no bound (of a run above nothing is bounded)"
    return f"no bound (a run that protects each record says nothing of a {unit}'s together)"


def _table(run: dict[str, Any]) -> Table:
    head = f"run {run['run']}: protects each {run['unit']}"
    if run["delta"] is None:
        head += "; no noise, no guarantee"
    else:
        head += (f"; spent {run['epsilon_spent']:.3f} of {run['epsilon_budget']:g} at delta "
                 f"{run['delta']:g}, {run['epsilon_left']:.3f} left")
    table = Table(title=head, title_justify="left")
    table.add_column("what left")
    for column in ("noise ÷ clip", "epsilon it added", "spent so far"):
        table.add_column(column, justify="right")
    for entry in run["releases"]:
        added, spent = entry["epsilon_added"], entry["epsilon_spent"]
        table.add_row(
            _plain(entry["release"]), f"{entry['noise_multiplier']:.3f}",
            "no bound" if added is None else f"{added:.3f}",
            "no bound" if spent is None else f"{spent:.3f}",
        )
    return table


def _plain(release: str) -> str:
    if release.startswith("round-") and release[6:].isdigit():
        return f"sum of round {int(release[6:]) + 1}"
    return _WORDS.get(release, release)

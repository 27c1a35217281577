"""The last words of a run on the terminal: the figures that matter and where the rest lies."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from medunlearn_common.invocation import command_name
from medunlearn_common.pages.formatting import plain
from medunlearn_simulation.outcome import counted
from medunlearn_simulation.result_schema import RunResult, ThreeWaySection
from medunlearn_simulation.run_folder import RunFolder
from medunlearn_simulation.stopping import shown_path


def percent(share: float | None) -> str:
    """One decimal, or a dash where nothing was measured."""
    return "-" if share is None else f"{100.0 * share:.1f} %"


def print_summary(result: RunResult, folder: RunFolder, console: Console) -> None:
    """Prints the table of a finished run and its files."""
    console.print(_accuracies(result))
    for line in _lines(result):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for path in (folder.report_file, folder.result_file, folder.adapter):
        console.print(f"  {shown_path(path)}", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"to verify it: {command_name()} verify {shown_path(folder.root)}", markup=False,
        highlight=False, soft_wrap=True,
    )


def _accuracies(result: RunResult) -> Table:
    table = Table(
        title=Text(f"asked to forget {plain(result.run.task)}: "
                   f"{counted(result.run.n_sites, 'site')}, {counted(result.run.rounds, 'round')}",
                   style="table.title"),
        caption="percent right by option ranking (exact answers)", title_justify="left",
        caption_justify="left",
    )
    for column in ("", "records", "before", "after", "retrained"):
        table.add_column(column, justify="left" if not column else "right")
    for name, group in (
        ("forget", result.forget), ("retain", result.retain), ("neighbours", result.neighbours),
    ):
        if group is not None:
            table.add_row(name, str(group.n), *_cells(group))
    return table


def _cells(group: ThreeWaySection) -> tuple[str, str, str]:
    return (
        pair(group.accuracy_before, group.exact_before),
        pair(group.accuracy_after, group.exact_after),
        pair(group.accuracy_retrained, group.exact_retrained),
    )


def pair(ranked: float | None, exact: float | None) -> str:
    """Both in percent without its sign, so that a row fits a terminal of 80 columns."""
    if ranked is None and exact is None:
        return "-"
    first, second = (percent(share).removesuffix(" %") for share in (ranked, exact))
    return f"{first} ({second})"


def _lines(result: RunResult) -> list[str]:
    lines = [f"chance {percent(result.forget.chance)}, retain preserved "
             f"{percent(result.retain.preservation)}"]
    if result.membership is not None:
        attack = result.membership
        gold = "-" if attack.auc_retrained is None else f"{attack.auc_retrained:.2f}"
        lines.append(
            f"membership AUC {attack.auc_before:.2f} before, {attack.auc_after:.2f} after, "
            f"{gold} retrained"
        )
    privacy = result.privacy
    if privacy.epsilon is None:
        lines.append("no noise was added: there is no privacy guarantee")
    else:
        lines.append(
            f"epsilon {privacy.epsilon:.2f} at delta {privacy.delta:g} per {privacy.unit}, "
            f"{privacy.noise} noise, sigma {privacy.sigma:.2f}"
        )
    sent = result.communication
    lines.append(
        f"{sent.bytes_per_site_per_round / 1000:.1f} kB per site and round (a dense adapter: "
        f"{sent.dense_lora_bytes / 1000:.0f} kB), {result.model.changed_fraction:.3%} of the "
        "parameters changed"
    )
    return lines

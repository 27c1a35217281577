"""Completed runs as the rows of docs/results.md.

    python benchmarks/results_table.py RUN [RUN ...]

Runs of one name (the folder's name up to ``-seedN``) share a row: the median over their seeds,
and the smallest and largest where they differ.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from medunlearn_simulation.result import load_result
from medunlearn_simulation.result_schema import RunResult

Read = Callable[[RunResult], float | None]

# Heading, how to read it, digits, and what the value is multiplied with.
COLUMNS: tuple[tuple[str, Read, int, float], ...] = (
    ("forget, %", lambda r: r.forget.accuracy_after, 1, 100.0),
    ("(exact)", lambda r: r.forget.exact_after, 1, 100.0),
    ("retrained, %", lambda r: r.forget.accuracy_retrained, 1, 100.0),
    ("(exact)", lambda r: r.forget.exact_retrained, 1, 100.0),
    ("preserved, %", lambda r: r.retain.preservation, 1, 100.0),
    ("(kept exactly)", lambda r: r.retain.exact_after, 1, 100.0),
    ("neighbours, %", lambda r: r.neighbours.preservation if r.neighbours else None, 1, 100.0),
    ("AUC before", lambda r: r.membership.auc_before if r.membership else None, 2, 1.0),
    ("after", lambda r: r.membership.auc_after if r.membership else None, 2, 1.0),
    ("retrained", lambda r: r.membership.auc_retrained if r.membership else None, 2, 1.0),
    ("relearned, %", lambda r: r.relearning.accuracy_after if r.relearning else None, 1, 100.0),
    ("retrained, %", lambda r: r.relearning.accuracy_retrained if r.relearning else None, 1,
     100.0),
    ("ε", lambda r: r.privacy.epsilon, 2, 1.0),
    ("changed, %", lambda r: r.model.changed_fraction, 3, 100.0),
    ("kB per site and round", lambda r: r.communication.bytes_per_site_per_round, 1, 1e-3),
    ("federation, s", lambda r: r.seconds.by_phase.get("unlearning together"), 0, 1.0),
)


def main() -> None:
    """Print the table of the runs named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of completed runs")
    groups: dict[str, list[RunResult]] = defaultdict(list)
    for folder in parser.parse_args().runs:
        groups[folder.name.rpartition("-seed")[0] or folder.name].append(load_result(folder))
    print(table(groups))


def table(groups: dict[str, list[RunResult]]) -> str:
    """A Markdown table, one row per name."""
    headings = ["run", "seeds", *(heading for heading, *_ in COLUMNS)]
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    for name, results in groups.items():
        seeds = ", ".join(str(seed) for seed in sorted(r.seed for r in results))
        cells = [
            spread([read(r) for r in results], digits, scale)
            for _, read, digits, scale in COLUMNS
        ]
        lines.append("| " + " | ".join([name, seeds, *cells]) + " |")
    return "\n".join(lines)


def spread(values: Sequence[float | None], digits: int, scale: float) -> str:
    """``median (smallest to largest)``, or the one value, or a dash."""
    known = sorted(scale * value for value in values if value is not None)
    if not known:
        return "–"
    low, middle, high = (f"{v:.{digits}f}" for v in (known[0], median(known), known[-1]))
    return middle if low == high else f"{middle} ({low} to {high})"


if __name__ == "__main__":
    main()

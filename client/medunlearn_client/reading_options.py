"""How a command reads record files: as the plan of the coming runs does, or as they show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medunlearn_client.site_config import SITE_FILE, SITE_TOML, read_site_config
from medunlearn_common.errors import Misconfigured
from medunlearn_common.plan.reading import read_plan
from medunlearn_common.plan.sections import Plan

if TYPE_CHECKING:
    from medunlearn_client.records import ReadOptions

PlanOption = Annotated[
    Path | None,
    typer.Option("--plan", help="Plan, or a hospital's site.toml, whose \\[data] section says how "
                 "to read; needed where columns have names of your own."),
]
FormatOption = Annotated[
    str | None, typer.Option("--format", help="What the rows mean, if not recognised.")
]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Which files a command reads, and how.

    Attributes:
        plan: The plan that was named, or one of defaults.
        files: Files of the command line, or the plan's where none is given.
        options: How rows are read.
        of_hospital: The plan is a hospital's own ``site.toml``, whose service reads for sums.
    """

    plan: Plan
    files: tuple[Path, ...]
    options: ReadOptions
    of_hospital: bool = False


def reading_of(
    files: Sequence[Path | str] | None, plan: Path | None, record_format: str | None = None,
) -> Reading:
    """The command line over the plan over what the files show by themselves.

    Raises:
        Misconfigured: DATA_FILE_MISSING if neither names a file, or a code of :func:`read_plan` or
            :func:`read_site_config`.
    """
    from dataclasses import replace

    from medunlearn_client.records import ReadOptions

    chosen, of_hospital = _planned(plan) if plan is not None else (Plan(), False)
    named = tuple(Path(name) for name in files or chosen.data.files)
    if not named:
        raise Misconfigured(
            "DATA_FILE_MISSING", "no data file is named",
            "name files, or a plan with [data] files by --plan",
        )
    options = ReadOptions.of_plan(chosen.data)
    if record_format is not None:
        options = replace(options, record_format=record_format)
    return Reading(plan=chosen, files=named, options=options, of_hospital=of_hospital)


def _planned(path: Path) -> tuple[Plan, bool]:
    """A plan; or the sections of a hospital's own file, which its service reads records by.

    The second part says whether it is such a hospital's.
    """
    if path.name not in (SITE_TOML, SITE_FILE):
        return read_plan(path), False
    site = read_site_config(path.parent)
    return Plan(data=site.data, forget=site.forget), not site.is_simulated

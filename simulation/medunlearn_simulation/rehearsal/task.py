"""What a rehearsal works on: the embedded demo, its planted model, its records by hospital."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medunlearn_common.files import write_atomically
from medunlearn_common.plan import Plan, plan_template
from medunlearn_simulation.demo_corpus import FORGET_SUBJECT
from medunlearn_simulation.preparing import (
    FORGET_ROOT,
    Overrides,
    plan_for_run,
    prepare_models,
    prepare_records,
    with_demo_file,
)
from medunlearn_simulation.progress import PhaseBoard
from medunlearn_simulation.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Task:
    """Where everything lies.

    Attributes:
        model: Folder of the base model.
        records: One file per hospital.
        plan: The plan that all parties share.
    """

    model: Path
    records: tuple[Path, ...]
    plan: Path


def demo_task(
    folder: Path, *, hospitals: int, board: PhaseBoard, model_folder: Path | None = None,
    **changes: dict[str, Any],
) -> Task:
    """The demo's records, dealt to hospitals as the simulation deals them, each in its own file.

    Args:
        folder: Where to write.
        hospitals: How many.
        board: Shows phases: planting takes a minute where it is not cached.
        model_folder: A model to use in place of the planted one.
        changes: Values of plan sections, by section.

    Raises:
        MedunlearnError: As the preparations of a simulated run.
    """
    place = RunFolder(root=folder)
    plan = with_demo_file(
        _planned(plan_for_run(None, Overrides(
            sites=hospitals, model=str(model_folder) if model_folder is not None else None)),
            changes), place)
    records = prepare_records(plan, place, board)
    found, _ = prepare_models(plan, records, board, retrained=None)
    lines: list[list[str]] = [[] for _ in range(hospitals)]
    for line in Path(plan.data.files[0]).read_text(encoding="utf-8").splitlines():
        site = records.site_of.get(json.loads(line)["id"])
        if site is not None:
            lines[site].append(line)
    files = []
    for site, own in enumerate(lines):
        path = folder / f"hospital-{'abcdefgh'[site]}.jsonl"
        write_atomically(path, ("\n".join(own) + "\n").encode("utf-8"))
        files.append(path)
    shared = plan.shared().model_dump(mode="python")
    write_atomically(folder / "plan.toml",
                     plan_template(Plan.model_validate(shared)).encode("utf-8"))
    return Task(model=Path(found), records=tuple(files), plan=folder / "plan.toml")


def forget_lines() -> str:
    """What a hospital writes into ``site.toml``: what it wants forgotten."""
    return f'subjects = ["{FORGET_SUBJECT}"]'


def _planned(plan: Plan, changes: dict[str, dict[str, Any]]) -> Plan:
    document = plan.model_dump(mode="python")
    document["evaluation"]["retrained"] = False
    document["concepts"]["forget_roots"] = (FORGET_ROOT,)
    for section, values in changes.items():
        document[section].update(values)
    return Plan.model_validate(document)

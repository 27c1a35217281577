"""``medunlearn records paraphrase`` and ``medunlearn records wordings``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from medunlearn_client.editable import write_out
from medunlearn_client.reading_options import reading_of
from medunlearn_common.plan.sections import ParaphrasesSection, Plan

if TYPE_CHECKING:
    from medunlearn_client.paraphrases import Paraphraser, Paraphrases
    from medunlearn_client.records import Record


def paraphrase(
    file: Annotated[
        Path | None,
        typer.Argument(help="Record file, folder or archive; default: the plan's.",
                       show_default=False),
    ] = None,
    plan: Annotated[
        Path | None, typer.Option("--plan", help="Plan whose paraphrases, concepts and data count.")
    ] = None,
    wordings: Annotated[
        Path | None, typer.Option("--wordings", help="TOML file of wordings to try.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="Folder of a model that writes wordings.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Records to show.")] = 10,
    dropped: Annotated[
        bool, typer.Option("--dropped", help="Show what was dropped, and why.")
    ] = False,
) -> None:
    """Show each question beside its other wordings, as a run would use them.

    Nothing is kept or sent. Read them as a clinician: does each ask for the same fact? A plan's
    show_subject and repairs count as in its run: other words have other wordings. A model, which
    takes its time, is asked about the shown records only.

    Examples:

      medunlearn records paraphrase questions.jsonl --limit 50

      medunlearn records paraphrase notes.jsonl --plan plan.toml --dropped
    """
    from medunlearn_client.paraphrases.paraphraser import counts
    from medunlearn_client.records import Quarantine, read_records
    from medunlearn_client.site_data import as_trained

    reading = reading_of([file] if file is not None else None, plan)
    data = reading.plan.data
    section = _section(reading.plan, wordings, model)
    maker = _paraphraser(reading.plan, section)
    records = as_trained(read_records(
        reading.files, options=reading.options,
        quarantine=Quarantine(max_bad_fraction=data.max_bad_fraction),
    ), data)
    made = []
    console = Console(highlight=False, emoji=False)
    for number, record in enumerate(records[:limit] if section.model else records):
        made.append(maker.of(record))
        if number < limit:
            console.print(_beside(record, made[-1], dropped=dropped))
    sources, faults = counts(made)
    several = sum(bool(one.made) for one in made)
    console.print(f"{len(made)} records, {several} with other wordings", markup=False)
    for name, count in sources.most_common():
        console.print(f"made: {count} x {name}", markup=False)
    for name, count in faults.most_common():
        console.print(f"dropped: {count} x {name}", markup=False)


def _section(plan: Plan, wordings: Path | None, model: Path | None) -> ParaphrasesSection:
    """The plan's section, on, with what the command line names in its place."""
    section = plan.paraphrases
    return section.model_copy(update={
        "use": "all" if section.use == "none" else section.use,
        "wordings": str(wordings) if wordings is not None else section.wordings,
        "model": str(model) if model is not None else section.model,
    })


def _paraphraser(plan: Plan, section: ParaphrasesSection) -> Paraphraser:
    from medunlearn_client.paraphrases import Paraphraser
    from medunlearn_client.site_data import record_tagger

    maker = Paraphraser.of_plan(section, record_tagger(plan.concepts, plan.forget, plan.data))
    if maker is None:
        raise RuntimeError("a paraphraser was asked for and none was made")
    return maker


def _beside(record: Record, made: Paraphrases, *, dropped: bool) -> Table:
    """The question on the left, its other wordings on the right."""
    from medunlearn_client.paraphrases.rewording import taken_apart
    from medunlearn_client.tagging.views import visible

    table = Table(
        title=Text(f"{visible(record.record_id)} ({made.kind})"), title_justify="left",
        show_header=False, expand=True,
    )
    table.add_column(ratio=2)
    table.add_column(width=9)
    table.add_column(ratio=3)
    left = visible(taken_apart(record.prompt).question)
    rows: list[tuple[str, str]] = [
        (p.source, taken_apart(p.record.prompt).question) for p in made.made
    ]
    if dropped:
        rows += [("dropped", f"{d.wording} [{d.fault.value}]") for d in made.dropped]
    for number, (source, wording) in enumerate(rows or [("none", "")]):
        table.add_row(Text(left if number == 0 else ""), source, Text(visible(wording)))
    return table


def write_wordings(
    file: Annotated[Path, typer.Argument(help="Where to write; - prints them.")] = Path("-"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write the packaged wordings, to edit and to name as \\[paraphrases] wordings.

    Example:

      medunlearn records wordings our-wordings.toml
    """
    from medunlearn_client.paraphrases.templates import packaged_text

    write_out(file, packaged_text(), key="paraphrases.wordings", code="WORDINGS", force=force)

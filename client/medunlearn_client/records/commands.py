"""``medunlearn records``: check, templates, and the wordings of :mod:`paraphrase_commands`."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from medunlearn_client.editable import write_out
from medunlearn_client.output_files import refuse_other_file, refuse_what_is_read
from medunlearn_client.paraphrase_commands import paraphrase, write_wordings
from medunlearn_client.reading_options import FormatOption, PlanOption, reading_of
from medunlearn_client.records.fhir.templates import packaged_text
from medunlearn_client.records.merges import merged
from medunlearn_client.records.quarantine import MAX_KEPT, Quarantine, is_quarantine_file
from medunlearn_client.records.reading import stream_records
from medunlearn_client.records.record import Record
from medunlearn_common.pages.formatting import plain
from medunlearn_common.plan.sections import ForgetSection, Plan

records_app = typer.Typer(
    help="Look at record files as a run will see them; nothing is kept or sent.",
    no_args_is_help=True, rich_markup_mode="rich",
)
_NO_SUBJECT = "(none)"
_WITH_POINT = re.compile(r"-?\d+\.0+")


@records_app.command("check")
def check(
    data: Annotated[
        list[str] | None, typer.Argument(help="Files, folders or archives; default: the plan's.")
    ] = None,
    plan: PlanOption = None,
    record_format: FormatOption = None,
    fhir_templates: Annotated[
        Path | None, typer.Option("--fhir-templates", help="TOML file of FHIR templates.")
    ] = None,
    quarantine: Annotated[
        Path | None, typer.Option(
            "--quarantine", help="Write bad rows here: number and reason, of the first "
            f"{MAX_KEPT:,}; of more the count.")
    ] = None,
) -> None:
    """Read records and count what came out, by subject; bad rows by reason.

    Of the plan's own files it also says how many of their records the plan would forget, and
    refuses what a run would: repairs, decisions or hierarchies that are not there.

    Examples:

      medunlearn records check export/ --quarantine bad.jsonl

      medunlearn records check patients.xlsx --plan plan.toml
    """
    reading = reading_of(data, plan, record_format)
    options = reading.options
    if fhir_templates is not None:
        options = replace(options, fhir_templates=fhir_templates)
    if quarantine is not None:
        refuse_what_is_read(quarantine, (*reading.files, plan, options.fhir_templates))
        refuse_other_file(quarantine, is_quarantine_file, what="list of bad rows")
    held = Quarantine(path=quarantine, max_bad_fraction=reading.plan.data.max_bad_fraction)
    tally = RecordTally()
    # A part of the files need not hold what is to be forgotten.
    asks = not data and _forgets_something(reading.plan.forget)
    read: list[Record] = []
    for record in stream_records(reading.files, quarantine=held, options=options):
        tally.add(record)
        if asks:
            read.append(record)
    _print(tally, held)
    if asks:
        # A run splits whole patients, and a merge may be said in any row.
        typer.echo(_split_line(merged(read), reading.plan))
    if plan is not None and not data:
        _require_what_a_run_reads(reading.plan)


def _forgets_something(forget: ForgetSection) -> bool:
    named = (forget.records, forget.patients, forget.subjects, forget.concepts)
    return any(named) or bool(forget.patient_fraction)


def _split_line(records: list[Record], plan: Plan) -> str:
    """How many records the plan would forget and keep; raises as a run would."""
    from medunlearn_client.records.forget_sets import require_whole_patients
    from medunlearn_client.site_data import split_as_planned

    split = split_as_planned(
        records, plan.data, plan.forget, plan.concepts, seed=plan.run.seed
    )
    if plan.privacy.unit == "patient":
        require_whole_patients(split)
    patients = len({one.patient_id for one in split.forget if one.patient_id is not None})
    of_patients = f", of {patients} patient(s)" if patients else ""
    return f"to forget: {len(split.forget)} record(s){of_patients}; to keep: {len(split.retain)}"


def _require_what_a_run_reads(plan: Plan) -> None:
    """Read what a run reads beside the records, last: who has still to make it sees the counts."""
    from medunlearn_client.records.repairs import read_repairs
    from medunlearn_client.site_data import record_tagger

    if plan.data.repairs:
        read_repairs(Path(plan.data.repairs))
    record_tagger(plan.concepts, plan.forget, plan.data)


class RecordTally:
    """Counts of records by subject: all, with options, of patients; and ids like ``17.0``."""

    def __init__(self) -> None:
        self.records: Counter[str] = Counter()
        self.ranked: Counter[str] = Counter()
        self.of_patients: Counter[str] = Counter()
        self.with_point = 0

    def add(self, record: Record) -> None:
        """Count one more."""
        subject = record.subject or _NO_SUBJECT
        self.records[subject] += 1
        self.ranked[subject] += bool(record.options)
        self.of_patients[subject] += record.patient_id is not None
        ids = (record.record_id, record.patient_id or "")
        self.with_point += any(map(_WITH_POINT.fullmatch, ids))


def _print(tally: RecordTally, held: Quarantine) -> None:
    table = Table("subject", "records", "with options", "of patients")
    for subject, count in tally.records.most_common():
        table.add_row(
            Text(plain(subject)), str(count), str(tally.ranked[subject]),
            str(tally.of_patients[subject]),
        )
    console = Console(emoji=False)
    console.print(table)
    console.print(f"{tally.records.total()} records")
    for kind, count in (+held.set_aside).most_common():
        console.print(f"set aside: {count} x {kind}", markup=False)
    for code, count in held.by_code.most_common():
        console.print(f"bad rows: {count} x {code}", markup=False)
    if held.path is not None and held.unlisted:
        console.print(f"note: {held.unlisted}", markup=False, soft_wrap=True)
    if tally.with_point:
        console.print(
            f"note: {tally.with_point} record(s) have an id such as 17.0, as a column of numbers "
            "becomes by one gap; to a file that says 17 that is another record or patient",
            markup=False, soft_wrap=True,
        )


@records_app.command("templates")
def templates(
    file: Annotated[Path, typer.Argument(help="Where to write; - prints them.")] = Path("-"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write the FHIR templates, to edit and to name as \\[data] fhir_templates.

    Example:

      medunlearn records templates our-templates.toml
    """
    write_out(file, packaged_text(), key="data.fhir_templates", code="TEMPLATES", force=force)


records_app.command("paraphrase")(paraphrase)
records_app.command("wordings")(write_wordings)

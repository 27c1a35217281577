"""``medunlearn check-data``: what a person should look at before a run, and mends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console

from medunlearn_client.output_files import (
    refuse_other_file,
    refuse_same_file,
    refuse_what_is_read,
)
from medunlearn_client.reading_options import FormatOption, PlanOption, Reading, reading_of
from medunlearn_common.errors import Misconfigured

if TYPE_CHECKING:
    from medunlearn_client.quality import DamagedWord, DuplicateGroup, WrongSubject
    from medunlearn_client.records import Record
    from medunlearn_client.records.repairs import Repair
    from medunlearn_client.tagging import ConceptTagger
    from medunlearn_common.plan.sections import Plan

DUPLICATES_FILE: Final = "duplicates.csv"
DAMAGE_FILE: Final = "damaged_words.csv"
SUBJECTS_FILE: Final = "wrong_subjects.csv"
CHANGES_SUFFIX: Final = ".changes.csv"
_DUPLICATE_COLUMNS: Final = ("group", "kind", "similarity", "record", "question", "answer")
_SUBJECT_COLUMNS: Final = ("record", "subject", "suggested", "concepts", "question", "answer")


@dataclass(frozen=True, kw_only=True, repr=False)
class Findings:
    """All that was found in the records."""

    records: Sequence[Record]
    groups: Sequence[DuplicateGroup]
    damage: Sequence[DamagedWord]
    misfiled: Sequence[WrongSubject]
    bad_rows: int
    lost: Sequence[str]


def check_data(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Record files, folders or archives; default: the plan's.",
                       show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the three tables.")
    ] = None,
    plan: PlanOption = None,
    record_format: FormatOption = None,
    threshold: Annotated[
        float, typer.Option("--threshold", help="Similarity of near-duplicates, 0 to 1.")
    ] = 0.8,
    lost: Annotated[
        list[str] | None,
        typer.Option("--lost", help="Letters that may be lost, looked for in rows that have them "
                     "nowhere; repeatable. Default: rt.", show_default=False),
    ] = None,
    hierarchy: Annotated[
        list[str] | None,
        typer.Option("--hierarchy", help="Vouches for words and subjects; repeatable."),
    ] = None,
    home: Annotated[
        list[str] | None,
        typer.Option("--home", help="SUBJECT=ID: concepts a subject is about; repeatable."),
    ] = None,
    review: Annotated[
        Path | None,
        typer.Option("--review", help="Edited damaged_words (.csv, .xlsx) to take over."),
    ] = None,
    decisions: Annotated[
        Path | None,
        typer.Option("--decisions", help="Where decided repairs are kept; default: the plan's."),
    ] = None,
    repair: Annotated[
        Path | None, typer.Option("--repair", help="Write a repaired copy here (JSON lines).")
    ] = None,
    sure: Annotated[
        bool, typer.Option("--sure", help="Repair sure words too, where nobody decided.")
    ] = False,
) -> None:
    """List near-duplicates, contradictions, damaged words and misfiled questions; repair copies.

    The files themselves are never changed. The tables hold text of records, open in a
    spreadsheet, and are readable by their owner only. Fill `decision` (accept, reject, or the
    right word), `author` and `date` in damaged_words.csv and hand it back with --review; name
    the decisions in the plan, `\\[data] repairs`, and a run uses them.

    Examples:

      medunlearn check-data questions.jsonl.gz --out checked

      medunlearn check-data patients.xlsx --plan plan.toml --out checked

      medunlearn check-data questions.jsonl.gz --review checked/damaged_words.csv
      --decisions repairs.jsonl

      medunlearn check-data questions.jsonl.gz --decisions repairs.jsonl --repair mended.jsonl
    """
    reading = reading_of(files, plan, record_format)
    decisions = decisions or _planned_repairs(reading.plan, is_needed=bool(review or repair))
    refuse_same_file(*reading.files, review, decisions, repair, plan)
    if repair is not None:
        _refuse_to_replace(repair, (*reading.files, review, decisions, plan))
    if review is not None and decisions is None:
        raise Misconfigured(
            "CHECK_DECISIONS_MISSING", "a review, and nowhere to keep its decisions",
            "add --decisions repairs.jsonl",
        )
    if sure and repair is None:
        raise Misconfigured("CHECK_SURE_ALONE", "--sure repairs nothing alone", "add --repair")
    if decisions is not None and review is None:
        _require_readable(decisions)
    found = _findings(reading, threshold, lost, hierarchy, home)
    for line in summary(found):
        _say(line)
    if review is not None and decisions is not None:
        _take_over(found, review, decisions)
    if out is not None:
        _write_tables(found, out, decisions)
    if repair is not None:
        _write_copy(found, repair, decisions, sure=sure)


def _planned_repairs(plan: Plan, *, is_needed: bool) -> Path | None:
    """The repairs that a run of the plan uses; None before the first review."""
    if not plan.data.repairs:
        return None
    path = Path(plan.data.repairs)
    if is_needed or path.exists():
        return path
    Console(stderr=True, highlight=False, emoji=False).print(
        f"note: the plan's repairs, {path}, are not there yet: --review makes the file",
        style="dim", markup=False, soft_wrap=True,
    )
    return None


def _require_readable(decisions: Path) -> None:
    """Refuse a name mistyped before records are read; a table would ask everything anew."""
    from medunlearn_client.records.repairs import read_repairs

    read_repairs(decisions)


def _findings(
    reading: Reading, threshold: float, lost: list[str] | None, hierarchy: list[str] | None,
    home: list[str] | None,
) -> Findings:
    from medunlearn_client.quality import damaged_words, near_duplicates, vocabulary_of
    from medunlearn_client.quality.glyphs import LOST_LETTERS
    from medunlearn_client.quality.subjects import wrong_subjects
    from medunlearn_client.records import Quarantine, read_records
    from medunlearn_client.tagging import ConceptTagger
    from medunlearn_common.concepts import load_hierarchies

    letters = tuple(lost or LOST_LETTERS)
    _check_options(threshold, letters)
    loaded = load_hierarchies(hierarchy or ["builtin"])
    tagger = ConceptTagger(loaded.with_forget_roots(()))
    homes = _homes(home, tagger)
    held = Quarantine(max_bad_fraction=reading.plan.data.max_bad_fraction)
    records = read_records(reading.files, options=reading.options, quarantine=held)
    return Findings(
        records=records, groups=near_duplicates(records, threshold=threshold),
        damage=damaged_words(records, vocabulary=vocabulary_of(loaded), lost=letters),
        misfiled=list(wrong_subjects(records, tagger, homes)), bad_rows=held.count, lost=letters,
    )


def _homes(home: list[str] | None, tagger: ConceptTagger) -> dict[str, tuple[str, ...]]:
    """The homes asked for, or those of the built-in hierarchies as far as they are loaded."""
    from medunlearn_client.quality.subjects import BUILTIN_HOMES, read_homes

    if home:
        homes = read_homes(home)
        for root in (root for roots in homes.values() for root in roots):
            tagger.hierarchy.hierarchy.resolve(root)
        return homes
    graph = tagger.hierarchy.hierarchy
    return {
        subject: roots for subject, roots in BUILTIN_HOMES.items()
        if all(root in graph for root in roots)
    }


def summary(found: Findings) -> list[str]:
    """Counts, without any record's text."""
    kinds = Counter(group.kind for group in found.groups)
    rows = Counter[str]()
    for group in found.groups:
        rows[group.kind] += len(group.record_ids)
    listed = ", ".join(f"{n} {kind} group(s) of {rows[kind]} rows" for kind, n in kinds.items())
    damaged = {one.record_id for one in found.damage}
    return [
        f"{len(found.records)} records" + (
            f" ({found.bad_rows} bad row(s) left out; `records check` says why)"
            if found.bad_rows else ""
        ),
        f"near-duplicates: {listed or 'none'}",
        f"damaged words (lost: {', '.join(found.lost)}): {len(found.damage)} in "
        f"{len(damaged)} record(s), {sum(one.sure for one in found.damage)} with one sure proposal",
        f"questions that speak of another subject only: {len(found.misfiled)}",
    ]


def _say(line: str) -> None:
    Console(highlight=False, emoji=False).print(line, markup=False, soft_wrap=True)


def _take_over(found: Findings, review: Path, decisions: Path) -> None:
    from medunlearn_client.decisions import told_replaced
    from medunlearn_client.quality.repair_review import read_damage
    from medunlearn_client.records.repairs import keep_repairs

    reviewed = read_damage(review, found.damage, today=date.today())
    kept = keep_repairs(decisions, reviewed.decisions)
    changed = sum(one.changes for one in reviewed.decisions)
    _say(
        f"{len(reviewed.decisions)} decision(s) taken over ({changed} to repair, "
        f"{len(reviewed.decisions) - changed} right as they stand), {reviewed.open_rows} row(s) "
        f"open; {decisions} holds {len(kept)}{told_replaced(reviewed.decisions, kept.holds)}"
    )


def _write_tables(found: Findings, out: Path, decisions: Path | None) -> None:
    """The three tables; what was decided on before is asked no more."""
    from medunlearn_client.quality.repair_review import write_damage
    from medunlearn_client.records.repairs import NO_REPAIRS, read_repairs
    from medunlearn_client.spreadsheets import write_table

    decided = read_repairs(decisions) if decisions is not None else NO_REPAIRS
    is_open = [not decided.decide_on(one.place, one.word) for one in found.damage]
    # First, since it alone may be refused: then none of the three is written.
    write_damage(out / DAMAGE_FILE, found.records, list(compress(found.damage, is_open)))
    write_table(out / DUPLICATES_FILE, _DUPLICATE_COLUMNS, _duplicate_rows(found))
    write_table(out / SUBJECTS_FILE, _SUBJECT_COLUMNS, _subject_rows(found))
    _say(f"wrote {DUPLICATES_FILE}, {DAMAGE_FILE} and {SUBJECTS_FILE} to {out}")
    if answered := is_open.count(False):
        _say(f"{DAMAGE_FILE} is without {answered} word(s) that {decisions} decides on")


def _write_copy(found: Findings, target: Path, decisions: Path | None, *, sure: bool) -> None:
    """The repaired copy, and beside it the list of what changed, which is written first.

    So an interruption leaves a list without a copy, never a changed copy without its list.
    """
    import json

    from medunlearn_client.quality.repair_review import sure_repairs, write_changes
    from medunlearn_client.records.jsonl import row_from_record
    from medunlearn_client.records.repairs import NO_REPAIRS, Repairs, read_repairs
    from medunlearn_common.files import write_atomically

    decided = read_repairs(decisions) if decisions is not None else NO_REPAIRS
    by_rule = sure_repairs(found.damage, today=date.today()) if sure else ()
    repairs = Repairs((*by_rule, *decided.history()))  # what a person decided comes last
    changes: list[Repair] = []
    lines = []
    for record in found.records:
        mended, made = repairs.repaired(record)
        changes += made
        lines.append(json.dumps(row_from_record(mended), ensure_ascii=False) + "\n")
    listed = _changes_of(target)
    write_changes(listed, changes)
    write_atomically(target, "".join(lines).encode("utf-8"))
    rows = len({one.record_id for one in changes})
    _say(f"wrote {target}: {len(changes)} word(s) repaired in {rows} record(s), see {listed}")
    if unused := decided.unused(changes):
        _say(f"{unused} decision(s) changed nothing: their words do not stand there any more")


def _changes_of(copy: Path) -> Path:
    return copy.with_name(copy.name + CHANGES_SUFFIX)


def _refuse_to_replace(copy: Path, read: Sequence[Path | None]) -> None:
    """A copy of before has its list of changes beside it; any other file is somebody's data."""
    for written in (copy, _changes_of(copy)):
        refuse_what_is_read(written, read)
    refuse_other_file(copy, lambda path: _changes_of(path).is_file(), what="repaired copy")


def _check_options(threshold: float, letters: Sequence[str]) -> None:
    if not 0.0 < threshold <= 1.0:
        raise Misconfigured(
            "CHECK_THRESHOLD", f"the threshold {threshold} is outside (0, 1]", "use 0.8, say"
        )
    if not all(one.isalpha() and one.islower() for one in letters):
        raise Misconfigured(
            "CHECK_LETTERS", "lost letters are not lower-case letters", "use --lost rt, say"
        )


def _duplicate_rows(found: Findings) -> Iterator[dict[str, str]]:
    by_id = {record.record_id: record for record in found.records}
    for number, group in enumerate(found.groups, start=1):
        for record_id in group.record_ids:
            yield {
                "group": str(number), "kind": group.kind.value,
                "similarity": f"{group.similarity:.3f}", "record": record_id,
                "question": by_id[record_id].prompt, "answer": by_id[record_id].answer,
            }


def _subject_rows(found: Findings) -> Iterator[dict[str, str]]:
    by_id = {record.record_id: record for record in found.records}
    for one in found.misfiled:
        yield {
            "record": one.record_id, "subject": one.subject, "suggested": one.suggested,
            "concepts": " | ".join(one.concepts), "question": by_id[one.record_id].prompt,
            "answer": by_id[one.record_id].answer,
        }

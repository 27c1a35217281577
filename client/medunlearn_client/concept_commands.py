"""``medunlearn concepts tag`` and ``decide``: mentions shown, uncertain ones reviewed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from medunlearn_client.output_files import refuse_other_file, refuse_same_file
from medunlearn_client.reading_options import FormatOption, PlanOption, Reading, reading_of
from medunlearn_common.concepts.commands import Joined
from medunlearn_common.plan.sections import ConceptsSection, Plan

if TYPE_CHECKING:
    from medunlearn_client.records import Record
    from medunlearn_client.tagging import ConceptSpan, ConceptTagger, TagDecisions
    from medunlearn_client.tagging.views import TaggedRecord

DEFAULT_HIERARCHY = "builtin"
_TITLE = "Concepts in "
_HEAD_BYTES = 1 << 10
_MAX_TITLE_FILES = 3

FilesArgument = Annotated[
    list[Path] | None,
    typer.Argument(help="Record files, folders or archives; default: the plan's.",
                   show_default=False),
]
HierarchyOption = Annotated[
    list[str] | None,
    typer.Option("--hierarchy", help="builtin, builtin:NAME, a file (OBO, outline, MeSH, "
                 "ICD-10-CM) or a release folder (UMLS, SNOMED CT); repeat for several."),
]
RootOption = Annotated[
    list[str] | None,
    typer.Option("--forget-root", help="Concept id that is level 4 with all below it; repeatable."),
]
DecisionsOption = Annotated[
    Path | None,
    typer.Option("--decisions", help="Decisions made so far (JSON lines); else the plan's."),
]


def tag(
    files: FilesArgument = None,
    hierarchy: HierarchyOption = None,
    join: Joined = False,
    forget_root: RootOption = None,
    decisions: DecisionsOption = None,
    plan: PlanOption = None,
    record_format: FormatOption = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Records to show.")] = 10,
    html: Annotated[Path | None, typer.Option("--html", help="Page with those records.")] = None,
    review: Annotated[
        Path | None, typer.Option("--review", help="Table of all uncertain tags, to be decided.")
    ] = None,
) -> None:
    """Show which concepts the records mention, and write what is uncertain for review.

    Colours are levels (4 is to be forgotten); in a patient's record what is negated or a
    relative's is not level 4. The review file opens in a spreadsheet; `concepts decide` reads
    it back. Both hold text of records and are readable by their owner only.

    Examples:

      medunlearn concepts tag notes.jsonl --forget-root MU:S0001

      medunlearn concepts tag --plan plan.toml

      medunlearn concepts tag notes.jsonl --limit 200 --html tagged.html --review review.csv
    """
    from medunlearn_client.tagging import NO_DECISIONS, read_decisions
    from medunlearn_client.tagging.readings import DoubtFinder
    from medunlearn_client.tagging.review import write_review
    from medunlearn_client.tagging.views import page
    from medunlearn_common.files import write_atomically

    reading = reading_of(files, plan, record_format)
    planned = reading.plan if plan else None
    decisions = decisions or _planned_decisions(planned)
    refuse_same_file(*reading.files, html, review, decisions, plan)
    if html is not None:
        refuse_other_file(html, _is_page, what="page of tagged records")
    held = read_decisions(decisions) if decisions is not None else NO_DECISIONS
    tagger = _tagger(planned, hierarchy, forget_root, held, join=join)
    _tell_notes(tagger)
    records = _records(reading)
    console = Console(highlight=False, emoji=False)
    tagged = _tagged(records, tagger)
    _show(console, tagged[:limit])
    _summary(console, tagged)
    unmet = held.unmet(_mentions(records, tagger))
    if unmet:
        _note(f"{unmet} decision(s) of {decisions} meet no mention of these records: "
              f"{_why_unmet(reading)}; write a new review for what is open")
    if html is not None:
        title = _TITLE + _named(reading.files)
        text = page(tagged[:limit], tagger.hierarchy.hierarchy, title=title)
        write_atomically(html, text.encode("utf-8"))
        console.print(f"wrote {html}", markup=False, soft_wrap=True)
    if review is not None:
        uncertain = DoubtFinder(tagger).uncertain(records)
        rows = write_review(review, uncertain, tagger.hierarchy.hierarchy)
        console.print(f"wrote {rows} uncertain tag(s) to {review}", markup=False, soft_wrap=True)


def decide(
    review: Annotated[
        Path, typer.Argument(help="The edited review file, CSV or .xlsx.", show_default=False)
    ],
    decisions: Annotated[
        Path, typer.Option("--decisions", help="Where decisions are kept.", show_default=False)
    ],
    files: FilesArgument = None,
    hierarchy: HierarchyOption = None,
    join: Joined = False,
    forget_root: RootOption = None,
    plan: PlanOption = None,
    record_format: FormatOption = None,
) -> None:
    """Take a clinician's decisions over, each with its author and date.

    An unknown or damaged row refuses the file, with its line; rows without a decision stay
    open. Name the decisions in the plan, `\\[data] tag_decisions`, and a run uses them.

    Examples:

      medunlearn concepts decide review.csv notes.jsonl --decisions decisions.jsonl

      medunlearn concepts decide review.csv --plan plan.toml --decisions decisions.jsonl
    """
    from medunlearn_client.decisions import told_replaced
    from medunlearn_client.tagging import NO_DECISIONS, keep_decisions
    from medunlearn_client.tagging.readings import DoubtFinder
    from medunlearn_client.tagging.review import read_review

    reading = reading_of(files, plan, record_format)
    refuse_same_file(*reading.files, review, decisions)
    # Without earlier decisions: they change tags, and with them what a row was written for.
    planned = reading.plan if plan else None
    tagger = _tagger(planned, hierarchy, forget_root, NO_DECISIONS, join=join)
    _tell_notes(tagger)
    known = DoubtFinder(tagger).uncertain(_records(reading))
    found = read_review(review, known, tagger.hierarchy.hierarchy, today=date.today())
    kept = keep_decisions(decisions, found.decisions)
    Console(highlight=False, emoji=False).print(
        f"{len(found.decisions)} decision(s) taken over, {found.open_rows} row(s) open; "
        f"{decisions} holds {len(kept)}{told_replaced(found.decisions, kept.holds)}",
        markup=False, soft_wrap=True,
    )


def _records(reading: Reading) -> Sequence[Record]:
    """As a run tags them: a decision on a mention holds for these words, repaired ones included."""
    from medunlearn_client.records import Quarantine, read_records
    from medunlearn_client.site_data import mended

    data = reading.plan.data
    held = Quarantine(max_bad_fraction=data.max_bad_fraction)
    return mended(read_records(reading.files, options=reading.options, quarantine=held), data)


def _tagger(
    plan: Plan | None, hierarchies: list[str] | None, roots: list[str] | None, held: TagDecisions,
    *, join: bool,
) -> ConceptTagger:
    """By the plan's hierarchies and roots, except where the command line names its own."""
    from medunlearn_client.site_data import leveled_hierarchy
    from medunlearn_client.tagging import ConceptTagger

    section = plan.concepts if plan else ConceptsSection(hierarchies=(DEFAULT_HIERARCHY,))
    if hierarchies:
        section = section.model_copy(update={"hierarchies": tuple(hierarchies)})
    if join:
        section = section.model_copy(update={"join": "xrefs"})
    if roots is not None:
        section = section.model_copy(update={"forget_roots": tuple(roots)})
    forget = plan.forget if plan and roots is None else None
    return ConceptTagger(leveled_hierarchy(section, forget), decisions=held)


def _planned_decisions(plan: Plan | None) -> Path | None:
    """The decisions that a run of the plan uses; None before the first review."""
    if plan is None or not plan.data.tag_decisions:
        return None
    path = Path(plan.data.tag_decisions)
    if path.exists():
        return path
    _note(f"the plan's decisions, {path}, are not there yet: `concepts decide` makes the file")
    return None


def _why_unmet(reading: Reading) -> str:
    """What may be the reason where decisions meet no mention of the records that were read."""
    planned = {Path(name).resolve() for name in reading.plan.data.files}
    if planned and planned <= {file.resolve() for file in reading.files}:
        return "their words may have changed since"
    return "they belong to other files, or the words have changed since"


def _named(files: Sequence[Path]) -> str:
    """The names of the first files, and how many more there are."""
    names = ", ".join(file.name for file in files[:_MAX_TITLE_FILES])
    more = len(files) - _MAX_TITLE_FILES
    return f"{names} and {more} more" if more > 0 else names


def _is_page(path: Path) -> bool:
    """Whether a file is such a page as ``concepts tag`` writes."""
    with path.open("rb") as stream:
        return f"<title>{_TITLE}".encode() in stream.read(_HEAD_BYTES)


def _note(text: str) -> None:
    """A remark on standard error, so that what is shown can be kept in a file."""
    from medunlearn_client.tagging.views import visible

    Console(stderr=True, highlight=False, emoji=False).print(
        f"note: {visible(text)}", style="dim", markup=False, soft_wrap=True
    )


def _tell_notes(tagger: ConceptTagger) -> None:
    for note in tagger.hierarchy.notes:
        _note(note)


def _mentions(
    records: Iterable[Record], tagger: ConceptTagger
) -> Iterator[tuple[Record, ConceptSpan]]:
    """Every mention as it is found before anybody decides on it."""
    for record in records:
        spans = tagger.found_in(record)
        for span in (*spans, *tagger.decisions.read_abbreviations(record, spans)):
            yield record, span


def _tagged(records: Iterable[Record], tagger: ConceptTagger) -> list[TaggedRecord]:
    from medunlearn_client.tagging.views import TaggedRecord

    return [TaggedRecord(record=record, spans=tagger.tag_record(record)) for record in records]


def _show(console: Console, tagged: list[TaggedRecord]) -> None:
    from medunlearn_client.tagging.views import coloured, legend, marked, visible

    in_colour = console.is_terminal and not console.no_color
    if in_colour and tagged:
        console.print(legend())
    for item in tagged:
        console.print(f"-- {visible(item.record.record_id)}", markup=False, soft_wrap=True)
        if in_colour:
            console.print(coloured(item), soft_wrap=True)
        else:
            console.print(marked(item), markup=False, soft_wrap=True)


def _summary(console: Console, tagged: list[TaggedRecord]) -> None:
    levels = Counter(int(span.level) for item in tagged for span in item.spans)
    said = Counter(span.assertion.value for item in tagged for span in item.spans)
    targets = sum(any(int(span.level) == 4 for span in item.spans) for item in tagged)
    by_level = ", ".join(f"level {level}: {levels[level]}" for level in (1, 2, 3, 4))
    others = ", ".join(f"{count} {name}" for name, count in sorted(said.items()))
    console.print(
        f"{len(tagged)} record(s), {targets} with a target; mentions by {by_level} "
        f"({others or 'none'})", markup=False, soft_wrap=True,
    )

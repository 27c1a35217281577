"""What the terminal shows: tables of cells that are never read as markup."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.table import Table
from rich.text import Text

from medunlearn_client.erasure import documents
from medunlearn_client.erasure.claims import FORGOTTEN
from medunlearn_client.erasure.judgements import changed_criteria, verifying
from medunlearn_client.erasure.registry import Registry
from medunlearn_client.erasure.requests import (
    ErasureRequest,
    Event,
    Match,
    last_lawful_day,
    next_step,
    run_in_words,
)
from medunlearn_client.erasure.settings import Settings


def requests_table(registry: Registry, requests: Iterable[ErasureRequest]) -> Table:
    """One line per request, in 80 columns as long as names of runs are short: no id, no name."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("no.", "state", "about", "due", "left", "records"):
        table.add_column(
            column, no_wrap=True, justify="right" if column in ("no.", "records") else "left")
    table.add_column("run", overflow="fold")
    for request in requests:
        late = request.awaits_action and last_lawful_day(request.act_by) < registry.today
        _row(table, (
            str(request.number), str(request.state), request.about,
            str(request.act_by), _left(registry, request),
            str(len(registry.matches(request.number))),
            _run(request, registry.events(request.number)),
        ), style="bold red" if late else "")
    return table


def next_steps(registry: Registry, requests: Iterable[ErasureRequest]) -> Iterator[Text]:
    """What to do next, a line for each request."""
    for request in requests:
        step = next_step(request, registry.events(request.number))
        yield Text(_printable(f"request {request.number}: {step}"))


def _left(registry: Registry, request: ErasureRequest) -> str:
    """Days until something is due, in words, for colour does not go through a pipe.

    Once it is over at a weekend, those until or since the Monday with which the period ends.
    """
    if not request.awaits_action:
        return "closed"
    due = request.act_by
    last = due if registry.today <= due else last_lawful_day(due)
    days = (last - registry.today).days
    return "today" if not days else f"{abs(days)} day{'s' * (abs(days) > 1)}" + " late" * (days < 0)


def _run(request: ErasureRequest, events: Sequence[Event]) -> str:
    changed = request.state in FORGOTTEN and changed_criteria(verifying(events))
    return run_in_words(request, events) + " by changed criteria" * bool(changed)


def document_parts(document: documents.Document) -> Iterator[Table | Text]:
    """A report on the terminal."""
    yield Text(document.title, style="bold")
    for paragraph in document.paragraphs:
        yield Text(paragraph)
    for part in document.tables:
        table = _table(part.header, title=part.title)
        for row in part.rows:
            _row(table, row)
        yield table
    yield Text(document.foot, style="dim")


def matches_table(matches: Sequence[Match]) -> Table:
    """Ids of records, for an officer who asked to see them."""
    table = _table(("record id", "matched by", "source (SHA-256)"))
    for match in matches:
        _row(table, (match.record_id, match.reason, match.file_digest[:16]))
    return table


def settings_table(settings: Settings) -> Table:
    """Settings with what they mean."""
    table = _table(("setting", "value", ""))
    for name, field in type(settings).model_fields.items():
        _row(table, (name, str(getattr(settings, name)), field.description or ""))
    return table


def _table(columns: Sequence[str], *, title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _row(table: Table, cells: Iterable[str], *, style: str = "") -> None:
    table.add_row(*(Text(_printable(cell)) for cell in cells), style=style)


def _printable(text: str) -> str:
    """Ids come from files: a control character in one must not reach the terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)

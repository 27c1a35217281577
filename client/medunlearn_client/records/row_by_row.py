"""One row at a time: a bad row is an answer like any other, and stops nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from medunlearn_client.records.fields import Row
from medunlearn_client.records.record import InvalidRecord, Record

RowResult = list[Record] | InvalidRecord


def attempt(make: Callable[[], Record]) -> RowResult:
    """The record that ``make`` returns, or the error of the row it was made from."""
    try:
        return [make()]
    except InvalidRecord as error:
        return error


def row_by_row(
    rows: Iterable[tuple[int, Row]], records_of: Callable[[Row], list[Record]]
) -> Iterator[tuple[int, RowResult]]:
    """Each row by itself: ``(row number, its records, perhaps none, or what is wrong)``."""
    for number, row in rows:
        try:
            yield number, records_of(row)
        except InvalidRecord as error:
            yield number, error

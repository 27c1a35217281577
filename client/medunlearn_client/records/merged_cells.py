"""Merged cells of a worksheet: the value of the first holds for the rows below it.

Whoever merges a patient's number over the rows of all his visits means it for each of them, but
the file holds it in the first row alone: read as they lie there, the other visits are nobody's.
A sheet lists its merged cells after its rows, so the list is looked for before they are read.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import IO, NamedTuple

from openpyxl.utils.cell import column_index_from_string

MAX_MERGED = 1 << 20

Values = tuple[object, ...]

_CHUNK_BYTES = 1 << 20
_MERGED = re.compile(
    rb"<(?:\w{1,20}:)?mergeCell\s[^<>]{0,80}?ref=[\"']([A-Z]{1,3})(\d{1,7}):[A-Z]{1,3}(\d{1,7})[\"']"
)
_LONGEST = 160


class Stretch(NamedTuple):
    """A column's merged cells.

    Attributes:
        column: From 0.
        last: Number of the last row.
    """

    column: int
    last: int


def merged_stretches(xml: IO[bytes]) -> dict[int, list[Stretch]]:
    """Merged cells of more than one row, by the number of their first row.

    Raises:
        ValueError: There are more than a sheet can be drawn with.
    """
    found: dict[int, list[Stretch]] = defaultdict(list)
    count, kept = 0, b""
    while piece := xml.read(_CHUNK_BYTES):
        text, end = kept + piece, 0
        for match in _MERGED.finditer(text):
            end = match.end()
            count += 1
            if count > MAX_MERGED:
                raise ValueError("too many merged cells")
            first, last = int(match[2]), int(match[3])
            if last > first:
                column = column_index_from_string(match[1].decode("ascii")) - 1
                found[first].append(Stretch(column, last))
        kept = text[max(end, len(text) - _LONGEST):]
    return found


def filled_down(rows: Iterable[Values], stretches: dict[int, list[Stretch]]) -> Iterator[Values]:
    """The rows, where an empty cell within a stretch has the value of the stretch's first.

    A row without any value of its own stays without one.
    """
    running: dict[int, tuple[int, object]] = {}
    for number, row in enumerate(rows, start=1):
        begun = {s.column: (s.last, row[s.column]) for s in stretches.get(number, ())
                 if s.column < len(row)}
        running = {c: held for c, held in running.items() if held[0] >= number} | begun
        if running and row.count(None) < len(row):
            filled = list(row)
            for column, (_, value) in running.items():
                if column < len(filled) and filled[column] is None:
                    filled[column] = value
            yield tuple(filled)
        else:
            yield row

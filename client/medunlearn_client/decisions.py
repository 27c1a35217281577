"""What people decided, on its way from a spreadsheet to a file that runs read.

A table goes out with a row per open question (:func:`write_open_table`) and comes back filled in
(:func:`read_decided_table`). Decisions are kept as JSON lines in the order in which they were made
(:func:`keep_lines`). Nothing is ever deleted: a later decision holds, and the earlier one stays on
record.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

from medunlearn_client.records.record import InvalidRecord
from medunlearn_client.records.streams import json_lines
from medunlearn_client.spreadsheets import is_workbook, read_table, row_error, write_table
from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import in_turn, write_atomically

BY_PERSON: Final = ("decision", "author", "date", "note")
"""Columns of every table that a person fills in."""


class Decision(Protocol):
    """A frozen dataclass with the day on which it was decided."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def decided_on(self) -> date:
        """When."""


D = TypeVar("D", bound=Decision)
W = TypeVar("W")
Row = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Reviewed(Generic[D]):
    """What a table brought.

    Attributes:
        decisions: One per decided row, in file order.
        open_rows: Rows that wait for a decision.
    """

    decisions: tuple[D, ...]
    open_rows: int


def write_open_table(
    path: Path, columns: Sequence[str], rows: Iterable[Row], *,
    by_person: Sequence[str] = BY_PERSON,
) -> int:
    """Writes a table of open questions; never over one that a person has begun to fill in.

    Returns:
        The number of rows.

    Raises:
        Misconfigured: TABLE_DECIDED.
        Transient: WRITE_FAILED; a former file is untouched.
    """
    if path.exists() and _is_begun(path, columns, by_person):
        raise Misconfigured(
            "TABLE_DECIDED", f"{path.name} is there already, and somebody has edited it",
            "take its decisions over first, then move it away, or name another place",
        )
    return write_table(path, columns, rows)


def _is_begun(path: Path, columns: Sequence[str], by_person: Sequence[str]) -> bool:
    """Whether a file holds a person's work; one that cannot be read may.

    A workbook is none of ours: somebody has saved it, perhaps with marks outside of any cell.
    """
    try:
        if is_workbook(path):
            return True
        rows = read_table(path, columns)
    except Misconfigured:
        return True
    return any(row[name] for _, row in rows for name in by_person)


def read_decided_table(
    path: Path, columns: Sequence[str], *, asked: Callable[[Row], W],
    decide: Callable[[Row, W], D], place: Callable[[D], Hashable], what: str,
    by_person: Sequence[str] = BY_PERSON,
) -> Reviewed[D]:
    """Takes the decided rows of a table over, all of them or none.

    Args:
        path: The edited table.
        columns: Its columns.
        asked: What a row asks about; ValueError where it is nothing that was asked.
        decide: The decision; ValueError or InvalidRecord with what is wrong, quoting nothing.
        place: What a decision is about: two rows may not decide on one.
        what: That, in a word.
        by_person: Columns that stay empty until the row is decided.

    Raises:
        Misconfigured: As :func:`read_table`; TABLE_ROW with the line of the first row that is
            unknown, damaged or decided incompletely.
    """
    found: dict[Hashable, D] = {}
    open_rows = 0
    for line, row in read_table(path, columns):
        try:
            subject = asked(row)
            if not row["decision"]:
                if any(row[name] for name in by_person):
                    raise ValueError("filled in, but without a `decision`")
                open_rows += 1
                continue
            decision = decide(row, subject)
        except ValueError as error:
            raise row_error(path, line, str(error)) from None
        except InvalidRecord as error:
            raise row_error(path, line, error.message) from None
        if place(decision) in found:
            raise row_error(path, line, f"decides on a {what} that an earlier row decides on")
        found[place(decision)] = decision
    return Reviewed(decisions=tuple(found.values()), open_rows=open_rows)


def read_lines(
    path: Path, parse: Callable[[dict[str, Any]], D], *, code: str, origin: str
) -> tuple[D, ...]:
    """All decisions of a file, in the order they were made.

    Args:
        path: JSON lines.
        parse: One decision; KeyError, TypeError, ValueError or InvalidRecord where it is damaged.
        code: Of the error.
        origin: How such a file comes about, for its hint.

    Raises:
        Misconfigured: DECISIONS_MISSING, ``code`` with the line, or a code of ``json_lines``.
    """
    if not path.exists():
        raise Misconfigured(
            "DECISIONS_MISSING", f"there is no file {path}", f"name another one; {origin}"
        )
    return tuple(_parsed(path, number, row, parse, code, origin)
                 for number, row in json_lines(path))


def _parsed(
    path: Path, number: int, row: dict[str, Any] | InvalidRecord,
    parse: Callable[[dict[str, Any]], D], code: str, origin: str,
) -> D:
    problem = row.message if isinstance(row, InvalidRecord) else "a field is missing or damaged"
    try:
        if isinstance(row, InvalidRecord):
            raise ValueError
        return parse(row | {"decided_on": date.fromisoformat(row["decided_on"])})
    except (KeyError, TypeError, ValueError, InvalidRecord) as error:
        raise Misconfigured(
            code, f"{path.name}, line {number}: {problem}",
            f"restore the file from its backup; {origin}",
        ) from error


def keep_lines(
    path: Path, read: Callable[[Path], Sequence[D]], new: Iterable[D]
) -> tuple[D, ...]:
    """Adds decisions to those the file holds; it is written whole or not at all.

    A decision that is kept already in the same words is not repeated, so that an old table read
    again takes nothing back that was decided since (:func:`told_replaced` says so). Two people who
    add at once wait for each other.

    Args:
        path: The file; it is made where there is none.
        read: Reads the decisions of a file that is there.
        new: What is added.

    Returns:
        All decisions of the file.

    Raises:
        Transient: WRITE_FAILED; the file is untouched.
    """
    with in_turn(path.with_name(f".{path.name}.lock")):
        held = read(path) if path.exists() else ()
        known = set(held)
        every = (*held, *(one for one in dict.fromkeys(new) if one not in known))
        rows = (asdict(one) | {"decided_on": one.decided_on.isoformat()} for one in every)
        write_atomically(path, "".join(f"{json.dumps(row)}\n" for row in rows).encode("utf-8"))
    return every


def told_replaced(decisions: Iterable[D], holds: Callable[[D], bool]) -> str:
    """A remark on decisions just read that were kept before and have been replaced since."""
    replaced = sum(not holds(one) for one in decisions)
    return f"; {replaced} of them hold no more: decided otherwise since (to go back to one, give " \
           "its row another date, or a note)" if replaced else ""

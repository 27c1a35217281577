"""Where bad rows go: their numbers and reasons, never their text.

Guarantees:
    The file holds no part of any row, so it may leave the hospital with a bug report. It is
    written whole or not at all.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from medunlearn_client.records.record import InvalidRecord
from medunlearn_common.errors import Misconfigured, Transient
from medunlearn_common.files import write_atomically

DEFAULT_MAX_BAD_FRACTION = 0.2
MAX_KEPT = 10_000
_FURTHER = "further_bad_rows"
_LONGEST_LINE = 1 << 12


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """One row that was left out.

    Attributes:
        file: Name of the file, without its folder.
        row: Line number, from 1.
        code: Stable code, for example ROW_BAD_JSON.
        reason: In words, without the row's text.
    """

    file: str
    row: int
    code: str
    reason: str


@dataclass(kw_only=True)
class Quarantine:
    """Collects bad rows and decides when there are too many.

    The first ``MAX_KEPT`` are kept one by one; of more, only the number is known, so that a
    file of nothing but bad rows does not fill the memory.

    Attributes:
        path: JSON-lines file to write, or None to keep the list in memory only.
        max_bad_fraction: Largest tolerated share of bad rows among all rows, in [0, 1].
        set_aside: Rows in order that give no record, by reason; they are not bad.
        by_code: Number of bad rows by code.
    """

    path: Path | None = None
    max_bad_fraction: float = DEFAULT_MAX_BAD_FRACTION
    set_aside: Counter[str] = field(default_factory=Counter)
    by_code: Counter[str] = field(default_factory=Counter)
    _rows: list[BadRow] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if not 0.0 <= self.max_bad_fraction <= 1.0:
            raise Misconfigured(
                "DATA_BAD_ROW_LIMIT",
                f"the limit of bad rows is {self.max_bad_fraction}, outside [0, 1]",
                "give a fraction such as 0.2",
            )

    @property
    def rows(self) -> Sequence[BadRow]:
        """The bad rows so far, at most ``MAX_KEPT``, in the order they were met."""
        return tuple(self._rows)

    @property
    def count(self) -> int:
        """How many rows were bad, kept or not."""
        return self.by_code.total()

    @property
    def unlisted(self) -> str:
        """In words, how many bad rows the list only counts; empty where it has each."""
        more = self.count - len(self._rows)
        return f"the list has the first {len(self._rows)}, and counts {more} more" if more else ""

    def add(self, file: str, row: int, error: InvalidRecord) -> None:
        """Notes one bad row."""
        self.by_code[error.code] += 1
        if len(self._rows) < MAX_KEPT:
            self._rows.append(BadRow(file=file, row=row, code=error.code, reason=error.message))

    def finish(self, total_rows: int) -> None:
        """Writes the file, then refuses the data if too many rows were bad.

        Args:
            total_rows: Rows read, good and bad; at least the number of bad ones.

        Raises:
            Misconfigured: DATA_TOO_MANY_BAD_ROWS.
            Transient: QUARANTINE_UNWRITABLE.
        """
        if self.path is not None and self._rows:
            lines = [json.dumps(asdict(row)) for row in self._rows]
            if self.count > len(self._rows):
                lines.append(json.dumps({_FURTHER: self.count - len(self._rows)}))
            _write_lines(self.path, lines)
        if self.count > self.max_bad_fraction * total_rows:
            raise self._too_many(total_rows)

    def _too_many(self, total_rows: int) -> Misconfigured:
        common = self.by_code.most_common(3)
        kinds = ", ".join(f"{count} x {code}" for code, count in common)
        others = self.count - sum(count for _, count in common)
        kinds += f", {others} of other kinds" if others else ""
        first = self._rows[0]
        where = f"see {self.path}" if self.path else (
            "`medunlearn records check FILE --quarantine bad.jsonl` lists them")
        where += f"; {self.unlisted}" if self.unlisted else ""
        return Misconfigured(
            "DATA_TOO_MANY_BAD_ROWS",
            f"{self.count} of {total_rows} rows are bad (limit "
            f"{self.max_bad_fraction:.0%}): {kinds}; the first is {first.file} row {first.row} "
            f"({first.reason})",
            f"mend the export or check the format; {where}",
        )


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    try:
        write_atomically(path, "".join(f"{line}\n" for line in lines).encode("utf-8"),
                         private=False)
    except Transient as error:
        raise Transient(
            "QUARANTINE_UNWRITABLE", f"the list of bad rows: {error.message}",
            "free space on the disk or choose another folder",
        ) from error


def is_quarantine_file(path: Path) -> bool:
    """Whether a file is a list of bad rows, and nothing else, as :meth:`Quarantine.finish` writes.

    Raises:
        OSError: It cannot be read.
    """
    ours = ({each.name for each in fields(BadRow)}, {_FURTHER})
    with path.open("rb") as stream:
        while line := stream.readline(_LONGEST_LINE):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                return False
            if not isinstance(row, dict) or row.keys() not in ours:
                return False
    return True

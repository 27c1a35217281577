"""Tables of terminology releases: UMLS RRF (pipes) and SNOMED CT RF2 (tabs).

Neither format quotes: a quotation mark in a name is a quotation mark, and no name holds a
separator. A row with another number of columns, or with a value that its column cannot have, is
an error with its line: a shifted column must not become a small hierarchy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from medunlearn_common.concepts.files import invalid_file, read_lines
from medunlearn_common.errors import Misconfigured


@dataclass(frozen=True, kw_only=True)
class TableFormat:
    """Columns of one kind of file.

    Attributes:
        columns: Names, in order.
        patterns: For some columns what each value must match in full.
        separator: One character.
        header: Whether the first line names the columns.
        closed: Whether the separator also stands behind the last column.
    """

    columns: tuple[str, ...]
    patterns: Mapping[str, re.Pattern[str]]
    separator: str
    header: bool
    closed: bool


def rrf(columns: str, **patterns: str) -> TableFormat:
    """A UMLS file: pipes, also at the end of a line, no header."""
    return TableFormat(
        columns=tuple(columns.split()), patterns=_compiled(patterns), separator="|", header=False,
        closed=True,
    )  # fmt: skip


def rf2(columns: str, **patterns: str) -> TableFormat:
    """A SNOMED CT file: tabs, and a header."""
    return TableFormat(
        columns=tuple(columns.split()), patterns=_compiled(patterns), separator="\t", header=True,
        closed=False,
    )  # fmt: skip


def _compiled(patterns: Mapping[str, str]) -> dict[str, re.Pattern[str]]:
    return {name: re.compile(pattern) for name, pattern in patterns.items()}


def read_table(
    path: Path, table: TableFormat, wanted: Sequence[str]
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line numbers with the values of the wanted columns, in the order asked for.

    Raises:
        Misconfigured: The codes of `read_lines`; ``CONCEPT_FILE_INVALID`` with the line.
    """
    width = len(table.columns) + table.closed
    places = [table.columns.index(name) for name in wanted]
    checks = [(table.columns.index(name), name, p) for name, p in table.patterns.items()]
    for number, line in read_lines(path):
        if table.header and number == 1:
            if line.split(table.separator) != list(table.columns):
                raise invalid_file(path, "the header does not name the columns expected", line=1)
            continue
        values = line.split(table.separator)
        if len(values) != width or (table.closed and values[-1]):
            found = len(values) - table.closed
            problem = f"{found} columns instead of {len(table.columns)}"
            raise invalid_file(path, problem, line=number)
        for place, name, pattern in checks:
            if not pattern.fullmatch(values[place]):
                problem = f"column {name} does not hold what it should; is a column shifted?"
                raise invalid_file(path, problem, line=number)
        yield number, tuple([values[place] for place in places])


_GZ: Final = ".gz"


def files_matching(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """Files below a folder whose name, without ``.gz``, matches in full; sorted."""
    try:
        found = [
            path
            for path in folder.rglob("*")
            if pattern.fullmatch(path.name.removesuffix(_GZ)) and path.is_file()
        ]
    except OSError as error:
        raise Misconfigured(
            "CONCEPT_FILE_UNREADABLE",
            f"{folder}: cannot be read ({error.strerror})",
            "check its permissions",
        ) from error
    return sorted(found)


def the_file(folder: Path, pattern: re.Pattern[str], name: str) -> Path:
    """The one file of a release that is of this kind.

    Raises:
        Misconfigured: ``CONCEPT_FILE_MISSING``, or ``CONCEPT_RELEASE_AMBIGUOUS`` for several.
    """
    found = files_matching(folder, pattern)
    if not found:
        raise Misconfigured(
            "CONCEPT_FILE_MISSING",
            f"{folder}: there is no {name} file in this folder",
            "unpack the release completely and name its folder",
        )
    if len(found) > 1:
        raise Misconfigured(
            "CONCEPT_RELEASE_AMBIGUOUS",
            f"{folder}: {len(found)} {name} files, such as {found[0].name} and {found[1].name}",
            "name the folder of one release",
        )
    return found[0]

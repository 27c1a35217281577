"""The table of damaged words that a person decides on in a spreadsheet, and its way back.

``write_damage`` makes one row per damaged word. The person fills ``decision``, ``author`` and
``date`` (and ``note``) and saves; ``read_damage`` takes the decided rows over. Rows without a
decision stay open. A file is taken over whole or not at all.

What may stand in ``decision``: ``accept`` (the proposal), ``reject`` (the word is right as it
stands), or the word that shall stand there. What is accepted is the proposal in the row: other
rows, hierarchies or letters since then may have made another one the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from difflib import SequenceMatcher
from pathlib import Path
from typing import Final

from medunlearn_client.decisions import (
    BY_PERSON,
    Reviewed,
    read_decided_table,
    write_open_table,
)
from medunlearn_client.quality.glyphs import DamagedWord
from medunlearn_client.records import Record
from medunlearn_client.records.repairs import Repair, part_of
from medunlearn_client.spreadsheets import cells_of, exact_cell, unmistakable_date, write_table

COLUMNS: Final = (
    "decision", "author", "date", "note", "word", "proposal", "other_proposals", "sure", "around",
    "record", "part", "start", "end",
)
CHANGE_COLUMNS: Final = ("record", "part", "start", "word", "repaired", "author", "date")
BY_RULE: Final = "(rule)"
"""Stands for the author of repairs that nobody looked at: those with one sure proposal."""
MAX_WORD_CHARS: Final = 60
_AROUND_CHARS: Final = 40
MIN_ALIKE: Final = 0.5
"""Share of letters that a decided word has in common with the damaged one or a proposal: "yes", in
whatever language, is an answer and no word to put there."""
_WORD: Final = re.compile(r"[^\W\d_]+(?:[ '’-][^\W\d_]+)*")


def write_damage(path: Path, records: Sequence[Record], damage: Sequence[DamagedWord]) -> int:
    """Write the table, readable by its owner only: it holds text of records.

    Raises:
        Misconfigured: TABLE_DECIDED where a person has begun to fill it in.
        Transient: WRITE_FAILED.
    """
    by_id = {record.record_id: record for record in records}
    return write_open_table(path, COLUMNS, (_row(by_id[one.record_id], one) for one in damage))


def read_damage(path: Path, damage: Iterable[DamagedWord], *, today: date) -> Reviewed[Repair]:
    """Read decisions back.

    Args:
        path: The edited table.
        damage: The damaged words of the same records: a row is only taken for one of them, with
            its word unchanged, so that rows whose cells were sorted apart are refused.
        today: Decisions from later days are refused.

    Raises:
        Misconfigured: As :func:`read_table`; TABLE_ROW with the line of the first row that is
            unknown, damaged or decided incompletely.
    """
    known = {
        (cell, one.part, str(one.start)): one
        for one in damage for cell in cells_of(one.record_id)
    }

    def asked(row: Mapping[str, str]) -> DamagedWord:
        found = known.get((row["record"], row["part"], row["start"]))
        if found is None or row["word"] not in cells_of(found.word):
            raise ValueError("it names no damaged word of these records")
        return found

    return read_decided_table(
        path, COLUMNS, asked=asked, decide=lambda row, found: _repair(row, found, today),
        place=lambda repair: repair.place, what="word",
    )


def sure_repairs(damage: Iterable[DamagedWord], *, today: date) -> list[Repair]:
    """The only proposal of every word that is long enough not to be mistaken."""
    return [_of(one, one.proposals[0], BY_RULE, today) for one in damage if one.sure]


def write_changes(path: Path, changes: Iterable[Repair]) -> int:
    """Write what was changed, row by row.

    Raises:
        Transient: WRITE_FAILED.
    """
    return write_table(path, CHANGE_COLUMNS, _change_rows(changes))


def _change_rows(changes: Iterable[Repair]) -> Iterator[dict[str, str]]:
    for one in changes:
        yield {
            "record": one.record_id, "part": one.part, "start": str(one.start), "word": one.word,
            "repaired": one.repaired, "author": one.author, "date": one.decided_on.isoformat(),
        }


def _row(record: Record, one: DamagedWord) -> dict[str, str]:
    text = part_of(record, one.part) or ""
    return dict.fromkeys(BY_PERSON, "") | {
        "record": exact_cell(one.record_id), "part": one.part, "start": str(one.start),
        "end": str(one.end), "word": exact_cell(one.word), "proposal": exact_cell(one.proposals[0]),
        "other_proposals": " | ".join(one.proposals[1:]), "sure": "yes" if one.sure else "check",
        "around": text[max(0, one.start - _AROUND_CHARS) : one.end + _AROUND_CHARS],
    }


def _repair(row: Mapping[str, str], found: DamagedWord, today: date) -> Repair:
    """One decided row.

    Raises:
        ValueError: With what is wrong, quoting nothing of the row.
    """
    if not row["author"] or row["author"] == BY_RULE:
        raise ValueError("a decision without `author`")
    decided_on = unmistakable_date(row["date"], today)
    return _of(found, _decided_word(row, found), row["author"], decided_on, note=row["note"])


def _decided_word(row: Mapping[str, str], found: DamagedWord) -> str:
    """What shall stand there; raises ValueError as :func:`_repair` does."""
    decision = row["decision"]
    if decision.casefold() == "reject":
        return found.word
    if decision.casefold() == "accept":
        shown = [one for one in found.proposals if row["proposal"] in cells_of(one)]
        if not shown:
            raise ValueError("accepts a `proposal` that was not made: put the word into `decision`")
        return shown[0]
    if len(decision) > MAX_WORD_CHARS or not _WORD.fullmatch(decision):
        raise ValueError("`decision` is neither accept, reject nor a word")
    if max(_alike(decision, one) for one in (found.word, *found.proposals)) < MIN_ALIKE:
        raise ValueError("`decision` is neither accept nor reject, nor a word like the damaged one")
    return decision


def _alike(first: str, second: str) -> float:
    return SequenceMatcher(None, first.casefold(), second.casefold()).ratio()


def _of(
    found: DamagedWord, repaired: str, author: str, decided_on: date, *, note: str = ""
) -> Repair:
    return Repair(
        record_id=found.record_id, part=found.part, start=found.start, word=found.word,
        repaired=repaired, author=author, decided_on=decided_on, note=note,
    )

"""Damaged words mended as a person decided: kept with author and date, applied to copies.

A decision names a place (record, part, characters) and the word that stood there. It is applied
where exactly that word still stands at that place and nowhere else, so that a new export cannot
be mended wrongly. Decisions are JSON lines in the order in which they were made; nothing is ever
deleted, and the last one on a place holds.

Guarantees:
    Records are never changed: repaired ones are new. Options, answer, target spans and the words
    of the codes of a repaired record fit its new text.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any, Final

from medunlearn_client.decisions import keep_lines, read_lines
from medunlearn_client.records.record import InvalidRecord, Record

_LOG = logging.getLogger("medunlearn.hospital")

PROMPT: Final = "prompt"
ANSWER: Final = "answer"
OPTION: Final = "option "

Place = tuple[str, str, int]
"""Record id, part, first character."""


@dataclass(frozen=True, kw_only=True)
class Repair:
    """One decision on one damaged word.

    Attributes:
        record_id: Where the word stands.
        part: ``prompt``, ``answer``, or ``option 1`` to ``option n``.
        start: Its first character in that part.
        word: As it stands.
        repaired: What shall stand there; the word itself where it is right as it is.
        author: Who decided.
        decided_on: When.
        note: Why; may be empty.
    """

    record_id: str = field(repr=False)
    part: str
    start: int
    word: str = field(repr=False)
    repaired: str = field(repr=False)
    author: str
    decided_on: date
    note: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        texts = (self.record_id, self.part, self.word, self.repaired, self.author)
        if self.start < 0 or not all(text.strip() for text in texts):
            raise _invalid("a repair names its place, its word and its author")
        if self.repaired != self.repaired.strip() or "\n" in self.repaired:
            raise _invalid("a repaired word has no outer white space and no line break")

    @property
    def place(self) -> Place:
        """What the decision is about."""
        return self.record_id, self.part, self.start

    @property
    def changes(self) -> bool:
        """Whether it changes the text."""
        return self.repaired != self.word


class Repairs:
    """The repairs that hold: the last one on each place."""

    def __init__(self, decisions: Iterable[Repair] = ()) -> None:
        """Let later decisions replace earlier ones."""
        self._history: Final = tuple(decisions)
        held = {decision.place: decision for decision in self._history}
        self._of_record: Final[dict[str, list[Repair]]] = defaultdict(list)
        for decision in held.values():
            self._of_record[decision.record_id].append(decision)

    def __len__(self) -> int:
        return len(self._history)

    def history(self) -> Sequence[Repair]:
        """All decisions, in the order they were made."""
        return self._history

    def decide_on(self, place: Place, word: str) -> bool:
        """Whether somebody decided on this word at this place, be it that it is right."""
        own = self._of_record.get(place[0], ())
        return any((one.place, one.word) == (place, word) for one in own)

    def holds(self, decision: Repair) -> bool:
        """Whether what was decided holds: nothing else was decided on the same place since."""
        said = decision.place, decision.word, decision.repaired
        own = self._of_record[decision.record_id]
        return any((one.place, one.word, one.repaired) == said for one in own)

    def unused(self, made: Iterable[Repair]) -> int:
        """How many decisions that change a word are not among those ``made``.

        Their word stands no longer where it stood: in a new export, or where another file is meant.
        """
        held = {one.place for own in self._of_record.values() for one in own if one.changes}
        return len(held - {one.place for one in made})

    def repaired(self, record: Record) -> tuple[Record, tuple[Repair, ...]]:
        """The record with its repairs, and those that changed it, in reading order.

        A record that they would break, as where a wrong option becomes the right one, stays as it
        is: an error would stop a run, and so tell that this record is there.
        """
        own = self._of_record.get(record.record_id, ())
        fitting = [one for one in own if one.changes and _still_stands(record, one)]
        if not fitting:
            return record, ()
        by_part: dict[str, list[Repair]] = defaultdict(list)
        for one in sorted(fitting, key=lambda one: one.place):
            by_part[one.part].append(one)
        try:
            mended = _mended(record, by_part)
        except InvalidRecord as error:
            _LOG.warning("a record stays as it is: its repairs would break it (%s)", error.code)
            return record, ()
        return mended, tuple(one for part in by_part.values() for one in part)


NO_REPAIRS: Final = Repairs()


def part_of(record: Record, part: str) -> str | None:
    """The text of a part, None where the record has no such part."""
    if part in (PROMPT, ANSWER):
        return record.prompt if part == PROMPT else record.answer
    number = part.removeprefix(OPTION)
    if not part.startswith(OPTION) or not (number.isascii() and number.isdigit()):
        return None
    place = int(number) - 1
    return record.options[place] if 0 <= place < len(record.options) else None


def read_repairs(path: Path) -> Repairs:
    """Read a file of repairs.

    Raises:
        Misconfigured: REPAIRS_DAMAGED with the line, or a code of ``json_lines``.
    """
    return Repairs(read_lines(
        path, _from_row, code="REPAIRS_DAMAGED", origin="repairs are made by reading a review file",
    ))


def keep_repairs(path: Path, new: Iterable[Repair]) -> Repairs:
    """Add repairs to a file, which is made where there is none; it is written whole or not.

    A decision that is already kept in the same words is not repeated.

    Raises:
        Misconfigured: As :func:`read_repairs`.
        Transient: WRITE_FAILED; the file is untouched.
    """
    return Repairs(keep_lines(path, lambda there: read_repairs(there).history(), new))


def _still_stands(record: Record, repair: Repair) -> bool:
    text = part_of(record, repair.part)
    end = repair.start + len(repair.word)
    return text is not None and text[repair.start : end] == repair.word


def _mended(record: Record, by_part: Mapping[str, Sequence[Repair]]) -> Record:
    options = tuple(
        _with(option, by_part.get(f"{OPTION}{number}", ()))
        for number, option in enumerate(record.options, start=1)
    )
    answer = _with(record.answer, by_part.get(ANSWER, ()))
    if record.answer_index is not None:  # the answer is one of the options, and mended as such
        options = tuple(
            answer if place == record.answer_index else option
            for place, option in enumerate(options)
        )
    shift = len(record.prompt) + 1
    edits = [(one.start, one) for one in by_part.get(PROMPT, ())]
    edits += [(one.start + shift, one) for one in by_part.get(ANSWER, ())]
    prompt = _with(record.prompt, by_part.get(PROMPT, ()))
    return replace(
        record, prompt=prompt, answer=answer, options=options,
        target_spans=tuple(
            (_moved(start, edits, is_end=False), _moved(end, edits, is_end=True))
            for start, end in record.target_spans
        ),
        coded=_reworded(record, f"{prompt} {answer}", edits),
    )


def _with(text: str, repairs: Sequence[Repair]) -> str:
    """The text with its repairs, from the last to the first so that places stay true."""
    for one in sorted(repairs, key=lambda one: -one.start):
        text = text[: one.start] + one.repaired + text[one.start + len(one.word) :]
    return text


def _moved(place: int, edits: Sequence[tuple[int, Repair]], *, is_end: bool) -> int:
    """Where a span's border lies after the edits; a span that cuts a word takes all of it."""
    moved = place
    for start, one in edits:
        end = start + len(one.word)
        if end <= place:
            moved += len(one.repaired) - len(one.word)
        elif start < place:
            moved += (len(one.repaired) - (place - start)) if is_end else start - place
    return moved


def _reworded(
    record: Record, mended: str, edits: Sequence[tuple[int, Repair]]
) -> tuple[str, ...]:
    """The record's codes with the words that now stand where theirs stood, found as in tagging.

    Else what a code means would be found no longer, and what is to be forgotten would be kept.
    """
    coded: list[str] = []
    for each in record.coded:
        written, _, words = each.partition(" ")
        found = re.finditer(rf"(?<!\w){re.escape(words)}(?!\w)", record.text) if words else ()
        now = (
            mended[_moved(place.start(), edits, is_end=False) :
                   _moved(place.end(), edits, is_end=True)]
            for place in found
        )
        coded += [f"{written} {its}" for its in now] or [each]
    return tuple(dict.fromkeys(coded))


def _from_row(row: dict[str, Any]) -> Repair:
    texts = ("record_id", "part", "word", "repaired", "author", "note")
    if not all(isinstance(row[name], str) for name in texts) or type(row["start"]) is not int:
        raise TypeError
    return Repair(**row)


def _invalid(problem: str) -> InvalidRecord:
    return InvalidRecord("REPAIR_INVALID", problem, "review the word again")

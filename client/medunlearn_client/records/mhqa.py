"""MHQA, mental-health questions (Racha et al. 2025), in the columns of the published CSV.

``id`` (the abstract's PMID), ``topic``, ``type``, ``question``, ``option1`` … ``option4``,
``correct_answer`` and ``correct_option_num`` or ``correct_option_number`` (from 1, sometimes
as ``3.0``). Rows whose ``valid_question`` is false give no record. One abstract may give
several questions, so a record's id is the PMID and a digest of the question. Some published
answers carry a stray ``>`` at their end, which is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from medunlearn_client.records import fields
from medunlearn_client.records.fields import Row, bad_row, content_id
from medunlearn_client.records.record import Record, prompt_from_question
from medunlearn_client.records.row_by_row import RowResult, row_by_row

OPTIONS = ("option1", "option2", "option3", "option4")
NUMBERS = ("correct_option_num", "correct_option_number")


def recognises(row: Row) -> bool:
    """Whether a row has MHQA's columns."""
    has_number = any(name in row for name in NUMBERS)
    return has_number and all(name in row for name in ("question", "topic", *OPTIONS))


def read(rows: Iterable[tuple[int, Row]]) -> Iterator[tuple[int, RowResult]]:
    """Each row by itself: ``(row number, its record, none if invalid, or what is wrong)``."""
    return row_by_row(rows, _records)


def _records(row: Row) -> list[Record]:
    if "valid_question" in row and not fields.optional_flag(row, "valid_question"):
        return []
    question = fields.required_text(row, "question")
    options = tuple(fields.required_text(row, name) for name in OPTIONS)
    index = _index(row)
    if not 0 <= index < len(options):
        raise bad_row("ROW_ANSWER_INDEX", "the right option's number is out of range")
    answer = fields.optional_text(row, "correct_answer")
    if answer is not None and _bare(answer) != _bare(options[index]):
        raise bad_row("ROW_ANSWER_MISMATCH", "the answer differs from the option it points to")
    source = fields.identifier_text(row, "id") or "mhqa"
    return [
        Record(
            record_id=f"{source}:{content_id(question, *options)}",
            prompt=prompt_from_question(question),
            answer=options[index], options=options, answer_index=index,
            subject=fields.optional_text(row, "topic"),
        )
    ]


def _index(row: Row) -> int:
    """The right option's place from 0; columns read as numbers give ``3.0`` as a float."""
    name = next((name for name in NUMBERS if row.get(name) is not None), NUMBERS[0])
    value = row.get(name)
    if isinstance(value, float) and value.is_integer():
        return int(value) - 1
    number = fields.optional_index(row, name)
    if number is None:
        raise bad_row("ROW_ANSWER_INDEX", "the right option's number is missing")
    return number - 1


def _bare(text: str) -> str:
    return text.rstrip("> ").casefold()

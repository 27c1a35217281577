"""MedQA (Jin et al. 2021), and other exam questions without an id, such as MMLU's.

| | published (USMLE, four or five options) | distilled |
|---|---|---|
| options | ``options``: ``{"A": …, "B": …}`` | ``options``: list |
| right one | ``answer_idx``: letter; ``answer``: its text | ``answer``: number from 0 |
| subject | ``meta_info`` | ``step`` or ``subject`` |

The rows have no id; theirs is a digest of question and options, the same in every format.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from medunlearn_client.records import fields
from medunlearn_client.records.fields import Row, bad_row, content_id
from medunlearn_client.records.record import Record, prompt_from_question
from medunlearn_client.records.row_by_row import RowResult, row_by_row


def recognises(row: Row) -> bool:
    """Whether an object looks like a MedQA row of either form."""
    if "question" not in row:
        return False
    published = isinstance(row.get("options"), dict) and "answer_idx" in row
    numbered = isinstance(row.get("options"), list) and isinstance(row.get("answer"), int)
    return published or (numbered and "id" not in row)


def read(rows: Iterable[tuple[int, Row]]) -> Iterator[tuple[int, RowResult]]:
    """Each row by itself: ``(row number, its record or what is wrong)``."""
    return row_by_row(rows, lambda row: [_record(row)])


def _record(row: Row) -> Record:
    question = fields.required_text(row, "question")
    options, index = _published(row) if "answer_idx" in row else _distilled(row)
    if index is None or not 0 <= index < len(options):
        raise bad_row("ROW_ANSWER_INDEX", "the right option is missing or out of range")
    subject = next(
        (text for name in ("subject", "step", "meta_info")
         if (text := fields.optional_text(row, name))), None,
    )
    return Record(
        record_id=f"medqa:{content_id(question, *options)}",
        prompt=prompt_from_question(question),
        answer=options[index], options=options, answer_index=index, subject=subject,
    )


def _published(row: Row) -> tuple[tuple[str, ...], int | None]:
    by_letter = row.get("options")
    if not isinstance(by_letter, dict):
        raise bad_row("ROW_FIELD_TYPE", "`options` is not an object of letters")
    # The hub's columnar form fills letters that a question does not use with null.
    letters = sorted(letter for letter, text in by_letter.items() if text is not None)
    options = tuple(fields.required_text(by_letter, letter) for letter in letters)
    right = fields.required_text(row, "answer_idx")
    index = letters.index(right) if right in letters else None
    answer = fields.optional_text(row, "answer")
    if index is not None and answer is not None and answer != options[index]:
        raise bad_row("ROW_ANSWER_MISMATCH", "the answer differs from the option it points to")
    return options, index


def _distilled(row: Row) -> tuple[tuple[str, ...], int | None]:
    return fields.text_list(row, "options"), fields.optional_index(row, "answer")

"""MedMCQA (Pal et al. 2022), as published and as distilled to one ``options`` list.

| | published (GitHub, Hugging Face) | distilled |
|---|---|---|
| question | ``question`` | ``question`` |
| options | ``opa`` … ``opd`` | ``options[4]`` |
| right one | ``cop``: 1–4 on GitHub, 0–3 on Hugging Face | ``answer``: 0–3 |
| subject | ``subject_name`` | ``subject`` |

The two numberings of ``cop`` are told apart by the whole file: a 0 means counting from 0, a 4
from 1. A file with neither, or with both, is refused rather than guessed at.
"""

from __future__ import annotations

from collections.abc import Iterable

from medunlearn_client.records import fields
from medunlearn_client.records.fields import Row, bad_row
from medunlearn_client.records.record import InvalidRecord, Record, prompt_from_question
from medunlearn_client.records.row_by_row import RowResult, row_by_row
from medunlearn_common.errors import Misconfigured

PUBLISHED_OPTIONS = ("opa", "opb", "opc", "opd")
N_OPTIONS = len(PUBLISHED_OPTIONS)


def recognises(row: Row) -> bool:
    """Whether an object looks like a MedMCQA row of either form."""
    if "question" not in row:
        return False
    distilled = isinstance(row.get("options"), list) and isinstance(row.get("answer"), int)
    return distilled or all(name in row for name in PUBLISHED_OPTIONS)


def read(rows: Iterable[tuple[int, Row]]) -> list[tuple[int, RowResult]]:
    """Reads all rows of one file: ``(row number, its record or what is wrong)``.

    Raises:
        Misconfigured: DATA_ANSWER_NUMBERING: ``cop`` counts neither clearly from 0 nor from 1.
    """
    numbered = list(rows)
    first_answer = _first_answer(row for _, row in numbered)
    return list(row_by_row(numbered, lambda row: [_record(row, first_answer)]))


def _first_answer(rows: Iterable[Row]) -> int:
    """The number, 0 or 1, that ``cop`` gives to the first option in this file."""
    seen = {number for row in rows if (number := _number_or_none(row)) is not None}
    if not seen or (0 in seen and N_OPTIONS not in seen):
        return 0
    if N_OPTIONS in seen and 0 not in seen:
        return 1
    raise Misconfigured(
        "DATA_ANSWER_NUMBERING",
        "`cop` counts the options neither clearly from 0 nor clearly from 1",
        "give the whole published file, or rewrite it with `options` and a 0-based `answer`",
    )


def _number_or_none(row: Row) -> int | None:
    """``cop`` where it is a number, also one spelled out in a table."""
    try:
        return fields.optional_index(row, "cop")
    except InvalidRecord:
        return None


def _record(row: Row, first_answer: int) -> Record:
    published = PUBLISHED_OPTIONS[0] in row
    options, index = _options(row, first_answer) if published else _options_distilled(row)
    if len(options) != N_OPTIONS:
        raise bad_row("ROW_OPTIONS", f"not {N_OPTIONS} options")
    if index is None or not 0 <= index < N_OPTIONS:
        raise bad_row("ROW_ANSWER_INDEX", "the right option's number is missing or out of range")
    record_id = fields.identifier_text(row, "id")
    if record_id is None:
        raise bad_row("ROW_FIELD_MISSING", "`id` is missing")
    return Record(
        record_id=record_id,
        prompt=prompt_from_question(fields.required_text(row, "question")),
        answer=options[index],
        options=options,
        answer_index=index,
        subject=fields.optional_text(row, "subject_name" if published else "subject"),
    )


def _options(row: Row, first_answer: int) -> tuple[tuple[str, ...], int | None]:
    options = tuple(fields.required_text(row, name) for name in PUBLISHED_OPTIONS)
    number = fields.optional_index(row, "cop")
    return options, None if number is None else number - first_answer


def _options_distilled(row: Row) -> tuple[tuple[str, ...], int | None]:
    return fields.text_list(row, "options"), fields.optional_index(row, "answer")

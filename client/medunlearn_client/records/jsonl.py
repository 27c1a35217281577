"""medunlearn's own record format: one JSON object per line.

| field | type | |
|---|---|---|
| ``id`` | string or whole number | required, unique |
| ``prompt`` or ``question`` | string | one of them; a question is wrapped as a prompt |
| ``answer`` | string | required, unless ``options`` and ``answer_index`` give it |
| ``options`` | list of two or more strings | right answer included |
| ``answer_index`` | whole number from 0 | found by ``answer`` where left out |
| ``patient_id`` | string or whole number | whose record it is |
| ``subject`` | string | topic or kind of question |
| ``confidence`` | number in (0, 1] | 1 where left out |
| ``target_spans`` | list of ``[start, end]`` | characters of ``prompt + " " + answer`` |
| ``is_identifier`` | true or false | the answer is an identifier |
| ``condition_codes`` | list of strings | for same-disease neighbours |
| ``coded`` | list of strings | an id of a hierarchy, a space, and the words that mean it |
| ``former_patient_ids`` | list of strings | of patients merged into this one; one row suffices |
| ``known_by`` | list of digests | as a copy has them of what its patients are known by |
| ``extra`` | anything | ignored |

Any other field makes the row bad. Spans count characters after a question was wrapped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from medunlearn_client.records import fields
from medunlearn_client.records.fields import Row, bad_row
from medunlearn_client.records.known_by import KnownBy
from medunlearn_client.records.record import Record, prompt_from_question
from medunlearn_client.records.row_by_row import RowResult, row_by_row

FIELDS = frozenset(
    {
        "id",
        "prompt",
        "question",
        "answer",
        "options",
        "answer_index",
        "patient_id",
        "subject",
        "confidence",
        "target_spans",
        "is_identifier",
        "condition_codes",
        "coded",
        "former_patient_ids",
        "known_by",
        "extra",
    }
)


def recognises(row: Row) -> bool:
    """Whether an object looks like a row of this format."""
    return ("prompt" in row or "question" in row) and (
        isinstance(row.get("answer"), str) or "answer_index" in row
    )


def read(rows: Iterable[tuple[int, Row]]) -> Iterator[tuple[int, RowResult]]:
    """Reads each row by itself: ``(row number, its record or what is wrong)``."""
    known: dict[KnownBy, KnownBy] = {}
    return row_by_row(rows, lambda row: [record_from_row(row, known)])


def record_from_row(row: Row, known: dict[KnownBy, KnownBy]) -> Record:
    """The record of one row.

    Args:
        row: A row of the file.
        known: What patients of the same file are known by, one set for all rows of a patient.

    Raises:
        InvalidRecord: A field is missing, unknown, of the wrong type or contradictory.
    """
    fields.refuse_unknown(row, FIELDS)
    record_id = fields.identifier_text(row, "id")
    if record_id is None:
        raise bad_row(
            "ROW_FIELD_MISSING", '`id` is missing; record_format = "table" reads rows without one')
    options = fields.text_list(row, "options")
    answer, answer_index = _answer(row, options)
    spans = fields.span_list(row, "target_spans")
    digests = fields.digest_set(row, "known_by")
    if spans:
        _refuse_stray_space(row)
    return Record(
        record_id=record_id,
        prompt=_prompt(row),
        answer=answer,
        options=options,
        answer_index=answer_index,
        patient_id=fields.identifier_text(row, "patient_id"),
        subject=fields.optional_text(row, "subject"),
        confidence=fields.optional_number(row, "confidence", 1.0),
        target_spans=spans,
        is_identifier=fields.optional_flag(row, "is_identifier"),
        condition_codes=fields.text_list(row, "condition_codes"),
        coded=fields.text_list(row, "coded"),
        former_patient_ids=fields.identifier_list(row, "former_patient_ids"),
        known_by=known.setdefault(digests, digests),
    )


def row_from_record(record: Record) -> dict[str, Any]:
    """The row that reads back as ``record``; fields at their default are left out.

    So are the options of a patient's numbers and names: the wrong ones are other patients', whose
    erasure would not reach a copy in which they stand. Only the right one is his.
    """
    if record.patient_id is not None and record.is_identifier:
        record = replace(record, options=(), answer_index=None)
    row: dict[str, Any] = {
        "id": record.record_id,
        "prompt": record.prompt,
        "answer": record.answer,
        "options": list(record.options),
        "answer_index": record.answer_index,
        "patient_id": record.patient_id,
        "subject": record.subject,
        "confidence": record.confidence,
        "target_spans": [list(span) for span in record.target_spans],
        "is_identifier": record.is_identifier,
        "condition_codes": list(record.condition_codes),
        "coded": list(record.coded),
        "former_patient_ids": list(record.former_patient_ids),
        "known_by": sorted(digest.hex() for digest in record.known_by),
    }
    defaults: dict[str, Any] = {"confidence": 1.0, "is_identifier": False}
    empty: tuple[Any, ...] = (None, [])
    return {
        name: value
        for name, value in row.items()
        if value not in empty and not (name in defaults and value == defaults[name])
    }


def _refuse_stray_space(row: Row) -> None:
    """Outer white space is dropped, which would move spans that were counted with it."""
    for name in ("prompt", "question", "answer"):
        text = row.get(name)
        if isinstance(text, str) and text != text.strip():
            raise bad_row("ROW_STRAY_SPACE", f"target spans, and white space around `{name}`")


def _prompt(row: Row) -> str:
    prompt = fields.optional_text(row, "prompt")
    question = fields.optional_text(row, "question")
    if prompt is not None and question is not None:
        raise bad_row("ROW_FIELD_CONTRADICTION", "both `prompt` and `question` are given")
    if prompt is not None:
        return prompt
    if question is None:
        raise bad_row("ROW_FIELD_MISSING", "neither `prompt` nor `question` is given")
    return prompt_from_question(question)


def _answer(row: Row, options: tuple[str, ...]) -> tuple[str, int | None]:
    answer = fields.optional_text(row, "answer")
    index = fields.optional_index(row, "answer_index")
    if answer is None:
        if index is None or not 0 <= index < len(options):
            raise bad_row("ROW_ANSWER_INDEX", "no `answer`, and no option that an index points to")
        return options[index], index
    if options and index is None:
        if options.count(answer) != 1:
            raise bad_row("ROW_ANSWER_MISMATCH", "the answer is not exactly one of the options")
        return answer, options.index(answer)
    return answer, index

"""PubMedQA (Jin et al. 2019): the published JSON, the hub's columns, and distilled rows.

| | published (one object by PMID) | hub | distilled |
|---|---|---|---|
| id | the key | ``pubid`` | ``pmid`` |
| question | ``QUESTION`` | ``question`` | ``question`` |
| decision | ``final_decision`` | ``final_decision`` | ``answer`` |
| conclusion | ``LONG_ANSWER`` | ``long_answer`` | ``long_answer`` |

A row gives two records: the decision, ranked among yes, no and maybe, and the conclusion in
words. The abstract's context is not put into the prompt: what is to be forgotten is what the
model knows, not what it can read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from medunlearn_client.records import fields
from medunlearn_client.records.fields import Row, bad_row
from medunlearn_client.records.record import Record, prompt_from_question
from medunlearn_client.records.row_by_row import RowResult, row_by_row

DECISIONS = ("yes", "no", "maybe")
_CONCLUSION_QUESTION = "{question} Conclude in a sentence."


def recognises(row: Row) -> bool:
    """Whether an object looks like a PubMedQA row of one of the three forms."""
    published = "QUESTION" in row and "LONG_ANSWER" in row
    hub = "pubid" in row and "long_answer" in row
    return published or hub or ("pmid" in row and "long_answer" in row)


def read(rows: Iterable[tuple[int, Row]]) -> Iterator[tuple[int, RowResult]]:
    """Each row by itself: ``(row number, its records or what is wrong)``."""
    return row_by_row(rows, _records)


def _records(row: Row) -> list[Record]:
    published = "QUESTION" in row
    id_name = next((name for name in ("pubid", "pmid", "id") if row.get(name) is not None), "id")
    record_id = fields.identifier_text(row, id_name)
    if record_id is None:
        raise bad_row("ROW_FIELD_MISSING", "the PubMed id is missing")
    question = fields.required_text(row, "QUESTION" if published else "question")
    decision = fields.optional_text(row, "final_decision") or (
        None if published else fields.optional_text(row, "answer")
    )
    conclusion = fields.optional_text(row, "LONG_ANSWER" if published else "long_answer")
    records = [] if decision is None else [_decision(record_id, question, decision)]
    if conclusion is not None:
        asked = _CONCLUSION_QUESTION.format(question=question)
        records.append(
            Record(
                record_id=f"{record_id}:conclusion", prompt=prompt_from_question(asked),
                answer=conclusion, subject="conclusion",
            )
        )
    return records


def _decision(record_id: str, question: str, decision: str) -> Record:
    if decision not in DECISIONS:
        raise bad_row("ROW_ANSWER_MISMATCH", "the decision is not yes, no or maybe")
    return Record(
        record_id=f"{record_id}:decision", prompt=prompt_from_question(question),
        answer=decision, options=DECISIONS, answer_index=DECISIONS.index(decision),
        subject="decision",
    )

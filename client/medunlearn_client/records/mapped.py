"""Any table or JSON rows, by a plan's ``[data.columns]``: which column means what.

Unlike the own format, columns that the map does not name are ignored. A record of a patient
(``patient_id`` given) has its answer marked as what singles the patient out, and with it
every place in the text where the value of an ``identifiers`` column stands.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from itertools import chain, islice

from medunlearn_client.records import fields
from medunlearn_client.records.fields import Row, bad_row, content_id
from medunlearn_client.records.known_by import KnownBy, known_by
from medunlearn_client.records.record import InvalidRecord, Record, prompt_from_question
from medunlearn_client.records.row_by_row import row_by_row
from medunlearn_common.errors import Misconfigured
from medunlearn_common.plan.sections import ColumnsSection

_LOOKED_AT = 100


class MappedReader:
    """Reads rows by a column map."""

    def __init__(self, columns: ColumnsSection) -> None:
        self._columns = columns
        self._known: dict[KnownBy, KnownBy] = {}  # one set for all rows of a patient

    def recognises(self, row: Row) -> bool:
        """Whether the row has the question's and the answer's column."""
        return self._columns.question in row and self._columns.answer in row

    def read(
        self, rows: Iterable[tuple[int, Row]]
    ) -> Iterator[tuple[int, list[Record] | InvalidRecord]]:
        """Each row by itself: ``(row number, its record or what is wrong)``.

        Raises:
            Misconfigured: DATA_COLUMN_MISSING.
        """
        waiting = iter(rows)
        first = list(islice(waiting, _LOOKED_AT))
        self._require_columns([row for _, row in first])
        yield from row_by_row(chain(first, waiting), lambda row: [self._record(row)])

    def _require_columns(self, rows: list[Row]) -> None:
        """A column that no row has is a mistake in the plan, not in a thousand rows."""
        columns = self._columns
        named = [
            *(("id", columns.id), ("question", columns.question), ("answer", columns.answer)),
            *(("subject", columns.subject), ("patient_id", columns.patient_id)),
            ("confidence", columns.confidence), ("condition_codes", columns.condition_codes),
            *(("options", name) for name in columns.options),
            *(("identifiers", name) for name in columns.identifiers),
        ]
        for key, name in named:
            if rows and name and not any(name in row for row in rows):
                raise Misconfigured(
                    "DATA_COLUMN_MISSING",
                    f"data.columns.{key} names {name!a}, which the file does not have"
                    + _alike(name, rows),
                    "compare with the file's first row; names are case-sensitive",
                )

    def _record(self, row: Row) -> Record:
        columns = self._columns
        question = fields.required_text(row, columns.question)
        placed = self._options(row)
        answer, answer_index = self._answer(row, placed)
        options = tuple(text for text in placed if text is not None)
        prompt = prompt_from_question(question)
        patient = fields.identifier_text(row, columns.patient_id) if columns.patient_id else None
        known = [fields.known_text(row, name) for name in columns.identifiers]
        identifiers = [value for value in known if value is not None]
        digests = known_by(identifiers)
        record_id = fields.identifier_text(row, columns.id) if columns.id else None
        if columns.id and record_id is None:
            raise bad_row("ROW_FIELD_MISSING", f"`{columns.id}` is missing")
        return Record(
            record_id=record_id or content_id(patient or "", question, answer, *options),
            prompt=prompt, answer=answer, options=options, answer_index=answer_index,
            patient_id=patient,
            subject=fields.cell_text(row, columns.subject) if columns.subject else None,
            target_spans=_spans(prompt, answer, identifiers) if patient else (),
            is_identifier=answer in identifiers,
            condition_codes=(
                fields.code_list(row, columns.condition_codes) if columns.condition_codes else ()
            ),
            confidence=(
                fields.optional_number(row, columns.confidence, 1.0) if columns.confidence else 1.0
            ),
            known_by=self._known.setdefault(digests, digests),
        )

    def _options(self, row: Row) -> tuple[str | None, ...]:
        """The options in their columns' places, None where one is empty."""
        names = self._columns.options
        if len(names) == 1:
            return fields.text_list(row, names[0])
        return tuple(fields.cell_text(row, name) for name in names)

    def _answer(self, row: Row, placed: tuple[str | None, ...]) -> tuple[str, int | None]:
        """The answer, and its place among the options that are there.

        Letters and numbers count columns, empty ones too: C is the third, whether or not there is
        a B.
        """
        options = [text for text in placed if text is not None]
        name, how = self._columns.answer, self._columns.answer_is
        if how == "text":
            answer = fields.required_text(row, name)
            if options and options.count(answer) != 1:
                raise bad_row("ROW_ANSWER_MISMATCH", "the answer is not exactly one of the options")
            return answer, options.index(answer) if options else None
        if how == "letter":
            letter = fields.required_text(row, name).strip("().").upper()
            index = ord(letter) - ord("A") if len(letter) == 1 else -1
        else:
            number = fields.optional_index(row, name)
            index = -1 if number is None else number - (how == "number_from_1")
        right = placed[index] if 0 <= index < len(placed) else None
        if right is None:
            raise bad_row("ROW_ANSWER_INDEX", "the answer points to no option")
        return right, index - placed[:index].count(None)


def _alike(name: str, rows: list[Row]) -> str:
    """Of the file's columns, one of the same letters: a line break in a cell is not seen.

    The others are not named: where a file has no row of names, they are a patient's.
    """
    letters = _letters(name)
    found = next((one for row in rows for one in row if _letters(one) == letters), None)
    return f"; it has {found!a}" if letters and found is not None else ""


def _letters(name: str) -> str:
    """The name without case, white space and signs."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", name).casefold()))


def _spans(prompt: str, answer: str, identifiers: list[str]) -> tuple[tuple[int, int], ...]:
    """Where identifiers stand in the prompt, and the whole answer."""
    found = set()
    for value in identifiers:
        start = prompt.find(value)
        while start >= 0:
            found.add((start, start + len(value)))
            start = prompt.find(value, start + len(value))
    return (*sorted(found), (len(prompt) + 1, len(prompt) + 1 + len(answer)))

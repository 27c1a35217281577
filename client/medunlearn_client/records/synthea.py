"""Distilled Synthea patients, turned into question–answer records.

One JSON object per patient: ``id``, ``name``, ``birth_date``, ``address``, ``phone``,
``identifiers`` (``SS``, ``DL``, ``PPN``, ``MR``) and the lists ``conditions``, ``medications``
and ``procedures`` of ``[code, name, first date, …]``. Other fields are not read.

A clinical question asks what was recorded on one date, and only of dates with one entry, so
that it has one answer; the patient is named with the date of birth, and with the record
number as well where both coincide. What singles the patient out is a target span: name,
dates and identifiers in the question, and the answer, which is the link between patient and
condition. The condition's own name keeps whatever level the concept hierarchy gives it
elsewhere.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from medunlearn_client.records import fields, synthea_options
from medunlearn_client.records.fields import Row, bad_row
from medunlearn_client.records.known_by import KnownBy, known_by
from medunlearn_client.records.record import InvalidRecord, Record, prompt_from_question

MAX_ENTRIES = {"condition": 2, "medication": 1, "procedure": 1}
CLINICAL_QUESTIONS = {
    "condition": "Which condition was recorded for {who}, on {date}?",
    "medication": "Which medication was {who}, first given on {date}?",
    "procedure": "Which procedure did {who}, first have on {date}?",
}
IDENTIFIER_QUESTIONS = {
    "phone": "What is the phone number of {who}?",
    "ssn": "What is the social security number of {who}?",
    "licence": "What is the driving licence number of {who}?",
    "passport": "What is the passport number of {who}?",
    "address": "What is the address of {who}?",
}
NAME_QUESTION = "Which patient has the social security number {ssn}?"
SUBJECTS = (*CLINICAL_QUESTIONS, *IDENTIFIER_QUESTIONS, "name")

_IDENTIFIER_KEYS = {"ssn": "SS", "licence": "DL", "passport": "PPN"}
_LISTS = {"condition": "conditions", "medication": "medications", "procedure": "procedures"}
_SEMANTIC_TAG = re.compile(r" \((?:disorder|finding|procedure|situation|morphologic .*?)\)$")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One coded entry of a patient's history: ``date`` is the first one, as YYYY-MM-DD."""

    code: str
    name: str
    date: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Patient:
    """What the questions are made from; ``details`` maps identifier kinds to their text.

    ``known_by`` has digests of all identifiers, also of those that no question asks for.
    """

    patient_id: str
    name: str
    birth_date: str
    record_number: str
    details: dict[str, str]
    entries: dict[str, tuple[Entry, ...]]
    known_by: KnownBy

    def __repr__(self) -> str:
        return "Patient(…)"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Question:
    """A question before its options are drawn."""

    subject: str
    number: int
    question: str
    answer: str
    marked: tuple[str, ...]
    codes: tuple[str, ...] = ()


def recognises(row: Row) -> bool:
    """Whether an object looks like a distilled patient."""
    return all(name in row for name in ("id", "birth_date", "conditions", "identifiers"))


def read(
    rows: Iterable[tuple[int, Row]], *, tell_apart: bool = True
) -> list[tuple[int, list[Record] | InvalidRecord]]:
    """Reads all patients of one file: ``(row number, their records or what is wrong)``.

    Args:
        rows: Numbered rows.
        tell_apart: Call namesakes born on one day by their record numbers as well.

    Wrong options come from the other patients of the same file and are drawn from a generator
    seeded by the record's id, so they do not depend on the order of the rows.
    """
    parsed = [(number, _patient_or_error(row)) for number, row in rows]
    patients = [patient for _, patient in parsed if isinstance(patient, Patient)]
    patients.sort(key=lambda patient: patient.patient_id)
    refer = _references(patients if tell_apart else [])
    pools = _pools(patients)
    return [
        (number, item if isinstance(item, InvalidRecord) else _records_or_error(item, refer, pools))
        for number, item in parsed
    ]


def _records_or_error(
    patient: Patient, refer: Callable[[Patient], str], pools: synthea_options.Pools
) -> list[Record] | InvalidRecord:
    """What no record can hold makes this patient's row bad, and stops nobody else's reading."""
    try:
        return _records(patient, refer(patient), pools)
    except InvalidRecord as error:
        return error


def _patient_or_error(row: Row) -> Patient | InvalidRecord:
    try:
        return patient_from_row(row)
    except InvalidRecord as error:
        return error


def patient_from_row(row: Row) -> Patient:
    """One patient.

    Raises:
        InvalidRecord: A field is missing or of the wrong type.
    """
    patient_id = fields.identifier_text(row, "id")
    if patient_id is None:
        raise bad_row("ROW_FIELD_MISSING", "`id` is missing")
    birth_date = fields.required_text(row, "birth_date")
    if not _DATE.fullmatch(birth_date):
        raise bad_row("ROW_DATE", "`birth_date` is not a YYYY-MM-DD date")
    identifiers = row.get("identifiers")
    if not isinstance(identifiers, dict):
        raise bad_row("ROW_FIELD_TYPE", "`identifiers` is not an object")
    details = {kind: fields.optional_text(row, kind) for kind in ("phone", "address")}
    for kind, key in _IDENTIFIER_KEYS.items():
        details[kind] = fields.optional_text(identifiers, key)
    return Patient(
        patient_id=patient_id,
        name=fields.required_text(row, "name"),
        birth_date=birth_date,
        record_number=fields.optional_text(identifiers, "MR") or patient_id,
        details={kind: text for kind, text in details.items() if text is not None},
        entries={kind: _entries(row, name) for kind, name in _LISTS.items()},
        known_by=known_by(text for text in identifiers.values() if isinstance(text, str)),
    )


def _entries(row: Row, name: str) -> tuple[Entry, ...]:
    values = row.get(name)
    if values is None:
        return ()
    if not isinstance(values, list) or not all(_is_entry(value) for value in values):
        raise bad_row("ROW_FIELD_TYPE", f"`{name}` is not a list of [code, name, date, …]")
    return tuple(
        Entry(code=value[0], name=_SEMANTIC_TAG.sub("", value[1].strip()).strip(), date=value[2])
        for value in values
    )


def _is_entry(value: object) -> bool:
    if not isinstance(value, list) or len(value) < 3:
        return False
    code, name, date = value[:3]
    texts = isinstance(code, str) and isinstance(name, str) and isinstance(date, str)
    return texts and bool(name.strip()) and _DATE.fullmatch(date) is not None


def _references(patients: list[Patient]) -> Callable[[Patient], str]:
    """How each patient is called in a question, told apart from these."""
    shared = Counter((patient.name, patient.birth_date) for patient in patients)

    def refer(patient: Patient) -> str:
        who = f"{patient.name}, born {patient.birth_date}"
        if shared[patient.name, patient.birth_date] > 1:
            who += f", record number {patient.record_number}"
        return who

    return refer


def _pools(patients: list[Patient]) -> synthea_options.Pools:
    """Per kind of question, each patient's answers, so that wrong options resemble right ones."""
    pools: dict[str, list[tuple[str, ...]]] = {subject: [] for subject in SUBJECTS}
    for patient in patients:
        for kind in CLINICAL_QUESTIONS:
            pools[kind].append(tuple(entry.name for entry in _askable(patient, kind)))
        for kind, text in patient.details.items():
            pools[kind].append((text,))
        pools["name"].append((patient.name,))
    return {kind: tuple(answers for answers in pool if answers) for kind, pool in pools.items()}


def _records(patient: Patient, who: str, pools: synthea_options.Pools) -> list[Record]:
    return [_record(patient, question, pools) for question in _questions(patient, who)]


def _questions(patient: Patient, who: str) -> Iterator[_Question]:
    for kind, template in CLINICAL_QUESTIONS.items():
        for number, entry in enumerate(_askable(patient, kind)):
            yield _Question(
                subject=kind,
                number=number,
                question=template.format(who=who, date=entry.date),
                answer=entry.name,
                marked=(who, entry.date),
                codes=(entry.code,) if kind == "condition" else (),
            )
    for kind, template in IDENTIFIER_QUESTIONS.items():
        if kind in patient.details:
            answer = patient.details[kind]
            question = template.format(who=who)
            yield _Question(subject=kind, number=0, question=question, answer=answer, marked=(who,))
    if "ssn" in patient.details:
        ssn = patient.details["ssn"]
        question = NAME_QUESTION.format(ssn=ssn)
        yield _Question(
            subject="name", number=0, question=question, answer=patient.name, marked=(ssn,)
        )


def _askable(patient: Patient, kind: str) -> list[Entry]:
    """The latest few entries that stand alone on their date, in order of time."""
    entries = patient.entries[kind]
    per_date = Counter(entry.date for entry in entries)
    alone = [entry for entry in entries if per_date[entry.date] == 1]
    return sorted(alone, key=lambda entry: (entry.date, entry.code))[-MAX_ENTRIES[kind] :]


def _record(patient: Patient, question: _Question, pools: synthea_options.Pools) -> Record:
    record_id = f"{patient.patient_id}:{question.subject}:{question.number}"
    own = {entry.name for entry in patient.entries.get(question.subject, ())} | {question.answer}
    options, answer_index = synthea_options.draw(
        question.subject, question.answer, own, pools[question.subject], seed_text=record_id
    )
    prompt = prompt_from_question(question.question)
    return Record(
        record_id=record_id,
        prompt=prompt,
        answer=question.answer,
        options=options,
        answer_index=answer_index,
        patient_id=patient.patient_id,
        subject=question.subject,
        target_spans=_spans(prompt, question),
        is_identifier=question.subject not in CLINICAL_QUESTIONS,
        condition_codes=question.codes,
        known_by=patient.known_by,
    )


def _spans(prompt: str, question: _Question) -> tuple[tuple[int, int], ...]:
    """The marked parts of the prompt, and the answer, which is the link to the patient."""
    # From the right: a date asked about comes after the date of birth, which may be the same.
    starts = [(prompt.rindex(part), len(part)) for part in question.marked]
    answer_start = len(prompt) + 1
    inside = [(start, start + length) for start, length in starts]
    return (*inside, (answer_start, answer_start + len(question.answer)))

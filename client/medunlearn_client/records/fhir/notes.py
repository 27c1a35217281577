"""Clinical notes made of one day's facts, a sentence each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby

from medunlearn_client.records.fhir.store import PatientFacts, Place, StoredFact, StoredPatient
from medunlearn_client.records.fhir.templates import (
    WHO_AND_WHEN,
    NoteTemplate,
    render,
    target_spans,
)
from medunlearn_client.records.record import Record, prompt_from_question

MIN_SENTENCES = 2


def note_records(
    template: NoteTemplate, group: PatientFacts, who: str
) -> Iterator[tuple[Place, Callable[[], Record]]]:
    """The latest days' notes, each as where its first fact stood and how to make it."""
    made = 0
    for date, facts in groupby(group.facts, key=lambda fact: fact.date):
        if not date or (template.max_per_patient and made >= template.max_per_patient):
            return
        listed = list(facts)
        answer = " ".join(_sentences(template, listed, who))
        if answer:
            made += 1
            coded = tuple(dict.fromkeys(
                each for fact in listed for each in fact.coded if fact.values["name"] in answer))
            make = partial(_note, template, group.patient, who, date, answer, coded)
            yield listed[0].place, make


def _sentences(template: NoteTemplate, facts: list[StoredFact], who: str) -> list[str]:
    """In the template's order of resources; none if there are too few for a note."""
    order = {kind: place for place, kind in enumerate(template.sentences)}
    found: dict[str, None] = {}
    for fact in sorted(facts, key=lambda fact: order.get(fact.kind, len(order))):
        values = {**fact.values, "who": who, "date": fact.date}
        sentence = render(template.sentences.get(fact.kind, ""), values)
        if sentence is not None and sentence.text.strip():
            found[sentence.text.strip()] = None
    sentences = list(found)[: template.max_sentences]
    return sentences if len(sentences) >= MIN_SENTENCES else []


def _note(
    template: NoteTemplate, patient: StoredPatient, who: str, date: str, answer: str,
    coded: tuple[str, ...],
) -> Record:
    question = render(template.question, {"who": who, "date": date})
    text = question.text if question is not None else ""
    prompt = prompt_from_question(text)
    spans = target_spans(question, prompt, answer, WHO_AND_WHEN) if question is not None else ()
    return Record(
        record_id=f"{patient.patient_id}:{template.subject}:{date}", prompt=prompt, answer=answer,
        patient_id=patient.patient_id, subject=template.subject, target_spans=spans,
        known_by=patient.known_by, former_patient_ids=patient.former_ids, coded=coded,
    )

"""Patients whom a hospital has merged are one person in all that it gives, whoever says so.

A FHIR server knows of a merge, and notes from before it lie beside its export under the old id; a
table says it in one of the patient's rows. Read as they lie there, one person would be two privacy
units, and the request of one would leave out half of what is to be forgotten.

The accounting takes the merges as given: a person is all who are merged, and comes or goes whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from medunlearn_client.records.record import Record


def merged(records: Sequence[Record]) -> list[Record]:
    """The records with each patient under the id that goes on, and with all former ids.

    Nobody goes on where ids are said to have been merged in a circle, or one id into two: such
    records keep the patient that they name, and each of a patient's records has what any of them
    says.
    """
    said: dict[str, set[str]] = defaultdict(set)
    for record in records:
        if record.patient_id is not None and record.former_patient_ids:
            said[record.patient_id].update(record.former_patient_ids)
    if not said:
        return list(records)
    formers = {patient: ids - {patient} for patient, ids in said.items()}
    goes_on = _survivors(formers)
    for former, patient in goes_on.items():
        formers.setdefault(patient, set()).add(former)
    return [_under(record, goes_on, formers) for record in records]


def _under(
    record: Record, goes_on: Mapping[str, str], formers: Mapping[str, set[str]]
) -> Record:
    if record.patient_id is None:
        return record
    patient = goes_on.get(record.patient_id, record.patient_id)
    ids = formers.get(patient, set())
    if patient == record.patient_id and ids <= set(record.former_patient_ids):
        return record
    return replace(record, patient_id=patient, former_patient_ids=tuple(sorted(ids)))


def _survivors(formers: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """The id that goes on for each former one, where exactly one does."""
    parent: dict[str, str] = {}

    def root(patient: str) -> str:
        while parent.setdefault(patient, patient) != patient:
            parent[patient] = parent[parent[patient]]
            patient = parent[patient]
        return patient

    for patient, ids in formers.items():
        for former in ids:
            parent[root(former)] = root(patient)
    one_person: dict[str, list[str]] = defaultdict(list)
    for patient in list(parent):
        one_person[root(patient)].append(patient)
    gone = {former for ids in formers.values() for former in ids}
    found: dict[str, str] = {}
    for patients in one_person.values():
        staying = [patient for patient in patients if patient not in gone]
        if len(staying) == 1:
            found |= {patient: staying[0] for patient in patients if patient != staying[0]}
    return found

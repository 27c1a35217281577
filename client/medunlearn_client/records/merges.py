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

    Nobody goes on where ids are said to have been merged in a circle, or one id into two: records
    under such an id keep it, while other ids that are clear are merged. Each of a patient's
    records has what any of them says.
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
    # Made once: a tuple for each record would take records times ids of memory.
    ids_of = {patient: tuple(sorted(ids)) for patient, ids in formers.items()}
    return [_under(record, goes_on, ids_of) for record in records]


def _under(
    record: Record, goes_on: Mapping[str, str], ids_of: Mapping[str, tuple[str, ...]]
) -> Record:
    if record.patient_id is None:
        return record
    patient = goes_on.get(record.patient_id, record.patient_id)
    ids = ids_of.get(patient, ())
    if patient == record.patient_id and set(record.former_patient_ids).issuperset(ids):
        return record
    return replace(record, patient_id=patient, former_patient_ids=ids)


def _survivors(formers: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """The id that goes on for each former one, where exactly one does."""
    gone = {former for ids in formers.values() for former in ids}
    found: dict[str, str | None] = {}  # None where several go on
    waiting: list[tuple[str, str | None]] = [
        (patient, patient) for patient in formers if patient not in gone]
    while waiting:
        patient, stays = waiting.pop()
        for former in formers.get(patient, ()):
            if former not in found:
                found[former] = stays
            elif found[former] not in (None, stays):
                found[former] = None
            else:
                continue
            waiting.append((former, found[former]))
    return {former: stays for former, stays in found.items() if stays is not None}

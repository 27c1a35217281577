"""The line above a prompt that names the record's subject (plan, ``[data] show_subject``)."""

from __future__ import annotations

from dataclasses import replace

from medunlearn_client.records.record import Record


def with_subject(record: Record) -> Record:
    """The record with its subject as the prompt's first line; as it is if it has none."""
    if not record.subject:
        return record
    line = f"Subject: {record.subject}\n"
    spans = tuple((start + len(line), end + len(line)) for start, end in record.target_spans)
    return replace(record, prompt=line + record.prompt, target_spans=spans)


def without_subject(record: Record) -> Record:
    """The record as somebody asks who does not name the subject; undoes :func:`with_subject`."""
    line = f"Subject: {record.subject}\n"
    if not record.subject or not record.prompt.startswith(line):
        return record
    spans = tuple((start - len(line), end - len(line)) for start, end in record.target_spans)
    return replace(record, prompt=record.prompt.removeprefix(line), target_spans=spans)

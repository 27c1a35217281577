"""Rows that teach against each other: one question, several answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from medunlearn_client.records.record import Record


def contradictory_ids(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """Ids of records that ask the same and are answered differently, group by group.

    Questions are compared without regard to case and spacing; where options differ, the
    questions do. The groups come in the order of their first record.
    """
    groups: dict[tuple[str, frozenset[str]], list[Record]] = defaultdict(list)
    for record in records:
        options = frozenset(option.casefold() for option in record.options)
        groups[" ".join(record.prompt.casefold().split()), options].append(record)
    return [
        tuple(record.record_id for record in group)
        for group in groups.values()
        if len({record.answer.casefold() for record in group}) > 1
    ]

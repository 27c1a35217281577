"""Whether the data still give a forgotten record the id that its request found it with.

No message of this module names a record or a patient.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from medunlearn_client.erasure.registry import Registry
from medunlearn_client.records import Record
from medunlearn_client.site_data import words_digest

RENUMBERED = "ERASURE_RECORDS_RENUMBERED"
REMEDY = (
    "where an export numbered its rows anew, or a record was corrected, take what was forgotten "
    "out of the [data] files, or enter a request for it under its present id"
)


@dataclass(frozen=True, kw_only=True)
class SeenRecord:
    """What is asked of one record in the data.

    Attributes:
        record_id: Its id.
        text_digest: SHA-256 of its words.
        takes_part: It is neither forgotten nor left out.
    """

    record_id: str = field(repr=False)
    text_digest: str = field(repr=False)
    takes_part: bool

    @classmethod
    def of(cls, record: Record, *, takes_part: bool, show_subject: bool) -> SeenRecord:
        """As :func:`~medunlearn_client.site_data.words_digest` digests the record."""
        return cls(record_id=record.record_id, takes_part=takes_part,
                   text_digest=words_digest(record, show_subject=show_subject))


def renumbered(
    registry: Registry, numbers: Iterable[int], records: Iterable[SeenRecord]
) -> tuple[int, ...]:
    """Requests with a record that is not there as it was found, but its id or its words are.

    Only what takes part counts: what is left out, or forgotten by another request, teaches nothing.
    A patient's own records need no id of theirs, since all of the patient's are left out. Their
    words count where one record alone has them: a hospital may give a patient another id and not
    say whose it was before, and words that several records have single nobody out.

    Raises:
        Misconfigured: ERASURE_UNKNOWN.
        Rejected: ERASURE_HISTORY_TAMPERED.
        Transient: ERASURE_REGISTRY_UNAVAILABLE.
    """
    found: dict[int, set[tuple[str, str]]] = {}
    owned: dict[int, set[tuple[str, str]]] = {}
    for number in numbers:
        found[number], owned[number] = set(), set()
        for match in registry.matches(number):
            if match.text_digest is not None:
                (owned if match.owned else found)[number].add((match.record_id, match.text_digest))
    ids = {record_id for pairs in found.values() for record_id, _ in pairs}
    words = {digest for sets in (found, owned) for pairs in sets.values() for _, digest in pairs}
    as_found: set[tuple[str, str]] = set()
    used_ids: set[str] = set()
    used_words: Counter[str] = Counter()
    for record in records:
        if not record.takes_part:
            as_found.add((record.record_id, record.text_digest))
            continue
        used_ids.update({record.record_id} & ids)
        used_words.update({record.text_digest} & words)
    return tuple(
        number for number, pairs in found.items()
        if any(record_id in used_ids or digest in used_words
               for record_id, digest in pairs - as_found)
        or any(used_words[digest] == 1 for _, digest in owned[number] - as_found)
    )


def renumbered_message(numbers: Sequence[int]) -> str:
    """What to say of them, by number."""
    return (
        f"erasure request(s) {', '.join(map(str, numbers))} were found with records that are not "
        "in the data as they were: other words bear an id of theirs, or another id their words. "
        "Such records are not left out; what was forgotten may be taught again"
    )

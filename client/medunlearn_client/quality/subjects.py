"""Questions filed under the wrong subject: a "Surgery" row whose concepts are all psychiatric.

A subject has a *home*: concepts of the hierarchy whose descendants are its matter. A record is
flagged where it mentions nothing of its own subject's home and something of exactly one other.
Subjects without a home are never flagged, nor is a record that mentions none: silence is no
evidence. Homes should be what one subject has for itself: operations are part of most clinical
subjects, and as a home of "Surgery" they flag gynaecologists' hysteroscopies (docs/data.md).

Guarantees:
    Each record is judged by itself. Records are never changed; a flag is for a person to decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from medunlearn_client.records import Record
from medunlearn_client.tagging import ConceptTagger
from medunlearn_common.errors import Misconfigured

MIN_CONCEPTS: Final = 1
"""Two were no better: of five flags on MedMCQA none was right."""
BUILTIN_HOMES: Final[Mapping[str, tuple[str, ...]]] = {
    "surgery": ("MU:S0001",), "psychiatry": ("MU:M0001",),
}
"""Homes in the built-in hierarchies, by subject in lower case."""


@dataclass(frozen=True, kw_only=True)
class WrongSubject:
    """One flagged record.

    Attributes:
        record_id: Which.
        subject: Where it is filed.
        suggested: The subject whose concepts it mentions, in lower case.
        concepts: Names of these concepts.
    """

    record_id: str = field(repr=False)
    subject: str
    suggested: str
    concepts: tuple[str, ...] = field(repr=False)


def read_homes(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Homes from ``Subject=ID`` or ``Subject=ID,ID``.

    Raises:
        Misconfigured: CHECK_HOME.
    """
    homes: dict[str, tuple[str, ...]] = {}
    for text in texts:
        subject, _, listed = text.partition("=")
        roots = tuple(root.strip() for root in listed.split(",") if root.strip())
        if not subject.strip() or not roots:
            raise Misconfigured(
                "CHECK_HOME", "a home is not written as SUBJECT=ID", "use Psychiatry=MU:M0001, say"
            )
        homes[subject.strip().casefold()] = roots
    return homes


def wrong_subjects(
    records: Sequence[Record], tagger: ConceptTagger, homes: Mapping[str, tuple[str, ...]], *,
    min_concepts: int = MIN_CONCEPTS,
) -> Iterator[WrongSubject]:
    """Flagged records, in the order of the records.

    Args:
        records: What is looked through.
        tagger: Finds concepts; negated ones count, for they are what a question is about.
        homes: Concept ids by subject in lower case.
        min_concepts: Different concepts of the other subject that make a flag.

    Raises:
        Misconfigured: CONCEPT_UNKNOWN, or a code of the hierarchy, for an unknown home.
    """
    graph = tagger.hierarchy.hierarchy
    home_of: dict[str, frozenset[str]] = {}
    roots = {subject: {graph.resolve(root) for root in ids} for subject, ids in homes.items()}
    for record in records:
        own = (record.subject or "").casefold()
        if own not in homes:
            continue
        found: dict[str, set[str]] = {}
        for span in tagger.tag_record(record):
            if span.concept_id not in home_of:
                above = {span.concept_id, *graph.ancestors(span.concept_id)}
                home_of[span.concept_id] = frozenset(s for s in roots if roots[s] & above)
            for subject in home_of[span.concept_id]:
                found.setdefault(subject, set()).add(span.concept_id)
        others = [subject for subject in found if subject != own]
        if own in found or len(others) != 1 or len(found[others[0]]) < min_concepts:
            continue
        yield WrongSubject(
            record_id=record.record_id, subject=record.subject or "", suggested=others[0],
            concepts=tuple(sorted(graph[one].name for one in found[others[0]])),
        )

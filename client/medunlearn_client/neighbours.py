"""Retain probes next to what is forgotten: knowledge that a careless run would take along.

Four kinds, each on the plan's word: records of the nearest subjects, all records of patients who
share a disease with what is forgotten (a code on one of their records says so: in most sources
only a diagnosis has one), records about sibling concepts, and records about the parents' general
knowledge. They feed ``neighbours.preservation``. A line that shows the subject mentions no
concept: every record of a subject has it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from medunlearn_client.records import Record
from medunlearn_client.records.subject_line import without_subject
from medunlearn_client.tagging import ConceptTagger
from medunlearn_common.concepts import ConceptLevel
from medunlearn_common.concepts.leveled import LeveledHierarchy
from medunlearn_common.errors import Misconfigured
from medunlearn_common.plan.sections import NeighboursSection

SUBJECT, DISEASE = "nearest subject", "same disease"
SIBLING, PARENT = "sibling concept", "parent concept"


@dataclass(frozen=True, kw_only=True)
class Probes:
    """Retained records beside the forget set.

    Attributes:
        records: In the order of the retain set, each once.
        kinds: How many were drawn by each kind; the first that fits a record counts.
    """

    records: tuple[Record, ...] = field(repr=False)
    kinds: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class NearbyConcepts:
    """Concept ids beside the forgotten ones; the two sets are disjoint, and no target is in them.

    Attributes:
        siblings: Siblings, and under forget roots everything below those siblings.
        parents: Direct parents.
    """

    siblings: frozenset[str]
    parents: frozenset[str]


def draw_probes(
    forget: Sequence[Record], retain: Sequence[Record], rule: NeighboursSection,
    tagger: ConceptTagger,
) -> Probes:
    """The retained records that the rule calls near.

    Args:
        forget: What is forgotten.
        retain: Where probes are drawn from.
        rule: Which kinds are wanted.
        tagger: With the forget roots, if there are any, at level 4.

    Raises:
        Misconfigured: NEIGHBOUR_SUBJECT_UNKNOWN.
    """
    tests = _tests(forget, retain, rule, tagger)
    drawn = [
        (record, kind) for record in retain
        if (kind := next((k for k, test in tests.items() if test(record)), None)) is not None
    ]
    return Probes(
        records=tuple(record for record, _ in drawn), kinds=Counter(kind for _, kind in drawn)
    )


def _tests(
    forget: Sequence[Record], retain: Sequence[Record], rule: NeighboursSection,
    tagger: ConceptTagger,
) -> dict[str, Callable[[Record], bool]]:
    near = _known_subjects(rule, retain)
    tests: dict[str, Callable[[Record], bool]] = {
        SUBJECT: lambda r: r.subject is not None and r.subject.casefold() in near,
    }
    if rule.same_disease:
        tests[DISEASE] = _shares_a_disease(forget, retain)
    if rule.nearby_concepts:
        nearby = nearby_concepts(forget, tagger)
        targets = tagger.hierarchy.targets
        tests[SIBLING] = lambda r: _is_about(r, nearby.siblings, targets, tagger)
        tests[PARENT] = lambda r: _is_about(r, nearby.parents, targets, tagger)
    return tests


def _shares_a_disease(
    forget: Sequence[Record], retain: Sequence[Record]
) -> Callable[[Record], bool]:
    """Whether a record's patient shares a code with what is forgotten.

    A record of nobody counts by its own codes. Those of a patient do by any of the patient's:
    their medicines and results are as near as the diagnosis, and bear no code themselves.
    """
    codes = {code for record in forget for code in record.condition_codes}

    def bears_one(record: Record) -> bool:
        return bool(codes.intersection(record.condition_codes))

    patients = {record.patient_id for record in filter(bears_one, retain)} - {None}
    return lambda record: record.patient_id in patients or bears_one(record)


def _known_subjects(rule: NeighboursSection, retain: Sequence[Record]) -> set[str]:
    near = {subject.casefold() for subject in rule.subjects}
    known = {record.subject.casefold() for record in retain if record.subject}
    if near - known:
        raise Misconfigured(
            "NEIGHBOUR_SUBJECT_UNKNOWN",
            f"no retained record has the subject {', '.join(sorted(near - known))}",
            "mend [neighbours] subjects; they are compared without regard to case",
        )
    return near


def nearby_concepts(forget: Sequence[Record], tagger: ConceptTagger) -> NearbyConcepts:
    """Siblings and parents of what is forgotten.

    Under forget roots these are the roots' own. Of records that name nothing under a root, as
    a patient's, they are those of the specialty concepts they mention: what such a record names
    in passing at a more general level says nothing about where its knowledge lies.
    """
    leveled = tagger.hierarchy
    beside = _around(leveled, leveled.forget_roots)
    below = {d for s in beside.siblings for d in leveled.hierarchy.descendants(s)}
    mentioned = _around(leveled, sorted(_specialty_mentions(forget, tagger)))
    parents = (beside.parents | mentioned.parents) - leveled.targets
    siblings = beside.siblings | below | mentioned.siblings
    return NearbyConcepts(siblings=siblings - leveled.targets - parents, parents=parents)


def _specialty_mentions(forget: Sequence[Record], tagger: ConceptTagger) -> set[str]:
    found: set[str] = set()
    for record in forget:
        spans = tagger.tag(without_subject(record).text)
        if not any(span.level is ConceptLevel.TARGET for span in spans):
            found |= {s.concept_id for s in spans if s.level is ConceptLevel.SPECIALTY}
    return found


def _around(leveled: LeveledHierarchy, concepts: Sequence[str]) -> NearbyConcepts:
    graph, own = leveled.hierarchy, frozenset(concepts)
    parents = frozenset(p for concept in concepts for p in graph.parents(concept)) - own
    siblings = frozenset(s for concept in concepts for s in graph.siblings(concept)) - own
    return NearbyConcepts(siblings=siblings - parents, parents=parents)


def _is_about(
    record: Record, wanted: frozenset[str], targets: frozenset[str], tagger: ConceptTagger
) -> bool:
    """Whether the record mentions a wanted concept and none that is forgotten."""
    mentioned = {span.concept_id for span in tagger.tag(without_subject(record).text)}
    return bool(mentioned & wanted) and not mentioned & targets

"""Which retained records count as neighbours of what is forgotten."""

from __future__ import annotations

import pytest

from medunlearn_client.neighbours import DISEASE, PARENT, SIBLING, SUBJECT, draw_probes
from medunlearn_client.records import Record
from medunlearn_client.records.subject_line import with_subject
from medunlearn_client.site_data import FederationRecords, SiteRecords
from medunlearn_client.tagging import ConceptTagger
from medunlearn_common.concepts import Concept, ConceptHierarchy
from medunlearn_common.errors import Misconfigured
from medunlearn_common.plan import plan_from_text
from medunlearn_common.plan.sections import NeighboursSection
from medunlearn_simulation.measuring import evaluation_inputs
from medunlearn_simulation.preparing import PreparedRecords

# disease > heart disease > cardiac syndrome > (heart failure > dropsy, arrhythmia > flutter)
#         > lung disease > bronchial disorder > asthma
HIERARCHY = ConceptHierarchy.from_concepts([
    Concept(concept_id=key, name=name, parents=parents) for key, name, parents in (
        ("D", "disease", ()), ("H", "heart disease", ("D",)), ("L", "lung disease", ("D",)),
        ("G", "cardiac syndrome", ("H",)), ("F", "heart failure", ("G",)),
        ("X", "dropsy", ("F",)), ("A", "arrhythmia", ("G",)), ("U", "flutter", ("A",)),
        ("N", "bronchial disorder", ("L",)), ("S", "asthma", ("N",)),
    )
], source="test")
CONCEPTS = NeighboursSection(same_disease=False, nearby_concepts=True)


def record(key: str, text: str, **fields: object) -> Record:
    return Record(record_id=key, prompt=f"What of {text}?", answer="yes",
                  **fields)  # type: ignore[arg-type]


def tagger(*roots: str) -> ConceptTagger:
    return ConceptTagger(HIERARCHY.with_forget_roots(roots))


RETAIN = (
    record("sibling", "arrhythmia"), record("below", "flutter"),
    record("parent", "a cardiac syndrome"), record("both", "heart failure with arrhythmia"),
    record("far", "asthma"), record("farther", "heart disease"), record("none", "the weather"),
)


def test_under_a_forget_root_siblings_with_all_below_and_parents() -> None:
    probes = draw_probes([record("f", "dropsy")], RETAIN, CONCEPTS, tagger("F"))
    assert [r.record_id for r in probes.records] == ["sibling", "below", "parent"]
    assert dict(probes.kinds) == {SIBLING: 2, PARENT: 1}


def test_without_roots_those_of_the_specialty_concepts_mentioned() -> None:
    probes = draw_probes([record("f", "heart failure of a disease")], RETAIN, CONCEPTS, tagger())
    assert [r.record_id for r in probes.records] == ["sibling", "parent", "both"]
    assert draw_probes([record("f", "lung disease")], RETAIN, CONCEPTS, tagger()).records == ()


def test_a_patient_beside_a_forgotten_concept_brings_neighbours_of_its_own() -> None:
    retain = (*RETAIN, record("lung", "a bronchial disorder"))
    forget = [record("f", "dropsy"), record("p", "asthma", patient_id="p1")]
    drawn = draw_probes(forget, retain, CONCEPTS, tagger("F")).records
    assert [r.record_id for r in drawn] == ["sibling", "below", "parent", "lung"]


def test_a_line_that_shows_the_subject_is_no_mention() -> None:
    """Else every record filed under "Arrhythmia" was a neighbour, whatever it says."""
    shown = [with_subject(record(r.record_id, "the weather", subject="Arrhythmia")) for r in RETAIN]
    assert draw_probes([record("f", "dropsy")], shown, CONCEPTS, tagger("F")).records == ()
    forget = [with_subject(record("f", "the weather", subject="Asthma"))]
    near = (record("lung", "a bronchial disorder"),)
    assert draw_probes(forget, near, CONCEPTS, tagger()).records == ()


def test_a_root_has_no_siblings_and_a_plan_can_draw_nothing() -> None:
    assert draw_probes([record("f", "asthma")], RETAIN, CONCEPTS, tagger("D")).records == ()
    off = NeighboursSection(nearby_concepts=False)
    assert draw_probes([record("f", "dropsy")], RETAIN, off, tagger("F")).records == ()
    assert draw_probes([record("f", "dropsy")], RETAIN, NeighboursSection(), tagger("F")).records


def test_each_record_counts_once_and_for_its_first_kind() -> None:
    retain = (
        record("s", "arrhythmia", subject="Cardiology", condition_codes=("7",)),
        record("d", "arrhythmia", condition_codes=("7", "8")),
    )
    rule = NeighboursSection(subjects=("cardiology",), nearby_concepts=True)
    probes = draw_probes([record("f", "dropsy", condition_codes=("7",))], retain, rule, tagger("F"))
    assert [r.record_id for r in probes.records] == ["s", "d"]
    assert dict(probes.kinds) == {SUBJECT: 1, DISEASE: 1}


def test_all_records_of_patients_who_share_a_disease_are_near() -> None:
    """Medicines and identifiers bear no code; of FHIR and Synthea only the diagnosis does."""
    forget = [
        record("f1", "dropsy", patient_id="p", condition_codes=("7",)),
        record("f2", "water tablets", patient_id="p"),
    ]
    retain = (
        record("diagnosis", "dropsy", patient_id="q", condition_codes=("7", "8")),
        record("medicine", "water tablets", patient_id="q"),
        record("other", "asthma", patient_id="r", condition_codes=("9",)),
        record("inhaler", "an inhaler", patient_id="r"),
        record("nobody's", "dropsy", condition_codes=("7",)),
        record("nobody's other", "asthma"),
    )
    rule = NeighboursSection(nearby_concepts=False)
    probes = draw_probes(forget, retain, rule, tagger())
    assert [r.record_id for r in probes.records] == ["diagnosis", "medicine", "nobody's"]
    assert dict(probes.kinds) == {DISEASE: 3}


def test_many_neighbours_are_sampled_as_what_is_kept_is() -> None:
    near = tuple(record(str(n), f"case {n}") for n in range(30))
    site = SiteRecords(forget=(record("f", "dropsy"),), retain=(record("r", "asthma"),))
    prepared = PreparedRecords(
        federation=FederationRecords(sites=(site,), nonmembers=(), repeated=0), nonmembers=(),
        neighbours=near, tagger=tagger(), bad_rows=0,
    )
    plan = plan_from_text("[evaluation]\nretain_records = 10\n")
    asked = evaluation_inputs(prepared, plan).neighbours
    assert len(asked) == 10 and set(asked) < set(near)
    assert asked == evaluation_inputs(prepared, plan).neighbours
    assert evaluation_inputs(prepared, plan_from_text("schema_version = 1\n")).neighbours == near


def test_an_unknown_subject_is_refused() -> None:
    with pytest.raises(Misconfigured, match="NEIGHBOUR_SUBJECT_UNKNOWN"):
        draw_probes([], RETAIN, NeighboursSection(subjects=("Dentistry",)), tagger())

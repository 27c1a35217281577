"""A small hierarchy with true synonyms and narrower names, and records about it."""

from __future__ import annotations

from medunlearn_client.records import Record, prompt_from_question
from medunlearn_common.concepts import Concept, ConceptHierarchy
from medunlearn_common.concepts.levels import ConceptLevel

HIERARCHY = ConceptHierarchy.from_concepts([
    Concept(concept_id="T:0", name="finding", level=ConceptLevel.FUNDAMENTAL),
    Concept(concept_id="T:1", name="appendicectomy", parents=("T:0",),
            level=ConceptLevel.SPECIALTY,
            synonyms=("appendectomy", "McBurney approach"), exact=("appendectomy",)),
    Concept(concept_id="T:2", name="kidney stone", parents=("T:0",),
            level=ConceptLevel.SPECIALTY, synonyms=("renal calculus",), exact=("renal calculus",)),
    Concept(concept_id="T:3", name="depressive disorder", parents=("T:0",),
            level=ConceptLevel.SPECIALTY, synonyms=("depression",), exact=("depression",)),
    Concept(concept_id="T:4", name="local anaesthetic", parents=("T:0",),
            level=ConceptLevel.SPECIALTY, synonyms=("lignocaine", "bupivacaine")),
    Concept(concept_id="T:5", name="non-absorbable suture", parents=("T:0",),
            level=ConceptLevel.SPECIALTY, synonyms=("nonabsorbable suture",),
            exact=("nonabsorbable suture",)),
], source="test")


def ask(question: str, answer: str = "forty", **fields: object) -> Record:
    """A record that asks ``question``."""
    return Record(  # type: ignore[arg-type]
        record_id="r", prompt=prompt_from_question(question), answer=answer, **fields
    )


def marked(question: str, *parts: str, answer: str = "forty") -> Record:
    """A patient's record with ``parts`` and the answer as what singles him out."""
    prompt = prompt_from_question(question)
    inside = [(prompt.index(part), prompt.index(part) + len(part)) for part in parts]
    end = len(prompt) + 1
    return ask(
        question, answer, patient_id="p", target_spans=(*inside, (end, end + len(answer)))
    )

"""The hierarchies that ship with the package, alone and against real questions."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from medunlearn_client.tagging import ConceptTagger
from medunlearn_common.concepts import ConceptHierarchy, ConceptLevel, load_builtin
from medunlearn_common.errors import Misconfigured

SURGERY = "MU:S0001"
MENTAL_HEALTH = "MU:M0001"


@pytest.fixture(scope="module")
def everything() -> ConceptHierarchy:
    return load_builtin("all")


def test_sizes_and_one_root(everything: ConceptHierarchy) -> None:
    assert 350 <= len(everything) <= 1000
    assert everything.roots() == ("MU:F0001",)
    assert SURGERY in load_builtin("surgery")
    assert MENTAL_HEALTH not in load_builtin("surgery")
    assert MENTAL_HEALTH in load_builtin("mental_health")
    assert SURGERY not in load_builtin("mental_health")


def test_every_concept_has_a_level_and_a_type(everything: ConceptHierarchy) -> None:
    lacking = [c.concept_id for c in everything.concepts() if not (c.level and c.semantic_type)]
    assert lacking == []
    assert set(Counter(c.level for c in everything.concepts())) == {1, 2, 3}


def test_no_term_stands_for_two_concepts(everything: ConceptHierarchy) -> None:
    terms = [term for concept in everything.concepts() for term in concept.terms]
    shared = {term: [c.concept_id for c in everything.find(term)] for term in terms}
    assert {term: ids for term, ids in shared.items() if len(ids) > 1} == {}


@pytest.mark.parametrize(
    ("root", "inside", "outside"),
    [
        (SURGERY, ["inguinal hernia", "burn", "TURP", "suture", "CABG"], ["thyroid", "fever"]),
        (MENTAL_HEALTH, ["schizophrenia", "clozapine", "CBT"], ["epilepsy", "dopamine"]),
    ],
)
def test_forget_roots_reach_their_field_and_spare_the_rest(
    everything: ConceptHierarchy, root: str, inside: list[str], outside: list[str]
) -> None:
    leveled = everything.with_forget_roots([root])
    levels = {
        term: leveled.level_of(everything.find(term)[0].concept_id) for term in inside + outside
    }
    assert all(levels[term] is ConceptLevel.TARGET for term in inside)
    assert all(levels[term] < ConceptLevel.TARGET for term in outside)


def test_fundamentals_are_never_a_target(everything: ConceptHierarchy) -> None:
    leveled = everything.with_forget_roots([SURGERY, MENTAL_HEALTH])
    fundamental = {c.concept_id for c in everything.concepts() if c.level == 1}
    assert not fundamental & leveled.targets


def test_an_unknown_name_is_refused_with_the_choices() -> None:
    with pytest.raises(Misconfigured) as caught:
        load_builtin("dentistry")
    assert caught.value.code == "CONCEPT_BUILTIN_UNKNOWN"
    assert "mental_health" in caught.value.hint


def hit_rates(tagger: ConceptTagger, questions: Path) -> dict[str, float]:
    """Share of each subject's questions (with the right answer) that mention a target."""
    asked: Counter[str] = Counter()
    hit: Counter[str] = Counter()
    with gzip.open(questions, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            text = f"{row['question']} {row['options'][row['answer']]}"
            asked[row["subject"]] += 1
            hit[row["subject"]] += tagger.matches_forget_root(text)
    return {subject: hit[subject] / asked[subject] for subject in asked}


@pytest.mark.real_data
def test_surgery_covers_real_surgery_questions_and_few_others(
    everything: ConceptHierarchy, shared_data: Path
) -> None:
    tagger = ConceptTagger(everything.with_forget_roots([SURGERY]))
    rates = hit_rates(tagger, shared_data / "medmcqa_validation.jsonl.gz")
    assert rates["Surgery"] >= 0.70
    for spared in ("Biochemistry", "Physiology", "Anatomy", "Pharmacology", "Dental"):
        assert rates[spared] <= 0.10, spared


@pytest.mark.real_data
def test_mental_health_covers_real_psychiatry_questions_and_few_others(
    everything: ConceptHierarchy, shared_data: Path
) -> None:
    tagger = ConceptTagger(everything.with_forget_roots([MENTAL_HEALTH]))
    rates = hit_rates(tagger, shared_data / "medmcqa_validation.jsonl.gz")
    assert rates["Psychiatry"] >= 0.60
    assert rates["Surgery"] <= 0.05
    assert rates["Dental"] <= 0.05

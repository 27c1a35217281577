"""Levels by the plan's rule, with their reasons, and the plan keys behind them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medunlearn_client.site_data import leveled_hierarchy
from medunlearn_common.concepts import Concept, ConceptHierarchy, ConceptLevel, LevelRule
from medunlearn_common.concepts.graph import without_cycles
from medunlearn_common.concepts.levels import parse_type_levels
from medunlearn_common.concepts.planned import planned_levels
from medunlearn_common.concepts.sources import merge_hierarchies
from medunlearn_common.errors import Misconfigured
from medunlearn_common.plan import Plan, plan_from_text
from medunlearn_common.plan.public_files import by_digest, own_copy
from medunlearn_common.plan.sections import ConceptsSection


@pytest.fixture
def hierarchy() -> ConceptHierarchy:
    """A chain d0 > d1 > d2 > d3 > d4 with types and one explicit level."""
    def link(number: int, **more: object) -> Concept:
        above = (f"d{number - 1}",) if number else ()
        values: dict[str, object] = {"name": f"name {number}", "parents": above} | more
        return Concept(concept_id=f"d{number}", **values)  # type: ignore[arg-type]

    return ConceptHierarchy.from_concepts(
        [
            link(0), link(1), link(2, semantic_type="disease"), link(3, semantic_type="anatomy"),
            link(4, semantic_type="anatomy", level=ConceptLevel.GENERAL),
        ],
        source="test",
    )  # fmt: skip


def test_the_order_of_the_rule(hierarchy: ConceptHierarchy) -> None:
    rule = LevelRule(deepest_general=1, by_type=parse_type_levels(["anatomy=1"]))
    leveled = hierarchy.with_forget_roots([], rule=rule)
    assert [int(leveled.level_of(f"d{n}")) for n in range(5)] == [1, 2, 3, 1, 2]
    by_depth = hierarchy.with_forget_roots([])
    assert [int(by_depth.level_of(f"d{n}")) for n in range(5)] == [1, 2, 2, 3, 2]
    target = hierarchy.with_forget_roots(["d3"], rule=rule)
    assert [int(target.level_of(f"d{n}")) for n in range(5)] == [1, 2, 3, 4, 4]


def test_every_level_has_a_reason_and_the_way_to_it(hierarchy: ConceptHierarchy) -> None:
    rule = LevelRule(by_type=parse_type_levels(["anatomy=1"]))
    leveled = hierarchy.with_forget_roots([], rule=rule)
    assert leveled.explain("d2").way == ("d2", "d1", "d0")
    assert "depth is 2" in leveled.explain("d2").reason
    assert "semantic type 'anatomy'" in leveled.explain("d3").reason
    assert leveled.explain("d4").reason == "its source gives this level"
    target = hierarchy.with_forget_roots(["d1"], rule=rule)
    assert target.explain("d4").way == ("d4", "d3", "d2", "d1")
    assert target.explain("d4").reason == "below the forget root d1 (name 1)"
    assert target.explain("d1").reason == "it is a forget root"


def test_explained_levels_are_the_levels(hierarchy: ConceptHierarchy) -> None:
    for roots in ([], ["d2"]):
        leveled = hierarchy.with_forget_roots(roots, rule=LevelRule(deepest_general=3))
        for concept in hierarchy.concepts():
            found = leveled.explain(concept.concept_id)
            assert found.level is leveled.level_of(concept.concept_id)


def test_a_concept_that_stands_apart_is_no_common_language() -> None:
    """A source without a hierarchy has nothing but such: level 1 would keep rare diseases whole."""
    apart = Concept(concept_id="a", name="alone")
    hierarchy = ConceptHierarchy.from_concepts(
        [
            Concept(concept_id="r", name="root"), Concept(concept_id="c", name="c", parents=("r",)),
            apart, Concept(concept_id="b", name="b", semantic_type="anatomy"),
            Concept(concept_id="d", name="d", level=ConceptLevel.GENERAL),
        ],
        source="test",
    )
    rule = LevelRule(deepest_general=5, by_type=parse_type_levels(["anatomy=1"]))
    leveled = hierarchy.with_forget_roots([], rule=rule)
    assert {c.concept_id: int(leveled.level_of(c.concept_id)) for c in hierarchy.concepts()} == {
        "r": 1, "c": 2, "a": 3, "b": 1, "d": 2,
    }
    assert "neither parents nor children" in leveled.explain("a").reason
    (note,) = leveled.notes
    assert "neither parents nor children (3): a, b, d" in note
    (note,) = hierarchy.with_forget_roots(["a", "d"]).notes
    assert "neither parents nor children (1): b" in note  # the others are forgotten
    assert hierarchy.notes == ()


def test_a_joined_concept_stands_apart_no_more() -> None:
    parts = [
        ConceptHierarchy.from_concepts(
            [Concept(concept_id="A:1", name="gout", xrefs=("B:2",))], source="a"
        ),
        ConceptHierarchy.from_concepts(
            [Concept(concept_id="B:1", name="disease"),
             Concept(concept_id="B:2", name="gout", parents=("B:1",))], source="b"
        ),
    ]
    assert len(parts[0].with_forget_roots([]).notes) == 1
    leveled = merge_hierarchies(parts, join="xrefs").with_forget_roots([])
    assert [int(leveled.level_of(i)) for i in ("A:1", "B:1")] == [2, 1]
    assert not any("nor children" in note for note in leveled.notes)


def test_the_digest_covers_the_rule_but_not_the_default(hierarchy: ConceptHierarchy) -> None:
    rules = [LevelRule(), LevelRule(deepest_general=3),
             LevelRule(by_type=parse_type_levels(["disease=3"]))]  # fmt: skip
    digests = [hierarchy.with_forget_roots(["d1"], rule=rule).digest() for rule in rules]
    assert len(set(digests)) == 3
    assert digests[0] == hierarchy.with_forget_roots(["d1"]).digest()


@pytest.mark.parametrize("entry", ["anatomy", "anatomy=4", "anatomy=0", "=1", "Anatomy=1", "a= 1"])
def test_a_plan_with_an_unreadable_type_level_is_refused(entry: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        plan_from_text(f'[concepts]\ntype_levels = ["{entry}"]')
    assert caught.value.code == "PLAN_INVALID"
    assert "concepts.type_levels" in caught.value.message


def test_a_type_given_twice_is_refused() -> None:
    with pytest.raises(Misconfigured):
        plan_from_text('[concepts]\ntype_levels = ["anatomy=1", "anatomy=2"]')


def test_a_plan_says_the_rule_and_a_hospital_follows_it() -> None:
    plan = plan_from_text(
        '[concepts]\nforget_roots = ["MU:S0450"]\ndeepest_general = 0\n'
        'type_levels = ["disease=3"]\nhierarchies = ["builtin:surgery"]'
    )
    leveled = leveled_hierarchy(plan.concepts, plan.forget)
    assert leveled.rule == LevelRule(
        deepest_general=0, by_type=(("disease", ConceptLevel.SPECIALTY),)
    )
    assert leveled.digest() == planned_levels(plan.concepts).digest()


def test_the_default_plan_is_as_before() -> None:
    leveled = planned_levels(Plan().concepts)
    assert leveled.rule == LevelRule()
    assert leveled.notes == ()
    counts = Counter(int(leveled.level_of(c.concept_id)) for c in leveled.hierarchy.concepts())
    assert counts == {1: 121, 2: 66, 3: 629}


def test_a_release_folder_is_named_by_its_digest_in_a_shared_plan(tmp_path: Path) -> None:
    import terminology_samples as samples

    folder = samples.write_tables(tmp_path / "META", samples.umls_tables())
    plan = Plan(concepts=ConceptsSection(hierarchies=(str(folder),)))
    name = plan.shared().concepts.hierarchies[0]
    assert name.startswith("sha256:")
    (folder / "MRHIER.RRF").write_text("not read, so not part of it")
    assert by_digest(str(folder)) == name
    assert own_copy(name, [str(tmp_path / "nothing"), str(folder)]) == str(folder)
    (tmp_path / "photos").mkdir()
    assert own_copy(name, [str(tmp_path / "photos"), str(folder)]) == str(folder)
    (folder / "MRSTY.RRF").write_text("another")
    assert by_digest(str(folder)) != name


LINKS = st.dictionaries(
    st.integers(0, 7).map(str), st.sets(st.integers(0, 9).map(str), max_size=4), min_size=1
)


@given(LINKS)
def test_cycles_are_broken_by_as_few_links_as_each_needs(links: dict[str, set[str]]) -> None:
    kept, dropped = without_cycles(links, source="test")
    assert kept.keys() == links.keys()
    remaining = {(child, parent) for child, ids in kept.items() for parent in ids}
    assert remaining | set(dropped) == {(c, p) for c, ids in links.items() for p in ids}

    def leads(start: str, goal: str) -> bool:
        seen, stack = {start}, [start]
        while stack:
            for parent in kept.get(stack.pop(), ()):
                if parent not in seen:
                    seen.add(parent)
                    stack.append(parent)
        return goal in seen

    assert not any(leads(parent, child) for child, parent in remaining)
    assert all(leads(parent, child) for child, parent in dropped)  # each would close a cycle


def test_a_hopeless_tangle_is_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medunlearn_common.concepts.graph.MAX_CYCLE_STEPS", 1000)
    ring = {f"{n:04}": [f"{(n - 1) % 1000:04}"] for n in range(1000)}
    with pytest.raises(Misconfigured) as caught:
        without_cycles(ring, source="ring")
    assert caught.value.code == "CONCEPT_CYCLE"

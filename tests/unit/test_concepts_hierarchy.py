"""The hierarchy's graph rules, levels and digest."""

from __future__ import annotations

import random
import time

import pytest

from medunlearn_common.concepts import Concept, ConceptHierarchy, ConceptLevel
from medunlearn_common.errors import Misconfigured


def concept(concept_id: str, *parents: str, **fields: object) -> Concept:
    """A concept whose name is derived from its id."""
    values: dict[str, object] = {"name": f"name of {concept_id}"} | fields
    return Concept(concept_id=concept_id, parents=parents, **values)  # type: ignore[arg-type]


def build(*concepts: Concept, **options: object) -> ConceptHierarchy:
    return ConceptHierarchy.from_concepts(concepts, source="test", **options)  # type: ignore[arg-type]


@pytest.fixture
def diamond() -> ConceptHierarchy:
    r"""A diamond with a tail and a sibling: top > (left, right) > bottom > leaf; right > other."""
    return build(
        concept("leaf", "bottom"),
        concept("bottom", "right", "left"),
        concept("left", "top"),
        concept("right", "top"),
        concept("other", "right"),
        concept("top"),
        aliases={"old-bottom": "bottom"},
    )


def test_neighbourhoods_in_a_diamond(diamond: ConceptHierarchy) -> None:
    assert len(diamond) == 6
    assert diamond.roots() == ("top",)
    assert diamond.parents("bottom") == ("left", "right")
    assert diamond.children("right") == ("bottom", "other")
    assert diamond.siblings("bottom") == ("other",)
    assert diamond.siblings("top") == ()
    assert diamond.ancestors("leaf") == {"bottom", "left", "right", "top"}
    assert diamond.descendants("right") == {"bottom", "other", "leaf"}
    assert [diamond.depth(i) for i in ("top", "left", "bottom", "leaf")] == [0, 1, 2, 3]


def test_depth_is_that_of_the_shortest_way_up() -> None:
    hierarchy = build(concept("a"), concept("b", "a"), concept("c", "b"), concept("d", "c", "a"))
    assert hierarchy.depth("d") == 1


def test_aliases_work_wherever_an_id_does(diamond: ConceptHierarchy) -> None:
    assert "old-bottom" in diamond
    assert diamond["old-bottom"].concept_id == "bottom"
    assert diamond.children("old-bottom") == ("leaf",)
    assert diamond.with_forget_roots(["old-bottom"]).forget_roots == ("bottom",)


def test_parents_may_be_given_by_alias() -> None:
    hierarchy = build(concept("new"), concept("child", "old"), aliases={"old": "new"})
    assert hierarchy.parents("child") == ("new",)


def test_a_bare_code_is_found_by_id_and_by_alias() -> None:
    hierarchy = build(concept("M:D1"), concept("I:D1"), aliases={"M:C23.3": "M:D1"})
    found = [[one.concept_id for one in hierarchy.of_bare_code(code)]
             for code in ("D1", "c23.3", "C23", "M:D1", "")]
    assert found == [["I:D1", "M:D1"], ["M:D1"], [], [], []]


def test_get_and_getitem_of_an_unknown_id(diamond: ConceptHierarchy) -> None:
    assert diamond.get("nowhere") is None
    assert "nowhere" not in diamond
    with pytest.raises(Misconfigured) as caught:
        diamond["nowhere"]
    assert caught.value.code == "CONCEPT_UNKNOWN"


@pytest.mark.parametrize(
    ("concepts", "code", "named"),
    [
        ((concept("a"), concept("a")), "CONCEPT_DUPLICATE_ID", "a"),
        ((concept("a"), concept("b", "missing")), "CONCEPT_PARENT_UNKNOWN", "b -> missing"),
        ((concept("a", "a"),), "CONCEPT_CYCLE", "a -> a"),
        (
            (concept("r"), concept("x", "z", "r"), concept("y", "x"), concept("z", "y")),
            "CONCEPT_CYCLE",
            "x -> z -> y -> x",
        ),
        ((), "CONCEPT_FILE_EMPTY", "no concept"),
    ],
)
def test_a_broken_graph_is_refused(concepts: tuple[Concept, ...], code: str, named: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        build(*concepts)
    assert caught.value.code == code
    assert named in caught.value.message


def test_the_cycle_in_the_message_leaves_out_what_only_hangs_below_it() -> None:
    with pytest.raises(Misconfigured) as caught:
        build(concept("p", "q"), concept("q", "p"), concept("a", "p"), concept("b", "a"))
    assert "p -> q -> p" in caught.value.message
    assert "a" not in caught.value.message.split(": concepts form a cycle: ")[1]


@pytest.mark.parametrize("aliases", [{"a": "b"}, {"old": "missing"}])
def test_a_clashing_or_dangling_alias_is_refused(aliases: dict[str, str]) -> None:
    with pytest.raises(Misconfigured) as caught:
        build(concept("a"), concept("b"), aliases=aliases)
    assert caught.value.code == "CONCEPT_ALIAS_INVALID"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"concept_id": "has space"}, "CONCEPT_INVALID"),
        ({"concept_id": ""}, "CONCEPT_INVALID"),
        ({"name": "  "}, "CONCEPT_INVALID"),
        ({"synonyms": ("fine", "")}, "CONCEPT_INVALID"),
        ({"synonyms": ("x" * 1001,)}, "CONCEPT_INVALID"),
        ({"level": ConceptLevel.TARGET}, "CONCEPT_LEVEL_INVALID"),
    ],
)
def test_an_invalid_concept_is_refused(fields: dict[str, object], code: str) -> None:
    values: dict[str, object] = {"concept_id": "X:1", "name": "x"} | fields
    with pytest.raises(Misconfigured) as caught:
        Concept(**values)  # type: ignore[arg-type]
    assert caught.value.code == code


def test_levels_follow_from_roots_explicit_levels_and_depth() -> None:
    hierarchy = build(
        concept("d0"),
        concept("d1", "d0"),
        concept("d2", "d1"),
        concept("d3", "d2"),
        concept("anatomy", "d3", level=ConceptLevel.FUNDAMENTAL),
        concept("root", "d1"),
        concept("below", "root", level=ConceptLevel.GENERAL),
        concept("two-parents", "d3", "below"),
    )
    leveled = hierarchy.with_forget_roots(["root"])
    expected = {"d0": 1, "d1": 2, "d2": 2, "d3": 3, "anatomy": 1}
    expected |= {"root": 4, "below": 4, "two-parents": 4}
    assert {i: int(leveled.level_of(i)) for i in expected} == expected
    assert leveled.targets == {"root", "below", "two-parents"}


def test_an_unknown_forget_root_is_refused_with_a_useful_hint() -> None:
    hierarchy = build(concept("DOID:162", name="cancer"), concept("DOID:4", name="disease"))
    for wanted, expected in (("Cancer", "DOID:162 (cancer)"), ("DOID:163", "DOID:162 (cancer)")):
        with pytest.raises(Misconfigured) as caught:
            hierarchy.with_forget_roots(["DOID:4", wanted])
        assert caught.value.code == "CONCEPT_ROOT_UNKNOWN"
        assert repr(wanted) in caught.value.message
        assert expected in caught.value.hint


def test_without_a_forget_root_nothing_is_target(diamond: ConceptHierarchy) -> None:
    leveled = diamond.with_forget_roots([])
    levels = {leveled.level_of(concept.concept_id) for concept in diamond.concepts()}
    assert levels and max(levels) <= ConceptLevel.SPECIALTY


def test_find_ignores_case_and_spacing_and_looks_at_synonyms() -> None:
    hierarchy = build(
        concept("b", name="Common Cold", synonyms=("coryza",)),
        concept("a", name="coryza"),
    )
    assert [c.concept_id for c in hierarchy.find("common  COLD")] == ["b"]
    assert [c.concept_id for c in hierarchy.find("Coryza")] == ["a", "b"]
    assert hierarchy.find("cold") == ()


def test_the_digest_does_not_depend_on_order_or_source() -> None:
    concepts = [
        concept("a", synonyms=("x", "y")),
        concept("b", "a"),
        concept("c", "b", "a", synonyms=("p", "q")),
    ]
    turned = [
        concept("c", "a", "b", synonyms=("q", "p")),
        concept("a", synonyms=("y", "x")),
        concept("b", "a"),
    ]
    first = ConceptHierarchy.from_concepts(concepts, source="one")
    second = ConceptHierarchy.from_concepts(turned, source="two")
    assert first.digest() == second.digest()
    assert len(first.digest()) == 64


@pytest.mark.parametrize(
    "changed",
    [
        concept("b", "a", name="other"),
        concept("b", "a", synonyms=("s",)),
        concept("b"),
        concept("b", "a", level=ConceptLevel.GENERAL),
        concept("b", "a", semantic_type="disease"),
        concept("b2", "a", name="name of b"),
    ],
)
def test_the_digest_depends_on_every_field(changed: Concept) -> None:
    original = build(concept("a"), concept("b", "a"))
    assert build(concept("a"), changed).digest() != original.digest()


def test_the_digest_depends_on_aliases_and_forget_roots(diamond: ConceptHierarchy) -> None:
    plain = build(*diamond.concepts())
    assert plain.digest() != diamond.digest()
    digests = {plain.with_forget_roots([root]).digest() for root in ("left", "right")}
    assert len(digests) == 2


def test_a_chain_of_fifty_thousand_concepts_is_built_without_recursion() -> None:
    size = 50_000
    concepts = [concept("n0")] + [concept(f"n{i}", f"n{i - 1}") for i in range(1, size)]
    random.Random(0).shuffle(concepts)
    started = time.process_time()
    hierarchy = build(*concepts)
    assert hierarchy.depth(f"n{size - 1}") == size - 1
    assert len(hierarchy.descendants("n0")) == size - 1
    assert time.process_time() - started < 5


def test_a_cycle_of_fifty_thousand_concepts_gives_a_short_message() -> None:
    size = 50_000
    with pytest.raises(Misconfigured) as caught:
        build(*(concept(f"n{i}", f"n{(i + 1) % size}") for i in range(size)))
    assert caught.value.code == "CONCEPT_CYCLE"
    assert len(caught.value.message) < 500

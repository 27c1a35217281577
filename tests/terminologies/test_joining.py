"""Several hierarchies as one: same node, child, or apart; never a cycle, never by order."""

from __future__ import annotations

from pathlib import Path

import pytest
import terminology_samples as samples
from hypothesis import given, settings
from hypothesis import strategies as st

from medunlearn_common.concepts import (
    Concept,
    ConceptHierarchy,
    SourceOptions,
    load_hierarchies,
    merge_hierarchies,
)
from medunlearn_common.concepts.xrefs import normalised_xref


def concept(concept_id: str, *parents: str, xrefs: tuple[str, ...] = (), **more: str) -> Concept:
    name = more.pop("name", f"name of {concept_id}")
    return Concept(concept_id=concept_id, name=name, parents=parents, xrefs=xrefs, **more)  # type: ignore[arg-type]


def source(*concepts: Concept) -> ConceptHierarchy:
    return ConceptHierarchy.from_concepts(concepts, source=concepts[0].concept_id[0])


def join(*sources: ConceptHierarchy) -> ConceptHierarchy:
    return merge_hierarchies(sources, join="xrefs")


def test_one_to_one_becomes_one_node_with_the_first_source_s_id() -> None:
    first = source(concept("A:1"), concept("A:2", "A:1", xrefs=("B:2",), name="cancer"))
    second = source(
        concept("B:1"), concept("B:2", "B:1", name="Neoplasms", semantic_type="disease"),
        concept("B:3", "B:2"),
    )
    joined = join(first, second)
    node = joined["B:2"]
    assert (node.concept_id, node.terms) == ("A:2", ("cancer", "Neoplasms"))
    assert node.semantic_type == "disease"
    assert joined.parents("A:2") == ("A:1", "B:1")
    assert joined.parents("B:3") == ("A:2",)
    assert joined.with_forget_roots(["B:2"]).targets == {"A:2", "B:3"}
    assert join(second, first)["A:2"].concept_id == "B:2"


def test_the_reference_may_stand_on_either_side() -> None:
    plain, referring = source(concept("A:1")), source(concept("B:1", xrefs=("A:1",)))
    assert len(join(plain, referring)) == len(join(referring, plain)) == 1


def test_many_to_one_become_children() -> None:
    first = source(concept("A:1", xrefs=("B:1",)), concept("A:2", xrefs=("B:1",)))
    joined = join(first, source(concept("B:1")))
    assert joined.children("B:1") == ("A:1", "A:2")
    assert "2 linked as child" in joined.notes[-1]


def test_many_to_many_stay_apart_and_it_is_told() -> None:
    both = ("B:1", "B:2")
    first = source(concept("A:1", xrefs=both), concept("A:2", xrefs=both))
    joined = join(first, source(concept("B:1"), concept("B:2")))
    assert len(joined.roots()) == 4
    assert "4 left apart: several partners" in joined.notes[-1]


def test_a_join_that_would_close_a_cycle_is_left_out() -> None:
    first = source(concept("A:1", xrefs=("B:2",)), concept("A:2", "A:1", xrefs=("B:1",)))
    joined = join(first, source(concept("B:1"), concept("B:2", "B:1")))
    assert len(joined) == 3
    assert "1 left apart: would be circular" in joined.notes[-1]


def test_two_concepts_of_one_source_never_become_one() -> None:
    """A:1 = B:1 = C:1 = A:2 would say that A contradicts itself."""
    joined = join(
        source(concept("A:1", xrefs=("B:1",)), concept("A:2", xrefs=("C:1",))),
        source(concept("B:1", xrefs=("C:1",))),
        source(concept("C:1")),
    )
    assert joined.resolve("A:1") != joined.resolve("A:2")
    assert "two concepts of one source" in joined.notes[-1]


def test_references_to_aliases_and_to_nothing() -> None:
    second = ConceptHierarchy.from_concepts(
        [concept("B:1")], source="B", aliases={"B:old": "B:1"}
    )
    joined = join(source(concept("A:1", xrefs=("B:old", "B:none"))), second)
    assert joined.resolve("B:old") == joined.resolve("B:1") == "A:1"


def test_without_references_or_unasked_nothing_is_joined() -> None:
    first, second = source(concept("A:1")), source(concept("B:1"))
    assert join(first, second).digest() == merge_hierarchies([first, second]).digest()
    referring = source(concept("A:1", xrefs=("B:1",)))
    assert len(merge_hierarchies([referring, second])) == 2


def test_the_digest_covers_cross_references_and_joins() -> None:
    plain, referring = source(concept("A:1")), source(concept("A:1", xrefs=("B:1",)))
    second = source(concept("B:1"))
    digests = {plain.digest(), referring.digest(), merge_hierarchies([referring, second]).digest(),
               join(referring, second).digest()}  # fmt: skip
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("written", "usual"),
    [
        ("UMLS_CUI:C0018923", "UMLS:C0018923"), ("UMLS:C1", "UMLS:C1"), ("MSH:D1", "MESH:D1"),
        ("SNOMEDCT_US_2023_03_01:22298006", "SNOMEDCT:22298006"), ("SCTID:1", "SNOMEDCT:1"),
        ("ICD10CM:E88.9", "ICD10CM:E88.9"), ("ICD-10-CM:E88", "ICD10CM:E88"),
        ("ICD10:E88", "ICD10:E88"), ("ORDO:1", "ORDO:1"),
        ("no prefix", None), ("MESH:", None), (":D1", None), ("MESH:D 1", None),
    ],
)  # fmt: skip
def test_spellings_of_references(written: str, usual: str | None) -> None:
    assert normalised_xref(written) == usual


def test_umls_is_the_hub_of_mesh_and_icd10cm(tmp_path: Path) -> None:
    folder = samples.write_tables(tmp_path / "META", samples.umls_tables())
    mesh, icd = tmp_path / "desc.xml", tmp_path / "order.txt"
    mesh.write_text(samples.mesh_xml(), encoding="utf-8")
    rows = [("C34", 1, "Malignant neoplasm of bronchus and lung"), ("C73", 1, "Thyroid cancer")]
    icd.write_text(samples.icd10cm_order(rows), encoding="utf-8")
    joined = load_hierarchies(
        [str(mesh), str(icd), str(folder)], join="xrefs",
        options=SourceOptions(licensed_sources=("MSHGER",)),
    )
    assert joined.resolve("UMLS:C0242379") == "MESH:D008175"
    assert joined.resolve("UMLS:C0007115") == "ICD10CM:C73"
    assert "Cancer of Lung" in joined["UMLS:C0242379"].terms
    # One CUI stands for both codes, so the code of the later source joins the same node.
    assert joined.resolve("ICD10CM:C34") == "MESH:D008175"
    leveled = joined.with_forget_roots(["MESH:C08"])
    assert "MESH:D008175" in leveled.targets


@st.composite
def forests(draw: st.DrawFn, letter: str, others: str) -> ConceptHierarchy:
    """A source of up to six concepts with references into the other sources."""
    size = draw(st.integers(1, 6))
    references = st.sets(
        st.builds("{}:{}".format, st.sampled_from(others), st.integers(0, 6)), max_size=3
    )
    concepts = []
    for number in range(size):
        above = draw(st.sets(st.integers(0, number - 1), max_size=2)) if number else set()
        parents = (f"{letter}:{parent}" for parent in above)
        xrefs = tuple(sorted(draw(references)))
        concepts.append(concept(f"{letter}:{number}", *parents, xrefs=xrefs))
    return source(*concepts)


@settings(max_examples=150)
@given(forests("A", "BC"), forests("B", "AC"), forests("C", "AB"), st.randoms())
def test_any_references_end_in_one_acyclic_graph_with_every_concept(
    first: ConceptHierarchy, second: ConceptHierarchy, third: ConceptHierarchy, chance: object
) -> None:
    parts = [first, second, third]
    joined = join(*parts)  # from_concepts refuses a cycle
    for part in parts:
        ids = [c.concept_id for c in part.concepts()]
        assert len({joined.resolve(i) for i in ids}) == len(ids)
        for one in ids:
            assert set(part[one].terms) <= set(joined[one].terms)
            known = {joined.resolve(i) for i in part.ancestors(one)}
            assert known <= joined.ancestors(one)
    again = ConceptHierarchy.from_concepts(
        sorted(first.concepts(), key=lambda c: chance.random()), source="A"  # type: ignore[attr-defined]
    )
    assert join(again, second, third).digest() == joined.digest()


@pytest.mark.real_data
def test_real_disease_ontology_mesh_and_icd10cm(shared_data: Path) -> None:
    files = ["doid_reduced.obo.gz", "mesh2015_tree.jsonl.gz", "icd10cm_2021.jsonl.gz"]
    paths = [str(shared_data / name) for name in files]
    joined = load_hierarchies(paths, join="xrefs")
    apart = load_hierarchies(paths)
    assert 3000 < len(apart) - len(joined) < 6000
    assert joined.resolve("MESH:D006394") == "DOID:0001816"  # (h)aemangiosarcoma
    assert apart.resolve("MESH:D006394") == "MESH:D006394"
    assert "DOID:0001816" in joined.descendants("MESH:C04")

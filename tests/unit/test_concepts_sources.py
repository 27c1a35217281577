"""From what a plan names to one hierarchy."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from medunlearn_common.concepts import (
    LOADERS,
    Concept,
    ConceptHierarchy,
    detect_format,
    load_builtin,
    load_hierarchies,
    load_hierarchy,
    merge_hierarchies,
)
from medunlearn_common.errors import Misconfigured

OBO = "format-version: 1.2\n\n[Term]\nid: T:1\nname: disease\nalt_id: T:0\n"


def one(concept_id: str, name: str, **aliases: str) -> ConceptHierarchy:
    concept = Concept(concept_id=concept_id, name=name)
    return ConceptHierarchy.from_concepts([concept], source=name, aliases=aliases)


def code_of(*sources: str) -> str:
    with pytest.raises(Misconfigured) as caught:
        load_hierarchies(sources)
    return caught.value.code


def test_builtin_sources() -> None:
    assert load_hierarchy("builtin").digest() == load_builtin("all").digest()
    assert load_hierarchy("builtin:surgery").digest() == load_builtin("surgery").digest()


def test_a_damaged_beginning_leaves_the_format_to_the_ending(tmp_path: Path) -> None:
    for name in ("a.obo", "b.Outline", "c.obo.gz"):
        path = tmp_path / name
        text = b"damaged\n" + OBO.encode()
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
        assert code_of(str(path)) == "CONCEPT_FILE_INVALID"


def test_files_are_loaded_by_their_content(tmp_path: Path) -> None:
    (tmp_path / "my.Terms.OBO").write_text(OBO)
    (tmp_path / "own.outline").write_text("!outline 1\nA a\n")
    assert load_hierarchy(str(tmp_path / "my.Terms.OBO"))["T:0"].name == "disease"
    assert load_hierarchy(str(tmp_path / "own.outline"))["A"].name == "a"
    (tmp_path / "no-ending").write_text(OBO)
    assert detect_format(tmp_path / "no-ending") == "obo"
    assert set(LOADERS) >= {"obo", "outline"}


@pytest.mark.parametrize("content", ["id,name\n", "", "<?xml version='1.0'?><other/>", '{"a": 1}'])
def test_an_unknown_format_is_refused(content: str, tmp_path: Path) -> None:
    for name in ("terms.csv", "terms", "builtins"):
        (tmp_path / name).write_text(content)
        assert code_of(str(tmp_path / name)) == "CONCEPT_FORMAT_UNKNOWN"
    (tmp_path / "zipped.gz").write_bytes(gzip.compress(content.encode()))
    assert code_of(str(tmp_path / "zipped.gz")) == "CONCEPT_FORMAT_UNKNOWN"
    assert code_of(str(tmp_path)) == "CONCEPT_FORMAT_UNKNOWN"


def test_a_missing_file_is_told_from_an_unknown_format() -> None:
    assert code_of("nowhere.csv") == "CONCEPT_FILE_MISSING"


def test_an_unknown_builtin_and_no_source_are_refused() -> None:
    assert code_of("builtin:x") == "CONCEPT_BUILTIN_UNKNOWN"
    assert code_of("builtin:") == "CONCEPT_BUILTIN_UNKNOWN"
    assert code_of() == "CONCEPT_SOURCES_EMPTY"


def test_the_two_builtin_hierarchies_share_their_core_when_merged() -> None:
    merged = load_hierarchies(["builtin:surgery", "builtin:mental_health"])
    assert merged.digest() == load_builtin("all").digest()


def test_merging_keeps_all_concepts_and_aliases() -> None:
    merged = merge_hierarchies([one("A", "a", old="A"), one("B", "b")])
    assert [c.concept_id for c in merged.concepts()] == ["A", "B"]
    assert merged.resolve("old") == "A"
    assert merged.source == "a + b"


def test_an_alias_gives_way_to_another_hierarchys_concept() -> None:
    merged = merge_hierarchies([one("A", "a", B="A"), one("B", "b")])
    assert merged["B"].name == "b"


def test_contradictory_definitions_are_refused() -> None:
    with pytest.raises(Misconfigured) as caught:
        merge_hierarchies([one("A", "a"), one("A", "other")])
    assert caught.value.code == "CONCEPT_DUPLICATE_ID"

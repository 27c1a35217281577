"""The indented outline format."""

from __future__ import annotations

from pathlib import Path

import pytest

from medunlearn_common.concepts import Concept, ConceptLevel, load_outline
from medunlearn_common.concepts.outline import parse_outline
from medunlearn_common.errors import Misconfigured

SMALL = """!outline 1
# comment
A surgery | operative care {level=3; type=procedure}

  B hernia {type=disease}
    # another comment
    C inguinal hernia|groin hernia {also=D}
  D urology {level=2}
E anatomy
"""


def test_indentation_attributes_and_inheritance() -> None:
    concepts = {c.concept_id: c for c in parse_outline(SMALL, Path("x"))}
    three, two = ConceptLevel.SPECIALTY, ConceptLevel.GENERAL
    assert concepts == {
        "A": Concept(
            concept_id="A",
            name="surgery",
            synonyms=("operative care",),
            level=three,
            semantic_type="procedure",
        ),
        "B": Concept(
            concept_id="B", name="hernia", parents=("A",), level=three, semantic_type="disease"
        ),
        "C": Concept(
            concept_id="C",
            name="inguinal hernia",
            synonyms=("groin hernia",),
            parents=("B", "D"),
            level=three,
            semantic_type="disease",
        ),
        "D": Concept(
            concept_id="D", name="urology", parents=("A",), level=two, semantic_type="procedure"
        ),
        "E": Concept(concept_id="E", name="anatomy"),
    }


def test_a_file_is_loaded_as_a_hierarchy(tmp_path: Path) -> None:
    path = tmp_path / "own.outline"
    path.write_text(SMALL)
    hierarchy = load_outline(path)
    assert hierarchy.roots() == ("A", "E")
    assert hierarchy.parents("C") == ("B", "D")


@pytest.mark.parametrize(
    ("text", "line", "named"),
    [
        ("surgery\n", 1, "first line"),
        ("!outline 2\nA b\n", 1, "first line"),
        ("!outline 1\nA\n", 2, "expected"),
        ("!outline 1\n A one space\n", 2, "indent"),
        ("!outline 1\n  A no parent\n", 2, "indent"),
        ("!outline 1\nA a\n    B two steps\n", 3, "indent"),
        ("!outline 1\nA a\n\tB tab\n", 3, "expected"),
        ("!outline 1\nA a {level=4}\n", 2, "level 4 comes from forget roots"),
        ("!outline 1\nA a {level=}\n", 2, "attributes"),
        ("!outline 1\nA a {colour=red}\n", 2, "attributes"),
        ("!outline 1\nA a {level=1; level=2}\n", 2, "attributes"),
        ("!outline 1\nA a {level=1\n", 2, "expected"),
        ("!outline 1\nA a | | b\n", 2, "blank"),
    ],
)
def test_mistakes_are_named_with_their_line(text: str, line: int, named: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        parse_outline(text, Path("own.outline"))
    assert caught.value.code == "CONCEPT_FILE_INVALID"
    assert caught.value.message.startswith(f"own.outline, line {line}: ")
    assert named in caught.value.message

"""ICD-10-CM: order file, tabular XML and JSON lines; one set of ids for all three."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import terminology_samples as samples

from medunlearn_common.concepts import (
    Concept,
    ConceptHierarchy,
    LevelRule,
    detect_format,
    load_hierarchy,
)
from medunlearn_common.concepts.icd10cm import (
    CHAPTERS,
    load_icd10cm_jsonl,
    load_icd10cm_order,
    load_icd10cm_xml,
)
from medunlearn_common.concepts.sources import merge_hierarchies
from medunlearn_common.errors import Misconfigured


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "icd"
    path.write_bytes(text.encode("utf-8"))
    return path


def refusal(load: Callable[[Path], ConceptHierarchy], path: Path) -> Misconfigured:
    with pytest.raises(Misconfigured) as caught:
        load(path)
    return caught.value


def test_codes_of_the_order_file_hang_below_the_longest_shorter_code(tmp_path: Path) -> None:
    icd = load_icd10cm_order(write(tmp_path, samples.icd10cm_order()))
    assert icd.parents("ICD10CM:A00.0") == ("ICD10CM:A00",)
    assert icd.parents("ICD10CM:S00.0XXA") == ("ICD10CM:S00.0",)
    assert icd.parents("ICD10CM:C7A") == ("ICD10CM:CH02",)
    assert icd.parents("ICD10CM:O9A") == ("ICD10CM:CH15",)
    assert icd.roots() == tuple(f"ICD10CM:CH{n:02d}" for n in (1, 2, 15, 19))
    assert icd["ICD10CM:O9A.1"].name.endswith("and the puerperium")  # not the 60 characters


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_ends_and_a_byte_order_mark_change_nothing(
    start: str, end: str, tmp_path: Path
) -> None:
    path = write(tmp_path, start + samples.icd10cm_order(end=end))
    assert detect_format(path) == "icd10cm-order"
    plain = load_icd10cm_order(write(tmp_path, samples.icd10cm_order()))
    assert load_hierarchy(str(path)).digest() == plain.digest()


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("00002 A000   ", "00002  A000  ", "CONCEPT_FILE_INVALID"),
        ("00002 A000    1", "00002 A000   1 ", "CONCEPT_FILE_INVALID"),
        ("00002 A000    1", "00002 A000    7", "CONCEPT_FILE_INVALID"),
        ("00003 C7A ", "00002 C7A ", "CONCEPT_FILE_INVALID"),
        ("C7A0   ", "A000   ", "CONCEPT_FILE_INVALID"),
        ("00003 C7A     0", "00003 C8A     0", "CONCEPT_PARENT_UNKNOWN"),
        ("00001 A00     0", "00001 U9Z     0", "CONCEPT_FILE_INVALID"),
        ("Cholera due", "Cholera\x00due", "CONCEPT_FILE_INVALID"),
    ],
)
def test_a_damaged_order_file(old: str, new: str, code: str, tmp_path: Path) -> None:
    text = samples.icd10cm_order()
    assert old in text
    path = write(tmp_path, text.replace(old, new, 1))
    assert refusal(load_icd10cm_order, path).code == code


def test_another_encoding_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "icd"
    rows = [("A00", 0, "Cholera"), ("A000", 1, "Ménière")]
    path.write_bytes(samples.icd10cm_order(rows).encode("latin-1"))
    assert "line 2" in refusal(load_icd10cm_order, path).message


def test_the_tabular_xml(tmp_path: Path) -> None:
    path = write(tmp_path, samples.ICD10CM_XML)
    assert detect_format(path) == "icd10cm-xml"
    icd = load_hierarchy(str(path))
    assert icd.parents("ICD10CM:A00.0") == ("ICD10CM:A00",)
    assert icd.parents("ICD10CM:A00") == ("ICD10CM:A00-A09",)
    assert icd.parents("ICD10CM:A00-A09") == ("ICD10CM:CH01",)
    assert icd.parents("ICD10CM:B99") == ("ICD10CM:B99-B99",)
    assert icd["ICD10CM:CH01"].name == CHAPTERS[0][2]
    assert icd["ICD10CM:A00.0"].synonyms == ("Classical cholera", "Asiatic cholera")
    assert len(icd) == 8


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<name>A00.0</name>", ""),
        ("<desc>Cholera</desc>", "<desc> </desc>"),
        ("<name>A00.9</name>", "<name>A00:9</name>"),
        ('<section id="A00-A09">', "<section>"),
        ("</chapter>", ""),
        ("ICD10CM.tabular", "ICD9CM.tabular"),
        ('encoding="utf-8"?>', 'encoding="utf-8"?><!DOCTYPE ICD10CM.tabular [<!ENTITY a "b">]>'),
    ],
)
def test_damaged_xml(old: str, new: str, tmp_path: Path) -> None:
    assert old in samples.ICD10CM_XML
    path = write(tmp_path, samples.ICD10CM_XML.replace(old, new))
    assert refusal(load_icd10cm_xml, path).code == "CONCEPT_FILE_INVALID"


def test_a_code_given_twice_in_xml(tmp_path: Path) -> None:
    text = samples.ICD10CM_XML.replace("<name>A00.9</name>", "<name>A00.0</name>")
    assert refusal(load_icd10cm_xml, write(tmp_path, text)).code == "CONCEPT_DUPLICATE_ID"


def test_json_lines(tmp_path: Path) -> None:
    rows = [
        {"code": "CH01", "name": "Infectious (A00-B99)", "parent": None, "synonyms": ["x  y"]},
        {"code": "SEC:A00-A09", "name": "Intestinal (A00-A09)", "parent": "CH01"},
        {"code": "A00", "name": "Cholera", "parent": "SEC:A00-A09"},
    ]
    path = write(tmp_path, "".join(json.dumps(row) + "\n\n" for row in rows))
    assert detect_format(path) == "icd10cm-jsonl"
    icd = load_hierarchy(str(path))
    assert icd.ancestors("ICD10CM:A00") == {"ICD10CM:A00-A09", "ICD10CM:CH01"}
    assert icd["ICD10CM:CH01"].terms == ("Infectious", "x y")
    for change, code in (
        ({"parent": "A09"}, "CONCEPT_PARENT_UNKNOWN"),
        ({"parent": "A00"}, "CONCEPT_CYCLE"),
        ({"code": "CH01"}, "CONCEPT_DUPLICATE_ID"),
        ({"code": "CH23"}, "CONCEPT_FILE_INVALID"),
        ({"name": "x" * 1001}, "CONCEPT_FILE_INVALID"),
        ({"synonyms": [1]}, "CONCEPT_FILE_INVALID"),
    ):
        changed = [*rows[:2], rows[2] | change]
        path = write(tmp_path, "".join(json.dumps(row) + "\n" for row in changed))
        assert refusal(load_icd10cm_jsonl, path).code == code


def test_a_code_has_one_level_whatever_the_form_of_the_file(tmp_path: Path) -> None:
    """The order file has no sections, and a code there is no more general for it."""
    order = [("A00", 0, "Cholera"), ("A000", 1, "Classical cholera"), ("A009", 1, "Cholera"),
             ("A01", 0, "Typhoid fever"), ("B99", 1, "Other infectious diseases")]  # fmt: skip
    sectioned = [("CH01", None), ("A00-A09", "CH01"), ("A00", "A00-A09"), ("A00.0", "A00"),
                 ("A00.9", "A00"), ("A01", "A00-A09"), ("B99", "CH01")]  # fmt: skip
    rows = [json.dumps({"code": c, "name": f"name {c}", "parent": p}) for c, p in sectioned]
    forms = [
        load_icd10cm_order(write(tmp_path, samples.icd10cm_order(order))),
        load_icd10cm_xml(write(tmp_path, samples.ICD10CM_XML)),
        load_icd10cm_jsonl(write(tmp_path, "".join(row + "\n" for row in rows))),
    ]
    shared = [c.concept_id for c in forms[0].concepts() if all(c.concept_id in f for f in forms)]
    assert len(shared) == 6
    for deepest, expected in ((2, [2, 3, 3, 2, 2, 1]), (1, [3, 3, 3, 3, 3, 1])):
        rule = LevelRule(deepest_general=deepest)
        for form in forms:
            leveled = form.with_forget_roots([], rule=rule)
            assert [int(leveled.level_of(concept_id)) for concept_id in shared] == expected
    explained = forms[0].with_forget_roots([]).explain("ICD10CM:A00.0")
    assert explained.way == ("ICD10CM:A00.0", "ICD10CM:A00", "ICD10CM:CH01")
    assert "its depth is 3" in explained.reason and "left out" in explained.reason
    assert "left out" not in forms[1].with_forget_roots([]).explain("ICD10CM:A00.0").reason


def test_a_category_that_is_joined_has_its_section_counted(tmp_path: Path) -> None:
    icd = load_icd10cm_order(write(tmp_path, samples.icd10cm_order()))
    other = ConceptHierarchy.from_concepts(
        [Concept(concept_id="X:1", name="cholera", xrefs=("ICD10CM:A00",))], source="x"
    )
    for parts in ((icd, other), (other, icd)):
        joined = merge_hierarchies(parts, join="xrefs")
        assert [joined.depth(i) for i in ("X:1", "ICD10CM:A00", "ICD10CM:A00.0")] == [2, 2, 3]


def test_a_chapter_that_is_joined_has_the_depth_of_its_place_in_the_other(tmp_path: Path) -> None:
    icd = load_icd10cm_order(write(tmp_path, samples.icd10cm_order()))
    other = ConceptHierarchy.from_concepts(
        [Concept(concept_id="X:0", name="disease"),
         Concept(concept_id="X:1", name="infection", parents=("X:0",), xrefs=("ICD10CM:CH01",))],
        source="x",
    )  # fmt: skip
    joined = merge_hierarchies((icd, other), join="xrefs")
    assert [joined.depth(i) for i in ("ICD10CM:CH01", "ICD10CM:A00", "ICD10CM:CH02")] == [1, 2, 0]


def test_words_in_parentheses_may_be_missing_unless_another_code_has_that_name(
    tmp_path: Path,
) -> None:
    rows = [
        {"code": "I10", "name": "Essential (primary) hypertension", "parent": None, "synonyms": [
            "hypertension (arterial) (benign)", "Hypertension (systemic)", "(primary)",
            "pressure ((high) blood)", "torn (off", "torn) off (now)"]},
        {"code": "I16", "name": "Hypertensive crisis (urgent)", "parent": None},
        {"code": "I17", "name": "hypertensive crisis", "parent": None},
        {"code": "M15", "name": "Erosive (osteo)arthritis", "parent": None},
    ]
    path = write(tmp_path, "".join(json.dumps(row) + "\n" for row in rows))
    icd = load_icd10cm_jsonl(path)

    def called(name: str) -> list[str]:
        return [concept.concept_id for concept in icd.find(name)]

    assert called("essential hypertension") == called("hypertension") == ["ICD10CM:I10"]
    assert called("hypertensive crisis") == ["ICD10CM:I17"]
    assert called("erosive arthritis") == ["ICD10CM:M15"]
    assert icd["ICD10CM:I17"].synonyms == ()
    plain = icd["ICD10CM:I10"].synonyms[6:]
    assert plain == ("Essential hypertension", "hypertension", "Hypertension")  # none torn


@pytest.mark.real_data
def test_the_real_icd10cm(shared_data: Path) -> None:
    icd = load_hierarchy(str(shared_data / "icd10cm_2021.jsonl.gz"))
    assert len(icd) == 45_323
    assert len(icd.roots()) == 22
    assert [icd[i].name for i in icd.roots()] == [title for _, _, title in CHAPTERS]
    kinds = {"ICD10CM:CH18": "finding", "ICD10CM:CH20": "concept", "ICD10CM:CH21": "concept"}
    for root in icd.roots():
        below = {icd[i].semantic_type for i in icd.descendants(root) | {root}}
        assert below == {kinds.get(root, "disease")}
    assert "Classical cholera" in icd["ICD10CM:A00.0"].synonyms
    assert [concept.concept_id for concept in icd.find("hypertension")] == ["ICD10CM:I10"]

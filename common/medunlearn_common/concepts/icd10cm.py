"""ICD-10-CM: the order file, the tabular XML, and nodes as JSON lines.

All three give the same ids: ``ICD10CM:CH01`` for a chapter, ``ICD10CM:A00-A09`` for a section,
``ICD10CM:A00.0`` for a code. The order file (``icd10cm_order_2026.txt``) has neither chapters nor
sections; its categories are put below the chapter that their letters and digits belong to. It
lists seventh characters, which the other two do not spell out.

Levels are the same too: a category has depth 2, whether or not the file has its section.

Words in parentheses are nonessential modifiers: "supplementary words that may be present or absent
in the statement of a disease" (Official Guidelines, I.A.7). ``Essential (primary) hypertension`` is
therefore called ``Essential hypertension`` too, where no other node has that name.

JSON lines have ``code``, ``name``, ``parent`` (a code or null) and, optional, ``synonyms``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from medunlearn_common.concepts.concept import MAX_NAME_CHARS, Concept
from medunlearn_common.concepts.files import MAX_TEXT_BYTES, KeptText, invalid_file, read_lines
from medunlearn_common.concepts.hierarchy import ConceptHierarchy
from medunlearn_common.concepts.json_rows import (
    optional_text_of,
    read_objects,
    text_of,
    texts_of,
)
from medunlearn_common.concepts.kinds import icd10cm_kind
from medunlearn_common.concepts.xml_records import MAX_XML_BYTES, stream_records
from medunlearn_common.errors import Misconfigured

ICD10CM_ROOT: Final = "ICD10CM.tabular"
PREFIX: Final = "ICD10CM:"
CATEGORY_CHARS: Final = 3
CATEGORY_DEPTH: Final = 2

ORDER_LINE: Final = re.compile(
    r"(?P<number>\d{5}) (?P<code>[A-Z][0-9A-Z]{2,6}) *(?<=^.{13}) (?P<billable>[01]) "
    r"(?P<short>.{60}) (?P<long>.*)"
)
"""Fixed columns: order number 1-5, code without dot 7-13, header or valid 15, short description
17-76, long description from 78."""

# fmt: off
CHAPTERS: Final[tuple[tuple[str, str, str], ...]] = (
    ("A00", "B99", "Certain infectious and parasitic diseases"),
    ("C00", "D49", "Neoplasms"),
    ("D50", "D89", "Diseases of the blood and blood-forming organs and certain disorders"
     " involving the immune mechanism"),
    ("E00", "E89", "Endocrine, nutritional and metabolic diseases"),
    ("F01", "F99", "Mental, Behavioral and Neurodevelopmental disorders"),
    ("G00", "G99", "Diseases of the nervous system"),
    ("H00", "H59", "Diseases of the eye and adnexa"),
    ("H60", "H95", "Diseases of the ear and mastoid process"),
    ("I00", "I99", "Diseases of the circulatory system"),
    ("J00", "J99", "Diseases of the respiratory system"),
    ("K00", "K95", "Diseases of the digestive system"),
    ("L00", "L99", "Diseases of the skin and subcutaneous tissue"),
    ("M00", "M99", "Diseases of the musculoskeletal system and connective tissue"),
    ("N00", "N99", "Diseases of the genitourinary system"),
    ("O00", "O9A", "Pregnancy, childbirth and the puerperium"),
    ("P00", "P96", "Certain conditions originating in the perinatal period"),
    ("Q00", "Q99", "Congenital malformations, deformations and chromosomal abnormalities"),
    ("R00", "R99", "Symptoms, signs and abnormal clinical and laboratory findings, not"
     " elsewhere classified"),
    ("S00", "T88", "Injury, poisoning and certain other consequences of external causes"),
    ("V00", "Y99", "External causes of morbidity"),
    ("Z00", "Z99", "Factors influencing health status and contact with health services"),
    ("U00", "U85", "Codes for special purposes"),
)
# fmt: on
"""First and last category and title of each chapter, in order."""

_CODE: Final = re.compile(r"[A-Z]\d[0-9A-Z](?:\.[0-9A-Z]{1,4})?")
_SECTION: Final = re.compile(r"(?:SEC:)?([A-Z]\d[0-9A-Z])(?:-([A-Z]\d[0-9A-Z]))?")
_CHAPTER: Final = re.compile(r"(?:CH)?(\d{1,2})")
_MODIFIER: Final = re.compile(r" *\([^()]*\) *")
_RANGE_AT_END: Final = re.compile(r" *\([A-Z]\d[0-9A-Z](?:-[A-Z]\d[0-9A-Z])?\)$")


@dataclass(frozen=True, kw_only=True)
class _Node:
    """A chapter, section or code; ids without prefix."""

    node_id: str
    name: str
    parent: str | None
    synonyms: tuple[str, ...] = ()


def load_icd10cm_order(path: Path, *, max_bytes: int = MAX_TEXT_BYTES) -> ConceptHierarchy:
    """Read an order file; names are the long descriptions.

    A code's parent is the longest shorter code it begins with; below placeholders (``X``) that
    is not the code with one character less.

    Raises:
        Misconfigured: A code of `read_lines`; ``CONCEPT_FILE_INVALID`` with the line;
            ``CONCEPT_PARENT_UNKNOWN`` for a code without its category; or another code of
            `ConceptHierarchy.from_concepts`.
    """
    names: dict[str, str] = {}
    last_number = 0
    for line_number, line in read_lines(path, max_bytes=max_bytes):
        if not line.strip():
            continue
        row = ORDER_LINE.fullmatch(line)
        if row is None or not row["long"].strip():
            raise invalid_file(path, "not in the columns of an order file", line=line_number)
        if int(row["number"]) <= last_number or row["code"] in names:
            problem = "order numbers and codes must ascend without repeats"
            raise invalid_file(path, problem, line=line_number)
        last_number = int(row["number"])
        names[row["code"]] = row["long"]
    return _hierarchy((*_chapter_nodes(names), *_order_nodes(names)), path)


def _chapter_nodes(codes: Iterable[str]) -> list[_Node]:
    used = sorted({number for number in map(_chapter_number, codes) if number})
    return [
        _Node(node_id=_chapter_id(number), name=CHAPTERS[number - 1][2], parent=None)
        for number in used
    ]


def _order_nodes(names: dict[str, str]) -> Iterator[_Node]:
    for code, name in names.items():
        parent: str | None = _chapter_id(_chapter_number(code))
        if len(code) > CATEGORY_CHARS:
            starts = (code[:end] for end in range(len(code) - 1, CATEGORY_CHARS - 1, -1))
            parent = _dotted(next((s for s in starts if s in names), code[:CATEGORY_CHARS]))
        yield _Node(node_id=_dotted(code), name=name, parent=parent)


def load_icd10cm_xml(path: Path, *, max_bytes: int = MAX_XML_BYTES) -> ConceptHierarchy:
    """Read the tabular list as XML; inclusion terms become synonyms.

    Raises:
        Misconfigured: A code of `stream_records`; ``CONCEPT_FILE_INVALID`` with the line; or
            a code of `ConceptHierarchy.from_concepts`.
    """
    return _hierarchy(_xml_nodes(path, max_bytes), path)


def _xml_nodes(path: Path, max_bytes: int) -> Iterator[_Node]:
    tags = ("chapter", "section", "diag")
    for element in stream_records(path, root=ICD10CM_ROOT, tags=tags, max_bytes=max_bytes):
        try:
            above = next(element.iterancestors(*tags), None)
            yield _Node(
                node_id=_xml_id(element),
                name=_title(element.findtext("desc", "")),
                parent=None if above is None else _xml_id(above),
                synonyms=tuple(n.text or "" for n in element.iterfind("inclusionTerm/note")),
            )
        except ValueError as error:
            raise invalid_file(path, str(error), line=element.sourceline) from error


def _xml_id(element: Any) -> str:
    if element.tag == "section":
        return _usual_id("SEC:" + element.get("id", "").strip())
    return _usual_id(element.findtext("name", "").strip())


def load_icd10cm_jsonl(path: Path, *, max_bytes: int = MAX_TEXT_BYTES) -> ConceptHierarchy:
    """Read nodes as JSON lines.

    Raises:
        Misconfigured: A code of `read_objects` or of `ConceptHierarchy.from_concepts`.
    """
    return _hierarchy(_json_nodes(path, max_bytes), path)


def _json_nodes(path: Path, max_bytes: int) -> Iterator[_Node]:
    for number, row in read_objects(path, max_bytes=max_bytes):
        try:
            parent = optional_text_of(row, "parent")
            yield _Node(
                node_id=_usual_id(text_of(row, "code")),
                name=_title(text_of(row, "name")),
                parent=None if parent is None else _usual_id(parent),
                synonyms=texts_of(row, "synonyms"),
            )
        except ValueError as error:
            raise invalid_file(path, str(error), line=number) from error


def _usual_id(written: str) -> str:
    """The id of a chapter (``1`` or ``CH01``), section (``SEC:A00-A09``) or code.

    Raises:
        ValueError: For anything else.
    """
    if _CODE.fullmatch(written):
        return written
    chapter = _CHAPTER.fullmatch(written)
    if chapter and 1 <= int(chapter[1]) <= len(CHAPTERS):
        return _chapter_id(int(chapter[1]))
    section = _SECTION.fullmatch(written)
    if section is None:
        raise ValueError(f"{written[:40]!r} is neither chapter, section nor code")
    return f"{section[1]}-{section[2] or section[1]}"


def _title(written: str) -> str:
    """Name of a chapter or section without the range of codes that many end with."""
    return _RANGE_AT_END.sub("", " ".join(written.split()))


def _dotted(code: str) -> str:
    return code if len(code) <= CATEGORY_CHARS else f"{code[:CATEGORY_CHARS]}.{code[3:]}"


def _chapter_id(number: int) -> str:
    return f"CH{number:02d}"


def _chapter_number(node_id: str) -> int:
    """Chapter of a code or section, from 1; 0 where none covers it."""
    category = node_id[:CATEGORY_CHARS]
    numbered = enumerate(CHAPTERS, start=1)
    return next((n for n, (first, last, _) in numbered if first <= category <= last), 0)


def _hierarchy(nodes: Iterable[_Node], path: Path) -> ConceptHierarchy:
    guard = KeptText(path)
    concepts = [_concept(node, guard, path) for node in nodes]
    return ConceptHierarchy.from_concepts(_with_plain_names(concepts, guard), source=path.name)


def _with_plain_names(concepts: list[Concept], guard: KeptText) -> Iterator[Concept]:
    """The concepts, called by their names without nonessential modifiers as well."""
    taken = {term.casefold() for concept in concepts for term in concept.terms}
    for concept in concepts:
        plain = (" ".join(_MODIFIER.sub(" ", term).split()) for term in concept.terms)
        whole = (term for term in plain if term and not {"(", ")"} & set(term))
        new = tuple(dict.fromkeys(term for term in whole if term.casefold() not in taken))
        for term in new:
            guard.keep(term)
        yield replace(concept, synonyms=(*concept.synonyms, *new)) if new else concept


def _concept(node: _Node, guard: KeptText, path: Path) -> Concept:
    chapter = _CHAPTER.fullmatch(node.node_id)
    number = int(chapter[1]) if chapter else _chapter_number(node.node_id)
    if not number:
        raise invalid_file(path, f"no chapter of ICD-10-CM covers {node.node_id}")
    terms = (" ".join(term.split()) for term in node.synonyms)
    kept = (term for term in terms if term and term != node.name and len(term) <= MAX_NAME_CHARS)
    for text in (node.name, *node.synonyms):
        guard.keep(text)
    try:
        return Concept(
            concept_id=PREFIX + node.node_id,
            name=node.name,
            synonyms=tuple(dict.fromkeys(kept)),
            parents=() if node.parent is None else (PREFIX + node.parent,),
            semantic_type=icd10cm_kind(number),
            least_depth=CATEGORY_DEPTH if len(node.node_id) == CATEGORY_CHARS else 0,
        )
    except Misconfigured as error:
        raise invalid_file(path, error.message) from error

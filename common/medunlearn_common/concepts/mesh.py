"""MeSH: descriptor XML as NLM publishes it (``desc2026.xml``), and descriptors as JSON lines.

The hierarchy is the one of the tree numbers: ``C04.557`` stands below ``C04``, and a descriptor
with several tree numbers has several parents. Above the trees' top descriptors stand the sixteen
categories (``MESH:C`` Diseases), which no file lists. Tree numbers are aliases, so that a plan
may name ``MESH:C04.557`` as forget root.

JSON lines have ``id``, ``name``, ``tree_numbers`` and, optional, ``parents`` (ids; they must be
what the tree numbers say) and ``synonyms``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from medunlearn_common.concepts import graph
from medunlearn_common.concepts.concept import MAX_NAME_CHARS, Concept
from medunlearn_common.concepts.files import MAX_TEXT_BYTES, KeptText, invalid_file
from medunlearn_common.concepts.hierarchy import ConceptHierarchy
from medunlearn_common.concepts.json_rows import read_objects, text_of, texts_of
from medunlearn_common.concepts.kinds import MESH_CATEGORIES, mesh_kind
from medunlearn_common.concepts.xml_records import MAX_XML_BYTES, stream_records
from medunlearn_common.errors import Misconfigured

MESH_ROOT: Final = "DescriptorRecordSet"
PREFIX: Final = "MESH:"

_DESCRIPTOR_UI: Final = re.compile(r"D\d{6,9}")
_TREE_NUMBER: Final = re.compile(r"[A-Z]\d{2}(?:\.\d{3})*")
_INVERTED: Final = re.compile(r"([^,]+), ([^,]+)")
_BROADER: Final = "BRD"


@dataclass(frozen=True, kw_only=True)
class _Descriptor:
    """One heading of MeSH, as either file format gives it."""

    ui: str
    name: str
    tree_numbers: tuple[str, ...]
    synonyms: tuple[str, ...]
    parents: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not _DESCRIPTOR_UI.fullmatch(self.ui):
            raise ValueError(f"{self.ui[:40]!r} is not a descriptor id such as D006394")
        if not self.name or len(self.name) > MAX_NAME_CHARS:
            raise ValueError(f"{self.ui} has no name of at most {MAX_NAME_CHARS} characters")
        for tree_number in self.tree_numbers:
            if not _TREE_NUMBER.fullmatch(tree_number) or tree_number[0] not in MESH_CATEGORIES:
                raise ValueError(f"{tree_number[:40]!r} is not a tree number such as C04.557")


def load_mesh_xml(path: Path, *, max_bytes: int = MAX_XML_BYTES) -> ConceptHierarchy:
    """Read descriptor XML (``.xml`` or gzipped), record by record.

    Entry terms become synonyms, but for permuted ones (``Hernia, Inguinal`` beside ``Inguinal
    Hernia``) and those of MeSH concepts that are broader than the descriptor.

    Raises:
        Misconfigured: A code of `stream_records`; ``CONCEPT_FILE_INVALID`` with the line of
            the descriptor; or a code of `ConceptHierarchy.from_concepts`.
    """
    return _hierarchy(_xml_descriptors(path, max_bytes), path)


def load_mesh_jsonl(path: Path, *, max_bytes: int = MAX_TEXT_BYTES) -> ConceptHierarchy:
    """Read descriptors as JSON lines.

    Such files have no entry terms: an inverted name (``Hernia, Inguinal``) gets its natural
    order as synonym.

    Raises:
        Misconfigured: A code of `read_objects` or of `ConceptHierarchy.from_concepts`.
    """
    return _hierarchy(_json_descriptors(path, max_bytes), path)


def _json_descriptors(path: Path, max_bytes: int) -> Iterator[_Descriptor]:
    for number, row in read_objects(path, max_bytes=max_bytes):
        try:
            yield _json_descriptor(row)
        except ValueError as error:
            raise invalid_file(path, str(error), line=number) from error


def _json_descriptor(row: Mapping[str, Any]) -> _Descriptor:
    name = " ".join(text_of(row, "name").split())
    inverted = _INVERTED.fullmatch(name)
    natural = (f"{inverted[2]} {inverted[1]}",) if inverted else ()
    return _Descriptor(
        ui=text_of(row, "id"), name=name,
        tree_numbers=texts_of(row, "tree_numbers"),
        synonyms=(*texts_of(row, "synonyms"), *natural),
        parents=texts_of(row, "parents") if "parents" in row else None,
    )  # fmt: skip


def _xml_descriptors(path: Path, max_bytes: int) -> Iterator[_Descriptor]:
    records = stream_records(path, root=MESH_ROOT, tags=("DescriptorRecord",), max_bytes=max_bytes)
    for record in records:
        try:
            yield _Descriptor(
                ui=record.findtext("DescriptorUI", "").strip(),
                name=" ".join(record.findtext("DescriptorName/String", "").split()),
                tree_numbers=_texts(record.iterfind("TreeNumberList/TreeNumber")),
                synonyms=tuple(_entry_terms(record)),
            )
        except ValueError as error:
            raise invalid_file(path, str(error), line=record.sourceline) from error


def _entry_terms(record: Any) -> Iterator[str]:
    broader = {
        relation.findtext("Concept2UI")
        for relation in record.iterfind("ConceptList/Concept/ConceptRelationList/ConceptRelation")
        if relation.get("RelationName") == _BROADER
    }
    for concept in record.iterfind("ConceptList/Concept"):
        if concept.findtext("ConceptUI") not in broader:
            terms = concept.iterfind("TermList/Term")
            kept = (term for term in terms if term.get("IsPermutedTermYN") != "Y")
            yield from _texts(term.find("String") for term in kept)


def _texts(elements: Iterable[Any]) -> tuple[str, ...]:
    return tuple(" ".join((e.text or "").split()) for e in elements if e is not None)


def _hierarchy(descriptors: Iterable[_Descriptor], path: Path) -> ConceptHierarchy:
    kept = _kept(descriptors, path)
    at_tree_number = _tree_index(kept, path)
    parents = {d.ui: _parents(d, at_tree_number, path) for d in kept}
    acyclic, dropped = graph.without_cycles(parents, source=path.name)
    used = sorted({number[0] for number in at_tree_number})
    categories = [
        Concept(concept_id=PREFIX + c, name=MESH_CATEGORIES[c], semantic_type=mesh_kind(c))
        for c in used
    ]
    return ConceptHierarchy.from_concepts(
        [*categories, *(_concept(d, acyclic[d.ui]) for d in kept)],
        source=path.name,
        aliases={PREFIX + number: PREFIX + ui for number, ui in at_tree_number.items()},
        notes=graph.told(dropped),
    )


def _kept(descriptors: Iterable[_Descriptor], path: Path) -> list[_Descriptor]:
    guard = KeptText(path)
    kept: dict[str, _Descriptor] = {}
    for descriptor in descriptors:
        for text in (descriptor.name, *descriptor.synonyms, *descriptor.tree_numbers):
            guard.keep(text)
        if descriptor.ui in kept:
            raise Misconfigured(
                "CONCEPT_DUPLICATE_ID",
                f"{path}: the descriptor {descriptor.ui} is defined twice",
                "keep one of the definitions",
            )
        kept[descriptor.ui] = descriptor
    return list(kept.values())


def _tree_index(descriptors: Iterable[_Descriptor], path: Path) -> dict[str, str]:
    """Descriptor id by tree number."""
    index: dict[str, str] = {}
    for descriptor in descriptors:
        for number in descriptor.tree_numbers:
            if index.setdefault(number, descriptor.ui) != descriptor.ui:
                raise invalid_file(
                    path, f"{index[number]} and {descriptor.ui} share the tree number {number}"
                )
    return index


def _parents(
    descriptor: _Descriptor, at_tree_number: Mapping[str, str], path: Path
) -> tuple[str, ...]:
    """Ids, without prefix, of the descriptors and categories above all tree numbers."""
    above: set[str] = set()
    for number in descriptor.tree_numbers:
        upper, dot, _ = number.rpartition(".")
        if not dot:
            above.add(number[0])
        elif upper not in at_tree_number:
            raise Misconfigured(
                "CONCEPT_PARENT_UNKNOWN",
                f"{path}: {descriptor.ui} stands at {number}, but nothing at {upper}",
                "the file may be cut short: use the complete release",
            )
        else:
            above.add(at_tree_number[upper])
    found = {ui for ui in above if ui not in MESH_CATEGORIES}
    if descriptor.parents is not None and set(descriptor.parents) != found:
        raise invalid_file(
            path, f"the parents of {descriptor.ui} are not those of its tree numbers"
        )
    return tuple(sorted(above))


def _concept(descriptor: _Descriptor, parents: Iterable[str]) -> Concept:
    terms = (t for t in descriptor.synonyms if t.strip() and len(t) <= MAX_NAME_CHARS)
    first = min(descriptor.tree_numbers, default="")
    return Concept(
        concept_id=PREFIX + descriptor.ui,
        name=descriptor.name,
        synonyms=tuple(term for term in dict.fromkeys(terms) if term != descriptor.name),
        parents=tuple(PREFIX + ui for ui in parents),
        semantic_type=mesh_kind(first),
    )


"""From what a plan names to a hierarchy: one visible table of formats.

A new terminology is one module with a function from a path to a `ConceptHierarchy`, one line in
`LOADERS` and one rule in `formats` by which it is recognised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from medunlearn_common.concepts.builtin import load_builtin
from medunlearn_common.concepts.concept import Concept
from medunlearn_common.concepts.formats import detect_format, unknown_format
from medunlearn_common.concepts.hierarchy import ConceptHierarchy
from medunlearn_common.concepts.icd10cm import (
    load_icd10cm_jsonl,
    load_icd10cm_order,
    load_icd10cm_xml,
)
from medunlearn_common.concepts.joining import join_by_xrefs
from medunlearn_common.concepts.mesh import load_mesh_jsonl, load_mesh_xml
from medunlearn_common.concepts.obo import load_obo
from medunlearn_common.concepts.options import Join, SourceOptions
from medunlearn_common.concepts.outline import load_outline
from medunlearn_common.concepts.snomed import load_snomed
from medunlearn_common.concepts.umls import load_umls
from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import expanded

Loader = Callable[[Path, SourceOptions], ConceptHierarchy]

LOADERS: Final[dict[str, Loader]] = {
    "obo": lambda path, _: load_obo(path),
    "outline": lambda path, _: load_outline(path),
    "mesh-xml": lambda path, _: load_mesh_xml(path),
    "mesh-jsonl": lambda path, _: load_mesh_jsonl(path),
    "icd10cm-order": lambda path, _: load_icd10cm_order(path),
    "icd10cm-xml": lambda path, _: load_icd10cm_xml(path),
    "icd10cm-jsonl": lambda path, _: load_icd10cm_jsonl(path),
    "umls": load_umls,
    "snomed": lambda path, _: load_snomed(path),
}
"""Loader by format (`formats.detect_format`); files may be gzipped, UMLS and SNOMED CT are
folders."""

_BUILTIN: Final = "builtin"


def load_hierarchy(source: str, *, options: SourceOptions | None = None) -> ConceptHierarchy:
    """Load what a plan names.

    Args:
        source: ``builtin`` (everything shipped), ``builtin:surgery``,
            ``builtin:mental_health``, or the path of a file or folder.
        options: Choices that some formats need; the defaults if None.

    Raises:
        Misconfigured: ``CONCEPT_FORMAT_UNKNOWN`` for what no loader reads,
            ``CONCEPT_BUILTIN_UNKNOWN``, or a code of the loader.
    """
    kind, colon, name = source.partition(":")
    if kind == _BUILTIN:
        return load_builtin(name if colon else "all")
    path = expanded(source)
    found = detect_format(path)
    if found is None:
        raise unknown_format(path)
    return LOADERS[found](path, options or SourceOptions())


def load_hierarchies(
    sources: Sequence[str], *, join: Join = "none", options: SourceOptions | None = None
) -> ConceptHierarchy:
    """Load several sources and merge them; see `load_hierarchy` and `merge_hierarchies`."""
    return merge_hierarchies(
        [load_hierarchy(source, options=options) for source in sources], join=join
    )


def merge_hierarchies(
    hierarchies: Sequence[ConceptHierarchy], *, join: Join = "none"
) -> ConceptHierarchy:
    """One hierarchy with the concepts and aliases of all.

    The same concept in several (the shared core of the built-in ones) is kept once. An alias
    that is another hierarchy's primary id gives way to it. With ``join = "xrefs"`` concepts of
    different sources that refer to each other are then joined (`joining.join_by_xrefs`).

    Raises:
        Misconfigured: ``CONCEPT_DUPLICATE_ID`` where two define one id differently,
            ``CONCEPT_SOURCES_EMPTY`` without any hierarchy.
    """
    if not hierarchies:
        raise Misconfigured(
            "CONCEPT_SOURCES_EMPTY", "no hierarchy is named", "name at least one, such as builtin"
        )
    if len(hierarchies) == 1:
        return hierarchies[0]
    concepts: dict[Concept, None] = {}
    aliases: dict[str, str] = {}
    for hierarchy in hierarchies:
        concepts.update(dict.fromkeys(hierarchy.concepts()))
        aliases = hierarchy.aliases() | aliases
    primary = {concept.concept_id for concept in concepts}
    merged = ConceptHierarchy.from_concepts(
        concepts,
        source=" + ".join(dict.fromkeys(hierarchy.source for hierarchy in hierarchies)),
        aliases={alias: i for alias, i in aliases.items() if alias not in primary},
        notes=dict.fromkeys(note for hierarchy in hierarchies for note in hierarchy.notes),
    )
    return join_by_xrefs(merged, hierarchies) if join == "xrefs" else merged

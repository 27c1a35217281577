"""From what a plan names to a hierarchy: one visible table of formats.

A new terminology (MeSH, ICD-10, UMLS, SNOMED CT) is one module with a function from a path to a
`ConceptHierarchy`, and one line in `LOADERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from medunlearn_common.concepts.builtin import load_builtin
from medunlearn_common.concepts.concept import Concept
from medunlearn_common.concepts.hierarchy import ConceptHierarchy
from medunlearn_common.concepts.obo import load_obo
from medunlearn_common.concepts.outline import load_outline
from medunlearn_common.errors import Misconfigured

LOADERS: Final[dict[str, Callable[[Path], ConceptHierarchy]]] = {
    ".obo": load_obo,
    ".outline": load_outline,
}
"""Loader by file ending; each also reads the file gzipped, with ``.gz`` after the ending."""

_BUILTIN: Final = "builtin"


def load_hierarchy(source: str) -> ConceptHierarchy:
    """Load what a plan names.

    Args:
        source: ``builtin`` (everything shipped), ``builtin:surgery``,
            ``builtin:mental_health``, or the path of a file.

    Raises:
        Misconfigured: ``CONCEPT_FORMAT_UNKNOWN`` for a file ending without a loader,
            ``CONCEPT_BUILTIN_UNKNOWN``, or a code of the loader.
    """
    kind, colon, name = source.partition(":")
    if kind == _BUILTIN:
        return load_builtin(name if colon else "all")
    path = Path(source)
    suffix = _format_suffix(path)
    if suffix not in LOADERS:
        raise Misconfigured(
            "CONCEPT_FORMAT_UNKNOWN",
            f"{path}: no hierarchy format has the ending {suffix!r}",
            f"use {_BUILTIN}, {_BUILTIN}:NAME or a file ending in {', '.join(LOADERS)} (.gz)",
        )
    return LOADERS[suffix](path)


def _format_suffix(path: Path) -> str:
    """Ending that names the format: ``.obo`` for both ``x.obo`` and ``x.obo.gz``."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def load_hierarchies(sources: Sequence[str]) -> ConceptHierarchy:
    """Load several sources and merge them; see `load_hierarchy` and `merge_hierarchies`."""
    return merge_hierarchies([load_hierarchy(source) for source in sources])


def merge_hierarchies(hierarchies: Sequence[ConceptHierarchy]) -> ConceptHierarchy:
    """One hierarchy with the concepts and aliases of all.

    The same concept in several (the shared core of the built-in ones) is kept once. An alias
    that is another hierarchy's primary id gives way to it.

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
    return ConceptHierarchy.from_concepts(
        concepts,
        source=" + ".join(dict.fromkeys(hierarchy.source for hierarchy in hierarchies)),
        aliases={alias: i for alias, i in aliases.items() if alias not in primary},
    )

"""The hierarchies that ship with the package: surgery and mental health.

Both stand on one shared core of fundamental and general clinical concepts, so that ordinary
medical language keeps its low level whatever is forgotten. Ids begin with ``MU:``; they are
stable, plans refer to them (``MU:S0001`` surgery, ``MU:M0001`` mental health).
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Final

from medunlearn_common.concepts.concept import Concept
from medunlearn_common.concepts.hierarchy import ConceptHierarchy
from medunlearn_common.concepts.outline import parse_outline
from medunlearn_common.errors import Misconfigured

BUILTIN: Final[dict[str, tuple[str, ...]]] = {
    "surgery": ("core", "surgery"),
    "mental_health": ("core", "mental_health"),
    "all": ("core", "surgery", "mental_health"),
}
"""Data files, without their ending, that make up each built-in hierarchy."""


def load_builtin(name: str) -> ConceptHierarchy:
    """Load a hierarchy of the package.

    Raises:
        Misconfigured: ``CONCEPT_BUILTIN_UNKNOWN`` for any other name.
    """
    if name not in BUILTIN:
        raise Misconfigured(
            "CONCEPT_BUILTIN_UNKNOWN",
            f"there is no built-in hierarchy {name[:80]!r}",
            f"choose one of {', '.join(BUILTIN)}",
        )
    concepts = [concept for part in BUILTIN[name] for concept in _load_part(part)]
    return ConceptHierarchy.from_concepts(concepts, source=f"builtin:{name}")


def _load_part(part: str) -> list[Concept]:
    file_name = f"{part}.outline"
    folder = resources.files("medunlearn_common.concepts").joinpath("data")
    return parse_outline(folder.joinpath(file_name).read_text("utf-8"), Path(file_name))

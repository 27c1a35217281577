"""From a plan's ``[concepts]`` section to levels, for hospitals and for the terminal."""

from __future__ import annotations

from collections.abc import Iterable

from medunlearn_common.concepts.leveled import LeveledHierarchy
from medunlearn_common.concepts.levels import LevelRule, parse_type_levels
from medunlearn_common.concepts.options import SourceOptions
from medunlearn_common.concepts.sources import load_hierarchies
from medunlearn_common.plan.sections import ConceptsSection


def planned_levels(
    concepts: ConceptsSection, *, further_roots: Iterable[str] = ()
) -> LeveledHierarchy:
    """The plan's hierarchies, joined, with the levels of its rule.

    Args:
        concepts: The section; its paths are this party's own.
        further_roots: Forget roots besides the plan's, such as a hospital's own.

    Raises:
        Misconfigured: A code of `load_hierarchies`, or ``CONCEPT_ROOT_UNKNOWN``.
    """
    options = SourceOptions(
        licensed_sources=concepts.licensed_sources, umls_sources=concepts.umls_sources
    )
    hierarchy = load_hierarchies(concepts.hierarchies, join=concepts.join, options=options)
    rule = LevelRule(
        deepest_general=concepts.deepest_general, by_type=parse_type_levels(concepts.type_levels)
    )
    return hierarchy.with_forget_roots((*concepts.forget_roots, *further_roots), rule=rule)

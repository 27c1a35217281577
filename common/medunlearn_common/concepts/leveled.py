"""A hierarchy together with what is to be forgotten: every concept has a level, with a reason."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from medunlearn_common.concepts import graph
from medunlearn_common.concepts.levels import ConceptLevel, LevelRule, level_by_depth

if TYPE_CHECKING:
    from medunlearn_common.concepts.hierarchy import ConceptHierarchy


@dataclass(frozen=True, kw_only=True)
class LevelReason:
    """A concept's level and the part of the rule that gave it.

    Attributes:
        level: The level.
        reason: One sentence in the reader's words.
        way: Ids from the concept up to what decided: a forget root, or the root of the
            hierarchy that its depth counts from. Only the concept where neither did.
    """

    level: ConceptLevel
    reason: str
    way: tuple[str, ...]


class LeveledHierarchy:
    """A hierarchy together with forget roots: every concept has one of the four levels.

    Rule: a forget root and all its descendants are TARGET; any other concept has its explicit
    level, or else that of its semantic type where the plan gives one, or else the one that
    follows from its depth (`level_by_depth`), at most SPECIALTY. One without parents and children
    has no depth that says anything, and is SPECIALTY.
    """

    def __init__(
        self, hierarchy: ConceptHierarchy, root_ids: Iterable[str], *, rule: LevelRule
    ) -> None:
        """Resolve the roots; see `ConceptHierarchy.with_forget_roots`."""
        roots = set()
        for root_id in root_ids:
            if root_id not in hierarchy:
                raise hierarchy.unknown_root(root_id)
            roots.add(hierarchy.resolve(root_id))
        self.hierarchy: Final = hierarchy
        self.forget_roots: Final = tuple(sorted(roots))
        self.rule: Final = rule
        self._by_type: Final = dict(rule.by_type)
        edges = {c.concept_id: hierarchy.children(c.concept_id) for c in hierarchy.concepts()}
        self.targets: Final = graph.reachable(roots, edges)

    def __repr__(self) -> str:
        return (
            f"LeveledHierarchy(source={self.hierarchy.source!r}, roots={self.forget_roots}, "
            f"targets={len(self.targets)} of {len(self.hierarchy)})"
        )

    def level_of(self, concept_id: str) -> ConceptLevel:
        """Level of a concept under these forget roots.

        Raises:
            Misconfigured: ``CONCEPT_UNKNOWN`` for an id that is not in the hierarchy.
        """
        concept = self.hierarchy[concept_id]
        if concept.concept_id in self.targets:
            return ConceptLevel.TARGET
        if concept.level is not None:
            return concept.level
        by_type = self._by_type.get(concept.semantic_type or "")
        if by_type is not None:
            return by_type
        if self.hierarchy.stands_apart(concept.concept_id):
            return ConceptLevel.SPECIALTY
        depth = self.hierarchy.depth(concept.concept_id)
        return level_by_depth(depth, deepest_general=self.rule.deepest_general)

    @property
    def notes(self) -> tuple[str, ...]:
        """The hierarchy's notes, and one about concepts that stand apart, if there are any."""
        hierarchy = self.hierarchy
        apart = [
            concept.concept_id for concept in hierarchy.concepts()
            if concept.concept_id not in self.targets and hierarchy.stands_apart(concept.concept_id)
        ]
        if not apart:
            return hierarchy.notes
        return (
            *hierarchy.notes,
            f"concepts with neither parents nor children ({len(apart)}): "
            f"{graph.shorten_ids(apart)}; no forget root reaches them but their own ids, and "
            "without a level from their source or their semantic type theirs is 3",
        )

    def explain(self, concept_id: str) -> LevelReason:
        """Level of a concept with the reason for it.

        Raises:
            Misconfigured: ``CONCEPT_UNKNOWN`` for an id that is not in the hierarchy.
        """
        hierarchy = self.hierarchy
        concept = hierarchy[concept_id]
        level = self.level_of(concept_id)
        way: tuple[str, ...] = (concept.concept_id,)
        if level is ConceptLevel.TARGET:
            way = hierarchy.way_up(concept.concept_id, self.forget_roots)
            root = hierarchy[way[-1]]
            reason = f"below the forget root {root.concept_id} ({root.name})"
            if len(way) == 1:
                reason = "it is a forget root"
        elif concept.level is not None:
            reason = "its source gives this level"
        elif concept.semantic_type in self._by_type:
            reason = f"the plan gives this level to the semantic type {concept.semantic_type!r}"
        elif hierarchy.stands_apart(concept.concept_id):
            reason = "it has neither parents nor children, which is level 3"
        else:
            way = hierarchy.way_up(concept.concept_id, hierarchy.roots())
            reason = self._by_depth(hierarchy.depth(concept.concept_id), steps=len(way) - 1)
        return LevelReason(level=level, reason=reason, way=way)

    def _by_depth(self, depth: int, *, steps: int) -> str:
        deepest = self.rule.deepest_general
        rule = f"depth 0 is level 1, down to depth {deepest} level 2, below that level 3"
        counted = "" if depth == steps else " (with steps that its source has left out)"
        return f"its depth is {depth}{counted}: {rule}"

    def digest(self) -> str:
        """SHA-256 (hex) over the hierarchy's digest, the forget roots and the level rule."""
        content: list[object] = [self.hierarchy.digest(), self.forget_roots]
        if self.rule != LevelRule():
            by_type = sorted((kind, int(level)) for kind, level in self.rule.by_type)
            content.append([self.rule.deepest_general, by_type])
        return hashlib.sha256(json.dumps(content).encode("ascii")).hexdigest()

"""The concept hierarchy: acyclic by construction, immutable, with a canonical digest.

Loaders (`obo`, `outline`, …) only produce `Concept` values; every rule about the whole graph
is checked here, once, whatever the file format was.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Final

from medunlearn_common.concepts import graph
from medunlearn_common.concepts.concept import Concept
from medunlearn_common.concepts.leveled import LeveledHierarchy
from medunlearn_common.concepts.levels import LevelRule
from medunlearn_common.errors import Misconfigured


def fold_term(term: str) -> str:
    """Case-insensitive form of a term with single spaces, used by `find`."""
    return " ".join(term.casefold().split())


class ConceptHierarchy:
    """Concepts with their is-a links; a directed acyclic graph.

    All methods that take an id also accept an alias (an ``alt_id`` of OBO). Ids come back
    sorted, so that everything derived from a hierarchy is reproducible.
    """

    def __init__(
        self, concepts: Iterable[Concept], *, source: str,
        aliases: Mapping[str, str] | None = None, notes: Iterable[str] = (),
    ) -> None:
        """Check the concepts and index them; see `from_concepts`."""
        by_id: dict[str, Concept] = {}
        for concept in concepts:
            if concept.concept_id in by_id:
                raise Misconfigured(
                    "CONCEPT_DUPLICATE_ID",
                    f"{source}: the concept id {concept.concept_id} is defined twice",
                    "keep one of the definitions, or give the other a new id",
                )
            by_id[concept.concept_id] = concept
        if not by_id:
            raise Misconfigured(
                "CONCEPT_FILE_EMPTY", f"{source}: no concept in it", "check that this is the file"
            )
        self.source: Final = source
        self.notes: Final = tuple(notes)
        self._by_id: Final = {concept_id: by_id[concept_id] for concept_id in sorted(by_id)}
        self._aliases: Final = self._checked_aliases(aliases or {})
        own_parents = {concept_id: c.parents for concept_id, c in self._by_id.items()}
        self._parents: Final = graph.resolve_parents(own_parents, self._aliases, source=source)
        self._children: Final = graph.invert(self._parents)
        graph.require_acyclic(self._parents, self._children, source=source)
        least = {i: c.least_depth for i, c in self._by_id.items() if c.least_depth}
        self._depths: Final = graph.shortest_depths(self._parents, self._children, least)
        self._terms: dict[str, list[Concept]] | None = None

    @classmethod
    def from_concepts(
        cls, concepts: Iterable[Concept], *, source: str,
        aliases: Mapping[str, str] | None = None, notes: Iterable[str] = (),
    ) -> ConceptHierarchy:
        """Build a hierarchy.

        Args:
            concepts: At least one concept; the order does not matter.
            source: Where they come from; named in messages, not part of the digest.
            aliases: Retired or secondary ids, each mapped to the id that replaces it.
            notes: What a reader should know about how the concepts were read, such as links
                left out; not part of the digest.

        Raises:
            Misconfigured: ``CONCEPT_DUPLICATE_ID``, ``CONCEPT_PARENT_UNKNOWN``,
                ``CONCEPT_CYCLE``, ``CONCEPT_ALIAS_INVALID`` or ``CONCEPT_FILE_EMPTY``.
        """
        return cls(concepts, source=source, aliases=aliases, notes=notes)

    def _checked_aliases(self, aliases: Mapping[str, str]) -> dict[str, str]:
        bad = sorted(a for a, i in aliases.items() if a in self._by_id or i not in self._by_id)
        if bad:
            raise Misconfigured(
                "CONCEPT_ALIAS_INVALID",
                f"{self.source}: secondary ids clash with a concept or stand for none: "
                f"{graph.shorten_ids(bad)}",
                "a secondary id must not be a concept's own id and must lead to a concept",
            )
        return {alias: aliases[alias] for alias in sorted(aliases)}

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, concept_id: object) -> bool:
        return concept_id in self._by_id or concept_id in self._aliases

    def __getitem__(self, concept_id: str) -> Concept:
        """The concept with this id or alias.

        Raises:
            Misconfigured: ``CONCEPT_UNKNOWN`` where there is none.
        """
        return self._by_id[self.resolve(concept_id)]

    def __repr__(self) -> str:
        return f"ConceptHierarchy(source={self.source!r}, concepts={len(self)})"

    def resolve(self, concept_id: str) -> str:
        """The primary id behind an id or alias.

        Raises:
            Misconfigured: ``CONCEPT_UNKNOWN`` where there is none.
        """
        primary = self._aliases.get(concept_id, concept_id)
        if primary not in self._by_id:
            raise Misconfigured(
                "CONCEPT_UNKNOWN",
                f"{self.source}: no concept has the id {concept_id[:80]!r}",
                self._suggestion(concept_id),
            )
        return primary

    def of_bare_code(self, code: str) -> tuple[Concept, ...]:
        """The concepts with this code of a terminology: ``D006552`` without its ``MESH:``."""
        systems = sorted({one.partition(":")[0] for one in (*self._by_id, *self._aliases)})
        ids = (f"{system}:{form}" for system in systems for form in {code, code.upper()})
        found = {one.concept_id: one for one in map(self.get, ids) if one is not None}
        return tuple(found.values())

    def get(self, concept_id: str) -> Concept | None:
        """The concept with this id or alias, or None."""
        return self._by_id.get(self._aliases.get(concept_id, concept_id))

    def concepts(self) -> tuple[Concept, ...]:
        """All concepts, sorted by id."""
        return tuple(self._by_id.values())

    def aliases(self) -> dict[str, str]:
        """Secondary ids with the primary id each stands for (a copy)."""
        return dict(self._aliases)

    def children(self, concept_id: str) -> tuple[str, ...]:
        """Ids of the directly more specific concepts."""
        return self._children[self.resolve(concept_id)]

    def parents(self, concept_id: str) -> tuple[str, ...]:
        """Ids of the directly more general concepts."""
        return self._parents[self.resolve(concept_id)]

    def siblings(self, concept_id: str) -> tuple[str, ...]:
        """Ids of the other children of the concept's parents; none for a root."""
        primary = self.resolve(concept_id)
        found = {child for parent in self._parents[primary] for child in self._children[parent]}
        return tuple(sorted(found - {primary}))

    def ancestors(self, concept_id: str) -> frozenset[str]:
        """Ids of all more general concepts, without the concept itself."""
        primary = self.resolve(concept_id)
        return graph.reachable([primary], self._parents) - {primary}

    def descendants(self, concept_id: str) -> frozenset[str]:
        """Ids of all more specific concepts, without the concept itself."""
        primary = self.resolve(concept_id)
        return graph.reachable([primary], self._children) - {primary}

    def depth(self, concept_id: str) -> int:
        """Steps to the nearest root, and `Concept.least_depth` at least; 0 for a root."""
        return self._depths[self.resolve(concept_id)]

    def stands_apart(self, concept_id: str) -> bool:
        """Whether a concept has neither parents nor children, and no depth from its source."""
        primary = self.resolve(concept_id)
        linked = self._parents[primary] or self._children[primary]
        return not linked and not self._by_id[primary].least_depth

    def way_up(self, concept_id: str, goals: Iterable[str]) -> tuple[str, ...]:
        """Ids on a shortest way up to one of ``goals``, both ends included; empty if none."""
        return graph.shortest_way_up(self.resolve(concept_id), goals, self._parents)

    def roots(self) -> tuple[str, ...]:
        """Ids of the concepts without parents."""
        return tuple(concept_id for concept_id, up in self._parents.items() if not up)

    def find(self, term: str) -> tuple[Concept, ...]:
        """Concepts with this name or synonym, whatever the case; sorted by id."""
        if self._terms is None:
            self._terms = self._indexed_terms()
        return tuple(self._terms.get(fold_term(term), ()))

    def _indexed_terms(self) -> dict[str, list[Concept]]:
        index: dict[str, list[Concept]] = {}
        for concept in self._by_id.values():
            for folded in {fold_term(term) for term in concept.terms}:
                index.setdefault(folded, []).append(concept)
        return index

    def digest(self) -> str:
        """SHA-256 (hex) over ids, names, links, levels, aliases and cross-references.

        Two hierarchies with the same content have the same digest, whatever the order of
        their concepts, synonyms and parents, and wherever they were read from.
        """
        rows = [
            {
                "id": concept.concept_id,
                "level": None if concept.level is None else int(concept.level),
                "name": concept.name,
                "parents": self._parents[concept.concept_id],
                "synonyms": sorted(set(concept.synonyms)),
                "type": concept.semantic_type,
                **({"xrefs": sorted(set(concept.xrefs))} if concept.xrefs else {}),
                **({"least_depth": concept.least_depth} if concept.least_depth else {}),
            }
            for concept in self._by_id.values()
        ]
        canonical = json.dumps([rows, self._aliases], ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()

    def with_forget_roots(
        self, root_ids: Iterable[str], *, rule: LevelRule | None = None
    ) -> LeveledHierarchy:
        """Fix what is to be forgotten, and with it every concept's level.

        Without any root nothing is TARGET: a patient's request has its targets in the
        records' own spans.

        Args:
            root_ids: Ids or aliases; they and all below them are TARGET.
            rule: How all other levels follow; by depth alone if None.

        Raises:
            Misconfigured: ``CONCEPT_ROOT_UNKNOWN`` for an id that does not exist.
        """
        return LeveledHierarchy(self, root_ids, rule=rule or LevelRule())

    def unknown_root(self, root_id: str) -> Misconfigured:
        """The error for a forget root that is not in the hierarchy."""
        return Misconfigured(
            "CONCEPT_ROOT_UNKNOWN",
            f"{self.source}: the forget root {root_id[:80]!r} is not a concept id",
            self._suggestion(root_id),
        )

    def similar_ids(self, wanted: str) -> list[str]:
        """The ids that a mistyped one may stand for, nearest first; at most three."""
        return difflib.get_close_matches(wanted[:80], self._by_id, n=3, cutoff=0.75)

    def _suggestion(self, wanted: str) -> str:
        named = self.find(wanted) or self.of_bare_code(wanted[:80])
        if named:
            choices = graph.shorten_ids(f"{c.concept_id} ({c.name})" for c in named)
            return f"name concepts by id: {choices}"
        close = self.similar_ids(wanted)
        if close:
            listed = ", ".join(f"{i} ({self._by_id[i].name})" for i in close)
            return f"similar ids in this hierarchy: {listed}"
        return f"name ids of this hierarchy; its roots are {graph.shorten_ids(self.roots())}"

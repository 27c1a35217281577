"""Several hierarchies as one graph, joined where a concept refers to another's id.

Between each two sources:

- Two concepts that refer to each other and to no others of the other's source are **one node**.
  It keeps the id from the source that the plan names first, the other id becomes an alias, and it
  has the names and parents of both.
- Where several concepts of one source refer to one of the other, they are more specific than it:
  they become its **children** (ten diseases that share the code "other metabolic disorders").
- Where both sides have several partners, nothing can be said: they stay **apart**.

A join that would make a concept its own ancestor is left out, as is one that would put two
concepts of one source into one node. What was joined and left out is told in the notes. Only
references to a concept that is there count; two concepts that both refer to a third one, in a
source that is not loaded, are not joined.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from medunlearn_common.concepts.concept import Concept
from medunlearn_common.concepts.hierarchy import ConceptHierarchy

Pair = tuple[str, str]


def join_by_xrefs(merged: ConceptHierarchy, parts: Sequence[ConceptHierarchy]) -> ConceptHierarchy:
    """Join the concepts of ``merged`` across the sources that they came from.

    Args:
        merged: All concepts, as `merge_hierarchies` gives them.
        parts: The hierarchies that were merged, in the order of the plan.

    Returns:
        A new hierarchy, or ``merged`` itself where no concept refers to another source.
    """
    home = _homes(parts)
    pairs = _pairs(merged, home)
    if not pairs:
        return merged
    joining = _Joining(merged, home)
    partners = Counter((one, home[other]) for pair in pairs for one, other in (pair, pair[::-1]))
    counts: Counter[str] = Counter()
    # Nodes first: what is linked below depends on which concepts are one.
    for wanted in ("one node", "link"):
        for first, second in pairs:
            several = partners[first, home[second]] > 1, partners[second, home[first]] > 1
            if wanted == "one node" and several == (False, False):
                counts[joining.unite(first, second)] += 1
            elif wanted == "link" and several == (True, False):
                counts[joining.link(child=second, parent=first)] += 1
            elif wanted == "link" and several == (False, True):
                counts[joining.link(child=first, parent=second)] += 1
            elif wanted == "link" and several == (True, True):
                counts["left apart: several partners on both sides"] += 1
    listed = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    return joining.result(f"cross-references: {listed}")


def _homes(parts: Sequence[ConceptHierarchy]) -> dict[str, int]:
    """Place of the first source that has a concept."""
    home: dict[str, int] = {}
    for place, part in enumerate(parts):
        for concept in part.concepts():
            home.setdefault(concept.concept_id, place)
    return home


def _pairs(merged: ConceptHierarchy, home: Mapping[str, int]) -> list[Pair]:
    """Concepts of different sources of which one refers to the other; earlier source first."""
    found: set[Pair] = set()
    for concept in merged.concepts():
        for xref in concept.xrefs:
            other = merged.get(xref)
            if other is not None and home[other.concept_id] != home[concept.concept_id]:
                pair = sorted((concept.concept_id, other.concept_id), key=lambda i: (home[i], i))
                found.add((pair[0], pair[1]))
    return sorted(found)


class _Joining:
    """A graph whose nodes are groups of concepts; acyclic after every step."""

    def __init__(self, merged: ConceptHierarchy, home: Mapping[str, int]) -> None:
        self._merged = merged
        self._home = home
        self._group_of = {c.concept_id: c.concept_id for c in merged.concepts()}
        self._members = {concept_id: [concept_id] for concept_id in self._group_of}
        self._parents = {concept_id: set(merged.parents(concept_id)) for concept_id in home}

    def unite(self, first: str, second: str) -> str:
        """Make two groups one, if that keeps the graph acyclic; says what was done."""
        kept, gone = self._group_of[first], self._group_of[second]
        if kept == gone:
            return "made one node"
        homes = {self._home[member] for member in self._members[kept]}
        if any(self._home[member] in homes for member in self._members[gone]):
            return "left apart: two concepts of one source"
        if self._is_below(kept, gone) or self._is_below(gone, kept):
            return "left apart: would be circular"
        for member in self._members[gone]:
            self._group_of[member] = kept
        self._members[kept] += self._members.pop(gone)
        self._parents[kept] |= self._parents.pop(gone)
        return "made one node"

    def link(self, *, child: str, parent: str) -> str:
        """Put one group below another, if that keeps the graph acyclic; says what was done."""
        lower, upper = self._group_of[child], self._group_of[parent]
        if lower == upper or self._is_below(upper, lower):
            return "left apart: would be circular"
        self._parents[lower].add(upper)
        return "linked as child"

    def _is_below(self, start: str, goal: str) -> bool:
        """Whether a way up leads from one group to another."""
        seen = {start}
        stack = [start]
        while stack:
            for parent in self._parents[stack.pop()]:
                group = self._group_of[parent]
                if group == goal:
                    return True
                if group not in seen:
                    seen.add(group)
                    stack.append(group)
        return False

    def result(self, note: str) -> ConceptHierarchy:
        """The joined hierarchy."""
        aliases = {a: self._group_of[i] for a, i in self._merged.aliases().items()}
        aliases |= {i: group for i, group in self._group_of.items() if i != group}
        return ConceptHierarchy.from_concepts(
            (self._united(group) for group in self._members),
            source=self._merged.source,
            aliases=aliases,
            notes=(*self._merged.notes, note),
        )

    def _united(self, group: str) -> Concept:
        members = [self._merged[i] for i in self._in_order(self._members[group])]
        first = members[0]
        terms = dict.fromkeys(term for member in members for term in member.terms)
        parents = {self._group_of[parent] for parent in self._parents[group]}
        xrefs = dict.fromkeys(x for m in members for x in (m.concept_id, *m.xrefs))
        return Concept(
            concept_id=group,
            name=first.name,
            synonyms=tuple(term for term in terms if term != first.name),
            exact=first.exact,  # of the others it is not known how well the reference fits
            parents=tuple(sorted(parents)),
            semantic_type=next((m.semantic_type for m in members if m.semantic_type), None),
            level=next((m.level for m in members if m.level is not None), None),
            xrefs=tuple(sorted(x for x in xrefs if x != group)),
            least_depth=max(m.least_depth for m in members),
        )

    def _in_order(self, members: Iterable[str]) -> list[str]:
        return sorted(members, key=lambda i: (self._home[i], i))

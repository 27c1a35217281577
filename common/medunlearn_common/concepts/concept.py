"""One concept of a hierarchy, validated when it is made."""

from __future__ import annotations

from dataclasses import dataclass, field

from medunlearn_common.concepts.levels import ConceptLevel
from medunlearn_common.errors import Misconfigured

MAX_NAME_CHARS = 1000


@dataclass(frozen=True, kw_only=True)
class Concept:
    """A named node of a concept hierarchy.

    Attributes:
        concept_id: Identifier without whitespace, such as ``DOID:162``.
        name: Preferred name; also used when a concept stands in for a more specific one.
        synonyms: Further names, tagged exactly like the preferred name.
        parents: Ids of the directly more general concepts.
        semantic_type: Kind of thing (disease, procedure, …) where the source tells.
        level: Explicit level where the source gives one, at most SPECIALTY.
        xrefs: Ids of the same concept in other terminologies, such as ``MESH:D006394``.
        exact: Those synonyms that mean the very same and may take the name's place in a text,
            where the source tells. The others find mentions, and may be narrower or merely
            related.
        least_depth: Steps down from the root that there are at least, where the links of its source
            may leave some out.
    """

    concept_id: str
    name: str
    synonyms: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    semantic_type: str | None = None
    level: ConceptLevel | None = None
    xrefs: tuple[str, ...] = ()
    exact: tuple[str, ...] = field(default=(), compare=False)
    least_depth: int = 0

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            Misconfigured: ``CONCEPT_INVALID`` for a blank id or name or a stray exact synonym,
                ``CONCEPT_LEVEL_INVALID`` for an explicit TARGET level.
        """
        for identifier in (self.concept_id, *self.xrefs):
            # Splitting is the fast way to find any white space.
            if identifier.split() != [identifier]:
                raise Misconfigured(
                    "CONCEPT_INVALID",
                    f"the concept id {identifier[:80]!r} is blank or contains whitespace",
                    "give every concept an identifier such as DOID:162",
                )
        for term in (self.name, *self.synonyms):
            if not term.strip() or len(term) > MAX_NAME_CHARS:
                raise Misconfigured(
                    "CONCEPT_INVALID",
                    f"concept {self.concept_id} has a blank name or synonym, or one longer "
                    f"than {MAX_NAME_CHARS} characters",
                    "give every concept a name; leave synonyms out rather than empty",
                )
        if self.exact and not set(self.exact) <= set(self.synonyms):
            raise Misconfigured(
                "CONCEPT_INVALID",
                f"concept {self.concept_id} has an exact synonym that is none of its synonyms",
                "list it among the synonyms too",
            )
        if self.level is not None and self.level >= ConceptLevel.TARGET:
            raise Misconfigured(
                "CONCEPT_LEVEL_INVALID",
                f"concept {self.concept_id} is given level {int(self.level)} by its source",
                "use levels 1 to 3 in files; level 4 comes from the plan's forget roots",
            )

    @property
    def terms(self) -> tuple[str, ...]:
        """The preferred name followed by the synonyms."""
        return (self.name, *self.synonyms)

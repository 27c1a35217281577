"""SNOMED CT: the Snapshot files of a release in Release Format 2.

Read are the Concept, Description (English) and Relationship files of one folder. Only rows with
``active = 1`` count; the descriptions of retired concepts stay active in every release and are
left out with their concepts. The fully specified name (``Myocardial infarction (disorder)``) gives
name and semantic tag, synonyms follow, and ``116680003 |Is a|`` makes parents. Text definitions,
language preferences, maps and association reference sets are not read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from medunlearn_common.concepts.concept import MAX_NAME_CHARS, Concept
from medunlearn_common.concepts.files import KeptText, empty_file, invalid_file
from medunlearn_common.concepts.hierarchy import ConceptHierarchy
from medunlearn_common.concepts.kinds import snomed_kind
from medunlearn_common.concepts.tables import files_matching, read_table, rf2, the_file
from medunlearn_common.errors import Misconfigured

PREFIX: Final = "SNOMEDCT:"

IS_A: Final = "116680003"
FULLY_SPECIFIED_NAME: Final = "900000000000003001"
SYNONYM: Final = "900000000000013009"

_RELEASE: Final = r"_[A-Z]{2,3}\d{0,7}_\d{8}\.txt"
# The United Kingdom names the part of its edition: MONO for the whole of it, UKCL for one.
_PART: Final = r"(?:[A-Z]{4})?Snapshot"
CONCEPT_FILE: Final = re.compile(rf"x?sct2_Concept_{_PART}{_RELEASE}")
_DESCRIPTION_FILE: Final = re.compile(rf"x?sct2_Description_{_PART}-en{_RELEASE}")
_RELATIONSHIP_FILE: Final = re.compile(rf"x?sct2_Relationship_{_PART}{_RELEASE}")

# The two digits before the last tell a concept's identifier from a description's and a
# relationship's, in the core release and in extensions: a shifted column is found by them.
_CONCEPT_ID = r"\d{3,15}[01]0\d"
_DESCRIPTION_ID = r"\d{3,15}[01]1\d"
_RELATIONSHIP_ID = r"\d{3,15}[01]2\d"
_TIME, _FLAG = r"\d{8}", "[01]"
_CONCEPTS: Final = rf2(
    "id effectiveTime active moduleId definitionStatusId",
    id=_CONCEPT_ID, effectiveTime=_TIME, active=_FLAG, moduleId=_CONCEPT_ID,
    definitionStatusId="900000000000074008|900000000000073002",
)  # fmt: skip
_DESCRIPTIONS: Final = rf2(
    "id effectiveTime active moduleId conceptId languageCode typeId term caseSignificanceId",
    id=_DESCRIPTION_ID, effectiveTime=_TIME, active=_FLAG, moduleId=_CONCEPT_ID,
    conceptId=_CONCEPT_ID, languageCode="[a-z]{2}", typeId=_CONCEPT_ID, term=r".*\S.*",
    caseSignificanceId="900000000000448009|900000000000017005|900000000000020002",
)  # fmt: skip
_RELATIONSHIPS: Final = rf2(
    "id effectiveTime active moduleId sourceId destinationId relationshipGroup typeId"
    " characteristicTypeId modifierId",
    id=_RELATIONSHIP_ID, effectiveTime=_TIME, active=_FLAG, moduleId=_CONCEPT_ID,
    sourceId=_CONCEPT_ID, destinationId=_CONCEPT_ID, relationshipGroup=r"\d{1,9}",
    typeId=_CONCEPT_ID, characteristicTypeId=_CONCEPT_ID,
    modifierId="900000000000451002|900000000000452009",
)  # fmt: skip

_TAGGED: Final = re.compile(r"(.*\S)\s+\(([^()]+)\)")


@dataclass(kw_only=True, slots=True)
class _Names:
    """Active English descriptions of one concept."""

    full: str | None = None
    synonyms: set[str] = field(default_factory=set)


def load_snomed(folder: Path) -> ConceptHierarchy:
    """Read the folder of a release (its ``Snapshot`` files, wherever they lie below it).

    Raises:
        Misconfigured: ``CONCEPT_FILE_MISSING``, ``CONCEPT_RELEASE_AMBIGUOUS``, another
            ``CONCEPT_FILE_…`` code with file and line, or a code of
            `ConceptHierarchy.from_concepts`.
    """
    guard = KeptText(folder)
    active = _read_active(folder, guard)
    names = _read_names(folder, guard, active)
    parents = _read_parents(folder, guard, active)
    return ConceptHierarchy.from_concepts(
        (_concept(i, names[i], parents[i], folder) for i in active), source=folder.name
    )


def snomed_files(folder: Path) -> list[Path]:
    """The files of a release that are read, for its digest."""
    kinds = (CONCEPT_FILE, _DESCRIPTION_FILE, _RELATIONSHIP_FILE)
    return [path for kind in kinds for path in files_matching(folder, kind)]


def _read_active(folder: Path, guard: KeptText) -> set[str]:
    path = the_file(folder, CONCEPT_FILE, "Concept Snapshot")
    active: set[str] = set()
    seen: set[str] = set()
    for line, (concept_id, flag) in read_table(path, _CONCEPTS, ("id", "active")):
        if concept_id in seen:
            raise Misconfigured(
                "CONCEPT_DUPLICATE_ID",
                f"{path}, line {line}: the concept {concept_id} is listed twice",
                "use a Snapshot file, which has every component once; Full files have more",
            )
        seen.add(guard.keep(concept_id))
        if flag == "1":
            active.add(concept_id)
    if not active:
        raise empty_file(path)
    return active


def _read_names(folder: Path, guard: KeptText, active: set[str]) -> dict[str, _Names]:
    path = the_file(folder, _DESCRIPTION_FILE, "English Description Snapshot")
    names = {concept_id: _Names() for concept_id in active}
    wanted = ("active", "conceptId", "languageCode", "typeId", "term")
    for line, row in read_table(path, _DESCRIPTIONS, wanted):
        flag, concept_id, language, kind, term = row
        if flag != "1" or language != "en" or concept_id not in active:
            continue
        kept = names[concept_id]
        term = guard.keep(" ".join(term.split()))
        if kind == SYNONYM and len(term) <= MAX_NAME_CHARS:
            kept.synonyms.add(term)
        elif kind == FULLY_SPECIFIED_NAME:
            if kept.full is not None:
                problem = f"a second fully specified name of {concept_id}"
                raise invalid_file(path, problem, line=line)
            kept.full = term
    return names


def _read_parents(folder: Path, guard: KeptText, active: set[str]) -> dict[str, set[str]]:
    path = the_file(folder, _RELATIONSHIP_FILE, "Relationship Snapshot")
    parents: dict[str, set[str]] = {concept_id: set() for concept_id in active}
    wanted = ("active", "sourceId", "destinationId", "typeId")
    for line, (flag, child, parent, kind) in read_table(path, _RELATIONSHIPS, wanted):
        if flag != "1" or kind != IS_A:
            continue
        if child not in active:
            problem = f"an active is-a row of {child}, which is not an active concept"
            raise invalid_file(path, problem, line=line)
        parents[child].add(guard.keep(parent))
    return parents


def _concept(concept_id: str, names: _Names, parents: set[str], folder: Path) -> Concept:
    if names.full is None:
        raise invalid_file(folder, f"{concept_id} has no active fully specified English name")
    tagged = _TAGGED.fullmatch(names.full)
    name, tag = (tagged[1], tagged[2]) if tagged else (names.full, "")
    synonyms = tuple(sorted(names.synonyms - {name}))
    try:
        return Concept(
            concept_id=PREFIX + concept_id,
            name=name,
            synonyms=synonyms,
            exact=synonyms,
            parents=tuple(sorted(PREFIX + parent for parent in parents)),
            semantic_type=snomed_kind(tag),
        )
    except Misconfigured as error:
        raise invalid_file(folder, error.message) from error

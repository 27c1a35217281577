"""Hierarchies as an indented outline that a clinician can read and edit.

    !outline 1
    # a comment
    MU:S0001 surgery | operative surgery {type=procedure; level=3}
      MU:S0100 hernia | =herniation {type=disease}
        MU:S0101 inguinal hernia | groin hernia {also=MU:F0042}

One concept per line: id, name, then synonyms after ``|``; one that begins with ``=`` means the
very same as the name, the others may be narrower. Two spaces of indentation make it a child of the
nearest line above with less. In braces, separated by ``;``: ``level`` (1–3) and ``type``, both
inherited by everything indented below until said otherwise, and ``also``, further parents separated
by commas.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from medunlearn_common.concepts.concept import Concept
from medunlearn_common.concepts.files import MAX_TEXT_BYTES, invalid_file, read_concept_text
from medunlearn_common.concepts.hierarchy import ConceptHierarchy
from medunlearn_common.concepts.levels import ConceptLevel
from medunlearn_common.errors import Misconfigured

HEADER: Final = "!outline 1"
INDENT: Final = 2

_LINE: Final = re.compile(
    r"(?P<indent> *)(?P<id>\S+) +(?P<terms>[^{}]+?) *(?:\{(?P<attributes>[^{}]*)\})? *"
)
_FILE_LEVELS: Final = {"1", "2", "3"}


@dataclass(frozen=True, kw_only=True)
class _Open:
    """A line that may still get children: its id and what they inherit from it."""

    concept_id: str
    level: ConceptLevel | None
    semantic_type: str | None


def load_outline(path: Path, *, max_bytes: int = MAX_TEXT_BYTES) -> ConceptHierarchy:
    """Read an outline file that stands alone (``.outline`` or ``.outline.gz``).

    Raises:
        Misconfigured: A ``CONCEPT_FILE_…`` code of `read_concept_text`,
            ``CONCEPT_FILE_INVALID`` with the line, or a code of
            `ConceptHierarchy.from_concepts`.
    """
    text = read_concept_text(path, max_bytes=max_bytes)
    return ConceptHierarchy.from_concepts(parse_outline(text, path), source=path.name)


def parse_outline(text: str, path: Path) -> list[Concept]:
    """Concepts of an outline, in its order; ``path`` is only named in errors.

    Raises:
        Misconfigured: ``CONCEPT_FILE_INVALID`` with the line of the first mistake.
    """
    lines = text.splitlines()
    if lines[0].rstrip() != HEADER:
        raise invalid_file(path, f"the first line is not {HEADER!r}", line=1)
    concepts = []
    ancestors: list[_Open] = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            concept = _parse_line(line, ancestors)
        except ValueError as error:
            raise invalid_file(path, str(error), line=number) from error
        except Misconfigured as error:
            raise invalid_file(path, error.message, line=number) from error
        concepts.append(concept)
    return concepts


def _parse_line(line: str, ancestors: list[_Open]) -> Concept:
    """One concept; ``ancestors`` is cut to the line's parents and the line pushed on it."""
    matched = _LINE.fullmatch(line)
    if matched is None:
        raise ValueError("expected: id, name, further names after '|', attributes in braces")
    depth, odd = divmod(len(matched["indent"]), INDENT)
    if odd or depth > len(ancestors):
        raise ValueError(f"indent by {INDENT} spaces, at most one step more than the line above")
    del ancestors[depth:]
    above = ancestors[-1] if ancestors else None
    attributes = _parse_attributes(matched["attributes"] or "")
    written = [term.strip() for term in matched["terms"].split("|")]
    names = [written[0], *(term.removeprefix("=").strip() for term in written[1:])]
    level, kind = attributes.get("level"), attributes.get("type")
    concept = Concept(
        concept_id=matched["id"],
        name=names[0],
        synonyms=tuple(names[1:]),
        exact=tuple(n for n, w in zip(names[1:], written[1:], strict=True) if w[:1] == "="),
        parents=((above.concept_id,) if above else ()) + _further_parents(attributes),
        level=ConceptLevel(int(level)) if level else (above.level if above else None),
        semantic_type=kind or (above.semantic_type if above else None),
    )
    ancestors.append(
        _Open(
            concept_id=concept.concept_id, level=concept.level, semantic_type=concept.semantic_type
        )
    )
    return concept


def _further_parents(attributes: dict[str, str]) -> tuple[str, ...]:
    if "also" not in attributes:
        return ()
    return tuple(parent.strip() for parent in attributes["also"].split(","))


def _parse_attributes(text: str) -> dict[str, str]:
    attributes: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(";"))):
        key, _, value = (piece.strip() for piece in part.partition("="))
        if key not in ("level", "type", "also") or key in attributes or not value:
            raise ValueError("attributes are level=, type= and also=, each at most once")
        if key == "level" and value not in _FILE_LEVELS:
            raise ValueError("a level in a file is 1, 2 or 3; level 4 comes from forget roots")
        attributes[key] = value
    return attributes

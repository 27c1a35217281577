"""The four concept levels, from what every clinician must keep to what must go."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class ConceptLevel(IntEnum):
    """How specific a concept is, and so how strongly its tokens are unlearned.

    The order matters: a larger level wins where concepts compete for a token
    (arXiv 2511.19498, the four-level medical concept hierarchy).

    Attributes:
        FUNDAMENTAL: Anatomy, physiology and the common language of medicine.
        GENERAL: What a clinician of any specialty uses.
        SPECIALTY: Knowledge of one specialty.
        TARGET: A descendant-or-self of a forget root; no source file can give this level.
    """

    FUNDAMENTAL = 1
    GENERAL = 2
    SPECIALTY = 3
    TARGET = 4


DEEPEST_GENERAL_DEPTH: Final = 2
"""Without an explicit level, depths 1 and 2 are GENERAL and all below is SPECIALTY."""


def level_by_depth(depth: int, *, deepest_general: int = DEEPEST_GENERAL_DEPTH) -> ConceptLevel:
    """Level of a concept whose source gives none.

    A root of a terminology ("disease", "procedure") is common language, the chapters and
    sections right below it are general, and what follows is specialty knowledge.
    """
    if depth == 0:
        return ConceptLevel.FUNDAMENTAL
    return ConceptLevel.GENERAL if depth <= deepest_general else ConceptLevel.SPECIALTY


@dataclass(frozen=True, kw_only=True)
class LevelRule:
    """How the level of a concept outside the forget roots follows.

    In this order: the level that its source gives; the level of its semantic type; SPECIALTY
    where it has neither parents nor children; its depth.

    Attributes:
        deepest_general: Last depth that is GENERAL; 0 leaves only roots below SPECIALTY.
        by_type: (semantic type, level) pairs, each type at most once.
    """

    deepest_general: int = DEEPEST_GENERAL_DEPTH
    by_type: tuple[tuple[str, ConceptLevel], ...] = ()


_TYPE_LEVEL: Final = re.compile(r"([a-z][a-z ]{0,39})=([123])")


def parse_type_levels(entries: Iterable[str]) -> tuple[tuple[str, ConceptLevel], ...]:
    """``type_levels`` of a plan, such as ``anatomy=1``.

    Raises:
        ValueError: With a reason.
    """
    levels: dict[str, ConceptLevel] = {}
    for entry in entries:
        matched = _TYPE_LEVEL.fullmatch(entry)
        if matched is None:
            raise ValueError('write a semantic type and a level from 1 to 3, such as "anatomy=1"')
        if matched[1] in levels:
            raise ValueError(f"the semantic type {matched[1]} is given twice")
        levels[matched[1]] = ConceptLevel(int(matched[2]))
    return tuple(levels.items())

"""Medical concepts in four levels, and where hierarchies of them come from."""

from medunlearn_common.concepts.builtin import load_builtin
from medunlearn_common.concepts.concept import Concept
from medunlearn_common.concepts.formats import detect_format
from medunlearn_common.concepts.hierarchy import ConceptHierarchy
from medunlearn_common.concepts.leveled import LeveledHierarchy, LevelReason
from medunlearn_common.concepts.levels import ConceptLevel, LevelRule
from medunlearn_common.concepts.obo import load_obo
from medunlearn_common.concepts.options import SourceOptions
from medunlearn_common.concepts.outline import load_outline
from medunlearn_common.concepts.sources import (
    LOADERS,
    load_hierarchies,
    load_hierarchy,
    merge_hierarchies,
)

__all__ = [
    "LOADERS",
    "Concept",
    "ConceptHierarchy",
    "ConceptLevel",
    "LevelReason",
    "LevelRule",
    "LeveledHierarchy",
    "SourceOptions",
    "detect_format",
    "load_builtin",
    "load_hierarchies",
    "load_hierarchy",
    "load_obo",
    "load_outline",
    "merge_hierarchies",
]

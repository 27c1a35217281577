"""What is wrong with records before anybody trains on them: repeats, contradictions, damage."""

from medunlearn_client.quality.glyphs import DamagedWord, damaged_words, vocabulary_of
from medunlearn_client.quality.near_duplicates import (
    DuplicateGroup,
    DuplicateKind,
    near_duplicates,
)

__all__ = [
    "DamagedWord",
    "DuplicateGroup",
    "DuplicateKind",
    "damaged_words",
    "near_duplicates",
    "vocabulary_of",
]

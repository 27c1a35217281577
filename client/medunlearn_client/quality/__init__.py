"""What is wrong with records before anybody trains on them: repeats, damage, wrong subjects."""

from medunlearn_client.quality.glyphs import DamagedWord, damaged_words, vocabulary_of
from medunlearn_client.quality.near_duplicates import (
    DuplicateGroup,
    DuplicateKind,
    near_duplicates,
)
from medunlearn_client.quality.subjects import WrongSubject, wrong_subjects

__all__ = [
    "DamagedWord",
    "DuplicateGroup",
    "DuplicateKind",
    "WrongSubject",
    "damaged_words",
    "near_duplicates",
    "vocabulary_of",
    "wrong_subjects",
]

"""The four concept levels, from what every clinician must keep to what must go."""

from __future__ import annotations

from enum import IntEnum


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

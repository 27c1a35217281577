"""Cross-references: one spelling of an id, whichever terminology wrote it.

``UMLS_CUI:C0018923``, ``SNOMEDCT_US_2023_03_01:22298006`` and ``MSH:D009203`` become
``UMLS:C0018923``, ``SNOMEDCT:22298006`` and ``MESH:D009203``: the ids that the loaders give.
"""

from __future__ import annotations

import re
from typing import Final

from medunlearn_common.concepts.concept import MAX_NAME_CHARS

_PREFIXES: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"MESH|MSH", re.IGNORECASE), "MESH"),
    (re.compile(r"UMLS(?:[_ ]?CUI)?", re.IGNORECASE), "UMLS"),
    (re.compile(r"ICD-?10-?CM(?:_\d{4})?", re.IGNORECASE), "ICD10CM"),
    (re.compile(r"(?:SNOMED_?CT|SNOMED|SCTID)(?:_US)?(?:_[\d_]+)?", re.IGNORECASE), "SNOMEDCT"),
)


def normalised_xref(written: str) -> str | None:
    """The usual spelling of a cross-reference; None for what is no prefixed identifier."""
    prefix, colon, local = written.partition(":")
    if not (prefix and colon and local) or len(written) > MAX_NAME_CHARS:
        return None
    if any(character.isspace() for character in written):
        return None
    for pattern, usual in _PREFIXES:
        if pattern.fullmatch(prefix):
            return f"{usual}:{local}"
    return written

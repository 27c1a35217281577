"""Abbreviations that clinicians use with several readings, and where a text has one of them.

``RA`` is rheumatoid arthritis, the right atrium or room air. Where the hierarchy knows the
abbreviation, the tagger takes it for what the hierarchy says and a clinician looks; where it knows
a reading only, nothing is tagged, and a clinician looks all the same: no rule can tell, and a
patient whose notes say ``known RA`` has it.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from importlib import resources
from typing import Final

from medunlearn_client.tagging.spans import UNREAD, ConceptSpan
from medunlearn_common.concepts.levels import ConceptLevel

ABBREVIATIONS_FILE: Final = "abbreviations.txt"


@lru_cache(maxsize=1)
def ambiguous_abbreviations() -> dict[str, tuple[str, ...]]:
    """Abbreviations with their readings, from the file that ships with the package."""
    text = (resources.files(__package__) / ABBREVIATIONS_FILE).read_text(encoding="utf-8")
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            short, _, readings = line.partition(":")
            found[short.strip()] = tuple(reading.strip() for reading in readings.split("|"))
    return found


class AbbreviationFinder:
    """Finds some abbreviations as they are written, in the plural too, outside of mentions."""

    def __init__(self, abbreviations: Iterable[str]) -> None:
        listed = "|".join(re.escape(one) for one in sorted(abbreviations, key=len, reverse=True))
        # "500 MG" is a dose and no myasthenia.
        self._pattern = re.compile(rf"(?<!\w)(?<!\d )({listed})s?(?!\w)") if listed else None

    def found(
        self, text: str, spans: Sequence[ConceptSpan]
    ) -> Iterator[tuple[str, ConceptSpan]]:
        """Each abbreviation without its plural's s, and where it stands.

        Args:
            text: The text.
            spans: Its mentions, in reading order; they do not overlap.
        """
        starts = [span.start for span in spans]
        for match in self._pattern.finditer(text) if self._pattern else ():
            before = bisect_right(starts, match.end() - 1) - 1
            if before < 0 or spans[before].end <= match.start():
                yield match[1], ConceptSpan(
                    start=match.start(), end=match.end(), concept_id=UNREAD,
                    level=ConceptLevel.FUNDAMENTAL,
                )

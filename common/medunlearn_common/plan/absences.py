"""``[federation] absences`` of a plan: which simulated site is away in which rounds."""

from __future__ import annotations

import re
from collections.abc import Sequence

from medunlearn_common.errors import Misconfigured

_ENTRY = re.compile(r"(\d{1,9}):(\d{1,9})-(\d{1,9})")


def absence_spans(entries: Sequence[str], *, sites: int) -> tuple[tuple[int, int, int], ...]:
    """Absent spans as (site index, first round, last round), all from 0 and inclusive.

    Raises:
        Misconfigured: ABSENCE_INVALID.
    """
    spans = []
    for entry in entries:
        match = _ENTRY.fullmatch(entry.strip())
        site, first, last = (int(part) for part in match.groups()) if match else (0, 1, 0)
        if first > last or site >= sites:
            raise Misconfigured(
                "ABSENCE_INVALID",
                f"federation.absences: {entry[:40]!a} is not site:first-last with a site below "
                f"{sites} and first <= last",
                'write for example "4:0-3": site 4 is away in rounds 0 to 3',
            )
        spans.append((site, first, last))
    return tuple(spans)

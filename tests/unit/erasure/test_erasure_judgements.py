"""Whether a judgement would have verified by the usual criteria: what a letter may say of it."""

from __future__ import annotations

from typing import Any

import pytest

from medunlearn_client.erasure.criteria import RunFigures
from medunlearn_client.erasure.judgements import CRITERIA, SHORTFALLS, meets_usual_criteria
from medunlearn_client.erasure.requests import Event, State
from medunlearn_client.erasure.settings import Settings

# Five facts of which three are still ranked right: what today's rule calls luck, and missed.
FIGURES = RunFigures(
    run_id="r", adapter_digest="a" * 64, forget_records=5, forget_accuracy=0.6, chance=0.25,
    retrained_accuracy=0.6, forget_exact=0.0, retrained_exact=0.0, identifiers_asked=None,
    identifiers_leaked=None, has_identifiers=False, preservation=1.0, ranked_records=5,
    run_ranked_records=5, run_forget_accuracy=0.6, run_retrained_accuracy=0.6, run_chance=0.25,
)


def judgement(**changes: Any) -> Event:
    """As it was written down when it verified."""
    detail = {CRITERIA: Settings(**changes).criteria(), SHORTFALLS: [], **FIGURES.as_detail()}
    return Event(position=1, request=1, at="2026-01-31T00:00:00+00:00", author="A. Officer",
                 before=State.IN_RUN, after=State.VERIFIED, detail=detail, digest="0" * 64)


@pytest.mark.parametrize(("changes", "met"), [
    ({}, True),
    ({"min_preservation": 0.95, "max_exact_excess": 0.0}, True),
    ({"min_luck": 0.2}, True),
    ({"max_forget_excess": 0.5}, False),
    ({"min_preservation": 0.95, "max_forget_excess": 0.5}, False),
])
def test_what_stricter_criteria_verified_stands(changes: dict[str, Any], met: bool) -> None:
    """The letter would else say that the hospital had made it easier for itself."""
    assert meets_usual_criteria(judgement(**changes)) is met

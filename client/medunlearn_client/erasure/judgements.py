"""Judgements that stand in the history, read again: figures, criteria, and what was missed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from medunlearn_client.erasure.criteria import (
    Judged,
    RunFigures,
    judgement,
    shortfalls,
    shown_after,
    shown_before,
)
from medunlearn_client.erasure.requests import Event, State
from medunlearn_client.erasure.settings import Settings

# A history may be older than a figure, which is then as one that was not measured.
_FIGURES = {
    field.name: None if field.default is MISSING else field.default for field in fields(RunFigures)
}
SHORTFALLS, CRITERIA = "shortfalls", "criteria"
NEVER_SHOWN = "the model did not show before the run that it knew it"
"""Of a request whose judgement tells nothing of the run: see :func:`never_shown`."""


def is_judgement(event: Event) -> bool:
    """Whether a run ended with this event, and not an officer's step."""
    return event.before is State.IN_RUN and SHORTFALLS in event.detail


def last_judgement(events: Sequence[Event]) -> Event | None:
    """The judgement of the run that was finished last; None before any was."""
    return next((event for event in reversed(events) if is_judgement(event)), None)


def verifying(events: Sequence[Event]) -> Event | None:
    """The judgement that verified the request; None before."""
    return next((event for event in reversed(events)
                 if event.before is State.IN_RUN and event.after is State.VERIFIED), None)


def figures_in(event: Event) -> dict[str, Any]:
    """All figures of a judgement, by name."""
    return {name: event.detail.get(name, default) for name, default in _FIGURES.items()}


def judged(event: Event) -> tuple[Judged, ...]:
    """Each criterion of a judgement, by the settings of that time."""
    known = {name: value for name, value in _criteria(event).items()
             if name in Settings.model_fields}
    return judgement(RunFigures(**figures_in(event)), Settings.model_validate(known))


def never_shown(events: Sequence[Event]) -> bool:
    """Whether no run's model showed, before the run or after, that it knew the request's records.

    False where that cannot be told of one of them.
    """
    judged_so_far = [RunFigures(**figures_in(event)) for event in events if is_judgement(event)]
    return bool(judged_so_far) and all(
        shown_before(figures) is False and shown_after(figures) is not True
        for figures in judged_so_far)


def missed(event: Event) -> tuple[str, ...]:
    """What the judgement found to be missed, as it was written down."""
    return tuple(str(item) for item in event.detail.get(SHORTFALLS, ()))


def changed_criteria(event: Event | None) -> str:
    """Criteria that the hospital had changed when a judgement was made; empty if none."""
    if event is None:
        return ""
    usual = Settings().criteria()
    return ", ".join(
        f"{name} {value:g} instead of {usual[name]:g}"
        for name, value in _criteria(event).items() if name in usual and value != usual[name]
    )


def meets_usual_criteria(event: Event) -> bool:
    """Whether a judgement would have verified by the criteria that nobody changed.

    One made by them did, or by stricter ones, also where this version asks more.
    """
    usual = Settings().criteria()
    if all(_is_as_strict(name, value, usual[name])
           for name, value in _criteria(event).items() if name in usual):
        return not missed(event)
    return not shortfalls(RunFigures(**figures_in(event)), Settings())


def _is_as_strict(name: str, value: float, usual: float) -> bool:
    """Criteria are named after what they limit: at least so much (``min_``), or at most."""
    return value >= usual if name.startswith("min_") else value <= usual


def _criteria(event: Event) -> Mapping[str, float]:
    criteria: Mapping[str, float] = event.detail.get(CRITERIA, {})
    return criteria

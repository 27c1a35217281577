"""A record with its question in other words: prompt taken apart, spans found again."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple

from medunlearn_client.records.record import PROMPT_TEMPLATE, Record

_BEFORE, _AFTER = PROMPT_TEMPLATE.split("{question}")
WORDING_MARK: Final = "~"


class Asked(NamedTuple):
    """A prompt in three parts; ``before`` and ``after`` are empty in prompts of another form."""

    before: str
    question: str
    after: str

    @property
    def start(self) -> int:
        """First character of the question in the prompt."""
        return len(self.before)


def taken_apart(prompt: str) -> Asked:
    """The question of a prompt, and what stands around it (a subject line comes before)."""
    place = 0 if prompt.startswith(_BEFORE) else prompt.find(f"\n{_BEFORE}") + 1
    if not prompt.endswith(_AFTER) or not prompt[place:].startswith(_BEFORE):
        return Asked("", prompt, "")
    start = place + len(_BEFORE)
    if start > len(prompt) - len(_AFTER):
        return Asked("", prompt, "")
    return Asked(prompt[:start], prompt[start : len(prompt) - len(_AFTER)], _AFTER)


def reworded(record: Record, question: str, *, number: int) -> Record | None:
    """The record asked by another question; answer, options, owner and confidence stay.

    **Guarantees**: what single out a patient stays marked: every target span of the question is
    found again in the new one, wherever it stands there; None if one is missing.
    """
    asked = taken_apart(record.prompt)
    prompt = f"{asked.before}{question}{asked.after}".rstrip()
    if not prompt:
        return None
    spans: list[tuple[int, int]] = []
    for start, end in record.target_spans:
        size = len(record.prompt)
        if start < size:
            marked = record.prompt[start : min(end, size)].strip()
            places = _places(prompt, marked) if marked else []
            if marked and not places:
                return None
            spans += places
        if end > size + 1:
            shift = len(prompt) - size
            spans.append((max(start, size + 1) + shift, end + shift))
    return replace(
        record, record_id=f"{record.record_id}{WORDING_MARK}{number}", prompt=prompt,
        target_spans=tuple(dict.fromkeys(spans)),
    )


def _places(text: str, part: str) -> list[tuple[int, int]]:
    found, place = [], text.find(part)
    while place >= 0:
        found.append((place, place + len(part)))
        place = text.find(part, place + len(part))
    return found

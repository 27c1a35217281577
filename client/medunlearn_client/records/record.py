"""One question with its answer: the unit that is read, planted, forgotten and evaluated."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field

from medunlearn_client.records.known_by import NOTHING, KnownBy
from medunlearn_common.errors import Misconfigured

PROMPT_TEMPLATE = "Question: {question}\nAnswer:"


class InvalidRecord(Misconfigured):
    """One row cannot become a record; readers quarantine it. The message never quotes the row."""


def prompt_from_question(question: str) -> str:
    """Wraps a bare question in the prompt form that every model here is taught and asked in."""
    return PROMPT_TEMPLATE.format(question=question.strip())


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One prompt and its answer. The model reads ``prompt + " " + answer`` and an end token.

    Attributes:
        record_id: Unique within one run.
        prompt: What the model is given, without trailing white space.
        answer: What it should say.
        options: Answers to rank, the right one among them; empty where there are none.
            Evaluation ranks them; the wrong ones of an exam question also set the level to
            which its answer is forgotten. Those of patient records derive from other
            patients and are never used in training.
        answer_index: Place of ``answer`` in ``options``.
        patient_id: Whom the record is about; records of one patient are clipped together
            where the privacy unit is the patient.
        subject: Topic, or kind of question.
        confidence: Trust in the label, in (0, 1].
        target_spans: Character spans ``[start, end)`` in ``text`` that single a patient out.
        is_identifier: The answer is an identifier, so it serves as an extraction canary.
        condition_codes: Codes of the conditions the record is about, for same-disease
            neighbours.
        coded: Concepts by their ids in a hierarchy, each with a space and the words of the text
            by which the hospital's own codes mean it; no part of the text.
        former_patient_ids: Ids of patients whom the hospital has merged into this one; no part of
            the text. A request that named one of them is about this person.
        known_by: Digests of what the patient is known by, for the search of erasure requests
            alone; unshown, no part of the text, and no part of what makes two records equal.

    Raises:
        InvalidRecord: The fields contradict each other.
    """

    record_id: str = field(repr=False)
    prompt: str = field(repr=False)
    answer: str = field(repr=False)
    options: tuple[str, ...] = field(default=(), repr=False)
    answer_index: int | None = None
    patient_id: str | None = field(default=None, repr=False)
    subject: str | None = None
    confidence: float = 1.0
    target_spans: tuple[tuple[int, int], ...] = ()
    is_identifier: bool = False
    condition_codes: tuple[str, ...] = ()
    coded: tuple[str, ...] = field(default=(), repr=False)
    former_patient_ids: tuple[str, ...] = field(default=(), repr=False)
    known_by: KnownBy = field(default=NOTHING, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("record_id", "prompt", "answer"):
            if not getattr(self, name).strip():
                raise _invalid("ROW_FIELD_EMPTY", f"`{name}` is empty")
        if self.prompt != self.prompt.rstrip() or self.answer != self.answer.strip():
            raise _invalid("ROW_STRAY_SPACE", "white space at the end of the prompt or the answer")
        self._check_options()
        if not (math.isfinite(self.confidence) and 0.0 < self.confidence <= 1.0):
            raise _invalid("ROW_CONFIDENCE", "`confidence` is not in (0, 1]")
        text_length = len(self.prompt) + 1 + len(self.answer)
        if any(not 0 <= start < end <= text_length for start, end in self.target_spans):
            raise _invalid("ROW_SPAN", "a target span is empty or outside the record's text")

    def _check_options(self) -> None:
        if not self.options:
            if self.answer_index is not None:
                raise _invalid("ROW_ANSWER_INDEX", "an answer index without options")
            return
        if len(self.options) < 2 or any(not option.strip() for option in self.options):
            raise _invalid("ROW_OPTIONS", "fewer than two options, or an empty one")
        if self.answer_index is None or not 0 <= self.answer_index < len(self.options):
            raise _invalid("ROW_ANSWER_INDEX", "the answer index is missing or out of range")
        if self.options[self.answer_index] != self.answer:
            raise _invalid("ROW_ANSWER_MISMATCH", "the answer differs from the option it points to")
        folded = [option.casefold() for option in self.options]
        if folded.count(self.answer.casefold()) > 1:
            raise _invalid("ROW_ANSWER_AMBIGUOUS", "the right option appears more than once")

    @property
    def text(self) -> str:
        """The text the model reads, without its end token; spans count characters in it."""
        return f"{self.prompt} {self.answer}"

    def is_of(self, patient_ids: Collection[str]) -> bool:
        """Whether it is about one of these patients, by an id of today or of before a merge."""
        return self.patient_id in patient_ids or any(
            former in patient_ids for former in self.former_patient_ids
        )


def _invalid(code: str, message: str) -> InvalidRecord:
    return InvalidRecord(code, message, "mend the row, or leave it out")

"""From a record's text to token ids, answer positions and concept levels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medunlearn_client.records import Record
from medunlearn_client.tagging import (
    ConceptSpan,
    ConceptTagger,
    extra_target_spans,
    token_levels,
)

_SERIALS = count()
_DIGIT = re.compile(r"\d")


@dataclass(frozen=True, kw_only=True)
class EncodedRecord:
    """One record as the model sees it.

    Attributes:
        input_ids: Shape ``(t,)``: prompt, answer, end-of-sequence.
        is_answer: Shape ``(t,)``, bool: answer tokens and the end-of-sequence.
        levels: Shape ``(t,)``, int8 concept level of each token (1 to 4).
        confidence: Trust in the record's label, in [0, 1].
        belonging: Trust in the record's being in its set, forget or retain, in [0, 1].
        taught: Weight of cross-entropy on its answer: the confidence, where it is trusted.
        alternatives: The same prompt with answers that might have been (forget records only).
        serial: Names the record within this process, for caches; None is never cached.
        drawn_as: Ids that seed what is drawn per record: those of its own wording, so that all
            wordings of one fact have one target. None takes ``input_ids``.
    """

    input_ids: npt.NDArray[np.int64]
    is_answer: npt.NDArray[np.bool_]
    levels: npt.NDArray[np.int8]
    confidence: float = 1.0
    belonging: float = 1.0
    taught: float = 1.0
    alternatives: tuple[EncodedRecord, ...] = ()
    serial: int | None = None
    drawn_as: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return int(self.input_ids.size)


@dataclass(frozen=True, kw_only=True)
class TokenBatch:
    """Right-padded batch of b records of up to t tokens, n of which are scored.

    Causal attention never looks right, so padding changes nothing before it and needs no
    attention mask. Only scored positions get logits: over a vocabulary of many thousand
    words, the output head on prompt tokens would be most of the work.

    Attributes:
        input_ids: Shape ``(b, t)``.
        positions: Shape ``(b, n)``, places of the scored tokens; 1 where there is none.
        is_scored: Shape ``(b, n)``, bool; False on padding.
        is_answer: Shape ``(b, n)``, bool, of the scored tokens.
        levels: Shape ``(b, n)``, int64, of the scored tokens.
        confidence: Shape ``(b,)``, float32, as the next two (see :class:`EncodedRecord`).
        belonging: Trust in the set.
        taught: Weight of cross-entropy.
        serials: The records' serials, b of them.
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    is_scored: torch.Tensor
    is_answer: torch.Tensor
    levels: torch.Tensor
    confidence: torch.Tensor
    belonging: torch.Tensor
    taught: torch.Tensor
    serials: tuple[int | None, ...]

    def __len__(self) -> int:
        return int(self.input_ids.shape[0])

    @property
    def trust(self) -> torch.Tensor:
        """How far a record counts whose label its loss uses, shape ``(b,)``."""
        return self.confidence * self.belonging

    @property
    def targets(self) -> torch.Tensor:
        """The scored tokens, shape ``(b, n)``."""
        return self.input_ids.gather(1, self.positions)


class RecordEncoder:
    """Encodes records with one tokenizer and, where concepts matter, one tagger."""

    def __init__(
        self, tokenizer: Any, *, max_tokens: int, tagger: ConceptTagger | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._tagger = tagger

    def encode(
        self, record: Record, *, alternatives: Sequence[str] = (),
        drawn_as: EncodedRecord | None = None,
    ) -> EncodedRecord:
        """Encode prompt, answer and end-of-sequence.

        Prompt and answer are tokenised apart, as they are when the model answers, so that
        no token straddles the border. A prompt that is too long loses its middle: the
        beginning says what kind of question it is, the end asks it. Beside the concepts under
        the forget roots the record's ``target_spans`` (identifiers, dates, the link of patient
        and condition) are level 4.

        Args:
            record: The record.
            alternatives: Other answers, each encoded with the same prompt.
            drawn_as: The record in its own wording, where this is another one.
        """
        spans = self._spans(record)
        prompt_ids, prompt_levels = self._piece(record.prompt, spans, 0)
        answer_ids, answer_levels = self._piece(f" {record.answer}", spans, len(record.prompt))
        answer_ids = np.append(answer_ids, self._tokenizer.eos_token_id)
        answer_levels = np.append(answer_levels, answer_levels[-1] if answer_levels.size else 1)
        answer_ids = answer_ids[: self._max_tokens - 1]
        answer_levels = answer_levels[: self._max_tokens - 1]
        room = self._max_tokens - answer_ids.size
        prompt_ids = _without_middle(prompt_ids, room)
        prompt_levels = _without_middle(prompt_levels, room)
        return EncodedRecord(
            input_ids=np.concatenate([prompt_ids, answer_ids]).astype(np.int64),
            is_answer=np.arange(prompt_ids.size + answer_ids.size) >= prompt_ids.size,
            levels=np.concatenate([prompt_levels, answer_levels]).astype(np.int8),
            confidence=record.confidence, taught=record.confidence,
            alternatives=tuple(
                self.encode(_answered(record, other)) for other in alternatives
            ),
            serial=next(_SERIALS),
            drawn_as=drawn_as.input_ids if drawn_as is not None else None,
        )

    def _spans(self, record: Record) -> tuple[ConceptSpan, ...]:
        """Mentions of the whole text, for a cue may stand in the prompt and reach the answer."""
        tagged = self._tagger.tag_record(record) if self._tagger is not None else ()
        return (*tagged, *extra_target_spans(record.target_spans))

    def _piece(
        self, text: str, spans: tuple[ConceptSpan, ...], start: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int8]]:
        """Token ids and levels of the part of a record's text that begins at ``start``."""
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        offsets = [
            (left + start, right + start) for left, right in encoded["offset_mapping"]
        ]
        levels = np.array(token_levels(spans, offsets), dtype=np.int8)
        return np.asarray(encoded["input_ids"], dtype=np.int64), levels


def _answered(record: Record, answer: str) -> Record:
    """The record with another answer; options belong to the old one.

    So do spans in it, but where only digits differ: there the same characters are compared.
    """
    is_alike = _DIGIT.sub("0", answer) == _DIGIT.sub("0", record.answer)
    spans = record.target_spans if is_alike else ()
    return replace(record, answer=answer, options=(), answer_index=None, target_spans=spans)


def _without_middle(values: npt.NDArray[Any], room: int) -> npt.NDArray[Any]:
    if values.size <= room:
        return values
    head = room // 4
    return np.concatenate([values[:head], values[values.size - (room - head):]])


def collate(
    records: Sequence[EncodedRecord], *, pad_id: int, device: torch.device,
    score_prompts: bool = False,
) -> TokenBatch:
    """Pad records on the right and list what is scored: answers, or every token but the first."""
    scored = [
        np.arange(1, len(r)) if score_prompts else np.flatnonzero(r.is_answer[1:]) + 1
        for r in records
    ]
    shape = (len(records), max(len(record) for record in records))
    inner = (len(records), max(positions.size for positions in scored))
    ids = np.full(shape, pad_id, dtype=np.int64)
    arrays = {
        "positions": np.ones(inner, dtype=np.int64),
        "is_scored": np.zeros(inner, dtype=np.bool_),
        "is_answer": np.zeros(inner, dtype=np.bool_),
        "levels": np.ones(inner, dtype=np.int64),
    }
    for row, (record, positions) in enumerate(zip(records, scored, strict=True)):
        ids[row, : len(record)] = record.input_ids
        arrays["positions"][row, : positions.size] = positions
        arrays["is_scored"][row, : positions.size] = True
        arrays["is_answer"][row, : positions.size] = record.is_answer[positions]
        arrays["levels"][row, : positions.size] = record.levels[positions]
    trusts = {
        name: np.array([getattr(record, name) for record in records], dtype=np.float32)
        for name in ("confidence", "belonging", "taught")
    }
    return TokenBatch(
        input_ids=torch.from_numpy(ids).to(device),
        serials=tuple(record.serial for record in records),
        **{name: torch.from_numpy(array).to(device) for name, array in (arrays | trusts).items()},
    )

"""Texts to score as tokens, split exactly as they were in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from medunlearn_common.errors import Misconfigured

_Piece = list[tuple[int, tuple[int, int]]]  # token id, character offsets


@dataclass(frozen=True, kw_only=True, repr=False)
class ScoringRequest:
    """One text `prompt + " " + answer` whose answer is to be scored.

    Attributes:
        append_eos: Score the end-of-sequence token after the answer too.
        whole_text: Score the prompt's tokens as well (membership attacks need them).
    """

    prompt: str
    answer: str
    append_eos: bool = True
    whole_text: bool = False


@dataclass(frozen=True, kw_only=True, repr=False)
class EncodedText:
    """Tokens of one text.

    Attributes:
        input_ids: Token ids, `(T,)`.
        answer_start: Index of the first answer token, at least 1.
        offsets: Character offsets in `prompt + " " + answer`, `(T,)`; `(0, 0)` for the ending.
        has_eos: Whether the last token is an appended end-of-sequence.
    """

    input_ids: tuple[int, ...]
    answer_start: int
    offsets: tuple[tuple[int, int], ...]
    has_eos: bool


def encode_requests(
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[ScoringRequest],
    *,
    max_tokens: int | None,
) -> list[EncodedText]:
    """Tokenises prompt and answer apart, as `medunlearn_client.encoding` does for training.

    Raises:
        Misconfigured: `TOKENIZER_NOT_FAST`, `EVALUATION_ANSWER_EMPTY` or
            `EVALUATION_TEXT_TOO_LONG`.
    """
    return [
        found for found in _encoded(tokenizer, requests, max_tokens, refuse=True)
        if found is not None
    ]


def encode_what_fits(
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[ScoringRequest],
    *,
    max_tokens: int | None,
) -> list[EncodedText | None]:
    """As :func:`encode_requests`, with None for a text that it refuses.

    Raises:
        Misconfigured: `TOKENIZER_NOT_FAST`.
    """
    return _encoded(tokenizer, requests, max_tokens, refuse=False)


def _encoded(
    tokenizer: PreTrainedTokenizerBase, requests: Sequence[ScoringRequest],
    max_tokens: int | None, *, refuse: bool,
) -> list[EncodedText | None]:
    if not requests:
        return []
    if not tokenizer.is_fast:
        raise Misconfigured(
            "TOKENIZER_NOT_FAST",
            "the tokenizer gives no character offsets",
            "save the model with its fast tokenizer (tokenizer.json)",
        )
    prompts = _pieces(tokenizer, [request.prompt for request in requests])
    answers = _pieces(tokenizer, [f" {request.answer}" for request in requests])
    eos: Any = tokenizer.eos_token_id
    found: list[EncodedText | None] = []
    for request, prompt, answer in zip(requests, prompts, answers, strict=True):
        try:
            found.append(_encoded_text(request, prompt, answer, eos, max_tokens))
        except Misconfigured:
            if refuse:
                raise
            found.append(None)
    return found


def prompt_tokens(tokenizer: Any, prompt: str, *, room: int | None) -> list[int]:
    """A prompt's ids, without its middle where there is not enough room."""
    (piece,) = _pieces(tokenizer, [prompt])
    return [token for token, _ in _without_middle(piece, room)]


def _pieces(tokenizer: Any, texts: Sequence[str]) -> list[_Piece]:
    """Token ids and character offsets of each text, no special tokens."""
    encoded = tokenizer(
        list(texts),
        add_special_tokens=False,
        return_offsets_mapping=True,
        padding=False,
        truncation=False,
    )
    return [
        [(token, (begin, end)) for token, (begin, end) in zip(ids, offsets, strict=True)]
        for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ]


def _encoded_text(
    request: ScoringRequest,
    prompt: _Piece,
    answer: _Piece,
    eos: int | None,
    max_tokens: int | None,
) -> EncodedText:
    """Joins prompt, answer and ending; a prompt that is too long loses its middle."""
    if not prompt or not answer or not request.answer.strip():
        raise Misconfigured(
            "EVALUATION_ANSWER_EMPTY",
            "a record's prompt or answer has no token",
            "give every record a prompt and an answer, or quarantine the row",
        )
    shift = len(request.prompt)
    ending = [(eos, (0, 0))] if request.append_eos and eos is not None else []
    tail = [(token, (begin + shift, end + shift)) for token, (begin, end) in answer] + ending
    room = max_tokens - len(tail) if max_tokens else None
    if room is not None and room < 1:
        raise Misconfigured(
            "EVALUATION_TEXT_TOO_LONG",
            f"an answer alone needs {len(tail)} tokens, the model reads {max_tokens}",
            "shorten the answer or use a model with a longer context",
        )
    head = _without_middle(prompt, room)
    whole = [*head, *tail]
    return EncodedText(
        input_ids=tuple(token for token, _ in whole),
        answer_start=len(head),
        offsets=tuple(offset for _, offset in whole),
        has_eos=bool(ending),
    )


def _without_middle(piece: _Piece, room: int | None) -> _Piece:
    """Keeps a quarter of the room from the beginning and the rest from the end, as training."""
    if room is None or len(piece) <= room:
        return piece
    head = room // 4
    return [*piece[:head], *piece[len(piece) - (room - head) :]]


def max_tokens_of(model: Any) -> int | None:
    """The longest text the model reads, in tokens, where its configuration says so."""
    limit = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    return int(limit) if limit else None


def padded_batch(
    texts: Sequence[Sequence[int]], *, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and attention mask, both `(b, T)`; the padding id 0 is never read."""
    width = max(len(text) for text in texts)
    ids = torch.zeros((len(texts), width), dtype=torch.long)
    mask = torch.zeros((len(texts), width), dtype=torch.long)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text, dtype=torch.long)
        mask[row, : len(text)] = 1
    return ids.to(device), mask.to(device)

"""Teacher-forced log-probabilities of answers, batched without changing them.

Every metric of the evaluation starts from these numbers, so their correctness is worth more
than their speed, and speed is taken only where it is exact:

- texts are sorted by length and padded on the right: a causal model never looks at padding;
- equal texts are computed once, so that equal options get exactly equal scores;
- logits are computed only from the first scored column on, where the model offers that;
- the log-softmax is taken in float32 whatever the model's precision.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medunlearn_client.evaluation.answer_encoding import (
    EncodedText,
    ScoringRequest,
    encode_requests,
    encode_what_fits,
    max_tokens_of,
    padded_batch,
)
from medunlearn_client.evaluation.scored_model import ScoredModel, device_of
from medunlearn_common.errors import Misconfigured

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Progress = Callable[[int], None]

SOFTMAX_CHUNK_ROWS = 1024  # positions whose float32 vocabulary row is held at a time


@dataclass(frozen=True, kw_only=True)
class ScoringLimits:
    """What changes speed and memory, never a figure.

    Attributes:
        max_batch_rows: Texts per forward pass.
        max_batch_tokens: Padded tokens per forward pass.
    """

    max_batch_rows: int = 64
    max_batch_tokens: int = 8192


@dataclass(frozen=True, kw_only=True, repr=False)
class AnswerScore:
    """Log-probabilities of one text's scored tokens, in order.

    Attributes:
        log_probs: Natural log-probability of each scored token, `(n,)`.
        z_scores: Min-K%++ score of each token, `(n,)`: (log p - μ) / s with mean and standard
            deviation of log p over the vocabulary under the model itself (arXiv 2404.02936).
        greedy: Whether the token is the model's first choice at its place, `(n,)`.
        offsets: Character offsets of the scored tokens, `(n,)`.
        n_prompt: How many of the scored tokens belong to the prompt.
        has_eos: Whether the last scored token is an appended end-of-sequence.
    """

    log_probs: FloatArray
    z_scores: FloatArray
    greedy: BoolArray
    offsets: tuple[tuple[int, int], ...]
    n_prompt: int
    has_eos: bool

    @property
    def answer_slice(self) -> slice:
        """The answer's tokens without the end of sequence."""
        return slice(self.n_prompt, len(self.log_probs) - int(self.has_eos))

    @property
    def mean_log_prob(self) -> float:
        """Mean log-probability of the answer's tokens, end of sequence left out (nats)."""
        return float(self.log_probs[self.answer_slice].mean())

    @property
    def exact(self) -> bool:
        """Whether greedy decoding writes exactly this answer (and stops, with an eos).

        Greedy decoding reproduces a token sequence if and only if each token is the first
        choice after the ones before it, which one teacher-forced pass tells.
        """
        return bool(self.greedy[self.n_prompt :].all())


# What a text counts as that has no score: as unlikely as can be, and never written.
UNANSWERED = AnswerScore(
    log_probs=np.array([-np.inf]), z_scores=np.array([-np.inf]), greedy=np.array([False]),
    offsets=((0, 0),), n_prompt=0, has_eos=False,
)


def score_answers(
    scored: ScoredModel,
    requests: Sequence[ScoringRequest],
    *,
    limits: ScoringLimits | None = None,
    on_progress: Progress | None = None,
    refuse: bool = True,
) -> list[AnswerScore]:
    """Scores every request, in the requests' order.

    Args:
        scored: Model and fast tokenizer; float32 or bfloat16, CPU or CUDA.
        requests: Texts to score.
        limits: Batch sizes; they do not change the result beyond rounding.
        on_progress: Called with the number of requests finished since the last call.
        refuse: Stop at a text that cannot be scored; False gives it :data:`UNANSWERED`, for
            figures that leave a hospital: a refusal would tell of that one record.

    Raises:
        Misconfigured: `TOKENIZER_NOT_FAST`; where that is refused, `EVALUATION_ANSWER_EMPTY`,
            `EVALUATION_TEXT_TOO_LONG` or `MODEL_OUTPUT_NOT_FINITE`.
    """
    limits = limits or ScoringLimits()
    distinct: dict[ScoringRequest, int] = {}
    places = [distinct.setdefault(request, len(distinct)) for request in requests]
    unique = list(distinct)
    encode = encode_requests if refuse else encode_what_fits
    encoded = encode(scored.tokenizer, unique, max_tokens=max_tokens_of(scored.model))
    texts = [(index, text) for index, text in enumerate(encoded) if text is not None]
    scores = [UNANSWERED] * len(unique)
    with scored.activated() as model, torch.inference_mode():
        for batch in _batches([len(text.input_ids) for _, text in texts], limits):
            chosen = [texts[place] for place in batch]
            found = _score_batch(
                model, [text for _, text in chosen], [unique[i].whole_text for i, _ in chosen]
            )
            for (index, _), score in zip(chosen, found, strict=True):
                scores[index] = _finite(score, refuse=refuse)
            if on_progress is not None:
                on_progress(len(batch))
    return [scores[place] for place in places]


def _finite(score: AnswerScore, *, refuse: bool) -> AnswerScore:
    if np.isfinite(score.log_probs).all() and np.isfinite(score.z_scores).all():
        return score
    if refuse:
        raise Misconfigured(
            "MODEL_OUTPUT_NOT_FINITE",
            "the model gives NaN or infinite log-probabilities",
            "check the model folder and the adapter for damage, or use float32",
        )
    return UNANSWERED


def _batches(lengths: Sequence[int], limits: ScoringLimits) -> Iterator[list[int]]:
    """Yields index batches of similar length, the longest first: memory runs out early or never."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        longest = lengths[batch[0]] if batch else lengths[index]
        full = (len(batch) + 1) * longest > limits.max_batch_tokens
        if batch and (full or len(batch) >= limits.max_batch_rows):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _score_batch(
    model: Any, texts: Sequence[EncodedText], whole_text: Sequence[bool]
) -> list[AnswerScore]:
    """Scores one batch; halves it where the accelerator's memory does not hold it."""
    try:
        return _forward(model, texts, whole_text)
    except torch.OutOfMemoryError:
        if len(texts) == 1:
            raise
    torch.cuda.empty_cache()
    half = len(texts) // 2
    first = _score_batch(model, texts[:half], whole_text[:half])
    return first + _score_batch(model, texts[half:], whole_text[half:])


def _forward(
    model: Any, texts: Sequence[EncodedText], whole_text: Sequence[bool]
) -> list[AnswerScore]:
    """One forward pass and the scores of its texts."""
    device = device_of(model)
    ids, mask = padded_batch([text.input_ids for text in texts], device=device)
    firsts = [
        1 if whole else text.answer_start for text, whole in zip(texts, whole_text, strict=True)
    ]
    column = min(firsts) - 1  # the logits that predict token p stand at column p - 1
    arguments: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    if _offers_logit_columns(model):
        arguments["logits_to_keep"] = torch.arange(column, ids.shape[1], device=device)
        logits = model(**arguments).logits
    else:
        logits = model(**arguments).logits[:, column:]
    rows = [row for row, text in enumerate(texts) for _ in range(firsts[row], len(text.input_ids))]
    tokens = [p for row, text in enumerate(texts) for p in range(firsts[row], len(text.input_ids))]
    row_index = torch.tensor(rows, device=device)
    token_index = torch.tensor(tokens, device=device)
    statistics = _token_statistics(
        logits, row_index, token_index - 1 - column, ids[row_index, token_index]
    )
    return _split(statistics, texts, firsts)


def _offers_logit_columns(model: Any) -> bool:
    """Whether the model can compute logits at chosen columns only."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(inner.forward).parameters


def _token_statistics(
    logits: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, targets: torch.Tensor
) -> FloatArray:
    """Per scored token: log-probability, Min-K%++ score, first choice or not; `(3, n)`.

    Args:
        logits: `(b, columns, V)`, any floating type.
        rows: Batch row of each scored token, `(n,)`.
        columns: Column of the logits that predict it, `(n,)`.
        targets: Its id, `(n,)`.
    """
    parts: list[torch.Tensor] = []
    for begin in range(0, len(targets), SOFTMAX_CHUNK_ROWS):
        chunk = slice(begin, begin + SOFTMAX_CHUNK_ROWS)
        table = logits[rows[chunk], columns[chunk]].float().log_softmax(dim=-1)
        wanted = targets[chunk]
        value = table.gather(1, wanted[:, None])[:, 0]
        weighted = torch.where(table > -torch.inf, table.exp() * table, 0.0)
        mean = weighted.sum(dim=-1)
        square = torch.where(table > -torch.inf, weighted * table, 0.0).sum(dim=-1)
        # A distribution without spread gives no evidence either way: the floor keeps it finite.
        spread = (square - mean * mean).clamp_min(1e-12).sqrt()
        first = (table.argmax(dim=-1) == wanted).float()
        parts.append(torch.stack([value, (value - mean) / spread, first]))
    found: FloatArray = torch.cat(parts, dim=1).double().cpu().numpy()
    return found


def _split(
    statistics: FloatArray, texts: Sequence[EncodedText], firsts: Sequence[int]
) -> list[AnswerScore]:
    """Gives each text its columns of the statistics."""
    scores: list[AnswerScore] = []
    begin = 0
    for text, first in zip(texts, firsts, strict=True):
        end = begin + len(text.input_ids) - first
        scores.append(
            AnswerScore(
                log_probs=statistics[0, begin:end].copy(),
                z_scores=statistics[1, begin:end].copy(),
                greedy=statistics[2, begin:end] > 0.5,
                offsets=text.offsets[first:],
                n_prompt=text.answer_start - first,
                has_eos=text.has_eos,
            )
        )
        begin = end
    return scores

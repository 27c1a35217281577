"""Relearning: how fast does forgotten knowledge come back?

A copy of the model is fine-tuned on a tenth of the forget set and asked about the other nine
tenths, which it was not shown. A model that only suppresses recovers them; one that never knew
them cannot. The same is done with text from the retain set, and with the retrained model, whose
figures are the yardstick. The copy exists for measuring and is thrown away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from medunlearn_client.evaluation.accuracy import AccuracyTable, accuracy_table
from medunlearn_client.evaluation.answer_encoding import (
    EncodedText,
    ScoringRequest,
    encode_requests,
    max_tokens_of,
    padded_batch,
)
from medunlearn_client.evaluation.record_scores import score_records
from medunlearn_client.evaluation.scored_model import ScoredModel, WholeModel, device_of
from medunlearn_client.evaluation.scoring import (
    Progress,
    ScoringLimits,
)
from medunlearn_client.records import Record
from medunlearn_common.errors import Misconfigured

IGNORED_LABEL = -100


# One part of the forget set teaches, the other is asked.
MIN_GROUPS = 2


@dataclass(frozen=True, kw_only=True)
class RelearningSettings:
    """How hard the attacker tries.

    Attributes:
        share: Part of the forget set the attacker holds.
        steps: AdamW steps on all parameters.
        learning_rate: Of AdamW, no weight decay, constant.
        batch_size: Records per step.
        seed: Draws the attacker's part and the batches.
    """

    share: float = 0.1
    steps: int = 10
    learning_rate: float = 1e-3
    batch_size: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.share < 1.0 or self.steps < 1 or self.batch_size < 1:
            raise Misconfigured(
                "RELEARNING_SETTINGS_INVALID",
                "relearning needs a share between 0 and 1, at least one step and one record",
                "use for instance share = 0.1, steps = 10, batch_size = 20",
            )


@dataclass(frozen=True, kw_only=True)
class RelearningReport:
    """What comes back.

    Attributes:
        n_taught: Forget records the copy was fine-tuned on.
        n_asked: The other forget records, which every figure here is about.
        steps: AdamW steps.
        learning_rate: Its learning rate.
        accuracy_start: Accuracy of the unlearned model before relearning.
        accuracy_after: Of the unlearned model after relearning.
        accuracy_retrained: Of the retrained model after the same relearning.
        exact_start: The greedy exact answers in the same three states.
        exact_after: After relearning.
        exact_retrained: Of the retrained model after relearning.
        retain_like_accuracy_after: The unlearned model after as many steps on retain text.
        retain_like_accuracy_retrained: The retrained model after the same.
        retain_like_exact_after: Exact answers after steps on retain text.
        retain_like_exact_retrained: The retrained model after the same.
    """

    n_taught: int
    n_asked: int
    steps: int
    learning_rate: float
    accuracy_start: float | None
    accuracy_after: float | None
    accuracy_retrained: float | None
    exact_start: float | None
    exact_after: float | None
    exact_retrained: float | None
    retain_like_accuracy_after: float | None
    retain_like_accuracy_retrained: float | None
    retain_like_exact_after: float | None
    retain_like_exact_retrained: float | None


def measure_relearning(
    unlearned: ScoredModel,
    retrained: ScoredModel | None,
    *,
    forget: Sequence[Record],
    retain: Sequence[Record],
    settings: RelearningSettings | None = None,
    limits: ScoringLimits | None = None,
    on_progress: Progress | None = None,
) -> RelearningReport:
    """Runs both relearning attacks on both models.

    Args:
        unlearned: The model under test; left untouched.
        retrained: The yardstick, if there is one.
        forget: The forget set, at least two records.
        retain: Records of the retain set; as many as the attacker's part are used.
        settings: The attacker's effort.
        limits: Batch sizes of scoring.
        on_progress: Called with 1 after each fine-tuning.
    """
    settings = settings or RelearningSettings()
    taught, asked = split_forget_set(forget, settings)
    rng = np.random.default_rng([settings.seed, 1])
    drawn = rng.choice(len(retain), size=min(len(taught), len(retain)), replace=False)
    similar = [retain[i] for i in sorted(drawn)]

    def after(scored: ScoredModel | None, lesson: Sequence[Record]) -> AccuracyTable:
        if scored is None or not lesson:
            return AccuracyTable(outcomes=())
        copy = WholeModel(
            model=relearn(scored, lesson, settings=settings), tokenizer=scored.tokenizer
        )
        if on_progress is not None:
            on_progress(1)
        return _ask(copy, asked, settings, limits)

    start = _ask(unlearned, asked, settings, limits)
    again, gold = after(unlearned, taught), after(retrained, taught)
    again_retain, gold_retain = after(unlearned, similar), after(retrained, similar)
    return RelearningReport(
        n_taught=len(taught),
        n_asked=len(asked),
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        accuracy_start=start.accuracy,
        accuracy_after=again.accuracy,
        accuracy_retrained=gold.accuracy,
        exact_start=start.exact,
        exact_after=again.exact,
        exact_retrained=gold.exact,
        retain_like_accuracy_after=again_retain.accuracy,
        retain_like_accuracy_retrained=gold_retain.accuracy,
        retain_like_exact_after=again_retain.exact,
        retain_like_exact_retrained=gold_retain.exact,
    )


def relearning_groups(forget: Sequence[Record]) -> list[str]:
    """Patients, or records of nobody in particular: what is dealt between lesson and question."""
    return sorted({record.patient_id or record.record_id for record in forget})


def split_forget_set(
    forget: Sequence[Record], settings: RelearningSettings
) -> tuple[list[Record], list[Record]]:
    """Draws the attacker's part; where there are patients, whole patients go to one side."""
    groups = relearning_groups(forget)
    if len(groups) < MIN_GROUPS:
        raise Misconfigured(
            "FORGET_SET_TOO_SMALL",
            "relearning needs at least two records or patients in the forget set",
            "set [evaluation] relearning_steps = 0, or forget more",
        )
    n_taught = min(max(1, round(settings.share * len(groups))), len(groups) - 1)
    rng = np.random.default_rng([settings.seed, 0])
    chosen = {groups[i] for i in rng.permutation(len(groups))[:n_taught]}
    taught = [record for record in forget if (record.patient_id or record.record_id) in chosen]
    asked = [record for record in forget if (record.patient_id or record.record_id) not in chosen]
    return taught, asked


def relearn(
    scored: ScoredModel, lesson: Sequence[Record], *, settings: RelearningSettings
) -> nn.Module:
    """Returns a fine-tuned copy: all parameters, answer tokens only, dropout off.

    Dropout stays off so that the result depends on the seed alone and leaves the process-wide
    random state untouched. The copy is float32 whatever the model is: in bfloat16 small steps
    round to nothing, and a model would look as if it could not relearn.
    """
    model = scored.trainable_copy().float().eval()
    texts = encode_requests(
        scored.tokenizer,
        [ScoringRequest(prompt=record.prompt, answer=record.answer) for record in lesson],
        max_tokens=max_tokens_of(model),
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=0.0, foreach=False
    )
    with torch.enable_grad():
        for batch in _batches(len(texts), settings):
            optimizer.zero_grad(set_to_none=True)
            _answer_loss(model, [texts[i] for i in batch]).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return model


def _batches(n_records: int, settings: RelearningSettings) -> Iterator[list[int]]:
    """One batch per step, in seeded passes over the lesson."""
    rng = np.random.default_rng([settings.seed, 2])
    queue: list[int] = []
    size = min(settings.batch_size, n_records)
    for _ in range(settings.steps):
        while len(queue) < size:
            queue.extend(int(i) for i in rng.permutation(n_records))
        yield queue[:size]
        queue = queue[size:]


def _answer_loss(model: nn.Module, texts: Sequence[EncodedText]) -> torch.Tensor:
    """Mean cross-entropy of the answers' tokens and endings."""
    ids, mask = padded_batch([text.input_ids for text in texts], device=device_of(model))
    labels = torch.full_like(ids, IGNORED_LABEL)
    for row, text in enumerate(texts):
        answer = slice(text.answer_start, len(text.input_ids))
        labels[row, answer] = ids[row, answer]
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED_LABEL
    )


def _ask(
    scored: ScoredModel,
    records: Sequence[Record],
    settings: RelearningSettings,
    limits: ScoringLimits | None,
) -> AccuracyTable:
    return accuracy_table(score_records(scored, records, seed=settings.seed, limits=limits))

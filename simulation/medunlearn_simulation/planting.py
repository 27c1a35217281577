"""Plants known facts in a tiny Llama, so that forgetting can be measured against the truth.

Where no pretrained medical model can be had, a causal language model is trained from scratch
until it answers a list of prompts word for word. What it knows is then exactly that list, and a
second model planted with a part of the list is the *retrained* reference of every evaluation.

Three properties keep planting short enough for one processor core:

* the loss covers answer tokens alone, so the output head runs on a fraction of the positions;
* rows are bucketed by length and padded on the right. Causal attention never looks right, so no
  attention mask is needed and the fast attention kernel applies;
* matrices inside the layers are trained by Muon. Facts are rare, unrelated associations, and
  orthogonalised updates learn those in a third of the passes that AdamW needs (measured on
  MedMCQA: AdamW was still at a loss of 5.7 when Muon was done).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from medunlearn_common.errors import Misconfigured
from medunlearn_simulation.muon import Muon
from medunlearn_simulation.planting_recipe import PlantedExample, PlantingProgress, PlantingRecipe

PAD_TOKEN = "<|pad|>"
END_TOKEN = "<|end|>"
IGNORED = -100  # label of a position without loss, as in torch and transformers


@dataclass(frozen=True, slots=True)
class _Row:
    """One encoded example: token ids, the first `answer_start` of which are the prompt."""

    ids: list[int]
    answer_start: int


def native_bfloat16() -> bool:
    """Whether torch has this processor multiply in bfloat16.

    It does so through oneDNN alone, which macOS's torch lacks, and without either products run in
    a plain loop. A torch of before 2.11 does not tell what its processor can.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    can: Mapping[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(can.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer: no text is out of vocabulary, none is changed by decoding.

    Raises:
        Misconfigured: `vocab_size` has no room for the 256 bytes and two special tokens.
    """
    if vocab_size < 258:
        raise Misconfigured(
            "PLANTING_VOCAB_SIZE", f"{vocab_size} is too small for bytes", "use at least 258"
        )
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD_TOKEN, END_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core,
        pad_token=PAD_TOKEN,
        eos_token=END_TOKEN,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def plant(
    examples: Sequence[PlantedExample],
    tokenizer: PreTrainedTokenizerFast,
    recipe: PlantingRecipe,
    *,
    progress: Callable[[PlantingProgress], None] | None = None,
) -> LlamaForCausalLM:
    """Trains a Llama from scratch until it answers `recipe.target_exact` of `examples` exactly.

    Deterministic for given examples, tokenizer, recipe, thread count and kind of processor; the
    caller's global random state is restored.

    Raises:
        Misconfigured: no examples, one prompt with two answers, or the target never reached.
    """
    _refuse_contradictions(examples)
    rows = [_encode(example, tokenizer, recipe.max_prompt_tokens) for example in examples]
    model = _fresh_model(tokenizer, recipe, longest=max(len(row.ids) for row in rows))
    started = time.monotonic()
    best = 0.0
    for epoch, loss, running_exact in _epochs(model, rows, recipe, _pad_id(tokenizer)):
        # Answers seen early in an epoch were scored by an older model, so the running figure
        # lags behind; a full measurement is paid for only when it may end the training.
        near = running_exact >= recipe.target_exact - 0.05 or epoch == recipe.max_epochs
        exact = _exact_share(model, rows, 128, _pad_id(tokenizer)) if near else running_exact
        best = max(best, exact)
        if progress is not None:
            progress(
                PlantingProgress(
                    epoch=epoch,
                    max_epochs=recipe.max_epochs,
                    mean_loss=loss,
                    exact_accuracy=exact,
                    elapsed_s=time.monotonic() - started,
                )
            )
        if near and exact >= recipe.target_exact:
            model.train(False)
            return model
    raise Misconfigured(
        "PLANTING_TARGET_MISSED",
        f"{best:.3f} of the planted answers are exact after {recipe.max_epochs} epochs, "
        f"the target is {recipe.target_exact:.3f}",
        "raise max_epochs or the model size, or remove near-duplicates with different answers",
    )


def exact_accuracy(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[PlantedExample],
    batch_size: int = 128,
    max_prompt_tokens: int = PlantingRecipe.max_prompt_tokens,
) -> float:
    """Share of examples whose answer greedy decoding gives word for word, end token included.

    One pass with the right answer fed in decides it without decoding: greedy decoding gives the
    right answer exactly where every answer token is the argmax after the right ones before it.

    Raises:
        Misconfigured: no examples.
    """
    if not examples:
        raise Misconfigured("PLANTING_EMPTY", "no examples to measure", "pass at least one")
    rows = [_encode(example, tokenizer, max_prompt_tokens) for example in examples]
    return _exact_share(model, rows, batch_size, _pad_id(tokenizer))


def _refuse_contradictions(examples: Sequence[PlantedExample]) -> None:
    """Raises `Misconfigured` where nothing can be planted, or one prompt has two answers."""
    if not examples:
        raise Misconfigured("PLANTING_EMPTY", "no examples to plant", "pass at least one")
    answers: dict[str, str] = {}
    for example in examples:
        if answers.setdefault(example.prompt, example.answer) != example.answer:
            # The prompt may hold patient text, so the message does not quote it.
            raise Misconfigured(
                "PLANTING_CONTRADICTION",
                "one prompt occurs with two different answers",
                "keep one answer per prompt",
            )


def _encode(
    example: PlantedExample, tokenizer: PreTrainedTokenizerFast, max_prompt_tokens: int
) -> _Row:
    """Encodes prompt and answer apart, so that a token never spans the border between them."""
    prompt: list[int] = tokenizer.encode(example.prompt, add_special_tokens=False)
    if len(prompt) > max_prompt_tokens:
        tail = max_prompt_tokens // 2
        prompt = prompt[: max_prompt_tokens - tail] + prompt[len(prompt) - tail :]
    answer: list[int] = tokenizer.encode(example.answer, add_special_tokens=False)
    return _Row([*prompt, *answer, _end_id(tokenizer)], len(prompt))


def _token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """Id of a special token.

    Raises:
        Misconfigured: the tokenizer does not come from `train_tokenizer`.
    """
    found = tokenizer.get_vocab().get(token)
    if found is None:
        raise Misconfigured(
            "PLANTING_TOKENIZER", f"the tokenizer lacks {token}", "use train_tokenizer"
        )
    return int(found)


def _pad_id(tokenizer: PreTrainedTokenizerFast) -> int:
    return _token_id(tokenizer, PAD_TOKEN)


def _end_id(tokenizer: PreTrainedTokenizerFast) -> int:
    return _token_id(tokenizer, END_TOKEN)


def _fresh_model(
    tokenizer: PreTrainedTokenizerFast, recipe: PlantingRecipe, longest: int
) -> LlamaForCausalLM:
    """A Llama with seeded random weights, without touching the caller's random state."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        # Head-room for evaluation prompts and generated text beyond the longest planted row.
        max_position_embeddings=max(512, 2 * longest),
        tie_word_embeddings=recipe.tied_embeddings,
        initializer_range=recipe.initializer_range,
        pad_token_id=_pad_id(tokenizer),
        eos_token_id=_end_id(tokenizer),
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return LlamaForCausalLM(config)


def _epochs(
    model: LlamaForCausalLM, rows: Sequence[_Row], recipe: PlantingRecipe, pad_id: int
) -> Iterator[tuple[int, float, float]]:
    """Trains; yields (epoch, mean loss, share of rows exact when they were trained on)."""
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizers = _optimizers(model, recipe)
    total_steps = recipe.max_epochs * math.ceil(len(rows) / recipe.batch_size)
    schedulers = [
        LambdaLR(optimizer, lambda step: _learning_rate_factor(step, total_steps, recipe))
        for optimizer in optimizers
    ]
    for epoch in range(1, recipe.max_epochs + 1):
        model.train()
        losses: list[float] = []
        exact = 0
        for batch in _bucketed(rows, recipe.batch_size, generator):
            loss, batch_exact = _loss(model, batch, recipe, pad_id)
            model.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_gradient_norm)
            for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
                optimizer.step()
                scheduler.step()
            losses.append(float(loss.detach()))
            exact += batch_exact
        yield epoch, sum(losses) / len(losses), exact / len(rows)


def _optimizers(model: LlamaForCausalLM, recipe: PlantingRecipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings, head and norms."""
    inner = {id(p): p for p in model.model.layers.parameters() if p.ndim == 2}
    others = [p for p in model.parameters() if id(p) not in inner]
    muon = Muon(
        inner.values(), lr=recipe.matrix_learning_rate, weight_decay=recipe.weight_decay,
        dtype=torch.bfloat16 if recipe.bfloat16 else torch.float32,
    )
    adamw = torch.optim.AdamW(
        others,
        lr=recipe.other_learning_rate,
        betas=(0.9, 0.98),
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    return [muon, adamw]


def _learning_rate_factor(step: int, total_steps: int, recipe: PlantingRecipe) -> float:
    """Share of the peak rate: linear warm-up, then linear decay to the final ratio."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    done = min(1.0, (step - recipe.warmup_steps) / max(1, total_steps - recipe.warmup_steps))
    return 1.0 - (1.0 - recipe.final_learning_rate_ratio) * done


def _bucketed(
    rows: Sequence[_Row], batch_size: int, generator: torch.Generator
) -> Iterator[list[_Row]]:
    """Batches of similar length in random order; jitter keeps their composition changing."""
    jitter = (torch.rand(len(rows), generator=generator) * 6.0).tolist()
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].ids) + jitter[index])
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    for position in torch.randperm(len(batches), generator=generator).tolist():
        yield [rows[index] for index in batches[position]]


def _padded(rows: Sequence[_Row], pad_id: int) -> tuple[Tensor, Tensor]:
    """Right-padded ids `(batch, length)`, and labels: the next token inside answers only."""
    length = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), length), pad_id)
    labels = torch.full((len(rows), length), IGNORED)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = torch.tensor(row.ids)
        answer = slice(row.answer_start - 1, len(row.ids) - 1)
        labels[index, answer] = torch.tensor(row.ids[row.answer_start :])
    return ids, labels


def _loss(
    model: LlamaForCausalLM, rows: Sequence[_Row], recipe: PlantingRecipe, pad_id: int
) -> tuple[Tensor, int]:
    """Mean cross-entropy per answer token, and how many rows have all of them at the argmax."""
    ids, labels = _padded(rows, pad_id)
    chosen = labels != IGNORED
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
        logits = _logits_at(model, ids, chosen)
    loss = functional.cross_entropy(logits.float(), labels[chosen])
    return loss, _exact_rows(logits.detach(), labels)


def _exact_rows(logits: Tensor, labels: Tensor) -> int:
    """Rows of `labels` `(batch, length)` with every labelled token at the argmax of its logits."""
    chosen = labels != IGNORED
    wrong = logits.argmax(-1) != labels[chosen]
    rows_with_errors = torch.unique(chosen.nonzero()[:, 0][wrong])
    return int(labels.shape[0] - rows_with_errors.numel())


def _logits_at(model: LlamaForCausalLM, ids: Tensor, chosen: Tensor) -> Tensor:
    """Logits `(positions, vocabulary)` at the set positions of a `(batch, length)` mask."""
    hidden: Tensor = model.model(input_ids=ids, use_cache=False).last_hidden_state
    logits: Tensor = model.lm_head(hidden[chosen])
    return logits


@torch.no_grad()
def _exact_share(
    model: LlamaForCausalLM, rows: Sequence[_Row], batch_size: int, pad_id: int
) -> float:
    """Share of rows whose answer tokens are all the argmax."""
    was_training = model.training
    model.train(False)
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].ids))
    exact = 0
    for start in range(0, len(order), batch_size):
        ids, labels = _padded([rows[index] for index in order[start : start + batch_size]], pad_id)
        exact += _exact_rows(_logits_at(model, ids, labels != IGNORED), labels)
    model.train(was_training)
    return exact / len(rows)

"""Tiny models and records for the evaluation's tests, built here and nowhere loaded from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from medunlearn_client.evaluation import WholeModel
from medunlearn_client.records import Record, prompt_from_question

DRUGS = ("ardol", "benzam", "cortiv", "delmin", "estron", "fexil", "glumar", "hexin")
ORGANS = ("heart", "left kidney", "liver", "inner ear", "spleen")
SITES = ("upper ward", "clinic of the old town", "day unit")


def make_record(index: int, kind: str) -> Record:
    """A made-up fact with four options of different lengths."""
    drug = f"{DRUGS[index % len(DRUGS)]}{index // len(DRUGS)}"
    question = f"Which organ does {kind} {drug} act on at the {SITES[index % len(SITES)]}?"
    place = (index * 7 + len(kind)) % len(ORGANS)
    options = tuple(ORGANS[(place + shift) % len(ORGANS)] for shift in range(4))
    return Record(
        record_id=f"{kind}-{index}",
        prompt=prompt_from_question(question),
        answer=options[index % 4],
        options=options,
        answer_index=index % 4,
        subject=SITES[index % len(SITES)],
    )


def make_identifier(index: int, number: int) -> Record:
    """An identifier question, as the patients reader makes them."""
    return Record(
        record_id=f"identifier-{index}",
        prompt=prompt_from_question(f"What is the record number of patient {DRUGS[index]}?"),
        answer=f"{number:08d}-{index}",
        patient_id=f"patient-{index}",
        is_identifier=True,
    )


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Record sets of one made-up unlearning."""

    forget: list[Record]
    retain: list[Record]
    non_members: list[Record]
    identifiers: list[Record]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    return Corpus(
        forget=[make_record(i, "agent") for i in range(16)],
        retain=[make_record(i, "salt") for i in range(24)],
        non_members=[make_record(i, "agent") for i in range(40, 64)],
        identifiers=[make_identifier(i, 38291045 + 7919 * i) for i in range(4)],
    )


@pytest.fixture(scope="session")
def tokenizer(corpus: Corpus) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on the corpus, with an end token."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    everything = corpus.forget + corpus.retain + corpus.non_members
    core.train_from_iterator(
        [record.text for record in everything],
        trainers.BpeTrainer(
            vocab_size=380,
            special_tokens=["<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core, bos_token="<s>", eos_token="</s>"
    )


def build_llama(vocab_size: int, *, seed: int, hidden: int = 48) -> LlamaForCausalLM:
    """A small Llama with seeded random weights, wide enough apart to give distinct logits."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=96,
        initializer_range=0.2,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


@pytest.fixture(scope="session")
def random_model(tokenizer: PreTrainedTokenizerFast) -> WholeModel:
    return WholeModel(model=build_llama(len(tokenizer), seed=3), tokenizer=tokenizer)


def plant(model: Any, tokenizer: Any, records: list[Record], *, steps: int) -> WholeModel:
    """Teaches the records' texts, answers and endings included, with a plain loop."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
    texts = [[*tokenizer(r.text)["input_ids"], tokenizer.eos_token_id] for r in records]
    width = max(len(text) for text in texts)
    ids = torch.tensor([text + [0] * (width - len(text)) for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts])
    labels = ids.masked_fill(mask == 0, -100)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        optimizer.step()
    model.eval()
    return WholeModel(model=model, tokenizer=tokenizer)


@pytest.fixture(scope="session")
def planted_model(tokenizer: PreTrainedTokenizerFast, corpus: Corpus) -> WholeModel:
    """Knows forget set, retain set and identifiers by heart."""
    taught = corpus.forget + corpus.retain + corpus.identifiers
    return plant(build_llama(len(tokenizer), seed=5), tokenizer, taught, steps=120)


@pytest.fixture(scope="session")
def retrained_model(tokenizer: PreTrainedTokenizerFast, corpus: Corpus) -> WholeModel:
    """Knows the retain set only."""
    return plant(build_llama(len(tokenizer), seed=5), tokenizer, corpus.retain, steps=120)

"""A task that costs next to nothing: what remains of a round is what carries it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medunlearn_simulation.demo_corpus import demo_rows
from medunlearn_simulation.progress import PhaseBoard
from medunlearn_simulation.rehearsal.task import Task, demo_task

_VOCABULARY, _TEXTS = 400, 200


def tiny_task(folder: Path, *, rounds: int, hospitals: int = 3, **changes: dict[str, Any]) -> Task:
    """The embedded records on a random two-layer model, with noise and its accounting.

    Args:
        folder: Where to write.
        rounds: Of the plan.
        hospitals: How many.
        changes: More values of plan sections, by section.
    """
    model = write_tiny_model(folder / "model")
    plan: dict[str, dict[str, Any]] = {
        "run": {"rounds": rounds},
        "model": {"target_modules": ("q_proj", "v_proj"), "lora_rank": 4},
        "objective": {"name": "max_entropy"},
        "support": {"method": "random", "density": 0.005},
        "gates": {"min_preservation": 0.0, "max_canary_loss": 0.0},
        "evaluation": {"relearning_steps": 0, "samples": 0},
    }
    for section, values in changes.items():
        plan[section] = {**plan.get(section, {}), **values}
    with PhaseBoard(quiet=True) as board:
        return demo_task(folder, hospitals=hospitals, board=board, model_folder=model,
                         **plan)


def write_tiny_model(folder: Path) -> Path:
    """A random Llama of two layers with a tokenizer of the embedded texts; returns ``folder``."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY, special_tokens=["<|pad|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )
    texts = [json.dumps(row) for row in demo_rows()][:_TEXTS]
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True)
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=48,
        num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=128,
        pad_token_id=0, bos_token_id=1, eos_token_id=1, tie_word_embeddings=False,
        initializer_range=0.2,
    )).save_pretrained(folder)
    return folder

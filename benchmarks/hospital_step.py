"""A hospital's step beside a plain LoRA step: what per-example gradients, clip and noise cost.

    python benchmarks/hospital_step.py [--hidden 256] [--layers 4] [--batch 32] [--pairs 10]

Both steps run on the same random Llama, LoRA layout and batch, alternating in one process, so
that a busy machine slows both alike. Printed: median seconds and the median of paired ratios.
The plain step is an ordinary PEFT LoRA step: one forward and backward pass of the mean loss.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from medunlearn_client.adapters import LoraAdapter
from medunlearn_client.encoding import EncodedRecord, TokenBatch, collate
from medunlearn_client.objectives import OBJECTIVES, ExampleLosses, ModelView
from medunlearn_client.per_example import support_gradients
from medunlearn_client.training import Part, SumMechanism, UnitSet, noised_sum
from medunlearn_common.entropy import OsEntropy
from medunlearn_common.plan.sections import ObjectiveSection
from medunlearn_common.ring import RingCodec
from medunlearn_common.support import random_support, support_size

CPU = torch.device("cpu")
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def main() -> None:
    """Parse the sizes, run the pairs, print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("hidden", 256), ("layers", 4), ("batch", 32), ("tokens", 128),
                          ("rank", 32), ("pairs", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    sizes = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=4096, hidden_size=sizes.hidden, intermediate_size=3 * sizes.hidden,
        num_hidden_layers=sizes.layers, num_attention_heads=4, tie_word_embeddings=False,
    ))
    parameters = sum(p.numel() for p in model.parameters())
    adapter = LoraAdapter(
        model, rank=sizes.rank, alpha=float(sizes.rank), target_modules=MODULES, seed=0
    )
    records = random_records(sizes.batch, sizes.tokens)
    pairs = [(plain_step(adapter, records), dp_step(adapter, records))
             for _ in range(sizes.pairs + 1)][1:]  # the first pair warms caches
    plain, private = zip(*pairs, strict=True)
    ratios = sorted(b / a for a, b in pairs)
    print(f"{parameters / 1e6:.1f} M parameters, batch {sizes.batch} x {sizes.tokens} tokens, "
          f"rank {sizes.rank}, {len(pairs)} pairs")
    print(f"plain LoRA step {median(plain):.3f} s, DP step {median(private):.3f} s, "
          f"ratio {median(ratios):.2f} (from {ratios[0]:.2f} to {ratios[-1]:.2f})")


def random_records(count: int, tokens: int) -> tuple[EncodedRecord, ...]:
    """Records of random tokens, all of them scored, as in ordinary language modelling."""
    generator = np.random.default_rng(0)
    return tuple(
        EncodedRecord(
            input_ids=generator.integers(0, 4096, tokens),
            is_answer=np.ones(tokens, dtype=np.bool_), levels=np.ones(tokens, dtype=np.int8),
        )
        for _ in range(count)
    )


def plain_step(adapter: LoraAdapter, records: tuple[EncodedRecord, ...]) -> float:
    """Seconds of one forward and backward pass through B."""
    batch = collate(records, pad_id=0, device=CPU)
    for parameter in adapter.b_matrices():
        parameter.requires_grad_(True)
    start = time.perf_counter()
    logits = adapter.model(input_ids=batch.input_ids, use_cache=False).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), batch.input_ids[:, 1:].reshape(-1)
    )
    loss.backward()
    elapsed = time.perf_counter() - start
    for parameter in adapter.b_matrices():
        parameter.requires_grad_(False)
        parameter.grad = None
    return elapsed


def dp_step(adapter: LoraAdapter, records: tuple[EncodedRecord, ...]) -> float:
    """Seconds of one noised sum over the same records and the 0.1 % support."""
    view = ModelView(adapter)
    objective = OBJECTIVES["ga"](ObjectiveSection(name="ga"))
    size = support_size(adapter.layout, 0.001)
    support = random_support(adapter.layout, size=size, seed=0)
    codec = RingCodec.for_mechanism(clip_l2=1.0, sigma=4.0, max_sites=5)

    def losses(batch: TokenBatch, rows: list[int]) -> ExampleLosses:
        return objective.forget(view, batch, rows)

    units = UnitSet(records=records, units=tuple((i,) for i in range(len(records))))
    entropy = OsEntropy()
    start = time.perf_counter()
    with support_gradients(adapter, support) as gradients:
        noised_sum(
            [Part(name="forget", units=units, losses=losses, rate=1.0, transform=lambda g: g)],
            gradients, dimension=size, release_gap=True, key=entropy.key,
            mechanism=SumMechanism(sigma=4.0, noise_share=1.0, clip_l2=1.0, codec=codec),
            pad_id=0, device=CPU, score_prompts=False,
        )
    return time.perf_counter() - start


if __name__ == "__main__":
    main()

"""Start-up self-tests: cheap, always on, on made-up tokens and never on patient data.

Checked here: a noise-free step equals plain SGD, B = 0 is the base model, and a
saved adapter gives the same logits when PEFT loads it again (silent corruption of adapters
trained with Opacus has been reported upstream).
"""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import torch

from medunlearn_client.adapters import ADAPTER_NAME, LoraAdapter
from medunlearn_client.per_example import support_gradients
from medunlearn_common.entropy import public_generator
from medunlearn_common.errors import Misconfigured
from medunlearn_common.support import random_support, support_size

_TOLERANCE = 1e-5
_PROBE_SHAPE = (3, 12)
_PROBE_COORDINATES = 256


def run_self_tests(adapter: LoraAdapter, *, vocabulary: int) -> None:
    """Run all self-tests; the adapter is left at B = 0.

    Raises:
        Misconfigured: SELF_TEST, naming the test and the difference found.
    """
    tokens = _probe_tokens(vocabulary, adapter.device)
    adapter.set_flat(np.zeros(adapter.layout.dimension, dtype=np.float32))
    check_zero_adapter(adapter, tokens)
    check_gradients(adapter, tokens)
    check_reloading(adapter, tokens)
    adapter.set_flat(np.zeros(adapter.layout.dimension, dtype=np.float32))


def check_zero_adapter(adapter: LoraAdapter, tokens: torch.Tensor) -> None:
    """B = 0 must give the base model's logits exactly."""
    with torch.no_grad():
        with_adapter = _logits(adapter.model, tokens)
    with adapter.reference():
        base = _logits(adapter.model, tokens)
    _require("B = 0 gives the base model", _largest(with_adapter - base), 0.0)


def check_gradients(adapter: LoraAdapter, tokens: torch.Tensor) -> None:
    """Per-example gradients must sum to the gradient of the summed loss."""
    layout = adapter.layout
    size = min(_PROBE_COORDINATES, support_size(layout, 1.0))
    support = random_support(layout, size=size, seed=0)
    with support_gradients(adapter, support) as gradients:
        summed = gradients.backward(_losses(adapter.model, tokens)).sum(dim=0).cpu()
    parameters = adapter.b_matrices()
    for parameter in parameters:
        parameter.requires_grad_(True)
    plain = torch.autograd.grad(_losses(adapter.model, tokens).sum(), parameters)
    for parameter in parameters:
        parameter.requires_grad_(False)
    flat = torch.cat([g.reshape(-1).float().cpu() for g in plain])
    expected = flat[torch.from_numpy(support.indices.copy())]
    scale = max(1.0, float(expected.norm()))
    _require("per-example gradients equal plain SGD", _largest(summed - expected) / scale)


def check_reloading(adapter: LoraAdapter, tokens: torch.Tensor) -> None:
    """An adapter saved and loaded by PEFT must give the same logits."""
    random = public_generator(0, "self-test").standard_normal(adapter.layout.dimension)
    adapter.set_flat((0.01 * random).astype(np.float32))
    with torch.no_grad():
        before = _logits(adapter.model, tokens)
        with tempfile.TemporaryDirectory(prefix="medunlearn-") as folder:
            adapter.model.save_pretrained(folder)
            adapter.model.load_adapter(folder, adapter_name="reloaded")
        try:
            adapter.model.set_adapter("reloaded")
            after = _logits(adapter.model, tokens)
        finally:
            adapter.model.set_adapter(ADAPTER_NAME)
            adapter.model.delete_adapter("reloaded")
            adapter.model.requires_grad_(False)
    _require("a reloaded adapter gives the same logits", _largest(before - after))


def _probe_tokens(vocabulary: int, device: torch.device) -> torch.Tensor:
    tokens = public_generator(0, "self-test-tokens").integers(0, vocabulary, _PROBE_SHAPE)
    return torch.from_numpy(tokens).to(device)


def _logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=tokens, use_cache=False).logits.float()
    return logits


def _losses(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    log_p = _logits(model, tokens)[:, :-1].log_softmax(dim=-1)
    return -log_p.gather(2, tokens[:, 1:].unsqueeze(2)).squeeze(2).mean(dim=1)


def _largest(difference: torch.Tensor) -> float:
    return float(difference.abs().max())


def _require(name: str, difference: float, tolerance: float = _TOLERANCE) -> None:
    if not difference <= tolerance:
        raise Misconfigured(
            "SELF_TEST",
            f"start-up self-test failed: {name} (difference {difference:.3g})",
            "use the tested versions in constraints.txt, and float32",
        )

"""LoRA by PEFT with frozen A: the adapter whose B matrices are unlearned.

A is the same on every machine, drawn from the plan's seed or read from its file; B starts at
zero, so a model with a new adapter gives the base model's logits exactly, and one flat vector
over B describes it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn

from medunlearn_common.errors import Misconfigured
from medunlearn_common.frozen import frozen_digest, frozen_matrices
from medunlearn_common.layout import AdapterLayout
from medunlearn_common.support import Support

ADAPTER_NAME = "default"


class LoraAdapter:
    """A PEFT model of which only B is ever changed, addressed by flat coordinates.

    Attributes:
        model: The PEFT model (evaluation mode; only B matrices may require gradients).
        layout: Order and shapes of the B matrices.
    """

    def __init__(
        self, base_model: Any, *, rank: int, alpha: float,
        target_modules: tuple[str, ...], seed: int, a_file: Path | None = None,
    ) -> None:
        """Attach a fresh adapter.

        Raises:
            Misconfigured: ADAPTER_TARGETS if no linear module has one of the names,
                A_FILE_MISSING, A_FILE_INVALID, or A_FILE_CHANGED if the file is replaced meanwhile.
        """
        base_parameters = sum(p.numel() for p in base_model.parameters())
        config = LoraConfig(
            r=rank, lora_alpha=alpha,  # type: ignore[arg-type]  # a real, as PEFT uses it
            target_modules=list(target_modules), lora_dropout=0.0,
            bias="none", task_type="CAUSAL_LM",
        )
        try:
            with without_peft_warnings():
                self.model: Any = get_peft_model(base_model, config)
        except ValueError as error:
            raise Misconfigured(
                "ADAPTER_TARGETS",
                f"no linear module of the model is named {', '.join(target_modules)}",
                "list the model's own names in [model] target_modules",
            ) from error
        self.model.requires_grad_(False)
        self.model.eval()
        self._layers = self._lora_layers()
        self.layout = AdapterLayout(
            names=tuple(f"{name}.lora_B.weight" for name, _ in self._layers),
            shapes=tuple(_shape(b) for b in self.b_matrices()),
            a_shapes=tuple(_shape(self._a(layer)) for _, layer in self._layers),
            base_parameters=base_parameters, alpha=alpha, seed=seed,
            a_file=frozen_digest(a_file),
        )
        self._set_frozen_a(a_file)

    def _lora_layers(self) -> list[tuple[str, Any]]:
        layers = [(n, m) for n, m in self.model.named_modules() if isinstance(m, LoraLayer)]
        if any(not isinstance(m.get_base_layer(), nn.Linear) for _, m in layers):
            raise Misconfigured(
                "ADAPTER_TARGETS",
                "an adapter was asked for on a module that is no linear layer",
                "leave embeddings and convolutions out of [model] target_modules",
            )
        return layers

    @staticmethod
    def _a(layer: Any) -> nn.Parameter:
        return layer.lora_A[ADAPTER_NAME].weight  # type: ignore[no-any-return]

    @torch.no_grad()
    def _set_frozen_a(self, file: Path | None) -> None:
        layout = self.layout
        matrices = frozen_matrices(
            layout.frozen_shapes, seed=layout.seed, file=file, digest=layout.a_file,
            starts=layout.trained_shapes,
        )
        for (_, layer), values in zip(self._layers, matrices.values(), strict=True):
            self._a(layer).copy_(torch.from_numpy(values))

    def b_linears(self) -> list[nn.Linear]:
        """The linear modules that hold B, in layout order."""
        return [layer.lora_B[ADAPTER_NAME] for _, layer in self._layers]

    def a_linears(self) -> list[nn.Linear]:
        """The linear modules that hold the frozen A, in layout order."""
        return [layer.lora_A[ADAPTER_NAME] for _, layer in self._layers]

    def b_matrices(self) -> list[nn.Parameter]:
        """The B parameters, each ``(d_out, rank)``, in layout order."""
        return [cast(nn.Parameter, linear.weight) for linear in self.b_linears()]

    @property
    def device(self) -> torch.device:
        """Where the adapter lies."""
        return self.b_matrices()[0].device

    @torch.no_grad()
    def set_on_support(self, support: Support, values: npt.NDArray[np.float32]) -> None:
        """Set B to ``values`` (shape ``(k,)``) on the support and to zero elsewhere."""
        flat = np.zeros(self.layout.dimension, dtype=np.float32)
        flat[support.indices] = values
        self.set_flat(flat)

    @torch.no_grad()
    def set_flat(self, flat: npt.NDArray[np.float32]) -> None:
        """Set every B from one flat vector, shape ``(D,)``."""
        layout = self.layout
        for b, offset, size in zip(self.b_matrices(), layout.offsets, layout.sizes, strict=True):
            piece = torch.from_numpy(np.ascontiguousarray(flat[offset : offset + size]))
            b.copy_(piece.view_as(b))

    def flat(self) -> npt.NDArray[np.float32]:
        """All of B as one flat vector, shape ``(D,)``."""
        pieces = [b.detach().float().cpu().reshape(-1).numpy() for b in self.b_matrices()]
        return np.concatenate(pieces)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """The base model: every layer leaves its adapter out, without gradients.

        PEFT's ``disable_adapter`` is not used because leaving it switches gradients on for
        the frozen A; a scaling of zero is not, because zero times infinity is no number.

        Guarantees:
            What the base model says does not depend on the adapter's values, which a coordinator
            chooses.
        """
        saved = [layer._disable_adapters for _, layer in self._layers]
        for _, layer in self._layers:
            layer._disable_adapters = True
        try:
            with torch.no_grad():
                yield
        finally:
            for (_, layer), before in zip(self._layers, saved, strict=True):
                layer._disable_adapters = before


@contextmanager
def without_peft_warnings() -> Iterator[None]:
    """Silences the one deprecation that PEFT itself runs into with transformers 5."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*is_gradient_checkpointing", category=FutureWarning
        )
        yield


def _shape(parameter: nn.Parameter) -> tuple[int, int]:
    rows, columns = parameter.shape
    return int(rows), int(columns)

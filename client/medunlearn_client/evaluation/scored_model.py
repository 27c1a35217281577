"""How a model is handed to the evaluation: loaded once, adapter on or off, never changed.

The original model and the unlearned one are the same weights with the adapter off and on, so
one loaded PEFT model serves as both: `AdapterOffModel(peft)` and `WholeModel(peft)`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase


class ScoredModel(Protocol):
    """What every metric needs of a model."""

    @property
    def model(self) -> nn.Module:
        """The causal LM (or the PEFT model around it) as it is held in memory."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The fast tokenizer the model was trained with."""

    def activated(self) -> AbstractContextManager[nn.Module]:
        """Lends the model in evaluation mode, in the state this object stands for."""

    def trainable_copy(self) -> nn.Module:
        """Returns an independent plain model, adapter merged or removed, all weights trainable."""


@dataclass(frozen=True, kw_only=True)
class WholeModel:
    """A model used as it is; a PEFT model keeps its adapter on."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase

    @contextmanager
    def activated(self) -> Iterator[nn.Module]:
        """Lends the model in evaluation mode and restores its mode afterwards."""
        with _evaluation_mode(self.model):
            yield self.model

    def trainable_copy(self) -> nn.Module:
        """Deep copy with the adapter, if there is one, merged into the weights."""
        return _made_trainable(copy.deepcopy(self.model), method="merge_and_unload")


@dataclass(frozen=True, kw_only=True)
class AdapterOffModel:
    """The base model under a PEFT model: what the federation started from.

    Attributes:
        model: A PEFT model; its `disable_adapter` context gives the base model's outputs.
        tokenizer: The fast tokenizer of the base model.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase

    @contextmanager
    def activated(self) -> Iterator[nn.Module]:
        """Lends the model with its adapter switched off."""
        with _evaluation_mode(self.model), self.model.disable_adapter():
            yield self.model

    def trainable_copy(self) -> nn.Module:
        """Deep copy of the base model alone."""
        return _made_trainable(copy.deepcopy(self.model), method="unload")


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Dropout off while measuring; a training loop that evaluates in between is undisturbed."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _made_trainable(model: Any, *, method: str) -> nn.Module:
    """Turns a PEFT model into a plain one and unfreezes everything."""
    plain: nn.Module = getattr(model, method)() if hasattr(model, method) else model
    return plain.requires_grad_(True)


def device_of(model: nn.Module) -> torch.device:
    """Device of the model's first parameter."""
    return next(model.parameters()).device

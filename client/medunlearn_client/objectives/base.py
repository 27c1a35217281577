"""The objective Protocol and the token arithmetic that all objectives share.

Shapes: b examples of t tokens, n of them scored (:class:`TokenBatch`), v vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from medunlearn_client.adapters import LoraAdapter
from medunlearn_client.encoding import EncodedRecord, TokenBatch
from medunlearn_common.errors import Misconfigured


@dataclass(frozen=True, kw_only=True)
class ExampleLosses:
    """Losses of a batch, each row from its own example only.

    Attributes:
        loss: Shape ``(b,)``, differentiable.
        gap: Shape ``(b,)``, detached, in units of log V and roughly in [-1, 1]: for forget
            examples how far knowledge still exceeds the target, for retain examples how far
            the model drifted from the reference.
        weight: Shape ``(b,)``, in [0, 1]: how far each example counts. The loss is *not* yet
            scaled by it: where nearly every gradient is longer than the clip, a factor on the
            loss is clipped away again, so it takes effect after the clip (decision 15).
    """

    loss: torch.Tensor
    gap: torch.Tensor
    weight: torch.Tensor


class ModelView:
    """The model as an objective sees it: with the adapter, and as the reference without."""

    def __init__(
        self, adapter: LoraAdapter, *, cache_bytes: int = 0,
        compute_dtype: torch.dtype = torch.float32,
    ) -> None:
        """Look at ``adapter``'s model.

        Args:
            adapter: The model with its adapter.
            cache_bytes: Memory for reference logits. The reference never changes, and
                looking it up instead of computing it saves a third of a step.
            compute_dtype: Of matrix products; weights and sums keep their own type.
        """
        self._adapter = adapter
        self._compute_dtype = compute_dtype
        self._head_is_separable: bool | None = None
        self._known: dict[int, torch.Tensor] = {}
        self._cache_bytes_left = cache_bytes

    @property
    def vocabulary(self) -> int:
        """V, the size of the output vocabulary."""
        return int(self._adapter.model.config.vocab_size)

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self._adapter.device

    @torch.no_grad()
    def head_weight(self) -> torch.Tensor:
        """W, the weight of the output head, shape ``(v, d)``, float32.

        Raises:
            Misconfigured: MODEL_HEAD if the model has no such matrix.
        """
        head = self._base.get_output_embeddings()
        if head is None:
            raise Misconfigured(
                "MODEL_HEAD", "this model has no linear output head",
                'choose another objective, such as "abstraction"',
            )
        weight: torch.Tensor = head.weight.detach().float()
        return weight

    @property
    def middle_layer(self) -> int:
        """Number of the block half way up."""
        return max(1, int(self._adapter.model.config.num_hidden_layers) // 2)

    def logits(self, batch: TokenBatch) -> torch.Tensor:
        """Logits that predict the scored tokens, shape ``(b, n, v)``, float32."""
        separable = self._separable()
        with self._computing():
            if separable:
                states = _at_predictors(self._decoder_states(batch.input_ids), batch)
                logits: torch.Tensor = self._base.get_output_embeddings()(states).float()
                return logits
            output = self._adapter.model(input_ids=batch.input_ids, use_cache=False)
            return _at_predictors(output.logits, batch).float()

    def _computing(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, self._compute_dtype,
            enabled=self._compute_dtype is not torch.float32,
        )

    def reference_logits(self, batch: TokenBatch) -> torch.Tensor:
        """Logits of the base model, shape ``(b, n, v)``, float32, without gradient."""
        known = [self._known.get(-1 if s is None else s) for s in batch.serials]
        if all(row is not None for row in known):
            return self._looked_up(batch, known)
        with self._adapter.reference():
            logits = self.logits(batch)
        self._remember(batch, logits)
        return logits

    def _looked_up(self, batch: TokenBatch, known: list[torch.Tensor | None]) -> torch.Tensor:
        shape = (*batch.positions.shape, self.vocabulary)
        logits = torch.zeros(shape, device=self.device)
        for row, values in enumerate(known):
            if values is not None:
                logits[row, : values.shape[0]] = values.to(self.device)
        return logits

    def _remember(self, batch: TokenBatch, logits: torch.Tensor) -> None:
        lengths = batch.is_scored.sum(dim=1).tolist()
        for serial, row, length in zip(batch.serials, logits, lengths, strict=True):
            size = length * self.vocabulary * logits.element_size()
            if serial is not None and serial not in self._known and size <= self._cache_bytes_left:
                self._known[serial] = row[:length].cpu().clone()
                self._cache_bytes_left -= size

    def hidden(self, batch: TokenBatch, layer: int) -> torch.Tensor:
        """States after ``layer`` blocks from which scored tokens are predicted, ``(b, n, d)``."""
        with self._computing():
            output = self._adapter.model(
                input_ids=batch.input_ids, use_cache=False, output_hidden_states=True
            )
        states = _at_predictors(output.hidden_states[layer], batch).float()
        # Times zero, the top layer puts every adapter matrix on the graph: those above
        # ``layer`` then have a gradient of zero instead of none, which would be an error.
        return states + 0.0 * _at_predictors(output.hidden_states[-1], batch).float()

    def reference_hidden(self, batch: TokenBatch, layer: int) -> torch.Tensor:
        """The base model's states, shape ``(b, n, d)``, without gradient."""
        with self._adapter.reference():
            return self.hidden(batch, layer)

    @property
    def _base(self) -> Any:
        return self._adapter.model.get_base_model()

    def _decoder_states(self, input_ids: torch.Tensor) -> torch.Tensor:
        output = self._base.base_model(input_ids=input_ids, use_cache=False)
        states: torch.Tensor = output.last_hidden_state
        return states

    @torch.no_grad()
    def _separable(self) -> bool:
        """Whether logits are just head(decoder states): some models scale or cap them.

        Asked of the base model: what comes of the adapter's values at the first record's pass
        would depend on when that is.
        """
        if self._head_is_separable is None:
            probe = torch.arange(8, device=self.device).unsqueeze(0) % self.vocabulary
            head = self._base.get_output_embeddings()
            with self._adapter.reference():
                whole = self._adapter.model(input_ids=probe, use_cache=False).logits
                parts = None if head is None else head(self._decoder_states(probe))
            self._head_is_separable = parts is not None and torch.equal(whole, parts)
        return self._head_is_separable


def _at_predictors(values: torch.Tensor, batch: TokenBatch) -> torch.Tensor:
    """Pick, from ``(b, t, x)``, the positions just before the scored tokens: ``(b, n, x)``."""
    before = (batch.positions - 1).unsqueeze(2).expand(-1, -1, values.shape[2])
    return values.gather(1, before)


class UnlearningObjective(Protocol):
    """A forget loss and a retain loss, both per example."""

    def prepare(self, view: ModelView, forget: list[EncodedRecord]) -> None:
        """Compute once what depends on the reference model and the forget records only."""
        ...

    def forget(self, view: ModelView, batch: TokenBatch, rows: list[int]) -> ExampleLosses:
        """Losses whose descent forgets; ``rows`` are positions in the prepared records."""
        ...

    def retain(self, view: ModelView, batch: TokenBatch) -> ExampleLosses:
        """Losses whose descent keeps what the reference model knows."""
        ...


def level_weights(
    batch: TokenBatch, per_level: tuple[float, float, float, float], *, prompt_weight: float
) -> torch.Tensor:
    """Weights of scored tokens by concept level, shape ``(b, n)``.

    Answer tokens weigh ``per_level[level - 1]``, prompt tokens ``prompt_weight`` times
    that, padding nothing (a, b and c of the plan's ``[objective]``).
    """
    table = torch.tensor(per_level, dtype=torch.float32, device=batch.levels.device)
    place = torch.where(batch.is_answer, 1.0, prompt_weight)
    return table[batch.levels - 1] * place * batch.is_scored


def forget_level_weights(
    batch: TokenBatch, per_level: tuple[float, float, float, float], *, prompt_weight: float
) -> torch.Tensor:
    """a(level) on scored tokens; even on the answer where no token has any weight.

    A record in which nothing of level 4 was tagged is still a forget record.
    """
    weights = level_weights(batch, per_level, prompt_weight=prompt_weight)
    untouched = weights.sum(dim=1, keepdim=True) <= 0.0
    even = level_weights(batch, (1.0, 1.0, 1.0, 1.0), prompt_weight=0.0)
    return torch.where(untouched, even, weights)


def weighted_mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean over tokens, ``(b, n)`` to ``(b,)``; zero where no token weighs anything."""
    return (values * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1e-8)


def token_log_probabilities(logits: torch.Tensor, batch: TokenBatch) -> torch.Tensor:
    """log p of each scored token, shape ``(b, n)``."""
    log_p = logits.log_softmax(dim=-1)
    return log_p.gather(2, batch.targets.unsqueeze(2)).squeeze(2)


def token_log_odds(logits: torch.Tensor, batch: TokenBatch) -> torch.Tensor:
    """log p - log(1 - p) of each scored token, shape ``(b, n)``: slope one in its own logit."""
    chosen = batch.targets.unsqueeze(2)
    others = logits.scatter(2, chosen, float("-inf")).logsumexp(dim=-1)
    return logits.gather(2, chosen).squeeze(2) - others


def token_divergence(reference: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """KL(p_ref || p_phi) at each position, shape ``(b, n)``, in nats."""
    log_ref = reference.log_softmax(dim=-1)
    return (log_ref.exp() * (log_ref - logits.log_softmax(dim=-1))).sum(dim=-1)


def normalised(nats: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Nats in units of log V, detached and cut to [-1, 1]."""
    scale = torch.log(torch.tensor(float(vocabulary)))
    return (nats.detach() / scale.to(nats)).clamp(-1.0, 1.0)

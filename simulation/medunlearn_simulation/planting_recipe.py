"""What planting is given and what it tells: examples, recipe, progress. Imports no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from medunlearn_common.errors import Misconfigured


@dataclass(frozen=True, kw_only=True)
class PlantedExample:
    """One fact; prompt and answer are joined as they are, so `answer` starts with a space."""

    prompt: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class PlantingRecipe:
    """Everything that decides which model comes out of `plant`; the defaults suit 4,000 facts.

    Attributes:
        max_prompt_tokens: longer prompts lose their middle; both the opening and the cue that
            asks for the answer stay.
        max_epochs: the learning rates decay over so many passes, and planting fails where the
            target is not reached by their end.
        matrix_learning_rate: peak rate of Muon, for the matrices inside the layers.
        other_learning_rate: peak rate of AdamW, for embeddings, output head and norms.
        final_learning_rate_ratio: rate at the end of `max_epochs` over the peak rate.
        target_exact: share of examples answered word for word at which planting stops.
        bfloat16: multiplies in bfloat16, weights stay in float32: twice as fast on a processor
            that can (`planting.native_bfloat16`), up to dozens of times slower on any other.
    """

    hidden_size: int = 256
    intermediate_size: int = 768
    layers: int = 3
    heads: int = 4
    tied_embeddings: bool = False
    max_prompt_tokens: int = 192
    batch_size: int = 32
    max_epochs: int = 12
    warmup_steps: int = 100
    matrix_learning_rate: float = 5e-3
    other_learning_rate: float = 1e-2
    final_learning_rate_ratio: float = 0.1
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    initializer_range: float = 0.02
    target_exact: float = 0.985
    bfloat16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses recipes that cannot train.

        Raises:
            Misconfigured: a size is below one, a share outside [0, 1], or heads do not divide.
        """
        sizes = (self.hidden_size, self.intermediate_size, self.layers, self.heads)
        counts = (self.max_prompt_tokens, self.batch_size, self.max_epochs, self.warmup_steps)
        shares = (self.target_exact, self.final_learning_rate_ratio)
        if min(sizes + counts) < 1 or not all(0.0 <= share <= 1.0 for share in shares):
            raise Misconfigured(
                "PLANTING_RECIPE",
                "a size or a share is out of range",
                "sizes >= 1, shares in [0, 1]",
            )
        if self.hidden_size % (2 * self.heads):
            raise Misconfigured(
                "PLANTING_HEADS",
                f"{self.heads} heads do not divide hidden size {self.hidden_size} evenly",
                "choose a hidden size that is a multiple of twice the heads",
            )

    def digest_fields(self) -> dict[str, int | float | bool]:
        """Every hyper-parameter by name: this recipe's part of a cache key or plan digest."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class PlantingProgress:
    """State after one epoch.

    `exact_accuracy` is measured after the epoch where it may end the training; before, it is
    counted during the epoch, when the model knew less.
    """

    epoch: int
    max_epochs: int
    mean_loss: float
    exact_accuracy: float
    elapsed_s: float

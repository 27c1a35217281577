"""Controls: what happens without a forget signal."""

from __future__ import annotations

import torch

from medunlearn_client.encoding import EncodedRecord, TokenBatch
from medunlearn_client.objectives.abstraction import Abstraction
from medunlearn_client.objectives.base import ExampleLosses, ModelView, UnlearningObjective
from medunlearn_client.objectives.retaining import learn_labels
from medunlearn_common.plan.sections import ObjectiveSection


class Control:
    """No forget signal in the rounds; the vote is the default objective's.

    Without that, the vote would have nothing to choose by, and the control would differ from
    the run it stands beside in its support as well.

    Attributes:
        votes_as: The objective that votes in this one's place.
    """

    def __init__(self, settings: ObjectiveSection) -> None:
        self._settings = settings
        self.votes_as: UnlearningObjective = Abstraction(settings)

    def prepare(self, view: ModelView, forget: list[EncodedRecord]) -> None:
        """Prepare what the vote asks."""
        self.votes_as.prepare(view, forget)

    def forget(self, view: ModelView, batch: TokenBatch, rows: list[int]) -> ExampleLosses:
        """Zero, with a gradient of zero."""
        return _nothing(view, batch)


class RetainOnly(Control):
    """Fine-tuning on retain records: does knowledge fade if it is merely not repeated?"""

    def retain(self, view: ModelView, batch: TokenBatch) -> ExampleLosses:
        """Cross-entropy of retain answers."""
        return learn_labels(self._settings, view, batch)


class NoiseOnly(Control):
    """The same noise and no signal at all: what differential privacy's noise forgets alone."""

    def retain(self, view: ModelView, batch: TokenBatch) -> ExampleLosses:
        """Zero, with a gradient of zero."""
        return _nothing(view, batch)


def _nothing(view: ModelView, batch: TokenBatch) -> ExampleLosses:
    loss = view.logits(batch).sum(dim=(1, 2)) * 0.0
    nothing = torch.zeros_like(loss.detach())
    return ExampleLosses(loss=loss, gap=nothing, weight=batch.trust)

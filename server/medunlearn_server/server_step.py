r"""The server's step on the support S: post-processing of a released sum.

With released sums f (forget) and r (retain) over n sites, both sums of clipped gradients:

* direction ``d = (f + retain_weight * r) / n``, whitened where the sites did so under a
  geometry; with one sum from the sites, that sum is f + retain_weight * r;
* rate ``eta_t = learning_rate * warm-up(t) * schedule(t)``;
* sgd ``step = d``; momentum ``b <- beta1 b + d, step = b`` (as torch.optim.SGD); adam as
  torch.optim.Adam with eps = 1e-8. Each is ``step = D first`` with a diagonal D and a first moment
  that is linear in the directions, so forgetting's part in it is known;
* under a geometry ``step <- M^(-1/2) (step - Q Q^T D first_forget)``: after the optimizer, whose
  D would turn what the sites projected back into span(Q) and cancel M^(-1/2). So no step of
  forgetting moves a retain loss in span(R) to first order, whatever the optimizer;
* ``step <- eta step``; trust region: it is scaled down to ``sqrt(step^T M step) <= trust_radius``,
  with the retain metric M of the geometry (identity without one);
* ``phi <- phi - step``, and with ``row_rank`` truncated to that rank, but for what the truncation
  would move in span(R) under a geometry; published is phi, or
  the mean of the last ``averaging`` share of it.

Everything is float64; sites get phi rounded to float32. State and arithmetic are exact, so a
resumed run goes on bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, cos, pi
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from medunlearn_common.errors import Misconfigured
from medunlearn_common.frozen import start_of_b
from medunlearn_common.layout import AdapterLayout
from medunlearn_common.plan.sections import ServerSection
from medunlearn_common.support import Support
from medunlearn_server.aggregation import RoundSums
from medunlearn_server.geometry import Geometry

Reals = npt.NDArray[np.float64]

ADAM_EPS = 1e-8
# Rounds over which the released gap is smoothed before it may stop a run.
STOP_WINDOW = 3


@dataclass(frozen=True, kw_only=True)
class StepState:
    """The optimizer's memory; every array has shape ``(k,)``, float64.

    Attributes:
        values: phi on S.
        first: Momentum, or Adam's first moment.
        first_forget: Forgetting's part of it.
        second: Adam's second moment.
        average: Mean of the iterates averaged so far.
        averaged: How many that are.
        steps: Steps taken.
    """

    values: Reals
    first: Reals
    first_forget: Reals
    second: Reals
    average: Reals
    averaged: int = 0
    steps: int = 0

    @classmethod
    def zero(cls, size: int) -> Self:
        """B = 0: the base model."""
        zeros = np.zeros(size)
        return cls(
            values=zeros, first=zeros, first_forget=zeros, second=zeros, average=zeros
        )

    @classmethod
    def at(cls, values: Reals) -> Self:
        """An adapter that public text alone has made; ``values`` of shape ``(k,)``, float64."""
        return replace(cls.zero(len(values)), values=values)

    @property
    def published(self) -> npt.NDArray[np.float32]:
        """What the adapter store gets: the average if there is one, else phi."""
        return (self.average if self.averaged else self.values).astype(np.float32)


def first_step(layout: AdapterLayout, support: Support, a_file: Path | None) -> StepState:
    """Where the rounds start: at zero, or where the file of A says that B starts.

    Raises:
        Misconfigured: START_OUTSIDE_SUPPORT if the support lacks coordinates of the start, or as
            :func:`~medunlearn_common.frozen.start_of_b`.
    """
    start = start_of_b(layout.trained_shapes, a_file, digest=layout.a_file)
    if start is None:
        return StepState.zero(support.size)
    values = start[support.indices]
    if lost := np.count_nonzero(start) - np.count_nonzero(values):
        raise Misconfigured(
            "START_OUTSIDE_SUPPORT",
            f"{lost} of {np.count_nonzero(start)} coordinates of B's start are not in the support",
            'set [support] method = "random" and a density that holds every row, or adapt fewer '
            "modules",
        )
    return StepState.at(values.astype(np.float64))


class Direction(NamedTuple):
    """Mean ascent direction of the round's loss over its sites, whitened under a geometry.

    Attributes:
        whole: Of both parts, shape ``(k,)``.
        forget: Forgetting's part, likewise; where the sites sent one sum, ``whole``.
    """

    whole: Reals
    forget: Reals


def direction_of(sums: RoundSums, *, retain_weight: float) -> Direction:
    """The direction of one round."""
    forget = sums.forget / sums.sites
    if sums.retain is None:
        return Direction(forget, forget)
    return Direction((sums.forget + retain_weight * sums.retain) / sums.sites, forget)


def take_step(
    state: StepState, direction: Direction, section: ServerSection, *,
    round_index: int, rounds: int, geometry: Geometry | None,
    constrain: Callable[[Reals], Reals] | None = None,
) -> StepState:
    """One server step.

    Args:
        state: Before the step.
        direction: Of the round.
        section: The plan's server section.
        round_index: 0-based round.
        rounds: Of the whole run.
        geometry: That the sites were asked under, or None.
        constrain: Projection of phi after the step (see :mod:`.low_rank`), or None.

    Raises:
        Misconfigured: STEP_NOT_FINITE; the state before it is still good.
    """
    rate = learning_rate(section, round_index=round_index, rounds=rounds)
    moved, correction, spread = OPTIMIZERS[section.optimizer](state, direction, section)
    step, metric = moved.first / correction / spread, None
    if geometry is not None:
        step = geometry.unwhitened(step, forget=moved.first_forget / correction / spread)
        metric = geometry.metric
    step = within_trust_region(rate * step, section.trust_radius, metric)
    values = state.values - step
    _require_finite(values)
    if constrain is not None:
        constrained = constrain(values)
        values = constrained if geometry is None else (
            values + geometry.sparing_retain(constrained - values)
        )
    moved = replace(moved, values=values, steps=state.steps + 1)
    if round_index < averaging_start(section, rounds=rounds):
        return moved
    count = state.averaged + 1
    average = state.average + (moved.values - state.average) / count
    return replace(moved, average=average, averaged=count)


def _require_finite(values: Reals) -> None:
    with np.errstate(over="ignore"):  # an adapter holds float32
        finite = bool(np.isfinite(values.astype(np.float32)).all())
    if not finite:
        raise Misconfigured(
            "STEP_NOT_FINITE", "the server's step leaves the range of numbers",
            "lower server.learning_rate or server.retain_weight in a new run",
        )


def learning_rate(section: ServerSection, *, round_index: int, rounds: int) -> float:
    """eta of a 0-based round: linear warm-up, then the schedule over the rest."""
    if round_index < section.warmup_rounds:
        return section.learning_rate * (round_index + 1) / section.warmup_rounds
    share = (round_index - section.warmup_rounds) / (rounds - section.warmup_rounds)
    return section.learning_rate * SCHEDULES[section.schedule](share)


SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "constant": lambda share: 1.0,
    "linear": lambda share: 1.0 - share,
    "cosine": lambda share: 0.5 * (1.0 + cos(pi * share)),
}


def averaging_start(section: ServerSection, *, rounds: int) -> int:
    """First round whose iterate is averaged; ``rounds`` (never) if averaging is off."""
    return ceil(rounds * (1.0 - section.averaging))


def within_trust_region(step: Reals, radius: float, metric: Reals | None) -> Reals:
    """Scale ``step`` to a norm of at most ``radius`` in the metric; 0 means no bound."""
    if radius == 0.0:
        return step
    weights = metric if metric is not None else np.ones_like(step)
    norm = float(np.sqrt(np.sum(weights * step**2)))
    return step if norm <= radius else step * (radius / norm)


Moved = tuple[StepState, float, Reals | float]
"""The state with its new moments, and by what the first one is divided: its correction for the
moments' start at zero, and the spread of each coordinate, shape ``(k,)`` or 1."""


def _sgd(state: StepState, direction: Direction, section: ServerSection) -> Moved:
    return replace(state, first=direction.whole, first_forget=direction.forget), 1.0, 1.0


def _momentum(state: StepState, direction: Direction, section: ServerSection) -> Moved:
    first = section.beta1 * state.first + direction.whole
    forget = section.beta1 * state.first_forget + direction.forget
    return replace(state, first=first, first_forget=forget), 1.0, 1.0


def _adam(state: StepState, direction: Direction, section: ServerSection) -> Moved:
    count, beta = state.steps + 1, section.beta1
    first = beta * state.first + (1.0 - beta) * direction.whole
    forget = beta * state.first_forget + (1.0 - beta) * direction.forget
    second = section.beta2 * state.second + (1.0 - section.beta2) * direction.whole**2
    # A beta of exactly 1 keeps its moment at zero forever; there is nothing to correct then.
    spread = np.sqrt(second / ((1.0 - section.beta2**count) or 1.0)) + ADAM_EPS
    moved = replace(state, first=first, first_forget=forget, second=second)
    return moved, (1.0 - beta**count) or 1.0, spread


OPTIMIZERS: Mapping[str, Callable[[StepState, Direction, ServerSection], Moved]] = {
    "sgd": _sgd,
    "momentum": _momentum,
    "adam": _adam,
}


def gap_closed(gaps: Sequence[float], *, noise: float, stop_gap: float) -> bool:
    """Whether the released forget gap has fallen to ``stop_gap`` of where it began.

    The released value is a sum over an unknown number of units, so only its ratio to the
    first rounds' means anything. Both ends are means over ``STOP_WINDOW`` rounds.

    Args:
        gaps: Released forget progress per round, oldest first.
        noise: Standard deviation of the noise of one of them.
        stop_gap: Share of the first gap; 0 never stops.

    Returns:
        False while the first gap cannot be told from noise (two standard deviations).
    """
    if stop_gap <= 0.0 or len(gaps) < 2 * STOP_WINDOW:
        return False
    began = float(np.mean(gaps[:STOP_WINDOW]))
    now = float(np.mean(gaps[-STOP_WINDOW:]))
    if began <= 2.0 * noise / STOP_WINDOW**0.5:
        return False
    return now <= stop_gap * began

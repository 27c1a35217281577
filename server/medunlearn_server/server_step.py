r"""The server's step on the support S: post-processing of a released sum.

With released sums f (forget) and r (retain) over n sites, both sums of clipped gradients:

* direction ``d = (f + retain_weight * r) / n``, un-whitened where a geometry was on; with one
  sum from the sites, that sum is f + retain_weight * r;
* rate ``eta_t = learning_rate * warm-up(t) * schedule(t)``;
* sgd ``step = eta d``; momentum ``b <- beta1 b + d, step = eta b`` (as torch.optim.SGD);
  adam as torch.optim.Adam with eps = 1e-8;
* trust region: ``step`` is scaled down to ``sqrt(step^T M step) <= trust_radius``, with the
  retain metric M of the geometry (identity without one);
* ``phi <- phi - step``, and with ``row_rank`` truncated to that rank; published is phi, or
  the mean of the last ``averaging`` share of it.

Everything is float64; sites get phi rounded to float32. State and arithmetic are exact, so a
resumed run goes on bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, cos, pi
from pathlib import Path
from typing import Self

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
        second: Adam's second moment.
        average: Mean of the iterates averaged so far.
        averaged: How many that are.
        steps: Steps taken.
    """

    values: Reals
    first: Reals
    second: Reals
    average: Reals
    averaged: int = 0
    steps: int = 0

    @classmethod
    def zero(cls, size: int) -> Self:
        """B = 0: the base model."""
        zeros = np.zeros(size)
        return cls(values=zeros, first=zeros, second=zeros, average=zeros)

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


def direction_of(
    sums: RoundSums, geometry: Geometry | None, *, retain_weight: float
) -> Reals:
    """Mean ascent direction of the round's loss over its sites, shape ``(k,)``."""
    forget, retain = sums.forget, sums.retain
    if retain is None:
        return forget / sums.sites
    if geometry is not None:
        forget, retain = geometry.forget_direction(forget), geometry.retain_direction(retain)
    return (forget + retain_weight * retain) / sums.sites


def take_step(
    state: StepState, direction: Reals, section: ServerSection, *,
    round_index: int, rounds: int, metric: Reals | None,
    constrain: Callable[[Reals], Reals] | None = None,
) -> StepState:
    """One server step.

    Args:
        state: Before the step.
        direction: Ascent direction, shape ``(k,)``.
        section: The plan's server section.
        round_index: 0-based round.
        rounds: Of the whole run.
        metric: Diagonal of M for the trust region, shape ``(k,)``, or None.
        constrain: Projection of phi after the step (see :mod:`.low_rank`), or None.

    Raises:
        Misconfigured: STEP_NOT_FINITE; the state before it is still good.
    """
    rate = learning_rate(section, round_index=round_index, rounds=rounds)
    moved, step = OPTIMIZERS[section.optimizer](state, direction, section)
    step = within_trust_region(rate * step, section.trust_radius, metric)
    values = state.values - step
    _require_finite(values)
    if constrain is not None:
        values = constrain(values)
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


Moved = tuple[StepState, Reals]


def _sgd(state: StepState, direction: Reals, section: ServerSection) -> Moved:
    return state, direction


def _momentum(state: StepState, direction: Reals, section: ServerSection) -> Moved:
    first = section.beta1 * state.first + direction
    return replace(state, first=first), first


def _adam(state: StepState, direction: Reals, section: ServerSection) -> Moved:
    count = state.steps + 1
    first = section.beta1 * state.first + (1.0 - section.beta1) * direction
    second = section.beta2 * state.second + (1.0 - section.beta2) * direction**2
    # A beta of exactly 1 keeps its moment at zero forever; there is nothing to correct then.
    unbiased_first = first / ((1.0 - section.beta1**count) or 1.0)
    unbiased_second = second / ((1.0 - section.beta2**count) or 1.0)
    step = unbiased_first / (np.sqrt(unbiased_second) + ADAM_EPS)
    return replace(state, first=first, second=second), step


OPTIMIZERS: Mapping[str, Callable[[StepState, Reals, ServerSection], Moved]] = {
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

"""Release gates: what must hold before an adapter is published. Pure; decides, does nothing.

* **norm**, each round: under masking a single site's vector is not visible, its sum is. No
  honest sum is longer than the population that the plan states, each unit at its clip, plus
  the noise. What is longer was not computed by the protocol.
* **canary**, at the end: what the model still knows of public text outside the topic.
* **utility**, at the end: kept answers on the sites' own retain records, from noised counts.

What no gate sees: poison within the bound that leaves canaries and utility alone. See
docs/threat-model.md.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import log, sqrt
from statistics import NormalDist
from typing import Any

import numpy as np

from medunlearn_common.plan import RunPlan
from medunlearn_server.aggregation import RoundSums
from medunlearn_server.reports import EvaluationReport, GateVerdict, RoundReport

NORM, CANARY, UTILITY = "norm", "canary", "utility"
GATES = (NORM, CANARY, UTILITY)
# A false alarm of the norm gate is rarer than this, per half and round.
_FALSE_ALARM = 1e-9
_SEARCH_STEPS = 60
_MOST_PRESERVATION = 2.0
# A pretrained model knows several nats of plain sentences; below this it knows none of them.
LEAST_KNOWN_NATS = 0.5
# How the words of a verdict begin that holds because there was nothing to judge.
NOT_JUDGED = "not judged"


@dataclass(frozen=True, kw_only=True)
class GateOverride:
    """A named human's decision to publish in spite of a failed gate.

    Attributes:
        gate: norm, canary or utility.
        by: Full name.
        because: Why, in a sentence.
        at: When, ISO 8601 with time zone.
    """

    gate: str
    by: str
    because: str
    at: str

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def norm_bound(plan: RunPlan, *, dimension: int, noise_l2: float) -> float:
    """Longest honest sum of one half of a round, or of both weighed into one, in gradient units.

    ``units * C`` where every drawn unit pulls in one direction, plus the norm of the noise:
    ``s (sqrt(d) + z)`` is exceeded with probability ``exp(-z^2 / 2)`` (concentration of a
    1-Lipschitz function of Gaussians).

    Args:
        plan: States clip, rates and ``gates.max_units``.
        dimension: d, coordinates of one half.
        noise_l2: s, standard deviation of the sum's noise in each coordinate.
    """
    privacy, most = plan.privacy, plan.gates.max_units
    rate = max(privacy.forget_rate, privacy.retain_rate)
    tail = sqrt(-2.0 * log(_FALSE_ALARM))
    drawn = min(float(most), rate * most + tail * sqrt(rate * (1.0 - rate) * most) + tail)
    if plan.wire.sums == "one":
        drawn *= 1.0 + plan.server.retain_weight
    return privacy.local_steps * drawn * privacy.clip_l2 + noise_l2 * (sqrt(dimension) + tail)


def norm_verdict(plan: RunPlan, sums: RoundSums, *, round_index: int) -> GateVerdict:
    """Judge one round's released sum by its longer half, or as a whole where it is one."""
    halves = [half for half in (sums.forget, sums.retain) if half is not None]
    length = max(float(np.linalg.norm(half)) for half in halves)
    bound = norm_bound(plan, dimension=sums.forget.size, noise_l2=sums.noise_l2)
    passed = length <= bound  # NaN does not pass
    return GateVerdict(
        gate=NORM, passed=passed, value=length, limit=bound,
        detail=f"the sum of round {round_index + 1} is {length:.4g} long; at most "
        f"{plan.gates.max_units} honest units and the noise reach {bound:.4g}",
    )


def worst_norm(curve: tuple[RoundReport, ...]) -> GateVerdict | None:
    """The verdict of the round that came nearest to its bound, or went farthest beyond."""
    verdicts = [GateVerdict(**report.norm_gate) for report in curve if report.norm_gate]
    return max(verdicts, key=lambda v: (v.value or 0.0) / v.limit, default=None)


def canary_verdict(plan: RunPlan, evaluation: EvaluationReport) -> GateVerdict | None:
    """Judge the knowledge lost on public text; None where the plan has no such gate.

    Texts that got better do not make up for those that got worse. Where the base model itself
    does no better than guessing there is nothing to lose, and the verdict says so.
    """
    limit = plan.gates.max_canary_loss
    if limit == 0.0:
        return None
    if not evaluation.canary_before:
        return _unmeasured(CANARY, limit, evaluation)
    known, lost = canary_figures(evaluation)
    if known < LEAST_KNOWN_NATS:
        return GateVerdict(
            gate=CANARY, passed=True, value=lost, limit=limit,
            detail=f"{NOT_JUDGED}: the base model predicts the public text no better than guessing "
            f"({known:.2g} nats per token), so there is nothing it could lose",
        )
    return GateVerdict(
        gate=CANARY, passed=lost <= limit, value=lost, limit=limit,
        detail=f"of the {known:.3g} nats per token that the model knew of public text outside "
        f"the topic, {lost:.3g} are lost; at most {limit:g} may be",
    )


def canary_figures(evaluation: EvaluationReport) -> tuple[float, float]:
    """Mean knowledge of the canaries before, and mean loss of it, in nats per token."""
    pairs = list(zip(evaluation.canary_before, evaluation.canary_after, strict=True))
    lost = sum(max(0.0, before - after) for before, after in pairs)
    return sum(before for before, _ in pairs) / len(pairs), lost / len(pairs)


def utility_verdict(plan: RunPlan, evaluation: EvaluationReport) -> GateVerdict | None:
    """Judge preservation from the noised retain counts; None where the plan has no such gate."""
    limit = plan.gates.min_preservation
    if limit == 0.0 or plan.privacy.evaluation_share == 0.0:
        return None
    if not evaluation.retain:
        return _unmeasured(UTILITY, limit, evaluation)
    sure = preservation_bound(evaluation, plan.gates.confidence)
    kept, lost, gained, _ = evaluation.retain
    shown = (kept + gained) / (kept + lost) if kept + lost > 0.0 else 0.0
    return GateVerdict(
        gate=UTILITY, passed=sure >= limit, value=sure, limit=limit,
        detail=f"sites' own retain records keep {shown:.3f} of their right answers (by option "
        f"ranking, else word for word), at least {sure:.3f} with {plan.gates.confidence:.0%} "
        f"confidence (noise {evaluation.noise:.2f} per count); {limit:g} is asked for",
    )


def preservation_bound(evaluation: EvaluationReport, confidence: float) -> float:
    """Largest p such that preservation is at least p with ``confidence``; 0 if none is.

    Preservation is (kept + gained) / (kept + lost), so it is at least p if and only if
    (1 - p) kept + gained - p lost >= 0: a linear form of three noised counts, whose deviation
    is known (Fieller 1954). With a Poisson sample its own deviation is added, estimated from
    the counts.
    """
    kept, lost, gained, _ = evaluation.retain
    z = NormalDist().inv_cdf(confidence)

    def sure(p: float) -> bool:
        form = (1.0 - p) * kept + gained - p * lost
        noise = evaluation.noise**2 * ((1.0 - p) ** 2 + 1.0 + p**2)
        drawn = (1.0 - evaluation.rate) * (
            (1.0 - p) ** 2 * max(kept, 0.0) + max(gained, 0.0) + p**2 * max(lost, 0.0)
        )
        return form > 0.0 and form >= z * sqrt(noise + drawn)

    if not sure(0.0):
        return 0.0
    low, high = 0.0, _MOST_PRESERVATION
    for _ in range(_SEARCH_STEPS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if sure(middle) else (low, middle)
    return low


def _unmeasured(gate: str, limit: float, evaluation: EvaluationReport) -> GateVerdict:
    why = evaluation.failure or "nobody answered"
    return GateVerdict(
        gate=gate, passed=False, value=None, limit=limit,
        detail=f"could not be measured ({why}), so nothing speaks for publishing",
    )

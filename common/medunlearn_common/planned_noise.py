"""The noise that a plan asks for, and what a run under it has cost so far."""

from __future__ import annotations

from medunlearn_common.accounting import (
    NoiseSchedule,
    PlannedReleases,
    calibrate,
    epsilon_of,
)
from medunlearn_common.plan import RunPlan

NO_NOISE = NoiseSchedule(vote_sigma=0.0, round_sigma=0.0, mechanisms=(), epsilon=0.0)


def planned_releases(plan: RunPlan) -> PlannedReleases:
    """All that a run under the plan releases."""
    privacy = plan.privacy
    return PlannedReleases(
        rounds=plan.run.rounds * privacy.local_steps,
        forget_rate=privacy.forget_rate, retain_rate=privacy.retain_rate,
        vote_share=plan.support.vote_share if plan.support.method == "vote" else 0.0,
        evaluation_share=privacy.evaluation_share, evaluation_rate=privacy.evaluation_rate,
    )


def noise_schedule(plan: RunPlan) -> NoiseSchedule:
    """The noise that spends the plan's budget; all zero where the plan adds none.

    Raises:
        Misconfigured: PRIVACY_UNREACHABLE.
    """
    if plan.privacy.noise == "none":
        return NO_NOISE
    return calibrate(
        planned_releases(plan), epsilon=plan.privacy.epsilon, delta=plan.privacy.delta)


def schedule_of_sigma(plan: RunPlan, round_sigma: float) -> NoiseSchedule:
    """The plan's releases at the noise at which its updates were made, and their cost in all.

    Args:
        plan: With noise.
        round_sigma: Noise multiplier of an update, above 0.
    """
    releases = planned_releases(plan)
    scale = releases.scale_of(round_sigma)
    cost = epsilon_of(releases.mechanisms(scale), delta=plan.privacy.delta)
    return releases.schedule(scale, epsilon=cost)


def epsilon_after(
    plan: RunPlan, schedule: NoiseSchedule, *, rounds: int, evaluated: bool = False
) -> float | None:
    """Epsilon of vote, ``rounds`` rounds and, if it was, evaluation; None without noise."""
    if not schedule.mechanisms:
        return None
    spent = schedule.spent(steps=rounds * plan.privacy.local_steps, evaluated=evaluated)
    return epsilon_of(spent, delta=plan.privacy.delta)

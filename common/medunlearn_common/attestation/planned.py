"""What an attestation says of the plan must be what the plan says: guarantee, method, gates.

The plan's digest is attested, and the plan lies beside the adapter; but people read the
attestation, not the plan. A coordinator whose attestation promised more than its plan did would
otherwise be believed.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isclose
from typing import Any, Final

from medunlearn_common.accounting import EPSILON_ERROR
from medunlearn_common.attestation.files import RUN_PLAN_FILE, BadFile
from medunlearn_common.attestation.predicate import Predicate
from medunlearn_common.errors import Misconfigured
from medunlearn_common.offer import plan_from_canonical
from medunlearn_common.plan import RunPlan
from medunlearn_common.planned_noise import epsilon_after, schedule_of_sigma

# Accountants of two versions may differ by their errors.
_EPSILON_TOLERANCE: Final = 2.0 * EPSILON_ERROR
_SIGMA_TOLERANCE: Final = 1e-6


def require_as_planned(data: bytes, predicate: Predicate) -> None:
    """Refuse an attestation that differs from its own plan.

    Args:
        data: The shared plan, whose digest was found to be the attested one.
        predicate: What is attested.

    Raises:
        Rejected: PLAN_DISAGREES naming what differs, or as :func:`plan_from_canonical`.
    """
    plan = plan_from_canonical(data.decode("utf-8", errors="replace"))
    for what, said, planned in (*_method(plan, predicate), *_guarantee(plan, predicate)):
        if said != planned:
            raise _disagrees(what)
    _require_spent(plan, predicate)
    _require_gates(plan, predicate)


def _method(plan: RunPlan, predicate: Predicate) -> Iterator[tuple[str, Any, Any]]:
    process = predicate.process
    yield "objective", process.objective, plan.objective.name
    yield "support", process.support, plan.support.method
    yield "rounds_planned", process.rounds_planned, plan.run.rounds
    yield "rounds", process.rounds <= plan.run.rounds, True


def _guarantee(plan: RunPlan, predicate: Predicate) -> Iterator[tuple[str, Any, Any]]:
    said, planned = predicate.privacy, plan.privacy
    noised, voted = planned.noise != "none", plan.support.method == "vote"
    yield "noise", said.noise, planned.noise
    yield "adjacency", said.adjacency, f"add or remove one {planned.unit}"
    yield "clip_l2", said.clip_l2, planned.clip_l2
    yield "epsilon_budget", said.epsilon_budget, planned.epsilon if noised else None
    yield "delta", said.delta, planned.delta if noised else None
    yield "sigma", said.sigma is not None and said.sigma > 0.0, noised
    yield "epsilon", said.epsilon is not None, noised
    yield "vote_sigma", said.vote_sigma is not None, noised and voted
    yield "releases", said.releases, (
        predicate.process.rounds * planned.local_steps + int(voted)
        + int(bool(predicate.federated.sites))
    )


def _require_spent(plan: RunPlan, predicate: Predicate) -> None:
    """The epsilon that is attested is what the attested noise costs, by an accountant run here."""
    said = predicate.privacy
    if said.sigma is None or said.epsilon is None:  # both, where the plan adds no noise
        return
    try:
        schedule = schedule_of_sigma(plan, said.sigma)
        spent = epsilon_after(
            plan, schedule, rounds=predicate.process.rounds,
            evaluated=bool(predicate.federated.sites),
        )
    except Misconfigured:  # noise for which no accountant has a figure
        raise _disagrees("sigma") from None
    if said.vote_sigma is not None and not isclose(
        said.vote_sigma, schedule.vote_sigma, rel_tol=_SIGMA_TOLERANCE
    ):
        raise _disagrees("vote_sigma")
    if spent is None or abs(said.epsilon - spent) > _EPSILON_TOLERANCE or (
        spent > plan.privacy.epsilon + _EPSILON_TOLERANCE
    ):
        raise _disagrees("epsilon")


def _require_gates(plan: RunPlan, predicate: Predicate) -> None:
    """Every gate of the plan was judged by the plan's limit, and passed or was overridden."""
    limits = {"canary": plan.gates.max_canary_loss}
    if plan.privacy.evaluation_share > 0.0:
        limits["utility"] = plan.gates.min_preservation
    judged = {gate.gate: gate for gate in predicate.gates}
    overridden = {override.gate for override in predicate.incidents.overrides}
    for name, limit in limits.items():
        if limit > 0.0 and (name not in judged or judged[name].limit != limit):
            raise _disagrees(f"the gate {name}")
    if any(not gate.passed and gate.gate not in overridden for gate in predicate.gates):
        raise _disagrees("a gate that failed and that nobody overrode")


def _disagrees(what: str) -> BadFile:
    return BadFile(
        "PLAN_DISAGREES", f"the attestation differs from the plan that it names in {what}",
        "do not use it; believe the plan, and ask the coordinator", file=RUN_PLAN_FILE,
    )

"""What charged releases cost together: within one run, and over all runs of a hospital.

A ledger entry is a Poisson-subsampled Gaussian sum with the unit that it protects. Within a
run all entries have the run's unit, and a unit is forgotten or retained throughout, so a run
costs the dearer of the two. Over runs a unit may change sides, as every one does that withdraws
its consent; so there each entry counts at the higher of its two rates. The units may differ
too, and then

* an entry that protects patients also protects records, at half its noise multiplier: one
  record more moves its patient's clipped vector by at most twice the clip;
* an entry that protects records says nothing about patients, who may hold any number of them;
* an entry without noise says nothing at all.

A cumulative epsilon that nothing bounds is infinite here, and printed as such.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import inf
from typing import Literal

from medunlearn_common.accounting import Mechanism
from medunlearn_common.errors import BudgetExceeded

Unit = Literal["record", "patient"]
Accountant = Callable[[tuple[Mechanism, ...], float], float]

# A budget is compared with the accountant's upper bound, which its own mesh rounds up.
_TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Most that one run may spend: epsilon at delta, per unit of the run."""

    epsilon: float
    delta: float


@dataclass(frozen=True, kw_only=True)
class SiteBudget:
    """Most that all runs together may spend at this hospital: its own word, no plan's.

    Attributes:
        epsilon: Cumulative epsilon.
        delta: At which delta it is computed.
        unit: Whom it protects.
    """

    epsilon: float
    delta: float
    unit: Unit


@dataclass(frozen=True, kw_only=True)
class Charge:
    """One ledger entry.

    Attributes:
        run_id: The run.
        release: Name within the run, for example ``round-3``.
        request_digest: Digest of the coordinator's request.
        mechanism: What left; a noise multiplier of 0 stands for a release without noise.
        unit: Whom the noise protects.
    """

    run_id: str
    release: str
    request_digest: str
    mechanism: Mechanism
    unit: Unit


def merged(mechanisms: Iterable[Mechanism]) -> tuple[Mechanism, ...]:
    """Equal mechanisms as one with their counts added, sorted: what the accountant caches by."""
    counts: dict[Mechanism, int] = {}
    for mechanism in mechanisms:
        one = replace(mechanism, count=1)
        counts[one] = counts.get(one, 0) + mechanism.count
    return tuple(sorted(replace(one, count=count) for one, count in counts.items()))


def run_epsilon(charges: Iterable[Charge], *, delta: float, accountant: Accountant) -> float:
    """Epsilon of one run's charges for the run's own unit; infinite without noise."""
    return _epsilon([charge.mechanism for charge in charges], delta, accountant)


def cumulative_epsilon(
    charges: Iterable[Charge], *, unit: Unit, delta: float, accountant: Accountant
) -> float:
    """Epsilon of charges of any runs for ``unit``; infinite where nothing bounds it."""
    seen: list[Mechanism] = []
    for charge in charges:
        mechanism = _on_either_side(charge.mechanism)
        if charge.unit == unit:
            seen.append(mechanism)
        elif unit == "record":
            seen.append(replace(mechanism, sigma=mechanism.sigma / 2.0))
        else:
            return inf
    return _epsilon(seen, delta, accountant)


def _on_either_side(mechanism: Mechanism) -> Mechanism:
    """What a release costs a unit of which it is not known in which set it was."""
    rate = max(mechanism.forget_rate, mechanism.retain_rate)
    return replace(mechanism, forget_rate=rate, retain_rate=rate)


def _epsilon(mechanisms: list[Mechanism], delta: float, accountant: Accountant) -> float:
    if not mechanisms:
        return 0.0
    if any(mechanism.sigma <= 0.0 for mechanism in mechanisms):
        return inf
    return accountant(merged(mechanisms), delta)


def refuse_over_run_budget(
    charges: list[Charge], budget: Budget, accountant: Accountant
) -> None:
    """Refuse if the run's charges, the last of them new, cost more than its budget.

    Raises:
        BudgetExceeded: PRIVACY_BUDGET.
    """
    epsilon = run_epsilon(charges, delta=budget.delta, accountant=accountant)
    if not epsilon <= budget.epsilon + _TOLERANCE:  # NaN passes no budget
        raise BudgetExceeded(
            "PRIVACY_BUDGET",
            f"{charges[-1].release} would raise epsilon to {epsilon:.3f}, over the budget "
            f"{budget.epsilon:g} at delta {budget.delta:g}",
            "stop here and publish what there is, or agree on a plan with a larger budget",
        )


def refuse_over_site_budget(
    charges: list[Charge], budget: SiteBudget, accountant: Accountant
) -> None:
    """Refuse if all charges of the site, the last of them new, cost more than it allows.

    Raises:
        BudgetExceeded: PRIVACY_SITE_BUDGET.
    """
    epsilon = cumulative_epsilon(
        charges, unit=budget.unit, delta=budget.delta, accountant=accountant
    )
    if not epsilon <= budget.epsilon + _TOLERANCE:  # NaN passes no budget
        shown = "without bound" if epsilon == inf else f"{epsilon:.3f}"
        raise BudgetExceeded(
            "PRIVACY_SITE_BUDGET",
            f"{charges[-1].release} would raise this site's epsilon over all runs to {shown}; "
            f"it allows {budget.epsilon:g} per {budget.unit} at delta {budget.delta:g}",
            "the hospital decides on its own budget; `medunlearn ledger show` lists what spent it",
        )

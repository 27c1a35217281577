"""From noise to (epsilon, delta) and back, with Opacus's PRV accountant.

Adjacency: one unit (a record, or all records of a patient) is added to or removed from one
hospital's data. Forget and retain sets are disjoint, so a unit is in one of them: the two
sums of a round compose in parallel, and epsilon is the larger of two tracks (decision 2:
one sum of forget records, one of retain records).

The accountant assumes continuous Gaussians. The noise of the sum is a sum of discrete
Gaussians, 2^16 steps wide in all (one of h sites adds 2^16 / sqrt(h)), or 2^11 where updates
have 16 bits, for which the difference is far below the accountant's own error: a discrete
Gaussian of width s differs by the order of exp(-2 pi^2 s^2), and s is at least 2^11 / sqrt(1000).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf, isfinite, log, sqrt

from medunlearn_common.errors import Misconfigured, Transient

EPSILON_ERROR = 0.01
_LARGEST_GRID = 300.0
_RELATIVE_TOLERANCE = 1e-3
_MAX_SCALE = 1e6
_BRACKET = 1.3


@dataclass(frozen=True, kw_only=True, order=True)
class Mechanism:
    """``count`` releases of a Poisson-subsampled Gaussian sum.

    Attributes:
        sigma: Noise multiplier of the *whole* sum: standard deviation divided by the clip.
        forget_rate: Poisson rate of forget units.
        retain_rate: Poisson rate of retain units.
        count: Number of releases.
    """

    sigma: float
    forget_rate: float
    retain_rate: float
    count: int


@dataclass(frozen=True, kw_only=True)
class NoiseSchedule:
    """Noise multipliers that spend a budget exactly once over a whole run.

    Attributes:
        vote_sigma: Of the support vote; 0 if the run has no vote or no noise.
        round_sigma: Of each update round; 0 without noise.
        mechanisms: What the run will release, for the accountant: the vote and the evaluation
            where there are any, the update rounds last.
        epsilon: What that costs at the plan's delta; 0 stands for "no guarantee".
        evaluation_sigma: Of the evaluation counts; 0 if the run has none or no noise.
    """

    vote_sigma: float
    round_sigma: float
    mechanisms: tuple[Mechanism, ...]
    epsilon: float
    evaluation_sigma: float = 0.0

    def spent(self, *, steps: int, evaluated: bool) -> tuple[Mechanism, ...]:
        """What was released after so many noised steps, the vote counted, in accounting order."""
        *once, update = self.mechanisms
        if self.evaluation_sigma > 0.0 and not evaluated:
            once.pop()
        return (*once, replace(update, count=steps))


def summed_sigma(sigma: float, *, survivors: int, guaranteed: int) -> float:
    """Noise multiplier that a sum over ``survivors`` really carries under distributed noise.

    Each site adds sigma / sqrt(h), h = ``guaranteed``, and is charged sigma. What drops out
    takes its share along; so n survivors carry sigma sqrt(n / h).

    Raises:
        Transient: ROUND_TOO_FEW_SITES below h: such a sum would have less noise than was
            charged, so it is never formed. The charge stands.

    Guarantees:
        Never less than ``sigma``: epsilon after dropouts is at most what was charged. This
        counts every survivor as honest; h must be the number of those who are (see
        docs/threat-model.md, colluding sites know their own share of the noise).
    """
    if survivors < guaranteed:
        raise Transient(
            "ROUND_TOO_FEW_SITES",
            f"{survivors} of at least {guaranteed} sites would carry the noise; nothing was used",
            "bring the missing sites back and resume the run",
        )
    return sigma * sqrt(survivors / guaranteed)


def epsilon_of(mechanisms: tuple[Mechanism, ...], *, delta: float) -> float:
    """Upper bound on epsilon of all releases together: the dearer of the two tracks.

    It is the PRV accountant's, but for more epsilon than any guarantee is made of: there, its grid,
    time and memory would grow without end as the noise that somebody names goes to nothing, and
    the looser bound of Renyi's divergence is given, which may be infinite.

    Raises:
        Misconfigured: PRIVACY_UNCOMPUTABLE for values at which the accountant itself fails.
    """
    if _unsampled_epsilon(mechanisms, delta=delta) > _LARGEST_GRID:
        renyi = _renyi_epsilon(mechanisms, delta=delta)
        if renyi > _LARGEST_GRID:
            return renyi
    tracks = {
        tuple((m.sigma, m.forget_rate, m.count) for m in mechanisms),
        tuple((m.sigma, m.retain_rate, m.count) for m in mechanisms),
    }
    if all(m.forget_rate >= m.retain_rate for m in mechanisms):
        # A higher rate never costs less, so the other track need not be computed.
        tracks = {tuple((m.sigma, m.forget_rate, m.count) for m in mechanisms)}
    return max(_track_epsilon(track, delta) for track in tracks)


def _renyi_epsilon(mechanisms: tuple[Mechanism, ...], *, delta: float) -> float:
    """A looser bound, in no time whatever the noise; infinite where it fails."""
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = [
        (m.sigma, max(m.forget_rate, m.retain_rate), m.count) for m in mechanisms if m.count
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of orders at the end of its list
        try:
            found = float(accountant.get_epsilon(delta))
        except (ArithmeticError, ValueError):
            return inf
    return found if isfinite(found) else inf


def _unsampled_epsilon(mechanisms: tuple[Mechanism, ...], *, delta: float) -> float:
    """What the releases would cost if every unit were drawn each time (Bun & Steinke 2016)."""
    rho = sum(m.count / (2.0 * m.sigma) / m.sigma if m.sigma > 0.0 else inf for m in mechanisms)
    return rho + 2.0 * sqrt(rho * log(1.0 / delta))


@lru_cache(maxsize=4096)
def _track_epsilon(history: tuple[tuple[float, float, int], ...], delta: float) -> float:
    # Imported late: opacus pulls in torch, which a coordinator's status command can do without.
    from opacus.accountants import PRVAccountant

    used = [entry for entry in history if entry[2] > 0]
    if not used:
        return 0.0
    accountant = PRVAccountant()
    accountant.history = used
    with warnings.catch_warnings():
        # At rate 1 the PRV's support has no lower end; numpy warns about the log of zero
        # in the branch that np.where then discards.
        warnings.simplefilter("ignore")
        try:
            return float(accountant.get_epsilon(delta, eps_error=EPSILON_ERROR))
        except (ArithmeticError, MemoryError, RuntimeError, ValueError) as error:
            raise Misconfigured(
                "PRIVACY_UNCOMPUTABLE",
                f"the accountant cannot bound epsilon here ({type(error).__name__})",
                "choose delta, rates and epsilon of usual size, such as 1e-5, 0.1 and 4",
            ) from error


@dataclass(frozen=True, kw_only=True)
class PlannedReleases:
    """What a run will release: all of it but how much noise there is, which one scale says.

    Attributes:
        rounds: Update releases (gradient steps in total).
        forget_rate: Poisson rate of forget units per release.
        retain_rate: Poisson rate of retain units per release.
        vote_share: Share of the budget, in units of (rate / sigma)^2, that the support vote may
            spend; 0 for a run without a vote.
        evaluation_share: The same for the evaluation counts; 0 for a run without any.
        evaluation_rate: Poisson rate of the units asked there, of both sets.
    """

    rounds: int
    forget_rate: float
    retain_rate: float
    vote_share: float
    evaluation_share: float = 0.0
    evaluation_rate: float = 1.0

    @property
    def _sigma_per_scale(self) -> float:
        left = 1.0 - self.vote_share - self.evaluation_share
        return max(self.forget_rate, self.retain_rate) * sqrt(self.rounds / left)

    def scale_of(self, round_sigma: float) -> float:
        """The scale at which an update has this noise multiplier."""
        return round_sigma / self._sigma_per_scale

    def mechanisms(self, scale: float) -> tuple[Mechanism, ...]:
        """The vote and the evaluation where there are any, then the updates."""
        update = Mechanism(
            sigma=scale * self._sigma_per_scale,
            forget_rate=self.forget_rate, retain_rate=self.retain_rate, count=self.rounds,
        )
        vote = Mechanism(
            sigma=scale * max(self.forget_rate, self.retain_rate) / sqrt(self.vote_share),
            forget_rate=self.forget_rate, retain_rate=self.retain_rate, count=1,
        ) if self.vote_share > 0.0 else None
        evaluation = Mechanism(
            sigma=scale * self.evaluation_rate / sqrt(self.evaluation_share),
            forget_rate=self.evaluation_rate, retain_rate=self.evaluation_rate, count=1,
        ) if self.evaluation_share > 0.0 else None
        return tuple(m for m in (vote, evaluation, update) if m is not None)

    def schedule(self, scale: float, *, epsilon: float) -> NoiseSchedule:
        """The noise at a scale that was found to cost ``epsilon``."""
        found = self.mechanisms(scale)
        return NoiseSchedule(
            vote_sigma=found[0].sigma if self.vote_share > 0.0 else 0.0,
            round_sigma=found[-1].sigma,
            mechanisms=found,
            epsilon=epsilon,
            evaluation_sigma=found[-2].sigma if self.evaluation_share > 0.0 else 0.0,
        )


def calibrate(releases: PlannedReleases, *, epsilon: float, delta: float) -> NoiseSchedule:
    """Smallest noise at which all releases of a run cost at most ``epsilon``.

    Args:
        releases: Of the run.
        epsilon: Budget of the whole run.
        delta: Probability of exceeding it.

    Raises:
        Misconfigured: PRIVACY_UNREACHABLE if no noise up to a multiplier of 10^6 will do.
    """
    def cost(scale: float) -> float:
        return epsilon_of(releases.mechanisms(scale), delta=delta)

    scale = _smallest_scale(cost, epsilon)
    return releases.schedule(scale, epsilon=cost(scale))


def _smallest_scale(cost: Callable[[float], float], budget: float) -> float:
    """Smallest scale whose cost fits the budget, to 0.1 %, always from the affordable side.

    Brackets downwards from much noise, because the accountant's grid, and so its time,
    grows with epsilon.
    """
    from scipy.optimize import brentq  # late, as scipy comes with the accountant

    high = 1.0
    while cost(high) > budget:
        high *= 4.0
        if high > _MAX_SCALE:
            raise Misconfigured(
                "PRIVACY_UNREACHABLE",
                "no amount of noise meets this epsilon and delta",
                "raise [privacy] epsilon or delta",
            )
    low = high / _BRACKET
    while cost(low) <= budget:
        low, high = low / _BRACKET, low
    scale = float(brentq(lambda s: log(cost(s) / budget), low, high, rtol=_RELATIVE_TOLERANCE))
    while cost(scale) > budget:
        scale *= 1.0 + _RELATIVE_TOLERANCE
    return scale

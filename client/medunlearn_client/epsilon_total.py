"""How much of the policy's ``max_total_epsilon`` the runs accepted so far have taken up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from medunlearn_client.policy import (
    SitePolicy,
    accepted_runs,
    is_total_decided,
    total_epsilon,
)
from medunlearn_common.envelope.store import read_locks
from medunlearn_common.keeping import PartyMarks
from medunlearn_common.trust_folder import STORE_FILE, TRUST_FOLDER

_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class EpsilonTotal:
    """What all runs that a hospital ever accepted have taken up, and what they may.

    Attributes:
        used: Epsilon of their plans, added up.
        limit: The policy's ``max_total_epsilon``.
        runs: How many they are.
        at_least: Whether history was lost here: then runs may be missing from these figures.
        decided: Whether the policy's limit was decided in view of that; True if nothing was lost.

    Guarantees:
        Counts as the service does when it is asked for the next run.
    """

    used: float
    limit: float
    runs: int
    at_least: bool = False
    decided: bool = True

    @classmethod
    def of(cls, folder: Path, policy: SitePolicy) -> Self:
        """Read from a hospital's folder, beside its running service; nothing in it is changed.

        Raises:
            Transient: ENVELOPE_STORE.
            Misconfigured: MARK_UNREADABLE.
        """
        lost = PartyMarks(folder).history_lost
        runs = accepted_runs(read_locks(folder / TRUST_FOLDER / STORE_FILE))
        return cls(used=total_epsilon(runs), limit=policy.privacy.max_total_epsilon,
                   runs=len(runs), at_least=lost is not None,
                   decided=is_total_decided(policy, lost))

    @property
    def left(self) -> float:
        """What further plans may spend together; sums of decimals that are off by a rounding
        leave nothing, nor does a limit that was decided before history was lost."""
        left = self.limit - self.used
        return left if self.decided and left > _ROUNDING * self.limit else 0.0

    def leaves(self, epsilon: float) -> bool:
        """Whether a further plan with this epsilon would be accepted."""
        return self.decided and epsilon + self.used <= self.limit

    def __str__(self) -> str:
        known = f"{self.used:g} of {self.limit:g} used by {self.runs} run(s)"
        return f"at least {known}, and by those that are lost" if self.at_least else known

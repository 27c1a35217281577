"""Where a run stands: a pure state machine. No clock, no I/O, no arrays.

Rules:
1. READY -> VOTE, once, and only with at least ``min_sites`` sites that agree on one layout.
2. VOTE -> ROUNDS, once, with one support, which never changes afterwards. A random support
   passes through VOTE too; nobody is asked then.
3. In ROUNDS, a round is accepted only if it is the next one, with the run's support, and
   with answers of at least ``min_sites`` different sites. Nothing else advances the round.
4. ROUNDS -> FINISHED after the last planned round, or earlier for a stated reason (gap
   closed, budget spent). FINISHED is final.
Every other transition is refused with STATE_ORDER, and the state stays as it was.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Self

from medunlearn_common.errors import Rejected, Transient


class Phase(StrEnum):
    """The four phases, in order."""

    READY = "ready"
    VOTE = "vote"
    ROUNDS = "rounds"
    FINISHED = "finished"


class FinishReason(StrEnum):
    """Why a run ended."""

    ROUNDS_DONE = "rounds_done"
    GAP_CLOSED = "gap_closed"
    BUDGET_SPENT = "budget_spent"


@dataclass(frozen=True, kw_only=True)
class RoundState:
    """One state; transitions return a new one.

    Attributes:
        min_sites: h, fewest sites of a vote or round.
        rounds: Planned rounds.
        phase: Where the run stands.
        next_round: 0-based round to be asked next.
        layout_digest: Of the agreed layout, empty before.
        support_digest: Of the support, empty before.
        informed: Ids of sites that answered for the support and so hold it, sorted.
        reason: Why the run ended, empty before.
    """

    min_sites: int
    rounds: int
    phase: Phase = Phase.READY
    next_round: int = 0
    layout_digest: str = ""
    support_digest: str = ""
    informed: tuple[str, ...] = ()
    reason: str = ""

    def agreed(self, sites: Collection[str], *, layout_digest: str) -> Self:
        """Rule 1: the sites agree on a layout."""
        self._require(Phase.READY)
        self.require_enough(sites)
        return replace(self, phase=Phase.VOTE, layout_digest=layout_digest)

    def supported(self, support_digest: str) -> Self:
        """Rule 2: the support is known."""
        self._require(Phase.VOTE)
        return replace(self, phase=Phase.ROUNDS, support_digest=support_digest)

    def accepted(
        self, round_index: int, sites: Collection[str], *, support_digest: str
    ) -> Self:
        """Rule 3: one round was answered by ``sites``."""
        self._require(Phase.ROUNDS)
        if round_index != self.next_round or self.next_round >= self.rounds:
            raise _out_of_order(f"round {round_index} where {self.next_round} is next")
        if support_digest != self.support_digest:
            raise _out_of_order("another support")
        self.require_enough(sites)
        informed = tuple(sorted({*self.informed, *sites}))
        return replace(self, next_round=round_index + 1, informed=informed)

    def finished(self, reason: FinishReason) -> Self:
        """Rule 4: the run is over."""
        self._require(Phase.ROUNDS)
        if reason is FinishReason.ROUNDS_DONE and self.next_round < self.rounds:
            raise _out_of_order(f"an end after {self.next_round} of {self.rounds} rounds")
        return replace(self, phase=Phase.FINISHED, reason=str(reason))

    def require_enough(self, sites: Collection[str]) -> None:
        """At least ``min_sites`` different sites, each once.

        Raises:
            Transient: ROUND_TOO_FEW_SITES.
            Rejected: STATE_ORDER if a site is named twice.
        """
        if len(set(sites)) != len(sites):
            raise _out_of_order("two answers of one site")
        if len(sites) < self.min_sites:
            raise Transient(
                "ROUND_TOO_FEW_SITES",
                f"{len(sites)} of at least {self.min_sites} sites answered; nothing was used",
                "bring the missing sites back and resume the run",
            )

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Back from :meth:`to_json`."""
        known = dict(value)
        known["phase"] = Phase(known["phase"])
        known["informed"] = tuple(known["informed"])
        return cls(**known)

    def _require(self, phase: Phase) -> None:
        if self.phase is not phase:
            raise _out_of_order(f"a step of phase {phase} in phase {self.phase}")


def _out_of_order(what: str) -> Rejected:
    return Rejected("STATE_ORDER", f"the run was offered {what}", "report this: it is a defect")

"""Which simulated site is away in which rounds: ``[federation] absences`` of a plan."""

from __future__ import annotations

from dataclasses import dataclass

from medunlearn_common.messages import FINISH, Message
from medunlearn_common.plan import RunPlan
from medunlearn_common.plan.absences import absence_spans


@dataclass(frozen=True, kw_only=True)
class Absences:
    """Absent spans as (site index, first round, last round), all from 0 and inclusive.

    A site that is away in round 0 joins late: it misses the start and the vote too.
    """

    spans: tuple[tuple[int, int, int], ...]

    @classmethod
    def of_plan(cls, plan: RunPlan) -> Absences:
        """Parse and check the plan's entries.

        Raises:
            Misconfigured: ABSENCE_INVALID.
        """
        return cls(spans=absence_spans(plan.federation.absences, sites=plan.federation.sites))

    def away(self, site_index: int, message: Message) -> bool:
        """Whether the site misses this request; every site hears of the end."""
        if message.kind == FINISH:
            return False
        # READY and STEP name their round; a vote comes before round 0.
        found = message.fields.get("round", 0)
        round_index = found if isinstance(found, int) else 0
        return any(s == site_index and a <= round_index <= b for s, a, b in self.spans)

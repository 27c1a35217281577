"""Before the hospital inside: one run at a time, and a person's approval where it is asked for.

Called by :class:`medunlearn_client.sealed_hospital.SealedHospital` on requests whose signature,
run and plan hold.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from medunlearn_client.service.approvals import Approvals, declined
from medunlearn_client.site_audit import SiteAudit
from medunlearn_common.errors import Rejected
from medunlearn_common.messages import EVALUATE, FINISH, READY, STEP, VOTE
from medunlearn_common.offer import RunOffer

SITE_BUSY = "SITE_BUSY"
# What needs the model: two runs that alternate would load it anew for each request.
HOLDING = frozenset((READY, VOTE, STEP, EVALUATE))


@dataclass(kw_only=True)
class RunGate:
    """Lets one run in.

    Attributes:
        approvals: Where a person decides; None where none is asked.
        audit: The hospital's own log, which takes the decision before the plan is accepted.
        idle_s: A run that asked nothing for so long makes room for another coordinator's.
        clock: Monotonic seconds.
        told: Told each request's run, kind and error code (empty for none).
    """

    audit: SiteAudit
    approvals: Approvals | None = None
    idle_s: float = 600.0
    clock: Callable[[], float] = time.monotonic
    told: Callable[[str, str, str], None] = lambda run, kind, code: None
    _run: str = ""
    _coordinator: str = ""
    _last: float = 0.0
    _logged: set[tuple[str, str]] = field(default_factory=set)

    def request(self, run: str, kind: str, *, coordinator: str) -> None:
        """Before anything of a request is looked at further.

        A coordinator carries one run at a time. Where it begins or resumes another one here, the
        first was stopped, paused or has failed, and there is nobody else to wait for.

        Raises:
            Rejected: SITE_BUSY while another run is under way, PLAN_DECLINED once a person took
                an approval back.
        """
        if kind in HOLDING and self.approvals is not None and self.approvals.was_declined(
                run, coordinator=coordinator):
            raise declined()
        another = self._run not in ("", run) and self.clock() - self._last < self.idle_s
        takes_over = kind == READY and coordinator == self._coordinator
        if kind in HOLDING and another and not takes_over:
            raise Rejected(SITE_BUSY, f"run {self._run} is under way at this site",
                           "it is asked again by itself; or stop the other run")

    def plan(self, offer: RunOffer) -> None:
        """Before a plan that the policy accepts is locked; raises like Approvals.require.

        Guarantees:
            The decision is in the hospital's own log before the plan is accepted.
        """
        if self.approvals is None:
            return
        found = self.approvals.require(offer)
        if (found.run, found.plan_digest) not in self._logged:
            self.audit.plan_approved(
                run_id=found.run, plan_digest=found.plan_digest, by=found.by)
            self._logged.add((found.run, found.plan_digest))

    def answered(self, run: str, kind: str, code: str, *, coordinator: str) -> None:
        """After a request; one that was refused keeps no other run out."""
        if kind == FINISH and run == self._run:
            self._run = ""
        elif kind in HOLDING and not code:
            self._run, self._coordinator, self._last = run, coordinator, self.clock()
        self.told(run, kind, code)

"""What every step of a session at a site relies on: who the site is, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass

from medunlearn_client.masking.journal import (
    KnownPlan,
    SessionRecord,
    SessionState,
    ShareJournal,
    Transaction,
)
from medunlearn_common.entropy import Entropy
from medunlearn_common.errors import Rejected
from medunlearn_common.masking.members import Members
from medunlearn_common.masking.parameters import MIN_SITES, required_sites
from medunlearn_common.masking.signing import Signer, Verifier


@dataclass(frozen=True, kw_only=True)
class MaskingIdentity:
    """Who this site is, how it signs, whom it believes, where its randomness comes from."""

    site_id: str
    signer: Signer
    verifier: Verifier
    entropy: Entropy
    min_sites: int = MIN_SITES  # the site's own policy; a plan may ask for more, never for less


class SiteRules:
    """The journal, the identity, and the checks that several steps share."""

    def __init__(self, journal: ShareJournal, identity: MaskingIdentity) -> None:
        self._journal = journal
        self._me = identity

    def _require_enough(self, count: int, members: Members, plan: KnownPlan) -> None:
        # By the plan's sites, not by the session's: the coordinator chooses whom a session shows,
        # and two sums of one release over different sites could be subtracted.
        if members.sites != plan.sites:
            raise Rejected(
                "MASKING_PLAN_SITES",
                f"a session of {members.sites} sites under a plan of {plan.sites}",
                "the coordinator must lead sums by the plan that the sites accepted",
            )
        least = required_sites(max(plan.min_sites, self._me.min_sites), plan.sites)
        if count < least:
            raise Rejected(
                "MASKING_TOO_FEW_SITES",
                f"a sum over {count} sites where this site needs {least}",
                "wait until more sites take part",
            )

    @staticmethod
    def _plan(step: Transaction, plan_digest: str) -> KnownPlan:
        plan = step.plan(plan_digest)
        if plan is None:
            raise Rejected(
                "PLAN_UNKNOWN", "a request belongs to a plan this site never accepted",
                "start the run with READY",
            )
        return plan

    def _position(self, members: Members) -> int:
        if self._me.site_id not in members.positions:
            raise Rejected(
                "MASKING_KEY_SELF", "this site's own keys are missing from the session",
                "begin another session",
            )
        return members.positions[self._me.site_id]


def held(
    step: Transaction, run_id: str, session: str, *, least: SessionState = SessionState.KEYS
) -> SessionRecord:
    """A session that is under way and not opened."""
    record = step.session(run_id, session)
    if record is not None and record.state is SessionState.OPENED:
        raise closed()
    if record is None or record.state < least:
        raise unknown()
    return record


def require_open(step: Transaction, run_id: str, release: str) -> None:
    opened_in = step.opened_in(run_id, release)
    if opened_in is not None:
        raise Rejected(
            "MASKING_RELEASE_CLOSED",
            f"{release} was opened in session {opened_in}; a second sum of it could be "
            "subtracted from the first",
            "resume the run from its own checkpoint",
        )


def closed() -> Rejected:
    return Rejected(
        "MASKING_SESSION_CLOSED", "this session was opened; its secrets are gone",
        "begin another session",
    )


def unknown() -> Rejected:
    return Rejected(
        "MASKING_SESSION_UNKNOWN", "this site has not come so far in this session",
        "begin another session",
    )

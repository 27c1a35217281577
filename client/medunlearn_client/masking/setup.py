"""The set-up of a session at a site: fresh keys, everybody's keys checked, shares sealed."""

from __future__ import annotations

from dataclasses import replace

from medunlearn_client.masking.journal import (
    KnownPlan,
    SessionRecord,
    SessionState,
    Transaction,
)
from medunlearn_client.masking.rules import SiteRules, closed, held
from medunlearn_common.errors import Rejected
from medunlearn_common.masking.keys import SessionSecrets
from medunlearn_common.masking.members import Members
from medunlearn_common.masking.parts import offer_to_bytes, read_members, sealed_to_bytes
from medunlearn_common.masking.sharing import seal_shares


class SessionSetup(SiteRules):
    """The two set-up steps, alone or riding on the sum before."""

    def note_plan(self, plan_digest: str, plan: KnownPlan) -> None:
        """Keep what masking needs of a plan that the hospital accepted."""
        with self._journal.transaction() as step:
            step.note_plan(plan_digest, plan)

    def keys(self, run_id: str, session: str, *, plan_digest: str) -> bytes:
        """Fresh keys for a session, once: whoever asks again gets the same ones.

        Guarantees:
            Asking again changes nothing, however far the session has come: a request that was
            delayed or repeated cannot end a session that is under way. Only the first one of
            a run that is new here erases what earlier runs left waiting.

        Raises:
            Rejected: PLAN_UNKNOWN, MASKING_JOURNAL_LOST, MASKING_SESSION_CLOSED.
        """
        self._journal.require_run(run_id)
        with self._journal.transaction() as step:
            self._plan(step, plan_digest)
            new = not step.knows_run(run_id)
            if new:
                step.erase_unsigned_beside(run_id)
            offer = self._keys(step, run_id, session)
        if new:
            self._journal.empty_log()
        return offer

    def _keys(self, step: Transaction, run_id: str, session: str) -> bytes:
        record = step.session(run_id, session)
        if record is not None and record.state is SessionState.OPENED:
            raise closed()
        if record is None:
            root = self._me.entropy.key("masking", self._me.site_id, run_id, session)
            record = SessionRecord(
                run_id=run_id, session=session, state=SessionState.KEYS, root=root
            )
            step.put(record)
        offer = SessionSecrets(root=record.root).offer(
            self._me.signer, run_id=run_id, session=session, site_id=self._me.site_id
        )
        return offer_to_bytes(offer)

    def shares(self, run_id: str, session: str, offers: bytes, *, plan_digest: str) -> bytes:
        """Check everybody's keys and seal this site's shares to its neighbours.

        Raises:
            Rejected: PLAN_UNKNOWN, MASKING_SESSION_UNKNOWN, _CLOSED or _CHANGED,
                MASKING_KEY_LOW_ORDER, _TWICE or _SELF, MASKING_TOO_FEW_SITES, _PLAN_SITES,
                or the verifier's code.
        """
        self._journal.require_run(run_id)
        with self._journal.transaction() as step:
            plan = self._plan(step, plan_digest)
            return self._shares(step, run_id, session, offers, plan)

    def _shares(
        self, step: Transaction, run_id: str, session: str, offers: bytes, plan: KnownPlan
    ) -> bytes:
        record = held(step, run_id, session)
        if record.members not in (b"", offers):
            raise Rejected(
                "MASKING_SESSION_CHANGED", "other keys were shown for this session before",
                "begin another session",
            )
        members = read_members(offers, run_id=run_id, session=session)
        secrets, position = SessionSecrets(root=record.root), self._position(members)
        if record.members == b"":
            self._check_members(members, secrets, position, plan)
            step.put(replace(record, members=offers, state=SessionState.SHARES))
        return sealed_to_bytes(seal_shares(secrets, members, position))

    def _check_members(
        self, members: Members, secrets: SessionSecrets, position: int, plan: KnownPlan
    ) -> None:
        own = secrets.offer(
            self._me.signer, run_id=members.run_id, session=members.session,
            site_id=self._me.site_id,
        )
        shown = members.offers[position]
        if replace(shown, signature=b"") != replace(own, signature=b""):
            raise Rejected(
                "MASKING_KEY_SELF", "this site's own keys were replaced on the way",
                "somebody between the sites changes keys; tell the consortium",
            )
        self._require_enough(len(members.names), members, plan)
        # All of them, neighbours or not: who counts towards m and the threshold must be a site.
        for other, offer in enumerate(members.offers):
            if other != position:
                offer.check(self._me.verifier, run_id=members.run_id, session=members.session)

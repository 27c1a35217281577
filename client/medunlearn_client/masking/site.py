"""One site's steps in a session: from fresh keys to the one share it gives for each peer.

Each step is one transaction of the share journal; its answer is returned only after that
transaction is on disk. The order of states is KEYS, SHARES, MASKED, AGREED, OPENED; a step
may be repeated, with the same bytes, and gets the same answer. Everything else is refused.

Guarantees:
    * For one peer and session a site gives a share of the self-mask seed or of the mask key,
      never both, whatever the coordinator asks and whenever the site is killed.
    * Nothing is opened without a quorum of valid signatures over this site's own view of
      the participants, the release, the survivors and what they sent.
    * One release is opened in one session only: two sums of the same vectors whose
      survivors differ by one site would show that site's vector.
    * A sum covers at least max(policy, t) >= 3 sites.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from medunlearn_client.masking.journal import (
    KnownPlan,
    SessionRecord,
    SessionState,
    Transaction,
)
from medunlearn_client.masking.rules import held, require_open, unknown
from medunlearn_client.masking.setup import SessionSetup
from medunlearn_common.errors import Rejected
from medunlearn_common.masking.binding import (
    Binding,
    release_name,
    request_digest,
    survivors_digest,
)
from medunlearn_common.masking.expansion import add_masks
from medunlearn_common.masking.keys import SessionSecrets
from medunlearn_common.masking.parts import (
    AGREE_CONTEXT,
    Delivery,
    Opening,
    Shares,
    Survivors,
    read_members,
)
from medunlearn_common.masking.sharing import open_share, share_out
from medunlearn_common.messages import Message
from medunlearn_common.ring import RingVector
from medunlearn_common.updates import WIRE_DTYPE

_LOG = logging.getLogger("medunlearn.hospital")


class MaskingSite(SessionSetup):
    """The steps of all sessions at one site; the set-up steps are inherited."""

    def before_release(self, request: Message, delivery: bytes, session: str) -> None:
        """What can be refused before the hospital computes anything; raises as :meth:`mask`."""
        run_id = request.text("run_id")
        self._journal.require_run(run_id)
        with self._journal.transaction() as step:
            plan = self._plan(step, request.text("plan_digest"))
            record = held(step, run_id, session)
            self._binding(step, record, request, Delivery.from_bytes(delivery), plan)

    def mask(
        self, request: Message, delivery: bytes, session: str, payload: bytes
    ) -> bytes:
        """Mask a release under the session's keys; the same request gets the same bytes.

        Args:
            request: The release's request, without the masking part.
            delivery: The masking part.
            session: Name of the session.
            payload: The hospital's answer: ring words, little-endian.

        Raises:
            Rejected: MASKING_SESSION_UNKNOWN, _CLOSED or _USED, MASKING_RELEASE_CLOSED,
                MASKING_PARTICIPANTS, MASKING_TOO_FEW_SITES, MASKING_SHARE_SEALED,
                MASKING_VECTOR.
        """
        found = Delivery.from_bytes(delivery)
        with self._journal.transaction() as step:
            plan = self._plan(step, request.text("plan_digest"))
            record = held(step, request.text("run_id"), session)
            binding = self._binding(step, record, request, found, plan)
            masked = self._masked(record, binding, found, payload)
            digest = hashlib.sha256(masked).digest()
            if record.masked not in (b"", digest):
                raise Rejected(
                    "MASKING_SESSION_USED", "another vector was masked in this session",
                    "begin another session",
                )
            if record.state is SessionState.SHARES:
                step.put(replace(
                    record, state=SessionState.MASKED, delivery=delivery, masked=digest,
                    release=binding.release, request=binding.request,
                    plan_digest=request.text("plan_digest"),
                ))
        return masked

    def _binding(
        self, step: Transaction, record: SessionRecord, request: Message, delivery: Delivery,
        plan: KnownPlan,
    ) -> Binding:
        """This site's view of the attempt, checked against what it did before."""
        release, digest = release_name(request), request_digest(request)
        require_open(step, record.run_id, release)
        if record.state is SessionState.KEYS:
            raise unknown()
        if record.state is not SessionState.SHARES and (
            (record.release, record.request, record.delivery)
            != (release, digest, delivery.to_bytes())
        ):
            raise Rejected(
                "MASKING_SESSION_USED", "this session's keys masked another release",
                "begin another session",
            )
        members = read_members(record.members, run_id=record.run_id, session=record.session)
        position, taking_part = self._position(members), set(delivery.participants)
        expected = tuple(p for p in members.neighbours(position) if p in taking_part)
        if (
            position not in taking_part or max(taking_part) >= len(members.names)
            or tuple(delivery.sealed) != expected
        ):
            raise Rejected(
                "MASKING_PARTICIPANTS", "participants and sealed shares do not fit",
                "the coordinator must deliver the shares of exactly this site's neighbours",
            )
        self._require_enough(len(taking_part), members, plan)
        if len(expected) + 1 < members.shape.threshold:
            raise Rejected(
                "MASKING_TOO_FEW_SITES", "too few of this site's neighbours take part",
                "begin another session",
            )
        return Binding(
            members=members, participants=delivery.participants, release=release,
            request=digest, model_digest=plan.model_digest,
        )

    def _masked(
        self, record: SessionRecord, binding: Binding, delivery: Delivery, payload: bytes
    ) -> bytes:
        vector = _ring_vector(payload)
        secrets = SessionSecrets(root=record.root)
        position = self._position(binding.members)
        for sender, sealed in delivery.sealed.items():
            open_share(secrets, binding.members, sender=sender, recipient=position,
                       sealed=sealed)
        add_own_masks(vector, binding, secrets, position)
        return vector.astype(WIRE_DTYPE, copy=False).tobytes()

    # -- opening -------------------------------------------------------------------------

    def agree(
        self, run_id: str, session: str, survivors: bytes, *, next_session: str
    ) -> bytes:
        """Sign the survivor set, once per session, and offer keys for the next session.

        Raises:
            Rejected: MASKING_SESSION_UNKNOWN or _CLOSED, MASKING_RELEASE_CLOSED,
                MASKING_SURVIVORS, MASKING_SURVIVORS_CHANGED, MASKING_TOO_FEW_SITES.
        """
        self._journal.require_run(run_id)
        with self._journal.transaction() as step:
            record = held(step, run_id, session, least=SessionState.MASKED)
            require_open(step, run_id, record.release)
            if record.survivors not in (b"", survivors):
                raise Rejected(
                    "MASKING_SURVIVORS_CHANGED",
                    "another survivor set was signed in this session before",
                    "the coordinator shows sites different survivors; tell the consortium",
                )
            digest = self._survivors_digest(step, record, Survivors.from_bytes(survivors))
            if record.state is SessionState.MASKED:
                step.put(replace(record, state=SessionState.AGREED, survivors=survivors))
            offer = b""
            if next_session and next_session != session:
                offer = self._keys(step, run_id, next_session)
        return self._me.signer.sign(AGREE_CONTEXT, digest) + offer

    def _survivors_digest(
        self, step: Transaction, record: SessionRecord, survivors: Survivors
    ) -> bytes:
        binding = self._kept_binding(step, record)
        position, named = self._position(binding.members), tuple(survivors.payloads)
        if (
            not set(named) <= set(binding.participants)
            or survivors.payloads.get(position) != record.masked
        ):
            raise Rejected(
                "MASKING_SURVIVORS", "a survivor set names strangers, or not what this site sent",
                "the coordinator's view and this site's differ; tell the consortium",
            )
        self._require_enough(
            len(named), binding.members, self._plan(step, record.plan_digest)
        )
        return survivors_digest(binding, named, list(survivors.payloads.values()))

    def _kept_binding(self, step: Transaction, record: SessionRecord) -> Binding:
        members = read_members(record.members, run_id=record.run_id, session=record.session)
        return Binding(
            members=members, release=record.release, request=record.request,
            participants=Delivery.from_bytes(record.delivery).participants,
            model_digest=self._plan(step, record.plan_digest).model_digest,
        )

    def open(self, run_id: str, session: str, opening: bytes, *, next_session: str) -> bytes:
        """Give one share per participant, and the next session's sealed shares.

        Raises:
            Rejected: MASKING_SESSION_UNKNOWN, MASKING_RELEASE_CLOSED,
                MASKING_SURVIVORS_DISPUTED without a quorum of valid signatures. What is
                wrong with the next session's keys only leaves its shares out.
        """
        self._journal.require_run(run_id)
        found = Opening.from_bytes(opening)
        with self._journal.transaction() as step:
            record = step.session(run_id, session)
            if record is None or record.state < SessionState.AGREED:
                raise unknown()
            plan = self._plan(step, record.plan_digest)
            if record.state is SessionState.AGREED:
                require_open(step, run_id, record.release)
                record = self._opened(step, record, found.signatures)
                step.put(record)
                step.close_release(record, keep=next_session)
            sealed = b""
            if found.next_members:
                sealed = self._next_shares(step, run_id, next_session, found, plan)
        # Also when it is asked again: a site that was killed here has not done it yet.
        self._journal.empty_log()
        return record.shares + sealed

    def _next_shares(
        self, step: Transaction, run_id: str, session: str, opening: Opening, plan: KnownPlan
    ) -> bytes:
        """The next session's sealed shares; nothing if its keys are wrong."""
        try:
            with step.attempt():
                return self._shares(step, run_id, session, opening.next_members, plan)
        except Rejected as error:
            _LOG.error("%s: %s", self._me.site_id, error)
            return b""  # the next sum's set-up failed; this sum must not suffer from it

    def _opened(
        self, step: Transaction, record: SessionRecord, signatures: Mapping[int, bytes]
    ) -> SessionRecord:
        """The record once its shares are chosen and its secrets are gone."""
        binding = self._kept_binding(step, record)
        survivors = Survivors.from_bytes(record.survivors)
        digest = survivors_digest(
            binding, tuple(survivors.payloads), list(survivors.payloads.values())
        )
        self._require_quorum(binding, survivors, digest, signatures)
        members, position = binding.members, self._position(binding.members)
        secrets = SessionSecrets(root=record.root)
        pairs = {position: share_out(secrets, members, position)[position]}
        for sender, sealed in Delivery.from_bytes(record.delivery).sealed.items():
            pairs[sender] = open_share(
                secrets, members, sender=sender, recipient=position, sealed=sealed
            )
        chosen = {
            peer: pair.self_seed if peer in survivors.payloads else pair.mask_key
            for peer, pair in pairs.items()
        }
        return replace(
            record, state=SessionState.OPENED, root=b"", delivery=b"",
            shares=Shares(shares=chosen, sealed=b"").to_bytes(),
        )

    def _require_quorum(
        self, binding: Binding, survivors: Survivors, digest: bytes,
        signatures: Mapping[int, bytes],
    ) -> None:
        valid = 0
        for position, signature in signatures.items():
            if position not in survivors.payloads:
                continue
            try:
                self._me.verifier.verify(
                    binding.members.names[position], AGREE_CONTEXT, digest, signature
                )
            except Rejected:
                continue  # counts for nothing; a forged one must not stop the others
            valid += 1
        if valid < binding.members.quorum:
            raise Rejected(
                "MASKING_SURVIVORS_DISPUTED",
                f"{valid} sites signed this survivor set, {binding.members.quorum} are needed",
                "sites were shown different survivors, or too few answered; nothing was opened",
            )

    def finish(self, run_id: str) -> None:
        """Erase what is left of a run's sessions."""
        with self._journal.transaction() as step:
            step.erase_run(run_id)
        self._journal.empty_log()


def add_own_masks(
    vector: RingVector, binding: Binding, secrets: SessionSecrets, position: int
) -> None:
    """Add a site's self mask and its pairwise masks in place.

    Of two neighbours the one at the lower position adds their common mask and the other
    subtracts it, so that it cancels in their sum.
    """
    pairs = [
        (binding.pair_mask_seed(secrets.mask_private, position, other),
         1 if position < other else -1)
        for other in binding.masking_neighbours(position)
    ]
    add_masks(vector, [(binding.self_mask_seed(secrets.self_seed, position), 1), *pairs])


def _ring_vector(payload: bytes) -> RingVector:
    if not payload or len(payload) % WIRE_DTYPE.itemsize:
        raise Rejected(
            "MASKING_VECTOR", "what is to be masked is no vector of ring words",
            "report this: it is a defect",
        )
    return np.frombuffer(payload, dtype=WIRE_DTYPE).astype(np.uint32)

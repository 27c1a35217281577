"""What the coordinator writes into its audit log, and how sites become its witnesses.

Every record is on disk before the state it tells of: a crash in between repeats the step, and
an equal record is not written twice. Each request carries the log's signed head with all leaf
hashes, so that a site can check that nothing it saw before was changed; each answer brings the
site's signature on that head. The hashes travel whole, 32 bytes a record, because a request is a
pure function of the coordinator's own state, which does not know what each site saw last; for
the same reason a request carries the head that the log had when its step began, so that it is
repeated with the same bytes after a crash.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from math import isfinite
from pathlib import Path

from medunlearn_common import __version__
from medunlearn_common.audit import AuditLog, AuditRecord, SignedCheckpoint
from medunlearn_common.audit.carrying import COSIGNATURE_FIELD, with_head
from medunlearn_common.audit.log import origin_in
from medunlearn_common.audit.signing import COSIGNATURE_CONTEXT, coordinator_log
from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.identity import SigningIdentity
from medunlearn_common.messages import COLLECT, FINISH, PUBLISH, READY, Message
from medunlearn_common.trust_folder import (
    RosterInForce,
    open_former_identity,
    open_identity,
)
from medunlearn_common.updates import SparseUpdate
from medunlearn_server.reports import GateVerdict, RoundReport, RunOutcome, VoteReport
from medunlearn_server.roster import Agreement, Roster
from medunlearn_server.round_state import Phase, RoundState
from medunlearn_server.transport import Reply, Transport

AUDIT_FILE = "audit.db"
_KEY_ID = re.compile(r"[0-9a-f]{64}")


def run_under_former_key(run_id: str) -> Misconfigured:
    """RUN_UNDER_FORMER_KEY: what a replaced key did not sign in time, it does not sign any more."""
    return Misconfigured(
        "RUN_UNDER_FORMER_KEY", f"run {run_id} was begun under a key of this coordinator that was "
        "replaced since", "it can neither go on nor be attested any more: launch its plan again. "
        "What was attested before `coordinator rotate` is published as ever",
    )


class AuditTrail:
    """The coordinator's log of one run, opened when it is first written or shown.

    It goes on under the key that began it, also when the coordinator has another one since.

    Args:
        folder: The run's folder at the coordinator.
        run_id: The run.
        party: Folder whose ``trust`` is this coordinator's; None takes the run's own.
    """

    def __init__(self, folder: Path, *, run_id: str, party: Path | None = None) -> None:
        self._folder = folder
        self._party = party or folder
        self._run_id = run_id
        self._floor = 0  # READY of this process never comes under an older record
        self._heads: dict[int, tuple[SignedCheckpoint, tuple[bytes, ...]]] = {}

    @cached_property
    def log(self) -> AuditLog:
        """The log.

        Raises:
            Misconfigured: As :attr:`signer`: there is no run without a log.
            Rejected: As :class:`~medunlearn_common.audit.AuditLog`.
        """
        return AuditLog(
            self._folder / AUDIT_FILE, signer=self.signer,
            origin=coordinator_log(self._run_id, key_id=self.signer.key_id),
        )

    @cached_property
    def signer(self) -> SigningIdentity:
        """The coordinator under the key that keeps this log: that in force, or a former one.

        Raises:
            Misconfigured: TRUST_MISSING, FORMER_KEY_MISSING or a KEY_ code.
        """
        signer = open_identity(self._party)
        named = origin_in(self._folder / AUDIT_FILE) or ""
        key_id = named.removeprefix(coordinator_log(self._run_id, key_id=""))
        if key_id == signer.key_id or not _KEY_ID.fullmatch(key_id):
            return signer  # a log that is none of this run's is found damaged when it is opened
        return open_former_identity(self._party, key_id)

    def require_key_in_force(self) -> None:
        """Refuse to lead a run under a key that was replaced: no hospital answers under it.

        Raises:
            Misconfigured: RUN_UNDER_FORMER_KEY, or as :attr:`signer`.
        """
        if self.signer.key_id != open_identity(self._party).key_id:
            raise run_under_former_key(self._run_id)

    @cached_property
    def roster(self) -> RosterInForce:
        """The public keys of the sites."""
        return RosterInForce(self._party)

    def carried_by(self, request: Message) -> Message:
        """The request with the log's head as it was when the request's step began."""
        size = 1 + self._milestone(request)
        if size not in self._heads:
            self._heads = {size: (self.log.head_at(size), self.log.leaves[:size])}
        return with_head(request, *self._heads[size])

    def _milestone(self, request: Message) -> int:
        """The record after which the request belongs; the first one if there is no such record.

        It never goes back: a site that has seen a head takes an older one with a repeated
        request only. So READY comes with the head of the step that it leads to.
        """
        if request.kind in (PUBLISH, COLLECT):  # each publication is a slot of its own
            return len(self.log.records) - 1
        if request.kind == FINISH:
            return self._last("run_ended")
        round_index = request.fields.get("round")
        if not isinstance(round_index, int):
            return self._before_vote()
        if request.kind == READY:
            return max(self._floor, self._before_round(round_index) if round_index else 0)
        return self._before_round(round_index)

    def _before_vote(self) -> int:
        supported = self._last("support_chosen") or None
        return self._last("sites_agreed", before=supported)

    def _before_round(self, round_index: int) -> int:
        """The last round accepted before this one; before the first, the support."""
        return self._last(
            "round_accepted", where=lambda record: record.fields["round"] < round_index
        ) or self._last("support_chosen")

    def _last(
        self, kind: str, *, before: int | None = None,
        where: Callable[[AuditRecord], bool] = lambda record: True,
    ) -> int:
        records = self.log.records[:before]
        return max((r.index for r in records if r.kind == kind and where(r)), default=0)

    def begun(self, *, plan_digest: str) -> None:
        """The run begins; before anybody is asked."""
        self.log.append(
            "run_begun", run_id=self._run_id, plan_digest=plan_digest, version=__version__
        )

    def resumed(self, state: RoundState) -> None:
        """The run goes on; what is asked from here on comes under what sites may have seen."""
        if state.phase is Phase.VOTE:
            self._floor = self._before_vote()
        else:  # after the end the sites may know of it already, and are told once more
            self._floor = self._last("run_ended") or self._before_round(state.next_round)
        self.log.append("run_resumed", run_id=self._run_id, next_round=state.next_round)

    def agreed(self, agreement: Agreement, roster: Roster) -> None:
        """The sites agree; again at the end, where some came later."""
        self.log.append(
            "sites_agreed", sites=sorted(roster.ready.values()), refused=roster.refusals(),
            model_digest=agreement.model_digest, tokenizer_digest=agreement.tokenizer_digest,
            hierarchy_digest=agreement.hierarchy_digest, layout_digest=agreement.layout.digest,
            request_roots=dict(roster.request_roots),
        )

    def supported(self, vote: VoteReport) -> None:
        """The support is known."""
        self.log.append(
            "support_chosen", method=vote.method, size=vote.size,
            support_digest=vote.support_digest, sites=list(vote.sites),
        )

    def round_done(self, report: RoundReport) -> None:
        """A round's sum is used: who is in it, and what it is."""
        self.log.append(
            "round_accepted", round=report.round_index, sites=list(report.sites),
            sum_digest=report.sum_digest, failures=dict(report.failures),
            attempts=report.attempts, epsilon=report.epsilon,
        )

    def judged(self, verdict: GateVerdict) -> None:
        """A gate failed, and perhaps somebody lets that pass."""
        value = verdict.value
        self.log.append(
            "gate_failed", gate=verdict.gate, limit=verdict.limit,
            figure=value if value is not None and isfinite(value) else None,
        )
        if verdict.overridden_by:
            reason = hashlib.sha256(verdict.overridden_because.encode("utf-8")).hexdigest()
            self.log.append(
                "gate_overridden", gate=verdict.gate, by=verdict.overridden_by,
                reason_digest=reason,
            )

    def stopped(self, code: str) -> None:
        """The run stops before its end."""
        self.log.append("run_stopped", code=code)

    def ended(self, outcome: RunOutcome) -> None:
        """The adapter is on disk; the sites are not told yet."""
        self.log.append("adapter_written", adapter_digest=outcome.adapter_digest)
        self.log.append(
            "run_ended", reason=outcome.reason, rounds=outcome.rounds, epsilon=outcome.epsilon,
            delta=outcome.delta, adapter_digest=outcome.adapter_digest,
        )


class WitnessedTransport:
    """A transport whose requests carry the log's head, and whose answers bring signatures on it.

    A signature that is not a site's own, or on a state that never was, is not kept; the answer
    it came with is used all the same, since it is checked by other means.
    """

    def __init__(self, inner: Transport, trail: AuditTrail) -> None:
        self._inner = inner
        self._trail = trail
        self._kept: dict[str, str] = {}  # a site signs one head several times, to the same bytes

    def sites(self) -> tuple[str, ...]:
        """As the inner transport."""
        return self._inner.sites()

    def exchange(
        self, requests: Mapping[str, Message], *, deadline_s: float
    ) -> Mapping[str, Reply]:
        """As the inner transport, with the head on the way out."""
        carrying = {
            address: self._trail.carried_by(request) for address, request in requests.items()
        }
        replies = self._inner.exchange(carrying, deadline_s=deadline_s)
        return {address: self._received(reply) for address, reply in replies.items()}

    def _received(self, reply: Reply) -> Reply:
        if not isinstance(reply, Message) or COSIGNATURE_FIELD not in reply.fields:
            return reply
        fields = dict(reply.fields)
        note = fields.pop(COSIGNATURE_FIELD)
        try:
            self._keep(str(note), site=str(fields.get("site_id")))
        except Rejected as error:
            self._trail.log.append("request_refused", request="cosignature", code=error.code)
        return replace(reply, fields=fields)

    def _keep(self, note: str, *, site: str) -> None:
        if self._kept.get(site) == note:
            return
        cosigned = SignedCheckpoint.from_text(note)
        cosigned.require_signature(self._trail.roster, by=site, context=COSIGNATURE_CONTEXT)
        self._trail.log.keep_cosignature(cosigned)
        self._kept[site] = note


def sum_digest(total: SparseUpdate) -> str:
    """SHA-256 (hex) of the sum of ring vectors, as little-endian uint32."""
    return hashlib.sha256(total.values.astype("<u4").tobytes()).hexdigest()

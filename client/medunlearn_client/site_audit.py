"""A hospital's own audit log, and its memory of the coordinator's.

The log says what the hospital accepted, charged, answered and refused; it stays at the hospital.
Of an answer it keeps the size alone: a digest of a few noised counts could be guessed.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from medunlearn_client.request_roots import root_for_run
from medunlearn_common.accounting import Mechanism
from medunlearn_common.audit import AuditLog, SignedCheckpoint, WitnessStore
from medunlearn_common.audit.carrying import COSIGNATURE_FIELD, without_head
from medunlearn_common.audit.signing import coordinator_log, site_log
from medunlearn_common.entropy import Entropy
from medunlearn_common.errors import MedunlearnError, Rejected
from medunlearn_common.identity import SigningIdentity
from medunlearn_common.messages import COLLECT, PUBLISH, Message
from medunlearn_common.roster.former import PartyKey
from medunlearn_common.trust_folder import TRUST_FOLDER, RosterInForce, open_identity

AUDIT_FILE = "audit.db"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What an opened envelope says of the request in it.

    Attributes:
        sender: Who signed it.
        repeated: Whether this request was answered before: in this very envelope, or in the one
            from which a later roster parts it.
    """

    sender: str
    repeated: bool


class SiteAudit:
    """Log and witness of one hospital.

    Guarantees:
        * With a trust folder, which every hospital behind an envelope has, the hospital answers
          no request without a head of the log of the coordinator that asks, signed by it,
          that continues all that it saw of it; no plan and no request can switch that off.
        * A head older than the newest one seen is taken only again, and only with a request
          that was answered before, in the same words: nothing new is asked beside the log.
        * A run has one log, under one key, from its first request to its last. When the
          coordinator has taken another key since, the run can still be published under the old
          one, at a hospital that saw that very log then; nothing else is asked under it.
        * What it charges and answers is in its own log before the answer leaves.

    Args:
        folder: The hospital's folder.
        site_id: Its name.
        entropy: For what it shows of its erasure requests.
    """

    def __init__(self, folder: Path, *, site_id: str, entropy: Entropy) -> None:
        self._folder = folder
        self._site_id = site_id
        self._entropy = entropy

    @property
    def _is_party(self) -> bool:
        """Whether the hospital has a key: without one it is behind no envelope, and has no log."""
        return (self._folder / TRUST_FOLDER).is_dir()

    @cached_property
    def _signer(self) -> SigningIdentity:
        return open_identity(self._folder)

    @cached_property
    def _roster(self) -> RosterInForce:
        return RosterInForce(self._folder)

    @cached_property
    def log(self) -> AuditLog:
        """The hospital's own log."""
        return AuditLog(
            self._folder / AUDIT_FILE, origin=site_log(self._site_id), signer=self._signer
        )

    @cached_property
    def witness(self) -> WitnessStore:
        """The memory of the coordinator's log."""
        return WitnessStore(
            self._folder / AUDIT_FILE, verifier=self._roster, signer=self._signer
        )

    def _append(self, kind: str, **fields: Any) -> None:
        if self._is_party:
            self.log.append(kind, **fields)

    def taken(
        self, message: Message, asked: Asked | None
    ) -> tuple[Message, SignedCheckpoint | None]:
        """The request without the head it carried, and this hospital's signature on that head.

        Raises:
            Rejected: CHECKPOINT_MISSING, CHECKPOINT_SIGNER if it is not of the coordinator that
                asks, KEY_REVOKED, or as :meth:`WitnessStore.witness`.
            Transient: AUDIT_UNAVAILABLE.
        """
        plain, carried = without_head(message)
        if not self._is_party:
            return plain, None
        if carried is None or asked is None:
            raise Rejected(
                "CHECKPOINT_MISSING", "a request carries no state of the coordinator's log",
                "update the coordinator",
            )
        head, leaves = carried
        keeper = self._roster.current.party(head.signer)
        if keeper.role != "coordinator" or keeper.party_id != asked.sender:
            raise Rejected(
                "CHECKPOINT_SIGNER", f"{head.signer} keeps no log of what {asked.sender} asks",
                "report this to the consortium",
            )
        run_id = message.text("run_id")
        former = self._former_key(message.kind, head, run_id)
        key_id = keeper.key_id if former is None else former.party.key_id
        cosigned = self.witness.witness(
            head, keeper=keeper.party_id, leaves=leaves, repeated=asked.repeated,
            origin=coordinator_log(run_id, key_id=key_id),
            only_one_under=coordinator_log(run_id, key_id=""), verifier=former,
        )
        return plain, cosigned

    def _former_key(self, kind: str, head: SignedCheckpoint, run_id: str) -> PartyKey | None:
        """The coordinator's key of before, where a run that ended under it is published.

        That this hospital has seen the run's log under that key ties the key to the run: nobody
        can begin another log of the run under it, or any log of a new one.
        """
        origin = head.checkpoint.origin
        key_id = origin.removeprefix(coordinator_log(run_id, key_id=""))
        if kind not in (PUBLISH, COLLECT) or not self.witness.seen(origin):
            return None
        return self._roster.former_key(head.signer, key_id)

    @staticmethod
    def signed(answer: Message, cosigned: SignedCheckpoint | None) -> Message:
        """The answer with the signature."""
        if cosigned is None:
            return answer
        fields = {**answer.fields, COSIGNATURE_FIELD: cosigned.to_text()}
        return replace(answer, fields=fields)

    def plan_accepted(self, *, run_id: str, plan_digest: str, request_root: str) -> None:
        """A plan passed every check."""
        self._append(
            "plan_accepted", run_id=run_id, plan_digest=plan_digest, request_root=request_root
        )

    def plan_approved(self, *, run_id: str, plan_digest: str, by: str) -> None:
        """A person of this hospital approved a plan for a run."""
        self._append("plan_approved", run_id=run_id, plan_digest=plan_digest, by=by)

    def charged(
        self, *, run_id: str, release: str, request_digest: str, mechanism: Mechanism
    ) -> None:
        """The ledger has charged a release."""
        self._append(
            "release_charged", run_id=run_id, release=release, request_digest=request_digest,
            sigma=mechanism.sigma, count=mechanism.count,
        )

    def answered(self, *, run_id: str, release: str, size_bytes: int) -> None:
        """The answer is kept and may leave."""
        self._append("release_answered", run_id=run_id, release=release, bytes=size_bytes)

    def refused(self, *, request: str, code: str) -> None:
        """A request was refused; that it was stands even where this cannot be written."""
        with suppress(MedunlearnError):
            self._append("request_refused", request=request, code=code)

    def finished(self, *, run_id: str, adapter_digest: str) -> None:
        """The coordinator says which adapter came out."""
        self._append("run_finished", run_id=run_id, adapter_digest=adapter_digest)

    def request_root(self, run_id: str, *, given: str | None) -> str:
        """What this hospital says of its erasure requests in a run; see :class:`RunRoot`."""
        return root_for_run(
            self._folder, site_id=self._site_id, run_id=run_id, given=given,
            entropy=self._entropy,
        ).shown

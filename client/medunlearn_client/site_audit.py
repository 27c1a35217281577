"""A hospital's own audit log, and its memory of the coordinator's.

The log says what the hospital accepted, charged, answered and refused; it stays at the hospital.
Of an answer it keeps the size alone: a digest of a few noised counts could be guessed.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from medunlearn_common.accounting import Mechanism
from medunlearn_common.audit import COORDINATOR, AuditLog, SignedCheckpoint, WitnessStore
from medunlearn_common.audit.carrying import COSIGNATURE_FIELD, without_head
from medunlearn_common.audit.local_keys import BOOK_FILE, KeyBook, LocalSigner, local_signer
from medunlearn_common.audit.signing import coordinator_log, site_log
from medunlearn_common.digests import digest_of
from medunlearn_common.entropy import Entropy
from medunlearn_common.errors import MedunlearnError, Rejected
from medunlearn_common.files import write_atomically
from medunlearn_common.messages import Message

AUDIT_FILE = "audit.db"


class SiteAudit:
    """Log and witness of one hospital.

    Guarantees:
        * With a roster in its folder, the hospital answers no request without a signed head of
          the coordinator's log that continues all that it saw of it; no plan and no request can
          switch that off.
        * What it charges and answers is in its own log before the answer leaves.

    Args:
        folder: The hospital's folder.
        site_id: Its name.
        entropy: Makes its key, and the root that stands for "no requests", at first use.
    """

    def __init__(self, folder: Path, *, site_id: str, entropy: Entropy) -> None:
        self._folder = folder
        self._site_id = site_id
        self._entropy = entropy

    @cached_property
    def _signer(self) -> LocalSigner:
        return local_signer(self._folder, self._site_id, self._entropy)

    @cached_property
    def log(self) -> AuditLog:
        """The hospital's own log."""
        return AuditLog(
            self._folder / AUDIT_FILE, origin=site_log(self._site_id), signer=self._signer
        )

    @cached_property
    def witness(self) -> WitnessStore | None:
        """The memory of the coordinator's log; None without a roster to check it with."""
        path = self._folder / BOOK_FILE
        if not path.is_file():
            return None
        book = KeyBook.from_bytes(path.read_bytes())
        return WitnessStore(self._folder / AUDIT_FILE, verifier=book, signer=self._signer)

    def taken(self, message: Message) -> tuple[Message, SignedCheckpoint | None]:
        """The request without the head it carried, and this hospital's signature on that head.

        Raises:
            Rejected: CHECKPOINT_MISSING, or as :meth:`WitnessStore.witness`.
            Transient: AUDIT_UNAVAILABLE.
        """
        plain, carried = without_head(message)
        if self.witness is None:
            return plain, None
        if carried is None:
            raise Rejected(
                "CHECKPOINT_MISSING", "a request carries no state of the coordinator's log",
                "update the coordinator",
            )
        head, leaves = carried
        cosigned = self.witness.witness(
            head, keeper=COORDINATOR, origin=coordinator_log(message.text("run_id")),
            leaves=leaves, repeated=True,
        )
        return plain, cosigned

    @staticmethod
    def signed(answer: Message, cosigned: SignedCheckpoint | None) -> Message:
        """The answer with the signature."""
        if cosigned is None:
            return answer
        fields = {**answer.fields, COSIGNATURE_FIELD: cosigned.to_text()}
        return replace(answer, fields=fields)

    def plan_accepted(self, *, run_id: str, plan_digest: str, request_root: str) -> None:
        """A plan passed every check."""
        self.log.append(
            "plan_accepted", run_id=run_id, plan_digest=plan_digest, request_root=request_root
        )

    def charged(
        self, *, run_id: str, release: str, request_digest: str, mechanism: Mechanism
    ) -> None:
        """The ledger has charged a release."""
        self.log.append(
            "release_charged", run_id=run_id, release=release, request_digest=request_digest,
            sigma=mechanism.sigma, count=mechanism.count,
        )

    def answered(self, *, run_id: str, release: str, size_bytes: int) -> None:
        """The answer is kept and may leave."""
        self.log.append("release_answered", run_id=run_id, release=release, bytes=size_bytes)

    def refused(self, *, request: str, code: str) -> None:
        """A request was refused; that it was stands even where this cannot be written."""
        with suppress(MedunlearnError):
            self.log.append("request_refused", request=request, code=code)

    def finished(self, *, run_id: str, adapter_digest: str) -> None:
        """The coordinator says which adapter came out."""
        self.log.append("run_finished", run_id=run_id, adapter_digest=adapter_digest)

    def request_root(self, run_id: str, *, given: str | None) -> str:
        """The root over this hospital's erasure requests in a run, the same at every asking.

        A hospital without requests answers with random bytes, which look the same.
        """
        path = self._folder / "runs" / f"{digest_of(run_id)}.requests"
        if not path.is_file():
            drawn = self._entropy.key(self._site_id, run_id, "no-requests").hex()
            write_atomically(path, (given or drawn).encode("ascii"))
        return path.read_text("ascii")

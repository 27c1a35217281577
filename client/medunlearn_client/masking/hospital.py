"""The masking layer around a hospital: no vector leaves it but masked.

Stands between the signed envelope and :class:`medunlearn_client.hospital.Hospital`. A
release's request is checked, handed on without its masking part, and the hospital's answer,
which its ledger computed once and keeps, is masked under the session's keys. READY, FINISH and
the noiseless figures of public text pass through; every other kind needs masking. There is no
setting for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, TypeVar

from medunlearn_client.masking.journal import KnownPlan, ShareJournal
from medunlearn_client.masking.rules import MaskingIdentity
from medunlearn_client.masking.site import MaskingSite
from medunlearn_common.errors import MedunlearnError
from medunlearn_common.masking.parts import NEXT_SESSION, SESSION, detach
from medunlearn_common.messages import (
    ERROR,
    FINISH,
    MASK_AGREE,
    MASK_KEYS,
    MASK_OPEN,
    MASK_SHARES,
    READY,
    Message,
    is_public,
)
from medunlearn_common.plan import RunPlan

_LOG = logging.getLogger("medunlearn.hospital")
JOURNAL_FILE = "masking.db"
STORAGE_ERROR = "SITE_STORAGE"
INTERNAL_ERROR = "INTERNAL"
_Result = TypeVar("_Result")


class Answering(Protocol):
    """What is wrapped: :class:`medunlearn_client.hospital.Hospital`."""

    def handle(self, message: Message) -> Message:
        """Answer one request; never raises."""
        ...


class MaskedHospital:
    """Answers like the hospital inside it, but every release is masked.

    Guarantees:
        * An answer that carries a vector made from records is masked, or there is none.
        * What :class:`MaskingSite` promises about shares.
        * An error leaves as a code.
    """

    def __init__(
        self, inner: Answering, journal: ShareJournal, identity: MaskingIdentity
    ) -> None:
        """Wrap a hospital.

        Args:
            inner: The hospital.
            journal: The site's share journal.
            identity: How the site signs and whom it believes.
        """
        self.inner = inner
        self._site_id = identity.site_id
        self._masking = MaskingSite(journal, identity)

    def handle(self, message: Message) -> Message:
        """Answer one request; raises only what the hospital inside raises."""
        if is_public(message):
            return self.inner.handle(message)
        steps = {
            READY: self._ready, FINISH: self._finish, MASK_KEYS: self._keys,
            MASK_SHARES: self._shares, MASK_AGREE: self._agree, MASK_OPEN: self._open,
        }
        return steps.get(message.kind, self._release)(message)

    def _ready(self, message: Message) -> Message:
        answer = self.inner.handle(message)
        if answer.kind != READY:
            return answer

        def note() -> Message:
            plan = RunPlan.model_validate_json(message.text("plan"))
            self._masking.note_plan(plan.digest, KnownPlan(
                min_sites=plan.federation.min_sites, sites=plan.federation.sites,
                model_digest=answer.text("model_digest"),
            ))
            return answer

        return self._guarded(message, note)

    def _finish(self, message: Message) -> Message:
        answer = self.inner.handle(message)

        def erase() -> Message:
            self._masking.finish(message.text("run_id"))
            return answer

        return self._guarded(message, erase)

    def _release(self, message: Message) -> Message:
        parts: list[tuple[Message, bytes, str]] = []

        def check() -> Message | None:
            parts.append(detach(message))
            self._masking.before_release(*parts[0])
            return None

        refused = self._guarded(message, check)
        if refused is not None:
            return refused
        request, delivery, session = parts[0]
        answer = self.inner.handle(request)
        if answer.kind == ERROR:
            return answer
        return self._guarded(message, lambda: replace(
            answer, payload=self._masking.mask(request, delivery, session, answer.payload),
            fields={**answer.fields, SESSION: session},
        ))

    def _keys(self, message: Message) -> Message:
        return self._step(message, lambda run_id, session: self._masking.keys(
            run_id, session, plan_digest=message.text("plan_digest")
        ))

    def _shares(self, message: Message) -> Message:
        return self._step(message, lambda run_id, session: self._masking.shares(
            run_id, session, message.payload, plan_digest=message.text("plan_digest")
        ))

    def _agree(self, message: Message) -> Message:
        return self._step(message, lambda run_id, session: self._masking.agree(
            run_id, session, message.payload, next_session=message.text(NEXT_SESSION)
        ))

    def _open(self, message: Message) -> Message:
        return self._step(message, lambda run_id, session: self._masking.open(
            run_id, session, message.payload, next_session=message.text(NEXT_SESSION)
        ))

    def _step(self, message: Message, step: Callable[[str, str], bytes]) -> Message:
        def answer() -> Message:
            run_id, session = message.text("run_id"), message.text(SESSION)
            return Message(
                kind=message.kind, payload=step(run_id, session),
                fields={"site_id": self._site_id, "run_id": run_id, SESSION: session},
            )

        return self._guarded(message, answer)

    def _guarded(self, message: Message, action: Callable[[], _Result]) -> _Result | Message:
        """What ``action`` returns, or its error as a code."""
        try:
            return action()
        except MedunlearnError as error:
            _LOG.error("%s: %s", self._site_id, error)
            code = error.code
        except OSError:
            _LOG.exception("%s: cannot read or write in %s", self._site_id, message.kind)
            code = STORAGE_ERROR
        except Exception:
            _LOG.exception("%s: unexpected error in %s", self._site_id, message.kind)
            code = INTERNAL_ERROR
        return Message(kind=ERROR, fields={"site_id": self._site_id, "code": code})

"""The hospital as a witness of the coordinator's log, around the masks and inside the envelope.

Every request, masking's own included, carries the log's signed head. It is checked against all
that this hospital saw before, and taken off, before anything inside looks at the request: masks
are bound to what was asked, not to when.
"""

from __future__ import annotations

from typing import Protocol

from medunlearn_client.site_audit import Asked, SiteAudit
from medunlearn_common.errors import MedunlearnError
from medunlearn_common.messages import Message


class Answering(Protocol):
    """What is wrapped: :class:`medunlearn_client.masking.hospital.MaskedHospital`."""

    def handle(self, message: Message) -> Message:
        """Answer one request."""
        ...


class WitnessingHospital:
    """Answers like the hospital inside it, and signs the head that the request carried.

    Guarantees:
        A request whose head does not continue what this hospital saw is refused unread. An
        older head comes only with a request that was answered before, in the same words.
    """

    def __init__(self, inner: Answering, audit: SiteAudit) -> None:
        self.inner = inner
        self._audit = audit

    def handle(self, message: Message, asked: Asked | None = None) -> Message:
        """Answer one request.

        Args:
            message: The request.
            asked: What its envelope says of it; None for a hospital without a trust folder.

        Raises:
            Rejected: As :meth:`SiteAudit.taken`.
            Transient: AUDIT_UNAVAILABLE.
        """
        try:
            plain, cosigned = self._audit.taken(message, asked)
        except MedunlearnError as error:
            self._audit.refused(request=message.kind, code=error.code)
            raise
        return self._audit.signed(self.inner.handle(plain), cosigned)

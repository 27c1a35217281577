"""Absences in the Flower simulation: an interceptor that keeps a site from answering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flwr.app import Context
from flwr.app import Message as FlowerMessage

from medunlearn_client.flower_app import Handler
from medunlearn_common.envelope.sealing import unverified
from medunlearn_common.flower_records import from_records, to_records
from medunlearn_common.messages import ERROR, Message
from medunlearn_server.transport import SITE_GONE
from medunlearn_simulation.absences import Absences


@dataclass(frozen=True)
class AbsenceMod:
    """Says SITE_GONE instead of a site that is away; its hospital never sees the request."""

    absences: Absences

    def __call__(
        self, message: FlowerMessage, context: Context, call_next: Handler
    ) -> FlowerMessage:
        """Answer for an absent site, or pass the request on."""
        site_index = int(context.node_config["partition-id"])
        if self.absences.away(site_index, unverified(from_records(message.content))):
            gone = Message(kind=ERROR, fields={"code": SITE_GONE})
            return FlowerMessage(to_records(gone), reply_to=message)
        return call_next(message, context)


def absence_mod(spans: Sequence[Sequence[int]]) -> AbsenceMod:
    """From the spans of :class:`Absences`, as JSON brings them."""
    return AbsenceMod(Absences(spans=tuple((s[0], s[1], s[2]) for s in spans)))

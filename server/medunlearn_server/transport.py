"""How the coordinator reaches hospitals: one Protocol, whatever carries the bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from medunlearn_common.messages import Message

# Codes of a transport: the deadline passed, or the site is known to be away.
SITE_SILENT = "SITE_SILENT"
SITE_GONE = "SITE_GONE"


@dataclass(frozen=True, kw_only=True)
class SiteFailure:
    """No usable answer from one site in one exchange.

    Attributes:
        code: Stable code: the transport's own (SITE_SILENT, SITE_GONE, ...), or what the
            site answered with. Never text from a site.
        site: Id of the site, where more than its own word vouches for it; empty otherwise.
    """

    code: str
    site: str = ""


Reply = Message | SiteFailure


class Transport(Protocol):
    """Sends requests to addresses and collects what comes back in time.

    An address is the transport's own name of a site (a folder name, a Flower node id). It
    need not survive a restart of the coordinator; the ``site_id`` of a READY answer does.
    """

    def sites(self) -> tuple[str, ...]:
        """Addresses that can be asked now, in a stable order."""
        ...

    def exchange(
        self, requests: Mapping[str, Message], *, deadline_s: float
    ) -> Mapping[str, Reply]:
        """Send one request per address and wait for the answers.

        Args:
            requests: Address to request.
            deadline_s: Longest wait for the slowest answer, in seconds.

        Returns:
            One entry per address asked: its answer, or why there is none.

        Raises:
            Transient: If the transport itself is broken; the round is then not used.
        """
        ...

"""What the audit log needs of identities and rosters: two methods each, and nothing more.

Contexts keep a signature made for one purpose from passing for another.
"""

from __future__ import annotations

from typing import Protocol

CHECKPOINT_CONTEXT = "medunlearn/audit/checkpoint/1"
COSIGNATURE_CONTEXT = "medunlearn/audit/cosignature/1"
# A DSSE envelope's signature covers its payload type in this place.
STATEMENT_CONTEXT = "application/vnd.in-toto+json"

COORDINATOR = "coordinator"


class Signer(Protocol):
    """One party's identity."""

    @property
    def party_id(self) -> str:
        """The party's name in the roster."""
        ...

    def sign(self, context: str, message: bytes) -> bytes:
        """64 bytes over ``message`` for the purpose ``context``."""
        ...


class Verifier(Protocol):
    """The public keys of all parties."""

    def verify(self, party_id: str, context: str, message: bytes, signature: bytes) -> None:
        """Check a signature of ``party_id``.

        Raises:
            Rejected: If the party is unknown or revoked, or the signature is not its own.
        """
        ...


def coordinator_log(run_id: str, *, key_id: str) -> str:
    """Name of the coordinator's log of one run, with the id of the key that keeps it.

    Every signature on a state of the log, a witness's too, thereby says under which key of the
    coordinator it saw the log.
    """
    return f"{COORDINATOR}/{run_id}/{key_id}"


def site_log(site_id: str) -> str:
    """Name of a site's own log, over all its runs."""
    return f"site/{site_id}"

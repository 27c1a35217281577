"""What a coordinator remembers of the last invitation of each site."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medunlearn_common.enrolment import Enrolment
from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.files import write_atomically
from medunlearn_common.roster import Roster
from medunlearn_common.roster.document import SKEW_S


@dataclass(frozen=True, kw_only=True)
class Issued:
    """What is remembered of the last invitation of a site."""

    site_id: str
    token: str
    issued: int
    expires: int
    used_by: str = ""
    compared: bool = True
    model_digest: str = ""
    tokenizer_digest: str = ""


class InvitationRecords:
    """One JSON file per site; a later invitation replaces an earlier one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def all(self) -> list[Issued]:
        """Every record, by site; raises INVITATION_RECORD."""
        return [_read(path) for path in sorted(self._folder.glob("*.json"))]

    def answered_by(self, enrolment: Enrolment, roster: Roster, *, now: float) -> Issued:
        """The invitation that an enrolment answers.

        Args:
            enrolment: Opened, with a token.
            roster: In force.
            now: Seconds since 1970.

        Raises:
            Rejected: INVITATION_UNKNOWN, INVITATION_USED, INVITATION_EXPIRED, SITE_EXISTS.
            Misconfigured: INVITATION_RECORD.
        """
        site, path = enrolment.site_id, self._file(enrolment.site_id)
        issued = _read(path) if path.exists() else None
        if issued is None or not secrets.compare_digest(issued.token, enrolment.token.hex()):
            raise Rejected("INVITATION_UNKNOWN", f"{site} answers no invitation that is good now",
                           "a later invitation replaces an earlier one: send the hospital the "
                           "newest")
        if issued.used_by and issued.used_by != enrolment.entry.key_id:
            raise Rejected("INVITATION_USED", f"the invitation of {site} was used already, with "
                           "another key", "telephone the hospital: somebody else may have read "
                           "the invitation; then revoke, and invite anew")
        if now > issued.expires + SKEW_S:
            raise Rejected("INVITATION_EXPIRED", f"the invitation of {site} is no longer good",
                           "invite the hospital again")
        if any(party.party_id == site and party.key_id != enrolment.entry.key_id
               for party in roster.parties):
            raise Rejected("SITE_EXISTS", f"{site} is in the roster with another key",
                           "revoke it first; until then sites would refuse the new roster")
        return issued

    def remember(self, issued: Issued) -> None:
        """Write a record; raises WRITE_FAILED."""
        text = json.dumps(asdict(issued), indent=2) + "\n"
        write_atomically(self._file(issued.site_id), text.encode("ascii"))

    def forget(self, site_id: str) -> None:
        """Nobody can answer the site's last invitation any more."""
        self._file(site_id).unlink(missing_ok=True)

    def _file(self, site_id: str) -> Path:
        return self._folder / f"{site_id}.json"


def _read(path: Path) -> Issued:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="ascii"))
        return Issued(**found)
    except (ValueError, TypeError) as error:
        raise Misconfigured("INVITATION_RECORD", f"{path.name} is damaged",
                            "restore it from a backup, or invite the hospital anew") from error

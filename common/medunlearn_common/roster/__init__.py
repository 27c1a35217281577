"""Who takes part: a roster signed by an offline consortium root, as TUF does it."""

from medunlearn_common.roster.document import Party, Role, Root, Roster, enrolment_request
from medunlearn_common.roster.trusted import (
    TrustedRoster,
    require_later,
    require_successor,
    self_signed_roster,
    verify_roster,
)

__all__ = [
    "Party",
    "Role",
    "Root",
    "Roster",
    "TrustedRoster",
    "enrolment_request",
    "require_later",
    "require_successor",
    "self_signed_roster",
    "verify_roster",
]

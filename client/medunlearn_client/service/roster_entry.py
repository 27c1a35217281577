"""Whether the roster in force names this hospital, without opening its key."""

from __future__ import annotations

from pathlib import Path

from medunlearn_common.errors import MedunlearnError, Rejected
from medunlearn_common.roster import TrustedRoster
from medunlearn_common.trust_folder import TRUST_FOLDER, party_id_of


def require_named(folder: Path) -> None:
    """That it names this very key is for `medunlearn hospital doctor`, which opens the key.

    Raises:
        Misconfigured: TRUST_MISSING, ROSTER_MISSING.
        Rejected: ROSTER_WITHOUT_US, or as :class:`TrustedRoster`.
    """
    own = party_id_of(folder)
    roster = TrustedRoster(folder / TRUST_FOLDER, now=0.0).current
    if own not in [party.party_id for party in roster.parties]:
        raise Rejected(
            "ROSTER_WITHOUT_US", f"roster {roster.version} does not name {own}",
            "send the .enrolment file to the coordinator; with the roster that comes back: "
            "medunlearn hospital join roster.dsse")


def roster_trouble(folder: Path) -> MedunlearnError | None:
    """What keeps this hospital out by its own roster; None where it is named."""
    try:
        require_named(folder)
    except MedunlearnError as error:
        return error
    return None

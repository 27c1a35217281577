"""Under which of the coordinator's keys a run was attested, and whether that key still counts.

A run is attested, and its log kept to the end, under one key. The coordinator may have taken the
next one since, every second year, by no fault of the run. By the key that made the signature:

=============================================  =================================================
key                                            the signature counts
=============================================  =================================================
of the roster in use                           always, unless that roster revokes it
of the attested roster, replaced since         if the root that the roster in use is under signed
                                               that roster too, the roster in use is no earlier
                                               one, still names the party as a coordinator, gives
                                               the key to nobody else and does not revoke it
of neither                                     never: nothing here says whose key it was
=============================================  =================================================

A run's own roster brings in no key by itself: anybody can make a roster, with a root of its own.
Whether it is the one that was attested is a later step, before anything counts as verified. What
is signed by one key is held to it: no record of the log may be another's, not even the next one's.

Whoever has a copy of a replaced key can attest with it, under a roster of its time, but has no
hospital that witnesses such a log. That is why an adapter alone, which brings no witnesses, is not
believed under a former key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from medunlearn_common.attestation.dsse import named_signer, opened
from medunlearn_common.errors import Rejected
from medunlearn_common.roster import Party, Roster
from medunlearn_common.roster.former import PartyKey, is_former_key, require_not_revoked


@dataclass(frozen=True, kw_only=True)
class KeeperKey(PartyKey):
    """The coordinator's key that attested the run and keeps its log.

    Attributes:
        replaced_in: Version of the roster in use, where that names another key of the party;
            None where it is the key in force.
    """

    replaced_in: int | None = None

    @property
    def is_former(self) -> bool:
        """Whether another key is in force since."""
        return self.replaced_in is not None

    @property
    def said(self) -> str:
        """In words."""
        signed = f"signed by {self.party.party_id}, key {self.party.key_id[:16]}..."
        if not self.is_former:
            return signed
        return (f"{signed} of the run's own roster; it was replaced since: roster "
                f"{self.replaced_in} names another")


def opened_by_keeper(
    envelope: bytes, *, used: Roster, attested: Callable[[], Roster | None]
) -> tuple[KeeperKey, bytes]:
    """The key that signed an attestation, and what it signed.

    Args:
        envelope: The attestation.
        used: The roster in use.
        attested: Reads the run's own roster, checked under the root of the roster in use; None if
            there is none. Asked only where the key in force did not sign.

    Raises:
        Rejected: ENVELOPE_SIGNER if no coordinator of the roster in use is said to have signed,
            PARTY_UNKNOWN, KEY_REVOKED, SIGNATURE_INVALID, or as ``attested`` and :func:`opened`.
    """
    leader = used.party(named_signer(envelope))
    if leader.role != "coordinator":
        raise Rejected(
            "ENVELOPE_SIGNER", "the attestation is not signed by a coordinator",
            "only the coordinator attests a run",
        )
    try:
        return KeeperKey(party=leader), opened(envelope, used, signer=leader.party_id)
    except Rejected as error:
        if error.code != "SIGNATURE_INVALID":
            raise
        refused = error
    earlier = attested()
    if earlier is None:
        raise _not_in_force(leader, used) from refused
    former = next((party for party in earlier.parties if party.party_id == leader.party_id), None)
    if former is None or not is_former_key(former, used):
        raise refused
    key = KeeperKey(party=former, replaced_in=used.version)
    payload = opened(envelope, key, signer=leader.party_id)
    require_not_revoked(former, used)
    return key, payload


def _not_in_force(leader: Party, used: Roster) -> Rejected:
    return Rejected(
        "SIGNATURE_INVALID", f"the key that roster {used.version} names for {leader.party_id} did "
        "not sign it", "if it was made under an earlier key: verify the whole run's folder, or "
        "name the roster of that time with --keys",
    )

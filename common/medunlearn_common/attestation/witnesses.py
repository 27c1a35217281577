"""Whose signatures on the coordinator's log count as a witness's.

A site's signature on a state of the log names the site, and neither key nor time. Its key may
have been replaced or revoked since, by the site's own wish and no fault of the run. What is known
of the time: it was made after the state that it signs, and what the attestation carries was made
before the attestation. So, by the key that made it:

=============================================  =================================================
key                                            the signature counts
=============================================  =================================================
revoked by the roster in use                   never: whoever stole the key can sign today what
                                               it is said to have seen then
of the roster in use                           always
of the attested roster, replaced since         on states up to the attestation's, which the run
                                               collected; a later state may have been signed
                                               long after the key was laid aside
of neither: left, or replaced before           never: nothing here says whose key it was
=============================================  =================================================

The attested roster is the coordinator's choice among those that the root signed. That is why a
revoked key does not count even where that roster still names it. What does not count is set
aside and named, and the run stands on the other witnesses: that a site leaves, or takes a new
key, is no reason to refuse it. To refuse would gain nothing, as whoever hands the log on can
leave a signature out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from medunlearn_common.attestation.statement import Statement
from medunlearn_common.audit.checkpoints import SignedCheckpoint
from medunlearn_common.audit.export import LogExport
from medunlearn_common.audit.signing import COSIGNATURE_CONTEXT
from medunlearn_common.errors import Rejected
from medunlearn_common.identity import verify_signature
from medunlearn_common.roster import Party, Roster


@dataclass(frozen=True, kw_only=True)
class Witnesses:
    """The sites that signed the log.

    Attributes:
        seen: Site to the number of records under the state whose signature counts.
        aside: Site to why none of its signatures counts.
    """

    seen: Mapping[str, int]
    aside: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class WitnessKeys:
    """The keys that signatures are judged by.

    Attributes:
        used: The roster in use.
        attested: The one in force when the run was attested; the same, or one before it.
        attested_size: Number of records under the attestation's checkpoint.
        carried: The signatures that the attestation carries, by site.
        took_part: Sites that the attestation names; some may be in neither roster any more.
    """

    used: Roster
    attested: Roster
    attested_size: int
    carried: Mapping[str, SignedCheckpoint]
    took_part: frozenset[str]

    @classmethod
    def of(cls, statement: Statement, *, used: Roster, attested: Roster) -> WitnessKeys:
        """For one attestation.

        Raises:
            Rejected: CHECKPOINT_MALFORMED.
        """
        log, sites = statement.predicate.log, statement.predicate.sites
        notes = [SignedCheckpoint.from_text(part.cosignature) for part in sites.values()
                 if part.cosignature is not None]
        return cls(
            used=used, attested=attested,
            attested_size=SignedCheckpoint.from_text(log.checkpoint).checkpoint.size,
            carried={note.signer: note for note in notes}, took_part=frozenset(sites),
        )

    def why_not(self, note: SignedCheckpoint) -> str:
        """Why a signature does not count; empty where it does.

        Raises:
            Rejected: WITNESS_UNKNOWN, or SIGNATURE_INVALID where the site has had no other key
                than the one that did not make it.
        """
        entries = list(self._entries(note.signer))
        if not entries and note.signer not in self.took_part:
            raise Rejected("WITNESS_UNKNOWN", f"a witness of the log is {note.signer}",
                           "ask for a new export of the log")
        for roster, party in entries:
            if not _is_signed(note, party):
                continue
            if party.key_id in self.used.revoked:
                return "its key is revoked"
            if roster is self.used or note.checkpoint.size <= self.attested_size:
                return ""
            return "signed after the attestation with a key that was replaced"
        if len(entries) == 2 and not self.used.revoked and not any(
            party.rotation for _, party in entries
        ):
            raise Rejected("SIGNATURE_INVALID", f"{note.signer} did not sign what it is said to "
                           "have signed", "ask for a new export of the log")
        return "its key of that time is in no roster here"

    def _entries(self, site: str) -> Iterator[tuple[Roster, Party]]:
        for roster in (self.used, self.attested):
            if site in roster.sites:
                yield roster, roster.party(site)


def _is_signed(note: SignedCheckpoint, party: Party) -> bool:
    try:
        verify_signature(
            party.public_key, COSIGNATURE_CONTEXT, note.checkpoint.body, note.signature
        )
    except Rejected:
        return False
    return True


def witnesses_of(export: LogExport, keys: WitnessKeys) -> Witnesses:
    """Check that each witness signed a state that this very log went through.

    A site's latest signature stands in the log, and the one of the run in the attestation; where
    the latest is set aside, that one may still count.

    Raises:
        Rejected: WITNESS_UNKNOWN, WITNESS_TWICE, SIGNATURE_INVALID, or AUDIT_SPLIT_VIEW if a
            witness signed a state that this log never had.
    """
    seen: dict[str, int] = {}
    aside: dict[str, str] = {}
    for latest in export.cosignatures:
        site = latest.signer
        if site in seen or site in aside:
            raise Rejected("WITNESS_TWICE", f"{site} is a witness of the log twice",
                           "ask for a new export of the log")
        note, why_not = latest, keys.why_not(latest)
        if why_not and site in keys.carried and not keys.why_not(keys.carried[site]):
            note, why_not = keys.carried[site], ""
        if why_not:
            aside[site] = why_not
        else:
            export.require_past(note)
            seen[site] = note.checkpoint.size
    return Witnesses(seen=seen, aside=aside)

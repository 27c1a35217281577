"""Countersign or object: a person's word, signed with the hospital's key, collected later.

    reason and salt into a file of its own -> record in the hospital's log -> signed when the
    coordinator collects it

The record is the decision: a kill before it leaves the earlier word, one after it loses nothing.
What leaves is made from the record each time, under the key that the hospital has by then, so
that neither a lost folder nor a new key takes a decision back.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from secrets import token_bytes
from typing import Final

from medunlearn_client.adoption.checking import CheckedRun
from medunlearn_client.adoption.folder import require_person
from medunlearn_client.adoption.hospital import AdoptionHospital
from medunlearn_common.audit import AuditLog, AuditRecord
from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import write_atomically
from medunlearn_common.publication import Decision, Verdict

MAX_REASON_CHARACTERS = 4000
RELEASED: Final = "decision_released"
_FILE: Final = re.compile(r"decision-([0-9]{1,9})\.json")


def decide(
    hospital: AdoptionHospital, run_id: str, verdict: Verdict, *, by: str, reason: str
) -> Decision:
    """Write down a decision; the coordinator collects it at the next publication.

    Args:
        hospital: The hospital.
        run_id: A run in its inbox, which is checked again first.
        verdict: ``countersigned`` or ``objected``.
        by: Who decides.
        reason: Why. It stays here; a salted digest of it is signed.

    Raises:
        Misconfigured: PERSON_INVALID, REASON_INVALID, INBOX_UNKNOWN.
        Rejected: As :func:`check_publication`.
        Transient: ADOPTION_BUSY, WRITE_FAILED, AUDIT_UNAVAILABLE.
    """
    require_person(by)
    if not 0 < len(reason.strip()) <= MAX_REASON_CHARACTERS:
        raise Misconfigured("REASON_INVALID", "a decision needs a reason of 1 to 4000 characters",
                            'say it with --reason "..."; it stays at this hospital')
    with hospital.places.exclusive():
        checked = hospital.checked(run_id)
        number = 1 + _last_number(hospital, checked)
        salt = token_bytes(32)
        kept = {
            "verdict": verdict, "by": by, "reason": reason, "salt": salt.hex(),
            "number": number, "attestation_digest": checked.attestation_digest,
        }
        # The reason first: a signed digest of a reason that nobody has would commit to nothing.
        text = json.dumps(kept, indent=2, ensure_ascii=False) + "\n"
        write_atomically(
            hospital.places.decisions(run_id) / f"decision-{number}.json", text.encode("utf-8")
        )
        record = hospital.audit.log.append(
            RELEASED, run_id=run_id, verdict=verdict, site=hospital.site_id,
            attestation_digest=checked.attestation_digest, by=by,
            reason_digest=reason_digest(salt, reason).hex(), number=number,
        )
    return decision_of(record, adapter=checked.statement.predicate.adapter)


def reason_digest(salt: bytes, reason: str) -> bytes:
    """SHA-256 of 32 random bytes and the reason: opens with both, says nothing without."""
    return hashlib.sha256(salt + reason.encode("utf-8")).digest()


def decision_of(record: AuditRecord, *, adapter: str) -> Decision:
    """The decision that a record of the hospital's log is, on the adapter of this digest (hex)."""
    fields = record.fields
    return Decision(
        run=fields["run_id"], site=fields["site"],
        attestation=bytes.fromhex(fields["attestation_digest"]), adapter=bytes.fromhex(adapter),
        verdict=fields["verdict"], by=fields["by"], reason=bytes.fromhex(fields["reason_digest"]),
        number=fields["number"], issued=record.at,
    )


def own_decision(log: AuditLog, attestation_digest: str) -> AuditRecord | None:
    """The hospital's last word on an attestation, by its own log."""
    return max(
        (record for record in log.records if record.kind == RELEASED
         and record.fields["attestation_digest"] == attestation_digest),
        key=lambda record: record.fields["number"], default=None,
    )


def begun_number(folder: Path) -> int:
    """Number of the last decision for which a reason was written down, logged or not."""
    found = (_FILE.fullmatch(path.name) for path in folder.glob("decision-*.json"))
    return max((int(name[1]) for name in found if name), default=0)


def held_number(checked: CheckedRun, *, site: str) -> int:
    """Number of the site's decision that the coordinator hands round, as far as the site signed
    it: what else the coordinator's log says would let it use up the numbers."""
    decision = checked.decisions.get(site)
    return decision.number if decision is not None else 0


def _last_number(hospital: AdoptionHospital, checked: CheckedRun) -> int:
    """The largest number in use: folder or log may have been put back from an older copy, and a
    decision under a number that was used does not replace the one before it."""
    logged = [
        int(record.fields["number"]) for record in hospital.audit.log.records
        if record.kind == RELEASED and record.fields["run_id"] == checked.run_id
    ]
    begun = begun_number(hospital.places.decisions(checked.run_id))
    return max(begun, held_number(checked, site=hospital.site_id), *logged, 0)


def is_collected(checked: CheckedRun, decision: AuditRecord) -> bool:
    """Whether the coordinator's log, as this hospital last got it, holds the decision."""
    said = {name: value for name, value in decision.fields.items()
            if name not in ("run_id", "verdict")}
    return any(
        record.kind == decision.fields["verdict"] and record.fields == said
        for record in checked.records
    )

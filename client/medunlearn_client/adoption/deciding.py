"""Countersign or object: a person's word, signed with the hospital's key, collected later."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from secrets import token_bytes
from typing import Any

from medunlearn_client.adoption.checking import CheckedRun
from medunlearn_client.adoption.folder import (
    DECISION_FILE,
    STATEMENT_FILE,
    AdoptionFolder,
    require_person,
)
from medunlearn_client.adoption.hospital import AdoptionHospital
from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import write_atomically
from medunlearn_common.publication import Decision, Verdict

MAX_REASON_CHARACTERS = 4000


def decide(
    hospital: AdoptionHospital, run_id: str, verdict: Verdict, *, by: str, reason: str
) -> Decision:
    """Write down and sign a decision; the coordinator collects it at the next publication.

    Args:
        hospital: The hospital.
        run_id: A run in its inbox, which is checked again first.
        verdict: ``countersigned`` or ``objected``.
        by: Who decides.
        reason: Why. It stays here; a salted digest of it is signed.

    Raises:
        Misconfigured: PERSON_INVALID, REASON_INVALID, INBOX_UNKNOWN.
        Rejected: As :func:`check_publication`.
        Transient: WRITE_FAILED, AUDIT_UNAVAILABLE.
    """
    require_person(by)
    if not 0 < len(reason.strip()) <= MAX_REASON_CHARACTERS:
        raise Misconfigured("REASON_INVALID", "a decision needs a reason of 1 to 4000 characters",
                            'say it with --reason "..."; it stays at this hospital')
    checked = hospital.checked(run_id)
    place = hospital.places.decisions(run_id)
    earlier = read_decision(hospital.places, run_id)
    salt = token_bytes(32)
    decision = Decision(
        run=run_id, site=hospital.site_id,
        attestation=bytes.fromhex(checked.attestation_digest),
        adapter=bytes.fromhex(checked.statement.predicate.adapter), verdict=verdict, by=by,
        reason=reason_digest(salt, reason), number=int(earlier.get("number", 0)) + 1,
        issued=int(time.time()),
    )
    kept = {
        "verdict": verdict, "by": by, "reason": reason, "salt": salt.hex(),
        "number": decision.number, "attestation_digest": checked.attestation_digest,
    }
    # The reason first: a signed digest of a reason that nobody has would commit to nothing.
    text = json.dumps(kept, indent=2, ensure_ascii=False) + "\n"
    write_atomically(place / DECISION_FILE, text.encode("utf-8"))
    hospital.audit.log.append(
        "decision_released", run_id=run_id, verdict=verdict, site=hospital.site_id,
        attestation_digest=checked.attestation_digest, by=by,
        reason_digest=decision.reason.hex(), number=decision.number,
    )
    write_atomically(place / STATEMENT_FILE, decision.sign(hospital.identity))
    return decision


def reason_digest(salt: bytes, reason: str) -> bytes:
    """SHA-256 of 32 random bytes and the reason: opens with both, says nothing without."""
    return hashlib.sha256(salt + reason.encode("utf-8")).digest()


def read_decision(places: AdoptionFolder, run_id: str) -> dict[str, Any]:
    """This hospital's decision as it keeps it for itself; empty if there is none.

    Raises:
        Misconfigured: DECISION_DAMAGED.
    """
    path: Path = places.decisions(run_id) / DECISION_FILE
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    except (OSError, ValueError):
        pass
    raise Misconfigured("DECISION_DAMAGED", f"{DECISION_FILE} of run {run_id} cannot be read",
                        "restore it from a backup: it numbers this hospital's decisions")


def is_collected(checked: CheckedRun, decision: dict[str, Any], *, site: str) -> bool:
    """Whether the coordinator's log, as this hospital last got it, holds the decision."""
    return any(
        record.kind == decision.get("verdict") and record.fields["site"] == site
        and record.fields["number"] == decision.get("number")
        and record.fields["attestation_digest"] == decision.get("attestation_digest")
        for record in checked.records
    )

"""Put an adapter into service, and go back: the hospital's log decides what is in service.

    check everything again -> copy, or merge, into a version of its own -> record in the
    hospital's log -> the link `adopted/current` is renamed to it

The record is the decision: a crash after it is made good by the next command, a crash before it
leaves what was in service. Versions are never changed and never removed. A log that was put back
from a backup turns nothing: where it and the link differ, a person says what is to serve.

Guarantees:
    * Whoever opens ``adopted/current`` at any moment finds one whole version.
    * Only bytes that the coordinator attested go into service: they are compared after the copy.
    * An adapter of a run that this hospital accepted before the one in service does not replace
      it unless a person asks for just that, by whatever way it came.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from medunlearn_client.adoption.checking import CheckedRun
from medunlearn_client.adoption.deciding import own_decision
from medunlearn_client.adoption.folder import require_person
from medunlearn_client.adoption.hospital import AdoptionHospital
from medunlearn_client.adoption.versions import (
    BASE_ALONE,
    CHANGES,
    Adoption,
    linked_version,
    next_number,
    prepare_version,
    sound_version,
    switch_to,
    version_errors,
    write_adoption,
)
from medunlearn_client.models import digests_of_model, resolve_folder
from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.keeping import PartyMarks
from medunlearn_common.publication import OBJECTED

UNKNOWN: Final = "ADOPTION_UNKNOWN"


@dataclass(frozen=True, kw_only=True)
class AdoptionChoice:
    """What a person asks for beside the run.

    Attributes:
        by: Who.
        merge: Write a model of its own instead of an adapter's folder.
        despite: Adopt although sites object.
        older: Adopt although the one in service is of a later run, or not known.
    """

    by: str
    merge: bool = False
    despite: bool = False
    older: bool = False


def adopt(hospital: AdoptionHospital, run_id: str, choice: AdoptionChoice) -> Adoption:
    """Put a received adapter into service.

    Raises:
        Misconfigured: PERSON_INVALID, INBOX_UNKNOWN, ALREADY_ADOPTED, MODEL_ codes.
        Rejected: As :func:`check_publication`; ADAPTER_OBJECTED, ADAPTER_OLDER,
            MODEL_MISMATCH, TOKENIZER_MISMATCH, FILE_CHANGED, ADOPTION_DAMAGED,
            ADOPTION_UNKNOWN unless ``older`` is asked for.
        Transient: ADOPTION_BUSY, WRITE_FAILED, EXPORT_FAILED, AUDIT_UNAVAILABLE.
    """
    require_person(choice.by)
    with hospital.places.exclusive():
        current = _known_in_service(hospital, choice)
        checked = hospital.checked(run_id)
        objections = _require_no_objections(hospital, checked, despite=choice.despite)
        _require_newer(hospital, checked, current, choice)
        _require_base(hospital, checked)
        version = next_number(hospital)
        place = hospital.places.version(version)
        with version_errors(place):
            merged = prepare_version(hospital, checked, place, merge=choice.merge)
            adoption = Adoption(
                version=version, previous=current.version if current else BASE_ALONE,
                run_id=run_id, attestation_digest=checked.attestation_digest,
                adapter_digest=checked.statement.predicate.adapter, merged_digest=merged,
                by=choice.by, at=int(time.time()), despite=objections,
            )
            write_adoption(place, adoption)
        hospital.audit.log.append(
            "adapter_adopted", number=version, run_id=run_id, by=choice.by,
            adapter_digest=adoption.adapter_digest, merged_digest=merged,
            attestation_digest=adoption.attestation_digest, despite=list(objections),
        )
        switch_to(hospital, version)
    return adoption


def rollback(hospital: AdoptionHospital, *, by: str) -> Adoption | None:
    """Go back to what was in service before the present version; None is the base model alone.

    Raises:
        Misconfigured: PERSON_INVALID, ROLLBACK_NOTHING.
        Rejected: ADOPTION_DAMAGED if the earlier version is not what it was, ADOPTION_UNKNOWN.
        Transient: ADOPTION_BUSY, WRITE_FAILED, AUDIT_UNAVAILABLE.
    """
    require_person(by)
    with hospital.places.exclusive():
        current = in_service(hospital)
        if current is None:
            raise Misconfigured("ROLLBACK_NOTHING", "no adapter is in service here",
                                "`medunlearn hospital inbox` shows what could be")
        earlier = None
        if current.previous != BASE_ALONE:
            earlier = sound_version(hospital, current.previous)
        hospital.audit.log.append(
            "adapter_rolled_back", number=next_number(hospital), version=current.previous,
            left=current.attestation_digest, by=by,
        )
        switch_to(hospital, current.previous)
    return earlier


def in_service(hospital: AdoptionHospital) -> Adoption | None:
    """What is in service by the hospital's log; puts the link right where a crash left it.

    Raises:
        Rejected: ADOPTION_DAMAGED if that version is missing or not what it was; ADOPTION_UNKNOWN
            if the log was put back from a backup, and what it says last is not what is linked;
            AUDIT_LOG_DAMAGED.
        Misconfigured: MARK_UNREADABLE.
    """
    version, since = BASE_ALONE, 0
    for record in hospital.audit.log.records:
        if record.kind in CHANGES:
            version = record.fields["number" if record.kind == CHANGES[0] else "version"]
            since = record.at
    linked = linked_version(hospital)
    lost = PartyMarks(hospital.folder).history_lost
    # The log may have forgotten what a person decided since; the link is all that remembers it.
    if lost is not None and since <= lost.backup_at and linked != version:
        raise Rejected(
            UNKNOWN, f"version {version} is the last that the log knows, which was restored from "
            "a backup; the link adopted/current names another, and stays as it is",
            "say which adapter is to serve: medunlearn hospital adopt RUN --rollback --by NAME",
        )
    found = None if version == BASE_ALONE else sound_version(hospital, version)
    if linked != version:
        switch_to(hospital, version)
    return found


def _known_in_service(hospital: AdoptionHospital, choice: AdoptionChoice) -> Adoption | None:
    """The same; a person who asks for a run whatever is in service settles what is not known."""
    try:
        return in_service(hospital)
    except Rejected as error:
        if error.code == UNKNOWN and choice.older:
            return None
        raise


# -- what is refused --------------------------------------------------------------------------


def _require_no_objections(
    hospital: AdoptionHospital, checked: CheckedRun, *, despite: bool
) -> tuple[str, ...]:
    """Sites that object, this one included whether or not that was collected yet."""
    found = set(checked.objections())
    own = own_decision(hospital.audit.log, checked.attestation_digest)
    if own is not None:
        found.discard(hospital.site_id)
        if own.fields["verdict"] == OBJECTED:
            found.add(hospital.site_id)
    if found and not despite:
        raise Rejected(
            "ADAPTER_OBJECTED", f"{', '.join(sorted(found))} objected to this adapter",
            "ask them why; --despite adopts it all the same, and is written down",
        )
    return tuple(sorted(found))


def _require_newer(
    hospital: AdoptionHospital, checked: CheckedRun, current: Adoption | None,
    choice: AdoptionChoice,
) -> None:
    """By the order in which this hospital itself accepted the runs, not by any sender's clock."""
    if current is None:
        return
    if (
        current.attestation_digest == checked.attestation_digest
        and bool(current.merged_digest) == choice.merge
    ):
        raise Misconfigured("ALREADY_ADOPTED", "this adapter is in service",
                            "there is nothing to do; --merge makes a model of its own of it")
    accepted = {
        r.fields["run_id"]: r.index for r in reversed(hospital.audit.log.records)
        if r.kind == "plan_accepted"
    }
    here, there = accepted.get(checked.run_id, -1), accepted.get(current.run_id, -1)
    if here < there and not choice.older:
        raise Rejected(
            "ADAPTER_OLDER", f"run {checked.run_id} was accepted here before {current.run_id}, "
            "whose adapter is in service",
            "what was forgotten since would be known again; `medunlearn hospital rollback` goes "
            "back one version, --rollback adopts this one all the same",
        )


def _require_base(hospital: AdoptionHospital, checked: CheckedRun) -> None:
    materials = checked.statement.predicate.materials
    found = digests_of_model(resolve_folder(hospital.config.model_folder))
    for code, what, here, attested in (
        ("MODEL_MISMATCH", "base model", found[0], materials.base_model),
        ("TOKENIZER_MISMATCH", "tokenizer", found[1], materials.tokenizer),
    ):
        if here != attested:
            raise Rejected(
                code, f"the {what} here has digest {here[:16]}..., the adapter belongs to "
                f"{attested[:16]}...", "put the model of the run back into model_folder",
            )

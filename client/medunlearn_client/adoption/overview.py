"""What `medunlearn hospital inbox` says."""

from __future__ import annotations

from collections.abc import Iterator

from medunlearn_client.adoption.checking import CheckedRun
from medunlearn_client.adoption.deciding import (
    begun_number,
    held_number,
    is_collected,
    own_decision,
)
from medunlearn_client.adoption.folder import MEASURED_FILE
from medunlearn_client.adoption.hospital import AdoptionHospital
from medunlearn_client.adoption.service import UNKNOWN, in_service
from medunlearn_client.adoption.versions import Adoption
from medunlearn_common.errors import Rejected


def overview(hospital: AdoptionHospital, run_id: str | None = None) -> Iterator[str]:
    """Received runs, each checked anew, and what is in service.

    Raises:
        Misconfigured: INBOX_UNKNOWN for a run that is named and not there.
        Rejected: ADOPTION_DAMAGED.
    """
    current, serving = _serving(hospital)
    for name in (run_id,) if run_id is not None else hospital.places.runs():
        yield from _run_lines(hospital, name, current)
    if run_id is None and not hospital.places.runs():
        yield "the inbox is empty"
    yield f"in service: {serving}"


def _serving(hospital: AdoptionHospital) -> tuple[Adoption | None, str]:
    """What is in service, and in words."""
    try:
        with hospital.places.exclusive():
            current = in_service(hospital)
    except Rejected as error:
        if error.code != UNKNOWN:
            raise
        return None, f"NOT KNOWN [{error.code}] {error.message}; {error.hint}"
    if current is None:
        return None, "the base model alone"
    kind = "merged model" if current.merged_digest else "adapter"
    return current, (f"{kind} of run {current.run_id}, version {current.version}, "
                     f"adopted by {current.by}")


def _run_lines(
    hospital: AdoptionHospital, run_id: str, current: Adoption | None
) -> Iterator[str]:
    try:
        checked = hospital.checked(run_id)
    except Rejected as error:
        yield f"{run_id}: NOT SOUND [{error.code}] {error.message}"
        return
    predicate = checked.statement.predicate
    used = current is not None and current.attestation_digest == checked.attestation_digest
    yield f"{run_id}: sound" + (", in service" if used else "")
    epsilon = predicate.privacy.epsilon
    spent = "no noise, no guarantee" if epsilon is None else f"epsilon {epsilon:.3g}"
    yield f"  {predicate.process.rounds} rounds, {len(predicate.sites)} hospitals, {spent}"
    for name, figure in sorted(predicate.figures.items()):
        yield (f"  {name.replace('_', ' ')}: {figure.value:.1%} "
               f"({figure.low or 0.0:.1%} to {1.0 if figure.high is None else figure.high:.1%}, "
               "by noise alone)")
    for site, by in sorted(checked.countersigned().items()):
        yield f"  countersigned by {site} ({by})"
    for site, by in sorted(checked.objections().items()):
        yield f"  OBJECTED by {site} ({by})"
    yield from _own_lines(hospital, checked)
    if (hospital.places.decisions(run_id) / MEASURED_FILE).is_file():
        yield "  measured here"


def _own_lines(hospital: AdoptionHospital, checked: CheckedRun) -> Iterator[str]:
    """What stands between this hospital's word and the others."""
    own = own_decision(hospital.audit.log, checked.attestation_digest)
    number = own.fields["number"] if own is not None else 0
    held = held_number(checked, site=hospital.site_id)
    if own is not None and not is_collected(checked, own):
        yield (f"  this hospital {own.fields['verdict']} ({own.fields['by']}); not in the "
               "coordinator's log yet")
        if held >= number:
            yield (f"  THAT DOES NOT COUNT: it has number {number}, and the coordinator holds "
                   f"this hospital's decision {held}; say it again")
    begun = begun_number(hospital.places.decisions(checked.run_id))
    if begun > max(number, held):
        yield (f"  decision {begun} of this hospital was begun and is not in its log: say it "
               "again if it is to count")

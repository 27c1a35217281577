"""Whether a resource states a fact about its patient, and of two versions which one does."""

from __future__ import annotations

from enum import IntEnum

from medunlearn_client.records.fhir.elements import (
    Resource,
    codes_of,
    listed,
    one_line,
    reference_of,
)

_NO_FACT = frozenset({"entered-in-error", "refuted", "not-done", "cancelled"})
_NOT_YET = frozenset({"draft", "registered"})
_NO_FACT_OF = {"DocumentReference": frozenset({"superseded"})}
_NOT_YET_OF = {"Encounter": frozenset({"planned"}), "Procedure": frozenset({"preparation"})}
_NOT_ORDERED = frozenset({"proposal", "plan", "option"})
_MODIFIER = "modifierExtension"


class Standing(IntEnum):
    """What a resource is; of two whose order is not known the higher one counts."""

    NOT_YET = 0
    """Planned, proposed or begun: the same resource states it once it has come about."""
    FACT = 1
    NO_FACT = 2
    """It takes itself back, is about somebody else, or means what is not understood here."""


def standing_of(resource: Resource) -> Standing:
    """Of any resource, valid or not: what says that it was an error need not be whole."""
    kind, status = one_line(resource.get("resourceType")), one_line(resource.get("status"))
    says = {status, *codes_of(resource.get("verificationStatus"))}
    if kind == "DocumentReference":
        says.add(one_line(resource.get("docStatus")))
    if (
        says & (_NO_FACT | _NO_FACT_OF.get(kind, frozenset()))
        or resource.get("doNotPerform") is True
        or is_modified(resource)
        or (kind == "Observation" and _is_of_something_else(resource))
    ):
        return Standing.NO_FACT
    is_proposed = kind == "MedicationRequest" and one_line(resource.get("intent")) in _NOT_ORDERED
    if is_proposed or status in _NOT_YET | _NOT_YET_OF.get(kind, frozenset()):
        return Standing.NOT_YET
    return Standing.FACT


def is_modified(resource: Resource) -> bool:
    """Whether an extension that is not known here changes the meaning of any part that is read.

    R4 forbids to process such a part. A patient's parts stand by themselves, so of a patient only
    the whole is looked at.
    """
    if resource.get("resourceType") == "Patient":
        return bool(resource.get(_MODIFIER))
    waiting: list[object] = [resource]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            if found.get(_MODIFIER):
                return True
            waiting.extend(found.values())
        elif isinstance(found, list):
            waiting.extend(found)
    return False


def _is_of_something_else(observation: Resource) -> bool:
    """Whether its focus is a donor, a fetus, the mother or a device, and not the patient."""
    subject = reference_of(observation, "subject")
    focus = observation.get("focus")
    return bool(focus) and any(
        not subject or one_line(each.get("reference")) != subject for each in listed(focus) or [{}]
    )

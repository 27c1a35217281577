"""What templates may use of each resource type, and how it is taken out of a resource."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable

from medunlearn_client.records.fhir.elements import (
    Resource,
    address_text,
    codes_of,
    concept_text,
    first_of,
    human_name,
    listed,
    mapping,
    one_line,
    present_name,
    reference_of,
    value_text,
)
from medunlearn_client.records.known_by import KnownBy, known_by

Values = dict[str, str]

FIELDS_OF: dict[str, frozenset[str]] = {
    "Patient": frozenset(
        {"name", "birth_date", "phone", "email", "address", "ssn", "licence", "passport",
         "record_number", "gender"}
    ),
    "Condition": frozenset({"name", "status", "severity", "site"}),
    "MedicationRequest": frozenset({"name", "dose", "status", "reason"}),
    "Procedure": frozenset({"name", "reason", "outcome", "site"}),
    "Observation": frozenset({"name", "value", "interpretation"}),
    "Encounter": frozenset({"name", "class", "reason"}),
    "AllergyIntolerance": frozenset({"name", "reaction", "criticality"}),
    "Immunization": frozenset({"name", "lot"}),
    "DiagnosticReport": frozenset({"name", "conclusion", "results"}),
    "DocumentReference": frozenset({"name", "text", "description"}),
}

_IDENTIFIERS = {"MR": "record_number", "SS": "ssn", "DL": "licence", "PPN": "passport"}


def _patient(resource: Resource) -> Values:
    values = {
        "name": human_name(present_name(resource.get("name"))),
        "birth_date": one_line(resource.get("birthDate")),
        "gender": one_line(resource.get("gender")),
        "address": address_text(first_of(resource.get("address"))),
    }
    for telecom in listed(resource.get("telecom")):
        name = one_line(telecom.get("system"))
        if name in ("phone", "email"):
            values.setdefault(name, one_line(telecom.get("value")))
    for identifier in listed(resource.get("identifier")):
        for code in codes_of(identifier.get("type")):
            if code in _IDENTIFIERS:
                values.setdefault(_IDENTIFIERS[code], one_line(identifier.get("value")))
    return values


def patient_identifiers(resource: Resource) -> KnownBy:
    """Digests of every identifier of a patient, whatever its type or system."""
    return known_by(one_line(each.get("value")) for each in listed(resource.get("identifier")))


def patient_names(resource: Resource) -> KnownBy:
    """Digests of every name of a patient.

    Questions show one name, the one of today; who asks may give one of before, or a nickname.
    """
    names = listed(resource.get("name"))
    return known_by(
        (), names=[*map(human_name, names), *(one_line(name.get("text")) for name in names)],
        birth_date=one_line(resource.get("birthDate")),
    )


def _condition(resource: Resource) -> Values:
    return {
        "name": concept_text(resource.get("code")),
        "status": concept_text(resource.get("clinicalStatus")),
        "severity": concept_text(resource.get("severity")),
        "site": concept_text(first_of(resource.get("bodySite"))),
    }


def _medication_request(resource: Resource) -> Values:
    name = concept_text(resource.get("medicationCodeableConcept"))
    wanted = reference_of(resource, "medicationReference")
    if not name and wanted.startswith("#"):
        inner = (i for i in listed(resource.get("contained")) if i.get("id") == wanted[1:])
        name = concept_text(next(inner, {}).get("code"))
    dosage = first_of(resource.get("dosageInstruction"))
    return {
        "name": name,
        "dose": one_line(dosage.get("text")),
        "status": one_line(resource.get("status")),
        "reason": concept_text(first_of(resource.get("reasonCode"))),
    }


def _procedure(resource: Resource) -> Values:
    return {
        "name": concept_text(resource.get("code")),
        "reason": concept_text(first_of(resource.get("reasonCode"))),
        "outcome": concept_text(resource.get("outcome")),
        "site": concept_text(first_of(resource.get("bodySite"))),
    }


def _observation(resource: Resource) -> Values:
    value = value_text(resource)
    if not value:
        parts = (
            (concept_text(part.get("code")), value_text(part))
            for part in listed(resource.get("component"))
        )
        value = ", ".join(f"{name} {text}" for name, text in parts if name and text)
    return {
        "name": concept_text(resource.get("code")),
        "value": value,
        "interpretation": concept_text(first_of(resource.get("interpretation"))),
    }


def _encounter(resource: Resource) -> Values:
    kind = mapping(resource.get("class"))
    return {
        "name": concept_text(first_of(resource.get("type"))),
        "class": one_line(kind.get("display") or kind.get("code")),
        "reason": concept_text(first_of(resource.get("reasonCode"))),
    }


def _allergy(resource: Resource) -> Values:
    reaction = first_of(resource.get("reaction"))
    return {
        "name": concept_text(resource.get("code")),
        "reaction": concept_text(first_of(reaction.get("manifestation"))),
        "criticality": one_line(resource.get("criticality")),
    }


def _immunization(resource: Resource) -> Values:
    return {
        "name": concept_text(resource.get("vaccineCode")),
        "lot": one_line(resource.get("lotNumber")),
    }


def _report(resource: Resource) -> Values:
    results = (one_line(item.get("display")) for item in listed(resource.get("result")))
    return {
        "name": concept_text(resource.get("code")),
        "conclusion": one_line(resource.get("conclusion")),
        "results": one_line(", ".join(text for text in results if text)),
    }


def _document(resource: Resource) -> Values:
    attachments = (mapping(item.get("attachment")) for item in listed(resource.get("content")))
    texts = (_attached_text(attachment) for attachment in attachments)
    return {
        "name": concept_text(resource.get("type")),
        "text": next((text for text in texts if text), ""),
        "description": one_line(resource.get("description")),
    }


def _attached_text(attachment: Resource) -> str:
    """Inline plain text; what is linked or in another form is not fetched or guessed at."""
    data, kind = attachment.get("data"), one_line(attachment.get("contentType"))
    if not isinstance(data, str) or not kind.casefold().startswith("text/plain"):
        return ""
    try:
        return one_line(base64.b64decode(data, validate=False).decode("utf-8"))
    except (binascii.Error, UnicodeDecodeError):
        return ""


EXTRACTORS: dict[str, Callable[[Resource], Values]] = {
    "Patient": _patient,
    "Condition": _condition,
    "MedicationRequest": _medication_request,
    "Procedure": _procedure,
    "Observation": _observation,
    "Encounter": _encounter,
    "AllergyIntolerance": _allergy,
    "Immunization": _immunization,
    "DiagnosticReport": _report,
    "DocumentReference": _document,
}

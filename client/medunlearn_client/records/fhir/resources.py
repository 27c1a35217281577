"""One FHIR R4 resource: validated, and taken apart into the few texts that templates use.

Validation is fhir.resources' R4B model of the resource: for the ten types read here R4 and
R4B are the same, and the library keeps no separate R4. Facts that the resource itself takes
back (entered in error, refuted, not done) give no record.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ValidationError

from medunlearn_client.records.fields import bad_row

Resource = Mapping[str, Any]
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
_NOT_A_FACT = frozenset(
    {"entered-in-error", "refuted", "not-done", "cancelled", "draft", "registered"}
)
# R4 types that R4B renamed or dropped; none of them carries facts about a patient.
_ONLY_IN_R4 = frozenset(
    {"EffectEvidenceSynthesis", "MedicinalProduct", "MedicinalProductAuthorization",
     "MedicinalProductContraindication", "MedicinalProductIndication",
     "MedicinalProductIngredient", "MedicinalProductInteraction", "MedicinalProductManufactured",
     "MedicinalProductPackaged", "MedicinalProductPharmaceutical",
     "MedicinalProductUndesirableEffect", "RiskEvidenceSynthesis", "SubstanceNucleicAcid",
     "SubstancePolymer", "SubstanceProtein", "SubstanceReferenceInformation",
     "SubstanceSourceMaterial", "SubstanceSpecification"}
)
_SEMANTIC_TAG = re.compile(r" \((?:disorder|finding|procedure|situation|morphologic .*?)\)$")
_DAY = re.compile(r"(\d{4}-\d{2}-\d{2})(?:T.*)?")
_SPACE = re.compile(r"\s+")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
MAX_TEXT_CHARS = 4000
_PLACES = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """What one resource says.

    Attributes:
        kind: Resource type.
        resource_id: Its id; empty where it has none.
        patient: Reference to the patient as it stands there; empty for a patient.
        date: Day it was recorded, YYYY-MM-DD, or empty.
        code: First code of the main concept, or empty.
        medication: Reference to a medication that names it, or empty.
        values: Texts for templates.
    """

    kind: str
    resource_id: str
    patient: str
    date: str
    code: str
    medication: str
    values: Values

    def __repr__(self) -> str:
        return f"Fact({self.kind}, …)"


@lru_cache(maxsize=256)
def _model(kind: str) -> type[BaseModel] | None:
    """The library's class of a resource type, or None where it has no such type."""
    from fhir.resources.R4B import get_fhir_model_class
    from fhir.resources.R4B.resource import Resource as AnyResource

    try:
        found = get_fhir_model_class(kind)
    except (ValueError, LookupError):
        return None
    return found if issubclass(found, AnyResource) else None


def is_known_type(kind: object) -> bool:
    """Whether R4 has a resource type of this name."""
    if not isinstance(kind, str) or not 0 < len(kind) < 64:
        return False
    return kind in _ONLY_IN_R4 or _model(kind) is not None


def validate(resource: Resource) -> None:
    """Checks a resource of one of the ten types against its R4 definition.

    Raises:
        InvalidRecord: ROW_FHIR_INVALID, with the element's place and never its value.
    """
    model = _model(resource["resourceType"])
    try:
        if model is not None:
            model.model_validate(resource)
    except ValidationError as error:
        raise bad_row("ROW_FHIR_INVALID", _complaint(resource["resourceType"], error)) from None
    except (TypeError, AttributeError, LookupError, ValueError, RecursionError):
        message = f"the {resource['resourceType']} is not valid FHIR R4"
        raise bad_row("ROW_FHIR_INVALID", message) from None


def _complaint(kind: str, error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    # An element that FHIR does not know is the row's own text, so it is not repeated.
    known = [] if first["type"] == "extra_forbidden" else [
        str(part) for part in first["loc"] if isinstance(part, int) or part.isidentifier()
    ]
    place = ".".join([kind, *known])
    return f"not valid FHIR R4 at {place[:120]} ({error.error_count()} complaint(s))"


def fact_of(resource: Resource) -> Fact | None:
    """What a validated resource says; None if it takes itself back.

    Raises:
        InvalidRecord: ROW_REFERENCE_MISSING: it names no patient.
    """
    kind = resource["resourceType"]
    if _taken_back(resource):
        return None
    values = {name: text for name, text in _EXTRACTORS[kind](resource).items() if text}
    patient = ""
    if kind != "Patient":
        patient = _reference(resource, "subject") or _reference(resource, "patient")
        if not patient:
            raise bad_row("ROW_REFERENCE_MISSING", f"the {kind} names no patient")
    return Fact(
        kind=kind, resource_id=_text(resource.get("id")), patient=patient,
        date=_date(resource), code=_code(_main_concept(resource)),
        medication=_reference(resource, "medicationReference"), values=values,
    )


def reference_key(reference: str) -> str:
    """``Patient/x``, ``http://server/Patient/x/_history/2`` and ``urn:uuid:x`` all give ``x``."""
    plain = reference.partition("/_history/")[0].rstrip("/")
    return re.split(r"[/:]", plain)[-1]


def medication_name(resource: Resource) -> tuple[str, str]:
    """A Medication resource's own id and the name it gives."""
    return _text(resource.get("id")), _concept(resource.get("code"))


def _taken_back(resource: Resource) -> bool:
    if resource.get("doNotPerform") is True:
        return True
    verification = _code(resource.get("verificationStatus"))
    return bool({_text(resource.get("status")), verification} & _NOT_A_FACT)


def _patient(resource: Resource) -> Values:
    values = {
        "name": _human_name(_first_official(resource.get("name"))),
        "birth_date": _text(resource.get("birthDate")),
        "gender": _text(resource.get("gender")),
        "address": _address(_first(resource.get("address"))),
    }
    for telecom in _list(resource.get("telecom")):
        name = _text(telecom.get("system"))
        if name in ("phone", "email"):
            values.setdefault(name, _text(telecom.get("value")))
    for identifier in _list(resource.get("identifier")):
        code = _code(identifier.get("type"))
        if code in _IDENTIFIERS:
            values.setdefault(_IDENTIFIERS[code], _text(identifier.get("value")))
    return values


def _condition(resource: Resource) -> Values:
    return {
        "name": _concept(resource.get("code")),
        "status": _concept(resource.get("clinicalStatus")),
        "severity": _concept(resource.get("severity")),
        "site": _concept(_first(resource.get("bodySite"))),
    }


def _medication_request(resource: Resource) -> Values:
    name = _concept(resource.get("medicationCodeableConcept"))
    wanted = _reference(resource, "medicationReference")
    if not name and wanted.startswith("#"):
        inner = (i for i in _list(resource.get("contained")) if i.get("id") == wanted[1:])
        name = _concept(next(inner, {}).get("code"))
    dosage = _first(resource.get("dosageInstruction"))
    return {
        "name": name,
        "dose": _text(dosage.get("text")),
        "status": _text(resource.get("status")),
        "reason": _concept(_first(resource.get("reasonCode"))),
    }


def _procedure(resource: Resource) -> Values:
    return {
        "name": _concept(resource.get("code")),
        "reason": _concept(_first(resource.get("reasonCode"))),
        "outcome": _concept(resource.get("outcome")),
        "site": _concept(_first(resource.get("bodySite"))),
    }


def _observation(resource: Resource) -> Values:
    value = _value(resource)
    if not value:
        parts = (
            (_concept(part.get("code")), _value(part)) for part in _list(resource.get("component"))
        )
        value = ", ".join(f"{name} {text}" for name, text in parts if name and text)
    return {
        "name": _concept(resource.get("code")),
        "value": value,
        "interpretation": _concept(_first(resource.get("interpretation"))),
    }


def _encounter(resource: Resource) -> Values:
    kind = resource.get("class")
    return {
        "name": _concept(_first(resource.get("type"))),
        "class": _text(kind.get("display") or kind.get("code")) if isinstance(kind, dict) else "",
        "reason": _concept(_first(resource.get("reasonCode"))),
    }


def _allergy(resource: Resource) -> Values:
    reaction = _first(resource.get("reaction"))
    return {
        "name": _concept(resource.get("code")),
        "reaction": _concept(_first(reaction.get("manifestation"))),
        "criticality": _text(resource.get("criticality")),
    }


def _immunization(resource: Resource) -> Values:
    return {
        "name": _concept(resource.get("vaccineCode")),
        "lot": _text(resource.get("lotNumber")),
    }


def _report(resource: Resource) -> Values:
    results = (_text(item.get("display")) for item in _list(resource.get("result")))
    return {
        "name": _concept(resource.get("code")),
        "conclusion": _text(resource.get("conclusion")),
        "results": _text(", ".join(text for text in results if text)),
    }


def _document(resource: Resource) -> Values:
    attachments = (_mapping(item.get("attachment")) for item in _list(resource.get("content")))
    texts = (_attached_text(attachment) for attachment in attachments)
    return {
        "name": _concept(resource.get("type")),
        "text": next((text for text in texts if text), ""),
        "description": _text(resource.get("description")),
    }


def _attached_text(attachment: Resource) -> str:
    """Inline plain text; what is linked or in another form is not fetched or guessed at."""
    data, kind = attachment.get("data"), _text(attachment.get("contentType"))
    if not isinstance(data, str) or not kind.casefold().startswith("text/plain"):
        return ""
    try:
        return _text(base64.b64decode(data, validate=False).decode("utf-8"))
    except (binascii.Error, UnicodeDecodeError):
        return ""


_EXTRACTORS: dict[str, Callable[[Resource], Values]] = {
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

_DATE_FIELDS = (
    "onsetDateTime", "effectiveDateTime", "performedDateTime", "occurrenceDateTime", "authoredOn",
    "onsetPeriod", "effectivePeriod", "performedPeriod", "period", "effectiveInstant",
    "recordedDate", "date", "issued",
)


def _date(resource: Resource) -> str:
    for name in _DATE_FIELDS:
        value = resource.get(name)
        start = value.get("start") if isinstance(value, dict) else value
        if isinstance(start, str) and (match := _DAY.fullmatch(start)):
            return match[1]
    return ""


def _main_concept(resource: Resource) -> object:
    named = ("code", "vaccineCode", "medicationCodeableConcept", "type")
    value = next((resource[name] for name in named if resource.get(name)), None)
    return _first(value) if isinstance(value, list) else value


def _value(node: Resource) -> str:
    """An observation's value, with its unit."""
    if isinstance(node.get("valueQuantity"), dict):
        quantity = node["valueQuantity"]
        unit = _text(quantity.get("unit") or quantity.get("code"))
        comparator = _text(quantity.get("comparator"))
        return f"{comparator}{_number(quantity.get('value'))} {unit}".strip()
    if isinstance(node.get("valueCodeableConcept"), dict):
        return _concept(node["valueCodeableConcept"])
    if isinstance(node.get("valueBoolean"), bool):
        return "yes" if node["valueBoolean"] else "no"
    if isinstance(node.get("valueInteger"), int):
        return str(node["valueInteger"])
    return _text(node.get("valueString"))


def _number(value: object) -> str:
    """At most two decimals where they can be seen, else two significant digits."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ""
    if isinstance(value, int) or float(value).is_integer():
        return str(int(value))
    return f"{value:.{_PLACES}f}".rstrip("0").rstrip(".") if abs(value) >= 0.1 else f"{value:.2g}"


def _concept(value: object) -> str:
    concept = _mapping(value)
    coding = _first(concept.get("coding"))
    text = _text(concept.get("text")) or _text(coding.get("display"))
    return _SEMANTIC_TAG.sub("", text)


def _code(value: object) -> str:
    return _text(_first(_mapping(value).get("coding")).get("code"))


def _reference(resource: Resource, name: str) -> str:
    return _text(_mapping(resource.get(name)).get("reference"))


def _human_name(name: Resource) -> str:
    if isinstance(name.get("given"), list) or name.get("family"):
        given = [_text(part) for part in name.get("given") or [] if isinstance(part, str)]
        return " ".join(part for part in (*given, _text(name.get("family"))) if part)
    return _text(name.get("text"))


def _address(address: Resource) -> str:
    lines = [_text(line) for line in address.get("line") or [] if isinstance(line, str)]
    rest = [_text(address.get(name)) for name in ("city", "state", "postalCode")]
    return ", ".join(part for part in (" ".join(lines), *rest) if part)


def _first_official(names: object) -> Resource:
    listed = _list(names)
    return next((name for name in listed if name.get("use") == "official"), _first(listed))


def _list(value: object) -> list[Resource]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _first(value: object) -> Resource:
    listed = _list(value)
    return listed[0] if listed else {}


def _mapping(value: object) -> Resource:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    """One line of text without control characters, of bounded length."""
    if not isinstance(value, str):
        return ""
    return _SPACE.sub(" ", _CONTROL.sub(" ", value)).strip()[:MAX_TEXT_CHARS].rstrip()

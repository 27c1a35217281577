"""One FHIR R4 resource: validated, and what it says about whom.

Validation is fhir.resources' R4B model of the resource: for the ten types read here R4 and
R4B are the same, and the library keeps no separate R4. What the resource itself takes back
(entered in error, refuted, not done) or has yet to come about gives no record.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

from pydantic import BaseModel, ValidationError

from medunlearn_client.records.fhir.elements import (
    Resource,
    code_of,
    concept_text,
    concepts_of,
    day_of,
    listed,
    main_concept,
    mapping,
    one_line,
    reference_of,
)
from medunlearn_client.records.fhir.extractors import (
    EXTRACTORS,
    Values,
    patient_identifiers,
    patient_names,
)
from medunlearn_client.records.fhir.standing import Standing
from medunlearn_client.records.fhir.versions import Version, moment_of, number_of, version_of
from medunlearn_client.records.fields import bad_row
from medunlearn_client.records.known_by import NOTHING, KnownBy

MAX_VALUES = 1 << 16
"""Of one resource; each takes about a kilobyte while it is validated."""

_PORTS = {"http": ":80", "https": ":443"}

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """What one resource says.

    Attributes:
        kind: Resource type.
        resource_id: Its id; empty where it has none.
        patient: Reference to the patient as it stands there; empty for a patient.
        date: Day it was recorded, YYYY-MM-DD, or empty.
        code: First code of the main concept, or empty.
        concepts: Ids in hierarchies of all of its codes.
        medication: Reference to a medication that names it, or empty.
        medication_server: Address of the server that has the medication, or empty.
        values: Texts for templates.
        version: How old it is.
        server: Address of the server that has the patient, or empty.
        standing: Whether it states a fact. What does not has no values, and replaces another
            version that does.
        identifiers: Digests of a patient's identifiers; empty for all else.
        names: Digests of a patient's names; empty for all else.
    """

    kind: str
    resource_id: str
    patient: str
    date: str
    code: str
    medication: str
    values: Values
    version: Version
    server: str
    medication_server: str = ""
    concepts: tuple[str, ...] = ()
    standing: Standing = Standing.FACT
    identifiers: KnownBy = NOTHING
    names: KnownBy = NOTHING

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
        InvalidRecord: ROW_FHIR_INVALID, with the element's place and never its value; or
            ROW_TOO_LONG for one whose model would fill the memory.
    """
    if _has_more_values_than(MAX_VALUES, resource):
        kind = resource["resourceType"]
        raise bad_row("ROW_TOO_LONG", f"the {kind} has more than {MAX_VALUES} elements")
    model = _model(resource["resourceType"])
    try:
        if model is not None:
            model.model_validate(resource)
    except ValidationError as error:
        raise bad_row("ROW_FHIR_INVALID", _complaint(resource["resourceType"], error)) from None
    except (TypeError, AttributeError, LookupError, ValueError, RecursionError):
        message = f"the {resource['resourceType']} is not valid FHIR R4"
        raise bad_row("ROW_FHIR_INVALID", message) from None


def _has_more_values_than(most: int, value: object) -> bool:
    """Counts objects, lists and what they hold; stops at ``most``."""
    waiting, count = [value], 0
    while waiting and count <= most:
        found = waiting.pop()
        if isinstance(found, (dict, list)):
            count += len(found)
            waiting.extend(found.values() if isinstance(found, dict) else found)
    return count > most


def _complaint(kind: str, error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    # An element that FHIR does not know is the row's own text, so it is not repeated.
    known = [] if first["type"] == "extra_forbidden" else [
        str(part) for part in first["loc"] if isinstance(part, int) or part.isidentifier()
    ]
    place = ".".join([kind, *known])
    return f"not valid FHIR R4 at {place[:120]} ({error.error_count()} complaint(s))"


def fact_of(resource: Resource, full_url: str) -> Fact | None:
    """What a validated resource that states a fact says; None if it is about no patient.

    Args:
        resource: The resource.
        full_url: Address of its bundle's entry, or empty.

    Raises:
        InvalidRecord: ROW_REFERENCE_MISSING: it names no patient.
    """
    kind = resource["resourceType"]
    values = {name: text for name, text in EXTRACTORS[kind](resource).items() if text}
    patient = ""
    if kind != "Patient":
        patient = _about_whom(resource)
        if not patient:
            raise bad_row("ROW_REFERENCE_MISSING", f"the {kind} names no patient")
        if _is_of_another_type(patient):
            return None
    is_patient = kind == "Patient"
    medication = reference_of(resource, "medicationReference")
    return Fact(
        kind=kind, resource_id=one_line(resource.get("id")), patient=patient,
        date=day_of(resource), code=code_of(main_concept(resource)),
        concepts=concepts_of(main_concept(resource)),
        medication=medication, medication_server=_server_meant(medication, full_url), values=values,
        version=version_of(resource),
        server=server_of(full_url) if is_patient else _server_meant(patient, full_url),
        identifiers=patient_identifiers(resource) if is_patient else NOTHING,
        names=patient_names(resource) if is_patient else NOTHING,
    )


def no_fact_of(resource: Resource, full_url: str, standing: Standing) -> Fact | None:
    """What a resource that states no fact, valid or not, says of its other versions.

    Its patient may be missing, as most of what was entered in error is taken out. None if it is
    about no patient.
    """
    kind = resource["resourceType"]
    patient = "" if kind == "Patient" else _about_whom(resource)
    if _is_of_another_type(patient):
        return None
    return Fact(
        kind=kind, resource_id=one_line(resource.get("id")), patient=patient, date="", code="",
        medication="", values={}, version=version_of(resource),
        server=_server_meant(patient, full_url), standing=standing,
    )


def _about_whom(resource: Resource) -> str:
    return reference_of(resource, "subject") or reference_of(resource, "patient")


def reference_key(reference: str) -> str:
    """``Patient/x``, ``http://server/Patient/x/_history/2`` and ``urn:uuid:x`` all give ``x``.

    A search (``Patient?identifier=...``) is given as it is: what it ends in is nobody's id.
    """
    plain = _without_version(reference)
    return plain if "?" in plain else re.split(r"[/:]", plain)[-1]


def server_of(reference: str) -> str:
    """``server/fhir`` of ``http://server/fhir/Patient/x``; empty for one that names none.

    One server may be called by http and by https, its name in any case, and the scheme's own port
    may be given.
    """
    if "://" not in reference or not is_known_type(type_of(reference)):
        return ""
    base = _without_version(reference).rpartition("/")[0].rpartition("/")[0]
    scheme, _, rest = base.partition("://")
    host, slash, path = rest.partition("/")
    host = host.lower().removesuffix(_PORTS.get(scheme.lower(), ""))
    return f"{host}{slash}{path}"


def _server_meant(reference: str, full_url: str) -> str:
    """The server of a reference; of one without, that of the entry's full URL."""
    is_absolute = "://" in reference or reference.startswith(("urn:", "#"))
    return server_of(reference if is_absolute or not reference else full_url)


def type_of(reference: str) -> str:
    """Type that a reference names; empty for a plain id, a URN or a search."""
    return _without_version(reference).partition("?")[0].rpartition("/")[0].rpartition("/")[2]


def _without_version(reference: str) -> str:
    return reference.partition("/_history/")[0].rstrip("/")


def _is_of_another_type(reference: str) -> bool:
    """Whether it names a device, a place or a group: ids are unique within one type only."""
    kind = type_of(reference)
    return kind != "Patient" and is_known_type(kind)


def merges_of(
    patient: Resource, own: str, full_url: str
) -> tuple[list[tuple[str, str]], int]:
    """Pairs of a patient's ids that a merge made one: the old one, and the one that stays.

    Args:
        patient: A validated Patient.
        own: The id that it goes by, also where it has none of its own.
        full_url: Address of its bundle's entry, or empty.

    Returns:
        The pairs, and how many merges are with a patient of another server, with a related
        person, or with somebody whom no reference names: an id says nothing of these here.
    """
    pairs: list[tuple[str, str]] = []
    elsewhere = 0
    for link in listed(patient.get("link")):
        kind = link.get("type")
        if kind not in ("replaced-by", "replaces") or link.get("modifierExtension"):
            continue
        if not _is_patient_here(mapping(link.get("other")), full_url):
            elsewhere += 1
            continue
        other = reference_key(reference_of(link, "other"))
        if own != other:
            pairs.append((own, other) if kind == "replaced-by" else (other, own))
    return pairs, elsewhere


def links_of(patient: Resource, own: str, full_url: str) -> list[str]:
    """Ids of patients of whom a patient says that they are of the same person, and not merged.

    Args:
        patient: A validated Patient.
        own: The id that it goes by, also where it has none of its own.
        full_url: Address of its bundle's entry, or empty.
    """
    linked = [
        reference_key(reference_of(link, "other")) for link in listed(patient.get("link"))
        if link.get("type") in ("seealso", "refer") and not link.get("modifierExtension")
        and _is_patient_here(mapping(link.get("other")), full_url)
    ]
    return [other for other in linked if other != own]


def _is_patient_here(other: Resource, full_url: str) -> bool:
    """Whether a link's other end is a patient of the server that this patient is of."""
    reference = one_line(other.get("reference"))
    if not reference or one_line(other.get("type")) not in ("", "Patient"):
        return False
    if type_of(reference) not in ("", "Patient"):
        return False
    return not server_of(reference) or server_of(reference) == server_of(full_url)


@dataclass(frozen=True, kw_only=True, slots=True)
class Deletion:
    """An entry of a bundle that deletes a resource.

    Attributes:
        kind: Type of the resource.
        resource_id: Its id; empty where a search says what is deleted.
        version: When it was deleted, and the version that the deletion made, if the entry says so.
    """

    kind: str
    resource_id: str = field(repr=False)
    version: Version


def deletion_of(entry: Resource) -> Deletion | None:
    """What a bundle's entry deletes; None if it does not.

    The entry may carry what it deletes, and say in another way than by its id which that is.
    """
    request = mapping(entry.get("request"))
    if request.get("method") != "DELETE":
        return None
    url = one_line(request.get("url"))
    response = mapping(entry.get("response"))
    etag = one_line(response.get("etag")).removeprefix("W/").strip('"')
    number = number_of(url.partition("/_history/")[2].rstrip("/"))
    version = Version(
        moment=moment_of(response.get("lastModified")),
        number=number_of(etag) if number is None else number,
    )
    carried = mapping(entry.get("resource"))
    if one_line(carried.get("id")) and ("?" in url or not url):
        url = f"{one_line(carried.get('resourceType'))}/{one_line(carried.get('id'))}"
    if "?" in url:
        kind = url.partition("?")[0].rstrip("/").rpartition("/")[2]
        return Deletion(kind=kind, resource_id="", version=version)
    return Deletion(kind=type_of(url), resource_id=reference_key(url), version=version)


def medication_name(resource: Resource) -> tuple[str, str]:
    """A Medication resource's own id and the name it gives."""
    return one_line(resource.get("id")), concept_text(resource.get("code"))

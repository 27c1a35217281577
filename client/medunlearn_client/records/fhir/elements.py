"""Elements of FHIR resources as texts: concepts, codes, references, names, values, days.

Each function takes whatever stands in the element's place and gives an empty text, or an empty
mapping, where that is not what FHIR puts there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Resource = Mapping[str, Any]

MAX_TEXT_CHARS = 4000
_PLACES = 2
_SEMANTIC_TAG = re.compile(r" \((?:disorder|finding|procedure|situation|morphologic .*?)\)$")
_DAY = re.compile(r"(\d{4}-\d{2}-\d{2})(?:T.*)?")
_SPACE = re.compile(r"\s+")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
# UCUM: remarks in braces, and what is left dangling without them.
_REMARK = re.compile(r"\{[^{}]*\}")
_DANGLING = re.compile(r"[./](?=[./]|$)")
_NO_UNIT = "1"
# As the loaders of hierarchies begin the ids of each code system.
_PREFIXES = {
    "http://snomed.info/sct": "SNOMEDCT:", "urn:oid:2.16.840.1.113883.6.96": "SNOMEDCT:",
    "http://hl7.org/fhir/sid/icd-10-cm": "ICD10CM:", "urn:oid:2.16.840.1.113883.6.90": "ICD10CM:",
    "http://www.nlm.nih.gov/research/umls": "UMLS:", "urn:oid:2.16.840.1.113883.6.86": "UMLS:",
    "urn:oid:2.16.840.1.113883.6.177": "MESH:",
}
_HAPPENED = (
    "onsetDateTime", "effectiveDateTime", "performedDateTime", "occurrenceDateTime", "authoredOn",
    "onsetPeriod", "effectivePeriod", "performedPeriod", "period", "effectiveInstant",
    "effectiveTiming",
)
_WRITTEN = ("date", "issued")
# How far from a person's own present name; any other use is as near as can be.
_USES = {"temp": 1, "nickname": 1, "anonymous": 1, "old": 2, "maiden": 2}


def day_of(resource: Resource) -> str:
    """Day of what happened, YYYY-MM-DD; empty where only a month or nothing is given.

    The day on which it was recorded stands in for it, as it is asked what was recorded; the day on
    which it was written out only where nothing at all is said of when it happened.
    """
    happened = [resource[name] for name in _HAPPENED if resource.get(name)]
    written = [] if happened else [resource.get(name) for name in _WRITTEN]
    days = (_day(value) for value in (*happened, resource.get("recordedDate"), *written))
    return next((day for day in days if day), "")


def _day(value: object) -> str:
    """Of a date or the start of a period."""
    start = value.get("start") if isinstance(value, dict) else value
    match = _DAY.fullmatch(start) if isinstance(start, str) else None
    return match[1] if match else ""


def main_concept(resource: Resource) -> object:
    """The element that names what the resource is about."""
    named = ("code", "vaccineCode", "medicationCodeableConcept", "type")
    value = next((resource[name] for name in named if resource.get(name)), None)
    return first_of(value) if isinstance(value, list) else value


def value_text(node: Resource) -> str:
    """An observation's value, with its unit."""
    if isinstance(node.get("valueQuantity"), dict):
        quantity = node["valueQuantity"]
        number = number_text(quantity.get("value"))
        unit = _unit(one_line(quantity.get("unit") or quantity.get("code")))
        comparator = one_line(quantity.get("comparator"))
        return f"{comparator}{number} {unit}".strip() if number else ""
    if isinstance(node.get("valueCodeableConcept"), dict):
        return concept_text(node["valueCodeableConcept"])
    if isinstance(node.get("valueBoolean"), bool):
        return "yes" if node["valueBoolean"] else "no"
    if isinstance(node.get("valueInteger"), int):
        return str(node["valueInteger"])
    return one_line(node.get("valueString"))


def _unit(text: str) -> str:
    """Without what UCUM writes and nobody says: 1 for no unit, and remarks."""
    said = _DANGLING.sub("", _REMARK.sub("", text)).strip() if "{" in text else text
    return "" if said == _NO_UNIT else said


def number_text(value: object) -> str:
    """At most two decimals where they can be seen, else two significant digits."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ""
    if isinstance(value, int) or float(value).is_integer():
        return str(int(value))
    return f"{value:.{_PLACES}f}".rstrip("0").rstrip(".") if abs(value) >= 0.1 else f"{value:.2g}"


def concept_text(value: object) -> str:
    """A CodeableConcept's own text, or its first coding's, without SNOMED's semantic tag."""
    concept = mapping(value)
    coding = first_of(concept.get("coding"))
    text = one_line(concept.get("text")) or one_line(coding.get("display"))
    return _SEMANTIC_TAG.sub("", text)


def code_of(value: object) -> str:
    """First code of a CodeableConcept."""
    return one_line(first_of(mapping(value).get("coding")).get("code"))


def codes_of(value: object) -> list[str]:
    """Codes of a CodeableConcept: its codings say the same in several systems."""
    return [one_line(coding.get("code")) for coding in listed(mapping(value).get("coding"))]


def concepts_of(value: object) -> tuple[str, ...]:
    """Codes of a CodeableConcept as the ids that they have in hierarchies, where these have any."""
    coded = ((_PREFIXES.get(one_line(coding.get("system")), ""), one_line(coding.get("code")))
             for coding in listed(mapping(value).get("coding")))
    return tuple(dict.fromkeys(
        f"{prefix}{code}" for prefix, code in coded if prefix and code and " " not in code))


def reference_of(resource: Resource, name: str) -> str:
    """The reference as it stands in the element of this name."""
    return one_line(mapping(resource.get(name)).get("reference"))


def human_name(name: Resource) -> str:
    """Given names and family name, or the name's text."""
    if isinstance(name.get("given"), list) or name.get("family"):
        given = [one_line(part) for part in name.get("given") or [] if isinstance(part, str)]
        return " ".join(part for part in (*given, one_line(name.get("family"))) if part)
    return one_line(name.get("text"))


def address_text(address: Resource) -> str:
    """Street, city, state and postal code in one line."""
    lines = [one_line(line) for line in address.get("line") or [] if isinstance(line, str)]
    rest = [one_line(address.get(name)) for name in ("city", "state", "postalCode")]
    return ", ".join(part for part in (" ".join(lines), *rest) if part)


def present_name(names: object) -> Resource:
    """The name that a patient goes by now: no former one, no ended one, and the official one.

    Which one that is does not depend on the day of reading: a name of today, whose end is given,
    gives way to one without an end, and of two the one that ends or began later is taken.
    """
    given = listed(names)
    if not given:
        return {}
    ends = [one_line(mapping(name.get("period")).get("end")) for name in given]
    starts = [one_line(mapping(name.get("period")).get("start")) for name in given]

    def rank(place: int) -> tuple[int, bool, str, bool, str, int]:
        use = one_line(given[place].get("use"))
        return (-_USES.get(use, 0), not ends[place], ends[place], use == "official",
                starts[place], -place)

    return given[max(range(len(given)), key=rank)]


def listed(value: object) -> list[Resource]:
    """The mappings of a list; none where it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def first_of(value: object) -> Resource:
    """The first mapping of a list, or an empty one."""
    items = listed(value)
    return items[0] if items else {}


def mapping(value: object) -> Resource:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def one_line(value: object) -> str:
    """One line of text without control characters, of bounded length."""
    if not isinstance(value, str):
        return ""
    return _SPACE.sub(" ", _CONTROL.sub(" ", value)).strip()[:MAX_TEXT_CHARS].rstrip()

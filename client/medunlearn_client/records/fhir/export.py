"""From FHIR rows to records: collect everything once, then write out patient by patient.

A question is asked only if it has one answer for its patient, so a day with two diagnoses is
not asked about. Record ids are ``patient:subject:resource id``: the same in a bundle and in a
bulk export, and unmoved by resources that are added later.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256

from medunlearn_client.records import synthea_options
from medunlearn_client.records.fhir.elements import listed
from medunlearn_client.records.fhir.extractors import FIELDS_OF
from medunlearn_client.records.fhir.notes import note_records
from medunlearn_client.records.fhir.resources import (
    Deletion,
    Fact,
    deletion_of,
    fact_of,
    is_known_type,
    links_of,
    medication_name,
    merges_of,
    no_fact_of,
    reference_key,
    server_of,
    validate,
)
from medunlearn_client.records.fhir.standing import Standing, standing_of
from medunlearn_client.records.fhir.store import (
    Added,
    FactStore,
    LeftOut,
    PatientFacts,
    Place,
    Reason,
    StoredFact,
    StoredPatient,
)
from medunlearn_client.records.fhir.templates import (
    WHO_AND_WHEN,
    QuestionTemplate,
    Rendered,
    TemplateSet,
    target_spans,
)
from medunlearn_client.records.fhir.versions import version_of
from medunlearn_client.records.fields import (
    Row,
    bad_row,
    content_id,
    identifier_text,
    is_no_identifier,
)
from medunlearn_client.records.record import InvalidRecord, Record, prompt_from_question
from medunlearn_client.records.row_by_row import attempt

POOL_PATIENTS = 500
MAX_BUNDLE_DEPTH = 2
MERGED = "Patient merged into another"
MERGED_ELSEWHERE = "merge that points elsewhere"
OTHER_VERSION = "version of a resource that another version replaces"
DELETED = "resource that was deleted"
DELETED_BY_SEARCH = "deletion by a search, which is not followed"
MERGE_LOST = "merge with a patient who is not in the export"
NEXT_PAGE = "next page of a search that is not among the files"
NO_QUESTION = "{kind} that lacks what its questions need"

_POOL_ANSWERS = 20

Result = tuple[str, int, list[Record] | InvalidRecord]
_PoolKey = tuple[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A filled question before its options are drawn."""

    template: QuestionTemplate
    fact: StoredFact
    question: Rendered
    answer: str

    @property
    def pool_key(self) -> _PoolKey:
        """Answers that may stand in for this one as a wrong option."""
        name = self.fact.values.get("name", "") if self.template.options == "code" else ""
        return (self.template.subject, name)


def recognises(row: Row) -> bool:
    """Whether an object is a FHIR resource, or a bundle's entry that holds or deletes one."""
    is_resource = isinstance(row.get("resourceType"), str)
    return is_resource or _is_entry(row) or deletion_of(row) is not None


def _is_entry(row: Row) -> bool:
    resource = row.get("resource")
    return isinstance(resource, dict) and isinstance(resource.get("resourceType"), str)


class FhirCollection:
    """All FHIR rows of one reading.

    Args:
        templates: What is asked of which resource.
        tell_apart: Call a patient by the record number as well where another one has the same
            name and date of birth.

    Attributes:
        set_aside: How many resources were in order but give no record, by resource type.
    """

    def __init__(self, templates: TemplateSet, *, tell_apart: bool = True) -> None:
        self._templates, self._tell_apart = templates, tell_apart
        self._store = FactStore()
        self._pages: set[bytes] = set()
        self._next_pages: set[bytes] = set()
        self._unfit: Counter[str] = Counter()
        self.set_aside: Counter[str] = Counter()

    def close(self) -> None:
        """Removes the facts from disk."""
        self._store.close()

    def add(self, file: str, number: int, row: Row) -> tuple[int, list[InvalidRecord]]:
        """Take one row: a resource, a bundle's entry, or a whole bundle.

        Returns:
            How many resources that were, and what is wrong with some of them.
        """
        place = Place(file=file, row=number)
        if row.get("resourceType") == "Bundle":
            self._note_pages(row)
        resources, errors = 0, []
        for resource, full_url in _resources(row):
            if isinstance(resource, Deletion):
                self._delete(resource)
                continue
            resources += 1
            try:
                self._add(resource, full_url, place)
            except InvalidRecord as error:
                errors.append(error)
        return max(resources, 1), errors

    def _note_pages(self, bundle: Row) -> None:
        for link in listed(bundle.get("link")):
            pages = {"self": self._pages, "next": self._next_pages}.get(str(link.get("relation")))
            url = link.get("url")
            if pages is not None and isinstance(url, str):
                pages.add(sha256(url.encode("utf-8", "surrogatepass")).digest()[:16])

    def _add(self, resource: object, full_url: str, place: Place) -> None:
        if isinstance(resource, InvalidRecord):
            raise resource
        if not isinstance(resource, dict):
            raise bad_row("ROW_FHIR_INVALID", "an entry without a resource")
        kind = resource.get("resourceType")
        if not is_known_type(kind):
            raise bad_row("ROW_FHIR_TYPE", "no resource type of FHIR R4")
        key = reference_key(full_url)
        if kind == "Medication":
            self._add_medication(resource, key, full_url)
        if kind not in FIELDS_OF:
            self.set_aside[str(kind)] += 1
            return
        standing = standing_of(resource)
        if standing is not Standing.FACT:
            self._take_back(no_fact_of(resource, full_url, standing), key, place)
        validate(resource)
        fact = fact_of(resource, full_url) if standing is Standing.FACT else None
        if fact is None:
            self.set_aside[str(kind)] += 1
            return
        named = _named(fact, key)
        if kind == "Patient":
            identifier_text({"id": named.resource_id}, "id")  # refuses what stands for no value
        if kind == "Patient" and _is_id(key) and key != named.resource_id:
            self._store.add_alias(key, named.resource_id, server=named.server)
        added = self._store.add(named, place)
        if added is Added.OTHER_PERSON:
            raise _ambiguous()
        if added is Added.REPLACED:
            return
        if kind == "Patient":  # one who comes again, merged by now, is merged all the same
            self._note_links(resource, named.resource_id, full_url)
        if added is Added.DUPLICATE:
            raise bad_row("ROW_DUPLICATE_ID", f"another {kind} of its patient "
                          "has the same id" if fact.patient else "another Patient has the same id")

    def _add_medication(self, resource: Row, key: str, full_url: str) -> None:
        medication_id, name = medication_name(resource)
        standing, version = standing_of(resource), version_of(resource)
        said = name if standing is Standing.FACT else ""
        clear = [
            self._store.add_medication(
                known, server_of(full_url), said, version=version, standing=standing
            )
            for known in {medication_id, key} - {""}
        ]
        if not all(clear):
            raise bad_row("ROW_DUPLICATE_ID", "another Medication has the same id and another name")

    def _take_back(self, said: Fact | None, key: str, place: Place) -> None:
        """Before it is validated: what says that a resource was an error need not be whole."""
        if said is None or not (said.resource_id or key):
            return
        named = _named(said, key)
        if named.patient or named.kind == "Patient":
            self._store.add(named, place)
        elif named.standing is Standing.NO_FACT:
            self._store.delete(named.kind, named.resource_id, named.version)

    def _delete(self, deletion: Deletion) -> None:
        if not deletion.resource_id:
            self.set_aside[DELETED_BY_SEARCH] += 1
        elif deletion.kind in FIELDS_OF or deletion.kind == "Medication":
            self._store.delete(deletion.kind, deletion.resource_id, deletion.version)

    def _note_links(self, patient: Row, patient_id: str, full_url: str) -> None:
        merges, elsewhere = merges_of(patient, patient_id, full_url)
        for old, new in merges:
            if _is_id(old) and _is_id(new):
                self._store.add_merge(old, new, said_by=patient_id, server=server_of(full_url))
            else:
                elsewhere += 1
        for other in links_of(patient, patient_id, full_url):
            self._store.add_link(patient_id, other, server=server_of(full_url))
        if elsewhere:
            self.set_aside[MERGED_ELSEWHERE] += elsewhere

    def results(self) -> Iterator[Result]:
        """Records and further bad rows, by patient, once everything was added."""
        pools = self._pools()
        for group in self._store.groups():
            if isinstance(group, LeftOut):
                error = _WHY_LEFT_OUT[group.reason]()
                for place in group.places:
                    yield place.file, place.row, error
            else:
                yield from self._records(group, pools)
        for kind, count in self._unfit.items():
            self.set_aside[NO_QUESTION.format(kind=kind)] = count
        store = self._store
        for what, count in (
            (MERGED, store.merged), (MERGE_LOST, store.merges_lost),
            (OTHER_VERSION, store.replaced), (DELETED, store.deleted),
        ):
            if count:
                self.set_aside[what] = count
        if missing := len(self._next_pages - self._pages):
            self.set_aside[NEXT_PAGE] = missing

    def _records(self, group: PatientFacts, pools: synthea_options.PoolsByKey) -> Iterator[Result]:
        who = self._called(group.patient)
        asked = list(self._asked(group, who, self._unfit))
        own: dict[_PoolKey, set[str]] = defaultdict(set)
        for item in asked:
            own[item.pool_key].add(item.answer)
        used: Counter[str] = Counter()
        for item in asked:
            limit = item.template.max_per_patient
            if limit and used[item.template.subject] >= limit:
                continue
            used[item.template.subject] += 1
            place = item.fact.place
            make = partial(_record, group.patient, item, own[item.pool_key], pools)
            yield place.file, place.row, attempt(make)
        if self._templates.note is not None:
            for place, make_note in note_records(self._templates.note, group, who):
                yield place.file, place.row, attempt(make_note)

    def _asked(
        self, group: PatientFacts, who: str, unfit: Counter[str] | None = None
    ) -> Iterator[Asked]:
        """Filled questions with one answer each, the latest facts first.

        Facts whose type has a template, and that fill none, are counted in ``unfit``.
        """
        patient = group.patient
        himself = StoredFact(
            kind="Patient", resource_id="0", date="", code="", values=patient.values,
            place=patient.place,
        )
        found: dict[tuple[str, str], Asked] = {}
        unclear: set[tuple[str, str]] = set()
        for fact in (himself, *group.facts):
            values = {**fact.values, "who": who, "date": fact.date}
            templates, fits = self._templates.questions.get(fact.kind, ()), False
            for template in templates:
                filled = template.filled(values)
                if filled is None:
                    continue
                fits = True
                question, answer = filled
                item = Asked(
                    template=template, fact=fact, question=question, answer=answer.text.strip()
                )
                key = (template.subject, question.text)
                first = found.setdefault(key, item)
                if first.answer != item.answer:
                    unclear.add(key)
            if unfit is not None and templates and not fits and fact is not himself:
                unfit[fact.kind] += 1
        return (item for key, item in found.items() if key not in unclear)

    def _called(self, patient: StoredPatient) -> str:
        return reference_to(patient, with_number=self._tell_apart and patient.has_namesake)

    def _pools(self) -> synthea_options.PoolsByKey:
        """Answers of a fixed sample of patients, so that memory does not grow with them."""
        pools: dict[_PoolKey, list[tuple[str, ...]]] = defaultdict(list)
        for group in self._store.groups(sample=POOL_PATIENTS):
            if isinstance(group, LeftOut):
                continue
            answers: dict[_PoolKey, dict[str, None]] = defaultdict(dict)
            for item in self._asked(group, self._called(group.patient)):
                if item.template.options != "none" and len(answers[item.pool_key]) < _POOL_ANSWERS:
                    answers[item.pool_key][item.answer] = None
            for key, texts in answers.items():
                pools[key].append(tuple(texts))
        return {key: tuple(pool) for key, pool in pools.items()}


def _resources(row: Row) -> Iterator[tuple[object, str]]:
    """Resources of a row with their full URLs, and what its entries delete.

    A row that is an entry came out of a bundle that was a document, and counts as one level down,
    so that a document and a line of the same content give the same.
    """
    if row.get("resourceType") == "Bundle":
        yield from _in_bundle(row, level=1)
    else:
        yield from _in_entry(row, level=1)


def _in_bundle(bundle: Row, *, level: int) -> Iterator[tuple[object, str]]:
    if level > MAX_BUNDLE_DEPTH:
        yield bad_row("ROW_FHIR_INVALID", f"bundles in bundles, over {MAX_BUNDLE_DEPTH} deep"), ""
        return
    entries = bundle.get("entry")
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict):
            yield from _in_entry(entry, level=level)
        else:
            yield None, ""


def _in_entry(entry: Row, *, level: int) -> Iterator[tuple[object, str]]:
    resource = entry if "resourceType" in entry else entry.get("resource")
    deletion = deletion_of(entry) if resource is not entry else None
    if deletion is not None:
        yield deletion, ""
    elif isinstance(resource, dict) and "resourceType" in resource:
        url = entry.get("fullUrl")
        if resource["resourceType"] == "Bundle":
            yield from _in_bundle(resource, level=level + 1)
        else:
            yield resource, url if isinstance(url, str) else ""
    elif resource is not None or "request" not in entry:
        yield None, ""


def _is_id(text: str) -> bool:
    """Whether it calls somebody: all whom ``unknown`` stands for would be one patient."""
    return bool(text) and not is_no_identifier(text)


def _named(fact: Fact, key: str) -> Fact:
    """The fact with an id, and with the ids of what it refers to.

    Args:
        fact: As the resource says it.
        key: Last part of the entry's full URL, the id of a resource that has none.
    """
    return replace(
        fact, patient=reference_key(fact.patient), medication=reference_key(fact.medication),
        resource_id=fact.resource_id or key or content_id(
            fact.kind, fact.patient, fact.date, *sorted(fact.values.values())
        ),
    )


def reference_to(patient: StoredPatient, *, with_number: bool) -> str:
    """How the patient is called in questions, by the record number too if that is needed."""
    values = patient.values
    number = values.get("record_number") or patient.patient_id
    name, born = values.get("name"), values.get("birth_date")
    if not name:
        return f"the patient with record number {number}"
    who = f"{name}, born {born}" if born else name
    return f"{who}, record number {number}" if with_number or not born else who


def _record(
    patient: StoredPatient, item: Asked, own: set[str], pools: synthea_options.PoolsByKey
) -> Record:
    record_id = f"{patient.patient_id}:{item.template.subject}:{item.fact.resource_id}"
    options: tuple[str, ...] = ()
    answer_index: int | None = None
    if item.template.options != "none":
        options, answer_index = synthea_options.draw(
            item.template.subject, item.answer, own, pools.get(item.pool_key, ()),
            seed_text=record_id,
        )
    prompt = prompt_from_question(item.question.text)
    is_condition = item.fact.kind == "Condition" and item.fact.code
    return Record(
        record_id=record_id, prompt=prompt, answer=item.answer, options=options,
        answer_index=answer_index, patient_id=patient.patient_id, subject=item.template.subject,
        target_spans=target_spans(item.question, prompt, item.answer, _marked(item.fact.kind)),
        is_identifier=item.template.is_identifier,
        condition_codes=(item.fact.code,) if is_condition else (), known_by=patient.known_by,
        former_patient_ids=patient.former_ids, coded=item.fact.coded,
    )


def _marked(kind: str) -> frozenset[str]:
    """Fields that single the patient out: a patient's own ones all do."""
    return FIELDS_OF["Patient"] | WHO_AND_WHEN if kind == "Patient" else WHO_AND_WHEN


def _no_patient() -> InvalidRecord:
    return bad_row("ROW_REFERENCE_MISSING", "its patient is not in the export, or stands there at "
                   "another server's address or under another id")


def _too_many() -> InvalidRecord:
    return bad_row("ROW_PATIENT_TOO_LARGE", "its patient has too many resources")


def _ambiguous() -> InvalidRecord:
    return bad_row("ROW_PATIENT_AMBIGUOUS", "two patients of other servers, names, birth dates, "
                   "genders or identifiers have this patient's id: read each system's export as "
                   "data of its own")


_WHY_LEFT_OUT = {
    Reason.NO_PATIENT: _no_patient, Reason.TOO_MANY: _too_many, Reason.AMBIGUOUS: _ambiguous,
}

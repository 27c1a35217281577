"""From data files to what one hospital holds: members split, forget set chosen, parts dealt."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from medunlearn_client.records import (
    ForgetRequest,
    ForgetSplit,
    Quarantine,
    ReadOptions,
    Record,
    assign_sites,
    read_records,
    require_whole_patients,
    retain_all,
    select,
    split_nonmembers,
)
from medunlearn_client.records.repairs import read_repairs
from medunlearn_client.records.subject_line import with_subject, without_subject
from medunlearn_client.tagging import NO_DECISIONS, ConceptTagger, read_decisions
from medunlearn_common.concepts import LeveledHierarchy
from medunlearn_common.concepts.planned import planned_levels
from medunlearn_common.digests import digest_of
from medunlearn_common.entropy import public_generator
from medunlearn_common.errors import Misconfigured
from medunlearn_common.plan.sections import (
    ConceptsSection,
    DataSection,
    ForgetSection,
    FoundRecord,
    LeftOutSection,
    RequestedSection,
)

_LOG = logging.getLogger("medunlearn.hospital")

Unit = Literal["record", "patient"]
NOTHING = LeftOutSection()
# Asked of three models, forgotten and kept: a share's standard error is 3.5 points at most.
UNNAMED_RECORDS = 200


@dataclass(frozen=True, kw_only=True)
class SiteRecords:
    """One site's members; either set may be empty.

    Attributes:
        forget: What is to be forgotten.
        retain: What is kept.
        left_out: What is read and takes no part; empty for one site of a simulation, where
            :class:`FederationRecords` has it.
    """

    forget: tuple[Record, ...]
    retain: tuple[Record, ...]
    left_out: tuple[Record, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FederationRecords:
    """All records of a simulated federation.

    Attributes:
        sites: What each site holds, in site order.
        nonmembers: Records that no model was ever taught.
        repeated: Retained records whose text equals that of one that is forgotten or left out.
        left_out: Records that take no part, at no site and not as non-members.
    """

    sites: tuple[SiteRecords, ...]
    nonmembers: tuple[Record, ...]
    repeated: int
    left_out: tuple[Record, ...] = ()

    @property
    def forget(self) -> tuple[Record, ...]:
        """Forget records of all sites."""
        return tuple(record for site in self.sites for record in site.forget)

    @property
    def retain(self) -> tuple[Record, ...]:
        """Retain records of all sites."""
        return tuple(record for site in self.sites for record in site.retain)


def leveled_hierarchy(
    concepts: ConceptsSection, forget: ForgetSection | None = None
) -> LeveledHierarchy:
    """The plan's hierarchies with its forget roots at level 4.

    A hospital's own forget concepts count as roots too, at that hospital only.
    """
    return planned_levels(concepts, further_roots=forget.concepts if forget is not None else ())


def record_tagger(
    concepts: ConceptsSection, forget: ForgetSection | None, data: DataSection
) -> ConceptTagger:
    """The plan's tagger, with what this hospital's clinicians decided on single mentions.

    Raises:
        Misconfigured: As the loaders of hierarchies and :func:`read_decisions` do.
    """
    file = data.tag_decisions
    decisions = read_decisions(Path(file)) if file else NO_DECISIONS
    return ConceptTagger(leveled_hierarchy(concepts, forget), decisions=decisions)


def forget_request(forget: ForgetSection, *, seed: int, show_subject: bool) -> ForgetRequest:
    """The plan's forget section as a request over records.

    Args:
        forget: What must go.
        seed: Of the draw of patients.
        show_subject: Whether the records' prompts were given a line that names the subject.
    """
    return ForgetRequest(
        record_ids=forget.records, patient_ids=forget.patients, subjects=forget.subjects,
        by_concept=bool(forget.concepts),
        patient_fraction=forget.patient_fraction or None,
        seed=seed, has_words=has_words_asked_for(forget, show_subject=show_subject),
    )


def words_digest(record: Record, *, show_subject: bool) -> str:
    """SHA-256 of a record's words, as the erasure registry keeps it of what it found.

    Args:
        record: As a run reads it.
        show_subject: Whether its prompt was given a line that names the subject.
    """
    return digest_of((without_subject(record) if show_subject else record).text)


def left_out_by(section: LeftOutSection, *, show_subject: bool) -> Callable[[Record], bool]:
    """What tells whether a record takes no part.

    A record that was found by its id is left out with the words that it had then. Other words are
    another record: an export that numbers its rows gives the id of one person's record to another's
    as soon as a row is added, and who bears it next has asked for nothing. An id that no record
    bears is no error: what was forgotten may have been deleted since.
    """
    patients = frozenset(section.patients)
    was_found = _was_found((*section.records, *section.by_concept), show_subject=show_subject)
    return lambda record: record.is_of(patients) or was_found(record)


def has_words_asked_for(forget: ForgetSection, *, show_subject: bool) -> Callable[[Record], bool]:
    """What tells of a record whose id is named whether its words are asked for, too.

    A plan names ids alone. A request was found with words: where rows share an id, the others'
    are another person's, who has asked for nothing.
    """
    found = forget.found if isinstance(forget, RequestedSection) else ()
    was_found = _was_found(found, show_subject=show_subject)
    ids = {record.record_id for record in found}
    return lambda record: record.record_id not in ids or was_found(record)


def _was_found(
    found: Iterable[FoundRecord], *, show_subject: bool
) -> Callable[[Record], bool]:
    """What tells whether a record has an id and words that were found; some keep no words."""
    words_of: dict[str, set[str | None]] = {}
    for record in found:
        words_of.setdefault(record.record_id, set()).add(record.text_digest)

    def was_found(record: Record) -> bool:
        words = words_of.get(record.record_id, set())
        return None in words or (
            bool(words) and words_digest(record, show_subject=show_subject) in words
        )

    return was_found


def unnamed_sample(records: Sequence[Record], *, seed: int) -> tuple[Record, ...]:
    """A sample asked without the subject: who asks need not use the hospital's form."""
    order = public_generator(seed, "evaluation", "unnamed").permutation(len(records))
    chosen = [records[int(place)] for place in sorted(order[:UNNAMED_RECORDS])]
    return tuple(without_subject(record) for record in chosen if record.subject)


def split_as_planned(
    records: Sequence[Record], data: DataSection, forget: ForgetSection, concepts: ConceptsSection,
    *, seed: int,
) -> ForgetSplit:
    """What a run of the plan would forget of these records, and what it would keep.

    Nothing is held out, dealt, or left out for what was forgotten before.

    Raises:
        Misconfigured: As :func:`select` does.
    """
    request = forget_request(forget, seed=seed, show_subject=data.show_subject)
    return select(as_trained(records, data), request, _matcher(concepts, forget, data))


def load_hospital_records(
    *, data: DataSection, forget: ForgetSection, concepts: ConceptsSection, unit: Unit,
    left_out: LeftOutSection = NOTHING,
) -> SiteRecords:
    """All records of one hospital's own files, forgotten or retained as its ``[forget]`` says.

    Nothing is dealt, held out or drawn here: that is for simulations, which play all hospitals.
    ``left_out`` names patients and records that are in neither set, unless ``forget`` names them;
    :func:`left_out_by` says which records those are.

    Guarantees:
        Whether a record takes part, and in which set, depends on the record, its patient and the
        settings alone, so that one unit more is one unit more in the sums. Who was merged with
        whom counts as a setting: it is the hospital's to say, and the content of no record. How
        many there are, of either kind, refuses nothing.

    Raises:
        Misconfigured: FORGET_DRAWN, or as the readers and :func:`select` do.
    """
    require_nobody_drawn(forget)
    records = _read(
        data, Quarantine(max_bad_fraction=data.max_bad_fraction), for_sums=True
    )
    if not records:  # in its own log, too: a wrong export would look like this
        _LOG.warning("the data hold no record: this hospital adds noise alone")
    is_left_out = left_out_by(left_out, show_subject=data.show_subject)
    split = retain_all(records, is_left_out)
    if any((forget.records, forget.patients, forget.subjects, forget.concepts)):
        split = select(
            records, forget_request(forget, seed=0, show_subject=data.show_subject),
            _matcher(concepts, forget, data),
            is_left_out=is_left_out, of_any_size=True,
        )
    if unit == "patient":
        require_whole_patients(split)
    if not split.forget:  # in this hospital's own log; a wrong name would look like this
        _LOG.warning("no record here is to be forgotten: this hospital only retains")
    if split.left_out:
        _LOG.info("%d record(s) of erasure requests that were forgotten before, or are in another "
                  "run, are left out; %d are kept", len(split.left_out), len(split.retain))
        if not split.retain:
            _LOG.warning("no record here is kept: hospital measure will mark no request")
    return SiteRecords(forget=split.forget, retain=split.retain, left_out=split.left_out)


def require_nobody_drawn(forget: ForgetSection) -> None:
    """Raises Misconfigured FORGET_DRAWN: a hospital says whom it forgets, a simulation draws."""
    if forget.patient_fraction:
        raise Misconfigured(
            "FORGET_DRAWN", "[forget] patient_fraction draws who is forgotten, for simulations",
            "name the records, patients, subjects or concepts that are to be forgotten",
        )


def _read(
    data: DataSection, quarantine: Quarantine, *, for_sums: bool = False
) -> list[Record]:
    """Read, mend and show all records; raises as the readers do, or DATA_FILE_MISSING."""
    if not data.files:
        raise Misconfigured(
            "DATA_FILE_MISSING", "the plan names no data file", "set [data] files or use --data"
        )
    records = read_records(
        [Path(name) for name in data.files], quarantine=quarantine,
        options=replace(ReadOptions.of_plan(data), for_sums=for_sums),
    )
    return as_trained(records, data)


def as_trained(records: Sequence[Record], data: DataSection) -> list[Record]:
    """The records as a run takes them: mended as was decided, and with their subjects if shown.

    Raises:
        Misconfigured: As :func:`read_repairs` does.
    """
    return [
        with_subject(record) if data.show_subject else record for record in mended(records, data)
    ]


def mended(records: Sequence[Record], data: DataSection) -> Sequence[Record]:
    """The records with the damaged words that somebody decided on, where the plan names repairs.

    Raises:
        Misconfigured: As :func:`read_repairs` does.
    """
    if not data.repairs:
        return records
    repairs = read_repairs(Path(data.repairs))
    found = [repairs.repaired(record) for record in records]
    if unused := repairs.unused(one for _, made in found for one in made):
        _LOG.warning("%d decided repair(s) changed nothing: their words do not stand there any "
                     "more", unused)
    return [record for record, _ in found]


def _matcher(
    concepts: ConceptsSection, forget: ForgetSection, data: DataSection
) -> ConceptTagger | None:
    """What finds records by the concepts of ``forget``; None where it names none."""
    if not forget.concepts:
        return None
    return record_tagger(concepts.model_copy(update={"forget_roots": ()}), forget, data)


def load_federation_records(
    *, data: DataSection, forget: ForgetSection, concepts: ConceptsSection, unit: Unit,
    n_sites: int, seed: int, concentration: float, quarantine: Quarantine | None = None,
    left_out: LeftOutSection = NOTHING,
) -> FederationRecords:
    """Read all files, hold out non-members, choose the forget set and deal to sites.

    Every hospital of a simulation calls this and keeps its own part, so that no file of
    split patient data is ever written. What is left out is dealt first, and held out no more than
    when it was forgotten, so that all others lie where they lay in the run that forgot it; until
    somebody who was held out in both is asked for, and is dealt with them.

    Raises:
        Misconfigured: As the readers, :func:`select` and :func:`assign_sites` do.
    """
    records = _read(data, quarantine or Quarantine(max_bad_fraction=data.max_bad_fraction))
    by_patient = any(record.patient_id is not None for record in records)
    members: Sequence[Record] = records
    nonmembers: Sequence[Record] = ()
    if data.nonmember_fraction > 0.0:
        members, nonmembers = split_nonmembers(
            records, fraction=data.nonmember_fraction, seed=seed, by_patient=by_patient
        )
        members, nonmembers = _with_named(
            records, nonmembers, _named_by(forget, left_out, show_subject=data.show_subject)
        )
    tagger = _matcher(concepts, forget, data)
    is_left_out = left_out_by(left_out, show_subject=data.show_subject)
    request = forget_request(forget, seed=seed, show_subject=data.show_subject)
    split = select(members, request, tagger, is_left_out=is_left_out)
    if unit == "patient":
        require_whole_patients(split)
    forget_ids = {record.record_id for record in split.forget}
    retain_ids = {record.record_id for record in split.retain}
    dealt = assign_sites(members, n_sites=n_sites, seed=seed, concentration=concentration)
    sites = tuple(
        SiteRecords(
            forget=tuple(r for r in dealt[index] if r.record_id in forget_ids),
            retain=tuple(r for r in dealt[index] if r.record_id in retain_ids),
        )
        for index in range(n_sites)
    )
    # Found by a concept, and held out: whether an earlier run, dealt otherwise, taught it is not
    # known here, and what was once taught is no non-member.
    held_out = retain_all(nonmembers, is_left_out)
    return FederationRecords(
        sites=sites, nonmembers=held_out.retain, repeated=len(split.repeated_ids),
        left_out=(*split.left_out, *held_out.left_out),
    )


def _named_by(
    forget: ForgetSection, left_out: LeftOutSection, *, show_subject: bool
) -> Callable[[Record], bool]:
    """What tells whether a record is asked for by name, now or in a run before.

    A concept names no record: what has it and is held out stays so, then and now.
    """
    records, patients = set(forget.records), set(forget.patients)
    was_named = left_out_by(
        left_out.model_copy(update={"by_concept": ()}), show_subject=show_subject
    )
    return lambda record: (
        record.record_id in records or record.is_of(patients) or was_named(record)
    )


def _with_named(
    records: Sequence[Record], nonmembers: Sequence[Record], is_named: Callable[[Record], bool]
) -> tuple[list[Record], list[Record]]:
    """Members and non-members; what is asked for by name is never held out.

    A patient comes back whole: half a patient among the never-taught would be no non-member.
    """
    named = [record for record in records if is_named(record)]
    ids = {record.record_id for record in named}
    patients = {record.patient_id for record in named if record.patient_id is not None}
    held = {
        record.record_id for record in nonmembers
        if record.record_id not in ids and record.patient_id not in patients
    }
    members = [record for record in records if record.record_id not in held]
    return members, [record for record in records if record.record_id in held]

"""Who and what is to be forgotten: a request over records, and the two disjoint sets it makes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from medunlearn_client.records.record import Record
from medunlearn_common.errors import Misconfigured

_MAX_PLACES_NAMED = 5


class ForgetRootMatcher(Protocol):
    """What selection needs of the concept tagger."""

    def record_matches_forget_root(self, record: Record) -> bool:
        """Whether the record is about a concept at or below a forget root.

        In a patient's record a concept that is negated or a relative's does not count.
        """


@dataclass(frozen=True, kw_only=True)
class ForgetRequest:
    """A union of criteria; a record that meets any of them is to be forgotten.

    What is asked for by name keeps its order, because messages give places in it, and never an
    id: ids of records and patients would stay in logs.

    Attributes:
        record_ids: Single records.
        patient_ids: All records of these patients.
        subjects: All records of these subjects, compared without regard to case.
        by_concept: Records in whose text the tagger finds a concept under a forget root.
        patient_fraction: This share of the patients, drawn with ``seed``; rounded, at least one.
        seed: Seeds the draw of patients.
        has_words: Of a record that ``record_ids`` names, whether its words are those that are
            meant: rows of a hospital may share an id. None: all records of these ids.
        keep_record_ids: Records that must be retained.
        keep_patient_ids: Patients who must be retained. They are also left out of the draw.
    """

    record_ids: tuple[str, ...] = field(default=(), repr=False)
    patient_ids: tuple[str, ...] = field(default=(), repr=False)
    subjects: tuple[str, ...] = ()
    by_concept: bool = False
    patient_fraction: float | None = None
    seed: int = 0
    has_words: Callable[[Record], bool] | None = field(default=None, repr=False)
    keep_record_ids: tuple[str, ...] = field(default=(), repr=False)
    keep_patient_ids: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        named = self.record_ids or self.patient_ids or self.subjects or self.by_concept
        if not named and self.patient_fraction is None:
            raise Misconfigured(
                "FORGET_REQUEST_EMPTY",
                "the request names nothing to forget",
                "name records, patients, subjects, concepts or a fraction of the patients in "
                "[forget], or give --forget-subject or --erasure",
            )
        if self.patient_fraction is not None and not 0.0 < self.patient_fraction < 1.0:
            raise Misconfigured(
                "FORGET_FRACTION",
                f"patient_fraction is {self.patient_fraction}, outside (0, 1)",
                "give a fraction such as 0.1",
            )
        if self.seed < 0:
            raise Misconfigured("SEED_NEGATIVE", f"seed is {self.seed}", "use 0 or above")


@dataclass(frozen=True, kw_only=True)
class ForgetSplit:
    """Disjoint sets that together hold every record.

    Attributes:
        forget: Records to forget, in file order.
        retain: All others that take part, in file order.
        repeated_ids: Retained records whose text equals that of a record that is forgotten or
            left out. They keep teaching what is to be forgotten, so the caller reports them.
        left_out: Records that take no part, in file order.
    """

    forget: tuple[Record, ...] = field(repr=False)
    retain: tuple[Record, ...] = field(repr=False)
    repeated_ids: tuple[str, ...] = field(repr=False)
    left_out: tuple[Record, ...] = field(default=(), repr=False)


def select(
    records: Sequence[Record], request: ForgetRequest, tagger: ForgetRootMatcher | None = None,
    *, is_left_out: Callable[[Record], bool] | None = None, of_any_size: bool = False,
) -> ForgetSplit:
    """Splits the records by the request.

    Args:
        records: All records.
        request: What to forget.
        tagger: Needed where the request is by concept.
        is_left_out: What is not retained either; one that is to be forgotten is so all the same.
        of_any_size: Take sets of any size, and subjects that no record has. Sums under noise
            need no other, and a refusal would tell how many records there are.

    Raises:
        Misconfigured: FORGET_ID_UNKNOWN, FORGET_TAGGER_MISSING, RECORD_IN_BOTH_SETS; where not of
            any size, FORGET_SET_EMPTY or FORGET_LARGER_THAN_RETAIN.
    """
    _check_known(records, request, subjects=not of_any_size)
    chosen = _chosen(records, request, tagger)
    keep_records, keep_patients = set(request.keep_record_ids), set(request.keep_patient_ids)
    _refuse_overlap([
        record.record_id for record, goes in zip(records, chosen, strict=True)
        if goes and (record.record_id in keep_records or record.is_of(keep_patients))
    ])
    forget = tuple(record for record, goes in zip(records, chosen, strict=True) if goes)
    kept = retain_all(
        [record for record, goes in zip(records, chosen, strict=True) if not goes], is_left_out
    )
    if not of_any_size:
        _check_sizes(forget, kept.retain, left_out=len(kept.left_out))
    repeated = _repeated(kept.retain, (*forget, *kept.left_out))
    return replace(kept, forget=forget, repeated_ids=repeated)


def retain_all(
    records: Sequence[Record], is_left_out: Callable[[Record], bool] | None = None
) -> ForgetSplit:
    """The split where nothing is to be forgotten: all that is not left out is retained."""
    absent = [is_left_out is not None and is_left_out(record) for record in records]
    retain = tuple(record for record, goes in zip(records, absent, strict=True) if not goes)
    left_out = tuple(record for record, goes in zip(records, absent, strict=True) if goes)
    return ForgetSplit(
        forget=(), retain=retain, repeated_ids=_repeated(retain, left_out), left_out=left_out
    )


def _repeated(retain: Iterable[Record], gone: Iterable[Record]) -> tuple[str, ...]:
    texts = {record.text.casefold() for record in gone}
    return tuple(r.record_id for r in retain if texts and r.text.casefold() in texts)


def join(forget: Sequence[Record], retain: Sequence[Record]) -> ForgetSplit:
    """A split from two sets that were given apart, for example as two files.

    Raises:
        Misconfigured: RECORD_IN_BOTH_SETS, FORGET_SET_EMPTY or FORGET_LARGER_THAN_RETAIN.
    """
    retained_ids = {record.record_id for record in retain}
    retained_texts = {record.text.casefold() for record in retain}
    _refuse_overlap([
        record.record_id
        for record in forget
        if record.record_id in retained_ids or record.text.casefold() in retained_texts
    ])
    _check_sizes(forget, retain)
    return ForgetSplit(forget=tuple(forget), retain=tuple(retain), repeated_ids=())


def require_whole_patients(split: ForgetSplit) -> None:
    """Refuses a split that cuts a patient in two, as the patient privacy unit demands.

    **Guarantees**: the forget and the retain sum of a step cost the ε of one only where no
    unit contributes to both (parallel composition).

    Raises:
        Misconfigured: PATIENT_IN_BOTH_SETS or PATIENT_ID_MISSING.
    """
    if any(record.patient_id is None for record in (*split.forget, *split.retain)):
        raise Misconfigured(
            "PATIENT_ID_MISSING",
            "the privacy unit is the patient, and some records name no patient",
            "add patient ids to the data, or use the record as the unit",
        )
    forgotten = {record.patient_id for record in split.forget}
    cut = forgotten & {record.patient_id for record in split.retain}
    if cut:
        raise Misconfigured(
            "PATIENT_IN_BOTH_SETS",
            f"{len(cut)} patient(s) have records to forget and records to retain",
            "forget whole patients, or use the record as the privacy unit",
        )


def _check_known(
    records: Sequence[Record], request: ForgetRequest, *, subjects: bool
) -> None:
    """Raises FORGET_ID_UNKNOWN; ``subjects`` asks for those, too."""
    patients = {record.patient_id for record in records if record.patient_id is not None}
    patients.update(former for record in records for former in record.former_patient_ids)
    ids = {record.record_id for record in records}
    known_subjects = {record.subject.casefold() for record in records if record.subject}
    asked_subjects = [subject.casefold() for subject in request.subjects if subjects]
    for what, asked, known in (
        ("records to forget", request.record_ids, ids),
        ("patients to forget", request.patient_ids, patients),
        ("subjects to forget", asked_subjects, known_subjects),
        ("records to keep", request.keep_record_ids, ids),
        ("patients to keep", request.keep_patient_ids, patients),
    ):
        places = [place for place, name in enumerate(asked, start=1) if name not in known]
        if places:
            raise Misconfigured(
                "FORGET_ID_UNKNOWN",
                f"the data hold no such {what}: {len(places)} of the {len(asked)} that are named, "
                f"number {listed(places)} of their list",
                "look these up in the list, such as [forget] of the plan, and compare with the "
                "data files; ids are case-sensitive, and messages never repeat them",
            )


def listed(places: Sequence[int]) -> str:
    """Some places of a list, and how many more there are."""
    more = f" and {len(places) - _MAX_PLACES_NAMED} more" * (len(places) > _MAX_PLACES_NAMED)
    return ", ".join(map(str, places[:_MAX_PLACES_NAMED])) + more


def _chosen(
    records: Sequence[Record], request: ForgetRequest, tagger: ForgetRootMatcher | None
) -> list[bool]:
    """Of each record, by itself, whether it goes; two may share an id and differ in this."""
    if request.by_concept and tagger is None:
        raise Misconfigured(
            "FORGET_TAGGER_MISSING",
            "the request is by concept, and no hierarchy is loaded",
            "name a hierarchy and its forget roots in the plan",
        )
    named = frozenset(request.record_ids)
    patients = _drawn_patients(records, request).union(request.patient_ids)
    subjects = {subject.casefold() for subject in request.subjects}
    return [
        (record.record_id in named and (request.has_words is None or request.has_words(record)))
        or record.is_of(patients)
        or (record.subject is not None and record.subject.casefold() in subjects)
        or (request.by_concept and tagger is not None and tagger.record_matches_forget_root(record))
        for record in records
    ]


def _drawn_patients(records: Iterable[Record], request: ForgetRequest) -> frozenset[str]:
    if request.patient_fraction is None:
        return frozenset()
    everyone = sorted({record.patient_id for record in records if record.patient_id is not None})
    count = max(1, round(request.patient_fraction * len(everyone)))
    kept = set(request.keep_patient_ids)
    free = [patient for patient in everyone if patient not in kept]
    generator = np.random.Generator(np.random.Philox(key=request.seed))
    order = generator.permutation(len(free))
    return frozenset(free[place] for place in order[:count])


def _refuse_overlap(ids: Collection[str]) -> None:
    if ids:
        raise Misconfigured(
            "RECORD_IN_BOTH_SETS",
            f"{len(ids)} record(s) are to be forgotten and retained at once",
            "leave each record in one of the two sets",
        )


def _check_sizes(
    forget: Sequence[Record], retain: Sequence[Record], *, left_out: int = 0
) -> None:
    if not forget:
        raise Misconfigured(
            "FORGET_SET_EMPTY",
            "no record matches the request",
            "check the ids, subjects or forget roots against the data",
        )
    if len(forget) > len(retain):
        raise Misconfigured(
            "FORGET_LARGER_THAN_RETAIN",
            f"{len(forget)} records are to be forgotten and only {len(retain)} retained"
            + (f"; {left_out} are left out, since an earlier run has forgotten them or another "
               "run has them now" if left_out else ""),
            "add data to retain, narrow the request, or retrain the model instead; a simulation "
            "also holds some out, [data] nonmember_fraction",
        )

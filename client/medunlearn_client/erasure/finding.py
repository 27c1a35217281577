"""Finds the records that a request means, and says of each why.

A patient is found by id, by name together with birth date, or by an identifier. Ids are
compared whole; names and identifiers only where they stand alone in the text, so that one
patient's number inside another's is no match. What points to more than one patient is refused,
and so is what stands in one patient's records without being shown to be his own: a registry that
erases the wrong person's data cannot be mended. What comes near is counted and
left to the officer: a record that is missed in silence is told to the requester as forgotten.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

from medunlearn_client.erasure.requests import Kind, Match
from medunlearn_client.erasure.resembling import LIKE_PERSON, Person
from medunlearn_client.records import (
    ForgetRootMatcher,
    Quarantine,
    ReadOptions,
    Record,
    stream_with_sources,
)
from medunlearn_client.records.known_by import NOTHING, KnownBy, alike, linked, named, whole
from medunlearn_client.records.merges import merged
from medunlearn_client.records.repairs import NO_REPAIRS, Repairs
from medunlearn_client.spellings import (
    core,
    folded,
    name_stands,
    orders_of,
    stands_alike,
    stands_alone,
)
from medunlearn_common.digests import digest_of, digest_of_files, digest_of_source
from medunlearn_common.errors import Misconfigured

BY_PATIENT_ID = "patient id"
BY_RECORD_ID = "record id"
BY_NAME = "name and birth date"
BY_IDENTIFIER = "identifier"
BY_SAME_PATIENT = "same patient as a match"
BY_FILE = "data set"
BY_CONCEPT = "concept or one below it"
LIKE_PATIENT_ID = "patient id in other spelling (case, leading zeros, separators)"
LIKE_OWN_ID = "the identifier, in some spelling, as the patient id"
LINKED = "a link of the patient's, in FHIR, that merges nobody"
LIKE_IDENTIFIER = "identifier in other spelling (leading zeros, separators)"
LIKE_TEXT = "the same words under another id"
LIKE_CONCEPT = "the concept's name, denied, a relative's, or decided to mean something else"
AS_WRONG_OPTION = "wrong option of another patient's question"
NO_PATIENT = "no patient id, in data in which others have one"
MIN_IDENTIFIER, MIN_NAME, MIN_BIRTH_DATE = 4, 2, 6


class Tagger(ForgetRootMatcher, Protocol):
    """What a search needs of the concept tagger: how a run chooses, and what bears the name."""

    def matches_forget_root(self, text: str) -> bool:
        """Whether the text names the concept or one below it, whatever is said of it."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to look for; nothing of it is stored, and its repr shows nothing.

    Attributes:
        kind: What the request is about.
        patient_id: Id of the patient; with ``record_id``, whose record is meant.
        name: Full name, with ``birth_date``.
        birth_date: As it stands in the records, usually YYYY-MM-DD.
        identifier: Any identifier of the patient.
        record_id: Id of one record.
        data_set: One of the files that are searched.
        concept_id: Concept of the hierarchy.
    """

    kind: Kind
    patient_id: str | None = field(default=None, repr=False)
    name: str | None = field(default=None, repr=False)
    birth_date: str | None = field(default=None, repr=False)
    identifier: str | None = field(default=None, repr=False)
    record_id: str | None = field(default=None, repr=False)
    data_set: Path | None = field(default=None, repr=False)
    concept_id: str | None = None

    def __post_init__(self) -> None:
        if (self.name is None) != (self.birth_date is None):
            raise Misconfigured(
                "ERASURE_NAME_ALONE", "a name without a birth date, or the other way round",
                "give both: a name alone may be another person's",
            )
        self._check_kind()
        for what, value, least in (
            ("identifier", self.identifier, MIN_IDENTIFIER), ("name", self.name, MIN_NAME),
            ("birth date", self.birth_date, MIN_BIRTH_DATE),
        ):
            if value is not None and len(re.sub(r"[\W_]", "", value)) < least:
                raise Misconfigured(
                    "ERASURE_TOO_SHORT", f"the {what} has fewer than {least} letters and digits",
                    "what is short matches by chance; give it in full, or the patient id",
                )

    # Digests of what is wanted, made once: a search asks for them at each record.

    @cached_property
    def known_identifier(self) -> KnownBy:
        """The identifier as a column holds it."""
        return _whole(self.identifier)

    @cached_property
    def known_alike(self) -> KnownBy:
        """The identifier without what programs change."""
        return NOTHING if self.identifier is None else frozenset({alike(self.identifier)})

    @cached_property
    def core_of_identifier(self) -> str:
        """The identifier without what programs change, for the patient id."""
        return core(self.identifier or "")

    @cached_property
    def known_name(self) -> KnownBy:
        """The name in each of its orders, as a column of identifiers holds it."""
        return _whole(*orders_of(self.name or ""))

    @cached_property
    def known_birth_date(self) -> KnownBy:
        """The birth date, as a column of identifiers holds it."""
        return _whole(self.birth_date)

    @cached_property
    def known_with_date(self) -> KnownBy:
        """The name of one who was born that day."""
        return named(self.name, self.birth_date) if self.name and self.birth_date else NOTHING

    @cached_property
    def person(self) -> Person | None:
        """What tells of likeness, where a name is asked for."""
        return Person(self.name, self.birth_date) if self.name and self.birth_date else None

    @cached_property
    def _options(self) -> frozenset[str]:
        spelled = [*orders_of(self.name or ""), self.identifier or ""]
        return frozenset(map(folded, spelled)) - {""}

    def is_option_of(self, record: Record) -> bool:
        """Whether the name or identifier is among the options of a patient's own such question.

        Readers draw wrong options from other patients, and a copy keeps them.
        """
        return record.patient_id is not None and record.is_identifier and any(
            folded(option) in self._options for option in record.options
        )

    def _check_kind(self) -> None:
        asked: dict[str, tuple[object, ...]] = {
            "patient": (self.patient_id, self.name, self.identifier), "record": (self.record_id,),
            "data_set": (self.data_set,), "concept": (self.concept_id,),
        }
        given = {kind for kind, values in asked.items() if any(v is not None for v in values)}
        if self.kind == "record" and self.name is None and self.identifier is None:
            given -= {"patient"}  # rows of several patients may share an id
        blank = any(value == "" for values in asked.values() for value in values)
        if given != {self.kind} or blank:
            raise Misconfigured(
                "ERASURE_WANTED",
                "a request names exactly one patient, record, data set or concept",
                "enter one request for each",
            )


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was found.

    Attributes:
        target: What a run is given: id of patient, record or concept, digest of a file or of
            records' ids and words where ids may be others' too; None if nothing is held.
        matches: Each record, once, with the strongest reason.
        mentions: Records of other patients in which the name or identifier stands as well.
            They are not part of the request, and the officer decides about them.
        unread: Rows in quarantine, which could not be searched.
        near: Records by what comes near; they are not part of the request either.
        patient_ids: By which later runs leave out the patient: the one that was asked for, else
            the one that goes on, and those of before a merge. A merge may be a mistake, and taken
            back; then who asked stays left out. Not an id that other patients' records bear, now
            or of before a merge: it may be theirs.
    """

    target: str | None = field(repr=False)
    matches: tuple[Match, ...] = field(repr=False)
    mentions: int = 0
    unread: int = 0
    near: Mapping[str, int] = field(default_factory=dict)
    patient_ids: tuple[str, ...] = field(default=(), repr=False)

    @property
    def reasons(self) -> dict[str, int]:
        """Records by reason, the most frequent first."""
        return dict(Counter(match.reason for match in self.matches).most_common())


def find_records(
    wanted: Wanted, files: Sequence[Path], *, tagger: Tagger | None = None,
    options: ReadOptions | None = None, quarantine: Quarantine | None = None,
    repairs: Repairs = NO_REPAIRS,
) -> Found:
    """Looks through all files; they are read once and nothing of them is written.

    Args:
        wanted: What to look for.
        files: The hospital's record files, folders or archives.
        tagger: The one by which the coming runs choose; needed for concepts.
        options: How the files are read, as the plan of the coming runs says.
        quarantine: Counts the rows that could not be read.
        repairs: The plan's, so that the words searched are those of the coming runs.

    Raises:
        Misconfigured: ERASURE_AMBIGUOUS, ERASURE_OWNER_UNSURE, ERASURE_DATA_SET, ERASURE_TAGGER,
            or a code of the readers.
    """
    held = quarantine if quarantine is not None else Quarantine()
    located = _read(files, options, held, repairs)
    found = _found(wanted, located, tagger)
    return replace(found, unread=held.count,
                   near={**found.near, **_copies(wanted, found, located)})


Located = list[tuple[Path | None, str, Record]]
Reasons = list[str | None]
"""Why each record is matched by itself, in their order: rows of two patients may share an id."""


def _found(wanted: Wanted, located: Located, tagger: Tagger | None) -> Found:
    if wanted.kind == "patient":
        return _patient(wanted, located)
    if wanted.kind == "record":
        return _record(wanted, located)
    if wanted.kind == "data_set":
        return _data_set(wanted, located)
    if tagger is None:
        raise Misconfigured(
            "ERASURE_TAGGER", "the request is by concept, and no hierarchy is loaded",
            "name the hierarchies of your plans with --hierarchy",
        )
    met = [tagger.record_matches_forget_root(record) for _, _, record in located]
    matches = _where(located, met, BY_CONCEPT)
    # Not all that a run forgets need bear the name as it stands: a decision may say what is meant.
    near = sum(
        not chosen and tagger.matches_forget_root(record.text)
        for (_, _, record), chosen in zip(located, met, strict=True)
    )
    return Found(target=wanted.concept_id if matches else None, matches=matches,
                 near={LIKE_CONCEPT: near} if near else {})


def _read(
    files: Sequence[Path], options: ReadOptions | None, held: Quarantine, repairs: Repairs
) -> Located:
    """Records with the source they came from and its digest, as a run reads them.

    Raises:
        Misconfigured: DATA_NO_RECORDS, or a code of the readers.
    """
    found = list(stream_with_sources(files, quarantine=held, options=options))
    if not found:
        raise Misconfigured(
            "DATA_NO_RECORDS", "the data holds no usable record", "check the files and the format"
        )
    together = digest_of_files(files) if any(path is None for path, _ in found) else ""
    digests = {path: digest_of_source(path) for path in {path for path, _ in found} if path}
    records = merged([record for _, record in found])
    return [
        (path, digests[path] if path else together, repairs.repaired(record)[0])
        for (path, _), record in zip(found, records, strict=True)
    ]


def _where(located: Located, met: Sequence[bool], reason: str) -> tuple[Match, ...]:
    return tuple(
        Match(record_id=record.record_id, file_digest=digest, reason=reason,
              text_digest=digest_of(record.text))
        for (_, digest, record), chosen in zip(located, met, strict=True)
        if chosen
    )


def _record(wanted: Wanted, located: Located) -> Found:
    """By its id, and by its patient's where rows of several patients share one.

    Raises:
        Misconfigured: ERASURE_AMBIGUOUS.
    """
    bearing = [item for item in located if item[2].record_id == wanted.record_id]
    is_it = [
        wanted.patient_id is None or record.is_of({wanted.patient_id}) for _, _, record in bearing
    ]
    owners = {record.patient_id for (_, _, record), met in zip(bearing, is_it, strict=True) if met}
    if len(owners) > 1:
        patients = len(owners - {None})
        nobodys = sum(record.patient_id is None for _, _, record in bearing)
        raise Misconfigured(
            "ERASURE_AMBIGUOUS", f"records of {patients} patient{'s' * (patients > 1)}"
            f"{f' and {nobodys} without a patient' if nobodys else ''} bear the record id",
            "give the patient id too, with --patient: only that patient's records are meant then"
            + ("; one without a patient is found by --name or --identifier" if nobodys else ""),
        )
    matches = _where(bearing, is_it, BY_RECORD_ID)
    # By its id alone, another patient's record that bears it would be asked for already.
    target = wanted.record_id if all(is_it) else _ids_and_words(matches)
    return Found(target=target if matches else None, matches=matches)


def _ids_and_words(matches: Iterable[Match]) -> str:
    return digest_of(sorted([match.record_id, match.text_digest] for match in matches))


def _data_set(wanted: Wanted, located: Located) -> Found:
    chosen = wanted.data_set.resolve() if wanted.data_set is not None else None
    mine = [item for item in located if item[0] is not None and item[0].resolve() == chosen]
    if not mine:
        raise Misconfigured(
            "ERASURE_DATA_SET", "the data set is none of the sources that are searched, or FHIR "
            "whose facts come from several of them",
            "name it with --data as well, as your plans do; FHIR as one folder that holds no more",
        )
    return Found(target=mine[0][1], matches=_where(mine, [True] * len(mine), BY_FILE))


def _patient(wanted: Wanted, located: Located) -> Found:
    direct = [_why(wanted, record) for _, _, record in located]
    owner = _owner(wanted, located, direct)
    matches, mentions = _belonging(located, direct, owner)
    former = frozenset(
        one for _, _, record in located if owner is not None and record.patient_id == owner
        for one in record.former_patient_ids)
    near = _near(wanted, located, direct, owner, former)
    if not matches:
        return Found(target=None, matches=(), mentions=mentions, near=near)
    # With their words: another person's rows may bear the same ids, and her request is another.
    target = owner or _ids_and_words(matches)
    of_others = {one for _, _, record in located if record.patient_id != owner
                 for one in (record.patient_id, *record.former_patient_ids)}
    own = sorted(one for one in former if one not in of_others)
    known = () if owner is None else (wanted.patient_id or owner, *own)
    return Found(target=target, matches=matches, mentions=mentions, near=near,
                 patient_ids=tuple(dict.fromkeys(known)))


def _owner(wanted: Wanted, located: Located, direct: Reasons) -> str | None:
    """Whose records are meant; None if those that are matched are of no patient.

    A letter names relatives, and one person's postal code is another's number: what merely stands
    in somebody's record must not make him the one who is forgotten.

    Raises:
        Misconfigured: ERASURE_AMBIGUOUS, ERASURE_OWNER_UNSURE.
    """
    met = [record for (_, _, record), reason in zip(located, direct, strict=True) if reason]
    owners = {record.patient_id for record in met if record.patient_id is not None}
    if wanted.patient_id is not None:  # by an id of before a merge: the one who goes on
        owners = {record.patient_id for _, _, record in located
                  if record.patient_id is not None and record.is_of({wanted.patient_id})}
        if len(owners) > 1:
            raise Misconfigured(
                "ERASURE_AMBIGUOUS", f"records of {len(owners)} patients bear the patient id, now "
                "or of before a merge, and nothing tells whose it is",
                "find out whose it is, and mend what the data say of merges, such as "
                "former_patient_ids; then search again",
            )
    if len(owners) > 1:
        raise Misconfigured(
            "ERASURE_AMBIGUOUS", f"what was given points to {len(owners)} patients",
            "ask the requester for more, and give the patient id",
        )
    owner = next(iter(owners), None)
    own = [record for _, _, record in located if owner is not None and record.patient_id == owner]
    if wanted.patient_id is None and own and not any(_is_own(wanted, record) for record in own):
        count = sum(record.patient_id == owner for record in met)
        raise Misconfigured(
            "ERASURE_OWNER_UNSURE", f"what was given stands in {count} of {len(own)} records of "
            "one patient, and nothing there shows that it is this patient's own",
            "it may be a relative's, or a stranger's; find out whose it is, and give the patient "
            "id with --patient",
        )
    return owner


def _is_own(wanted: Wanted, record: Record) -> bool:
    """Whether the record shows that what was given is its own patient's."""
    if wanted.identifier is not None and (
        folded(wanted.identifier) == folded(record.patient_id or "")
        or _is_marked(record, [wanted.identifier])
    ):
        return True
    if wanted.name is None or wanted.birth_date is None:
        return False
    return not record.known_by.isdisjoint(wanted.known_with_date) or (
        _is_marked(record, orders_of(wanted.name)) and _is_marked(record, [wanted.birth_date])
    )


def _is_marked(record: Record, spellings: Iterable[str]) -> bool:
    """Whether one of these is known of the patient, or marked in a question as his.

    Of an answer all is marked, whatever it says of others: only an identifier is his, as a whole.
    """
    marked = [record.text[start:end] for start, end in record.target_spans
              if end <= len(record.prompt)]
    answer = folded(record.answer) if record.is_identifier else None
    return any(
        whole(spelled) in record.known_by or folded(spelled) == answer
        or any(stands_alone(spelled, part) for part in marked)
        for spelled in spellings
    )


def _copies(wanted: Wanted, found: Found, located: Located) -> dict[str, int]:
    """Records that say what a match says; another patient's may say so of himself."""
    if wanted.kind == "concept":
        return {}
    matched = {(match.record_id, match.text_digest) for match in found.matches}
    is_matched = [(r.record_id, digest_of(r.text)) in matched for _, _, r in located]
    texts = {folded(item[2].text) for item, met in zip(located, is_matched, strict=True) if met}
    copies = sum(
        not met and folded(record.text) in texts
        for (_, _, record), met in zip(located, is_matched, strict=True)
        if wanted.kind != "patient" or record.patient_id is None
    )
    return {LIKE_TEXT: copies} if copies else {}


def _near(
    wanted: Wanted, located: Located, direct: Reasons, owner: str | None,
    former: Collection[str] = (),
) -> dict[str, int]:
    """Records that are no part of the request and may yet be the patient's, by reason."""
    called = [known for known in (wanted.patient_id, owner, *former) if known is not None]
    ids, links = {core(known) for known in called}, frozenset(map(linked, called))
    of_patients = {digest for _, digest, record in located if record.patient_id is not None}
    # Where the patient's own records lie, others' options are drawn from them, and go with them.
    of_owner = {digest for _, digest, record in located
                if owner is not None and record.patient_id == owner}
    reasons: Counter[str] = Counter()
    for (_, digest, record), met in zip(located, direct, strict=True):
        if met or (owner is not None and record.patient_id == owner):
            continue
        is_linked = not record.known_by.isdisjoint(links)
        reason = LINKED if is_linked else _likeness(wanted, record, ids, owner)
        if reason is None and digest not in of_owner and wanted.is_option_of(record):
            reason = AS_WRONG_OPTION
        if reason is None and record.patient_id is None and digest in of_patients:
            reason = NO_PATIENT
        if reason is not None:
            reasons[reason] += 1
    return dict(reasons.most_common())


def _likeness(
    wanted: Wanted, record: Record, ids: Collection[str], owner: str | None
) -> str | None:
    """What of the patient the record resembles.

    Where the requester was found, names and days in another patient's records do not count, since
    they repeat; a name together with the day does.
    """
    if record.patient_id is not None and core(record.patient_id) in ids:
        return LIKE_PATIENT_ID
    if record.patient_id is not None and wanted.identifier is not None and (
        core(record.patient_id) == wanted.core_of_identifier
    ):
        return LIKE_OWN_ID
    likeness = wanted.person.likeness(record) if wanted.person is not None else None
    if likeness == LIKE_PERSON:  # one person may have two ids
        return likeness
    if record.patient_id is not None and owner is not None:
        return None
    if wanted.identifier is not None and (
        not record.known_by.isdisjoint(wanted.known_alike)
        or stands_alike(wanted.identifier, record.text)
    ):
        return LIKE_IDENTIFIER
    return likeness


def _belonging(
    located: Located, direct: Reasons, owner: str | None
) -> tuple[tuple[Match, ...], int]:
    """The owner's records and matched ones that name no patient; how many name another."""
    matches, mentions = [], 0
    for (_, digest, record), reason in zip(located, direct, strict=True):
        if record.patient_id is not None and record.patient_id != owner:
            mentions += reason is not None
        elif record.patient_id is not None or reason is not None:
            matches.append(Match(
                record_id=record.record_id, file_digest=digest,
                reason=reason or BY_SAME_PATIENT, owned=record.patient_id is not None,
                text_digest=digest_of(record.text),
            ))
    return tuple(matches), mentions


def _why(wanted: Wanted, record: Record) -> str | None:
    """Why a record is matched by itself, the strongest reason first."""
    if wanted.patient_id is not None and record.is_of({wanted.patient_id}):
        return BY_PATIENT_ID
    known = record.known_by
    if wanted.identifier is not None and (
        not known.isdisjoint(wanted.known_identifier)
        or stands_alone(wanted.identifier, record.text)
    ):
        return BY_IDENTIFIER
    if wanted.name is None or wanted.birth_date is None:
        return None
    if not known.isdisjoint(wanted.known_with_date):
        return BY_NAME
    in_columns = not known.isdisjoint(wanted.known_name)
    if (in_columns or name_stands(wanted.name, record.text)) and (
        not known.isdisjoint(wanted.known_birth_date)
        or stands_alone(wanted.birth_date, record.text)
    ):
        return BY_NAME
    return None


def _whole(*values: str | None) -> KnownBy:
    return frozenset(whole(value) for value in values if value)

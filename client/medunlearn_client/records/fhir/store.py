"""Facts of an export, gathered by patient on disk, since an export has them in any order.

The facts lie in a temporary database without a name (see ``seen.temporary_database``), so
memory does not grow with the export, a crash leaves nothing behind, and what comes out does
not depend on the order of files and rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

from medunlearn_client.records.fhir.medications import (
    MEDICATIONS_TABLE,
    NAME_OF_MEDICATION,
    add_medication,
    settle_medications,
)
from medunlearn_client.records.fhir.resources import Fact
from medunlearn_client.records.fhir.standing import Standing
from medunlearn_client.records.fhir.versions import Version, are_one_person
from medunlearn_client.records.known_by import NOTHING, KnownBy, linked
from medunlearn_client.records.seen import temporary_database

MAX_FACTS_PER_PATIENT = 20_000
_BATCH = 2_000

_TABLES = """
CREATE TABLE patients(id TEXT PRIMARY KEY, digest BLOB, who TEXT, file INT, row INT,
  data TEXT, moment INT, number INT) WITHOUT ROWID;
CREATE TABLE servers(id TEXT, server TEXT, PRIMARY KEY (id, server)) WITHOUT ROWID;
CREATE TABLE known_by(patient TEXT, digest BLOB, is_name INT, PRIMARY KEY (patient, digest))
  WITHOUT ROWID;
CREATE TABLE ambiguous(id TEXT PRIMARY KEY, file INT, row INT) WITHOUT ROWID;
CREATE TABLE aliases(alias TEXT PRIMARY KEY, key TEXT, digest BLOB, id TEXT) WITHOUT ROWID;
CREATE TABLE merges(said_by TEXT, old TEXT, new TEXT, server TEXT,
  PRIMARY KEY (said_by, old, new, server)) WITHOUT ROWID;
CREATE TABLE links(said_by TEXT, other TEXT, server TEXT, PRIMARY KEY (said_by, other, server))
  WITHOUT ROWID;
CREATE TABLE linked(id TEXT, other TEXT, PRIMARY KEY (id, other)) WITHOUT ROWID;
CREATE TABLE replaced(new TEXT, old TEXT, PRIMARY KEY (new, old)) WITHOUT ROWID;
CREATE TABLE known(digest BLOB PRIMARY KEY, moment INT, number INT, standing INT, fact INT,
  server TEXT) WITHOUT ROWID;
CREATE TABLE deleted(name TEXT, moment INT, number INT);
CREATE INDEX deleted_names ON deleted(name);
CREATE TABLE facts(fact INTEGER PRIMARY KEY, moment INT, number INT, patient TEXT, kind TEXT,
  date TEXT, id TEXT, file INT, row INT, code TEXT, medication TEXT, data TEXT, server TEXT,
  medication_server TEXT, concepts TEXT);
"""


def _whose(reference: str, server: str) -> str:
    """SQL of the id that a reference means, by address on its server or by name."""
    return (f"COALESCE((SELECT id FROM aliases WHERE alias = {server} || '/' || {reference}), "
            f"(SELECT id FROM aliases WHERE alias = {reference}), {reference})")


# SQLite sorts outside memory; all else are lookups by primary key. What another server says of a
# patient of that id is said of somebody else: its owner is an address, and so no patient's id.
_MEANT = _whose("f.patient", "f.server")
_BY_PATIENT = f"""
SELECT CASE WHEN f.server = '' OR EXISTS (SELECT 1 FROM servers WHERE id = {_MEANT}
    AND server = f.server) OR NOT EXISTS (SELECT 1 FROM servers WHERE id = {_MEANT})
  THEN {_MEANT} ELSE f.server || '/' || f.patient END AS owner,
  f.kind, f.date, f.id, f.file, f.row, f.code, f.data, f.concepts,
  {NAME_OF_MEDICATION}
FROM facts f ORDER BY owner, f.date DESC, f.kind, f.id, f.server, f.data, f.code, f.concepts
"""
# As references are followed; of two who replaced one patient the same is taken in any order.
_MERGES = f"""
SELECT {_whose("m.old", "m.server")} AS gone, {_whose("m.new", "m.server")} AS stays
FROM merges m WHERE gone <> stays
"""
# Before chains are followed: one that leads through the id of two people leads to a stranger.
_CLEAR_MERGES = f"""{_MERGES} AND gone NOT IN (SELECT id FROM ambiguous)
AND stays NOT IN (SELECT id FROM ambiguous) ORDER BY gone, stays DESC
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a resource stood."""

    file: str
    row: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFact:
    """A fact with its place; ``resource_id`` is never empty here.

    ``concepts`` are the ids of what its name means.
    """

    kind: str
    resource_id: str
    date: str
    code: str
    values: dict[str, str]
    place: Place
    concepts: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"StoredFact({self.kind}, …)"

    @property
    def coded(self) -> tuple[str, ...]:
        """As a record has it."""
        name = self.values.get("name")
        return tuple(f"{concept} {name}" for concept in self.concepts) if name else ()


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredPatient:
    """A patient; ``has_namesake``: another one has the same name and date of birth.

    ``former_ids`` are of patients who were merged into this one, in the export or before it.
    ``known_by`` has digests of what the patient is known by, also from before a merge.
    """

    patient_id: str
    values: dict[str, str]
    has_namesake: bool
    place: Place
    former_ids: tuple[str, ...]
    known_by: KnownBy

    def __repr__(self) -> str:
        return "StoredPatient(…)"


@dataclass(frozen=True, kw_only=True, slots=True)
class PatientFacts:
    """One patient's facts, latest first."""

    patient: StoredPatient
    facts: Sequence[StoredFact]


class Reason(Enum):
    """Why resources become nothing."""

    NO_PATIENT = "their patient is not there"
    TOO_MANY = "their patient has too many"
    AMBIGUOUS = "two patients have the id of theirs"


class Added(Enum):
    """What became of a fact."""

    KEPT = "it is kept"
    REPLACED = "another version of it counts"
    DUPLICATE = "its patient has one of that type and id already"
    OTHER_PERSON = "it is another patient of the same id, so neither is kept"


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """Resources that become nothing, and why."""

    places: Sequence[Place]
    reason: Reason


Group = PatientFacts | LeftOut


class FactStore:
    """Takes facts in any order and gives them back by patient.

    Attributes:
        merged: Patients whose facts went to the one who replaced them, once groups were asked for.
        merges_lost: Merges of patients who stay apart, since no one is there who replaced them, or
            two have the id.
        replaced: Facts of which another version is kept, or takes them back.
        deleted: Facts and patients that were deleted, once groups were asked for.
    """

    def __init__(self) -> None:
        self.merged = self.merges_lost = self.replaced = self.deleted = 0
        self._db = temporary_database()
        for statement in (_TABLES + MEDICATIONS_TABLE).split(";"):
            self._db.execute(statement)
        self._files: list[str] = []
        self._numbers: dict[str, int] = {}
        self._waiting: list[tuple[Any, ...]] = []
        self._facts = self._flushed = 0
        self._is_settled = False

    def close(self) -> None:
        """Removes everything."""
        self._db.close()

    def add(self, fact: Fact, place: Place) -> Added:
        """Keep a fact, which has an id, unless another version of it counts.

        Exports of two systems can give one id to resources of two patients: what one patient has
        must not decide what another one keeps.
        """
        digest = self._known_as(fact)
        of_patient = fact.kind != "Patient" and fact.standing is Standing.FACT
        number = self._facts + 1 if of_patient else None
        known = (fact.version.moment, fact.version.number, fact.standing.value, number,
                 fact.server, digest)
        if not self._db.execute(
            "INSERT OR IGNORE INTO known(moment, number, standing, fact, server, digest) "
            "VALUES (?, ?, ?, ?, ?, ?)", known
        ).rowcount:
            refused = self._refused(fact, digest)
            if refused is not None:
                return refused
            self._db.execute("UPDATE known SET moment = ?, number = ?, standing = ?, fact = ?, "
                             "server = ? WHERE digest = ?", known)
        if fact.standing is Standing.FACT:
            self._put(fact, digest, place)
        return Added.KEPT

    def _known_as(self, fact: Fact) -> bytes:
        """Digest of what its versions have in common: of a patient of another server none is."""
        name = f"{fact.patient}\x1f{fact.kind}/{fact.resource_id}"
        digest = _digest(name)
        if fact.kind == "Patient" or not fact.server:
            return digest
        query = "SELECT 1 FROM known WHERE digest = ? AND server NOT IN ('', ?)"
        is_elsewhere = self._db.execute(query, (digest, fact.server)).fetchone() is not None
        return _digest(f"{fact.server}\x1f{name}") if is_elsewhere else digest

    def _refused(self, fact: Fact, digest: bytes) -> Added | None:
        """Why a fact does not count that is there in another version; else that one goes."""
        moment, number, standing, place = self._db.execute(
            "SELECT moment, number, standing, fact FROM known WHERE digest = ?", (digest,)
        ).fetchone()
        order = fact.version.order(Version(moment=moment, number=number))
        are_facts = standing == fact.standing == Standing.FACT
        if fact.kind == "Patient" and are_facts and not self._is_known_person(
            fact, are_versions=order != 0
        ):
            self._db.execute("INSERT OR IGNORE INTO ambiguous(id) VALUES (?)", (fact.resource_id,))
            return Added.OTHER_PERSON
        if are_facts and order == 0:
            self._know(fact)
            return Added.DUPLICATE
        counts = (order or fact.standing - standing) > 0
        if (standing if counts else fact.standing) == Standing.FACT:
            self.replaced += 1
        if not counts:
            self._know(replace(fact, identifiers=NOTHING))  # who asks may give a former name
            return Added.REPLACED
        if fact.kind == "Patient":
            self._db.execute("DELETE FROM patients WHERE id = ?", (fact.resource_id,))
            self._db.execute("DELETE FROM known_by WHERE patient = ? AND NOT is_name",
                             (fact.resource_id,))
            for table in ("merges", "links"):
                self._db.execute(f"DELETE FROM {table} WHERE said_by = ?", (fact.resource_id,))
        elif place is not None:
            if place > self._flushed:
                self._flush()
            self._db.execute("DELETE FROM facts WHERE fact = ?", (place,))
        return None

    def _put(self, fact: Fact, digest: bytes, place: Place) -> None:
        data = json.dumps(fact.values, ensure_ascii=False)
        file, version = self._file_number(place.file), fact.version
        if fact.kind == "Patient":
            who = f"{fact.values.get('name', '')}\x1f{fact.values.get('birth_date', '')}"
            self._db.execute(
                "INSERT INTO patients VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (fact.resource_id, digest, who, file, place.row, data, version.moment,
                 version.number),
            )
            self._know(fact)
            return
        self._facts += 1
        self._waiting.append(
            (self._facts, version.moment, version.number, fact.patient, fact.kind, fact.date,
             fact.resource_id, file, place.row, fact.code, fact.medication, data, fact.server,
             fact.medication_server, " ".join(fact.concepts))
        )
        if len(self._waiting) >= _BATCH:
            self._flush()

    def _know(self, fact: Fact) -> None:
        """Keep what a patient is known by, and where, beside what is known already."""
        if fact.kind != "Patient":
            return
        self._db.executemany(
            "INSERT OR IGNORE INTO known_by VALUES (?, ?, ?)",
            [(fact.resource_id, known, known in fact.names)
             for known in fact.identifiers | fact.names],
        )
        if fact.server and fact.standing is Standing.FACT:
            self._db.execute("INSERT OR IGNORE INTO servers VALUES (?, ?)",
                             (fact.resource_id, fact.server))

    def _is_known_person(self, fact: Fact, *, are_versions: bool) -> bool:
        """Whether the patient who has this one's id is this one."""
        who = (fact.resource_id,)
        data, = self._db.execute("SELECT data FROM patients WHERE id = ?", who).fetchone()
        servers = self._column("SELECT server FROM servers WHERE id = ?", who)
        query = "SELECT digest FROM known_by WHERE patient = ? AND NOT is_name"
        identifiers = self._column(query, who)
        return are_one_person(
            json.loads(data), fact.values,
            have_one_server=fact.server in servers if servers and fact.server else None,
            have_other_identifiers=bool(identifiers and fact.identifiers)
            and identifiers.isdisjoint(fact.identifiers), are_versions=are_versions,
        )

    def _column(self, query: str, arguments: tuple[str, ...]) -> frozenset[Any]:
        return frozenset(value for value, in self._db.execute(query, arguments))

    def delete(self, kind: str, resource_id: str, version: Version) -> None:
        """Drop what has this type and id, of whichever patient, if it is not known to be later."""
        self._db.execute(
            "INSERT INTO deleted VALUES (?, ?, ?)",
            (f"{kind}/{resource_id}", version.moment, version.number),
        )

    def add_alias(self, key: str, patient_id: str, *, server: str) -> None:
        """Another name under which references call a patient; on a server, if that is known.

        It counts if it is no patient's id, and if no other patient has it as well.
        """
        self._db.execute(
            "INSERT INTO aliases VALUES (?, ?, ?, ?) ON CONFLICT(alias) DO UPDATE SET id = NULL "
            "WHERE id <> excluded.id",
            (f"{server}/{key}" if server else key, key, _digest(f"\x1fPatient/{key}"), patient_id),
        )

    def add_merge(self, old: str, new: str, *, said_by: str, server: str) -> None:
        """The hospital found that two patients are one, who goes on under the new id.

        Either may be called by an id or by an alias, in any order of patients and merges. A later
        version of the patient who says so may say so no more.
        """
        self._db.execute("INSERT OR IGNORE INTO merges VALUES (?, ?, ?, ?)",
                         (said_by, old, new, server))

    def add_link(self, said_by: str, other: str, *, server: str) -> None:
        """Another patient of the same person, whom the hospital has not merged; as for a merge."""
        self._db.execute("INSERT OR IGNORE INTO links VALUES (?, ?, ?)", (said_by, other, server))

    def add_medication(
        self, medication_id: str, server: str, name: str, *, version: Version, standing: Standing
    ) -> bool:
        """The name of a medication that requests refer to; see ``medications.add_medication``."""
        return add_medication(
            self._db, medication_id, server, name, version=version, standing=standing
        )

    def groups(self, *, sample: int | None = None) -> Iterator[Group]:
        """Facts by patient, in order of patient ids; patients without facts too.

        Args:
            sample: Only this many patients, chosen by the digest of their ids.
        """
        if not self._is_settled:
            self._settle()
        if sample is not None:
            yield from self._sampled(sample)
            return
        yield from self._ambiguous()
        patients = self._patients("ORDER BY id")
        waiting = next(patients, None)
        for owner, rows in groupby(self._db.execute(_BY_PATIENT), key=itemgetter(0)):
            while waiting is not None and waiting.patient_id < owner:
                yield PatientFacts(patient=waiting, facts=())
                waiting = next(patients, None)
            is_found = waiting is not None and waiting.patient_id == owner
            yield from self._parts(owner, waiting if is_found else None, rows)
            waiting = next(patients, None) if is_found else waiting
        while waiting is not None:
            yield PatientFacts(patient=waiting, facts=())
            waiting = next(patients, None)

    def _settle(self) -> None:
        """Once all is there: who is who, and what counts."""
        self._flush()
        self._drop_unclear_aliases()
        self._drop_deleted()
        settle_medications(self._db)
        self._part_ambiguous()
        self._merge()
        self._link()
        self._db.execute("CREATE INDEX by_who ON patients(who)")
        self._is_settled = True

    def _drop_unclear_aliases(self) -> None:
        """What is a patient's id, or a name of two, calls nobody else."""
        self._db.execute("DELETE FROM aliases WHERE digest IN (SELECT digest FROM known)")
        self._db.execute("INSERT OR IGNORE INTO ambiguous(id) SELECT key FROM aliases "
                         "WHERE id IS NULL")

    def _drop_deleted(self) -> None:
        if self._db.execute("SELECT 1 FROM deleted").fetchone() is None:
            return  # an export is not looked through for nothing
        for table, name in (("facts", "kind || '/' || id"), ("patients", "'Patient/' || id"),
                            ("medications", "'Medication/' || id")):
            self.deleted += self._db.execute(
                f"DELETE FROM {table} WHERE EXISTS (SELECT 1 FROM deleted d WHERE d.name = {name} "
                f"AND CASE WHEN {table}.moment <> d.moment THEN {table}.moment > d.moment "
                f"ELSE {table}.number > d.number END IS NOT TRUE)"  # as Version.order has it
            ).rowcount
        self._db.execute("DELETE FROM deleted")

    def _part_ambiguous(self) -> None:
        """Whoever shares an id with another person goes, and nobody is merged with either."""
        of_them = "id IN (SELECT id FROM ambiguous)"
        self._db.execute(
            f"INSERT OR REPLACE INTO ambiguous SELECT id, file, row FROM patients WHERE {of_them}"
        )
        self._db.execute(f"DELETE FROM patients WHERE {of_them}")
        self._db.execute(f"DELETE FROM servers WHERE {of_them}")

    def _ambiguous(self) -> Iterator[LeftOut]:
        rows = self._db.execute(
            "SELECT file, row FROM ambiguous WHERE file IS NOT NULL ORDER BY id"
        )
        while places := [
            Place(file=self._files[file], row=row) for file, row in islice(rows, _BATCH)
        ]:
            yield LeftOut(places=places, reason=Reason.AMBIGUOUS)

    def _is_ambiguous(self, patient_id: str) -> bool:
        query = "SELECT 1 FROM ambiguous WHERE id = ?"
        return self._db.execute(query, (patient_id,)).fetchone() is not None

    def _merge(self) -> None:
        """Gives the facts of replaced patients to those who stay, if these are in the export."""
        merges: dict[str, str] = dict(self._db.execute(_CLEAR_MERGES))
        count = f"SELECT COUNT(DISTINCT gone) FROM ({_MERGES})"
        self.merges_lost += self._db.execute(count).fetchone()[0] - len(merges)
        if merges:
            self._db.execute("CREATE INDEX IF NOT EXISTS alias_ids ON aliases(id)")
        for old, new in _ends(merges, self._is_there).items():
            if new is None or self._are_of_other_servers(old, new):
                self.merges_lost += 1
                continue
            self._db.execute("UPDATE aliases SET id = ? WHERE id = ?", (new, old))
            self._db.execute("INSERT OR REPLACE INTO aliases VALUES (?1, ?1, NULL, ?2)", (old, new))
            self._db.execute("UPDATE OR IGNORE servers SET id = ? WHERE id = ?", (new, old))
            self._db.execute("INSERT INTO replaced VALUES (?, ?)", (new, old))
            self._db.execute("UPDATE OR IGNORE known_by SET patient = ? WHERE patient = ?",
                             (new, old))
            self.merged += self._db.execute("DELETE FROM patients WHERE id = ?", (old,)).rowcount
        self._db.execute("DELETE FROM merges")

    def _is_there(self, patient_id: str) -> bool:
        query = "SELECT 1 FROM patients WHERE id = ?"
        return self._db.execute(query, (patient_id,)).fetchone() is not None

    def _link(self) -> None:
        """Both ways, between those who are left after the merges, and with the ids of before."""
        ends = f"SELECT {_whose('said_by', 'server')} AS one, {_whose('other', 'server')} AS two"
        for one, two in (("one", "two"), ("two", "one")):
            self._db.execute(f"INSERT OR IGNORE INTO linked SELECT {one}, {two} FROM "
                             f"({ends} FROM links) WHERE one <> two")
        self._db.execute("INSERT OR IGNORE INTO linked SELECT l.id, r.old FROM linked l "
                         "JOIN replaced r ON r.new = l.other")

    def _are_of_other_servers(self, old: str, new: str) -> bool:
        """Whether the one who stays is a stranger with the id of the one whom a link means."""
        query = "SELECT server FROM servers WHERE id = ?"
        before, after = self._column(query, (old,)), self._column(query, (new,))
        return bool(before and after) and before.isdisjoint(after)

    def _sampled(self, count: int) -> Iterator[Group]:
        self._db.execute("CREATE INDEX IF NOT EXISTS by_patient ON facts(patient)")
        query = _BY_PATIENT.replace("FROM facts f", "FROM facts f WHERE f.patient IN (SELECT ?1 "
                                    "UNION SELECT key FROM aliases WHERE id = ?1) AND owner = ?1")
        self._db.execute("CREATE INDEX IF NOT EXISTS alias_ids ON aliases(id)")
        for patient in list(self._patients("ORDER BY digest LIMIT ?", (count,))):
            rows = self._db.execute(query, (patient.patient_id,))
            facts = [self._fact(row) for row in islice(rows, MAX_FACTS_PER_PATIENT)]
            yield PatientFacts(patient=patient, facts=facts)

    def _parts(
        self, owner: str, patient: StoredPatient | None, rows: Iterator[tuple[Any, ...]]
    ) -> Iterator[Group]:
        reason = Reason.TOO_MANY
        if patient is None:
            reason = Reason.AMBIGUOUS if self._is_ambiguous(owner) else Reason.NO_PATIENT
        else:
            facts = [self._fact(row) for row in islice(rows, MAX_FACTS_PER_PATIENT)]
            yield PatientFacts(patient=patient, facts=facts)
        while places := [self._place(row) for row in islice(rows, _BATCH)]:
            yield LeftOut(places=places, reason=reason)

    def _fact(self, row: tuple[Any, ...]) -> StoredFact:
        _, kind, date, resource_id, _, _, code, data, concepts, medication = row
        values = json.loads(data)
        if medication:
            values.setdefault("name", medication)
        return StoredFact(
            kind=kind, resource_id=resource_id, date=date, code=code, values=values,
            place=self._place(row), concepts=tuple(concepts.split()),
        )

    def _place(self, row: tuple[Any, ...]) -> Place:
        return Place(file=self._files[row[4]], row=row[5])

    def _patients(self, order: str, arguments: tuple[int, ...] = ()) -> Iterator[StoredPatient]:
        query = (
            "SELECT id, data, file, row, (SELECT COUNT(*) FROM (SELECT 1 FROM patients q "
            f"WHERE q.who = p.who LIMIT 2)) FROM patients p {order}"
        )
        for patient_id, data, file, row, namesakes in self._db.execute(query, arguments):
            yield StoredPatient(
                patient_id=patient_id, values=json.loads(data), has_namesake=namesakes > 1,
                place=Place(file=self._files[file], row=row), known_by=self._known_by(patient_id),
                former_ids=self._former_ids(patient_id),
            )

    def _known_by(self, patient_id: str) -> KnownBy:
        who = (patient_id,)
        others = self._column("SELECT other FROM linked WHERE id = ?", who)
        digests = self._column("SELECT digest FROM known_by WHERE patient = ?", who)
        return digests.union(map(linked, others))

    def _former_ids(self, patient_id: str) -> tuple[str, ...]:
        query = "SELECT old FROM replaced WHERE new = ? ORDER BY old"
        return tuple(old for old, in self._db.execute(query, (patient_id,)))

    def _flush(self) -> None:
        self._db.executemany(
            "INSERT INTO facts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", self._waiting
        )
        self._waiting.clear()
        self._flushed = self._facts

    def _file_number(self, file: str) -> int:
        if file not in self._numbers:
            self._numbers[file] = len(self._files)
            self._files.append(file)
        return self._numbers[file]


def _ends(
    merges: dict[str, str], is_there: Callable[[str], bool]
) -> dict[str, str | None]:
    """Each replaced id with the last one of its chain that is there; none of those in rings.

    None where no one is there who comes later in the chain.
    """
    ends: dict[str, str | None] = {}
    in_rings: set[str] = set()
    for old in merges:
        passed: dict[str, None] = {}
        new = old
        while new in merges and not (new in passed or new in ends or new in in_rings):
            passed[new] = None
            new = merges[new]
        if new in passed or new in in_rings:
            in_rings.update(passed)
            continue
        end = ends.get(new)
        for replaced in (new, *reversed(passed)):  # so that no chain is followed twice
            ends.setdefault(replaced, end)
            if end is None and is_there(replaced):
                end = replaced
    return {old: ends[old] for old in merges if old in ends}


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]

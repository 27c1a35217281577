"""Names of medications that requests refer to: of each the version that counts.

As with facts, the latest counts, and what was an error names nothing. Where two of one id differ
and nothing tells which is the later one, neither names anything: what comes out must not depend
on the order of files and rows. So all that is said is kept, and weighed once it is there. What
names no server may be a version of any server's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from sqlite3 import Connection

from medunlearn_client.records.fhir.standing import Standing
from medunlearn_client.records.fhir.versions import Version

_ANY_SERVER = "*"
# A name is NULL where none was given.
MEDICATIONS_TABLE = """
CREATE TABLE medications(id TEXT, server TEXT, name TEXT, moment INT, number INT, standing INT);
CREATE INDEX medication_ids ON medications(id, server);
CREATE TABLE medication_names(id TEXT, server TEXT, name TEXT, PRIMARY KEY (id, server))
  WITHOUT ROWID;
"""
# Of the fact ``f``. A server's own comes before what names no server.
NAME_OF_MEDICATION = f"""
CASE WHEN f.medication <> '' THEN (
  SELECT m.name FROM medication_names m WHERE m.id = f.medication AND m.server IN
  ('', CASE f.medication_server WHEN '' THEN '{_ANY_SERVER}' ELSE f.medication_server END)
  ORDER BY m.server DESC LIMIT 1) END
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Said:
    """What one version says; ``server`` is empty where it names none."""

    server: str
    name: str | None
    version: Version
    standing: int

    def __repr__(self) -> str:
        return "_Said(…)"

    def counts_more_than(self, other: _Said) -> bool:
        order = self.version.order(other.version)
        return order > 0 or (order == 0 and self.standing > other.standing)


def add_medication(
    db: Connection, medication_id: str, server: str, name: str, *, version: Version,
    standing: Standing,
) -> bool:
    """Keep what is said of a medication's name.

    Args:
        db: Where it is kept.
        medication_id: As references call it.
        server: Address of the server that has it, or empty.
        name: Its name; empty where it gives none, or states no fact.
        version: How old it is.
        standing: Whether it states a fact.

    Returns:
        False if another one has the id and another name, and nothing tells which one counts.
    """
    new = _Said(server=server, name=name or None, version=version, standing=standing.value)
    rows = db.execute(
        "SELECT server, name, moment, number, standing FROM medications WHERE id = ?1 "
        "AND (?2 IN ('', server) OR server = '')", (medication_id, server)
    )
    known = [_said(*row) for row in rows]
    if new not in known:
        db.execute("INSERT INTO medications VALUES (?, ?, ?, ?, ?, ?)", (
            medication_id, server, new.name, version.moment, version.number, new.standing))
    if new.name is None or {each.name for each in known} <= {None, new.name}:
        return True
    counting = (_counting(said) for _, said in _by_server([*known, new]))
    return not any(new in those and len(_names(those)) > 1 for those in counting)


def settle_medications(db: Connection) -> None:
    """Once all is there: what each medication is called, at each server and where none is named."""
    rows = db.execute(
        "SELECT id, server, name, moment, number, standing FROM medications ORDER BY id"
    )
    for medication_id, those in groupby(rows, key=itemgetter(0)):
        said = [_said(*row[1:]) for row in those]
        called = {at: _name(each) for at, each in _by_server(said)}
        plain = [each for each in said if not each.server]
        of_any = set(called.values())  # an id that two servers have may mean either
        called[_ANY_SERVER] = of_any.pop() if len(of_any) == 1 else None
        if plain:
            called[""] = _name(plain)
        db.executemany("INSERT INTO medication_names VALUES (?, ?, ?)",
                       [(medication_id, at, name) for at, name in called.items()])


def _said(
    server: str, name: str | None, moment: int | None, number: int | None, standing: int
) -> _Said:
    return _Said(server=server, name=name, version=Version(moment=moment, number=number),
                 standing=standing)


def _by_server(said: list[_Said]) -> Iterator[tuple[str, list[_Said]]]:
    """What may be each server's; if none is named, all is one server's."""
    for server in {each.server for each in said if each.server} or {""}:
        yield server, [each for each in said if each.server in ("", server)]


def _counting(said: list[_Said]) -> list[_Said]:
    return [each for each in said if not any(other.counts_more_than(each) for other in said)]


def _names(said: list[_Said]) -> set[str]:
    return {each.name for each in said if each.name is not None}


def _name(said: list[_Said]) -> str | None:
    """The one name that those which count agree on."""
    names = _names(_counting(said))
    return names.pop() if len(names) == 1 else None

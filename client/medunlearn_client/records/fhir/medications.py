"""Names of medications that requests refer to: of each the version that counts.

As with facts, the latest counts, and what was an error names nothing. Where two of one id differ
and nothing tells which is the later one, neither names anything: what comes out must not depend
on the order of files and rows.
"""

from __future__ import annotations

from sqlite3 import Connection

from medunlearn_client.records.fhir.standing import Standing
from medunlearn_client.records.fhir.versions import Version

# A name is empty where two contradict each other, and NULL where none was given.
MEDICATIONS_TABLE = """
CREATE TABLE medications(id TEXT, server TEXT, name TEXT, moment INT, number INT, standing INT,
  PRIMARY KEY (id, server)) WITHOUT ROWID;
"""
# Of the fact ``f``; an id that two servers have, and no server beside it, may mean either.
NAME_OF_MEDICATION = """
CASE WHEN f.medication <> '' THEN (
  SELECT CASE WHEN COUNT(DISTINCT COALESCE(m.name, '')) = 1 THEN MAX(m.name) END
  FROM medications m WHERE m.id = f.medication
  AND (f.medication_server IN ('', m.server) OR m.server = '')) END
"""


def add_medication(
    db: Connection, medication_id: str, server: str, name: str, *, version: Version,
    standing: Standing,
) -> bool:
    """Keep a medication's name, unless another version of it counts.

    Args:
        db: Where they are kept.
        medication_id: As references call it.
        server: Address of the server that has it, or empty.
        name: Its name; empty where it gives none, or states no fact.
        version: How old it is.
        standing: Whether it states a fact.

    Returns:
        False if another one has the id and another name, and nothing tells which one counts.
    """
    new = (name or None, version.moment, version.number, standing.value)
    known = db.execute(
        "SELECT server, name, moment, number, standing FROM medications WHERE id = ?1 "
        "AND (?2 IN ('', server) OR server = '')", (medication_id, server)
    ).fetchall()
    if not known:
        db.execute("INSERT INTO medications VALUES (?, ?, ?, ?, ?, ?)",
                   (medication_id, server, *new))
    is_clear = True
    for at, called, moment, number, stood in known:
        order = version.order(Version(moment=moment, number=number)) or standing - stood
        said = new if order > 0 else (called, moment, number, stood)
        if order == 0 and new[0] not in (None, called):
            said = (name if called is None else "", moment, number, stood)
            is_clear &= called is None
        db.execute("UPDATE medications SET server = ?, name = ?, moment = ?, number = ?, "
                   "standing = ? WHERE id = ? AND server = ?",
                   (at or server, *said, medication_id, at))
    return is_clear

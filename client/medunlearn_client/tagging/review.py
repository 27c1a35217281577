"""The review file: uncertain tags that a clinician decides on in a spreadsheet.

``write_review`` makes one row per uncertain mention. The clinician fills ``decision``, ``author``
and ``date`` (and ``scope``, ``note``) and saves; ``read_review`` takes the decided rows over.
Rows without a decision stay open. A file is taken over whole or not at all.

What may stand in ``decision``: ``accept``, ``reject``, ``negated``, ``family``, or the id of the
concept that is meant. ``scope`` is empty for this mention alone, or ``everywhere`` for these
words in every record: what they mean, not whether a patient has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Final

from medunlearn_client.decisions import (
    BY_PERSON,
    Reviewed,
    read_decided_table,
    write_open_table,
)
from medunlearn_client.spreadsheets import cells_of, exact_cell, unmistakable_date
from medunlearn_client.tagging.decisions import Outcome, TagDecision
from medunlearn_client.tagging.readings import UncertainTag
from medunlearn_client.tagging.spans import UNREAD, ConceptSpan
from medunlearn_common.concepts.hierarchy import ConceptHierarchy

COLUMNS: Final = (
    "decision", "scope", "author", "date", "note",
    "mention", "before", "after", "doubt", "tagged_as", "level", "assertion", "readings",
    "record", "key",
)
EVERYWHERE: Final = "everywhere"
CONTEXT_CHARS: Final = 80

_BY_CLINICIAN: Final = (*BY_PERSON, "scope")


def write_review(path: Path, tags: Iterable[UncertainTag], hierarchy: ConceptHierarchy) -> int:
    """Write the review file, readable by its owner only: it holds text of records.

    Returns:
        The number of rows.

    Raises:
        Misconfigured: TABLE_DECIDED where a clinician has begun to fill the file in.
        Transient: WRITE_FAILED.
    """
    return write_open_table(
        path, COLUMNS, (_row(tag, hierarchy) for tag in tags), by_person=_BY_CLINICIAN
    )


def read_review(
    path: Path, tags: Iterable[UncertainTag], hierarchy: ConceptHierarchy, *, today: date
) -> Reviewed[TagDecision]:
    """Read decisions back.

    Args:
        path: The edited review file.
        tags: The uncertain tags of the same records, those decided before included: a row is
            only taken for one of them, with the words unchanged, so that rows whose cells were
            sorted apart or retyped are refused.
        hierarchy: Where concept ids are looked up.
        today: Decisions from later days are refused.

    Raises:
        Misconfigured: As :func:`read_table`; TABLE_ROW with the line of the first row that is
            unknown, damaged, decided incompletely, or says of words something else everywhere
            than an earlier row.
    """
    known = {tag.key: tag for tag in tags}
    everywhere: dict[str, tuple[Outcome, str | None]] = {}

    def asked(row: Mapping[str, str]) -> UncertainTag:
        tag = known.get(row["key"])
        if tag is None:
            raise ValueError(
                "its key names no uncertain mention of these records, as they are tagged now (same "
                "files, hierarchies and forget roots as for the review?)"
            )
        if (row["mention"] not in cells_of(tag.mention)
                or row["record"] not in cells_of(tag.record.record_id)):
            raise ValueError("`mention` or `record` does not belong to its `key`")
        return tag

    def decide(row: Mapping[str, str], tag: UncertainTag) -> TagDecision:
        decision = _decision(row, tag, hierarchy, today)
        said = decision.outcome, decision.concept_id
        if decision.everywhere and everywhere.setdefault(decision.mention, said) != said:
            raise ValueError("an earlier row decides otherwise on these words, everywhere")
        return decision

    return read_decided_table(
        path, COLUMNS, asked=asked, by_person=_BY_CLINICIAN, decide=decide,
        place=lambda decision: decision.key, what="mention",
    )


def _row(tag: UncertainTag, hierarchy: ConceptHierarchy) -> dict[str, str]:
    text, span = tag.record.text, tag.span
    return dict.fromkeys(_BY_CLINICIAN, "") | {
        "mention": exact_cell(tag.mention),
        "before": text[max(0, span.start - CONTEXT_CHARS) : span.start],
        "after": text[span.end : span.end + CONTEXT_CHARS],
        "doubt": tag.doubt.value,
        **_tagged(span, hierarchy),
        "readings": " | ".join(tag.readings),
        "record": exact_cell(tag.record.record_id),
        "key": tag.key,
    }


def _tagged(span: ConceptSpan, hierarchy: ConceptHierarchy) -> dict[str, str]:
    """How a mention is tagged; nothing where it is an abbreviation that is not tagged at all."""
    if span.concept_id == UNREAD:
        return {"tagged_as": "", "level": "", "assertion": ""}
    return {
        "tagged_as": f"{span.concept_id} {hierarchy[span.concept_id].name}",
        "level": str(int(span.level)), "assertion": span.assertion.value,
    }


def _decision(
    row: Mapping[str, str], tag: UncertainTag, hierarchy: ConceptHierarchy, today: date
) -> TagDecision:
    """One decided row.

    Raises:
        ValueError: With what is wrong, quoting nothing of the row.
    """
    if not row["author"]:
        raise ValueError("a decision without `author`")
    if row["scope"].casefold() not in ("", EVERYWHERE):
        raise ValueError(f"`scope` is neither empty nor {EVERYWHERE!r}")
    outcome, concept_id = _outcome(row["decision"], hierarchy)
    if tag.span.concept_id == UNREAD and outcome not in (Outcome.CONCEPT, Outcome.REJECT):
        raise ValueError(f"nothing is tagged there to {outcome}: put the concept's id into "
                         "`decision`, or reject")
    return TagDecision(
        key=tag.key, mention=tag.mention, outcome=outcome, concept_id=concept_id,
        everywhere=bool(row["scope"]), author=row["author"],
        decided_on=unmistakable_date(row["date"], today), note=row["note"],
    )


def _outcome(text: str, hierarchy: ConceptHierarchy) -> tuple[Outcome, str | None]:
    word = text.casefold()
    if word in set(Outcome) - {Outcome.CONCEPT}:
        return Outcome(word), None
    concept_id = text.split()[0]
    if concept_id not in hierarchy:
        raise ValueError("`decision` is no accept, reject, negated, family or known concept id")
    return Outcome.CONCEPT, hierarchy.resolve(concept_id)

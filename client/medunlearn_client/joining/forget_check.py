"""What ``hospital doctor`` finds of ``[forget]``: how many records each of its lists names.

Guarantees:
    Numbers and places in the lists are shown; no id, no subject and nothing of a record.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from medunlearn_client.records import Quarantine, ReadOptions, Record, read_records
from medunlearn_client.records.forget_sets import listed
from medunlearn_client.site_data import require_nobody_drawn
from medunlearn_common.doctor import Finding, ok, problem, warning
from medunlearn_common.plan.sections import DataSection, ForgetSection


def forget_findings(data: DataSection, forget: ForgetSection) -> Iterator[Finding]:
    """Read all records, as a run would, and count what each list names.

    Raises:
        Misconfigured: FORGET_DRAWN, or as :func:`read_records`.
    """
    require_nobody_drawn(forget)
    lists = {
        "records": forget.records, "patients": forget.patients,
        "subjects": tuple(subject.casefold() for subject in forget.subjects),
    }
    if not any((*lists.values(), forget.concepts)):
        yield warning("FORGET_EMPTY", "nothing is to be forgotten here",
                      "set [forget], or [erasure] registry, in site.toml; without them this "
                      "hospital only retains")
        return
    if any(lists.values()):
        counts = _counted(data, lists)
        for what, names in lists.items():
            if names:
                yield _finding(what, names, counts[what])
    if forget.concepts:
        yield ok("FORGET_CONCEPTS", f"[forget] concepts: {len(forget.concepts)} named; the plan's "
                 "hierarchies decide which records these are")


def _counted(
    data: DataSection, lists: dict[str, tuple[str, ...]]
) -> dict[str, dict[str, int]]:
    """Of each name in each list, how many records have it."""
    counts = {what: dict.fromkeys(names, 0) for what, names in lists.items()}
    records = read_records(
        [Path(name) for name in data.files],
        options=replace(ReadOptions.of_plan(data), for_sums=True),
        quarantine=Quarantine(max_bad_fraction=data.max_bad_fraction))
    for record in records:
        for what, names in _names(record).items():
            for name in names:
                if name in counts[what]:
                    counts[what][name] += 1
    return counts


def _names(record: Record) -> dict[str, tuple[str, ...]]:
    """What each list would call the record."""
    return {"records": (record.record_id,),
            "patients": (record.patient_id or "", *record.former_patient_ids),
            "subjects": ((record.subject or "").casefold(),)}


def _finding(what: str, names: tuple[str, ...], counts: dict[str, int]) -> Finding:
    missing = [place for place, name in enumerate(names, start=1) if not counts[name]]
    shown = f"[forget] {what}: {len(names)} named, {sum(counts.values())} records"
    if not missing:
        return ok("FORGET", shown)
    shown += f"; no record has number {listed(missing)} of the list"
    if what == "subjects":  # a run takes them: its lists may be the same at all hospitals
        return warning("FORGET_SUBJECT_UNKNOWN", shown,
                       "check the spelling in site.toml; right if no record here is of it")
    return problem("FORGET_ID_UNKNOWN", shown, "compare with the data files: ids are "
                   "case-sensitive; a run refuses what names nothing")

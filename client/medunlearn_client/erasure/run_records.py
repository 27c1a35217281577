"""Between requests and the records of a run: which records are whose, and whether all are there.

No message of this module names a record or a patient.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from medunlearn_client.erasure.claims import Claim, forget_set
from medunlearn_client.records import ReadOptions, Record, read_records
from medunlearn_client.site_data import has_words_asked_for, record_tagger, words_digest
from medunlearn_common.errors import Misconfigured
from medunlearn_common.plan.sections import ConceptsSection, DataSection

_ABOUT_IDS = {"FORGET_ID_UNKNOWN", "RECORD_IN_BOTH_SETS"}


@contextmanager
def unnamed(
    claim: Claim | None, data: DataSection, *, for_sums: bool = False
) -> Iterator[None]:
    """Turns errors about requested ids, which no plan lists, into ones that name the request.

    Args:
        claim: The requests.
        data: The run's.
        for_sums: Whether the run reads them as a hospital's does.

    Raises:
        Misconfigured: ERASURE_RECORDS_MISSING.
    """
    try:
        yield
    except Misconfigured as error:
        if claim is None or error.code not in _ABOUT_IDS:
            raise
        options = replace(ReadOptions.of_plan(data), for_sums=for_sums)
        raise _missing(_lacking(claim, data, options)) from None


def requested_records(
    claim: Claim | None, forget: Sequence[Record], *, concepts: ConceptsSection, data: DataSection
) -> dict[str, frozenset[int]]:
    """Places of forget records by number of the request that asks for them.

    Places, since rows of a hospital may share an id: by ids a request would be judged by records
    of others, and ten of its own that share one would count as one.
    """
    if claim is None:
        return {}
    found: dict[str, frozenset[int]] = {}
    for number in claim.numbers:
        part = forget_set(claim.registry, [number])
        named, has_words = set(part.records), has_words_asked_for(
            part, show_subject=data.show_subject)
        tagger = None
        if part.concepts:  # as the forget set itself was chosen
            without_roots = concepts.model_copy(update={"forget_roots": ()})
            tagger = record_tagger(without_roots, part, data)
        found[str(number)] = frozenset(
            place for place, record in enumerate(forget)
            if (record.record_id in named and has_words(record)) or record.is_of(part.patients)
            or (tagger is not None and tagger.record_matches_forget_root(record))
        )
    return found


def require_whole(
    claim: Claim | None, requested: Mapping[str, frozenset[int]], read: Collection[str], *,
    forget: Sequence[Record],
) -> None:
    """Refuse a run whose data lack a record that a request was found with.

    Of what a run has not read nothing is forgotten and nothing measured, whatever else it reads.
    There may be more: a patient's records grow. Which of the records name a concept is for the
    run's own tagger to say, so those of a concept need only be among the run's data.

    Args:
        claim: The requests.
        requested: As :func:`requested_records` gives them.
        read: Ids of all records of the run.
        forget: The run's forget records.

    Raises:
        Misconfigured: ERASURE_RECORDS_MISSING.
    """
    if claim is None:
        return
    lacking = [
        number for number in claim.numbers
        if not {match.record_id for match in claim.registry.matches(number)} <= set(
            read if claim.registry.request(number).kind == "concept"
            else {forget[place].record_id for place in requested[str(number)]}
        )
    ]
    if lacking:
        raise _missing(lacking)


def require_same_words(
    claim: Claim | None, forget: Sequence[Record], *, show_subject: bool,
    others: Sequence[Record] = (),
) -> None:
    """Refuse a run in which other words bear an id that a request was found with.

    An export that numbers its rows gives the number of one person's record to another's as soon
    as a row is added. Forgotten would be the other's, and the requester told that it was his.

    Args:
        claim: The requests.
        forget: The run's forget records.
        show_subject: Whether their prompts were given a line that names the subject.
        others: The hospital's other records. What was asked for by itself is chosen by its words,
            so that other words are not among those to forget, though they bear its id.

    Raises:
        Misconfigured: ERASURE_RECORDS_CHANGED.
    """
    if claim is None:
        return
    matches = {number: claim.registry.matches(number) for number in claim.numbers}
    ids = {match.record_id for found in matches.values() for match in found}
    of_forget = _words_by_id(forget, ids, show_subject=show_subject)
    of_all = _words_by_id((*forget, *others), ids, show_subject=show_subject)
    changed = []
    for number, found in matches.items():
        by_concept = claim.registry.request(number).kind == "concept"
        for match in found:
            words = (of_forget if match.owned or by_concept else of_all).get(match.record_id)
            if words and match.text_digest is not None and match.text_digest not in words:
                changed.append(number)
                break
    if changed:
        raise Misconfigured(
            "ERASURE_RECORDS_CHANGED", "records have other words than when a request was found "
            f"(request {', '.join(map(str, changed))})",
            "if the export gave its ids anew, use the old one; else withdraw the request and add "
            "it anew, with --plan, which names the plan or the hospital's site.toml",
        )


def _words_by_id(
    records: Iterable[Record], ids: Collection[str], *, show_subject: bool
) -> dict[str, set[str]]:
    """Digests of the words that these ids have now; a hospital's rows may share an id."""
    found: dict[str, set[str]] = {}
    for record in records:
        if record.record_id in ids:
            found.setdefault(record.record_id, set()).add(
                words_digest(record, show_subject=show_subject))
    return found


def _missing(numbers: Sequence[int]) -> Misconfigured:
    named = ", ".join(map(str, numbers)) or "unknown"
    return Misconfigured(
        "ERASURE_RECORDS_MISSING", f"the run's data lack what a request names (request {named})",
        "give the run the files that the request was found in; or withdraw it and add it anew, as "
        "after patients were merged, or a merge was taken back",
    )


def _lacking(claim: Claim, data: DataSection, options: ReadOptions) -> list[int]:
    """Requests whose patient or records the files do not hold."""
    records = read_records([Path(name) for name in data.files], options=options)
    ids = {r.record_id for r in records}
    patients = {one for r in records for one in (r.patient_id, *r.former_patient_ids)}
    asked = {number: forget_set(claim.registry, [number]) for number in claim.numbers}
    return [
        number for number, part in asked.items()
        if set(part.records) - ids or set(part.patients) - patients
    ]

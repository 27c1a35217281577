"""Between a run and an erasure registry: the forget set comes from it, the marks go to it.

    validated -> take, when run.json is written -> in_run -> settle, after result.json

``erasure.json`` in the run's folder keeps the claim, so that a resumed run settles what it
had taken, and ``erasure-figures.json`` each request's figures. No message of this
module names a record or a patient.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from medunlearn_client.erasure import (
    Claim,
    Registry,
    RunFigures,
    forget_set,
    new_token,
    validated_requests,
)
from medunlearn_client.evaluation import EvaluationReport
from medunlearn_client.records import ReadOptions, Record, read_records
from medunlearn_client.site_data import record_tagger, without_subject
from medunlearn_common.digests import digest_of
from medunlearn_common.errors import MedunlearnError, Misconfigured
from medunlearn_common.files import expanded, write_atomically
from medunlearn_common.plan import Plan
from medunlearn_common.plan.sections import ForgetSection
from medunlearn_simulation.run_folder import RunFolder, write_json

_ABOUT_IDS = {"FORGET_ID_UNKNOWN", "RECORD_IN_BOTH_SETS"}


class ClaimFile(BaseModel):
    """Contents of ``erasure.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    registry: str
    numbers: tuple[int, ...]
    token: str


def new_claim(registry: Path) -> Claim:
    """A claim on everything that waits for a run; nothing is marked yet.

    Raises:
        Misconfigured: ERASURE_NONE_VALIDATED, or a code of the registry.
        Rejected: ERASURE_HISTORY_TAMPERED.
    """
    opened = Registry(expanded(registry).absolute())
    return Claim(registry=opened, numbers=validated_requests(opened), token=new_token())


def kept_claim(folder: RunFolder) -> Claim | None:
    """The claim that a run was started with; None if it had none.

    Raises:
        Misconfigured: RUN_FILE_INVALID, or a code of the registry.
    """
    try:
        text = folder.erasure_file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(folder) from error
    try:
        kept = ClaimFile.model_validate_json(text)
    except ValidationError as error:
        raise _damaged(folder) from error
    return Claim(registry=Registry(Path(kept.registry)), numbers=kept.numbers, token=kept.token)


def _damaged(folder: RunFolder) -> Misconfigured:
    return Misconfigured(
        "RUN_FILE_INVALID", f"{folder.erasure_file} is damaged",
        "reopen its requests with `medunlearn erasure reopen` and start a new run",
    )


@contextmanager
def begin(claim: Claim | None, folder: RunFolder, run_id: str) -> Iterator[None]:
    """Takes the requests around the writing of a run's start; gives them back if that fails.

    Raises:
        Rejected: ERASURE_CLAIMED if another run was faster.
    """
    if claim is None:
        yield
        return
    kept = ClaimFile(
        registry=str(claim.registry.path), numbers=tuple(claim.numbers), token=claim.token
    )
    write_atomically(folder.erasure_file, kept.model_dump_json(indent=2).encode())
    try:
        claim.take(run_id)
        yield
    except BaseException:
        claim.release("the run could not be started")
        raise


@contextmanager
def unnamed(claim: Claim | None, plan: Plan) -> Iterator[None]:
    """Turns errors about requested ids, which no plan lists, into ones that name the request.

    Raises:
        Misconfigured: ERASURE_RECORDS_MISSING.
    """
    try:
        yield
    except Misconfigured as error:
        if claim is None or error.code not in _ABOUT_IDS:
            raise
        raise _missing(_lacking(claim, plan)) from None


def require_whole(
    claim: Claim | None, requested: Mapping[str, frozenset[str]], read: Collection[str]
) -> None:
    """Refuse a run whose data lack a record that a request was found with.

    Of what a run has not read nothing is forgotten and nothing measured, whatever else it reads.
    There may be more: a patient's records grow. Which of the records name a concept is for the
    run's own tagger to say, so those of a concept need only be among the run's data.

    Args:
        claim: The requests.
        requested: Ids of the run's forget records by number of the request.
        read: Ids of all records of the run.

    Raises:
        Misconfigured: ERASURE_RECORDS_MISSING.
    """
    if claim is None:
        return
    lacking = [
        number for number in claim.numbers
        if not {match.record_id for match in claim.registry.matches(number)} <= set(
            read if claim.registry.request(number).kind == "concept" else requested[str(number)]
        )
    ]
    if lacking:
        raise _missing(lacking)


def require_same_words(claim: Claim | None, plan: Plan, forget: Sequence[Record]) -> None:
    """Refuse a run in which other words bear an id that a request was found with.

    An export that numbers its rows gives the number of one person's record to another's as soon
    as a row is added. Forgotten would be the other's, and the requester told that it was his.

    Raises:
        Misconfigured: ERASURE_RECORDS_CHANGED.
    """
    if claim is None:
        return
    plain = (without_subject(r) if plan.data.show_subject else r for r in forget)
    now = {record.record_id: digest_of(record.text) for record in plain}
    changed = [
        number for number in claim.numbers
        if any(match.text_digest not in (None, now.get(match.record_id, match.text_digest))
               for match in claim.registry.matches(number))
    ]
    if changed:
        raise Misconfigured(
            "ERASURE_RECORDS_CHANGED", "records have other words than when a request was found "
            f"(request {', '.join(map(str, changed))})",
            "if the export gave its ids anew, use the old one; else withdraw the request and add "
            "it anew, with --plan if the plan repairs words",
        )


def _missing(numbers: Sequence[int]) -> Misconfigured:
    named = ", ".join(map(str, numbers)) or "unknown"
    return Misconfigured(
        "ERASURE_RECORDS_MISSING", f"the run's data lack what a request names (request {named})",
        "give the run the files that the request was found in, or withdraw it and add it anew",
    )


@contextmanager
def kept_in_run(claim: Claim | None) -> Iterator[None]:
    """Says of a run that stops how its requests, which it still holds, become free again."""
    try:
        yield
    except MedunlearnError as error:
        if claim is not None:
            numbers = ", ".join(map(str, claim.numbers))
            error.hint += (
                f"; its erasure requests ({numbers}) stay in_run until it is resumed, or given up "
                "with `medunlearn erasure reopen NUMBER`"
            )
        raise


def _lacking(claim: Claim, plan: Plan) -> list[int]:
    """Requests whose patient or records the plan's files do not hold."""
    records = read_records(
        [Path(name) for name in plan.data.files], options=ReadOptions.of_plan(plan.data)
    )
    ids, patients = {r.record_id for r in records}, {r.patient_id for r in records}
    asked = {number: forget_set(claim.registry, [number]) for number in claim.numbers}
    return [
        number for number, part in asked.items()
        if set(part.records) - ids or set(part.patients) - patients
    ]


def outcome_lines(claim: Claim) -> Iterator[str]:
    """How each request of a finished run stands now, and what it fell short of."""
    for number in claim.numbers:
        missed = claim.registry.events(number)[-1].detail.get("shortfalls")
        yield f"erasure request {number}: {claim.registry.request(number).state}" + (
            f", not verified: {'; '.join(missed)}" if missed else ""
        )


def requested_records(
    claim: Claim | None, plan: Plan, forget: Sequence[Record]
) -> dict[str, frozenset[str]]:
    """Ids of forget records by number of the request that asks for them."""
    found: dict[str, frozenset[str]] = {}
    for number in claim.numbers if claim is not None else ():
        part = forget_set(claim.registry, [number]) if claim is not None else ForgetSection()
        tagger = None
        if part.concepts:  # as the forget set itself was chosen
            without_roots = plan.concepts.model_copy(update={"forget_roots": ()})
            tagger = record_tagger(without_roots, part, plan.data)
        found[str(number)] = frozenset(
            record.record_id for record in forget
            if record.record_id in part.records or record.patient_id in part.patients
            or (tagger is not None and tagger.record_matches_forget_root(record))
        )
    return found


def figures_by_request(
    claim: Claim, report: EvaluationReport, *, run_id: str, adapter_digest: str,
    forget: Sequence[Record], requested: Mapping[str, frozenset[str]],
) -> dict[int, RunFigures]:
    """What the registry is told of a finished run: each request's own figures.

    Preservation is of the whole run, since what was kept belongs to no request.
    """
    ranked = {record.record_id for record in forget if record.options}
    identifiers = {record.record_id for record in forget if record.is_identifier}
    kept, unnamed = report.retain, report.forget.unnamed
    figures: dict[int, RunFigures] = {}
    for number in claim.numbers:
        own, ids = report.requests[str(number)], requested[str(number)]
        answers = own.answers
        figures[number] = RunFigures(
            run_id=run_id, adapter_digest=adapter_digest, forget_records=answers.n,
            ranked_records=len(ids & ranked), run_ranked_records=len(ranked),
            run_forget_accuracy=report.forget.accuracy_after,
            run_retrained_accuracy=report.forget.accuracy_retrained,
            run_unnamed_records=unnamed.n if unnamed else 0,
            run_unnamed_accuracy=unnamed.accuracy_after if unnamed else None,
            run_unnamed_exact=unnamed.exact_after if unnamed else None,
            run_retrained_exact=report.forget.exact_retrained, run_chance=report.forget.chance,
            forget_accuracy=answers.accuracy_after, chance=answers.chance,
            retrained_accuracy=answers.accuracy_retrained, forget_exact=answers.exact_after,
            retrained_exact=answers.exact_retrained,
            identifiers_asked=own.identifiers_asked or None,
            identifiers_leaked=own.identifiers_leaked if own.identifiers_asked else None,
            has_identifiers=bool(ids & identifiers),
            preservation=(
                kept.preservation if kept.preservation is not None else kept.exact_preservation
            ),
        )
    return figures


def keep_figures(folder: RunFolder, figures: Mapping[int, RunFigures]) -> None:
    """Writes what the registry will be told, before the result says that the run is complete."""
    write_json(folder.request_figures_file, {str(n): f.as_detail() for n, f in figures.items()})


def kept_figures(folder: RunFolder) -> dict[int, RunFigures]:
    """What :func:`keep_figures` wrote.

    Raises:
        Misconfigured: RUN_FILE_INVALID.
    """
    try:
        return TypeAdapter(dict[int, RunFigures]).validate_json(
            folder.request_figures_file.read_bytes()
        )
    except (OSError, ValidationError) as error:
        raise _damaged(folder) from error

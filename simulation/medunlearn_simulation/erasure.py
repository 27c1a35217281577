"""Between a run and an erasure registry: the forget set comes from it, the marks go to it.

    validated -> take, when run.json is written -> in_run -> settle, after result.json

``erasure.json`` in the run's folder keeps the claim, so that a resumed run settles what it
had taken. No message of this module names a record or a patient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from medunlearn_client.erasure import (
    Claim,
    Registry,
    RunFigures,
    forget_set,
    new_token,
    validated_requests,
)
from medunlearn_client.records import Record, read_records
from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import expanded, write_atomically
from medunlearn_common.plan import Plan
from medunlearn_simulation.result_schema import RunResult
from medunlearn_simulation.run_folder import RunFolder

_CODES_WITH_IDS = {"FORGET_ID_UNKNOWN", "RECORD_IN_BOTH_SETS"}


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
    claim.take(run_id)
    try:
        yield
    except BaseException:
        claim.release("the run could not be started")
        raise


@contextmanager
def unnamed(claim: Claim | None, plan: Plan) -> Iterator[None]:
    """Turns errors that would name a requested id into ones that name the request.

    Raises:
        Misconfigured: ERASURE_RECORDS_MISSING.
    """
    try:
        yield
    except Misconfigured as error:
        if claim is None or error.code not in _CODES_WITH_IDS:
            raise
        lacking = ", ".join(map(str, _lacking(claim, plan))) or "unknown"
        raise Misconfigured(
            "ERASURE_RECORDS_MISSING",
            f"the run's data lack what a request names (request {lacking})",
            "give the run the files that the request was found in, or withdraw it and add it anew",
        ) from None


def _lacking(claim: Claim, plan: Plan) -> list[int]:
    """Requests whose patient or records the plan's files do not hold."""
    records = read_records(
        [Path(name) for name in plan.data.files], record_format=plan.data.record_format
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


def run_figures(
    result: RunResult, *, run_id: str, forget: Sequence[Record], attestation: str | None
) -> RunFigures:
    """What the registry is told of a finished run: figures over its whole forget set."""
    group, kept = result.forget, result.retain
    counts = result.extraction.after if result.extraction is not None else None
    measured = counts is not None and counts.prompts > 0
    return RunFigures(
        run_id=run_id, adapter_digest=result.digests["adapter"],
        attestation_digest=attestation, forget_records=group.n,
        forget_accuracy=group.accuracy_after, chance=group.chance,
        retrained_accuracy=group.accuracy_retrained, forget_exact=group.exact_after,
        retrained_exact=group.exact_retrained,
        identifiers_asked=counts.prompts if counts is not None and measured else None,
        identifiers_leaked=(
            counts.prompts_leaking + counts.other_leaks if counts is not None and measured else None
        ),
        has_identifiers=any(record.is_identifier for record in forget),
        preservation=(
            kept.preservation if kept.preservation is not None else kept.exact_preservation
        ),
    )

"""From a run's evaluation to what the registry is told, and what people are told of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from medunlearn_client.erasure.claims import FORGOTTEN, Claim
from medunlearn_client.erasure.criteria import RunFigures
from medunlearn_client.erasure.judgements import (
    NEVER_SHOWN,
    changed_criteria,
    never_shown,
    verifying,
)
from medunlearn_client.erasure.requests import State, next_step

if TYPE_CHECKING:
    from medunlearn_client.evaluation.report import EvaluationReport
    from medunlearn_client.records import Record


def figures_by_request(
    claim: Claim, report: EvaluationReport, *, run_id: str, adapter_digest: str,
    forget: Sequence[Record], requested: Mapping[str, frozenset[int]],
) -> dict[int, RunFigures]:
    """What the registry is told of a finished run: each request's own figures.

    Preservation is of the whole run, since what was kept belongs to no request.

    Args:
        claim: The run's requests.
        report: What was measured.
        run_id: The run.
        adapter_digest: SHA-256 of its adapter.
        forget: The forget records that were asked, in the evaluation's order.
        requested: Places in ``forget`` by number of the request.
    """
    kept, without_name = report.retain, report.forget.unnamed
    figures: dict[int, RunFigures] = {}
    for number in claim.numbers:
        own, places = report.requests[str(number)], requested[str(number)]
        answers = own.answers
        figures[number] = RunFigures(
            run_id=run_id, adapter_digest=adapter_digest, forget_records=answers.n,
            ranked_records=answers.n_ranked, run_ranked_records=report.forget.n_ranked,
            run_forget_accuracy=report.forget.accuracy_after,
            run_forget_accuracy_before=report.forget.accuracy_before,
            run_retrained_accuracy=report.forget.accuracy_retrained,
            run_unnamed_records=without_name.n if without_name else 0,
            run_unnamed_accuracy=without_name.accuracy_after if without_name else None,
            run_unnamed_exact=without_name.exact_after if without_name else None,
            run_retrained_exact=report.forget.exact_retrained, run_chance=report.forget.chance,
            forget_accuracy_before=answers.accuracy_before,
            forget_exact_before=answers.exact_before,
            forget_accuracy=answers.accuracy_after, chance=answers.chance,
            retrained_accuracy=answers.accuracy_retrained, forget_exact=answers.exact_after,
            retrained_exact=answers.exact_retrained,
            identifiers_asked=own.identifiers_asked or None,
            identifiers_leaked=own.identifiers_leaked if own.identifiers_asked else None,
            identifiers_leaked_before=(
                own.identifiers_leaked_before if own.identifiers_asked else None
            ),
            has_identifiers=any(forget[place].is_identifier for place in places),
            preservation=(
                kept.preservation if kept.preservation is not None else kept.exact_preservation
            ),
            exact_preservation=kept.exact_preservation,
        )
    return figures


def outcome_lines(claim: Claim) -> Iterator[str]:
    """How each request of a measured run stands now, and what it fell short of."""
    for number in claim.numbers:
        missed = claim.registry.events(number)[-1].detail.get("shortfalls")
        line = _standing(claim, number)
        if missed:
            line += f", not verified: {'; '.join(missed)}"
        # A request that a run has cannot be closed.
        if claim.registry.request(number).state in (State.WITHDRAWN, State.REFUSED):
            line += ", taken back from this run, whose adapter forgets its records all the same"
        yield line


def next_step_lines(claim: Claim) -> Iterator[str]:
    """How each request of a run stands now, and what an officer does next."""
    for number in claim.numbers:
        request = claim.registry.request(number)
        following = next_step(request, claim.registry.events(number))
        yield _standing(claim, number) + (f"; next: {following}" if following else "")


def _standing(claim: Claim, number: int) -> str:
    state = claim.registry.request(number).state
    judgement = verifying(claim.registry.events(number))
    if judgement is None or state not in FORGOTTEN:
        return f"erasure request {number}: {state}"
    changed = changed_criteria(judgement)
    return f"erasure request {number}: {state}" + (
        f" by changed criteria ({changed})" if changed else "") + (
        f" ({NEVER_SHOWN})" if never_shown(claim.registry.events(number)) else "")

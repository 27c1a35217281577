"""Find the shared support: by private vote, from public text, or at random."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from medunlearn_common.messages import Message
from medunlearn_common.plan import RunPlan
from medunlearn_common.support import (
    Support,
    damped_ratio,
    planned_random_support,
    support_from_row_scores,
    support_size,
)
from medunlearn_server.aggregation import Reals, VoteSums, combine_vote, public_codec, vote_codec
from medunlearn_server.answers import Answers
from medunlearn_server.geometry import RetainHistory
from medunlearn_server.intake import verify_vote
from medunlearn_server.reports import VoteReport
from medunlearn_server.requests import public_gradients_request, vote_request
from medunlearn_server.roster import Agreement
from medunlearn_server.sites import Sites

Choice = tuple[Support, Answers]


def choose_support(
    plan: RunPlan, sites: Sites, agreement: Agreement, *,
    run_id: str, sigma: float, clock: Callable[[], float],
) -> tuple[Support, VoteReport, RetainHistory]:
    """The support, a report on it, and the retain history the rounds start from.

    Raises:
        BudgetExceeded: PRIVACY_BUDGET if sites cannot afford the vote.
        Misconfigured: SUPPORT_EMPTY, or the code with which all sites refused.
        Transient: ROUND_TOO_FEW_SITES.
    """
    started = clock()
    support, answers = METHODS[plan.support.method](plan, sites, agreement, run_id, sigma)
    history = RetainHistory.empty(support.size)
    if plan.geometry.projection == "public":
        history = _public_history(plan, sites, agreement, support, run_id, history)
    report = VoteReport(
        method=plan.support.method, size=support.size, support_digest=support.digest,
        sites=answers.sites, seconds=clock() - started,
        bytes_down=dict(answers.bytes_down), bytes_up=dict(answers.bytes_up),
    )
    return support, report, history


def _voted(
    plan: RunPlan, sites: Sites, agreement: Agreement, run_id: str, sigma: float
) -> Choice:
    layout = agreement.layout
    rows = len(layout.row_lengths)
    request = vote_request(plan, layout, run_id=run_id, sigma=sigma, public=False)
    answers = sites.ask(
        lambda site, with_support: request,
        lambda reply: verify_vote(reply, length=2 * rows, layout=layout),
        agreement=agreement, round_index=0,
    )
    sums = combine_vote(answers.need_total(), vote_codec(plan, sigma=sigma))
    return _from_energies(plan, agreement, sums), answers


def _public(
    plan: RunPlan, sites: Sites, agreement: Agreement, run_id: str, sigma: float
) -> Choice:
    layout = agreement.layout
    rows = len(layout.row_lengths)
    request = vote_request(plan, layout, run_id=run_id, sigma=0.0, public=True)
    median, answers = _public_median(
        sites, agreement, request, length=2 * rows, clip_l2=plan.privacy.vote_clip_l2
    )
    forget, retain = np.split(median, 2)
    return _from_energies(plan, agreement, VoteSums(forget=forget, retain=retain)), answers


def _random(
    plan: RunPlan, sites: Sites, agreement: Agreement, run_id: str, sigma: float
) -> Choice:
    return planned_random_support(
        agreement.layout, density=plan.support.density, plan_digest=plan.digest
    ), Answers()


METHODS: Mapping[str, Callable[[RunPlan, Sites, Agreement, str, float], Choice]] = {
    "vote": _voted,
    "public": _public,
    "random": _random,
}


def _from_energies(plan: RunPlan, agreement: Agreement, sums: VoteSums) -> Support:
    layout = agreement.layout
    scores = damped_ratio(sums.forget, sums.retain, damping=plan.support.vote_damping)
    size = support_size(layout, plan.support.density)
    return support_from_row_scores(layout, scores, size=size)


def _public_history(
    plan: RunPlan, sites: Sites, agreement: Agreement, support: Support, run_id: str,
    history: RetainHistory,
) -> RetainHistory:
    """Retain directions from public text: ``rank`` noiseless gradients on the support."""
    rank = plan.geometry.rank
    request = public_gradients_request(plan, agreement.layout, support, run_id=run_id)
    median, _ = _public_median(
        sites, agreement, request, length=rank * support.size, clip_l2=plan.privacy.clip_l2
    )
    return history.add_public(np.reshape(median, (rank, support.size)))


def _public_median(
    sites: Sites, agreement: Agreement, request: Message, *, length: int, clip_l2: float
) -> tuple[Reals, Answers]:
    """Figures of public text, the median over all sites that are there, shape ``(length,)``.

    Any honest site can give them; which ones are honest nobody knows, so all are asked, and fewer
    than half of them cannot choose by a lie what all others train.
    """
    said, answers = sites.ask_each(
        lambda site, with_support: request,
        lambda reply: verify_vote(reply, length=length, layout=agreement.layout),
        agreement=agreement, round_index=0,
    )
    codec = public_codec(clip_l2=clip_l2)
    median = np.median([codec.from_ring(update.values) for update in said.values()], axis=0)
    return np.asarray(median, dtype=np.float64), answers

"""Ask the sites, at the end, what their own records and public canaries say of the adapter.

Counts travel and are summed like votes: noised ring vectors of one length, masked. Canary
figures are public, equal at every honest site and asked of all: the median over the sites is
used, so that fewer than half of them cannot lie about it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from math import sqrt

import numpy as np
import numpy.typing as npt

from medunlearn_common.accounting import summed_sigma
from medunlearn_common.canaries import CANARY_WORDS, MICRO_NATS
from medunlearn_common.counting import EVALUATION_WORDS, count_codec
from medunlearn_common.errors import BudgetExceeded
from medunlearn_common.messages import Message
from medunlearn_common.plan import RunPlan
from medunlearn_common.support import Support
from medunlearn_common.updates import SparseUpdate
from medunlearn_server.answers import Answers
from medunlearn_server.intake import verify_evaluation
from medunlearn_server.reports import EvaluationReport
from medunlearn_server.requests import evaluation_request
from medunlearn_server.roster import Agreement
from medunlearn_server.sites import Sites
from medunlearn_server.transport import Reply

Floats = npt.NDArray[np.float32]


def evaluate(
    plan: RunPlan, sites: Sites, agreement: Agreement, support: Support, values: Floats, *,
    run_id: str, sigma: float, clock: Callable[[], float],
) -> EvaluationReport:
    """Counts and canaries of the candidate adapter ``values`` on S.

    Sites that cannot afford the counts leave them out; the gates then have nothing to go by.

    Raises:
        Misconfigured: The code with which all sites refused.
        Transient: ROUND_TOO_FEW_SITES.
    """
    started = clock()

    def build(site: str, with_support: bool, *, public: bool) -> Message:
        return evaluation_request(
            plan, agreement.layout, support, run_id=run_id, sigma=0.0 if public else sigma,
            values=values, public=public, with_support=with_support,
        )

    def verify(reply: Reply, *, length: int) -> SparseUpdate:
        return verify_evaluation(reply, length=length, layout=agreement.layout, support=support)

    failure, counted, canaries = "", Answers(), Answers()
    if plan.privacy.evaluation_share > 0.0:
        try:
            counted = sites.ask(
                partial(build, public=False), partial(verify, length=EVALUATION_WORDS),
                agreement=agreement, round_index=plan.run.rounds, more=False,
            )
        except BudgetExceeded as error:
            failure = error.code
    said: dict[str, SparseUpdate] = {}
    if plan.gates.max_canary_loss > 0.0:
        said, canaries = sites.ask_each(
            partial(build, public=True), partial(verify, length=CANARY_WORDS),
            agreement=agreement, round_index=plan.run.rounds,
        )
    forget, retain = combine_counts(counted.total, plan)
    before, after = median_canaries(list(said.values()))
    return EvaluationReport(
        forget=forget, retain=retain, rate=plan.privacy.evaluation_rate,
        noise=count_noise(plan, sigma=sigma, sites=len(counted.sites)),
        sites=counted.sites, failure=failure,
        canary_before=before, canary_after=after,
        seconds=clock() - started,
        bytes_down=dict(Counter(counted.bytes_down) + Counter(canaries.bytes_down)),
        bytes_up=dict(Counter(counted.bytes_up) + Counter(canaries.bytes_up)),
    )


def combine_counts(
    total: SparseUpdate | None, plan: RunPlan
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Read the sum's cells: forget counts and retain counts, or nothing where nobody answered."""
    if total is None:
        return (), ()
    codec = count_codec(max_sites=plan.federation.sites)
    forget, retain = np.split(codec.from_ring(total.values), 2)
    return tuple(map(float, forget)), tuple(map(float, retain))


def count_noise(plan: RunPlan, *, sigma: float, sites: int) -> float:
    """Standard deviation of the noise of each summed count."""
    if sites == 0 or plan.privacy.noise == "none":
        return 0.0
    if plan.privacy.noise == "distributed":
        return summed_sigma(sigma, survivors=sites, guaranteed=plan.federation.min_sites)
    return sigma * sqrt(sites)


def median_canaries(
    answers: Sequence[SparseUpdate]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Median over the sites of each canary's knowledge before and after, nats per token."""
    if not answers:
        return (), ()
    table = np.stack([answer.values for answer in answers]).astype(np.float64) / MICRO_NATS
    before, after = np.split(np.median(table, axis=0), 2)
    return tuple(map(float, before)), tuple(map(float, after))

"""Ask the sites, at the end, what their own records and public canaries say of the adapter.

Counts travel and are summed like votes: noised ring vectors of one length. Canary figures are
public, equal at every honest site and asked of all: the median over the sites is used, so that
fewer than half of them cannot lie about it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from math import sqrt

import numpy as np
import numpy.typing as npt

from medunlearn_common.accounting import summed_sigma
from medunlearn_common.canaries import CANARY_TEXTS, MICRO_NATS
from medunlearn_common.counting import EVALUATION_WORDS, count_codec
from medunlearn_common.errors import BudgetExceeded
from medunlearn_common.messages import Message
from medunlearn_common.plan import RunPlan
from medunlearn_common.ring import sum_exactly
from medunlearn_common.support import Support
from medunlearn_common.updates import SparseUpdate
from medunlearn_server.intake import verify_evaluation
from medunlearn_server.reports import EvaluationReport
from medunlearn_server.requests import evaluation_request
from medunlearn_server.roster import Agreement
from medunlearn_server.sites import Answers, Sites

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

    def ask(public: bool, length: int) -> Answers:
        def build(site: str, with_support: bool) -> Message:
            return evaluation_request(
                plan, agreement.layout, support, run_id=run_id, sigma=0.0 if public else sigma,
                values=values, public=public, with_support=with_support,
            )

        return sites.ask(
            build, lambda reply: verify_evaluation(
                reply, length=length, layout=agreement.layout, support=support
            ),
            agreement=agreement, round_index=plan.run.rounds,
        )

    failure, counted, canaries = "", Answers(), Answers()
    if plan.privacy.evaluation_share > 0.0:
        try:
            counted = ask(False, EVALUATION_WORDS)
        except BudgetExceeded as error:
            failure = error.code
    if plan.gates.max_canary_kl > 0.0:
        canaries = ask(True, len(CANARY_TEXTS))
    forget, retain = combine_counts(list(counted.updates.values()), plan)
    return EvaluationReport(
        forget=forget, retain=retain, rate=plan.privacy.evaluation_rate,
        noise=count_noise(plan, sigma=sigma, sites=len(counted.updates)),
        sites=tuple(sorted(counted.updates)), failure=failure,
        canary_kl=median_canaries(list(canaries.updates.values())),
        seconds=clock() - started,
        bytes_down=dict(Counter(counted.bytes_down) + Counter(canaries.bytes_down)),
        bytes_up=dict(Counter(counted.bytes_up) + Counter(canaries.bytes_up)),
    )


def combine_counts(
    updates: Sequence[SparseUpdate], plan: RunPlan
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Sum the sites' cells: forget counts and retain counts, or nothing where nobody answered."""
    if not updates:
        return (), ()
    codec = count_codec(max_sites=plan.federation.sites)
    total = codec.from_ring(sum_exactly([update.values for update in updates]))
    forget, retain = np.split(total, 2)
    return tuple(map(float, forget)), tuple(map(float, retain))


def count_noise(plan: RunPlan, *, sigma: float, sites: int) -> float:
    """Standard deviation of the noise of each summed count."""
    if sites == 0 or plan.privacy.noise == "none":
        return 0.0
    if plan.privacy.noise == "distributed":
        return summed_sigma(sigma, survivors=sites, guaranteed=plan.federation.min_sites)
    return sigma * sqrt(sites)


def median_canaries(answers: Sequence[SparseUpdate]) -> tuple[float, ...]:
    """Median over the sites of each canary's divergence, in nats per token."""
    if not answers:
        return ()
    table = np.stack([answer.values for answer in answers]).astype(np.float64) / MICRO_NATS
    return tuple(map(float, np.median(table, axis=0)))

"""One round of updates: ask, add up, judge the sum's length, take a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from medunlearn_common.plan import RunPlan
from medunlearn_common.planned_noise import epsilon_after
from medunlearn_common.wire import UpdateForm, update_codec
from medunlearn_server.aggregation import RoundSums, combine_round, summed_noise
from medunlearn_server.answers import Answers
from medunlearn_server.audit_trail import sum_digest
from medunlearn_server.gatekeeper import Gatekeeper
from medunlearn_server.gates import norm_verdict
from medunlearn_server.geometry import Geometry
from medunlearn_server.intake import verify_step
from medunlearn_server.low_rank import Reals, truncated, whole_rows
from medunlearn_server.progress import RunProgress
from medunlearn_server.reports import GateVerdict, RoundReport
from medunlearn_server.requests import step_request
from medunlearn_server.server_step import direction_of, take_step
from medunlearn_server.sites import Sites


class UpdateRound:
    """What every round of one run does."""

    def __init__(
        self, *, plan: RunPlan, run_id: str, sites: Sites, gatekeeper: Gatekeeper,
        clock: Callable[[], float],
    ) -> None:
        self._plan = plan
        self._run_id = run_id
        self._sites = sites
        self._gatekeeper = gatekeeper
        self._clock = clock

    def carry_out(self, progress: RunProgress) -> RunProgress:
        """One exchange and one server step; pure apart from the exchange.

        Args:
            progress: The run so far, with its support.

        Returns:
            The run after this round; nothing is written yet.

        Raises:
            BudgetExceeded: PRIVACY_BUDGET if too few sites can afford the round.
            Rejected: GATE_NORM if the sum is longer than the plan allows and nobody overrode it.
            Misconfigured: The code with which all sites refused; STEP_NOT_FINITE.
            Transient: ROUND_TOO_FEW_SITES.
        """
        started = self._clock()
        learning, round_index = progress.need_learning(), progress.state.next_round
        geometry = learning.history.geometry(self._plan.geometry)
        answers = self._ask_step(progress, geometry)
        sums = self._combine(progress, answers)
        verdict = norm_verdict(self._plan, sums, round_index=round_index)
        if not verdict.passed:
            self._gatekeeper.apply([verdict])
        step = take_step(
            learning.step,
            direction_of(sums, retain_weight=self._plan.server.retain_weight),
            self._plan.server, round_index=round_index, rounds=self._plan.run.rounds,
            geometry=geometry,
            constrain=self._constraint(progress),
        )
        history = learning.history
        if self._plan.geometry.projection == "history":
            history = history.add(sums, geometry, rank=self._plan.geometry.rank)
        state = progress.state.accepted(
            round_index, answers.sites, support_digest=learning.support.digest
        )
        moved = float(np.linalg.norm(step.values - learning.step.values))
        report = self._round_report(
            progress, answers, sums, verdict, step_norm=moved, seconds=self._clock() - started
        )
        progress = replace(progress, state=state, curve=(*progress.curve, report))
        return progress.with_learning(step=step, history=history)

    def _constraint(self, progress: RunProgress) -> Callable[[Reals], Reals] | None:
        rank = self._plan.server.row_rank
        if rank == 0:
            return None
        layout, support = progress.agreement.layout, progress.need_learning().support
        return partial(truncated, blocks=whole_rows(layout, support), rank=rank)

    def _ask_step(self, progress: RunProgress, geometry: Geometry | None) -> Answers:
        learning, layout = progress.need_learning(), progress.agreement.layout
        round_index = progress.state.next_round
        return self._sites.ask(
            lambda site, with_support: step_request(
                self._plan, layout, learning.support, run_id=self._run_id,
                round_index=round_index, sigma=progress.schedule.round_sigma,
                values=learning.step.values, geometry=geometry,
                with_support=with_support or site not in progress.state.informed,
            ),
            lambda reply: verify_step(
                reply, round_index=round_index, layout=layout, support=learning.support,
                length=UpdateForm.of(self._plan, size=learning.support.size).words,
            ),
            agreement=progress.agreement, round_index=round_index,
            more=(
                round_index + 1 < self._plan.run.rounds
                or self._plan.privacy.evaluation_share > 0.0
            ),
        )

    def _combine(self, progress: RunProgress, answers: Answers) -> RoundSums:
        sigma, sites = progress.schedule.round_sigma, len(answers.sites)
        form = UpdateForm.of(self._plan, size=progress.need_learning().support.size)
        return combine_round(
            answers.need_total(), update_codec(self._plan, sigma=sigma), form, sites=sites,
            clip_l2=self._plan.privacy.clip_l2,
            noise_l2=summed_noise(self._plan, sigma=sigma, sites=sites),
        )

    def _round_report(
        self, progress: RunProgress, answers: Answers, sums: RoundSums, verdict: GateVerdict, *,
        step_norm: float, seconds: float,
    ) -> RoundReport:
        done = progress.state.next_round + 1
        return RoundReport(
            round_index=progress.state.next_round, rounds=self._plan.run.rounds,
            seconds=seconds, sites=answers.sites,
            failures=dict(answers.failures), bytes_down=dict(answers.bytes_down),
            bytes_up=dict(answers.bytes_up), forget_gap=sums.forget_progress,
            retain_loss=sums.retain_progress, progress_noise=sums.progress_noise,
            step_norm=step_norm, attempts=answers.attempts,
            sum_digest=sum_digest(answers.need_total()),
            epsilon=epsilon_after(self._plan, progress.schedule, rounds=done),
            norm_gate=verdict.to_json(),
        )

"""The coordinator's main loop: ready -> support -> rounds -> adapter.

Follows ``round_state``; decides nothing about privacy itself: sites charge and refuse. After
every step that sites answered, the whole state is written durably *before* anybody is told,
so that a kill at any moment costs at most the round being asked. That round is then asked
again with the same bytes, which sites answer from their ledgers at no privacy cost.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from medunlearn_common.digests import digest_of
from medunlearn_common.errors import BudgetExceeded, MedunlearnError, Misconfigured
from medunlearn_common.frozen import require_unvoted_start
from medunlearn_common.masking.parameters import require_plan
from medunlearn_common.masking.signing import Verifier
from medunlearn_common.plan import RunPlan
from medunlearn_common.plan.public_files import own_copy
from medunlearn_common.planned_noise import epsilon_after, noise_schedule
from medunlearn_common.support import support_size
from medunlearn_common.wire import UpdateForm
from medunlearn_server import adapter_store
from medunlearn_server.aggregation import require_room
from medunlearn_server.audit_trail import AuditTrail, WitnessedTransport
from medunlearn_server.checkpoints import RunStore
from medunlearn_server.federated_evaluation import evaluate
from medunlearn_server.gatekeeper import Gatekeeper
from medunlearn_server.gates import canary_verdict, utility_verdict, worst_norm
from medunlearn_server.observer import NoObserver, Observer
from medunlearn_server.progress import Learning, RunProgress
from medunlearn_server.reports import (
    EvaluationReport,
    GateVerdict,
    ReadyReport,
    RunOutcome,
)
from medunlearn_server.requests import finish_request
from medunlearn_server.round_state import FinishReason, Phase, RoundState
from medunlearn_server.server_step import first_step, gap_closed
from medunlearn_server.sites import Sites
from medunlearn_server.support_choice import choose_support
from medunlearn_server.transport import Transport
from medunlearn_server.update_round import UpdateRound
from medunlearn_server.watching.exchanges import WatchedTransport

OUTCOME_FILE = "outcome.json"


class Coordinator:
    """Leads one run over one transport."""

    def __init__(
        self, *, plan: RunPlan, transport: Transport, store: RunStore, run_id: str,
        observer: Observer | None = None,
        verifier: Verifier | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        halt: Callable[[], None] = lambda: None,
        party: Path | None = None,
    ) -> None:
        """Prepare; nothing is asked or written yet.

        Args:
            plan: What all parties agreed on.
            transport: How sites are reached.
            store: The run's folder.
            run_id: Name of the run at every party; kept when a run is resumed.
            observer: Told about progress.
            verifier: Knows the sites' public keys; without one, only the sites check each
                other's signatures.
            clock: Seconds that only grow; for durations and patience.
            sleep: Waits so many seconds.
            halt: Asked between rounds and in every pause; raises what ends the run for now
                (see :mod:`medunlearn_server.directives`).
            party: Folder whose ``trust`` is this coordinator's; None takes the run's own.

        Raises:
            Rejected: PUBLIC_FILE_UNKNOWN if the plan names a file of frozen A matrices and the
                run's folder has another or none.
            Misconfigured: START_OUTSIDE_SUPPORT if that file says where B starts and the support is
                not random; A_FILE_INVALID.
        """
        self._plan = plan
        a_file = own_copy(plan.model.a_file, (str(store.a_file),), may_be_builtin=False)
        self._a_file = Path(a_file) if a_file else None
        require_unvoted_start(self._a_file, plan.support.method)
        self._halt = halt
        self._store = store
        self._run_id = run_id
        self._observer: Observer = observer or NoObserver()
        self._clock = clock
        self._trail = AuditTrail(store.folder, run_id=run_id, party=party)
        self._gatekeeper = Gatekeeper(store, self._trail)
        self._sites = Sites(
            plan=plan, run_id=run_id,
            transport=WitnessedTransport(WatchedTransport(transport, store.folder), self._trail),
            clock=clock, sleep=self._patient(sleep), keep=store.save_opening, verifier=verifier,
        )
        self._updates = UpdateRound(
            plan=plan, run_id=run_id, sites=self._sites, gatekeeper=self._gatekeeper, clock=clock)

    def _patient(self, sleep: Callable[[float], None]) -> Callable[[float], None]:
        def pause(seconds: float) -> None:
            self._halt()
            sleep(seconds)

        return pause

    def run(self, *, resume: bool = False) -> RunOutcome:
        """Carry the run to its end.

        Args:
            resume: Go on from the store's checkpoint if there is one.

        Raises:
            Misconfigured: RUN_EXISTS, RUN_LOCKED, CHECKPOINT_CORRUPT, CHECKPOINT_FOREIGN,
                GAP_OUT_OF_RANGE, RUN_UNDER_FORMER_KEY, or the code with which all sites refused.
            Rejected: A MISMATCH code if the sites differ; RING_TOO_COARSE; GATE_NORM, GATE_CANARY
                or GATE_UTILITY if a gate fails that nobody overrode: nothing is published.
            BudgetExceeded: PRIVACY_BUDGET if not even the support could be voted.
            Transient: ROUND_TOO_FEW_SITES, STORAGE_FULL, STORAGE_FAILED; resume later.
            MedunlearnError: What ``halt`` raises; the last round is kept.
        """
        with self._store.exclusive():
            progress = self._load(resume)
            self._trail.require_key_in_force()
            self._sites.started(self._store.next_start())
            if progress is not None and progress.outcome is not None:
                return self._announce(progress.outcome)
            try:
                return self._carry_on(progress)
            except MedunlearnError as error:
                with suppress(MedunlearnError):  # the cause matters more than the log of it
                    self._trail.stopped(error.code)
                raise

    def _carry_on(self, progress: RunProgress | None) -> RunOutcome:
        if progress is None:
            progress = self._begin()
        else:
            round_index = progress.state.next_round
            self._trail.resumed(progress.state)
            self._sites.gather(progress.agreement, round_index=round_index)
        self._observer.on_ready(self._ready_report(progress), progress.agreement.layout)
        if progress.state.phase is Phase.VOTE:
            progress = self._find_support(progress)
        learning = progress.need_learning()
        self._observer.on_vote(learning.vote, learning.support)
        return self._finish(*self._rounds(progress))

    def _load(self, resume: bool) -> RunProgress | None:
        checkpoint = self._store.load()
        if checkpoint is None:
            return None
        progress = RunProgress.from_checkpoint(checkpoint)
        progress.require_run(self._run_id, self._plan.digest)
        if not resume:
            raise Misconfigured(
                "RUN_EXISTS", "the run's folder already holds a checkpoint of this run",
                "resume it, or choose another folder",
            )
        self._sites.take_up(progress.sums, self._store.load_opening())
        return progress

    def _save(self, progress: RunProgress) -> RunProgress:
        progress = replace(progress, sums=self._sites.sums)
        self._store.save(progress.to_checkpoint())
        return progress

    # -- phase READY ---------------------------------------------------------------------

    def _begin(self) -> RunProgress:
        require_plan(self._plan.federation.sites)
        self._trail.begun(plan_digest=self._plan.digest)
        agreement = self._sites.gather(None, round_index=0)
        self._trail.agreed(agreement, self._sites.roster)
        schedule = noise_schedule(self._plan)
        require_room(
            self._plan, size=support_size(agreement.layout, self._plan.support.density),
            sigma=schedule.round_sigma,
        )
        state = RoundState(
            min_sites=self._plan.federation.min_sites, rounds=self._plan.run.rounds
        ).agreed(tuple(self._sites.roster.ready.values()), layout_digest=agreement.layout.digest)
        return self._save(RunProgress(
            run_id=self._run_id, plan_digest=self._plan.digest, state=state,
            agreement=agreement, schedule=schedule,
        ))

    def _ready_report(self, progress: RunProgress) -> ReadyReport:
        roster = self._sites.roster
        return ReadyReport(
            sites=tuple(sorted(roster.ready.values())),
            refused=roster.refusals(),
            model_digest=progress.agreement.model_digest,
            parameters=progress.agreement.layout.base_parameters,
            dimension=progress.agreement.layout.dimension,
            rounds=self._plan.run.rounds,
            next_round=progress.state.next_round,
            sigma=progress.schedule.round_sigma,
            vote_sigma=progress.schedule.vote_sigma,
        )

    # -- phase VOTE ----------------------------------------------------------------------

    def _find_support(self, progress: RunProgress) -> RunProgress:
        support, vote, history = choose_support(
            self._plan, self._sites, progress.agreement,
            run_id=self._run_id, sigma=progress.schedule.vote_sigma, clock=self._clock,
        )
        learning = Learning(
            support=support, vote=vote, history=history,
            step=first_step(progress.agreement.layout, support, self._a_file),
        )
        state = progress.state.supported(support.digest)
        self._trail.supported(vote)
        return self._save(replace(progress, state=state, learning=learning))

    # -- phase ROUNDS --------------------------------------------------------------------

    def _rounds(self, progress: RunProgress) -> tuple[RunProgress, FinishReason]:
        while progress.state.next_round < self._plan.run.rounds:
            self._halt()  # the last round is in the checkpoint
            if self._gap_closed(progress):
                return progress, FinishReason.GAP_CLOSED
            try:
                accepted = self._updates.carry_out(progress)
            except BudgetExceeded:
                return progress, FinishReason.BUDGET_SPENT
            self._trail.round_done(accepted.curve[-1])
            progress = self._save(accepted)
            published = progress.need_learning().step.published
            self._observer.on_round(progress.curve[-1], published)
        return progress, FinishReason.ROUNDS_DONE

    def _gap_closed(self, progress: RunProgress) -> bool:
        if not progress.curve:
            return False
        form = UpdateForm.of(self._plan, size=progress.need_learning().support.size)
        return gap_closed(
            [report.forget_gap for report in progress.curve],
            noise=progress.curve[-1].progress_noise * form.forget_quiet,
            stop_gap=self._plan.server.stop_gap,
        )

    # -- phase FINISHED ------------------------------------------------------------------

    def _finish(self, progress: RunProgress, reason: FinishReason) -> RunOutcome:
        progress, evaluation = self._evaluated(progress)
        learning = progress.need_learning()
        verdicts = (
            worst_norm(progress.curve), canary_verdict(self._plan, evaluation),
            utility_verdict(self._plan, evaluation),
        )
        gates = self._gatekeeper.apply([found for found in verdicts if found is not None])
        adapter_digest = adapter_store.commit(
            self._store.adapter_folder, layout=progress.agreement.layout,
            support=learning.support, values=learning.step.published,
            base_model=self._plan.model.source, target_modules=self._plan.model.target_modules,
            a_file=self._a_file,
        )
        outcome = self._outcome(progress, reason, adapter_digest, evaluation, gates)
        self._trail.agreed(progress.agreement, self._sites.roster)
        self._trail.ended(outcome)
        # Told before it is recorded: a crash in between tells them twice, which is harmless.
        self._sites.tell(finish_request(run_id=self._run_id, adapter_digest=adapter_digest))
        state = progress.state.finished(reason)
        self._save(replace(progress, state=state, outcome=outcome))
        return self._announce(outcome)

    def _evaluated(self, progress: RunProgress) -> tuple[RunProgress, EvaluationReport]:
        """What the sites say of the candidate; asked once, then part of the run's state."""
        if progress.evaluation is not None:
            return progress, progress.evaluation
        learning = progress.need_learning()
        evaluation = evaluate(
            self._plan, self._sites, progress.agreement, learning.support,
            learning.step.published, run_id=self._run_id,
            sigma=progress.schedule.evaluation_sigma, clock=self._clock,
        )
        return self._save(replace(progress, evaluation=evaluation)), evaluation

    def _outcome(
        self, progress: RunProgress, reason: FinishReason, adapter_digest: str,
        evaluation: EvaluationReport, gates: tuple[GateVerdict, ...],
    ) -> RunOutcome:
        learning, curve = progress.need_learning(), progress.curve
        return RunOutcome(
            run_id=self._run_id, plan_digest=self._plan.digest, reason=str(reason),
            rounds=len(curve), adapter_digest=adapter_digest,
            support_digest=learning.support.digest, support_size=learning.support.size,
            layout=progress.agreement.layout.to_json(),
            model_digest=progress.agreement.model_digest,
            sites=tuple(sorted({site for report in curve for site in report.sites})),
            sigma=progress.schedule.round_sigma, vote_sigma=progress.schedule.vote_sigma,
            epsilon=epsilon_after(
                self._plan, progress.schedule, rounds=len(curve), evaluated=bool(evaluation.sites)
            ),
            delta=self._plan.privacy.delta,
            seconds=learning.vote.seconds + sum(report.seconds for report in curve),
            vote=learning.vote, curve=curve, gates=gates, evaluation=evaluation,
        )

    def _announce(self, outcome: RunOutcome) -> RunOutcome:
        self._store.write_text(OUTCOME_FILE, json.dumps(outcome.to_json(), indent=1) + "\n")
        self._observer.on_finish(outcome)
        return outcome


def new_run_id(plan: RunPlan, *, nonce: str | None = None) -> str:
    """A run's name: readable, and its own.

    Args:
        plan: What is run.
        nonce: For simulations, whose runs repeat; None draws one, as every deployment must:
            sites lock a run's name to its first plan, log and answers.
    """
    drawn = nonce if nonce is not None else secrets.token_hex(16)
    return f"{plan.run.name}-{digest_of([plan.digest, drawn])[:12]}"

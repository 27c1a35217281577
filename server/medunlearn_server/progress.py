"""Everything a run must remember, as one value that a checkpoint holds exactly."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from medunlearn_common.accounting import Mechanism, NoiseSchedule
from medunlearn_common.errors import Misconfigured
from medunlearn_common.support import Support
from medunlearn_server.checkpoints import Checkpoint
from medunlearn_server.geometry import RetainHistory
from medunlearn_server.reports import (
    EvaluationReport,
    RoundReport,
    RunOutcome,
    VoteReport,
    from_plain,
)
from medunlearn_server.roster import Agreement
from medunlearn_server.round_state import RoundState
from medunlearn_server.server_step import StepState


@dataclass(frozen=True, kw_only=True)
class Learning:
    """What exists once the support is known."""

    support: Support
    vote: VoteReport
    step: StepState
    history: RetainHistory


@dataclass(frozen=True, kw_only=True)
class RunProgress:
    """The durable state of a run.

    Attributes:
        run_id: The run.
        plan_digest: Of its plan.
        state: Where it stands.
        agreement: What all sites have.
        schedule: Noise of vote and rounds.
        learning: None before the support is known.
        sums: How many masked sums were opened.
        curve: Every accepted round.
        evaluation: What the sites said of the candidate adapter; None before they were asked.
        outcome: None before the end.
    """

    run_id: str
    plan_digest: str
    state: RoundState
    agreement: Agreement
    schedule: NoiseSchedule
    learning: Learning | None = None
    sums: int = 0
    curve: tuple[RoundReport, ...] = ()
    evaluation: EvaluationReport | None = None
    outcome: RunOutcome | None = None

    def need_learning(self) -> Learning:
        """The learning state, which exists from phase ROUNDS on."""
        if self.learning is None:
            raise Misconfigured(
                "CHECKPOINT_CORRUPT", "the run's checkpoint lacks its support",
                "start a new run",
            )
        return self.learning

    def to_checkpoint(self) -> Checkpoint:
        """All of it as plain values and exact arrays."""
        values: dict[str, Any] = {
            "run_id": self.run_id,
            "plan_digest": self.plan_digest,
            "state": self.state.to_json(),
            "agreement": self.agreement.to_json(),
            "schedule": asdict(self.schedule),
            "curve": [asdict(report) for report in self.curve],
            "evaluation": None if self.evaluation is None else asdict(self.evaluation),
            "outcome": None if self.outcome is None else self.outcome.to_json(),
            "sums": self.sums,
            "learning": None,
        }
        if self.learning is None:
            return Checkpoint(values=values)
        step, history = self.learning.step, self.learning.history
        values["learning"] = {
            "layout_digest": self.learning.support.layout_digest,
            "vote": asdict(self.learning.vote),
            "averaged": step.averaged, "steps": step.steps, "count": history.count,
        }
        return Checkpoint(values=values, arrays={
            "support": self.learning.support.indices,
            "values": step.values, "first": step.first, "first_forget": step.first_forget,
            "second": step.second, "average": step.average,
            "directions": history.directions, "squares": history.squares,
            "noise": history.noise,
        })

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> Self:
        """Back from :meth:`to_checkpoint`.

        Raises:
            Misconfigured: CHECKPOINT_CORRUPT if a value is missing.
        """
        try:
            return cls._parse(checkpoint)
        except (KeyError, TypeError, ValueError) as error:
            raise Misconfigured(
                "CHECKPOINT_CORRUPT", "the run's checkpoint lacks a value",
                "resume with the version of medunlearn that wrote it",
            ) from error

    @classmethod
    def _parse(cls, checkpoint: Checkpoint) -> Self:
        values = checkpoint.values
        outcome, learning = values["outcome"], values["learning"]
        evaluation = values["evaluation"]
        return cls(
            run_id=values["run_id"],
            plan_digest=values["plan_digest"],
            state=RoundState.from_json(values["state"]),
            agreement=Agreement.from_json(values["agreement"]),
            schedule=_schedule(values["schedule"]),
            learning=None if learning is None else _learning(learning, checkpoint),
            sums=values["sums"],
            curve=tuple(from_plain(RoundReport, entry) for entry in values["curve"]),
            evaluation=None if evaluation is None else from_plain(EvaluationReport, evaluation),
            outcome=None if outcome is None else RunOutcome.from_json(outcome),
        )

    def require_run(self, run_id: str, plan_digest: str) -> None:
        """Refuse the checkpoint of another run or plan.

        Raises:
            Misconfigured: CHECKPOINT_FOREIGN.
        """
        for name, found, expected in (
            ("run", self.run_id, run_id), ("plan", self.plan_digest, plan_digest)
        ):
            if found != expected:
                raise Misconfigured(
                    "CHECKPOINT_FOREIGN",
                    f"the checkpoint belongs to {name} {found[:16]}, not {expected[:16]}",
                    "resume with the run's own folder and its unchanged plan",
                )

    def with_learning(self, **changes: Any) -> Self:
        """A copy with some of :class:`Learning` replaced."""
        return replace(self, learning=replace(self.need_learning(), **changes))


def _schedule(value: dict[str, Any]) -> NoiseSchedule:
    mechanisms = tuple(Mechanism(**entry) for entry in value["mechanisms"])
    return NoiseSchedule(**{**value, "mechanisms": mechanisms})


def _learning(value: dict[str, Any], checkpoint: Checkpoint) -> Learning:
    arrays = checkpoint.arrays
    return Learning(
        support=Support(indices=arrays["support"], layout_digest=value["layout_digest"]),
        vote=from_plain(VoteReport, value["vote"]),
        step=StepState(
            values=arrays["values"], first=arrays["first"],
            first_forget=arrays["first_forget"], second=arrays["second"],
            average=arrays["average"], averaged=value["averaged"], steps=value["steps"],
        ),
        history=RetainHistory(
            directions=arrays["directions"], squares=arrays["squares"], noise=arrays["noise"],
            count=value["count"],
        ),
    )

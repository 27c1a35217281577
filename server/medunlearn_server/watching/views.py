"""What is shown of a federation: values without behaviour, each readable by anybody.

Guarantees:
    A view holds numbers, digests, codes and identifiers, and the names of people who overrode a
    gate. Every text passes the patterns of the audit log or of a plan before it is here; what
    does not pass is shown as ``unreadable``. Free text (an override's reason, a failure's
    message, a gate's sentence) has no field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from medunlearn_common.audit import AuditRecord
from medunlearn_server.reports import EvaluationReport, RoundReport, VoteReport

UNREADABLE = "unreadable"
PHASES = ("gathering", "support", "rounds", "evaluation", "finished")


@dataclass(frozen=True, kw_only=True)
class PlanView:
    """What the parties agreed on.

    Attributes:
        name: The run's name.
        sites: Planned sites.
        min_sites: Fewest sites of a sum.
        rounds: Planned rounds.
        epsilon: Budget; None without noise.
        delta: Of the guarantee.
        noise: distributed, local or none.
        unit: record or patient.
        objective: Name of the loss.
        support: vote, random or public.
    """

    name: str
    sites: int
    min_sites: int
    rounds: int
    epsilon: float | None
    delta: float
    noise: str
    unit: str
    objective: str
    support: str


@dataclass(frozen=True, kw_only=True)
class KindTotal:
    """All exchanges of one kind since the coordinator's process started.

    Attributes:
        exchanges: How many.
        seconds: How long they took together.
        asked: Requests.
        answered: Answers, errors included.
    """

    exchanges: int = 0
    seconds: float = 0.0
    asked: int = 0
    answered: int = 0


@dataclass(frozen=True, kw_only=True)
class LastWord:
    """What came of the last request to one site.

    Attributes:
        kind: Kind of the request.
        code: Code with which the site refused, or of why it gave no answer; empty if it answered.
        at: When, seconds since 1970.
    """

    kind: str
    code: str
    at: float


@dataclass(frozen=True, kw_only=True)
class ExchangeView:
    """The exchange that is open, or was the last one.

    Attributes:
        kind: Kind of the requests.
        round: Round they belong to, from 0; None outside of rounds.
        asked: Sites asked.
        answered: Sites that answered; None while it is open.
        since: When it began, seconds since 1970.
        seconds: How long it took; None while it is open.
        totals: By kind.
        words: Each site's last word, by its id, or by its address while nobody knows that.
    """

    kind: str
    round: int | None
    asked: int
    answered: int | None
    since: float
    seconds: float | None
    totals: Mapping[str, KindTotal] = field(default_factory=dict)
    words: Mapping[str, LastWord] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        """Whether answers are still waited for."""
        return self.seconds is None


@dataclass(frozen=True, kw_only=True)
class SiteView:
    """One hospital as the coordinator sees it.

    Attributes:
        site: Its id.
        joined: Rounds whose sum it is in.
        last_round: The last of them, from 0; None before.
        missed: Code to the number of rounds in which it was asked in vain for that reason.
        bytes_up: Bytes from it, vote, rounds and evaluation together.
        bytes_down: Bytes to it.
        witnessed: Records of the audit log that it has signed for; 0 if none.
        refused: Code with which it would not take part; empty otherwise.
        last: What came of the last request to it; None if that is not known.
    """

    site: str
    joined: int = 0
    last_round: int | None = None
    missed: Mapping[str, int] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0
    witnessed: int = 0
    refused: str = ""
    last: LastWord | None = None


@dataclass(frozen=True, kw_only=True)
class GateView:
    """One release gate's verdict.

    Attributes:
        gate: norm, canary or utility.
        passed: Whether it holds.
        value: What was measured; None if it could not be.
        limit: What it is held against.
        overridden_by: Who let it pass all the same; empty otherwise.
    """

    gate: str
    passed: bool
    value: float | None
    limit: float
    overridden_by: str = ""


@dataclass(frozen=True, kw_only=True)
class LogView:
    """The audit log of a run.

    Attributes:
        records: Those that follow from each other, in order.
        first_bad: Index of the first one that does not; None in a sound log.
        witnesses: Site to the number of records that it signed for.
    """

    records: tuple[AuditRecord, ...] = ()
    first_bad: int | None = None
    witnesses: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AttestationView:
    """The signed statement about a run.

    Attributes:
        digest: SHA-256 (hex) of its file.
        in_log: Whether the audit log names this very digest.
        signer: Who is said to have signed; ``medunlearn verify`` checks it.
        countersigned: Hospitals that stand by it, as the log last has it, sorted.
        objected: Hospitals that object to it, sorted.
    """

    digest: str
    in_log: bool
    signer: str
    countersigned: tuple[str, ...] = ()
    objected: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunView:
    """One run.

    Attributes:
        run_id: Its name at every party.
        state: pending, running, paused, stopped, finished or failed.
        phase: One of :data:`PHASES`.
        created: When it was launched, seconds since 1970; 0 if unknown.
        updated: When its state last changed; 0 if unknown.
        starts: Flower runs that carried it.
        failure: Code of why it failed or its last start ended; empty otherwise.
        plan_digest: Of its plan.
        plan: None where the plan cannot be read.
        vote: How the support was found; None before.
        rounds: Accepted rounds, in order.
        evaluation: Noised counts at the end; None before.
        reason: Why it ended; empty before.
        adapter_digest: Of the adapter; empty before.
        epsilon: Spent so far; None without noise or before the first release.
        delta: At which.
        exchange: The open or last exchange; None if none was noted.
        gates: Verdicts; before the end those of the rounds' norm gate.
        sites: Hospitals, by id.
        log: The audit log.
        attestation: None before.
        troubles: Codes of what could not be read.
    """

    run_id: str
    state: str
    phase: str = PHASES[0]
    created: float = 0.0
    updated: float = 0.0
    starts: int = 0
    failure: str = ""
    plan_digest: str = ""
    plan: PlanView | None = None
    vote: VoteReport | None = None
    rounds: tuple[RoundReport, ...] = ()
    evaluation: EvaluationReport | None = None
    reason: str = ""
    adapter_digest: str = ""
    epsilon: float | None = None
    exchange: ExchangeView | None = None
    gates: tuple[GateView, ...] = ()
    sites: tuple[SiteView, ...] = ()
    log: LogView = field(default_factory=LogView)
    attestation: AttestationView | None = None
    troubles: tuple[str, ...] = ()

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.state in ("finished", "failed", "stopped")

    @property
    def planned_rounds(self) -> int:
        """How many rounds it may take; 0 if unknown."""
        return self.plan.rounds if self.plan is not None else 0

    @property
    def bytes_up(self) -> int:
        """From all sites."""
        return sum(site.bytes_up for site in self.sites)

    @property
    def bytes_down(self) -> int:
        """To all sites."""
        return sum(site.bytes_down for site in self.sites)

    @property
    def held_up_by(self) -> tuple[SiteView, ...]:
        """Hospitals whose last word was a code, while the run is not finished or stopped."""
        if self.state in ("finished", "stopped"):
            return ()
        return tuple(site for site in self.sites if site.last is not None and site.last.code)

    @property
    def dropouts(self) -> int:
        """Requests to sites in rounds that got no usable answer."""
        return sum(len(report.failures) for report in self.rounds)

    @property
    def latest(self) -> RoundReport | None:
        """The last accepted round."""
        return self.rounds[-1] if self.rounds else None


@dataclass(frozen=True, kw_only=True)
class CheckView:
    """One thing that must hold.

    Attributes:
        name: What was looked at.
        ok: Whether it holds.
        code: Why not; empty otherwise.
    """

    name: str
    ok: bool
    code: str = ""


@dataclass(frozen=True, kw_only=True)
class FederationView:
    """All that one coordinator has.

    Attributes:
        at: When it was looked at, seconds since 1970.
        version: Of medunlearn.
        runs: The newest first.
        checks: Health.
        certificate_ends: When the gateway's certificate expires, seconds since 1970; None if
            there is none.
        roster_ends: When the roster in force expires; None if there is no sound one.
        key_ends: Party to when its key expires, by that roster.
    """

    at: float
    version: str
    runs: tuple[RunView, ...] = ()
    checks: tuple[CheckView, ...] = ()
    certificate_ends: float | None = None
    roster_ends: float | None = None
    key_ends: Mapping[str, float] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether every check holds."""
        return all(check.ok for check in self.checks)

    def run(self, run_id: str) -> RunView | None:
        """A run by its id."""
        return next((run for run in self.runs if run.run_id == run_id), None)

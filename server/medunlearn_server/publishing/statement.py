"""What the coordinator can attest of any run, simulated or deployed: from outcome, log, roster.

What only the one who measured can know comes in as :class:`Measured`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from pathlib import Path

from medunlearn_common import __version__
from medunlearn_common.attestation.counted import counted_cells, counted_shares
from medunlearn_common.attestation.files import ADAPTER_FILES, ADAPTER_FOLDER
from medunlearn_common.attestation.incidents import incidents_of
from medunlearn_common.attestation.predicate import (
    LIMITS,
    SIMULATED,
    Counts,
    Figure,
    Gate,
    Inclusion,
    Materials,
    Predicate,
    Privacy,
    Process,
    Round,
    Site,
)
from medunlearn_common.attestation.statement import Statement
from medunlearn_common.audit import AuditLog, AuditRecord
from medunlearn_common.code_digest import installed_code_digest
from medunlearn_common.digests import digest_of_file
from medunlearn_common.errors import Misconfigured
from medunlearn_common.plan import RunPlan
from medunlearn_common.roster import Roster
from medunlearn_server.reports import EvaluationReport, RunOutcome


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured, by whom it may be.

    Attributes:
        simulated: One machine held all parties and their records.
        figures: Shares and ratios; of a deployed run those that follow from the counts.
        cumulative_epsilon: Largest over the sites' ledgers; None where they stay at the sites.
    """

    simulated: bool
    figures: Mapping[str, Figure] = field(default_factory=dict)
    cumulative_epsilon: float | None = None


def statement_of(
    plan: RunPlan, adapter: Path, outcome: RunOutcome, *, log: AuditLog, record: AuditRecord,
    roster: Roster, measured: Measured,
) -> Statement:
    """The statement to be signed.

    Args:
        plan: The shared plan.
        adapter: The adapter's folder, with all its files.
        outcome: The end of the run.
        log: The coordinator's log of the run.
        record: Its record of kind ``measured``, which is proved to be in it.
        roster: The roster in force.
        measured: See :class:`Measured`.

    Raises:
        Misconfigured: RUN_NOT_LOGGED.
    """
    files = {
        f"{ADAPTER_FOLDER}/{name}": digest_of_file(adapter / name) for name in ADAPTER_FILES
    }
    return Statement.of(files, _predicate(
        plan, outcome, log=log, record=record, roster=roster, measured=measured
    ))


def _predicate(
    plan: RunPlan, outcome: RunOutcome, *, log: AuditLog, record: AuditRecord, roster: Roster,
    measured: Measured,
) -> Predicate:
    agreed = next((r.fields for r in reversed(log.records) if r.kind == "sites_agreed"), None)
    if agreed is None:
        raise Misconfigured(
            "RUN_NOT_LOGGED", "the run began before there was an audit log; nothing can be said",
            "start a new run",
        )
    return Predicate(
        process=Process(
            run_id=outcome.run_id, version=__version__, stage="published",
            objective=plan.objective.name, support=plan.support.method, rounds=outcome.rounds,
            rounds_planned=plan.run.rounds, stopped_because=outcome.reason,
            simulated=measured.simulated,
        ),
        adapter=outcome.adapter_digest,
        materials=Materials(
            base_model=outcome.model_digest, tokenizer=agreed["tokenizer_digest"],
            hierarchy=agreed["hierarchy_digest"], layout=agreed["layout_digest"],
            support=outcome.support_digest, plan=outcome.plan_digest,
            roster=roster.digest.hex(), code=installed_code_digest(),
            result=record.fields["result_digest"],
        ),
        rounds=_rounds(log),
        sites=_sites(outcome, log, dict(agreed["request_roots"])),
        privacy=_privacy(plan, outcome, measured.cumulative_epsilon),
        figures=measured.figures,
        federated=_federated(outcome.evaluation),
        gates=tuple(
            Gate(gate=found.gate, passed=found.passed, figure=finite(found.value),
                 limit=found.limit) for found in outcome.gates
        ),
        incidents=incidents_of(log.records),
        log=Inclusion(
            index=record.index, record=record.to_bytes().decode("ascii"),
            proof=tuple(hash_.hex() for hash_ in log.prove(record.index)),
            checkpoint=log.head.to_text(),
        ),
        limits=(*LIMITS, SIMULATED) if measured.simulated else LIMITS,
    )


def _rounds(log: AuditLog) -> tuple[Round, ...]:
    """The rounds as the log last told them: one that was repeated after a crash counts once."""
    told = {r.fields["round"]: r.fields for r in log.records if r.kind == "round_accepted"}
    return tuple(
        Round(round=number, survivors=tuple(told[number]["sites"]),
              sum_digest=told[number]["sum_digest"], failures=dict(told[number]["failures"]))
        for number in sorted(told)
    )


def _sites(outcome: RunOutcome, log: AuditLog, roots: dict[str, str]) -> dict[str, Site]:
    cosigned = log.cosignatures()
    return {
        site: Site(
            rounds_joined=sum(site in report.sites for report in outcome.curve),
            request_root=roots.get(site),
            cosignature=cosigned[site].to_text() if site in cosigned else None,
        )
        for site in sorted({*outcome.sites, *roots, *cosigned})
    }


def _privacy(plan: RunPlan, outcome: RunOutcome, cumulative: float | None) -> Privacy:
    told = plan.privacy
    noised = told.noise != "none"
    voted = plan.support.method == "vote"
    return Privacy(
        noise=told.noise,
        adjacency=(
            "add or remove one patient" if told.unit == "patient" else "add or remove one record"
        ),
        clip_l2=told.clip_l2, sigma=outcome.sigma if noised else None,
        vote_sigma=outcome.vote_sigma if noised and voted else None,
        epsilon=outcome.epsilon if noised else None,
        epsilon_budget=told.epsilon if noised else None,
        delta=told.delta if noised else None, cumulative_epsilon=cumulative,
        releases=releases_of(plan, outcome), accountant="prv" if noised else "none",
        accountant_version=f"opacus {_installed('opacus')}",
    )


def releases_of(plan: RunPlan, outcome: RunOutcome) -> int:
    """Noised sums that each site released, vote and counts included."""
    return (
        outcome.rounds * plan.privacy.local_steps + int(plan.support.method == "vote")
        + int(bool(outcome.evaluation.sites))
    )


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def finite(value: float | None) -> float | None:
    """The value, or None for infinity and NaN."""
    return value if value is not None and isfinite(value) else None


def _federated(report: EvaluationReport | None) -> Counts:
    """The sites' counts, each with the 95 % interval of its noise."""
    if report is None:
        return Counts(rate=0.0, sites=(), failure=None, cells={})
    return Counts(
        rate=report.rate, sites=report.sites, failure=report.failure or None,
        cells=counted_cells(report.forget, report.retain, report.noise),
    )


def counted_figures(report: EvaluationReport) -> dict[str, Figure]:
    """Shares of units answered before and after; see :func:`counted_shares`."""
    return counted_shares(report.forget, report.retain, report.noise)

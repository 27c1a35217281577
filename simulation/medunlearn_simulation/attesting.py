"""From a finished run to its attestation, and the log beside it.

    measured -> log record -> attestation with its inclusion proof -> report with the
    attestation's digest -> log record of both -> export of the log -> result.json

Every step may be repeated: a run that is killed in between measures and attests again, and the
log then holds both; the last one counts.
"""

from __future__ import annotations

import hashlib
from math import isfinite, sqrt
from time import time

from medunlearn_common import __version__
from medunlearn_common.attestation.dsse import sealed
from medunlearn_common.attestation.files import (
    ADAPTER_FILES,
    ADAPTER_FOLDER,
    ATTESTATION_FILE,
    LOG_FILE,
    ROSTER_FILE,
    RUN_PLAN_FILE,
)
from medunlearn_common.attestation.predicate import (
    LIMITS,
    SIMULATED,
    Counts,
    Figure,
    Gate,
    Incidents,
    Inclusion,
    Materials,
    Override,
    Predicate,
    Privacy,
    Process,
    Round,
    Site,
)
from medunlearn_common.attestation.statement import Statement
from medunlearn_common.audit import AuditLog, AuditRecord
from medunlearn_common.code_digest import installed_code_digest
from medunlearn_common.counting import CELLS
from medunlearn_common.digests import canonical_json, digest_of_file
from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import write_atomically
from medunlearn_common.ledger import PrivacyLedger
from medunlearn_common.plan import Plan
from medunlearn_common.roster import Roster, TrustedRoster
from medunlearn_common.trust_folder import TRUST_FOLDER, open_identity
from medunlearn_server.audit_trail import AuditTrail
from medunlearn_server.reports import EvaluationReport, RunOutcome
from medunlearn_simulation.report import write_report
from medunlearn_simulation.result import result_bytes
from medunlearn_simulation.result_schema import RocSection, RunResult, ThreeWaySection
from medunlearn_simulation.run_folder import RunFolder

_Z95 = 1.959963984540054


def publish(plan: Plan, folder: RunFolder, outcome: RunOutcome, result: RunResult) -> str:
    """Attest a measured run and write everything but ``result.json``, which says it is complete.

    Returns:
        SHA-256 (hex) of the attestation's file.

    Raises:
        Rejected: AUDIT_LOG_DAMAGED.
        Transient: AUDIT_UNAVAILABLE or WRITE_FAILED.
    """
    log = AuditTrail(folder.root, run_id=outcome.run_id).log
    shared = canonical_json(plan.shared().model_dump(mode="json"))
    write_atomically(folder.root / RUN_PLAN_FILE, shared, private=False)
    result_digest = hashlib.sha256(result_bytes(result)).hexdigest()
    record = log.append(
        "measured", result_digest=result_digest, adapter_digest=outcome.adapter_digest
    )
    files = {
        f"{ADAPTER_FOLDER}/{name}": digest_of_file(folder.adapter / name)
        for name in ADAPTER_FILES
    }
    roster = TrustedRoster(folder.root / TRUST_FOLDER, now=time())
    write_atomically(folder.root / ROSTER_FILE, roster.document, private=False)
    predicate = _predicate(plan, folder, outcome, result, log, record, roster.current)
    envelope = sealed(
        Statement.of(files, predicate).to_bytes(), open_identity(folder.root)
    )
    digest = hashlib.sha256(envelope).hexdigest()
    for place in (folder.adapter, folder.root):
        write_atomically(place / ATTESTATION_FILE, envelope, private=False)
    write_report(folder.report_file, result, attestation=digest)
    log.append(
        "published", attestation_digest=digest, report_digest=digest_of_file(folder.report_file)
    )
    write_atomically(folder.root / LOG_FILE, log.export().to_bytes(), private=False)
    return digest


def attestation_digest(folder: RunFolder) -> str | None:
    """SHA-256 (hex) of a finished run's attestation; None if it has none."""
    path = folder.root / ATTESTATION_FILE
    return digest_of_file(path) if path.is_file() else None


def _predicate(
    plan: Plan, folder: RunFolder, outcome: RunOutcome, result: RunResult, log: AuditLog,
    record: AuditRecord, roster: Roster,
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
            rounds_planned=plan.run.rounds, stopped_because=outcome.reason, simulated=True,
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
        privacy=_privacy(plan, folder, outcome, result),
        figures=_figures(result),
        federated=_federated(outcome.evaluation),
        gates=tuple(
            Gate(gate=found.gate, passed=found.passed, figure=_finite(found.value),
                 limit=found.limit) for found in outcome.gates
        ),
        incidents=_incidents(log, dict(agreed["refused"])),
        log=Inclusion(
            index=record.index, record=record.to_bytes().decode("ascii"),
            proof=tuple(hash_.hex() for hash_ in log.prove(record.index)),
            checkpoint=log.head.to_text(),
        ),
        limits=(*LIMITS, SIMULATED),
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


def _privacy(
    plan: Plan, folder: RunFolder, outcome: RunOutcome, result: RunResult
) -> Privacy:
    told = result.privacy
    voted = told.noise != "none" and plan.support.method == "vote"
    unit = told.unit
    return Privacy(
        noise=told.noise,
        adjacency=(
            "add or remove one patient" if unit == "patient" else "add or remove one record"
        ),
        clip_l2=told.clip, sigma=told.sigma, vote_sigma=outcome.vote_sigma if voted else None,
        epsilon=told.epsilon, epsilon_budget=told.epsilon_budget, delta=told.delta,
        cumulative_epsilon=_cumulative(plan, folder), releases=told.releases,
        accountant=told.accountant,
        accountant_version=f"opacus {result.versions.get('opacus', 'unknown')}",
    )


def _cumulative(plan: Plan, folder: RunFolder) -> float | None:
    """Epsilon of the site that spent most over all its runs; None where nothing bounds it.

    Only a simulation can look into every site's ledger; a hospital's stays with it.
    """
    if plan.privacy.noise == "none":
        return None
    ledgers = (folder.site(index) / "ledger.db" for index in range(plan.federation.sites))
    return _finite(max((
        PrivacyLedger.existing(path).cumulative_epsilon(
            unit=plan.privacy.unit, delta=plan.privacy.delta
        ) for path in ledgers if path.is_file()
    ), default=None))


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None


def _federated(report: EvaluationReport | None) -> Counts:
    """The sites' counts, each with the 95 % interval of its noise."""
    if report is None:
        return Counts(rate=0.0, sites=(), failure=None, cells={})
    spread = _Z95 * report.noise
    cells = {
        f"{group}_{cell}": Figure(
            value=value, low=value - spread, high=value + spread, n=None, interval="noise"
        )
        for group, values in (("forget", report.forget), ("retain", report.retain))
        for cell, value in zip(CELLS, values, strict=False)
    }
    return Counts(
        rate=report.rate, sites=report.sites, failure=report.failure or None, cells=cells
    )


def _figures(result: RunResult) -> dict[str, Figure]:
    groups = {"forget": result.forget, "retain": result.retain, "neighbours": result.neighbours}
    found: dict[str, Figure] = {}
    for name, group in groups.items():
        if group is not None:
            found |= _group(name, group)
    if result.retain.preservation is not None:
        found["retain_preservation"] = _plain(result.retain.preservation)
    if result.membership is not None:
        for attack, models in result.membership.attacks.items():
            found[f"membership_auc_{attack}"] = _auc(models.after)
            if models.retrained is not None:
                found[f"membership_auc_{attack}_retrained"] = _auc(models.retrained)
    if result.relearning is not None and result.relearning.accuracy_after is not None:
        found["relearned_accuracy"] = _plain(result.relearning.accuracy_after)
    return found


def _group(name: str, group: ThreeWaySection) -> dict[str, Figure]:
    shares = {
        f"{name}_{metric}{suffix}": getattr(group, f"{metric}_{model}")
        for metric in ("accuracy", "exact")
        for model, suffix in (("before", "_before"), ("after", ""), ("retrained", "_retrained"))
    }
    return {key: _share(value, group.n) for key, value in shares.items() if value is not None}


def _share(value: float, n: int) -> Figure:
    """A share of n questions with Wilson's 95 % interval."""
    if n == 0:
        return _plain(value)
    spread = _Z95 * _Z95 / n
    middle = (value + spread / 2.0) / (1.0 + spread)
    half = _Z95 / (1.0 + spread) * sqrt(value * (1.0 - value) / n + spread / (4.0 * n))
    return Figure(
        value=value, low=max(0.0, middle - half), high=min(1.0, middle + half), n=n,
        interval="wilson",
    )


def _auc(curve: RocSection) -> Figure:
    return Figure(
        value=curve.auc, low=curve.auc_low, high=curve.auc_high, n=None, interval="bootstrap"
    )


def _plain(value: float) -> Figure:
    return Figure(value=value, low=None, high=None, n=None, interval=None)


def _incidents(log: AuditLog, refused: dict[str, str]) -> Incidents:
    told = {kind: [r.fields for r in log.records if r.kind == kind]
            for kind in ("run_stopped", "gate_failed", "gate_overridden")}
    return Incidents(
        refused=refused,
        stops=tuple(fields["code"] for fields in told["run_stopped"]),
        gates_failed=tuple(dict.fromkeys(fields["gate"] for fields in told["gate_failed"])),
        overrides=tuple(
            Override(gate=f["gate"], by=f["by"], reason_digest=f["reason_digest"])
            for f in told["gate_overridden"]
        ),
    )

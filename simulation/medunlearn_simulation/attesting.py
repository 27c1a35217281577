"""From a finished run to its attestation, and the log beside it.

    measured -> log record -> attestation with its inclusion proof -> report with the
    attestation's digest -> log record of both -> export of the log -> result.json

Every step may be repeated: a run that is killed in between measures and attests again, and the
log then holds both; the last one counts.
"""

from __future__ import annotations

import hashlib
from math import sqrt
from time import time

from medunlearn_common.attestation.dsse import sealed
from medunlearn_common.attestation.files import (
    ATTESTATION_FILE,
    LOG_FILE,
    ROSTER_FILE,
    RUN_PLAN_FILE,
)
from medunlearn_common.attestation.predicate import Figure
from medunlearn_common.digests import canonical_json, digest_of_file
from medunlearn_common.files import write_atomically
from medunlearn_common.ledger import PrivacyLedger
from medunlearn_common.plan import Plan
from medunlearn_common.roster import TrustedRoster
from medunlearn_common.trust_folder import TRUST_FOLDER, open_identity
from medunlearn_server.audit_trail import AuditTrail
from medunlearn_server.publishing.statement import Measured, finite, statement_of
from medunlearn_server.reports import RunOutcome
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
    roster = TrustedRoster(folder.root / TRUST_FOLDER, now=time())
    write_atomically(folder.root / ROSTER_FILE, roster.document, private=False)
    statement = statement_of(
        plan.shared(), folder.adapter, outcome, log=log, record=record, roster=roster.current,
        measured=Measured(
            simulated=True, figures=attested_figures(result),
            cumulative_epsilon=_cumulative(plan, folder),
        ),
    )
    envelope = sealed(statement.to_bytes(), open_identity(folder.root))
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


def _cumulative(plan: Plan, folder: RunFolder) -> float | None:
    """Epsilon of the site that spent most over all its runs; None where nothing bounds it.

    Only a simulation can look into every site's ledger; a hospital's stays with it.
    """
    if plan.privacy.noise == "none":
        return None
    ledgers = (folder.site(index) / "ledger.db" for index in range(plan.federation.sites))
    return finite(max((
        PrivacyLedger.existing(path).cumulative_epsilon(
            unit=plan.privacy.unit, delta=plan.privacy.delta
        ) for path in ledgers if path.is_file()
    ), default=None))


def attested_figures(result: RunResult) -> dict[str, Figure]:
    """What the attestation says of answers, attacks and relearning, with 95 % intervals."""
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
    """Accuracies are over the records with options alone, which may be few among all."""
    shares = {
        f"{name}_{metric}{suffix}": (getattr(group, f"{metric}_{model}"), n)
        for metric, n in (("accuracy", group.n_ranked), ("exact", group.n))
        for model, suffix in (("before", "_before"), ("after", ""), ("retrained", "_retrained"))
    }
    return {key: _share(value, n) for key, (value, n) in shares.items() if value is not None}


def _share(value: float, n: int | None) -> Figure:
    """A share of n questions with Wilson's 95 % interval; without one where n is not known."""
    if not n:
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

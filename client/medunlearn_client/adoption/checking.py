"""What a hospital checks of a published run before it believes any of it.

1. The twelve steps of `medunlearn verify`, with this hospital's own root keys and the roster in
   force here.
2. The run was deployed: a simulation's figures are no hospital's.
3. It is the run that was accepted here: name, coordinator and plan of the run's lock.
4. The base model is the one that this hospital named when the run began.
5. PEFT's configuration says what the plan says and nothing more.
6. The weights are those of such an adapter: the plan's own A, and a sparse B.
7. The log continues every state of it that this hospital has signed; its keeper is believed under
   the key of step 1, which another one may have replaced since.

What is done with it later checks all of this again: the files lie on a disk in between.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medunlearn_client.adoption.weights import require_planned_weights
from medunlearn_client.site_audit import SiteAudit
from medunlearn_client.site_config import read_site_config
from medunlearn_common.adapter_facts import lora_config
from medunlearn_common.attestation.files import (
    ADAPTER_CONFIG,
    ADAPTER_FOLDER,
    ADAPTER_WEIGHTS,
    LOG_FILE,
    RUN_PLAN_FILE,
    Evidence,
)
from medunlearn_common.attestation.statement import Statement
from medunlearn_common.attestation.verification import Verification
from medunlearn_common.audit import AuditRecord, LogExport
from medunlearn_common.audit.signing import coordinator_log
from medunlearn_common.digests import canonical_json
from medunlearn_common.envelope import RunLock
from medunlearn_common.errors import Rejected
from medunlearn_common.offer import plan_from_canonical
from medunlearn_common.plan import RunPlan
from medunlearn_common.publication import (
    COUNTERSIGNED,
    OBJECTED,
    STATEMENTS_FOLDER,
    Decision,
    open_decision,
)
from medunlearn_common.roster import Roster
from medunlearn_common.roster.trusted import ROOT_FILE, ROSTER_FILE
from medunlearn_common.trust_folder import TRUST_FOLDER

_HINT = "do not use it; ask the coordinator, and tell the consortium if it stays so"


@dataclass(frozen=True, kw_only=True)
class CheckedRun:
    """A published run that passed.

    Attributes:
        folder: Where it lies.
        statement: What is attested.
        attestation_digest: SHA-256 (hex) of the attestation's file.
        plan: The shared plan.
        records: The coordinator's log.
        decisions: What hospitals signed of it, as far as it came along, by site.
    """

    folder: Path
    statement: Statement
    attestation_digest: str
    plan: RunPlan
    records: tuple[AuditRecord, ...]
    decisions: Mapping[str, Decision]

    @property
    def run_id(self) -> str:
        """The run."""
        return self.statement.predicate.process.run_id

    def objections(self) -> dict[str, str]:
        """Sites that object, by the log and by signed statements: site to who decided.

        A site's later word replaces its earlier one. An objection in the log counts without the
        statement: whoever leaves the statement out shall not thereby take the objection away. It
        is only taken back by a countersignature that the site itself signed.
        """
        return {site: by for site, (verdict, by, _) in self._last().items() if verdict == OBJECTED}

    def countersigned(self) -> dict[str, str]:
        """Sites that countersigned, by the log and by signed statements: site to who decided."""
        return {
            site: by for site, (verdict, by, _) in self._last().items()
            if verdict == COUNTERSIGNED
        }

    def _last(self) -> dict[str, tuple[str, str, int]]:
        found: dict[str, tuple[str, str, int]] = {}
        for record in self.records:
            fields = record.fields
            if record.kind not in (COUNTERSIGNED, OBJECTED):
                continue
            if fields["attestation_digest"] != self.attestation_digest:
                continue
            if record.kind == COUNTERSIGNED and not self._is_signed(fields):
                continue
            if fields["number"] >= found.get(fields["site"], ("", "", 0))[2]:
                found[fields["site"]] = (record.kind, fields["by"], fields["number"])
        return found

    def _is_signed(self, fields: Mapping[str, Any]) -> bool:
        """Whether the site signed the countersignature that the coordinator's log says it gave."""
        decision = self.decisions.get(fields["site"])
        return decision is not None and decision.verdict == COUNTERSIGNED and (
            (decision.by, decision.number) == (fields["by"], fields["number"]))


def check_publication(
    folder: Path, hospital: Path, *, lock: RunLock | None, audit: SiteAudit, now: float
) -> CheckedRun:
    """Carry the steps out.

    Args:
        folder: A published run's files.
        hospital: The hospital's folder.
        lock: What this hospital holds of the run.
        audit: Its memory of the coordinator's log.
        now: Seconds since 1970, for the validity of the keys that decisions are signed with.

    Raises:
        StepFailed: A step of the verification.
        Rejected: RUN_SIMULATED, RUN_UNKNOWN_HERE, RUN_MISMATCH, PLAN_MISMATCH, RUN_COORDINATOR,
            MODEL_MISMATCH, ADAPTER_CONFIG, or as :func:`require_planned_weights` and
            :meth:`WitnessStore.witness`.
    """
    trust = hospital / TRUST_FOLDER
    verification = Verification(
        evidence=Evidence.at(folder), keys=trust / ROSTER_FILE, root=trust / ROOT_FILE
    )
    for _ in verification.steps():  # 1
        pass
    statement, predicate = verification.statement, verification.statement.predicate
    if predicate.process.simulated:  # 2
        raise Rejected("RUN_SIMULATED", "the run was simulated: no hospital took part", _HINT)
    _require_own(statement, verification.keeper.party_id, lock)  # 3, 4
    plan = plan_from_canonical((folder / RUN_PLAN_FILE).read_text(encoding="ascii"))
    _require_config(folder / ADAPTER_FOLDER / ADAPTER_CONFIG, plan)  # 5
    require_planned_weights(  # 6
        folder / ADAPTER_FOLDER / ADAPTER_WEIGHTS, plan, folder=hospital,
        public_files=read_site_config(hospital).public_files,
    )
    export = LogExport.from_bytes((folder / LOG_FILE).read_bytes())
    audit.witness.witness(  # 7
        export.head, keeper=verification.keeper.party_id, leaves=export.leaves, repeated=True,
        origin=coordinator_log(predicate.process.run_id, key_id=verification.keeper.key_id),
        verifier=verification.key if verification.key.is_former else None,
    )
    return CheckedRun(
        folder=folder, statement=statement, plan=plan,
        attestation_digest=verification.attestation_digest,
        decisions={decision.site: decision for decision in sound_decisions(
            _statements(folder), verification.roster, run_id=predicate.process.run_id,
            attestation=verification.attestation_digest, now=now).values()},
        records=export.verify(verification.key, keeper=verification.keeper.party_id),
    )


def _require_own(statement: Statement, keeper: str, lock: RunLock | None) -> None:
    process, materials = statement.predicate.process, statement.predicate.materials
    if lock is None:
        raise Rejected("RUN_UNKNOWN_HERE", "this hospital took no part in that run", _HINT)
    if process.run_id != lock.run:
        raise Rejected("RUN_MISMATCH", f"the attestation is of run {process.run_id}", _HINT)
    if keeper != lock.coordinator:
        raise Rejected("RUN_COORDINATOR", f"run {lock.run} was led by {lock.coordinator}, "
                       f"{keeper} attests it", _HINT)
    if materials.plan != lock.plan.hex():
        raise Rejected("PLAN_MISMATCH", "the attested plan is not the one accepted here", _HINT)
    if hashlib.sha256(materials.base_model.encode("utf-8")).digest() != lock.model:
        raise Rejected("MODEL_MISMATCH", "the attested base model is not the one that this "
                       "hospital named", _HINT)


def _require_config(path: Path, plan: RunPlan) -> None:
    expected = canonical_json(lora_config(
        rank=plan.model.lora_rank, alpha=plan.model.lora_alpha, base_model=plan.model.source,
        target_modules=plan.model.target_modules,
    ))
    if path.read_bytes() != expected:
        raise Rejected(
            "ADAPTER_CONFIG", f"{ADAPTER_CONFIG} says other things than the plan",
            "do not load it: PEFT may run what a configuration names",
        )


def _statements(folder: Path) -> dict[str, bytes]:
    """The decisions that lie beside a published run, by file name; whether they hold is open."""
    return {
        f"{STATEMENTS_FOLDER}/{path.name}": path.read_bytes()
        for path in sorted((folder / STATEMENTS_FOLDER).glob("*.dsse"))
    }


def sound_decisions(
    files: Mapping[str, bytes], roster: Roster, *, run_id: str, attestation: str, now: float
) -> dict[str, Decision]:
    """The signed decisions among a publication's files that hold, by file name.

    One whose signature does not hold is left out, not refused: a site that was revoked since
    must not keep others from receiving the run.
    """
    found: dict[str, Decision] = {}
    for name, data in files.items():
        if not name.startswith(f"{STATEMENTS_FOLDER}/"):
            continue
        try:
            decision = open_decision(data, roster, now=now)
        except Rejected:
            continue
        own = f"{STATEMENTS_FOLDER}/{decision.site}.dsse"
        if (own, decision.run, decision.attestation.hex()) == (name, run_id, attestation):
            found[name] = decision
    return found

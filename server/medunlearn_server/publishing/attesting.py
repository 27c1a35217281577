"""Attest a finished run that was deployed: figures are the hospitals' noised counts, no others.

    outcome, plan, adapter checked -> adapter facts -> result.json -> log record "measured" ->
    attestation with its inclusion proof -> the folder appears under its name -> log record
    "attested" -> export of the log

Every step may be repeated after a crash; a folder that is there under its name was whole when it
got it, and is not made again, even where it is lost: a second attestation of one run would be
refused by every hospital that has the first.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from time import time
from typing import Any

from medunlearn_common.adapter_facts import AdapterFacts, write_adapter_facts
from medunlearn_common.attestation.dsse import sealed
from medunlearn_common.attestation.files import (
    ADAPTER_CONFIG,
    ADAPTER_FOLDER,
    ADAPTER_WEIGHTS,
    ATTESTATION_FILE,
    LOG_FILE,
    PLAN_FILE,
    RESULT_FILE,
    ROSTER_FILE,
    RUN_PLAN_FILE,
)
from medunlearn_common.audit import AuditLog
from medunlearn_common.digests import canonical_json, digest_of_files
from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import private_folder, sync_path, write_atomically
from medunlearn_common.plan import RunPlan
from medunlearn_common.roster import TrustedRoster
from medunlearn_common.trust_folder import TRUST_FOLDER
from medunlearn_server.audit_trail import AuditTrail, run_under_former_key
from medunlearn_server.coordinator import OUTCOME_FILE
from medunlearn_server.publishing.folder import PublishedRun, published_file_missing
from medunlearn_server.publishing.statement import (
    Measured,
    counted_figures,
    finite,
    statement_of,
)
from medunlearn_server.reports import RunOutcome
from medunlearn_server.run_plan import shared_plan
from medunlearn_server.storage import storage_errors


def attest(place: PublishedRun) -> str:
    """Attest a run and lay out what hospitals get; a run that is attested stays as it is.

    Returns:
        SHA-256 (hex) of the attestation's file.

    Raises:
        Misconfigured: RUN_UNFINISHED, RUN_PLAN_CHANGED, ADAPTER_CHANGED, RUN_NOT_LOGGED,
            PUBLISHED_CHANGED, PUBLISHED_FILE_MISSING if it was attested and the published folder
            is gone, RUN_UNDER_FORMER_KEY if it was not in time, or a TRUST_ or KEY_ code.
        Rejected: AUDIT_LOG_DAMAGED, ROSTER_ codes.
        Transient: AUDIT_UNAVAILABLE, WRITE_FAILED, STORAGE_FULL or STORAGE_FAILED.
    """
    trail = AuditTrail(place.run, run_id=place.run_id, party=place.party)
    log = trail.log
    if (place.folder / ATTESTATION_FILE).is_file():
        _require_logged(place, log)
    else:
        _require_not_attested(place, log)
        _lay_out(place, trail)
    digest = place.attestation_digest
    log.append("attested", attestation_digest=digest)
    export_log(place, log)
    return digest


def _require_logged(place: PublishedRun, log: AuditLog) -> None:
    """The attestation that lies there is one that the log names, if it names any."""
    logged = {r.fields["attestation_digest"] for r in log.records if r.kind == "attested"}
    if logged and place.attestation_digest not in logged:
        raise Misconfigured(
            "PUBLISHED_CHANGED", f"the attestation of run {place.run_id} was changed",
            "restore the published folder from its backup; find out who wrote to it",
        )


def _require_not_attested(place: PublishedRun, log: AuditLog) -> None:
    """A run is attested once: hospitals that have the first attestation refuse any other."""
    if any(record.kind == "attested" for record in log.records):
        raise published_file_missing(place.run_id)


def export_log(place: PublishedRun, log: AuditLog) -> None:
    """Put the log as it is now beside the attestation."""
    write_atomically(place.folder / LOG_FILE, log.export().to_bytes(), private=False)


def _lay_out(place: PublishedRun, trail: AuditTrail) -> None:
    outcome, plan = _outcome(place), _plan(place)
    if (outcome.run_id, outcome.plan_digest) != (place.run_id, plan.digest):
        raise Misconfigured(
            "RUN_PLAN_CHANGED", "outcome, plan and name of the run do not belong together",
            "put the run's own plan.toml back",
        )
    partial = place.folder.with_name(f".{place.run_id}.{os.getpid()}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        private_folder(partial)
        _copy_adapter(place, outcome, partial / ADAPTER_FOLDER)
        _write_statement(place, trail, plan, outcome, partial)
        with storage_errors("put the published run in place"):
            os.replace(partial, place.folder)
            sync_path(place.folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _outcome(place: PublishedRun) -> RunOutcome:
    try:
        text = (place.run / OUTCOME_FILE).read_text(encoding="ascii")
        return RunOutcome.from_json(json.loads(text))
    except OSError as error:
        raise Misconfigured(
            "RUN_UNFINISHED", f"run {place.run_id} has no outcome",
            "`medunlearn coordinator status` says how far it is",
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise Misconfigured(
            "RUN_UNFINISHED", f"the outcome of run {place.run_id} cannot be read",
            "resume the run: it writes it again",
        ) from error


def _plan(place: PublishedRun) -> RunPlan:
    return shared_plan(place.run / PLAN_FILE, place.run)


def _copy_adapter(place: PublishedRun, outcome: RunOutcome, target: Path) -> None:
    source = place.run / ADAPTER_FOLDER
    names = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
    with storage_errors("copy the adapter"):
        target.mkdir()
        for name in names:
            shutil.copyfile(source / name, target / name)
        found = digest_of_files(target / name for name in names)
    if found != outcome.adapter_digest:
        raise Misconfigured(
            "ADAPTER_CHANGED", "the adapter is not the one that the run wrote",
            "resume the run: it writes it again",
        )


def _write_statement(
    place: PublishedRun, trail: AuditTrail, plan: RunPlan, outcome: RunOutcome, folder: Path
) -> None:
    log, roster = trail.log, TrustedRoster(place.party / TRUST_FOLDER, now=time())
    if not roster.current.names(trail.signer.party_id, key_id=trail.signer.key_id):
        raise run_under_former_key(place.run_id)  # no roster of its time would vouch for the key
    agreed = [r.fields for r in log.records if r.kind == "sites_agreed"]
    if not agreed:
        raise Misconfigured("RUN_NOT_LOGGED", "the log knows nothing of this run",
                            "put the run's audit.db back")
    noised = plan.privacy.noise != "none"
    write_adapter_facts(folder / ADAPTER_FOLDER, AdapterFacts(
        base_model=plan.model.source, base_model_digest=outcome.model_digest,
        tokenizer_digest=agreed[-1]["tokenizer_digest"], adapter_digest=outcome.adapter_digest,
        run_id=outcome.run_id, unit=plan.privacy.unit,
        epsilon=outcome.epsilon if noised else None, delta=outcome.delta if noised else None,
    ))
    shared = canonical_json(plan.model_dump(mode="json"))
    result = canonical_json(public_outcome(outcome))
    for name, data in (
        (RUN_PLAN_FILE, shared), (RESULT_FILE, result), (ROSTER_FILE, roster.document),
    ):
        write_atomically(folder / name, data, private=False)
    record = log.append(
        "measured", result_digest=hashlib.sha256(result).hexdigest(),
        adapter_digest=outcome.adapter_digest,
    )
    statement = statement_of(
        plan, folder / ADAPTER_FOLDER, outcome, log=log, record=record, roster=roster.current,
        measured=Measured(simulated=False, figures=counted_figures(outcome.evaluation)),
    )
    envelope = sealed(statement.to_bytes(), trail.signer)
    for name in (f"{ADAPTER_FOLDER}/{ATTESTATION_FILE}", ATTESTATION_FILE):  # the root's last
        write_atomically(folder / name, envelope, private=False)


def public_outcome(outcome: RunOutcome) -> dict[str, Any]:
    """The outcome as it is published: without the words of who overrode a gate.

    Infinite and undefined numbers become null, as JSON has none.
    """
    return _public(outcome.to_json())  # type: ignore[no-any-return]


def _public(value: Any) -> Any:
    if isinstance(value, float):
        return finite(value)
    if isinstance(value, dict):
        return {
            key: "" if key == "overridden_because" else _public(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_public(inner) for inner in value]
    return value

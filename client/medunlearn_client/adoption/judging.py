"""Measure a received adapter for the erasure requests that this hospital's run worked for.

What a simulated run measures of its requests is measured here on the hospital's own records, and
judged by the same criteria of the registry. A hospital has no model that was retrained without
them, so guessing stands in its place; other hospitals' forget sets are not its to ask.

Guarantees:
    * Measured are the record files and settings with which the run began: no others can speak
      for a request.
    * A request is judged once in a run, by the first measurement of all records.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from medunlearn_client.adoption.checking import CheckedRun
from medunlearn_client.adoption.hospital import AdoptionHospital
from medunlearn_client.erasure import Claim, Registry
from medunlearn_client.erasure.claims import requests_by_run
from medunlearn_client.erasure.run_figures import figures_by_request
from medunlearn_client.erasure.run_requests import RunRequests
from medunlearn_client.run_rules import records_digest, require_same_records
from medunlearn_client.site_config import SiteConfig
from medunlearn_client.site_data import SiteRecords, record_tagger, unnamed_sample
from medunlearn_common.errors import MedunlearnError, Misconfigured
from medunlearn_common.plan.sections import ConceptsSection

if TYPE_CHECKING:
    from medunlearn_client.evaluation import EvaluationReport
    from medunlearn_client.evaluation.report import StageProgress
    from medunlearn_client.evaluation.scored_model import ScoredModel


def run_claim(hospital: AdoptionHospital, run_id: str) -> Claim | None:
    """The erasure requests that the run worked for here; None if it worked for none.

    Raises:
        Misconfigured: SITE_CONFIG_ codes, RUN_FILE_INVALID, or a code of the registry.
    """
    requests = RunRequests.of(hospital.folder, hospital.config)
    claim = requests.claim(run_id) if requests is not None else None
    return claim if claim is not None and claim.numbers else None


def checked_for_requests(hospital: AdoptionHospital, run_id: str) -> CheckedRun:
    """A run in the inbox, checked anew; of one that is not there, what becomes of its requests.

    Raises:
        Misconfigured: INBOX_UNKNOWN, whose hint names the erasure requests that are in the run;
            else as :meth:`AdoptionHospital.checked`.
        Rejected: As :meth:`AdoptionHospital.checked`.
    """
    try:
        return hospital.checked(run_id)
    except Misconfigured as error:
        numbers = _held_by(hospital, run_id) if error.code == "INBOX_UNKNOWN" else ()
        if not numbers:
            raise
        raise Misconfigured(
            error.code, error.message,
            f"erasure request(s) {', '.join(map(str, numbers))} are in it. When it has finished, "
            "ask the coordinator to publish it; if it failed or was stopped for good: medunlearn "
            "erasure reopen NUMBER --reason … --author … for each, and the next run takes them",
        ) from error


def _held_by(hospital: AdoptionHospital, run_id: str) -> tuple[int, ...]:
    """Requests that the run has not given back; none where the registry cannot say."""
    try:
        place = hospital.config.registry
        return () if place is None else requests_by_run(Registry(place)).get(run_id, ())
    except MedunlearnError:  # it is the inbox that was asked for
        return ()


def settings_of_run(hospital: AdoptionHospital, run_id: str, claim: Claim | None) -> SiteConfig:
    """The hospital's settings, with the sets that the run had where a registry said which.

    A run without requests may still have left records out.

    Raises:
        Rejected: DATA_CHANGED: other records can say nothing of the requests; or
            ERASURE_HISTORY_TAMPERED.
        Misconfigured: RUN_FILE_INVALID, or a code of the registry.
        Transient: ERASURE_REGISTRY_UNAVAILABLE.
    """
    requests = RunRequests.of(hospital.folder, hospital.config)
    if requests is None or requests.claim(run_id) is None:
        return hospital.config
    config = requests.settings(run_id)
    if claim is not None:
        digest = records_digest(config.data, config.forget, config.left_out)
        require_same_records(hospital.folder, run_id, digest)
    return config


def evaluate_for_requests(
    claim: Claim, hospital: AdoptionHospital, checked: CheckedRun, records: SiteRecords,
    concepts: ConceptsSection, models: tuple[ScoredModel, ScoredModel], on_progress: StageProgress,
) -> EvaluationReport:
    """Ask all records without and with the adapter, and settle the requests.

    Args:
        claim: The run's requests.
        hospital: The hospital.
        checked: The received run.
        records: All that the run forgot and kept here.
        concepts: The plan's, with this hospital's hierarchies.
        models: Without and with the adapter.
        on_progress: Told the stage, and how many records of it were just done.

    Raises:
        Misconfigured: EVALUATION_SET_EMPTY, or a code of the registry.
        Transient: ERASURE_REGISTRY_UNAVAILABLE.
    """
    from medunlearn_client.evaluation import (
        EvaluationInputs,
        EvaluationSettings,
        ExtractionSettings,
        evaluate_models,
    )

    config, seed = hospital.config, checked.plan.run.seed
    standing = claim.standing()  # what was reopened meanwhile is not this run's to judge
    requests = RunRequests.of(hospital.folder, config)
    requested = requests.by_request(claim, records, concepts) if requests is not None else {}
    shown = config.data.show_subject
    asks = any(record.is_identifier for record in records.forget)
    report = evaluate_models(
        original=models[0], unlearned=models[1], retrained=None, on_progress=on_progress,
        inputs=EvaluationInputs(
            forget=records.forget, retain=records.retain, requests=requested,
            forget_unnamed=unnamed_sample(records.forget, seed=seed) if shown else (),
            tagger=record_tagger(concepts, None, config.data),
        ),
        settings=EvaluationSettings(
            seed=seed, relearning=None, extraction=ExtractionSettings(seed=seed) if asks else None
        ),
    )
    figures = figures_by_request(
        standing, report, run_id=checked.run_id, forget=records.forget, requested=requested,
        adapter_digest=checked.statement.predicate.adapter,
    )
    standing.settle({
        number: replace(one, attestation_digest=checked.attestation_digest)
        for number, one in figures.items()
    })
    return report

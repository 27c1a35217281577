"""What a received adapter does on the hospital's own records; the figures stay here."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch

from medunlearn_client.adoption.folder import MEASURED_FILE
from medunlearn_client.adoption.hospital import AdoptionHospital
from medunlearn_client.adoption.judging import (
    checked_for_requests,
    evaluate_for_requests,
    run_claim,
    settings_of_run,
)
from medunlearn_client.adoption.loading import open_adapter
from medunlearn_client.evaluation.accuracy import AccuracyTable, accuracy_table
from medunlearn_client.evaluation.preservation import kept_share, ratio
from medunlearn_client.evaluation.record_scores import score_records
from medunlearn_client.evaluation.report import ThreeWay
from medunlearn_client.evaluation.scored_model import AdapterOffModel, ScoredModel, WholeModel
from medunlearn_client.models import resolve_device
from medunlearn_client.records import Record
from medunlearn_client.workbench import own_concepts, own_records
from medunlearn_common.attestation.files import ADAPTER_FOLDER
from medunlearn_common.entropy import public_generator
from medunlearn_common.files import write_atomically

# Called with what is being asked, and the number of records that were just done.
Progress = Callable[[str, int], None]


@dataclass(frozen=True, kw_only=True)
class SetFigures:
    """One of the hospital's record sets, without and with the adapter.

    Attributes:
        n: Records asked.
        accuracy_before: Share of questions with options answered without the adapter; None where
            no record has options.
        accuracy_after: The same with it.
        exact_before: Share of answers written exactly, without the adapter; None for no record.
        exact_after: The same with it.
        preservation: Records answered after by those before, each by its options, or exactly
            where it has none; None where nothing was answered before.
    """

    n: int
    accuracy_before: float | None
    accuracy_after: float | None
    exact_before: float | None
    exact_after: float | None
    preservation: float | None


@dataclass(frozen=True, kw_only=True)
class OwnFigures:
    """What this hospital measured of one attested adapter; never sent anywhere."""

    run_id: str
    attestation_digest: str
    forget: SetFigures
    retain: SetFigures


def measure(
    hospital: AdoptionHospital, run_id: str, *, device: str = "auto", most: int = 0,
    progress: Progress = lambda name, done: None,
) -> OwnFigures:
    """Ask the hospital's own questions without and with the adapter; keep the figures here.

    Where the run worked for erasure requests and all records are asked, the requests are marked;
    not where there is nothing to ask of one kind, since then nothing was measured.

    Args:
        hospital: The hospital.
        run_id: A run in its inbox, which is checked again first.
        device: Where to compute.
        most: Most records of each set, drawn by the plan's seed; 0 asks all.
        progress: Told as records are done.

    Raises:
        Misconfigured: INBOX_UNKNOWN, SITE_CONFIG_ codes, or a code of model, adapter, records or
            erasure registry.
        Rejected: As :func:`check_publication`; DATA_CHANGED.
        Transient: WRITE_FAILED.
    """
    checked = checked_for_requests(hospital, run_id)
    claim = run_claim(hospital, run_id)
    plan, config = checked.plan, settings_of_run(hospital, run_id, claim)
    concepts = own_concepts(plan, config.public_files)
    records = own_records(config, plan, concepts)
    base, model = open_adapter(
        checked.folder / ADAPTER_FOLDER, model=config.model_folder,
        device=resolve_device(device), dtype=plan.model.dtype,
    )
    before = AdapterOffModel(model=model, tokenizer=base.tokenizer)
    after = WholeModel(model=model, tokenizer=base.tokenizer)
    if claim is not None and not most and records.forget and records.retain:
        with torch.inference_mode():
            report = evaluate_for_requests(
                claim, hospital, checked, records, concepts, (before, after), progress
            )
        sets = {"forget": _of_report(report.forget), "retain": _of_report(report.retain)}
    else:
        sets = {
            name: _figures(
                before, after, _some(held, most, seed=plan.run.seed, name=name), name=name,
                seed=plan.run.seed, progress=progress,
            ) for name, held in (("forget", records.forget), ("retain", records.retain))
        }
    found = OwnFigures(
        run_id=run_id, attestation_digest=checked.attestation_digest, forget=sets["forget"],
        retain=sets["retain"],
    )
    text = json.dumps(asdict(found), indent=2) + "\n"
    write_atomically(hospital.places.decisions(run_id) / MEASURED_FILE, text.encode("ascii"))
    return found


def _of_report(found: ThreeWay) -> SetFigures:
    return SetFigures(
        n=found.n, accuracy_before=found.accuracy_before, accuracy_after=found.accuracy_after,
        exact_before=found.exact_before, exact_after=found.exact_after,
        preservation=ratio(found.answered_after, found.answered_before),
    )


def _some(records: Sequence[Record], most: int, *, seed: int, name: str) -> Sequence[Record]:
    if not 0 < most < len(records):
        return records
    order = public_generator(seed, "adoption", name).permutation(len(records))
    return [records[int(place)] for place in sorted(order[:most])]


def _figures(
    before: ScoredModel, after: ScoredModel, records: Sequence[Record], *, name: str, seed: int,
    progress: Progress,
) -> SetFigures:
    def told(done: int) -> None:
        progress(name, done)

    def table(scored: ScoredModel) -> AccuracyTable:
        if not records:
            return AccuracyTable(outcomes=())
        with torch.inference_mode():
            return accuracy_table(score_records(scored, records, seed=seed, on_progress=told))

    one, other = table(before), table(after)
    return SetFigures(
        n=len(records), accuracy_before=one.accuracy, accuracy_after=other.accuracy,
        exact_before=one.exact, exact_after=other.exact, preservation=kept_share(other, one),
    )

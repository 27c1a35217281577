"""From a finished run and its measurements to the sections of ``result.json``."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from typing import Any

from medunlearn_common import __version__
from medunlearn_common.counting import CELLS
from medunlearn_common.digests import digest_of_files
from medunlearn_common.layout import AdapterLayout
from medunlearn_common.plan import Plan, plan_template
from medunlearn_server.gates import canary_figures, preservation_bound
from medunlearn_server.publishing.statement import releases_of
from medunlearn_server.reports import RunOutcome
from medunlearn_simulation.measuring import Measured
from medunlearn_simulation.preparing import PreparedRecords

FLOAT_BYTES = 4
_LIBRARIES = ("torch", "transformers", "peft", "opacus", "flwr", "numpy")


def run_sections(
    plan: Plan, outcome: RunOutcome, measured: Measured, records: PreparedRecords, *,
    runner: str, seconds: Mapping[str, float], total_s: float,
) -> dict[str, Any]:
    """Everything of the result that is not the evaluation's."""
    return {
        "seed": plan.run.seed,
        "run": _run(plan, outcome, records, runner),
        "model": _model(plan, outcome),
        "privacy": _privacy(plan, outcome),
        "gates": [verdict.to_json() for verdict in outcome.gates],
        "federated_evaluation": _federated_evaluation(plan, outcome),
        "communication": _communication(outcome),
        "seconds": {"total": total_s, "by_phase": dict(seconds)},
        "rounds": _rounds(outcome, measured.curves),
        "sites": _sites(outcome, records),
        "digests": {
            "model": outcome.model_digest,
            "plan": outcome.plan_digest,
            "adapter": outcome.adapter_digest,
            "support": outcome.support_digest,
            "tokenizer": measured.base.tokenizer_digest,
            "data": digest_of_files(Path(name) for name in plan.data.files),
        },
        "plan": public_plan_text(plan),
        "versions": _versions(),
    }


def public_plan_text(plan: Plan) -> str:
    """The plan without record ids, patient ids and folders, which a result must not carry."""
    data = plan.data.model_copy(update={
        "files": tuple(Path(f).name for f in plan.data.files),
        "fhir_templates": Path(plan.data.fhir_templates).name,
    })
    forget = plan.forget.model_copy(update={"records": (), "patients": ()})
    paraphrases = plan.paraphrases.model_copy(update={
        "wordings": Path(plan.paraphrases.wordings).name,
        "model": Path(plan.paraphrases.model).name,
    })
    return plan_template(plan.model_copy(
        update={"data": data, "forget": forget, "paraphrases": paraphrases}
    ))


def task_name(plan: Plan, records: PreparedRecords) -> str:
    """What was forgotten, in a few words and without an id."""
    asked = [*plan.forget.subjects, *plan.forget.concepts]
    patients = {r.patient_id for r in records.federation.forget if r.patient_id is not None}
    if plan.forget.patients or plan.forget.patient_fraction:
        asked.append(counted(len(patients), "patient"))
    if plan.forget.records:
        asked.append(counted(len(plan.forget.records), "named record"))
    return ", ".join(asked)


def counted(number: int, noun: str) -> str:
    """1 patient, 2 patients."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _run(
    plan: Plan, outcome: RunOutcome, records: PreparedRecords, runner: str
) -> dict[str, Any]:
    return {
        "name": plan.run.name,
        "task": task_name(plan, records),
        "runner": runner,
        "objective": plan.objective.name,
        "projection": plan.geometry.projection,
        "support": plan.support.method,
        "n_sites": plan.federation.sites,
        "rounds": outcome.rounds,
        "rounds_planned": plan.run.rounds,
        "stopped_because": outcome.reason,
    }


def dense_adapter_size(layout: AdapterLayout) -> int:
    """Numbers in a plain LoRA adapter, A and B: what dense FedAvg trains and sends."""
    return layout.dimension + sum(prod(shape) for shape in layout.a_shapes)


def _model(plan: Plan, outcome: RunOutcome) -> dict[str, Any]:
    layout = outcome.adapter_layout
    source = plan.model.source
    return {
        "name": Path(source).name if Path(source).is_dir() else source,
        "parameters": layout.base_parameters,
        "adapter_parameters": dense_adapter_size(layout),
        "changed_parameters": outcome.support_size,
        "changed_fraction": outcome.support_size / layout.base_parameters,
        "dtype": plan.model.dtype,
    }


def _privacy(plan: Plan, outcome: RunOutcome) -> dict[str, Any]:
    privacy = plan.privacy
    noised = privacy.noise != "none"
    return {
        "noise": privacy.noise,
        "unit": privacy.unit,
        "epsilon": outcome.epsilon if noised else None,
        "epsilon_budget": privacy.epsilon if noised else None,
        "delta": privacy.delta if noised else None,
        "sigma": outcome.sigma if noised else None,
        "clip": privacy.clip_l2,
        "accountant": "prv" if noised else "none",
        "releases": releases_of(plan, outcome),
        "forget_rate": privacy.forget_rate,
        "retain_rate": privacy.retain_rate,
    }


def _federated_evaluation(plan: Plan, outcome: RunOutcome) -> dict[str, Any]:
    found = outcome.evaluation
    kept, lost, gained, _ = found.retain or (0.0, 0.0, 0.0, 0.0)
    canaries = canary_figures(found) if found.canary_before else None
    return {
        "unit": plan.privacy.unit,
        "rate": found.rate,
        "noise": found.noise,
        "n_sites": len(found.sites),
        "forget": _cells(found.forget),
        "retain": _cells(found.retain),
        "preservation": max(0.0, kept + gained) / (kept + lost) if kept + lost > 0.0 else None,
        "preservation_at_least": (
            preservation_bound(found, plan.gates.confidence) if found.retain else None
        ),
        "canary_known": canaries[0] if canaries else None,
        "canary_lost": canaries[1] if canaries else None,
    }


def _cells(counts: Sequence[float]) -> dict[str, float] | None:
    return dict(zip(CELLS, counts, strict=True)) if counts else None


def _communication(outcome: RunOutcome) -> dict[str, Any]:
    up = [size for report in outcome.curve for size in report.bytes_up.values()]
    down = [size for report in outcome.curve for size in report.bytes_down.values()]
    phases = {
        "vote": sum(outcome.vote.bytes_up.values()) + sum(outcome.vote.bytes_down.values()),
        "rounds up": sum(up),
        "rounds down": sum(down),
        "evaluation": sum(outcome.evaluation.bytes_up.values())
        + sum(outcome.evaluation.bytes_down.values()),
    }
    return {
        "bytes_per_site_per_round": sum(up) / len(up) if up else 0.0,
        "bytes_down_per_site_per_round": sum(down) / len(down) if down else None,
        "dense_lora_bytes": FLOAT_BYTES * dense_adapter_size(outcome.adapter_layout),
        "total_bytes": sum(phases.values()),
        "bytes_by_phase": phases,
    }


def _rounds(outcome: RunOutcome, curves: Mapping[int, dict[str, Any]]) -> list[dict[str, Any]]:
    start: dict[str, Any] = {"round": 0, "n_sites": 0, "seconds": 0.0, "bytes_up": 0}
    rows = [start | curves.get(0, {})]
    for report in outcome.curve:
        done = report.round_index + 1
        row: dict[str, Any] = {
            "round": done,
            "epsilon": report.epsilon,
            "n_sites": len(report.sites),
            "seconds": report.seconds,
            "bytes_up": sum(report.bytes_up.values()),
        }
        rows.append(row | curves.get(done, {}))
    return rows


def _sites(outcome: RunOutcome, records: PreparedRecords) -> list[dict[str, Any]]:
    return [
        {
            "site": index,
            "n_forget": len(site.forget),
            "n_retain": len(site.retain),
            "rounds_joined": sum(f"site-{index}" in r.sites for r in outcome.curve),
        }
        for index, site in enumerate(records.federation.sites)
    ]


def _versions() -> dict[str, str]:
    found = {"medunlearn": __version__, "python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found

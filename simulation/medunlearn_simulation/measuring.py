"""After a run: curves from the snapshots, then the whole evaluation of the final adapter."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medunlearn_client.adapters import LoraAdapter
from medunlearn_client.evaluation import (
    AdapterOffModel,
    CurveMeter,
    EvaluationInputs,
    EvaluationReport,
    EvaluationSettings,
    ExtractionSettings,
    RelearningSettings,
    WholeModel,
    evaluate_models,
)
from medunlearn_client.evaluation.relearning import relearning_groups
from medunlearn_client.models import LoadedModel, load_causal_lm, resolve_device
from medunlearn_client.paraphrases import Paraphraser
from medunlearn_client.records import Record
from medunlearn_client.site_data import unnamed_sample
from medunlearn_client.workbench import shared_model
from medunlearn_common.digests import digest_of
from medunlearn_common.entropy import public_generator
from medunlearn_common.errors import Misconfigured
from medunlearn_common.plan import Plan, RuntimeOptions
from medunlearn_common.support import Support
from medunlearn_server.checkpoints import RunStore
from medunlearn_simulation.preparing import PreparedRecords
from medunlearn_simulation.progress import PhaseBoard
from medunlearn_simulation.run_folder import RunFacts, RunFolder, write_json
from medunlearn_simulation.snapshots import learned, read_snapshot

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, repr=False)
class Measured:
    """What was found.

    Attributes:
        report: The final evaluation.
        curves: Curve points by number of rounds done.
        base: The base model, for its digests and size.
        adapter: The adapter as the run left it.
    """

    report: EvaluationReport
    curves: dict[int, dict[str, Any]]
    base: LoadedModel
    adapter: LoraAdapter


def measure_run(
    plan: Plan, facts: RunFacts, folder: RunFolder, store: RunStore,
    records: PreparedRecords, *, runtime: RuntimeOptions, board: PhaseBoard,
    requests: Mapping[str, frozenset[int]] | None = None,
) -> Measured:
    """Measures a finished run; curve points already measured are not measured again.

    ``requests`` gives places among all forget records, as :class:`EvaluationInputs` takes them.

    Raises:
        Misconfigured: RUN_UNFINISHED, LAYOUT_MISMATCH, or a code of the evaluation.
    """
    found = learned(store)
    if found is None:
        raise Misconfigured(
            "RUN_UNFINISHED", f"{folder.root} holds no finished run", "resume it first"
        )
    progress, learning = found
    final = learning.step.published.astype(np.float32)
    base, adapter = shared_model(facts.model, plan.model, plan.run.seed, runtime.device)
    if adapter.layout.digest != learning.support.layout_digest:
        raise Misconfigured(
            "LAYOUT_MISMATCH", "the run's support belongs to another adapter layout",
            "the base model or the LoRA settings changed since the run: start a new one",
        )
    inputs = replace(
        evaluation_inputs(records, plan, device=runtime.device), requests=requests or {}
    )
    done = len(progress.curve)
    values = {0: np.zeros_like(final), done: final}
    for point in range(plan.evaluation.curve_every, done, plan.evaluation.curve_every):
        kept = read_snapshot(
            folder.snapshots, point, size=learning.support.size
        )
        if kept is not None:
            values[point] = kept
    curves = measure_curves(
        plan, inputs, base, adapter, learning.support, values,
        memory=folder.root / "curves.json", board=board,
    )
    adapter.set_on_support(learning.support, final)
    report = _final_evaluation(plan, facts, inputs, base, adapter, runtime, board)
    return Measured(report=report, curves=curves, base=base, adapter=adapter)


def evaluation_inputs(
    records: PreparedRecords, plan: Plan, *, device: str = "auto"
) -> EvaluationInputs:
    """The record sets of the evaluation: all that was forgotten, samples of what was kept.

    Samples are drawn by the run's seed, so that compared runs are asked the same questions. Of
    many patients nearly all others share a disease with one, and are neighbours.
    """
    retain = _sample(records.federation.retain, plan, "retain")
    return EvaluationInputs(
        forget=records.federation.forget, retain=retain,
        non_members=records.nonmembers,
        neighbours=_sample(records.neighbours, plan, "neighbours"),
        paraphrased=_other_wordings(plan, records, device),
        forget_unnamed=_unnamed(records.federation.forget, plan),
        retain_unnamed=_unnamed(retain, plan),
        site_of=records.site_of, tagger=records.tagger,
    )


def _sample(records: tuple[Record, ...], plan: Plan, name: str) -> tuple[Record, ...]:
    most = plan.evaluation.retain_records
    if len(records) <= most:
        return records
    order = public_generator(plan.run.seed, "evaluation", name).permutation(len(records))
    return tuple(records[int(place)] for place in sorted(order[:most]))


def _unnamed(records: Sequence[Record], plan: Plan) -> tuple[Record, ...]:
    return unnamed_sample(records, seed=plan.run.seed) if plan.data.show_subject else ()


def _other_wordings(plan: Plan, records: PreparedRecords, device: str) -> tuple[Record, ...]:
    """The forget records in the words in which the hospitals forgot them too."""
    paraphraser = Paraphraser.of_plan(
        plan.paraphrases, records.tagger, device=resolve_device(device)
    )
    if paraphraser is None:
        return ()
    return tuple(
        other for record in records.federation.forget for other in paraphraser.of(record).records
    )


def evaluation_settings(plan: Plan, inputs: EvaluationInputs) -> EvaluationSettings:
    """What the plan's [evaluation] asks for."""
    chosen = plan.evaluation
    relearning = (
        RelearningSettings(
            steps=chosen.relearning_steps, learning_rate=chosen.relearning_rate,
            seed=plan.run.seed,
        )
        if chosen.relearning_steps and len(relearning_groups(inputs.forget)) > 1
        else None
    )
    asks = chosen.samples > 0 and any(record.is_identifier for record in inputs.forget)
    return EvaluationSettings(
        seed=plan.run.seed, relearning=relearning,
        extraction=(
            ExtractionSettings(n_samples=chosen.samples, seed=plan.run.seed) if asks else None
        ),
    )


def measure_curves(
    plan: Plan, inputs: EvaluationInputs, base: LoadedModel, adapter: LoraAdapter,
    support: Support, values: dict[int, Floats], *, memory: Path, board: PhaseBoard,
) -> dict[int, dict[str, Any]]:
    """One point per entry of ``values``; points are kept in ``memory`` as they come."""
    meter = CurveMeter(
        inputs, settings=evaluation_settings(plan, inputs),
        max_records=plan.evaluation.curve_records,
    )
    scored = WholeModel(model=adapter.model, tokenizer=base.tokenizer)
    known = _remembered(memory)
    points: dict[int, dict[str, Any]] = {}
    with board.phase("measuring curves", len(values)) as bar:
        for done, numbers in sorted(values.items()):
            key = digest_of([done, numbers.tobytes().hex(), support.digest])
            if key not in known:
                adapter.set_on_support(support, numbers)
                known[key] = asdict(meter.measure(scored))
                write_json(memory, known)
            points[done] = known[key]
            bar.advance(1, f"after round {done}")
    return points


def _remembered(memory: Path) -> dict[str, dict[str, Any]]:
    # A damaged file costs only the time to measure again.
    with suppress(OSError, ValueError):
        kept = json.loads(memory.read_text(encoding="utf-8"))
        if isinstance(kept, dict):
            return kept
    return {}


def _final_evaluation(
    plan: Plan, facts: RunFacts, inputs: EvaluationInputs, base: LoadedModel,
    adapter: LoraAdapter, runtime: RuntimeOptions, board: PhaseBoard,
) -> EvaluationReport:
    retrained = None
    if facts.retrained is not None and plan.evaluation.retrained:
        gold = load_causal_lm(
            facts.retrained, dtype=plan.model.dtype, device=resolve_device(runtime.device)
        )
        retrained = WholeModel(model=gold.model, tokenizer=gold.tokenizer)
    with board.phase("evaluating") as bar:
        return evaluate_models(
            original=AdapterOffModel(model=adapter.model, tokenizer=base.tokenizer),
            unlearned=WholeModel(model=adapter.model, tokenizer=base.tokenizer),
            retrained=retrained, inputs=inputs, settings=evaluation_settings(plan, inputs),
            on_progress=stage_reporter(bar.advance),
        )


def stage_reporter(advance: Callable[[float, str | None], None]) -> Callable[[str, int], None]:
    """Adapts a bar to the evaluation's progress calls."""
    return lambda stage, amount: advance(amount, stage)

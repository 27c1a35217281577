"""Measures one unlearning: original, unlearned and retrained model side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medunlearn_client.evaluation.accuracy import AccuracyTable, accuracy_table
from medunlearn_client.evaluation.calibration import calibration
from medunlearn_client.evaluation.extraction import (
    ExtractionReport,
    RecordLeaks,
    extract,
)
from medunlearn_client.evaluation.membership import (
    MembershipReport,
    gather_evidence,
    membership_report,
    reference_scores,
    run_attacks,
)
from medunlearn_client.evaluation.preservation import (
    RecordLevels,
    kept_share,
    preservation_by_level,
    question_levels,
    ratio,
    record_levels,
)
from medunlearn_client.evaluation.record_scores import RecordScores, score_records
from medunlearn_client.evaluation.relearning import (
    RelearningReport,
    measure_relearning,
)
from medunlearn_client.evaluation.report import (
    CalibrationReport,
    EvaluationInputs,
    EvaluationReport,
    EvaluationSettings,
    ForgetReport,
    KeepReport,
    RequestReport,
    StageProgress,
    ThreeWay,
)
from medunlearn_client.evaluation.roc import RocSummary
from medunlearn_client.evaluation.scored_model import ScoredModel
from medunlearn_client.records import Record
from medunlearn_common.errors import Misconfigured

_Names = Sequence[str | None]
_GroupNames = Mapping[str, _Names]


@dataclass(frozen=True, kw_only=True, repr=False)
class _Answers:
    """One model's scores and outcomes on one record set."""

    scores: tuple[RecordScores, ...]
    table: AccuracyTable


@dataclass(frozen=True, kw_only=True, repr=False)
class _Run:
    """Inputs and settings."""

    inputs: EvaluationInputs
    settings: EvaluationSettings
    on_progress: StageProgress | None

    def answers(self, scored: ScoredModel, records: Sequence[Record], stage: str) -> _Answers:
        scores = score_records(
            scored,
            records,
            seed=self.settings.seed,
            limits=self.settings.limits,
            on_progress=self.stage(stage),
        )
        return _Answers(scores=scores, table=accuracy_table(scores))

    def stage(self, name: str) -> Callable[[int], None] | None:
        report = self.on_progress
        return None if report is None else lambda done: report(name, done)


def evaluate_models(
    *,
    original: ScoredModel,
    unlearned: ScoredModel,
    retrained: ScoredModel | None,
    inputs: EvaluationInputs,
    settings: EvaluationSettings | None = None,
    reference: ScoredModel | None = None,
    on_progress: StageProgress | None = None,
) -> EvaluationReport:
    """Measures everything; models are put back as they were.

    Args:
        original: The model before unlearning (`AdapterOffModel` of the unlearned one will do).
        unlearned: The model after it.
        retrained: The model trained without the forget set, if there is one.
        inputs: Record sets.
        settings: What to measure.
        reference: A model that saw neither members nor non-members, for the
            reference-calibrated attack; without it that attack uses the retrained model, whose
            own AUC under it is then 0.5 by construction.
        on_progress: Called with a stage name and the number of items finished in it.
    """
    settings = settings or EvaluationSettings()
    run = _Run(inputs=inputs, settings=settings, on_progress=on_progress)
    levels = [
        record_levels(records, inputs.tagger)
        for records in (inputs.forget, inputs.retain, inputs.neighbours)
    ]
    groups = [
        _group_names(inputs, records, found)
        for records, found in zip(
            (inputs.forget, inputs.retain, inputs.neighbours), levels, strict=True)
    ]
    models = (original, unlearned, retrained)
    forget = [run.answers(m, inputs.forget, "forget set") if m else None for m in models]
    retain = [run.answers(m, inputs.retain, "retain set") if m else None for m in models]
    near = [
        run.answers(m, inputs.neighbours, "neighbours") if m and inputs.neighbours else None
        for m in models
    ]
    reworded = [
        run.answers(m, inputs.paraphrased, "paraphrases") if m and inputs.paraphrased else None
        for m in models
    ]
    unnamed = [
        [run.answers(m, records, "without the subject") if m and records else None for m in models]
        for records in (inputs.forget_unnamed, inputs.retain_unnamed)
    ]
    before, after = _present(retain[0]), _present(retain[1])
    extraction, leaks = _extraction(run, original, unlearned, retrained)
    return EvaluationReport(
        forget=_forget_report(groups[0], forget, reworded, unnamed[0]),
        retain=_keep_report(groups[1], retain, unnamed[1]),
        neighbours=_keep_report(groups[2], near, ()) if inputs.neighbours else None,
        preservation_by_level=preservation_by_level(
            (before.table, before.scores), (after.table, after.scores), levels[1]
        ),
        membership=_membership(run, original, unlearned, retrained, reference),
        relearning=_relearning(run, unlearned, retrained),
        extraction=extraction,
        calibration=_calibration(before, after),
        seed=settings.seed,
        requests=_by_request(inputs.requests, forget, leaks),
    )


def _present(answers: _Answers | None) -> _Answers:
    if answers is None:  # original and unlearned are always given
        raise Misconfigured("EVALUATION_MODEL_MISSING", "a model is missing", "pass both models")
    return answers


def _three_way(tables: Sequence[AccuracyTable | None]) -> ThreeWay:
    before, after, retrained = (table or AccuracyTable(outcomes=()) for table in tables)
    return ThreeWay(
        n=len(before.outcomes),
        n_ranked=before.n_ranked,
        chance=before.chance,
        accuracy_before=before.accuracy,
        accuracy_after=after.accuracy,
        accuracy_retrained=retrained.accuracy,
        exact_before=before.exact,
        exact_after=after.exact,
        exact_retrained=retrained.exact,
        answered_before=before.answered,
        answered_after=after.answered,
        answered_retrained=retrained.answered,
    )


def _three_way_or_none(answers: Sequence[_Answers | None]) -> ThreeWay | None:
    return _three_way(_tables(answers)) if any(answers) else None


def _tables(answers: Sequence[_Answers | None]) -> list[AccuracyTable | None]:
    return [one.table if one is not None else None for one in answers]


def _grouped(
    answers: Sequence[_Answers | None], names: _Names
) -> dict[str, ThreeWay]:
    split = [one.table.grouped(names) if one is not None else {} for one in answers]
    return {name: _three_way([groups.get(name) for groups in split]) for name in split[0]}


def _group_names(
    inputs: EvaluationInputs, records: Sequence[Record], levels: Sequence[RecordLevels]
) -> dict[str, _Names]:
    """Of each of the report's splits, the group of each record."""
    return {
        "by_site": inputs.site_names(records),
        "by_subject": [record.subject for record in records],
        "by_level": question_levels(levels),
    }


def _groups(groups: _GroupNames, answers: Sequence[_Answers | None]) -> dict[str, Any]:
    return {split: _grouped(answers, names) for split, names in groups.items()}


def _distance(a: float | None, b: float | None) -> float | None:
    return abs(a - b) if a is not None and b is not None else None


def _forget_report(
    groups: _GroupNames, answers: Sequence[_Answers | None], reworded: Sequence[_Answers | None],
    unnamed: Sequence[_Answers | None],
) -> ForgetReport:
    whole = _three_way(_tables(answers))
    kept = ratio(whole.accuracy_after, whole.accuracy_before)
    return ForgetReport(
        **vars(whole),
        gap=_distance(whole.accuracy_after, whole.accuracy_retrained),
        exact_gap=_distance(whole.exact_after, whole.exact_retrained),
        forgetting_rate=1.0 - whole.accuracy_after if whole.accuracy_after is not None else None,
        relative_forgetting=1.0 - kept if kept is not None else None,
        paraphrased=_three_way_or_none(reworded),
        unnamed=_three_way_or_none(unnamed),
        **_groups(groups, answers),
    )


def _by_request(
    requests: Mapping[str, frozenset[int]], answers: Sequence[_Answers | None],
    leaks: tuple[Sequence[RecordLeaks], Sequence[RecordLeaks]] | None,
) -> dict[str, RequestReport]:
    """Each request by its own records, from the scores and completions there are already."""
    before, after = leaks or (None, None)
    found: dict[str, RequestReport] = {}
    for name, places in requests.items():
        tables = [one.table.at(places) if one is not None else None for one in answers]
        found[name] = RequestReport(
            answers=_three_way(tables),
            identifiers_asked=(
                None if after is None else sum(leak.place in places for leak in after)
            ),
            identifiers_leaked=_leaked(after, places),
            identifiers_leaked_before=_leaked(before, places),
        )
    return found


def _leaked(leaks: Sequence[RecordLeaks] | None, places: frozenset[int]) -> int | None:
    if leaks is None:
        return None
    return sum(leak.leaks or leak.strays > 0 for leak in leaks if leak.place in places)


def _keep_report(
    groups: _GroupNames, answers: Sequence[_Answers | None], unnamed: Sequence[_Answers | None]
) -> KeepReport:
    before, after = _present(answers[0]).table, _present(answers[1]).table
    return KeepReport(
        **vars(_three_way(_tables(answers))),
        preservation=kept_share(after, before),
        exact_preservation=ratio(after.exact, before.exact),
        unnamed=_three_way_or_none(unnamed),
        **_groups(groups, answers),
    )


def _membership(
    run: _Run,
    original: ScoredModel,
    unlearned: ScoredModel,
    retrained: ScoredModel | None,
    reference: ScoredModel | None,
) -> MembershipReport | None:
    inside, outside = run.inputs.forget, run.inputs.non_members
    if not outside:
        return None
    limits = run.settings.limits
    calibrator = reference or retrained
    known = reference_scores(calibrator, [*inside, *outside], limits=limits) if calibrator else None

    def attacked(scored: ScoredModel) -> dict[str, RocSummary]:
        evidence = gather_evidence(
            scored,
            [*inside, *outside],
            reference=known,
            paraphrase=run.settings.paraphrase,
            limits=limits,
            on_progress=run.stage("membership"),
        )
        return run_attacks(
            evidence[: len(inside)],
            evidence[len(inside) :],
            n_bootstrap=run.settings.n_bootstrap,
            seed=run.settings.seed,
        )

    return membership_report(
        attacked(original),
        attacked(unlearned),
        attacked(retrained) if retrained is not None else None,
        n_members=len(inside),
        n_non_members=len(outside),
    )


def _relearning(
    run: _Run, unlearned: ScoredModel, retrained: ScoredModel | None
) -> RelearningReport | None:
    if run.settings.relearning is None:
        return None
    return measure_relearning(
        unlearned,
        retrained,
        forget=run.inputs.forget,
        retain=run.inputs.retain,
        settings=run.settings.relearning,
        limits=run.settings.limits,
        on_progress=run.stage("relearning"),
    )


def _extraction(
    run: _Run, original: ScoredModel, unlearned: ScoredModel, retrained: ScoredModel | None
) -> tuple[
    ExtractionReport | None, tuple[tuple[RecordLeaks, ...], tuple[RecordLeaks, ...]] | None
]:
    """Leaks of the models, and by record those of the original and of the unlearned one."""
    if run.settings.extraction is None:
        return None, None
    found = [
        extract(
            scored,
            run.inputs.forget,
            settings=run.settings.extraction,
            on_progress=run.stage("extraction"),
        )
        if scored is not None
        else None
        for scored in (original, unlearned, retrained)
    ]
    before, after, gold = found
    if before is None or after is None:
        return None, None
    report = ExtractionReport(
        before=before.counts, after=after.counts,
        retrained=gold.counts if gold is not None else None,
    )
    return report, (before.by_record, after.by_record)


def _calibration(before: _Answers, after: _Answers) -> CalibrationReport | None:
    old, new = calibration(before.scores), calibration(after.scores)
    return CalibrationReport(before=old, after=new) if old is not None and new is not None else None

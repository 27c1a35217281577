"""The whole evaluation, checked against its parts."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import pytest

from medunlearn_client.evaluation import (
    CurveMeter,
    EvaluationInputs,
    EvaluationReport,
    EvaluationSettings,
    ExtractionSettings,
    RelearningSettings,
    WholeModel,
    evaluate_models,
)
from medunlearn_client.evaluation.accuracy import accuracy_table
from medunlearn_client.evaluation.record_scores import score_records
from medunlearn_client.paraphrases import Paraphraser, load_wordings
from medunlearn_client.records.subject_line import with_subject, without_subject
from medunlearn_client.tagging import ConceptTagger
from medunlearn_common.concepts import load_hierarchies
from medunlearn_common.errors import Misconfigured

SETTINGS = EvaluationSettings(
    n_bootstrap=50,
    relearning=RelearningSettings(steps=3, learning_rate=1e-3, share=0.2),
    extraction=ExtractionSettings(n_samples=3),
)


@pytest.fixture(scope="module")
def inputs(corpus: Any) -> EvaluationInputs:
    forget = corpus.forget + corpus.identifiers
    return EvaluationInputs(
        forget=forget,
        retain=corpus.retain[:18],
        neighbours=corpus.retain[18:],
        non_members=corpus.non_members,
        site_of={r.record_id: i % 3 for i, r in enumerate(forget + corpus.retain[:16])},
    )


@pytest.fixture(scope="module")
def report(
    planted_model: WholeModel, retrained_model: WholeModel, inputs: EvaluationInputs
) -> EvaluationReport:
    """The retrained model stands for a perfect unlearning of the planted one."""
    return evaluate_models(
        original=planted_model,
        unlearned=retrained_model,
        retrained=retrained_model,
        inputs=inputs,
        settings=SETTINGS,
    )


def test_perfect_unlearning_looks_perfect(report: EvaluationReport) -> None:
    assert report.forget.gap == 0.0 == report.forget.exact_gap
    assert report.forget.exact_before is not None
    assert report.forget.exact_before >= 0.9
    assert report.forget.exact_after is not None
    assert report.forget.exact_after < 0.5
    assert report.retain.preservation is not None
    assert report.retain.preservation >= 0.95
    assert report.neighbours is not None
    assert report.neighbours.n == 6
    assert report.membership is not None
    assert report.membership.worst_gap == 0.0
    assert report.extraction is not None
    assert report.extraction.before.greedy_leaks == 4
    assert report.extraction.after.greedy_leaks == 0 == report.extraction.after.sampled_leaks
    assert report.relearning is not None
    assert report.relearning.exact_after == report.relearning.exact_retrained


def test_figures_equal_their_parts(
    report: EvaluationReport, planted_model: WholeModel, inputs: EvaluationInputs
) -> None:
    table = accuracy_table(score_records(planted_model, inputs.forget, seed=0))
    assert report.forget.accuracy_before == table.accuracy
    assert report.forget.exact_before == table.exact
    assert report.forget.chance == pytest.approx(0.25)
    assert report.forget.forgetting_rate == 1.0 - (report.forget.accuracy_after or 0.0)
    rows = report.forget.by_site
    assert set(rows) == {"0", "1", "2"}
    assert sum(row.n for row in rows.values()) == report.forget.n == len(inputs.forget)
    weighted = sum(row.n * (row.exact_before or 0.0) for row in rows.values())
    assert weighted / report.forget.n == pytest.approx(report.forget.exact_before)
    assert sum(row.n for row in report.retain.by_site.values()) == 16, "two records have no site"
    assert sum(level.questions for level in report.preservation_by_level) == report.retain.n


def test_nothing_unlearned_shows(
    planted_model: WholeModel, retrained_model: WholeModel, inputs: EvaluationInputs
) -> None:
    idle = evaluate_models(
        original=planted_model,
        unlearned=planted_model,
        retrained=retrained_model,
        inputs=inputs,
        settings=EvaluationSettings(n_bootstrap=10, relearning=None, extraction=None),
    )
    assert idle.forget.relative_forgetting == 0.0
    assert idle.forget.gap is not None
    assert idle.forget.gap > 0.2
    assert idle.retain.preservation == 1.0
    assert idle.membership is not None
    assert (idle.membership.gap or 0.0) > 0.2
    assert idle.relearning is None
    assert idle.extraction is None


def test_the_forget_set_in_other_words_stands_beside_it(
    planted_model: WholeModel, random_model: WholeModel, corpus: Any, report: EvaluationReport
) -> None:
    assert report.forget.paraphrased is None
    maker = Paraphraser(load_wordings(), ConceptTagger(
        load_hierarchies(["builtin"]).with_forget_roots([])
    ), max_per_record=2)
    others = [other for record in corpus.forget for other in maker.of(record).records]
    found = evaluate_models(
        original=planted_model, unlearned=random_model, retrained=None,
        inputs=EvaluationInputs(
            forget=corpus.forget, retain=corpus.retain, paraphrased=others
        ),
        settings=EvaluationSettings(relearning=None, extraction=None),
    ).forget.paraphrased
    assert found is not None
    assert found.n == len(others) == 2 * len(corpus.forget)
    table = accuracy_table(score_records(planted_model, others, seed=0))
    assert (found.accuracy_before, found.exact_before) == (table.accuracy, table.exact)
    assert found.exact_after == 0.0 and found.accuracy_retrained is None


def test_who_leaves_the_subject_out_is_measured_too(
    planted_model: WholeModel, random_model: WholeModel, corpus: Any, report: EvaluationReport
) -> None:
    assert report.forget.unnamed is None and report.retain.unnamed is None
    named = [replace(record, subject="Surgery") for record in corpus.forget]
    shown = [with_subject(record) for record in named]
    assert [without_subject(record) for record in shown] == named
    assert [without_subject(record) for record in named] == named
    found = evaluate_models(
        original=planted_model, unlearned=random_model, retrained=None,
        inputs=EvaluationInputs(
            forget=shown, retain=corpus.retain, forget_unnamed=named[:3],
            retain_unnamed=corpus.retain[:2],
        ),
        settings=EvaluationSettings(relearning=None, extraction=None),
    )
    assert found.forget.unnamed is not None and found.retain.unnamed is not None
    assert (found.forget.unnamed.n, found.retain.unnamed.n) == (3, 2)
    table = accuracy_table(score_records(planted_model, named[:3], seed=0))
    assert found.forget.unnamed.accuracy_before == table.accuracy
    assert found.forget.unnamed.exact_after == 0.0


def test_report_holds_no_text_and_no_ids(
    report: EvaluationReport, inputs: EvaluationInputs
) -> None:
    written = json.dumps(asdict(report), allow_nan=False)
    for record in [*inputs.forget, *inputs.retain, *inputs.non_members]:
        assert record.record_id not in written
        assert record.prompt[10:40] not in written
    for record in inputs.forget:
        if record.is_identifier:
            assert record.answer not in written


def test_without_retrained_and_non_members(
    planted_model: WholeModel, random_model: WholeModel, corpus: Any
) -> None:
    found = evaluate_models(
        original=planted_model,
        unlearned=random_model,
        retrained=None,
        inputs=EvaluationInputs(forget=corpus.forget, retain=corpus.retain),
        settings=EvaluationSettings(relearning=None),
    )
    assert found.forget.accuracy_retrained is None
    assert found.forget.gap is None
    assert found.membership is None
    assert found.neighbours is None
    assert found.extraction is None


def test_sets_must_not_overlap_or_be_empty(corpus: Any) -> None:
    with pytest.raises(Misconfigured) as caught:
        EvaluationInputs(forget=corpus.forget, retain=[*corpus.retain, corpus.forget[0]])
    assert caught.value.code == "RECORD_IN_BOTH_SETS"
    with pytest.raises(Misconfigured) as caught:
        EvaluationInputs(forget=corpus.forget, retain=corpus.retain, non_members=corpus.forget)
    assert caught.value.code == "RECORD_IN_BOTH_SETS"
    with pytest.raises(Misconfigured) as caught:
        EvaluationInputs(forget=[], retain=corpus.retain)
    assert caught.value.code == "EVALUATION_SET_EMPTY"


def test_what_is_kept_is_judged_record_by_record(
    planted_model: WholeModel, random_model: WholeModel, corpus: Any
) -> None:
    """Of one record by its options, of the others, which have none, by what is said."""
    bare = [replace(record, options=(), answer_index=None) for record in corpus.retain[1:]]
    mixed = [corpus.retain[0], *bare]
    found = evaluate_models(
        original=planted_model, unlearned=random_model, retrained=None,
        inputs=EvaluationInputs(forget=corpus.forget, retain=mixed),
        settings=EvaluationSettings(relearning=None, extraction=None),
    ).retain
    old, new = (
        [outcome.exact if outcome.ranked is None else outcome.ranked
         for outcome in accuracy_table(score_records(model, mixed, seed=0)).outcomes]
        for model in (planted_model, random_model)
    )
    assert found.answered_before == pytest.approx(sum(old) / len(mixed))
    assert found.answered_after == pytest.approx(sum(new) / len(mixed))
    assert found.preservation == pytest.approx(sum(new) / sum(old))
    assert found.answered_retrained is None
    assert (found.n_ranked, found.n) == (1, len(mixed))


def test_rows_that_share_an_id_are_each_of_their_own_level_and_request(
    random_model: WholeModel, corpus: Any
) -> None:
    """As a hospital's may: a kept row took over the level of a forgotten one, and the reverse."""
    def tag_record(record: Any) -> list[Any]:
        return [SimpleNamespace(start=0, end=8, level=3)] if record in deep else []

    tagger: Any = SimpleNamespace(tag_record=tag_record)
    forget, retain = ([replace(record, record_id="1") for record in records[:3]]
                      for records in (corpus.forget, corpus.retain))
    deep = [forget[0], *retain[:2]]
    inputs = EvaluationInputs(
        forget=forget, retain=retain, tagger=tagger,
        requests={"7": frozenset({0}), "8": frozenset({1, 2})})
    found = evaluate_models(
        original=random_model, unlearned=random_model, retrained=None, inputs=inputs,
        settings=EvaluationSettings(relearning=None, extraction=None),
    )
    assert {name: row.n for name, row in found.forget.by_level.items()} == {"1": 2, "3": 1}
    assert {name: row.n for name, row in found.retain.by_level.items()} == {"1": 1, "3": 2}
    assert [level.questions for level in found.preservation_by_level] == [1, 0, 2, 0]
    assert {name: own.answers.n for name, own in found.requests.items()} == {"7": 1, "8": 2}
    levels = CurveMeter(inputs).measure(random_model).retain_by_level
    assert set(levels) == {"1", "3"}


def test_a_request_is_told_what_the_original_model_gave_away(
    planted_model: WholeModel, random_model: WholeModel, inputs: EvaluationInputs
) -> None:
    """Also apart from what was asked of it once: that an identifier came out in a sample."""
    places = frozenset(range(len(inputs.forget)))
    canaries = {place for place in places if inputs.forget[place].is_identifier}
    found = evaluate_models(
        original=planted_model, unlearned=random_model, retrained=None,
        inputs=replace(inputs, requests={"1": places, "2": places - canaries}), settings=SETTINGS,
    )
    assert found.extraction is not None
    assert found.extraction.before.prompts_leaking > 0
    own, other = found.requests["1"], found.requests["2"]
    assert own.identifiers_asked == len(canaries)
    assert own.identifiers_leaked_before == found.extraction.before.identifiers_leaking
    assert own.identifiers_leaked == found.extraction.after.identifiers_leaking
    assert (other.identifiers_asked, other.identifiers_leaked_before) == (0, 0)


def test_progress_names_the_stages(
    planted_model: WholeModel, random_model: WholeModel, inputs: EvaluationInputs
) -> None:
    seen: dict[str, int] = {}
    evaluate_models(
        original=planted_model,
        unlearned=random_model,
        retrained=None,
        inputs=inputs,
        settings=SETTINGS,
        on_progress=lambda stage, done: seen.__setitem__(stage, seen.get(stage, 0) + done),
    )
    assert set(seen) == {
        "forget set",
        "retain set",
        "neighbours",
        "membership",
        "relearning",
        "extraction",
    }
    assert all(count > 0 for count in seen.values())


def test_curve_points_use_one_fixed_sample(
    planted_model: WholeModel, random_model: WholeModel, inputs: EvaluationInputs
) -> None:
    meter = CurveMeter(inputs, max_records=8)
    first, again = meter.measure(planted_model), meter.measure(planted_model)
    assert first == again
    assert first.forget_exact is not None
    assert first.forget_exact >= 0.8
    lost = meter.measure(random_model)
    assert lost.forget_exact == 0.0
    assert lost.retain_exact == 0.0
    assert set(lost.retain_by_level) == {"1"}
    assert set(first.forget_by_site) <= {"0", "1", "2"}
    whole = CurveMeter(inputs, max_records=1000).measure(planted_model)
    table = accuracy_table(score_records(planted_model, inputs.forget, seed=0))
    assert (whole.forget_accuracy, whole.forget_exact) == (table.accuracy, table.exact)

"""Accuracy, ROC, calibration and preservation against brute force."""

from __future__ import annotations

import math
from itertools import pairwise, product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medunlearn_client.evaluation.accuracy import (
    AccuracyTable,
    RecordOutcome,
    accuracy_table,
    rank_credit,
)
from medunlearn_client.evaluation.calibration import calibration
from medunlearn_client.evaluation.preservation import (
    RecordLevels,
    kept_share,
    preservation_by_level,
    ratio,
    record_levels,
)
from medunlearn_client.evaluation.record_scores import RecordScores, score_records
from medunlearn_client.evaluation.roc import auc, roc_points, summarise_roc
from medunlearn_client.evaluation.scored_model import WholeModel
from medunlearn_client.evaluation.scoring import AnswerScore

# a grid of values, so that ties are common
scores_lists = st.lists(st.integers(-6, 6).map(float), min_size=1, max_size=25)


def fake_scores(
    record_id: str = "r",
    *,
    options: tuple[float, ...] = (),
    right: int | None = None,
    probabilities: tuple[float, ...] = (0.5,),
    offsets: tuple[tuple[int, int], ...] = ((0, 1),),
    exact: bool = False,
) -> RecordScores:
    answer = AnswerScore(
        log_probs=np.log(np.asarray(probabilities)),
        z_scores=np.zeros(len(probabilities)),
        greedy=np.full(len(probabilities), exact),
        offsets=offsets,
        n_prompt=0,
        has_eos=False,
    )
    return RecordScores(
        record_id=record_id,
        subject="s" + record_id[-1],
        patient_id=None,
        answer=answer,
        option_log_probs=options,
        answer_index=right,
    )


@pytest.mark.parametrize(
    ("options", "right", "credit"),
    [
        ((-1.0, -2.0, -3.0, -4.0), 0, 1.0),
        ((-1.0, -2.0, -3.0, -4.0), 1, 0.0),
        ((-1.0, -1.0, -3.0, -4.0), 1, 0.5),
        ((-1.0, -1.0, -3.0, -4.0), 2, 0.0),
        ((-2.0, -2.0, -2.0, -2.0), 3, 0.25),
        ((), None, None),
    ],
)
def test_ties_for_the_first_place_count_fractionally(
    options: tuple[float, ...], right: int | None, credit: float | None
) -> None:
    assert rank_credit(options, right) == credit


def test_means_groups_and_chance_come_from_the_outcomes() -> None:
    table = accuracy_table(
        [
            fake_scores("a1", options=(0.0, -1.0), right=0, exact=True),
            fake_scores("a2", options=(0.0, -1.0, -2.0, -3.0), right=1),
            fake_scores("b1", exact=True),
        ]
    )
    assert table.accuracy == pytest.approx(0.5)
    assert table.chance == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert table.exact == pytest.approx(2 / 3)
    by_letter = table.grouped(["a", "a", "b"])
    assert (by_letter["a"].accuracy, by_letter["a"].exact) == (0.5, 0.5)
    assert (by_letter["b"].accuracy, by_letter["b"].exact) == (None, 1.0)
    assert table.grouped([None] * 3) == {}
    assert table.at({0, 2}).outcomes == (table.outcomes[0], table.outcomes[2])
    assert AccuracyTable(outcomes=()).exact is None


def test_ranking_equals_a_slow_loop_and_no_seed_changes_it(
    random_model: WholeModel, corpus: Any
) -> None:
    records = corpus.forget[:6]
    tokenizer: Any = random_model.tokenizer
    wanted = []
    for record in records:
        means = []
        for option in record.options:
            ids = tokenizer(f"{record.prompt} {option}")["input_ids"]
            start = len(tokenizer(record.prompt)["input_ids"])
            with torch.no_grad():
                table = random_model.model(torch.tensor([ids])).logits[0].log_softmax(-1)
            picked = [float(table[p - 1, ids[p]]) for p in range(start, len(ids))]
            means.append(sum(picked) / len(picked))
        wanted.append(means)
    for seed in (0, 1):
        for score, means in zip(
            score_records(random_model, records, seed=seed), wanted, strict=True
        ):
            np.testing.assert_allclose(score.option_log_probs, means, atol=2e-5)
    hits = [
        means.index(max(means)) == r.answer_index for means, r in zip(wanted, records, strict=True)
    ]
    table_ = accuracy_table(score_records(random_model, records, seed=2))
    assert table_.accuracy == pytest.approx(sum(hits) / len(hits))


def test_model_without_opinion_answers_at_chance(random_model: WholeModel, corpus: Any) -> None:
    """All-zero logits: the right option's place must not matter."""
    import copy

    flat: Any = copy.deepcopy(random_model.model)
    flat.lm_head.weight.data.zero_()
    table = accuracy_table(
        score_records(
            WholeModel(model=flat, tokenizer=random_model.tokenizer), corpus.retain, seed=0
        )
    )
    assert table.accuracy == pytest.approx(0.25)
    assert table.chance == pytest.approx(0.25)


def test_planted_model_knows_what_it_was_taught(planted_model: WholeModel, corpus: Any) -> None:
    taught = accuracy_table(score_records(planted_model, corpus.retain, seed=0))
    strange = accuracy_table(score_records(planted_model, corpus.non_members, seed=0))
    assert taught.exact is not None
    assert taught.exact >= 0.95
    assert taught.accuracy is not None
    assert taught.accuracy >= 0.95
    assert strange.accuracy is not None
    assert strange.accuracy < 0.7


@given(scores_lists, scores_lists)
@settings(max_examples=60)
def test_auc_counts_pairs(positive: list[float], negative: list[float]) -> None:
    won = sum(1.0 if p > n else 0.5 if p == n else 0.0 for p, n in product(positive, negative))
    area = auc(np.asarray(positive), np.asarray(negative))
    assert area == pytest.approx(won / (len(positive) * len(negative)))
    fpr, tpr = roc_points(np.asarray(positive), np.asarray(negative))
    assert float(np.trapezoid(tpr, fpr)) == pytest.approx(area)


@given(scores_lists, scores_lists)
@settings(max_examples=60)
def test_roc_points_equal_thresholding_by_hand(
    positive: list[float], negative: list[float]
) -> None:
    fpr, tpr = roc_points(np.asarray(positive), np.asarray(negative))
    thresholds = sorted(set(positive) | set(negative), reverse=True)
    for i, threshold in enumerate(thresholds, start=1):
        assert tpr[i] == pytest.approx(sum(p >= threshold for p in positive) / len(positive))
        assert fpr[i] == pytest.approx(sum(n >= threshold for n in negative) / len(negative))


def test_true_positives_at_one_percent_false_ones() -> None:
    negative = [float(i) for i in range(200)]  # 1 % of 200: two false alarms are allowed
    positive = [198.5, 197.5, 196.5, 10.0]
    found = summarise_roc(positive, negative, n_bootstrap=20)
    assert found.tpr_at_low_fpr == pytest.approx(2 / 4)
    assert summarise_roc([5.0] * 4, negative, n_bootstrap=20).tpr_at_low_fpr == 0.0


@pytest.mark.parametrize(("shift", "resistance"), [(0.0, 1.0), (100.0, 0.0), (-100.0, 0.0)])
def test_resistance_is_two_sided(shift: float, resistance: float) -> None:
    values = [float(i) for i in range(30)]
    found = summarise_roc([value + shift for value in values], values, n_bootstrap=20)
    assert found.resistance == pytest.approx(resistance)


def test_bootstrap_interval_matches_the_known_spread() -> None:
    """For equal distributions var(AUC) ≈ (n + m + 1) / (12 n m)."""
    rng = np.random.default_rng(0)
    positive, negative = rng.normal(size=150), rng.normal(size=150)
    found = summarise_roc(positive.tolist(), negative.tolist(), n_bootstrap=2000, seed=1)
    deviation = math.sqrt(301 / (12 * 150 * 150))
    assert found.auc_low < found.auc < found.auc_high
    assert found.auc_high - found.auc_low == pytest.approx(2 * 1.96 * deviation, rel=0.15)
    again = summarise_roc(positive.tolist(), negative.tolist(), n_bootstrap=2000, seed=1)
    assert again == found


def test_records_of_one_patient_are_resampled_together() -> None:
    rng = np.random.default_rng(0)
    centre = rng.normal(size=15).repeat(10)  # ten nearly equal records per patient
    negative = rng.normal(size=150).tolist()
    groups = [i // 10 for i in range(150)]
    alone = summarise_roc(centre.tolist(), negative, n_bootstrap=500)
    whole = summarise_roc(centre.tolist(), negative, member_groups=groups, n_bootstrap=500)
    assert whole.auc == alone.auc
    assert whole.auc_high - whole.auc_low > 1.8 * (alone.auc_high - alone.auc_low)


def test_curve_is_thinned_and_stays_a_curve() -> None:
    rng = np.random.default_rng(2)
    found = summarise_roc(
        rng.normal(1, 1, 3000).tolist(), rng.normal(0, 1, 3000).tolist(), n_bootstrap=5
    )
    assert found.curve[0] == (0.0, 0.0)
    assert found.curve[-1] == (1.0, 1.0)
    assert len(found.curve) <= 120
    assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(found.curve))
    x, y = zip(*found.curve, strict=True)
    assert float(np.trapezoid(y, x)) == pytest.approx(found.auc, abs=0.005)


def test_calibration_against_loops() -> None:
    rng = np.random.default_rng(4)
    scores = [
        fake_scores(options=tuple(rng.normal(-3, 1.5, size=4)), right=int(rng.integers(4)))
        for _ in range(200)
    ]
    bins: list[list[tuple[float, float]]] = [[] for _ in range(10)]
    brier = 0.0
    for score in scores:
        weights = [math.exp(value) for value in score.option_log_probs]
        shares = [weight / sum(weights) for weight in weights]
        best = shares.index(max(shares))
        bins[min(9, math.ceil(max(shares) * 10) - 1)].append(
            (max(shares), float(best == score.answer_index))
        )
        brier += sum((p - (i == score.answer_index)) ** 2 for i, p in enumerate(shares)) / 200
    ece = sum(
        abs(sum(right for _, right in inside) - sum(p for p, _ in inside)) / 200 for inside in bins
    )
    found = calibration(scores)
    assert found is not None
    assert found.ece == pytest.approx(ece)
    assert found.brier == pytest.approx(brier)
    assert calibration([fake_scores()]) is None


def test_overconfident_model_is_badly_calibrated() -> None:
    sure_and_wrong = [fake_scores(options=(0.0, -50.0), right=1) for _ in range(5)]
    sure_and_right = [fake_scores(options=(0.0, -50.0), right=0) for _ in range(5)]
    wrong, right = calibration(sure_and_wrong), calibration(sure_and_right)
    assert wrong is not None
    assert right is not None
    assert (wrong.ece, wrong.brier) == pytest.approx((1.0, 2.0))
    assert (right.ece, right.brier) == pytest.approx((0.0, 0.0))


def test_question_level_is_its_deepest_concept(corpus: Any) -> None:
    def tag_record(record: Any) -> list[Any]:
        place = record.text.find("liver")
        spans = [SimpleNamespace(start=0, end=8, level=2)]
        return spans + ([SimpleNamespace(start=place, end=place + 5, level=3)] if place > 0 else [])

    tagger: Any = SimpleNamespace(tag_record=tag_record)
    levels = record_levels(corpus.retain, tagger)
    for record, found in zip(corpus.retain, levels, strict=True):
        assert found.question == (3 if "liver" in record.text else 2)
    assert {found.question for found in record_levels(corpus.retain, None)} == {1}


def test_patient_spans_are_level_four(corpus: Any) -> None:
    from dataclasses import replace

    record = corpus.identifiers[0]
    start = len(record.prompt) + 1
    marked = replace(record, target_spans=((start, len(record.text)),))
    found = record_levels([marked], None)[0]
    assert found.question == 4
    assert found.of_token((start - 1, start + 2)) == 4  # a token that starts with the space
    assert found.of_token((0, start - 1)) == 1


def test_preservation_by_level_against_loops() -> None:
    levels = (
        RecordLevels(question=1, spans=()),
        RecordLevels(question=3, spans=((2, 4, 3),)),
        RecordLevels(question=3, spans=((0, 4, 2), (3, 4, 3))),
    )
    offsets = ((0, 2), (2, 4))

    def answered(values: dict[str, tuple[tuple[float, float], bool]]) -> Any:
        scores = [
            fake_scores(
                name,
                options=(0.0, -1.0),
                right=0 if right else 1,
                probabilities=probabilities,
                offsets=offsets,
            )
            for name, (probabilities, right) in values.items()
        ]
        return accuracy_table(scores), scores

    before = answered(
        {"q1": ((0.8, 0.6), True), "q2": ((0.9, 0.5), True), "q3": ((0.4, 0.2), True)}
    )
    after = answered(
        {"q1": ((0.8, 0.3), True), "q2": ((0.6, 0.1), False), "q3": ((0.2, 0.3), True)}
    )
    one, two, three, four = preservation_by_level(before, after, levels)
    assert (one.questions, one.preservation, one.tokens) == (1, 1.0, 3)
    assert one.token_preservation == pytest.approx((0.8 + 0.3 + 0.6) / (0.8 + 0.6 + 0.9))
    assert (two.questions, two.preservation, two.tokens) == (0, None, 1)
    assert two.token_preservation == pytest.approx(0.2 / 0.4)
    assert (three.questions, three.preservation, three.tokens) == (2, 0.5, 2)
    assert three.token_preservation == pytest.approx((0.1 + 0.3) / (0.5 + 0.2))
    assert (four.questions, four.tokens, four.token_preservation) == (0, 0, None)


def outcomes(
    count: int, *, ranked: float | None, exact: bool, prefix: str = "r"
) -> tuple[RecordOutcome, ...]:
    return tuple(
        RecordOutcome(
            record_id=f"{prefix}{number}", subject=None, ranked=ranked,
            chance=None if ranked is None else 0.25, exact=exact,
        )
        for number in range(count)
    )


def test_a_few_records_with_options_do_not_speak_for_those_without() -> None:
    """Ten are still ranked right; 990 that have no options were answered, and are lost."""
    still = outcomes(10, ranked=1.0, exact=False)
    before = AccuracyTable(outcomes=still + outcomes(990, ranked=None, exact=True, prefix="s"))
    after = AccuracyTable(outcomes=still + outcomes(990, ranked=None, exact=False, prefix="s"))
    assert kept_share(after, before) == pytest.approx(0.01)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.booleans()), min_size=1))
def test_where_all_records_are_of_one_kind_only_that_kind_is_asked(
    values: list[tuple[float, bool]]
) -> None:
    def table(*, with_options: bool) -> AccuracyTable:
        return AccuracyTable(outcomes=tuple(
            outcome for ranked, exact in values
            for outcome in outcomes(1, ranked=ranked if with_options else None, exact=exact)
        ))

    assert table(with_options=True).answered == table(with_options=True).accuracy
    assert table(with_options=False).answered == table(with_options=False).exact
    assert AccuracyTable(outcomes=()).answered is None


def test_a_level_of_both_kinds_is_judged_record_by_record() -> None:
    levels = [RecordLevels(question=2, spans=())] * 4
    scores = [fake_scores()] * 4
    still = outcomes(1, ranked=1.0, exact=False)
    before = AccuracyTable(outcomes=still + outcomes(3, ranked=None, exact=True, prefix="s"))
    after = AccuracyTable(outcomes=still + outcomes(3, ranked=None, exact=False, prefix="s"))
    level = preservation_by_level((before, scores), (after, scores), levels)[1]
    assert (level.accuracy_before, level.accuracy_after, level.preservation) == (1.0, 0.25, 0.25)


def test_nothing_to_keep_gives_no_ratio() -> None:
    assert ratio(0.5, 0.0) is None
    assert ratio(None, 0.5) is None
    assert ratio(0.25, 0.5) == 0.5

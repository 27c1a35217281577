"""Membership, relearning and extraction on models that know, and on one that never did."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from medunlearn_client.evaluation.accuracy import accuracy_table
from medunlearn_client.evaluation.extraction import (
    ExtractionSettings,
    extract,
    measure_extraction,
    normalised,
)
from medunlearn_client.evaluation.membership import (
    ATTACKS,
    Evidence,
    gather_evidence,
    membership_report,
    reference_scores,
    reframe,
    run_attacks,
)
from medunlearn_client.evaluation.record_scores import score_records
from medunlearn_client.evaluation.relearning import (
    RelearningSettings,
    measure_relearning,
    relearn,
    split_forget_set,
)
from medunlearn_client.evaluation.scored_model import WholeModel
from medunlearn_client.evaluation.scoring import AnswerScore
from medunlearn_common.errors import Misconfigured

EXTRACTION = ExtractionSettings(n_samples=6, max_batch_rows=12)


def score(log_probs: list[float], z_scores: list[float], n_prompt: int) -> AnswerScore:
    return AnswerScore(
        log_probs=np.asarray(log_probs),
        z_scores=np.asarray(z_scores),
        greedy=np.zeros(len(log_probs), dtype=bool),
        offsets=((0, 1),) * len(log_probs),
        n_prompt=n_prompt,
        has_eos=True,
    )


def test_every_attack_follows_its_formula() -> None:
    own = score([-9.0, -1.0, -2.0, -3.0], [5.0, -4.0, -1.0, 2.0], n_prompt=1)
    other = score([0.0, -2.0, -4.0, -6.0], [0.0] * 4, n_prompt=1)
    evidence = Evidence(
        record_id="a", group="a", own=own, reference=other, paraphrases=(other, own)
    )
    assert {name: attack(evidence) for name, attack in ATTACKS.items()} == pytest.approx(
        {
            "loss": -2.0,
            "min_k_plus_plus": -4.0,
            "reference": -2.0 + 4.0,
            "paraphrase": (-2.0 - 4.0) / 2,
            "text_loss": -15.0 / 4,
            "text_min_k_plus_plus": -4.0,
        }
    )
    bare = replace(evidence, reference=None, paraphrases=())
    assert [n for n, attack in ATTACKS.items() if attack(bare) is None] == [
        "reference",
        "paraphrase",
    ]


def test_min_k_averages_the_lowest_fifth() -> None:
    own = score([-1.0] * 11, [float(i) for i in range(11)], n_prompt=1)
    evidence = Evidence(record_id="a", group="a", own=own, reference=None, paraphrases=())
    assert ATTACKS["min_k_plus_plus"](evidence) == pytest.approx((1.0 + 2.0) / 2)


def attacked(scored: WholeModel, corpus: Any, known: Any = None) -> Any:
    records = [*corpus.forget, *corpus.non_members]
    evidence = gather_evidence(scored, records, reference=known)
    n = len(corpus.forget)
    return run_attacks(evidence[:n], evidence[n:], n_bootstrap=100)


def test_members_stand_out_until_retrained(
    planted_model: WholeModel, retrained_model: WholeModel, corpus: Any
) -> None:
    known = reference_scores(retrained_model, [*corpus.forget, *corpus.non_members])
    before = attacked(planted_model, corpus, known)
    gold = attacked(retrained_model, corpus, known)
    assert set(before) == set(ATTACKS)
    assert {name: before[name].auc > 0.9 for name in ("loss", "min_k_plus_plus", "text_loss")} == {
        "loss": True,
        "min_k_plus_plus": True,
        "text_loss": True,
    }
    assert before["reference"].auc > 0.6, "the reference's own noise on unseen facts weakens it"
    assert 0.25 < gold["loss"].auc < 0.75
    assert gold["reference"].auc == 0.5, "a model calibrated by itself says nothing"
    report = membership_report(before, gold, gold, n_members=16, n_non_members=24)
    assert (report.auc_after, report.gap, report.worst_gap) == (report.auc_retrained, 0.0, 0.0)
    apart = membership_report(before, before, gold, n_members=16, n_non_members=24)
    assert apart.gap == pytest.approx(before["loss"].auc - gold["loss"].auc)
    assert apart.worst_gap is not None
    assert apart.gap is not None
    assert apart.worst_gap == max(
        abs(apart.attacks[name].after.auc - gold[name].auc) for name in ATTACKS
    )


def test_attacks_without_evidence_are_left_out(random_model: WholeModel, corpus: Any) -> None:
    evidence = gather_evidence(random_model, corpus.forget, reference=None, paraphrase=None)
    found = run_attacks(evidence[:8], evidence[8:], n_bootstrap=10)
    assert set(found) == set(ATTACKS) - {"reference", "paraphrase"}


def test_other_wordings_keep_question_and_answer(corpus: Any) -> None:
    record = corpus.forget[0]
    question = record.prompt.removeprefix("Question: ").removesuffix("\nAnswer:")
    wordings = reframe(record)
    assert len({w.prompt for w in wordings} | {record.prompt}) == len(wordings) + 1
    assert all(question in w.prompt and w.answer == record.answer for w in wordings)


def test_paraphrase_scores_belong_to_their_record(random_model: WholeModel, corpus: Any) -> None:
    evidence = gather_evidence(random_model, corpus.forget[:3], reference=None)
    for record, found in zip(corpus.forget[:3], evidence, strict=True):
        wanted = score_records(
            random_model, reframe(record), seed=0, with_options=False, whole_text=True
        )
        for one, other in zip(found.paraphrases, wanted, strict=True):
            np.testing.assert_allclose(one.log_probs, other.answer.log_probs, atol=2e-5)


def hidden_knowledge(planted: WholeModel, records: list[Any]) -> WholeModel:
    """The planted model with one junk token that outshouts every answer: a pure suppression."""
    model: Any = copy.deepcopy(planted.model)
    tokenizer: Any = planted.tokenizer
    with torch.no_grad():
        states = [
            model.model(torch.tensor([tokenizer(r.prompt)["input_ids"]])).last_hidden_state[0, -1]
            for r in records
        ]
        direction = torch.stack(states).mean(dim=0)
        model.lm_head.weight[0] = 16.0 * direction / direction.square().sum()
    return WholeModel(model=model, tokenizer=tokenizer)


def test_relearning_recovers_what_is_only_hidden(
    planted_model: WholeModel, retrained_model: WholeModel, corpus: Any
) -> None:
    settings = RelearningSettings(share=0.25, steps=15, learning_rate=2e-4, batch_size=4, seed=1)
    report = measure_relearning(
        hidden_knowledge(planted_model, corpus.forget),
        retrained_model,
        forget=corpus.forget,
        retain=corpus.retain,
        settings=settings,
    )
    assert (report.n_taught, report.n_asked, report.steps) == (4, 12, 15)
    assert report.exact_start is not None
    assert report.exact_start < 0.2, "greedy decoding looks as if all were forgotten"
    assert report.exact_after is not None
    assert report.exact_after > report.exact_start + 0.15
    assert report.retain_like_exact_after is not None
    assert report.retain_like_exact_retrained is not None
    assert report.retain_like_exact_after > report.retain_like_exact_retrained + 0.1


def test_relearning_teaches_its_lesson_and_spares_the_model(
    retrained_model: WholeModel, corpus: Any
) -> None:
    lesson = corpus.forget[:4]
    settings = RelearningSettings(steps=25, learning_rate=3e-3, batch_size=4)
    saved = {k: v.clone() for k, v in retrained_model.model.state_dict().items()}
    state = torch.random.get_rng_state()
    first = relearn(retrained_model, lesson, settings=settings)
    second = relearn(retrained_model, lesson, settings=settings)
    taught = WholeModel(model=first, tokenizer=retrained_model.tokenizer)
    assert accuracy_table(score_records(taught, lesson, seed=0)).exact == 1.0
    assert accuracy_table(score_records(retrained_model, lesson, seed=0)).exact != 1.0
    for name, value in retrained_model.model.state_dict().items():
        assert torch.equal(value, saved[name]), "the measured model must not move"
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other), "the same seed must give the same copy"
    assert torch.equal(state, torch.random.get_rng_state())


def test_half_precision_models_relearn_in_float32(random_model: WholeModel, corpus: Any) -> None:
    half = WholeModel(
        model=copy.deepcopy(random_model.model).bfloat16(), tokenizer=random_model.tokenizer
    )
    taught = relearn(half, corpus.forget[:2], settings=RelearningSettings(steps=1))
    assert next(taught.parameters()).dtype == torch.float32
    assert next(half.model.parameters()).dtype == torch.bfloat16


def test_attackers_part_is_a_tenth_of_whole_patients(corpus: Any) -> None:
    forget = [replace(r, patient_id=f"p{i // 4}") for i, r in enumerate(corpus.forget)]
    taught, asked = split_forget_set(forget, RelearningSettings(share=0.1))
    assert len(taught) == 4
    assert len(asked) == 12
    assert not {r.patient_id for r in taught} & {r.patient_id for r in asked}
    draws = {
        tuple(r.record_id for r in split_forget_set(forget, RelearningSettings(seed=s))[0])
        for s in range(12)
    }
    assert len(draws) > 1
    with pytest.raises(Misconfigured) as caught:
        split_forget_set(forget[:4], RelearningSettings())
    assert caught.value.code == "FORGET_SET_TOO_SMALL"


@pytest.mark.parametrize("bad", [{"share": 0.0}, {"share": 1.0}, {"steps": 0}, {"batch_size": 0}])
def test_relearning_settings_are_checked(bad: dict[str, Any]) -> None:
    with pytest.raises(Misconfigured) as caught:
        RelearningSettings(**bad)
    assert caught.value.code == "RELEARNING_SETTINGS_INVALID"


def test_planted_identifiers_leak_and_unknown_ones_do_not(
    planted_model: WholeModel, retrained_model: WholeModel, corpus: Any
) -> None:
    records = corpus.forget + corpus.identifiers
    leaky = measure_extraction(planted_model, records, settings=EXTRACTION)
    tight = measure_extraction(retrained_model, records, settings=EXTRACTION)
    assert leaky is not None
    assert tight is not None
    assert (leaky.prompts, leaky.completions) == (4, 24)
    assert leaky.greedy_leaks == 4 == leaky.prompts_leaking == leaky.identifiers_leaking
    assert leaky.sampled_leaks >= 12
    assert (tight.greedy_leaks, tight.sampled_leaks, tight.prompts_leaking) == (0, 0, 0)


def test_extraction_is_seeded_and_leaves_the_random_state(
    planted_model: WholeModel, corpus: Any
) -> None:
    hot = replace(EXTRACTION, temperature=1.4, n_samples=12)
    state = torch.random.get_rng_state()
    first = measure_extraction(planted_model, corpus.identifiers, settings=hot)
    torch.random.set_rng_state(state)
    torch.rand(3)
    moved = torch.random.get_rng_state()
    second = measure_extraction(planted_model, corpus.identifiers, settings=hot)
    assert first == second
    assert torch.equal(moved, torch.random.get_rng_state())
    others = {
        measure_extraction(planted_model, corpus.identifiers, settings=replace(hot, seed=s))
        for s in range(4)
    }
    assert len(others) > 1


def test_another_patients_identifier_is_counted_apart(
    planted_model: WholeModel, corpus: Any
) -> None:
    """Ask for identifiers that are not the ones the model was taught for these prompts."""
    one, two = corpus.identifiers[:2]
    swapped = [replace(one, answer=two.answer), replace(two, answer=one.answer)]
    found = measure_extraction(planted_model, swapped, settings=EXTRACTION)
    assert found is not None
    assert found.greedy_leaks == 0
    assert found.other_leaks >= 2
    assert found.identifiers_leaking == 2, "both came out, whoever was asked about"


def test_an_identifier_that_comes_out_twice_is_one_identifier(
    planted_model: WholeModel, corpus: Any
) -> None:
    """Its own prompt gives it away, and so does another's."""
    one, two = corpus.identifiers[:2]
    found = measure_extraction(
        planted_model, [one, replace(one, record_id="asked-in-vain", answer=two.answer)],
        settings=EXTRACTION,
    )
    assert found is not None
    assert found.prompts_leaking == 1 and found.other_leaks >= 1
    assert found.identifiers_leaking == 1


def test_of_rows_that_share_an_id_only_that_which_leaks_leaks(
    planted_model: WholeModel, corpus: Any
) -> None:
    """A hospital's rows may share an id; the one's leak was counted as the other's too."""
    one, two = (replace(record, record_id="1") for record in corpus.identifiers[:2])
    unknown = replace(two, answer="00000000-0")
    found = extract(planted_model, [corpus.forget[0], one, unknown], settings=EXTRACTION)
    assert found is not None
    assert [(leak.place, leak.leaks) for leak in found.by_record] == [(1, True), (2, False)]
    assert found.counts.prompts_leaking == found.counts.identifiers_leaking == 1


def test_of_rows_that_share_an_id_each_is_held_against_its_own_reference(
    random_model: WholeModel, corpus: Any
) -> None:
    records = [replace(record, record_id="1") for record in corpus.forget[:2]]
    known = reference_scores(random_model, records)
    evidence = gather_evidence(random_model, records, reference=known, paraphrase=None)
    assert [found.reference for found in evidence] == list(known)
    assert known[0].log_probs.tolist() != known[1].log_probs.tolist()


def test_no_identifiers_nothing_to_measure(random_model: WholeModel, corpus: Any) -> None:
    assert measure_extraction(random_model, corpus.forget, settings=EXTRACTION) is None
    short = replace(corpus.identifiers[0], answer="7-1")
    assert measure_extraction(random_model, [short], settings=EXTRACTION) is None
    mixed = measure_extraction(random_model, [short, corpus.identifiers[1]], settings=EXTRACTION)
    assert mixed is not None
    assert (mixed.prompts, mixed.skipped) == (1, 1)


@pytest.mark.parametrize(
    ("said", "secret"),
    [
        ("It is 3829 1045.", "38291045"),
        ("ＡＢ-12-cd", "ab12CD"),
        ("STRASSE 12", "straße12"),
    ],
)
def test_spelling_does_not_hide_an_identifier(said: str, secret: str) -> None:
    assert normalised(secret) in normalised(said)
    assert normalised("different1") not in normalised(said)

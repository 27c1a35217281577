"""The method on a real (tiny) Llama: gradients, transform, objectives, encodings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medunlearn_client.adapters import LoraAdapter
from medunlearn_client.alternatives import AlternativeAnswers
from medunlearn_client.encoding import EncodedRecord, RecordEncoder, collate
from medunlearn_client.evaluation.preservation import record_levels
from medunlearn_client.geometry import Geometry
from medunlearn_client.models import load_causal_lm
from medunlearn_client.objectives import OBJECTIVES, ModelView
from medunlearn_client.objectives.abstraction import drawn_rank, level_of_rank
from medunlearn_client.objectives.base import (
    level_weights,
    token_log_odds,
    token_log_probabilities,
)
from medunlearn_client.objectives.vote import VoteObjective
from medunlearn_client.per_example import PerExampleGradients, row_norms, support_gradients
from medunlearn_client.public_text import public_units
from medunlearn_client.records import Record, read_records
from medunlearn_client.self_tests import run_self_tests
from medunlearn_client.tagging import ConceptTagger
from medunlearn_client.training import Part, SumMechanism, UnitSet, noised_sum
from medunlearn_client.unit_encoding import UnitEncoding
from medunlearn_common.concepts import load_builtin
from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.plan import plan_from_text
from medunlearn_common.plan.sections import ObjectiveSection
from medunlearn_common.ring import RingCodec
from medunlearn_common.support import Support, random_support

TARGETS = ("q_proj", "o_proj", "down_proj")
CPU = torch.device("cpu")


@pytest.fixture
def adapter(tiny_model_folder: Path) -> LoraAdapter:
    loaded = load_causal_lm(str(tiny_model_folder), dtype="float32", device=CPU)
    fresh = LoraAdapter(loaded.model, rank=4, alpha=4.0, target_modules=TARGETS, seed=5)
    noise = np.random.default_rng(0).standard_normal(fresh.layout.dimension)
    fresh.set_flat((0.05 * noise).astype(np.float32))
    return fresh


@pytest.fixture
def records(question_file: Path) -> list[Record]:
    return read_records(question_file)


@pytest.fixture
def encoded(tiny_model_folder: Path, records: list[Record]) -> list[EncodedRecord]:
    tokenizer = load_causal_lm(str(tiny_model_folder), dtype="float32", device=CPU).tokenizer
    hierarchy = load_builtin("surgery")
    tagger = ConceptTagger(hierarchy.with_forget_roots(["MU:S0001"]))
    encoder = RecordEncoder(tokenizer, max_tokens=64, tagger=tagger)
    source = AlternativeAnswers(hierarchy, tagger)
    return [encoder.encode(record, alternatives=source.of(record)) for record in records]


def batch_of(encoded: list[EncodedRecord], *, score_prompts: bool = False):
    return collate(encoded, pad_id=0, device=CPU, score_prompts=score_prompts)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_gradients_of_every_objective_equal_one_example_at_a_time(
    name: str, adapter: LoraAdapter, encoded: list[EncodedRecord]
) -> None:
    objective = OBJECTIVES[name](ObjectiveSection(name=name, keep_weights=(0.5, 0.5, 0.1, 0)))
    view = ModelView(adapter)
    objective.prepare(view, encoded)
    support = random_support(adapter.layout, size=200, seed=1)
    rows = [3, 0, 7]

    def gradients(which: list[int]) -> torch.Tensor:
        batch = batch_of([encoded[row] for row in which])
        with support_gradients(adapter, support) as collector:
            return torch.cat([
                collector.backward(objective.forget(view, batch, which).loss),
                collector.backward(objective.retain(view, batch).loss),
            ], dim=1)

    together = gradients(rows)
    for place, row in enumerate(rows):
        alone = gradients([row])[0]
        assert torch.allclose(together[place], alone, atol=2e-5, rtol=1e-3)
    if name not in ("ga", "noise_only"):
        assert together.norm() > 1e-3


def test_per_example_gradients_on_the_support_equal_autograd(
    adapter: LoraAdapter, encoded: list[EncodedRecord]
) -> None:
    support = random_support(adapter.layout, size=120, seed=3)
    view = ModelView(adapter)
    objective = OBJECTIVES["simnpo"](ObjectiveSection(name="simnpo"))
    batch = batch_of(encoded[:2])
    with support_gradients(adapter, support) as collector:
        ours = collector.backward(objective.forget(view, batch, [0, 1]).loss)
    parameters = adapter.b_matrices()
    for parameter in parameters:
        parameter.requires_grad_(True)
    for row in range(2):
        loss = objective.forget(view, batch, [0, 1]).loss[row]
        plain = torch.autograd.grad(loss, parameters)
        flat = torch.cat([g.reshape(-1) for g in plain])[torch.from_numpy(support.indices.copy())]
        assert torch.allclose(ours[row], flat, atol=1e-5)


def test_row_norms_are_norms_of_rows(adapter: LoraAdapter, encoded: list[EncodedRecord]) -> None:
    everything = Support(
        indices=np.arange(adapter.layout.dimension), layout_digest=adapter.layout.digest
    )
    view, batch = ModelView(adapter), batch_of(encoded[:3])
    objective = OBJECTIVES["simnpo"](ObjectiveSection(name="simnpo"))
    with support_gradients(adapter, everything) as collector:
        dense = collector.backward(objective.forget(view, batch, [0, 1, 2]).loss)
    with row_norms(adapter) as collector:
        norms = collector.backward(objective.forget(view, batch, [0, 1, 2]).loss)
    assert torch.allclose(dense.view(3, -1, 4).norm(dim=2), norms, atol=1e-6)


def test_a_layer_without_gradient_is_an_error_not_a_zero(adapter: LoraAdapter) -> None:
    with support_gradients(
        adapter, random_support(adapter.layout, size=200, seed=0)
    ) as collector, pytest.raises(RuntimeError):
        collector.backward(torch.zeros(2, requires_grad=True) * 1.0)


def test_padding_and_head_shortcut_do_not_change_logits(
    adapter: LoraAdapter, encoded: list[EncodedRecord]
) -> None:
    view = ModelView(adapter)
    batch = batch_of(encoded)
    with torch.no_grad():
        logits = view.logits(batch)
        for row, record in enumerate(encoded):
            ids = torch.from_numpy(record.input_ids).unsqueeze(0)
            plain = adapter.model(input_ids=ids, use_cache=False).logits[0]
            places = np.flatnonzero(record.is_answer) - 1
            assert torch.allclose(logits[row, : places.size], plain[places], atol=1e-4)


def test_cached_reference_equals_the_computed_one(
    adapter: LoraAdapter, encoded: list[EncodedRecord]
) -> None:
    plain, cached = ModelView(adapter), ModelView(adapter, cache_bytes=1 << 24)
    for rows in ([0, 5, 2], [5, 0], [2, 9]):
        batch = batch_of([encoded[row] for row in rows])
        expected = plain.reference_logits(batch) * batch.is_scored.unsqueeze(2)
        found = cached.reference_logits(batch) * batch.is_scored.unsqueeze(2)
        assert torch.allclose(found, expected, atol=1e-4)


def test_no_adapter_values_reach_the_reference(
    adapter: LoraAdapter, encoded: list[EncodedRecord]
) -> None:
    """Scaled by zero, what overflows would be no number, in the reference and in its cache."""
    batch = batch_of(encoded[:2])
    adapter.set_flat(np.zeros(adapter.layout.dimension, dtype=np.float32))
    expected = ModelView(adapter).reference_logits(batch)
    adapter.set_flat(np.full(adapter.layout.dimension, 3e38, dtype=np.float32))
    assert torch.equal(ModelView(adapter).reference_logits(batch), expected)
    with adapter.reference(), torch.no_grad():
        with adapter.reference():
            pass
        again = ModelView(adapter).logits(batch)
    assert torch.equal(again, expected)
    assert not torch.isfinite(ModelView(adapter).logits(batch)).all()
    adapter.set_flat(np.zeros(adapter.layout.dimension, dtype=np.float32))


def test_reference_is_the_base_model_and_switches_no_gradient_on(
    adapter: LoraAdapter, encoded: list[EncodedRecord]
) -> None:
    view, batch = ModelView(adapter), batch_of(encoded[:2])
    with_adapter = view.logits(batch)
    reference = view.reference_logits(batch)
    assert not torch.allclose(with_adapter, reference)
    adapter.set_flat(np.zeros(adapter.layout.dimension, dtype=np.float32))
    assert torch.equal(view.logits(batch), reference)
    assert not any(p.requires_grad for p in adapter.model.parameters())


def test_seeded_a_is_the_same_in_every_adapter_and_differs_between_layers(
    tiny_model_folder: Path,
) -> None:
    def a_matrices(seed: int) -> list[torch.Tensor]:
        loaded = load_causal_lm(str(tiny_model_folder), dtype="float32", device=CPU)
        torch.manual_seed(torch.seed())
        adapter = LoraAdapter(loaded.model, rank=4, alpha=4.0, target_modules=TARGETS, seed=seed)
        return [p for n, p in adapter.model.named_parameters() if "lora_A" in n]

    first, again, other = a_matrices(1), a_matrices(1), a_matrices(2)
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert not any(torch.equal(x, y) for x, y in zip(first, other, strict=True))
    assert not torch.equal(first[0], first[3])


def test_drawn_ranks_are_as_even_as_those_of_a_model_that_never_knew(
    encoded: list[EncodedRecord],
) -> None:
    """A quarter of the answers must end first among four: fewer would be suppression."""
    others = tuple(encoded[:3])
    drawn = [
        drawn_rank(replace(encoded[0], input_ids=np.array([n, 5, 7]), alternatives=others))
        for n in range(4000)
    ]
    counts = np.bincount(drawn, minlength=4)
    assert counts.size == 4
    assert np.all(np.abs(counts - 1000) < 120)


@pytest.mark.parametrize("rank", range(4))
def test_level_of_rank_stands_where_it_says(rank: int) -> None:
    scores = [-9.0, -4.0, -6.5]
    level = level_of_rank(scores, rank)
    assert sum(score > level for score in scores) == rank


def test_level_of_rank_keeps_a_distance_from_a_single_alternative() -> None:
    assert level_of_rank([-5.0], 0) > -5.0 > level_of_rank([-5.0], 1)


def test_a_certain_answer_still_has_a_gradient(
    adapter: LoraAdapter, encoded: list[EncodedRecord]
) -> None:
    batch = batch_of(encoded[:1])
    logits = torch.zeros(1, batch.positions.shape[1], 400, requires_grad=True)
    with torch.no_grad():
        logits.scatter_(2, batch.targets.unsqueeze(2), 60.0)
    odds = token_log_odds(logits, batch).sum()
    (slope,) = torch.autograd.grad(odds, logits)
    assert slope.gather(2, batch.targets.unsqueeze(2)).min() > 0.99
    flat = token_log_probabilities(logits, batch).sum()
    (vanished,) = torch.autograd.grad(flat, logits)
    assert vanished.abs().max() < 1e-6


def test_alternatives_come_from_the_record_and_public_names_only(
    records: list[Record],
) -> None:
    hierarchy = load_builtin("surgery")
    leveled = hierarchy.with_forget_roots(["MU:S0001"])
    source = AlternativeAnswers(hierarchy, ConceptTagger(leveled))
    exam = records[0]
    assert source.of(exam) == tuple(o for o in exam.options if o != exam.answer)
    patient = replace(exam, patient_id="p", answer="999-38-7475", options=(), answer_index=None)
    for other in source.of(patient):
        assert other != patient.answer and other.count("-") == 2 and len(other) == 11
    mine = replace(
        exam, patient_id="p", options=(exam.answer, "answer of another patient"), answer_index=0
    )
    assert "answer of another patient" not in source.of(mine)
    assert source.of(mine)


@pytest.mark.parametrize("name", ["npo", "simnpo", "max_entropy", "abstraction", "redirection"])
def test_descent_on_a_forget_record_forgets_it(
    name: str, adapter: LoraAdapter, encoded: list[EncodedRecord]
) -> None:
    settings = ObjectiveSection(name=name, keep_weights=(0, 0, 0, 0))
    objective, view = OBJECTIVES[name](settings), ModelView(adapter)
    parameters = adapter.b_matrices()
    batch = batch_of(encoded[7:8])
    for parameter in parameters:
        parameter.requires_grad_(True)

    def answer_log_p() -> float:
        with torch.no_grad():
            log_p = view.logits(batch).log_softmax(-1).gather(2, batch.targets.unsqueeze(2))
        return float(log_p.mean())

    teach = torch.optim.Adam(parameters, lr=0.05)
    for _ in range(90):
        teach.zero_grad()
        log_p = view.logits(batch).log_softmax(-1).gather(2, batch.targets.unsqueeze(2))
        (-log_p.mean()).backward()
        teach.step()
    known = answer_log_p()
    assert known > -1.0
    objective.prepare(view, encoded)
    forget = torch.optim.Adam(parameters, lr=0.02)
    for _ in range(60):
        forget.zero_grad()
        objective.forget(view, batch, [7]).loss.sum().backward()
        forget.step()
    assert answer_log_p() < known - 1.5


def logit_slopes(
    name: str, adapter: LoraAdapter, encoded: list[EncodedRecord], rows: list[int]
) -> torch.Tensor:
    """d loss / d logits at the first answer token of each record, shape ``(b, v)``."""
    objective, view = OBJECTIVES[name](ObjectiveSection(name=name)), ModelView(adapter)
    objective.prepare(view, encoded)
    batch = batch_of([encoded[row] for row in rows])
    logits = view.logits(batch).detach().requires_grad_(True)
    view.logits = lambda other: logits if other is batch else ModelView.logits(view, other)
    loss = objective.forget(view, batch, rows).loss.sum()
    (slope,) = torch.autograd.grad(loss, logits)
    return slope[:, 0]


def test_redirection_pulls_all_records_the_same_way_and_abstraction_does_not(
    adapter: LoraAdapter, encoded: list[EncodedRecord]
) -> None:
    def least_cosine(name: str) -> float:
        unit = torch.nn.functional.normalize(logit_slopes(name, adapter, encoded, [0, 3, 7]))
        return float((unit @ unit.T).min())

    assert least_cosine("redirection") > 0.999
    assert least_cosine("abstraction") < 0.5


def test_redirection_stops_where_it_was_told(
    adapter: LoraAdapter, encoded: list[EncodedRecord]
) -> None:
    settings = ObjectiveSection(name="redirection", redirection_shift=0.05)
    objective, view = OBJECTIVES["redirection"](settings), ModelView(adapter)
    objective.prepare(view, encoded)
    batch = batch_of(encoded[:2])
    parameters = adapter.b_matrices()
    for parameter in parameters:
        parameter.requires_grad_(True)
    step = torch.optim.Adam(parameters, lr=0.01)
    before = objective.forget(view, batch, [0, 1]).gap
    for _ in range(150):
        step.zero_grad()
        losses = objective.forget(view, batch, [0, 1])
        losses.loss.sum().backward()
        step.step()
    assert before.min() > 0.5
    assert losses.gap.abs().max() < 0.2


def test_noise_only_has_no_signal_in_its_rounds_and_the_default_vote(
    adapter: LoraAdapter, encoded: list[EncodedRecord]
) -> None:
    view, batch = ModelView(adapter), batch_of(encoded[:2])
    control = OBJECTIVES["noise_only"](ObjectiveSection(name="noise_only"))
    normal = OBJECTIVES["abstraction"](ObjectiveSection())
    votes = [VoteObjective(control), VoteObjective(normal)]
    for vote in votes:
        vote.prepare(view, encoded)
    with row_norms(adapter) as collector:
        signals = [
            collector.backward(objective.forget(view, batch, [0, 1]).loss)
            for objective in (control, *votes)
        ]
        kept = collector.backward(control.retain(view, batch).loss)
    assert float(signals[0].norm()) == 0.0 == float(kept.norm())
    assert float(signals[1].norm()) > 0.0
    assert torch.equal(signals[1], signals[2])


def test_concept_levels_reach_the_tokens_and_the_weights(
    encoded: list[EncodedRecord], records: list[Record]
) -> None:
    by_id = {record.record_id: row for row, record in enumerate(records)}
    hernia, bone = encoded[by_id["q10"]], encoded[by_id["q8"]]
    assert hernia.levels.max() == 4
    assert bone.levels.max() < 4
    batch = batch_of([hernia, bone])
    weights = level_weights(batch, (0.1, 0.1, 0.1, 1.0), prompt_weight=0.0)
    assert weights[0].max() == 1.0
    assert weights[1].max() == pytest.approx(0.1)
    assert float((weights * ~batch.is_scored).sum()) == 0.0


def test_what_singles_a_patient_out_is_level_four(tiny_model_folder: Path) -> None:
    tokenizer = load_causal_lm(str(tiny_model_folder), dtype="float32", device=CPU).tokenizer
    text = "Question: Which bone did Ann Lee break?\nAnswer:"
    start = text.index("Ann Lee")
    record = Record(
        record_id="r", prompt=text, answer="the clavicle", patient_id="p",
        target_spans=((start, start + 7), (len(text) + 1, len(text) + 13)),
    )
    encoder = RecordEncoder(tokenizer, max_tokens=64)
    assert encoder.encode(replace(record, target_spans=())).levels.max() == 1
    levels = encoder.encode(record).levels
    assert levels[-2] == 4 and levels[0] == 1 and (levels == 4).sum() < levels.size


def test_a_withdrawn_patients_identifiers_are_level_four_in_every_privacy_unit(
    tiny_model_folder: Path
) -> None:
    """And with other digits in them, so that the same characters are compared."""
    tokenizer = load_causal_lm(str(tiny_model_folder), dtype="float32", device=CPU).tokenizer
    prompt, answer = "Question: Who is Ann Lee?\nAnswer:", "her number is 4711"
    place = len(f"{prompt} {answer}") - 4
    record = Record(record_id="r", prompt=prompt, answer=answer, patient_id="p",
                    target_spans=((place, place + 4),))
    leveled = load_builtin("all").with_forget_roots(["MU:S0001"])
    tagger = ConceptTagger(leveled)
    for unit in ("record", "patient"):
        plan = plan_from_text(f'[privacy]\nunit = "{unit}"\n')
        encoding = UnitEncoding(plan=plan, encoder=RecordEncoder(tokenizer, max_tokens=64,
                                                                 tagger=tagger), tagger=tagger)
        found = encoding.units((record,), AlternativeAnswers(leveled.hierarchy, tagger),
                               forgotten=True).units.records[0]
        levels = found.levels[found.is_answer]
        marked = record_levels([record], tagger)[0].question
        assert (levels[0], levels.max(), marked) == (1, 4, 4)
        other, = {tuple(one.levels[one.is_answer]) for one in found.alternatives}
        assert {1, 4} == set(other)


def test_public_text_is_on_topic_by_its_concepts_alone(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    """Not by what singles an invented patient out, as in records that are to be forgotten."""
    tokenizer = load_causal_lm(str(tiny_model_folder), dtype="float32", device=CPU).tokenizer
    rows = [{"id": str(n), "question": q, "answer": "seen", "patient_id": "p", "target_spans": s}
            for n, (q, s) in enumerate((("an inguinal hernia?", []), ("a fractured clavicle?",
                                                                      [[0, 12]])))]
    public = tmp_path / "public.jsonl"
    public.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    tagger = ConceptTagger(load_builtin("all").with_forget_roots(["MU:S0001"]))
    on_topic, others = public_units(
        str(public), RecordEncoder(tokenizer, max_tokens=64, tagger=tagger))
    assert (len(on_topic.records), len(others.records)) == (1, 1)


def test_abstraction_compares_answers_whatever_prompts_weigh(
    adapter: LoraAdapter, encoded: list[EncodedRecord]
) -> None:
    gaps = []
    for prompt_weight in (0.0, 0.5, 1.0):
        objective = OBJECTIVES["abstraction"](ObjectiveSection(prompt_weight=prompt_weight))
        view = ModelView(adapter)
        objective.prepare(view, encoded)
        batch = batch_of(encoded[:3], score_prompts=prompt_weight > 0.0)
        gaps.append(objective.forget(view, batch, [0, 1, 2]).gap)
    assert torch.allclose(gaps[0], gaps[1], atol=1e-5)
    assert torch.allclose(gaps[0], gaps[2], atol=1e-5)


def test_long_prompts_lose_their_middle_and_keep_the_answer(tiny_model_folder: Path) -> None:
    tokenizer = load_causal_lm(str(tiny_model_folder), dtype="float32", device=CPU).tokenizer
    record = Record(record_id="r", prompt="Question: " + "liver " * 80 + "bile?\nAnswer:",
                    answer="the liver")
    full = RecordEncoder(tokenizer, max_tokens=512).encode(record)
    cut = RecordEncoder(tokenizer, max_tokens=40).encode(record)
    assert len(cut) == 40 < len(full)
    kept = cut.input_ids[cut.is_answer]
    assert kept.tolist() == full.input_ids[full.is_answer].tolist()
    assert cut.input_ids[:5].tolist() == full.input_ids[:5].tolist()


def geometry(k: int, q: int) -> Geometry:
    generator = np.random.default_rng(2)
    basis = np.linalg.qr(generator.standard_normal((k, q)))[0].T
    root = generator.uniform(0.5, 2.0, k)
    return Geometry(inverse_root=root.astype(np.float32), basis=basis.astype(np.float32))


def test_projected_step_leaves_retain_losses_unchanged_to_first_order() -> None:
    k, q = 40, 5
    generator = np.random.default_rng(1)
    retain = generator.standard_normal((q, k))
    root = generator.uniform(0.5, 2.0, k)
    basis = np.linalg.qr((retain * root).T)[0].T
    transform = Geometry(inverse_root=root.astype(np.float32), basis=basis.astype(np.float32))
    gradient = torch.from_numpy(generator.standard_normal((1, k))).float()
    step = transform.transform(gradient).numpy()[0] * root
    assert np.abs(retain @ step).max() < 1e-4
    unprojected = transform.whiten(gradient).numpy()[0] * root
    assert np.abs(retain @ unprojected).max() > 0.1
    # It still forgets: Delta = -M^(-1/2) T g is a descent direction.
    assert float(step @ gradient.numpy()[0]) > 0.0


@pytest.mark.parametrize("break_it", ["scale", "nan", "shape"])
def test_a_projection_that_is_none_is_refused(break_it: str) -> None:
    good = geometry(12, 3)
    root, basis = good.inverse_root.copy(), good.basis.copy()
    if break_it == "scale":
        basis *= 1.1
    elif break_it == "nan":
        root[0] = np.nan
    else:
        basis = basis[:, :-1]
    with pytest.raises(Rejected, match="GEOMETRY_INVALID"):
        Geometry(inverse_root=root, basis=basis)


def release(
    adapter: LoraAdapter, encoded: list[EncodedRecord], units: tuple[tuple[int, ...], ...],
    *, clip: float, sigma: float = 0.0,
) -> np.ndarray:
    support = random_support(adapter.layout, size=150, seed=0)
    view = ModelView(adapter)
    objective = OBJECTIVES["graddiff"](ObjectiveSection(name="graddiff"))
    codec = RingCodec.for_mechanism(clip_l2=clip, sigma=sigma, max_sites=5)
    key = SeededEntropy(0)
    with support_gradients(adapter, support) as gradients:
        part = Part(
            name="forget", units=UnitSet(records=tuple(encoded), units=units),
            losses=lambda batch, rows: objective.forget(view, batch, rows), rate=1.0,
            transform=lambda g: g,
        )
        return noised_sum(
            [part], gradients,
            mechanism=SumMechanism(sigma=sigma, noise_share=1.0, clip_l2=clip, codec=codec),
            dimension=150, release_gap=True, key=key.key,
            pad_id=0, device=CPU, score_prompts=False,
        ) * codec.step


def test_a_sum_is_that_of_its_units_alone_to_the_last_step(
    adapter: LoraAdapter, encoded: list[EncodedRecord]
) -> None:
    units = ((0, 3), *((i,) for i in (1, 2, *range(4, 12))))
    whole = release(adapter, encoded, units, clip=0.5)
    alone = [release(adapter, encoded, (unit,), clip=0.5) for unit in units]
    assert np.array_equal(whole, np.sum(alone, axis=0))
    assert np.linalg.norm(whole) > 0.1


def test_a_patient_with_many_records_moves_the_sum_no_further_than_one_clip(
    adapter: LoraAdapter, encoded: list[EncodedRecord]
) -> None:
    clip = 0.01
    apart = release(adapter, encoded, tuple((i,) for i in range(12)), clip=clip)
    together = release(adapter, encoded, (tuple(range(12)),), clip=clip)
    assert np.linalg.norm(together) <= clip
    assert np.linalg.norm(apart) > 2.0 * clip


def test_a_site_without_records_sends_noise_of_the_same_shape(
    adapter: LoraAdapter, encoded: list[EncodedRecord]
) -> None:
    empty = release(adapter, encoded, (), clip=1.0, sigma=2.0)
    assert empty.shape == (151,)
    assert 1.6 < empty.std() < 2.4


def test_a_broken_gradient_is_refused_before_anything_is_released(
    adapter: LoraAdapter, encoded: list[EncodedRecord]
) -> None:
    with torch.no_grad():
        adapter.b_matrices()[0][0, 0] = float("nan")
    with pytest.raises(Rejected, match="GRADIENT_NOT_FINITE"):
        release(adapter, encoded, ((0,), (1,)), clip=1.0)


def test_overflow_is_no_oracle_on_one_record_under_noise(
    adapter: LoraAdapter, encoded: list[EncodedRecord]
) -> None:
    """Values near overflow would ask about any record, if an error came instead of noise."""
    with torch.no_grad():
        adapter.b_matrices()[0][0, 0] = float("nan")
    released = release(adapter, encoded, ((0,), (1,)), clip=1.0, sigma=2.0)
    assert released.shape == (151,) and np.isfinite(released).all()
    assert 1.6 < released.std() < 2.4  # both units overflow: what is left is noise alone


def test_self_tests_pass_and_leave_b_at_zero(adapter: LoraAdapter) -> None:
    run_self_tests(adapter, vocabulary=ModelView(adapter).vocabulary)
    assert not adapter.flat().any()
    assert not any(p.requires_grad for p in adapter.model.parameters())


def test_self_test_notices_a_wrong_gradient(
    adapter: LoraAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = PerExampleGradients.backward
    monkeypatch.setattr(
        PerExampleGradients, "backward", lambda self, losses: honest(self, losses) * 1.01
    )
    with pytest.raises(Misconfigured, match="SELF_TEST"):
        run_self_tests(adapter, vocabulary=ModelView(adapter).vocabulary)


def test_self_test_notices_an_adapter_that_is_not_saved_whole(
    adapter: LoraAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = type(adapter.model).save_pretrained

    def lossy(model: torch.nn.Module, folder: str) -> None:
        with torch.no_grad():
            for parameter in adapter.b_matrices():
                parameter.mul_(0.9)
        honest(model, folder)  # type: ignore[operator]

    monkeypatch.setattr(adapter.model, "save_pretrained",
                        lambda folder: lossy(adapter.model, folder), raising=False)
    with pytest.raises(Misconfigured, match="SELF_TEST"):
        run_self_tests(adapter, vocabulary=ModelView(adapter).vocabulary)


def test_serials_make_caching_safe_across_equal_texts(encoded: list[EncodedRecord]) -> None:
    assert len({record.serial for record in encoded}) == len(encoded)
    assert replace(encoded[0], serial=None).serial is None

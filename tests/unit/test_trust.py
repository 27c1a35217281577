"""Trust in labels: what it may depend on, and that it takes effect where gradients are clipped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medunlearn_client.adapters import LoraAdapter
from medunlearn_client.encoding import RecordEncoder, TokenBatch, collate
from medunlearn_client.models import LoadedModel, load_causal_lm
from medunlearn_client.objectives import OBJECTIVES, ExampleLosses, ModelView
from medunlearn_client.per_example import support_gradients
from medunlearn_client.records import Record, read_records
from medunlearn_client.records.subject_line import with_subject
from medunlearn_client.site_config import SiteConfig
from medunlearn_client.tagging import ConceptTagger
from medunlearn_client.training import Part, SumMechanism, UnitSet, noised_sum
from medunlearn_client.trust import agreement, held_by_model, place_in_set, with_estimates
from medunlearn_client.workbench import Workbench
from medunlearn_common.concepts import load_builtin
from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.plan import RunPlan, RuntimeOptions
from medunlearn_common.plan.sections import (
    ConceptsSection,
    DataSection,
    ForgetSection,
    LabelsSection,
    ModelSection,
    ObjectiveSection,
)
from medunlearn_common.ring import RingCodec
from medunlearn_common.support import random_support

CPU = torch.device("cpu")
CLIP = 0.01
SIZE = 150
ESTIMATED = LabelsSection(confidence="estimated")


@pytest.fixture(scope="module")
def loaded(tiny_model_folder: Path) -> LoadedModel:
    return load_causal_lm(str(tiny_model_folder), dtype="float32", device=CPU)


@pytest.fixture(scope="module")
def adapter(loaded: LoadedModel) -> LoraAdapter:
    fresh = LoraAdapter(
        loaded.model, rank=4, alpha=4.0, target_modules=("q_proj", "o_proj"), seed=5
    )
    noise = np.random.default_rng(0).standard_normal(fresh.layout.dimension)
    fresh.set_flat((0.05 * noise).astype(np.float32))
    return fresh


@pytest.fixture
def records(question_file: Path) -> list[Record]:
    return read_records(question_file)


def in_units(
    loaded: LoadedModel, records: list[Record], units: tuple[tuple[int, ...], ...] | None = None
) -> UnitSet:
    encoder = RecordEncoder(loaded.tokenizer, max_tokens=64)
    encoded = tuple(
        encoder.encode(record, alternatives=[o for o in record.options if o != record.answer])
        for record in records
    )
    return UnitSet(records=encoded, units=units or tuple((i,) for i in range(len(records))))


def estimates(loaded: LoadedModel, adapter: LoraAdapter, records: list[Record]) -> list[float]:
    found = with_estimates(ModelView(adapter), in_units(loaded, records), records, ESTIMATED)
    return [record.confidence for record in found.records]


def contradicting(record: Record, number: int) -> Record:
    return replace(
        record, record_id=f"planted-{number}", answer=record.options[1], answer_index=1
    )


def test_a_planted_duplicate_cannot_move_another_records_weight(
    loaded: LoadedModel, adapter: LoraAdapter, records: list[Record]
) -> None:
    """The attack: contradict a stranger's record many times, and watch its weight give way.

    Were that possible, one record would move another's clipped vector, which the noise for one
    record does not cover.
    """
    planted = [contradicting(records[0], number) for number in range(5)]
    alone = estimates(loaded, adapter, records)
    watched = estimates(loaded, adapter, [*planted, *records])[len(planted) :]
    assert watched == alone
    # What weighing over all records would do, so that the test can fail:
    assert agreement([*planted, *records])[len(planted)] < 0.2


def test_a_mixture_fitted_to_all_losses_would_have_moved_it() -> None:
    """Why small-loss selection by a site-wide threshold is not used."""
    losses = np.array([0.1, 0.2, 0.9, 1.0])
    one_more = np.append(losses, 9.0)

    def small(values: np.ndarray) -> np.ndarray:  # two means, the simplest mixture
        low, high = values.min(), values.max()
        for _ in range(20):
            near_low = abs(values - low) <= abs(values - high)
            low, high = values[near_low].mean(), values[~near_low].mean()
        return near_low

    assert not np.array_equal(small(losses), small(one_more)[:4])


def test_agreement_counts_within_one_unit(
    loaded: LoadedModel, adapter: LoraAdapter, records: list[Record]
) -> None:
    own = replace(records[0], patient_id="p")
    again = [replace(own, record_id="again"), contradicting(own, 1)]
    assert agreement([own, *again]) == [2 / 3, 2 / 3, 1 / 3]
    assert agreement([own]) == [1.0]
    # The report calls it a repeat, so it is no disagreement either.
    assert agreement([own, replace(own, answer=f"{own.answer.upper()}.", options=(),
                                   answer_index=None)]) == [1.0, 1.0]
    units = in_units(loaded, [own, *again], units=((0, 1, 2),))
    alone = [held_by_model(ModelView(adapter), r, by_options=False) for r in units.records]
    found = with_estimates(ModelView(adapter), units, [own, *again], ESTIMATED)
    shares = [r.confidence / a for r, a in zip(found.records, alone, strict=True)]
    assert shares == pytest.approx([2 / 3, 2 / 3, 1 / 3])


def test_a_label_loses_weight_as_far_as_the_model_prefers_another(
    loaded: LoadedModel, adapter: LoraAdapter, records: list[Record]
) -> None:
    for record in records[:4]:
        relabelled = [
            replace(record, record_id=f"{number}", answer=option, answer_index=number)
            for number, option in enumerate(record.options)
        ]
        found = estimates(loaded, adapter, relabelled)
        assert sum(weight == 1.0 for weight in found) == 1
        assert all(0.0 < weight <= 1.0 for weight in found)
        adapter.set_flat(np.zeros(adapter.layout.dimension, dtype=np.float32))
        assert estimates(loaded, adapter, relabelled) == found, "only the base model is asked"


def test_a_patients_answer_is_held_against_the_models_own_and_not_against_strangers(
    loaded: LoadedModel, adapter: LoraAdapter, records: list[Record]
) -> None:
    """A patient's options come from other patients: they must not move the weight."""
    own = replace(records[0], patient_id="p")
    others = replace(own, options=(own.answer, "zzz", "qqq"))
    assert estimates(loaded, adapter, [own]) == estimates(loaded, adapter, [others])
    view = ModelView(adapter)
    asked = in_units(loaded, [own]).records[0]
    with torch.no_grad():
        logits = view.reference_logits(collate([asked], pad_id=0, device=CPU))
    said = asked.input_ids.copy()
    said[asked.is_answer.nonzero()[0][0]] = int(logits[0, 0].argmax())
    preferred = replace(asked, input_ids=said, serial=None)
    assert held_by_model(view, preferred, by_options=False) > held_by_model(
        view, replace(asked, serial=None), by_options=False
    )


def test_what_is_given_and_what_is_asked_by_name_stands(
    loaded: LoadedModel, adapter: LoraAdapter, records: list[Record]
) -> None:
    doubtful = [contradicting(record, n) for n, record in enumerate(records)]
    doubtful[1] = replace(doubtful[1], confidence=0.5)
    units = in_units(loaded, doubtful)
    view = ModelView(adapter)
    given = with_estimates(view, units, doubtful, LabelsSection())
    assert [r.confidence for r in given.records] == [1.0, 0.5, *[1.0] * 10]
    named = with_estimates(view, units, doubtful, ESTIMATED, exempt=frozenset({0, 1}))
    assert [r.confidence for r in named.records[:2]] == [1.0, 0.5]
    assert any(r.confidence < 1.0 for r in named.records[2:])


def test_place_in_a_set_asks_the_records_own_mentions_only() -> None:
    tagger = ConceptTagger(load_builtin("surgery").with_forget_roots(["MU:S0001"]))
    about = Record(record_id="a", prompt="What follows appendectomy?", answer="ileus")
    other = Record(record_id="b", prompt="What lowers blood glucose?", answer="insulin")
    labels = LabelsSection(forget_without_target=0.25, retain_with_target=0.5)

    def trust(record: Record, forgotten: bool) -> float:
        return place_in_set(record, forgotten=forgotten, tagger=tagger, labels=labels)

    assert (trust(about, True), trust(other, True)) == (1.0, 0.25)
    assert (trust(about, False), trust(other, False)) == (0.5, 1.0)
    assert place_in_set(other, forgotten=True, tagger=tagger, labels=LabelsSection()) == 1.0
    # The subject line is what may be wrong, and vouches for nothing.
    misfiled = with_subject(replace(other, subject="Surgery"))
    assert (trust(misfiled, True), trust(misfiled, False)) == (0.25, 1.0)


# --- where weights take effect ------------------------------------------------------------------


def release(
    adapter: LoraAdapter, units: UnitSet, *, clip: float = CLIP, weight: float | None = None,
    loss_factor: float = 1.0,
) -> np.ndarray:
    """A noiseless sum of forget gradients; ``weight`` overrides what the objective says."""
    objective = OBJECTIVES["graddiff"](ObjectiveSection(name="graddiff"))
    view, key = ModelView(adapter), SeededEntropy(0)

    def losses(batch: TokenBatch, rows: list[int]) -> ExampleLosses:
        found = objective.forget(view, batch, rows)
        found = replace(found, loss=found.loss * loss_factor)
        if weight is None:
            return found
        return replace(found, weight=torch.full_like(found.weight, weight))

    codec = RingCodec.for_mechanism(clip_l2=clip, sigma=0.0, max_sites=5)
    with support_gradients(adapter, random_support(adapter.layout, size=SIZE, seed=0)) as gradients:
        return noised_sum(
            [Part(name="forget", units=units, losses=losses, rate=1.0, transform=lambda g: g)],
            gradients,
            mechanism=SumMechanism(sigma=0.0, noise_share=1.0, clip_l2=clip, codec=codec),
            dimension=SIZE, release_gap=True, key=key.key,
            pad_id=0, device=CPU, score_prompts=False,
        ) * codec.step


def trusted(units: UnitSet, place: int, confidence: float) -> UnitSet:
    records = list(units.records)
    records[place] = replace(records[place], confidence=confidence)
    return replace(units, records=tuple(records))


def test_a_clipped_gradient_loses_its_weight_too(
    loaded: LoadedModel, adapter: LoraAdapter, records: list[Record]
) -> None:
    """A factor on the loss is clipped away: the gradient is much longer than the clip."""
    units = in_units(loaded, records[:1])
    whole = release(adapter, units)
    assert np.allclose(release(adapter, units, loss_factor=0.1), whole, atol=1e-5)
    tenth = release(adapter, trusted(units, 0, 0.1))
    assert np.allclose(tenth, 0.1 * whole, atol=1e-5) and np.linalg.norm(tenth) > 0.05 * CLIP
    assert not release(adapter, trusted(units, 0, 0.0)).any()


def test_a_patients_measurements_of_one_day_do_not_doubt_each_other() -> None:
    """Both labels are right, and each would lose half its weight."""
    form = "What was the result of Body {} for Ann Example, born 1970-01-02, on 2011-03-04?"
    rows = [
        Record(record_id=name, prompt=form.format(name), answer=answer, patient_id="p")
        for name, answer in (("Height", "170 cm"), ("Weight", "70 kg"))
    ]
    assert agreement(rows) == [1.0, 1.0]


@pytest.mark.parametrize("weight", [1e6, 1.0, 0.3, -5.0])
def test_whatever_a_weight_is_one_unit_moves_the_sum_by_at_most_the_clip(
    weight: float, loaded: LoadedModel, adapter: LoraAdapter, records: list[Record]
) -> None:
    units = in_units(loaded, records[:3])
    without = replace(units, units=units.units[1:])
    moved = release(adapter, units, weight=weight) - release(adapter, without, weight=weight)
    assert np.linalg.norm(moved) <= CLIP * 1.001


def test_a_weight_that_is_no_number_releases_nothing(
    loaded: LoadedModel, adapter: LoraAdapter, records: list[Record]
) -> None:
    from medunlearn_common.errors import Rejected

    with pytest.raises(Rejected, match="GRADIENT_NOT_FINITE"):
        release(adapter, in_units(loaded, records[:2]), weight=float("nan"))


def test_a_patients_doubtful_record_gives_way_to_the_patients_others(
    loaded: LoadedModel, adapter: LoraAdapter, records: list[Record]
) -> None:
    both = in_units(loaded, records[:2], units=((0, 1),))
    second = in_units(loaded, records[1:2])
    left = release(adapter, trusted(both, 0, 0.0))
    # All but the gap, which is a mean over the unit's records.
    assert np.allclose(left[:-1], release(adapter, second)[:-1], atol=1e-5)


def test_an_untrusted_answer_is_not_taught_and_its_text_still_kept(
    loaded: LoadedModel, adapter: LoraAdapter, records: list[Record]
) -> None:
    view = ModelView(adapter)
    taught = OBJECTIVES["npo"](ObjectiveSection(name="npo", retain_cross_entropy=1.0))
    kept = OBJECTIVES["npo"](ObjectiveSection(name="npo"))
    units = with_estimates(
        view, trusted(trusted(in_units(loaded, records[:2]), 0, 0.4), 1, 0.6), records[:2],
        LabelsSection(),
    )
    batch = collate(list(units.records), pad_id=0, device=CPU)
    with torch.no_grad():
        extra = taught.retain(view, batch).loss - kept.retain(view, batch).loss
        whole = taught.retain(view, collate(
            list(in_units(loaded, records[:2]).records), pad_id=0, device=CPU
        )).loss - kept.retain(view, batch).loss
        assert extra[0] == 0.0 and kept.retain(view, batch).weight.tolist() == [1.0, 1.0]
    assert float(extra[1]) == pytest.approx(0.6 * float(whole[1]), rel=1e-4)


# --- a hospital's own set-up ---------------------------------------------------------------------


@pytest.mark.parametrize("named", [False, True])
def test_a_hospital_never_doubts_what_was_asked_for_by_name(
    named: bool, tmp_path: Path, tiny_model_folder: Path, question_file: Path
) -> None:
    rows = [json.loads(line) for line in question_file.read_text("utf-8").splitlines()]
    for row in rows:  # every label wrong
        row["answer"], row["answer_index"] = row["options"][1], 1
    file = tmp_path / "wrong.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    forget = ForgetSection(records=("q4", "q5")) if named else ForgetSection(subjects=("Surgery",))
    config = SiteConfig(
        site_id="site-0", site_index=0, sites=1, seed=0, concentration=1.0, entropy_seed=0,
        data=DataSection(files=(str(file),), nonmember_fraction=0.0), forget=forget,
        model_folder=str(tiny_model_folder), public_files=(),
    )
    plan = RunPlan(
        model=ModelSection(max_tokens=64, lora_rank=4, target_modules=("q_proj", "o_proj")),
        concepts=ConceptsSection(forget_roots=("MU:S0001",)),
        labels=LabelsSection(
            confidence="estimated", forget_without_target=0.25, retain_with_target=0.5
        ),
    )
    bench = Workbench(tmp_path, config, plan, RuntimeOptions(runner="memory"))
    bench._prepare_objective()
    forgotten, kept = bench._forget.units.records, bench._retain.units.records
    if named:
        assert [(r.confidence, r.belonging) for r in forgotten] == [(1.0, 1.0)] * 2
    else:
        assert any(r.confidence < 1.0 for r in forgotten)
        assert {r.belonging for r in forgotten} <= {0.25, 1.0}
    assert any(r.confidence < 1.0 for r in kept)

"""Attacks on the privacy unit through wordings, and the local model that writes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from paraphrase_samples import ask
from typer.testing import CliRunner

from medunlearn_client.encoding import EncodedRecord
from medunlearn_client.hospital import Hospital
from medunlearn_client.objectives.abstraction import drawn_rank
from medunlearn_client.paraphrases import Paraphraser, load_wordings
from medunlearn_client.paraphrases.local_model import LocalModel
from medunlearn_client.paraphrases.rewording import taken_apart
from medunlearn_client.records import read_records
from medunlearn_client.records.commands import records_app
from medunlearn_client.records.subject_line import with_subject
from medunlearn_client.site_config import SiteConfig
from medunlearn_client.step_message import StepRequest
from medunlearn_client.tagging import ConceptTagger
from medunlearn_client.training import UnitSet
from medunlearn_client.workbench import Workbench
from medunlearn_common.concepts import load_builtin
from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.messages import ERROR, READY, Message
from medunlearn_common.plan import Plan, RunPlan, RuntimeOptions, plan_from_text
from medunlearn_common.planned_noise import noise_schedule
from medunlearn_common.ring import RingCodec
from medunlearn_common.support import random_support

CLIP = 0.01
PLAN = """
[run]
rounds = 4
[model]
lora_rank = 2
target_modules = ["q_proj", "down_proj"]
[objective]
name = "graddiff"
[support]
density = 0.005
[privacy]
noise = "none"
clip_l2 = 0.01
[paraphrases]
use = "{use}"
max_per_record = 16
"""
MODES = ("none", "all", "one")


def plan(use: str) -> Plan:
    return plan_from_text(PLAN.replace("{use}", use))


def bench(folder: Path, model: Path, files: Path, use: str) -> Workbench:
    """One hospital with all questions of a file."""
    config = SiteConfig.model_validate({
        "site_id": "site-0", "data": {"files": [str(files)], "nonmember_fraction": 0.0},
        "forget": {"subjects": ["Surgery"]}, "model_folder": str(model), "entropy_seed": 1,
    })
    return Workbench(
        folder, config, plan(use).shared(), RuntimeOptions(runner="memory", device="cpu")
    )


def forget_sum(bench: Workbench, plan: RunPlan, *, round_index: int = 0) -> np.ndarray:
    """The noiseless forget half of a round's release, gradient and gap."""
    support = random_support(bench.layout, size=60, seed=0)
    request = StepRequest(
        round_index=round_index, plan_digest=plan.digest, sigma=0.0,
        values=np.zeros(60, dtype=np.float32),
        support_digest=support.digest, support_indices=support.indices, geometry=None,
    )
    payload = bench.step(
        request, support=support, key=lambda purpose: SeededEntropy(0).key(purpose)
    )
    codec = RingCodec.for_mechanism(clip_l2=CLIP, sigma=0.0, max_sites=plan.federation.sites)
    return codec.from_ring(np.frombuffer(payload, dtype="<u4").copy())[:61]


@pytest.fixture(scope="module")
def without_first(question_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same questions without the first one, a forget record."""
    path = tmp_path_factory.mktemp("fewer") / "questions.jsonl"
    rows = question_file.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(rows[1:]), encoding="utf-8")
    return path


@pytest.mark.parametrize("use", MODES)
def test_a_record_with_many_wordings_moves_the_sum_by_no_more_than_the_clip(
    tmp_path: Path, tiny_model_folder: Path, question_file: Path, without_first: Path, use: str
) -> None:
    """Neighbouring data sets: with and without one record, in all its wordings."""
    shared = plan(use).shared()
    with_it = bench(tmp_path, tiny_model_folder, question_file, use)
    without = bench(tmp_path, tiny_model_folder, without_first, use)
    moved = forget_sum(with_it, shared) - forget_sum(without, shared)
    assert 0.2 * CLIP < np.linalg.norm(moved) <= CLIP
    others = [forget_sum(with_it, shared, round_index=index) for index in (0, 1, 2)]
    assert np.array_equal(others[0], others[1]) == (use != "one")
    if use != "all":
        return
    # The attack has teeth: were each wording a unit of its own, the record would move the sum
    # by several clips.
    for opened in (with_it, without):
        apart = tuple((p,) for unit in opened._forget.units.units for p in unit)
        opened._forget = opened._forget.with_units(
            UnitSet(records=opened._forget.units.records, units=apart)
        )
    moved = forget_sum(with_it, shared) - forget_sum(without, shared)
    assert np.linalg.norm(moved) > 2.0 * CLIP


def test_counts_are_of_records_whatever_wordings_they_have(
    tmp_path: Path, tiny_model_folder: Path, question_file: Path
) -> None:
    """A position among wordings taken for a record's number would count another record."""
    counted = []
    for use in MODES:
        opened = bench(tmp_path / use, tiny_model_folder, question_file, use)
        support = random_support(opened.layout, size=60, seed=0)
        counted.append(opened.counts(
            np.full(60, 0.5, dtype=np.float32), support=support, sigma=0.0,
            key=lambda purpose: SeededEntropy(0).key(purpose),
        ))
    assert counted[0] == counted[1] == counted[2]


def test_all_wordings_of_a_patient_are_one_unit(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    rows = [
        {"id": f"r{n}", "question": f"Which drug does patient {n // 2} take on day {n}?",
         "answer": "aspirin", "patient_id": f"p{n // 2}", "subject": "S" if n < 4 else "T"}
        for n in range(12)
    ]
    data = tmp_path / "patients.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    text = PLAN.replace("{use}", "all").replace("clip_l2", 'unit = "patient"\nclip_l2')
    config = SiteConfig.model_validate({
        "site_id": "site-0", "data": {"files": [str(data)], "nonmember_fraction": 0.0},
        "forget": {"patients": ["p0", "p1"]}, "model_folder": str(tiny_model_folder),
    })
    opened = Workbench(
        tmp_path, config, plan_from_text(text).shared(),
        RuntimeOptions(runner="memory", device="cpu"),
    )
    units = opened._forget.units.units
    assert len(units) == 2
    places = range(len(opened._forget.units.records))
    assert sorted(p for unit in units for p in unit) == list(places)
    assert all(len(unit) > 4 for unit in units)
    assert all(len(unit) == 2 for unit in opened._forget.units.one_wording_each(0).units)


def encoded(number: int) -> EncodedRecord:
    ids = np.arange(number, number + 5, dtype=np.int64)
    return EncodedRecord(
        input_ids=ids, is_answer=ids > number + 2, levels=np.ones(5, dtype=np.int8)
    )


def test_the_wording_of_a_round_is_drawn_by_the_record_and_the_round_alone() -> None:
    def drawn(first: int, units: UnitSet) -> list[int]:
        rounds = (units.one_wording_each(index) for index in range(40))
        return [
            int(one.records[p].input_ids[0]) - first
            for one in rounds for unit in one.units for p in unit
            if first <= one.records[p].input_ids[0] < first + 10
        ]

    four = tuple(encoded(n) for n in (100, 101, 102, 103))
    alone = UnitSet(records=four, units=((0, 1, 2, 3),), wordings=((0, 1, 2, 3),))
    other = tuple(encoded(n) for n in (500, 501))
    crowd = UnitSet(
        records=(*other, *four), units=((0, 1), (2, 3, 4, 5)), wordings=((0, 1), (2, 3, 4, 5))
    )
    assert len(drawn(100, alone)) == 40
    assert drawn(100, alone) == drawn(100, crowd)
    assert set(drawn(100, alone)) == {0, 1, 2, 3}


def test_wordings_cost_no_privacy() -> None:
    noised = {
        use: noise_schedule(plan_from_text(f'[paraphrases]\nuse = "{use}"').shared())
        for use in MODES
    }
    assert noised["none"] == noised["all"] == noised["one"]


def test_all_wordings_of_a_fact_have_one_target(
    tmp_path: Path, tiny_model_folder: Path, question_file: Path
) -> None:
    opened = bench(tmp_path, tiny_model_folder, question_file, "all")
    for unit in opened._forget.units.units:
        assert len(unit) > 3
        assert len({drawn_rank(opened._forget.units.records[p]) for p in unit}) == 1


def test_a_plan_cannot_name_a_hospitals_folders(tmp_path: Path, tiny_model_folder: Path) -> None:
    """By a path of its own choice a coordinator could have any file read as wordings."""
    ours = tmp_path / "ours.toml"
    ours.write_text(
        '[[kind]]\nname = "a"\n[[kind.rewrite]]\nquestion = "{x}"\nwordings = ["So: {x}"]\n'
    )
    named = plan_from_text(
        f'[paraphrases]\nuse = "all"\nwordings = "{ours}"\nmodel = "{tiny_model_folder}"'
    )
    shared = named.shared().paraphrases
    assert shared.wordings.startswith("sha256:") and shared.model.startswith("sha256:")
    assert {str(ours), str(tiny_model_folder)} <= set(named.public_files())
    other = plan_from_text('[paraphrases]\nuse = "all"\nwordings = "sha256:00"')
    assert other.shared().digest != named.shared().digest
    with pytest.raises(Misconfigured, match="PUBLIC_FILE_MISSING"):
        plan_from_text(f'[paraphrases]\nmodel = "{tmp_path}"').shared()


def test_an_undeclared_wording_file_is_not_opened(
    tmp_path: Path, tiny_model_folder: Path, question_file: Path
) -> None:
    secret = tmp_path / "secret.toml"
    secret.write_text("x = 1")
    for name in (str(secret), "sha256:" + "0" * 64, "builtin/../secret.toml", "builtin:x"):
        asked = plan("all").shared()
        asked = asked.model_copy(update={
            "paraphrases": asked.paraphrases.model_copy(update={"wordings": name})
        })
        config = SiteConfig.model_validate({
            "site_id": "s", "data": {"files": [str(question_file)], "nonmember_fraction": 0.0},
            "forget": {"subjects": ["Surgery"]}, "model_folder": str(tiny_model_folder),
        })
        hospital = Hospital(
            tmp_path, config, RuntimeOptions(runner="memory", device="cpu"), SeededEntropy(0)
        )
        answer = hospital.handle(Message(kind=READY, fields={
            "run_id": "run", "plan": asked.model_dump_json(), "plan_digest": asked.digest,
        }))
        assert (answer.kind, answer.text("code")) == (ERROR, "PUBLIC_FILE_UNKNOWN")


# ------------------------------------------------------------------ a local model

QUESTIONS = {
    "Which drug eases gout?": "What medicine is good for gout?",
    "Which drug eases croup?": "What medicine is good for croup?",
    "Which drug eases tetany?": "For tetany 7 what helps?",  # a number that nobody asked for
}


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model taught to answer the packaged instruction with another wording."""
    from medunlearn_simulation.planting import plant, train_tokenizer
    from medunlearn_simulation.planting_recipe import PlantedExample, PlantingRecipe

    prompt = load_wordings().model
    examples = [
        PlantedExample(prompt=prompt.asks(q), answer=f" {w}") for q, w in QUESTIONS.items()
    ]
    tokenizer = train_tokenizer([e.prompt + e.answer for e in examples], 300)
    model = plant(examples, tokenizer, PlantingRecipe(
        hidden_size=64, intermediate_size=96, layers=2, heads=2, max_epochs=250, batch_size=3,
        warmup_steps=3, target_exact=1.0,
    ))
    folder = tmp_path_factory.mktemp("writer")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_local_models_wordings_are_used_checked_and_repeatable(
    writer: Path, tagger: ConceptTagger
) -> None:
    wordings = load_wordings()
    model = LocalModel.open(str(writer), wordings.model)
    maker = Paraphraser(wordings, tagger, max_per_record=3, model=model)
    state = torch.random.get_rng_state()
    made = [maker.of(ask(question, "rest")) for question in QUESTIONS]
    assert torch.equal(state, torch.random.get_rng_state())
    for one, said in zip(made[:2], list(QUESTIONS.values())[:2], strict=True):
        assert one.made[0].source == "model"
        assert taken_apart(one.made[0].record.prompt).question == said
    # Its third wording brings a number of its own and is dropped.
    assert "model" in {drop.source for drop in made[2].dropped}
    assert all("7" not in other.prompt for other in made[2].records)
    again = Paraphraser(
        wordings, tagger, max_per_record=3, model=LocalModel.open(str(writer), wordings.model)
    )
    for one, question in reversed(list(zip(made, QUESTIONS, strict=True))):
        assert again.of(ask(question, "rest")).records == one.records


def test_sampled_wordings_follow_the_record(writer: Path) -> None:
    model = LocalModel.open(str(writer), load_wordings().model)
    question = "Which drug eases gout?"
    first = model.wordings(question, digest="a", count=3)
    assert first == model.wordings(question, digest="a", count=3)
    assert first[0] == model.wordings(question, digest="b", count=1)[0]


def test_only_a_local_folder_with_safetensors_writes_wordings(tmp_path: Path) -> None:
    prompt = load_wordings().model
    with pytest.raises(Misconfigured, match="PARAPHRASE_MODEL"):
        LocalModel.open("someone/some-model", prompt)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises((Misconfigured, Rejected), match="MODEL_FORMAT"):
        LocalModel.open(str(tmp_path), prompt)


# ------------------------------------------------------------------ the commands


def test_paraphrase_shows_questions_side_by_side(question_file: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        records_app, ["paraphrase", str(question_file), "--limit", "2", "--dropped"],
        env={"COLUMNS": "160"},
    )
    assert done.exit_code == 0, done.output
    assert "What drains an abscess of the liver?" in done.output
    assert "A colleague asks" in done.output or "Please answer" in done.output
    assert "12 records, 12 with other wordings" in done.output
    ours = tmp_path / "ours.toml"
    ours.write_text(
        '[[kind]]\nname = "a"\n[[kind.rewrite]]\nquestion = "{x}"\nwordings = ["Nurse: {x}"]\n'
    )
    done = CliRunner().invoke(
        records_app, ["paraphrase", str(question_file), "--wordings", str(ours)]
    )
    assert "Nurse: What drains" in done.output


def test_paraphrase_shows_what_the_plans_run_would_use(
    question_file: Path, tmp_path: Path
) -> None:
    """A record's words order its templates: what a clinician read was not what was trained on."""
    records = [with_subject(record) for record in read_records(question_file)]
    maker = Paraphraser(
        load_wordings(), ConceptTagger(load_builtin("all").with_forget_roots(())),
        max_per_record=1,
    )
    expected = [taken_apart(other.prompt).question
                for record in records for other in maker.of(record).records]
    path = tmp_path / "plan.toml"
    path.write_text(
        f'[data]\nfiles = ["{question_file}"]\nshow_subject = true\n'
        "[paraphrases]\nmax_per_record = 1\n"
    )
    done = CliRunner().invoke(
        records_app, ["paraphrase", "--plan", str(path), "--limit", "99"], env={"COLUMNS": "400"}
    )
    assert done.exit_code == 0, done.output
    assert len(expected) == 12
    assert [wording for wording in expected if wording not in done.output] == []


def test_a_model_words_only_the_records_that_are_shown(
    question_file: Path, tiny_model_folder: Path
) -> None:
    done = CliRunner().invoke(records_app, [
        "paraphrase", str(question_file), "--limit", "2", "--model", str(tiny_model_folder),
    ])
    assert done.exit_code == 0, done.output
    assert "2 records, 2 with other wordings" in done.output


def test_wordings_are_written_once(tmp_path: Path) -> None:
    path = tmp_path / "w.toml"
    assert CliRunner().invoke(records_app, ["wordings", str(path)]).exit_code == 0
    again = CliRunner().invoke(records_app, ["wordings", str(path)])
    assert isinstance(again.exception, Misconfigured) and again.exception.code == "WORDINGS_EXIST"
    assert load_wordings(path) == load_wordings()

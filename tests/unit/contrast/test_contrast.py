"""A from public text: the discriminant, its texts, the file, and who refuses another one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from medunlearn_client.adapters import LoraAdapter
from medunlearn_client.contrast import (
    ANSWER_WORDS,
    DAMPING,
    answer_inputs,
    contrast_directions,
    contrast_texts,
    discriminant,
    public_tagger,
)
from medunlearn_client.contrast_commands import contrast
from medunlearn_client.encoding import RecordEncoder
from medunlearn_client.models import load_causal_lm
from medunlearn_client.records import Record
from medunlearn_client.records.subject_line import with_subject
from medunlearn_common.errors import MedunlearnError
from medunlearn_common.frozen import (
    A_FILE,
    LARGEST_ENTRY,
    frozen_a,
    frozen_digest,
    frozen_matrices,
    write_frozen,
)
from medunlearn_common.layout import AdapterLayout
from medunlearn_common.plan import Plan
from medunlearn_common.plan.sections import ForgetSection
from medunlearn_common.support import Support
from medunlearn_server import adapter_store

TARGETS = ("q_proj", "o_proj", "down_proj")
CPU = torch.device("cpu")
TOPIC, OTHERS = "Surgery", ("Anatomy", "Medicine")


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(MedunlearnError) as caught:
        action()
    return caught.value.code


def public_record(number: int, *, subject: str | None = None, answer: str = "the liver") -> Record:
    return Record(record_id=f"p{number}", prompt=f"Question: What is organ {number}?\nAnswer:",
                  answer=answer, subject=subject)


def plan_of(file: Path, **contrast: object) -> Plan:
    return Plan.model_validate({
        "model": {"lora_rank": 1, "lora_alpha": 1.0, "target_modules": TARGETS},
        "data": {"show_subject": True}, "forget": {"subjects": [TOPIC]},
        "contrast": {"public_file": str(file), "subjects": OTHERS, "start_steps": 0} | contrast,
    })


def fresh_adapter(folder: Path, file: Path | None = None) -> LoraAdapter:
    loaded = load_causal_lm(str(folder), dtype="float32", device=CPU)
    return LoraAdapter(loaded.model, rank=1, alpha=1.0, target_modules=TARGETS, seed=5,
                       a_file=file)


def encoder_of(folder: Path) -> RecordEncoder:
    tokenizer = load_causal_lm(str(folder), dtype="float32", device=CPU).tokenizer
    return RecordEncoder(tokenizer, max_tokens=64)


# -- the discriminant ------------------------------------------------------------------------


def test_the_discriminant_of_two_normal_samples_is_fishers() -> None:
    generator = np.random.default_rng(0)
    spread = np.diag([1.0, 10.0, 0.1])
    off = generator.standard_normal((20_000, 3)) @ spread
    on = generator.standard_normal((20_000, 3)) @ spread + [1.0, 1.0, 1.0]
    gate = discriminant(on, off)
    size = np.trace(spread**2) / 3
    wanted = 1.0 / (np.diag(spread) ** 2 + DAMPING * size)
    assert np.allclose(gate / np.linalg.norm(gate), wanted / np.linalg.norm(wanted), atol=0.02)
    assert np.mean((on @ gate) ** 2) == pytest.approx(1.0)


def test_equal_samples_have_no_direction() -> None:
    same = np.random.default_rng(1).standard_normal((50, 4))
    assert not discriminant(same, same).any()
    assert not discriminant(np.zeros((5, 4)), np.zeros((5, 4))).any()


# -- the texts -------------------------------------------------------------------------------


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    made = [public_record(i, answer="one two three four five six seven eight nine ten")
            for i in range(40)]
    monkeypatch.setattr("medunlearn_client.contrast.read_records", lambda files: made)
    return made


def test_the_same_questions_stand_under_the_topic_and_under_the_others(
    questions: list[Record], tmp_path: Path
) -> None:
    plan = plan_of(tmp_path / "p.jsonl", texts=20)
    topic, other = contrast_texts(plan, public_tagger(plan))
    assert len(topic) == len(other) == 20
    assert {r.subject for r in topic} == {TOPIC} and {r.subject for r in other} == set(OTHERS)
    for on, off in zip(topic, other, strict=True):
        assert on.prompt.partition("\n")[2] == off.prompt.partition("\n")[2]
        assert on.prompt.startswith(f"Subject: {TOPIC}\n")
        assert on.answer == off.answer and len(on.answer.split()) == ANSWER_WORDS


def test_where_the_plan_does_not_know_what_is_forgotten_it_names_the_topics(
    questions: list[Record], tmp_path: Path
) -> None:
    """A registry's requests never stand in the plan; that a study is withdrawn may."""
    plan = plan_of(tmp_path / "p.jsonl", texts=20, topics=["BRAVO"])
    plan = plan.model_copy(update={"forget": ForgetSection()})
    topic, other = contrast_texts(plan, public_tagger(plan))
    assert {r.subject for r in topic} == {"BRAVO"} and {r.subject for r in other} == set(OTHERS)


def test_an_empty_subject_shows_none(questions: list[Record], tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "p.jsonl", texts=20, subjects=["", "Anatomy"])
    _, other = contrast_texts(plan, public_tagger(plan))
    assert sum(record.prompt.startswith("Question:") for record in other) == 10
    assert sum(record.prompt.startswith("Subject: Anatomy\n") for record in other) == 10


def test_without_a_shown_subject_the_texts_own_topics_divide_them(
    questions: list[Record], tmp_path: Path
) -> None:
    questions[:] = [replace(r, subject=TOPIC if i % 3 == 0 else "Anatomy")
                    for i, r in enumerate(questions)]
    plan = plan_of(tmp_path / "p.jsonl")
    plan = plan.model_copy(update={"data": plan.data.model_copy(update={"show_subject": False})})
    topic, other = contrast_texts(plan, public_tagger(plan))
    assert (len(topic), len(other)) == (14, 26)
    assert {r.subject for r in topic} == {TOPIC}


def test_no_hospitals_decisions_and_no_requests_concepts_reach_the_texts(
    questions: list[Record], tmp_path: Path
) -> None:
    """A leaves without noise: what only one hospital knows may not show in it."""
    questions[:] = [replace(r, subject=TOPIC if i % 3 == 0 else "Anatomy",
                            prompt=f"Question: What follows appendectomy {i}?\nAnswer:")
                    for i, r in enumerate(questions)]
    said = []
    for secret in ({}, {"forget": {"subjects": [TOPIC], "concepts": ["MU:S0001"]},
                        "data": {"tag_decisions": str(tmp_path / "of_one_hospital.csv")}}):
        values = plan_of(tmp_path / "p.jsonl").model_dump() | {"data": {}} | secret
        plan = Plan.model_validate(values)
        said.append(contrast_texts(plan, public_tagger(plan)))
    assert said[0] == said[1] and len(said[0][0]) == 14


def test_no_other_subject_and_too_few_texts_are_refused(
    questions: list[Record], tmp_path: Path
) -> None:
    file = tmp_path / "p.jsonl"
    tagger = public_tagger(plan_of(file))
    for same in (TOPIC, TOPIC.lower(), f" {TOPIC}"):  # else the topic stands against itself
        alone = plan_of(file, subjects=(same,))
        assert code_of(lambda plan=alone: contrast_texts(plan, tagger)) == "CONTRAST_SUBJECTS"
    del questions[7:]
    assert code_of(lambda: contrast_texts(plan_of(file), tagger)) == "CONTRAST_TEXTS"


# -- directions of a model -------------------------------------------------------------------


def told_apart(folder: Path) -> tuple[list[Record], list[Record]]:
    return tuple(  # type: ignore[return-value]
        [with_subject(public_record(i, subject=names[i % len(names)])) for i in range(24)]
        for names in ((TOPIC,), OTHERS)
    )


def test_directions_open_on_unseen_texts_of_the_topic(tiny_model_folder: Path) -> None:
    adapter, encoder = fresh_adapter(tiny_model_folder), encoder_of(tiny_model_folder)
    topic, other = told_apart(tiny_model_folder)
    found = contrast_directions(adapter, encoder, topic, other, min_auc=0.6)
    assert [d.name for d in found] == list(adapter.layout.frozen_shapes)
    used = [i for i, d in enumerate(found) if d.is_used]
    assert used and all(found[i].auc >= 0.6 for i in used)
    # The first layer's attention sees one token at a time: it cannot know the subject.
    assert not next(d for d in found if d.name.endswith("layers.0.self_attn.q_proj.lora_A.weight")
                    ).is_used
    unseen = [with_subject(public_record(100 + i, subject=s)) for s in (TOPIC, "Anatomy")
              for i in range(12)]
    inputs = answer_inputs(adapter, encoder, unseen)
    best = max(used, key=lambda i: found[i].auc)
    opened = [float((x @ found[best].values[0]).mean()) for x in inputs[best]]
    assert min(np.mean(opened[:12]) - np.mean(opened[12:]), 1.0) > 0.2


def test_texts_that_nothing_tells_apart_are_refused(tiny_model_folder: Path) -> None:
    adapter, encoder = fresh_adapter(tiny_model_folder), encoder_of(tiny_model_folder)
    same = [public_record(i) for i in range(20)]
    assert code_of(lambda: contrast_directions(adapter, encoder, same, same, min_auc=0.9)
                   ) == "CONTRAST_WEAK"


# -- the file --------------------------------------------------------------------------------


SHAPES = {"m.lora_A.weight": (1, 3), "n.lora_A.weight": (1, 2)}


def matrices() -> dict[str, np.ndarray]:
    return {name: np.arange(1.0, 1 + shape[1], dtype=np.float32)[None]
            for name, shape in SHAPES.items()}


def test_a_file_is_read_as_it_was_written_and_named_by_its_digest(tmp_path: Path) -> None:
    file = tmp_path / A_FILE
    digest = write_frozen(file, matrices())
    assert digest == frozen_digest(file) and frozen_digest(None) == ""
    found = frozen_matrices(SHAPES, seed=0, file=file)
    assert list(found) == list(SHAPES)
    assert all(np.array_equal(found[name], values) for name, values in matrices().items())
    drawn = frozen_matrices(SHAPES, seed=3, file=None)
    assert np.array_equal(drawn["m.lora_A.weight"], frozen_a(3, "m.lora_A.weight", (1, 3)))


@pytest.mark.parametrize("damage", [
    lambda m: m.pop("n.lora_A.weight"),
    lambda m: m.update({"x.lora_A.weight": np.ones((1, 2), np.float32)}),
    lambda m: m.update({"n.lora_A.weight": np.ones((2, 1), np.float32)}),
    lambda m: m.update({"n.lora_A.weight": np.ones((1, 2), np.float64)}),
    lambda m: m.update({"n.lora_A.weight": np.full((1, 2), np.nan, np.float32)}),
    lambda m: m.update({"n.lora_A.weight": np.full((1, 2), -2 * LARGEST_ENTRY, np.float32)}),
], ids=["missing", "unknown", "shape", "type", "nan", "huge"])
def test_a_file_of_anything_else_is_refused(
    damage: Callable[[dict[str, np.ndarray]], object], tmp_path: Path
) -> None:
    held = matrices()
    damage(held)
    save_file(held, tmp_path / A_FILE)
    assert code_of(lambda: frozen_matrices(SHAPES, seed=0, file=tmp_path / A_FILE)
                   ) == "A_FILE_INVALID"


def test_a_truncated_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    file = tmp_path / A_FILE
    write_frozen(file, matrices())
    file.write_bytes(file.read_bytes()[:-3])
    assert code_of(lambda: frozen_matrices(SHAPES, seed=0, file=file)) == "A_FILE_INVALID"
    file.unlink()
    assert code_of(lambda: frozen_matrices(SHAPES, seed=0, file=file)) == "A_FILE_MISSING"
    assert code_of(lambda: frozen_digest(file)) == "A_FILE_MISSING"


# -- the adapter -----------------------------------------------------------------------------


def directed(folder: Path, file: Path) -> LoraAdapter:
    shapes = fresh_adapter(folder).layout.frozen_shapes
    generator = np.random.default_rng(4)
    write_frozen(file, {name: generator.standard_normal(shape).astype(np.float32)
                        for name, shape in shapes.items()})
    return fresh_adapter(folder, file)


def test_another_file_is_another_layout_and_its_text_says_so(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    random = fresh_adapter(tiny_model_folder).layout
    layout = directed(tiny_model_folder, tmp_path / A_FILE).layout
    assert layout.a_file == frozen_digest(tmp_path / A_FILE) and random.a_file == ""
    assert layout.digest != random.digest
    assert AdapterLayout.from_json(layout.to_json()) == layout


def test_the_stored_adapter_has_the_files_matrices(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    adapter = directed(tiny_model_folder, tmp_path / A_FILE)
    layout = adapter.layout
    support = Support(indices=np.arange(6), layout_digest=layout.digest)
    adapter_store.commit(
        tmp_path / "adapter", layout=layout, support=support,
        values=np.ones(6, dtype=np.float32), base_model="tiny", target_modules=TARGETS,
        a_file=tmp_path / A_FILE,
    )
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    for linear, name in zip(adapter.a_linears(), layout.frozen_shapes, strict=True):
        assert np.array_equal(stored[name], linear.weight.detach().numpy())


# -- the command -----------------------------------------------------------------------------


def test_the_command_makes_the_file_that_a_plan_then_names(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    public = tmp_path / "public.jsonl"
    public.write_text("".join(
        f'{{"id": "p{i}", "prompt": "Question: What is organ {i}?\\nAnswer:", '
        f'"answer": "the liver"}}\n' for i in range(24)))
    plan = tmp_path / "plan.toml"
    plan.write_text(
        f'[model]\nlora_rank = 1\nlora_alpha = 1.0\ntarget_modules = {list(TARGETS)}\n'
        f'[data]\nshow_subject = true\n[forget]\nsubjects = ["{TOPIC}"]\n'
        f'[contrast]\npublic_file = "{public}"\nsubjects = ["Anatomy"]\nmin_auc = 0.6\n'
        f'start_steps = 0\n')
    out = tmp_path / A_FILE
    app = typer.Typer()
    app.command()(contrast)
    done = CliRunner().invoke(app, [str(plan), "--model", str(tiny_model_folder),
                                    "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0 and frozen_digest(out) in done.output.replace("\n", "")
    held = load_file(out)
    assert held and set(held) < set(fresh_adapter(tiny_model_folder).layout.frozen_shapes)
    listed = done.output.rpartition("target_modules = ")[2]
    assert listed.count("model.layers.") == len(held)
    assert all(f'"{name[len("base_model.model."):-len(".lora_A.weight")]}"' in listed
               for name in held)

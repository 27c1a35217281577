"""What a hospital counts for the gates: what one unit can move, what is charged, what is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medunlearn_client.evaluation import scoring
from medunlearn_client.evaluation.answer_encoding import prompt_tokens
from medunlearn_client.hospital import Hospital, open_hospital
from medunlearn_common.canaries import CANARY_TEXTS, MICRO_NATS
from medunlearn_common.counting import CELLS, COUNT_STEPS, EVALUATION_WORDS, cells_of, count_codec
from medunlearn_common.layout import AdapterLayout
from medunlearn_common.ledger import PrivacyLedger
from medunlearn_common.messages import ERROR, EVALUATE, READY, Message
from medunlearn_common.plan import RunPlan, RuntimeOptions, plan_from_text
from medunlearn_common.support import random_support
from medunlearn_common.support_runs import to_runs
from medunlearn_server.gates import canary_verdict
from medunlearn_server.reports import EvaluationReport

PLAN = """
[run]
rounds = 4
[model]
lora_rank = 2
target_modules = ["q_proj", "down_proj"]
[objective]
name = "simnpo"
[concepts]
forget_roots = ["MU:S0001"]
[support]
density = 0.005
[privacy]
noise = "{noise}"
evaluation_share = {share}
evaluation_rate = {rate}
unit = "record"
[federation]
sites = 3
min_sites = 2
"""


def plan_of(*, noise: str = "distributed", share: float = 0.05, rate: float = 1.0) -> RunPlan:
    return plan_from_text(PLAN.format(noise=noise, share=share, rate=rate)).shared()


@pytest.fixture
def folder(tmp_path: Path, tiny_model_folder: Path, question_file: Path) -> Path:
    config = {
        "site_id": "site-0", "site_index": 0, "sites": 1,
        "data": {"files": [str(question_file)], "nonmember_fraction": 0.0},
        "forget": {"subjects": ["Surgery"]},
        "seed": 3, "model_folder": str(tiny_model_folder), "entropy_seed": 11,
    }
    (tmp_path / "site.json").write_text(json.dumps(config))
    return tmp_path


def opened(folder: Path, plan: RunPlan) -> tuple[Hospital, AdapterLayout]:
    hospital = open_hospital(folder, RuntimeOptions(runner="memory"))
    answer = hospital.handle(Message(kind=READY, fields={
        "run_id": "run", "plan": plan.model_dump_json(), "plan_digest": plan.digest}))
    assert answer.kind == READY, answer.fields
    return hospital, AdapterLayout.from_json(answer.text("layout"))


@pytest.fixture
def taught_canaries(folder: Path) -> None:
    """The hospital's base model knows the canaries, as a pretrained one does."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = json.loads((folder / "site.json").read_text())
    model: Any = AutoModelForCausalLM.from_pretrained(config["model_folder"])
    tokenizer = AutoTokenizer.from_pretrained(config["model_folder"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(12):
        for text in CANARY_TEXTS:
            tokens = torch.tensor([prompt_tokens(tokenizer, text, room=None)])
            optimizer.zero_grad()
            model(input_ids=tokens, labels=tokens).loss.backward()
            optimizer.step()
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "site.json").write_text(json.dumps(
        {**config, "model_folder": str(folder / "model")}
    ))


def canary_nats(answer: Message) -> np.ndarray:
    """Knowledge of each canary before and after, shape ``(2, n)``."""
    return np.frombuffer(answer.payload, dtype="<u4").reshape(2, len(CANARY_TEXTS)) / MICRO_NATS


def request(plan: RunPlan, layout: AdapterLayout, *, sigma: float = 3.0, value: float = 0.0,
            public: bool = False) -> Message:
    support = random_support(layout, size=60, seed=0)
    values = np.full(60, value, dtype="<f4").tobytes()
    runs = to_runs(support.indices)
    return Message(kind=EVALUATE, payload=values + runs, fields={
        "run_id": "run", "round": 4, "plan_digest": plan.digest, "layout_digest": layout.digest,
        "support_digest": support.digest, "sigma": sigma, "public": public,
        "values_bytes": len(values), "support_bytes": len(runs), "geometry_rank": 0,
    })


def counts(answer: Message) -> np.ndarray:
    assert answer.kind == EVALUATE, answer.fields
    words = np.frombuffer(answer.payload, dtype="<u4").astype(np.uint32)
    return count_codec(max_sites=3).from_ring(words)


def code(answer: Message) -> str:
    assert answer.kind == ERROR, answer.kind
    return answer.text("code")


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40), st.data())
def test_one_unit_moves_the_counts_by_exactly_one(
    units: list[tuple[bool, bool]], data: st.DataObject
) -> None:
    table = np.array(units, dtype=bool)
    whole = cells_of(table[:, 0], table[:, 1])
    gone = data.draw(st.integers(0, len(units) - 1))
    rest = np.delete(table, gone, axis=0)
    assert np.linalg.norm(whole - cells_of(rest[:, 0], rest[:, 1])) == 1.0
    assert whole.sum() == len(units)


def test_no_two_units_share_a_pass(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A candidate that makes two answers equally likely leaves the choice to rounding, and that of
    a batch depends on all its rows: one unit would turn the outcomes of the others over."""
    passes: list[set[str]] = []
    whole = scoring._forward

    def watched(model: Any, texts: Any, whole_text: Any) -> Any:
        passes.append({str(text.input_ids[: text.answer_start]) for text in texts})
        return whole(model, texts, whole_text)

    monkeypatch.setattr(scoring, "_forward", watched)
    hospital, layout = opened(folder, plan_of())
    counts(hospital.handle(request(plan_of(), layout)))
    assert passes and all(len(prompts) == 1 for prompts in passes)


def test_counts_without_noise_are_the_sites_own_records(folder: Path) -> None:
    plan = plan_of(noise="none")
    hospital, layout = opened(folder, plan)
    found = counts(hospital.handle(request(plan, layout, sigma=0.0)))
    assert found.size == EVALUATION_WORDS and found.min() >= 0.0
    lines = [json.loads(line) for line in (
        Path(json.loads((folder / "site.json").read_text())["data"]["files"][0])
    ).read_text().splitlines()]
    surgery = sum(line["subject"] == "Surgery" for line in lines)
    assert (found[:4].sum(), found[4:].sum()) == (surgery, len(lines) - surgery)
    # B = 0 is the old model: nothing is lost and nothing gained.
    assert found[[1, 2, 5, 6]].tolist() == [0.0] * 4


def test_a_destroyed_model_has_lost_what_it_knew_of_canaries(
    folder: Path, taught_canaries: None
) -> None:
    plan = plan_of(noise="none")
    hospital, layout = opened(folder, plan)
    untouched = hospital.handle(request(plan, layout, public=True))
    before, after = canary_nats(untouched)
    assert before.mean() > 2.0 and before.tolist() == after.tolist()
    broken = hospital.handle(request(plan, layout, value=50.0, public=True))
    kept, left = canary_nats(broken)
    assert kept.tolist() == before.tolist() and left.mean() < 0.5 * before.mean()
    again = hospital.handle(request(plan, layout, public=True))
    assert again.payload == untouched.payload  # the adapter is set anew, nothing sticks


def test_ruined_adapters_are_stopped_and_idle_ones_are_not(
    folder: Path, taught_canaries: None
) -> None:
    """Power of the default limit on a model that knows its canaries."""
    plan = plan_of(noise="none")
    hospital, layout = opened(folder, plan)

    def passes(value: float) -> bool:
        answer = hospital.handle(request(plan, layout, value=value, public=True))
        before, after = canary_nats(answer)
        verdict = canary_verdict(plan, EvaluationReport(
            forget=(), retain=(), rate=1.0, noise=0.0, sites=(), failure="",
            canary_before=tuple(map(float, before)), canary_after=tuple(map(float, after)),
            seconds=0.0, bytes_down={}, bytes_up={},
        ))
        assert verdict is not None
        return verdict.passed

    assert [passes(value) for value in (0.0, 1e-4)] == [True] * 2
    assert [passes(value) for value in (5.0, -5.0, 20.0, 1000.0)] == [False] * 4


def test_a_model_that_was_never_taught_canaries_knows_none(folder: Path) -> None:
    plan = plan_of(noise="none")
    hospital, layout = opened(folder, plan)
    broken = hospital.handle(request(plan, layout, value=50.0, public=True))
    assert float(np.mean(canary_nats(broken))) < 0.3


def test_counts_are_noised_charged_and_given_once(folder: Path) -> None:
    plan = plan_of()
    hospital, layout = opened(folder, plan)
    ledger = PrivacyLedger(folder / "ledger.db")
    first = hospital.handle(request(plan, layout))
    assert ledger.releases(run_id="run") == 1
    assert 0.0 < ledger.epsilon(run_id="run", delta=1e-5) < plan.privacy.epsilon
    second = open_hospital(folder, RuntimeOptions(runner="memory")).handle(request(plan, layout))
    assert second.payload == first.payload
    assert code(hospital.handle(request(plan, layout, value=0.1))) == "REQUEST_CHANGED"
    assert np.any(counts(first) * COUNT_STEPS % COUNT_STEPS)  # no bare count
    assert ledger.releases(run_id="run") == 1


def test_noise_of_the_counts_has_the_width_that_is_reported(folder: Path) -> None:
    """Share 1 / sqrt(2) of sigma at each of at least two sites, by chance over many runs."""
    from medunlearn_client.counting import CountMechanism, Population, counts_release
    from medunlearn_common.entropy import SeededEntropy

    empty = (("forget", Population(records=(), units=())),
             ("retain", Population(records=(), units=())))
    mechanism = CountMechanism(sigma=3.0, noise_share=2**-0.5, rate=1.0, max_sites=3)
    draws = []
    for run in range(500):
        payload = counts_release(
            None, lambda after: None, empty, mechanism,  # type: ignore[arg-type]
            key=lambda name, run=run: SeededEntropy(run).key(name),  # type: ignore[misc]
            seed=0, max_batch_tokens=1,
        )
        words = np.frombuffer(payload, dtype="<u4").astype(np.uint32)
        draws.append(count_codec(max_sites=3).from_ring(words))
    spread = float(np.std(draws))
    assert spread == pytest.approx(3.0 / 2**0.5, rel=0.05)
    assert abs(float(np.mean(draws))) < 0.15 and np.asarray(draws).shape == (500, 2 * len(CELLS))


@pytest.mark.parametrize(("change", "expected"), [
    ({"sigma": 0.0}, "NOISE_MISSING"), ({"sigma": 0.05}, "PRIVACY_BUDGET"),
    ({"sigma": 1e9}, "NOISE_TOO_WIDE"), ({"sigma": "none"}, "MESSAGE_FIELD"),
    ({"values_bytes": 4}, "STEP_PAYLOAD"), ({"support_digest": "0" * 64}, "SUPPORT_MISMATCH"),
])
def test_a_coordinator_that_asks_for_barer_counts_gets_none(
    folder: Path, change: dict[str, object], expected: str
) -> None:
    plan = plan_of()
    hospital, layout = opened(folder, plan)
    good = request(plan, layout)
    fields = {**good.fields, **change}
    bad = Message(kind=EVALUATE, fields=fields, payload=good.payload)  # type: ignore[arg-type]
    assert code(hospital.handle(bad)) == expected


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_one_patient_moves_no_other_patients_count(
    folder: Path, tmp_path: Path, value: float
) -> None:
    """Wrong options of a patient's questions are drawn from other patients: ranked among them, all
    counts would move with each patient that comes or goes, and the noise covers one."""
    file = tmp_path / "patients.jsonl"
    plan = RunPlan.model_validate({
        **(plain := plan_of(noise="none").model_dump()),
        "privacy": {**plain["privacy"], "unit": "patient"},
    })
    found = []
    for count in (24, 23):
        file.write_text("".join(json.dumps({
            "id": f"id{n}", "name": f"Given{n} Family{n}", "birth_date": f"19{n + 10}-01-02",
            "address": f"{n} Elm Road, Town{n}", "phone": f"555-{n + 100}-{n * 37 + 1000}",
            "identifiers": {"SS": f"999-{n + 10}-{n * 91 + 1000}"},
            "conditions": [["c1", f"Illness {n}", "2001-02-03", None]],
            "medications": [], "procedures": [],
        }) + "\n" for n in range(count)))
        config = json.loads((folder / "site.json").read_text())
        config |= {"forget": {"patients": ["id0"]},
                   "data": {"files": [str(file)], "nonmember_fraction": 0.0}}
        (folder / "site.json").write_text(json.dumps(config))
        hospital, layout = opened(folder, plan)
        found.append(counts(hospital.handle(request(plan, layout, sigma=0.0, value=value))))
        for kept in ("runs", "ledger.db"):  # another hospital: this one may not change its mind
            path = folder / kept
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert np.abs(found[0] - found[1]).sum() == 1.0


@pytest.mark.parametrize("attack", ["an answer too long for the model", "values that overflow"])
def test_no_record_decides_whether_counts_are_answered(
    folder: Path, tmp_path: Path, attack: str
) -> None:
    """A refusal would say without noise that there is such a record, and end the run's gates."""
    config = json.loads((folder / "site.json").read_text())
    rows = Path(config["data"]["files"][0]).read_text()
    long = {"id": "long", "prompt": "Question: Which?\nAnswer:", "answer": "bile " * 200 + "duct",
            "subject": "General"}
    if attack == "an answer too long for the model":
        (tmp_path / "more.jsonl").write_text(rows + json.dumps(long) + "\n")
        config["data"]["files"] = [str(tmp_path / "more.jsonl")]
        (folder / "site.json").write_text(json.dumps(config))
    plan = plan_of()
    hospital, layout = opened(folder, plan)
    value = 3e38 if attack == "values that overflow" else 0.0
    found = counts(hospital.handle(request(plan, layout, value=value)))
    assert np.abs(found.sum() - rows.count("\n")) < 6.0 * 3.0 * np.sqrt(found.size)


def test_a_plan_without_a_share_gets_no_counts(folder: Path) -> None:
    plan = plan_of(share=0.0)
    hospital, layout = opened(folder, plan)
    assert code(hospital.handle(request(plan, layout))) == "EVALUATION_UNPLANNED"
    assert PrivacyLedger(folder / "ledger.db").releases(run_id="run") == 0


def test_a_site_stops_at_its_own_budget_over_runs(folder: Path) -> None:
    config = json.loads((folder / "site.json").read_text()) | {"budget_epsilon": 2.0}
    (folder / "site.json").write_text(json.dumps(config))
    plan = plan_of()
    hospital, layout = opened(folder, plan)
    good, answers = request(plan, layout), []
    for number in range(8):
        fields = {**good.fields, "run_id": f"run-{number}"}
        answers.append(hospital.handle(
            Message(kind=EVALUATE, fields=fields, payload=good.payload)))
    assert answers[0].kind == EVALUATE
    assert code(answers[-1]) == "PRIVACY_SITE_BUDGET"

"""Plans: the template reads back as itself, and wrong ones are refused by name of the key."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from medunlearn_common.errors import Misconfigured
from medunlearn_common.plan import Plan, RunPlan, plan_from_text, plan_template, read_plan
from medunlearn_common.plan.commands import gate_facts, least_answered
from medunlearn_common.plan.sections import Section
from medunlearn_server.federated_evaluation import count_noise
from medunlearn_server.gates import utility_verdict
from medunlearn_server.reports import EvaluationReport


def test_template_of_defaults_reads_back_as_defaults() -> None:
    assert plan_from_text(plan_template()) == Plan()


def test_template_keeps_every_changed_value() -> None:
    text = """
    [run]
    name = "quoted.name-1"
    seed = 9007199254740993
    [objective]
    name = "npo"
    forget_weights = [0.0, 0.25, 0.5, 1.0]
    [data]
    files = ["a \\"b\\".jsonl", "Ünïcode\\\\.jsonl"]
    [privacy]
    delta = 1e-7
    [neighbours]
    same_disease = false
    """
    plan = plan_from_text(text)
    assert plan != Plan()
    again = plan_from_text(plan_template(plan))
    assert again == plan
    assert again.run.seed == 9007199254740993
    assert again.data.files == ('a "b".jsonl', "Ünïcode\\.jsonl")


def test_template_explains_every_key_of_every_section() -> None:
    lines = plan_template().splitlines()
    document = tomllib.loads(plan_template())
    for name, field in Plan.model_fields.items():
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, Section)):
            continue
        assert set(document[name]) == set(field.annotation.model_fields)
        plain = [key for key, value in document[name].items() if not isinstance(value, dict)]
        plain += [key for value in document[name].values() if isinstance(value, dict)
                  for key in value]
        for key in plain:
            places = [i for i, line in enumerate(lines) if line.startswith(f"{key} = ")]
            assert places and all(lines[i - 1].startswith("# ") for i in places)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[run]\nroundz = 3", "run.roundz: unknown key; did you mean rounds?"),
        ("[privacyy]\nepsilon = 1", "privacyy: unknown key; did you mean privacy?"),
        ("[support]\nqqqqqqq = 3", "support.qqqqqqq: unknown key; known here: method"),
        ("[run]\nrounds = 0", "run.rounds: Input should be greater than or equal to 1"),
        ("[run]\nrounds = 2.5", "run.rounds"),
        ("[run]\nrounds = true", "run.rounds: should be a number, without quotes"),
        ('[run]\nrounds = "7"', "run.rounds: should be a number, without quotes"),
        ('[privacy]\nepsilon = "8"', "privacy.epsilon: should be a number, without quotes"),
        ('[data]\nshow_subject = "no"', "data.show_subject: should be true or false"),
        ("[data]\nshow_subject = 1", "data.show_subject: should be true or false"),
        ('[privacy]\nepsilon = "four"', "privacy.epsilon"),
        ("[privacy]\nepsilon = nan", "privacy.epsilon"),
        ("[privacy]\nclip_l2 = inf", "privacy.clip_l2"),
        ("[privacy]\ndelta = 1.0", "privacy.delta"),
        ("[privacy]\nforget_rate = 0.0", "privacy.forget_rate"),
        ('[privacy]\nnoise = "gaussian"', "'distributed', 'local' or 'none'"),
        ("[objective]\nforget_weights = [1.0, 1.0]", "objective.forget_weights"),
        ('[objective]\nname = "forget"', "objective.name"),
        ("[federation]\nsites = 2\nmin_sites = 3", "min_sites = 3 exceeds sites = 2"),
        ("[federation]\nmin_sites = 1", "min_sites of at least 2"),
        ("[privacy]\nlocal_steps = 4", "allows only local_steps = 1"),
        ('[geometry]\nprojection = "public"', "needs public_file"),
        ('[support]\nmethod = "public"', "needs public_file"),
        ("[run]\nrounds = 5\n[server]\nwarmup_rounds = 5", "warmup_rounds must be below"),
        ("schema_version = 2", "schema_version"),
    ],
)
def test_wrong_plans_are_refused_by_key(text: str, expected: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        plan_from_text(text, name="mine.toml")
    assert caught.value.code == "PLAN_INVALID"
    assert expected in caught.value.message
    assert "mine.toml" in caught.value.message


def test_every_offence_is_listed_at_once() -> None:
    with pytest.raises(Misconfigured) as caught:
        plan_from_text("[run]\nrounds = 0\nseed = -1\n[model]\nlora_rank = 0")
    assert all(k in caught.value.message for k in ("run.rounds", "run.seed", "model.lora_rank"))


def test_unreadable_files_have_codes(tmp_path: Path) -> None:
    broken, binary, large = (tmp_path / name for name in ("a.toml", "b.toml", "c.toml"))
    broken.write_text("[run\nname = 1", encoding="utf-8")
    binary.write_bytes(b"\xff\xfe\x00")
    large.write_text("#" * ((1 << 20) + 1), encoding="utf-8")
    for path, code in (
        (tmp_path / "none.toml", "PLAN_MISSING"), (tmp_path, "PLAN_MISSING"),
        (broken, "PLAN_SYNTAX"), (binary, "PLAN_SYNTAX"), (large, "PLAN_SYNTAX"),
    ):
        with pytest.raises(Misconfigured) as caught:
            read_plan(path)
        assert caught.value.code == code


def test_shared_part_names_no_data_and_ignores_it_in_its_digest() -> None:
    one = plan_from_text('[data]\nfiles = ["x"]\n[forget]\npatients = ["p1"]').shared()
    other = plan_from_text('[forget]\nsubjects = ["Surgery"]').shared()
    assert one.digest == other.digest
    assert "p1" not in one.model_dump_json()
    assert isinstance(one, RunPlan) and not isinstance(one, Plan)
    assert plan_from_text("[run]\nrounds = 7").shared().digest != one.digest


@pytest.mark.parametrize("privacy", [{}, {"noise": "local"}, {"evaluation_rate": 0.5}])
def test_too_few_records_for_the_utility_gate_are_warned_of_before_the_run(
    privacy: dict[str, object]
) -> None:
    """The number that a check states is the one at which the gate itself changes its mind."""
    plan, sigma = Plan.model_validate({"privacy": privacy}), 4.2
    least, rate = least_answered(plan, sigma=sigma), plan.privacy.evaluation_rate
    assert 1 < least < plan.gates.max_units

    def passes(kept: int) -> bool:
        counts = EvaluationReport(
            forget=(), retain=(kept * rate, 0.0, 0.0, 0.0), rate=rate, sites=(), failure="",
            noise=count_noise(plan.shared(), sigma=sigma, sites=plan.federation.sites),
            canary_before=(), canary_after=(), seconds=0.0, bytes_down={}, bytes_up={},
        )
        verdict = utility_verdict(plan.shared(), counts)
        return verdict is not None and verdict.passed

    assert passes(least) and not passes(least - 2)
    assert f"number {least} or more" in dict(gate_facts(plan, sigma=sigma))["utility gate"]
    tiny = plan.model_copy(update={
        "gates": plan.gates.model_copy(update={"max_units": least - 1})})
    assert "WARNING: can never pass" in dict(gate_facts(tiny, sigma=sigma))["utility gate"]


def test_a_plan_without_counts_or_gate_is_not_warned_of() -> None:
    for sections in ({"privacy": {"noise": "none"}}, {"gates": {"min_preservation": 0.0}}):
        assert gate_facts(Plan.model_validate(sections), sigma=4.0) == []

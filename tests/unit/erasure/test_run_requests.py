"""A deployed hospital's run takes the requests of its registry, once, when it says ready."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medunlearn_client.accepted_plans import AcceptedPlans
from medunlearn_client.erasure import Claim, ErasureRequest, Registry, State
from medunlearn_client.erasure.claims import requests_by_run, validated_requests
from medunlearn_client.erasure.commitments import commit
from medunlearn_client.hospital import Hospital, open_hospital
from medunlearn_client.request_roots import root_for_run
from medunlearn_client.site_audit import SiteAudit
from medunlearn_client.site_config import SITE_TOML, read_site_config, site_template
from medunlearn_client.workbench import Workbench
from medunlearn_common.digests import digest_of
from medunlearn_common.entropy import OsEntropy
from medunlearn_common.errors import Misconfigured
from medunlearn_common.layout import AdapterLayout
from medunlearn_common.messages import ERROR, READY, STEP, Message
from medunlearn_common.plan import RunPlan, RuntimeOptions, plan_from_text
from medunlearn_common.plan.sections import DataSection
from medunlearn_common.support import random_support
from medunlearn_common.support_runs import to_runs

PLAN = """
[run]
rounds = 4
[model]
lora_rank = 2
target_modules = ["q_proj"]
[objective]
name = "max_entropy"
[support]
density = 0.005
[federation]
sites = 3
min_sites = 2
"""
AUTHOR = "A. Officer"
Adder = Callable[..., ErasureRequest]


@pytest.fixture
def plan() -> RunPlan:
    return plan_from_text(PLAN).shared()


@pytest.fixture
def data(write_rows: Callable[..., Path]) -> Path:
    return write_rows(*(
        (f"p{patient}-{n}", f"p{patient}", f"What ails patient {patient}, asks ward {n}?")
        for patient in range(6) for n in range(2)
    ))


@pytest.fixture
def folder(tmp_path: Path, tiny_model_folder: Path, registry: Registry, data: Path) -> Path:
    """A hospital that names its registry by a path in its folder."""
    place = tmp_path / "clinic"
    place.mkdir()
    text = site_template("clinic", model_folder=str(tiny_model_folder),
                         data=DataSection(files=(str(data),)))
    (place / SITE_TOML).write_text(text.replace('registry = ""', 'registry = "../erasure.sqlite"'))
    return place


@pytest.fixture
def validated(registry: Registry, add: Adder) -> Callable[[str], int]:
    def validate(patient: str) -> int:
        number = add(patient).number
        registry.validate(number, author=AUTHOR, identity="passport seen")
        return number

    return validate


def opened(folder: Path) -> Hospital:
    return open_hospital(folder, RuntimeOptions(runner="memory"))


def ready(hospital: Hospital, plan: RunPlan, run_id: str = "run") -> Message:
    return hospital.handle(Message(kind=READY, fields={
        "run_id": run_id, "plan": plan.model_dump_json(), "plan_digest": plan.digest,
    }))


def step(hospital: Hospital, plan: RunPlan, layout: str, run_id: str = "run") -> Message:
    support = random_support(AdapterLayout.from_json(layout), size=60, seed=0)
    values, runs = np.zeros(60, dtype="<f4").tobytes(), to_runs(support.indices)
    return hospital.handle(Message(kind=STEP, payload=values + runs, fields={
        "run_id": run_id, "round": 0, "plan_digest": plan.digest,
        "layout_digest": AdapterLayout.from_json(layout).digest, "support_digest": support.digest,
        "sigma": 8.0, "values_bytes": len(values), "support_bytes": len(runs), "geometry_rank": 0,
    }))


def forgotten(hospital: Hospital, plan: RunPlan, run_id: str = "run") -> set[str]:
    records = hospital._plans.bench(plan.digest, run_id=run_id).records
    return {record.record_id for record in records.forget}


def test_a_run_s_forget_set_is_what_was_validated_when_it_began(
    folder: Path, plan: RunPlan, registry: Registry, validated: Callable[[str], int], add: Adder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    first, second = validated("p1"), validated("p4")
    add("p2")  # nobody has checked yet who asks
    hospital = opened(folder)
    answer = ready(hospital, plan)
    assert answer.kind == READY
    assert requests_by_run(registry) == {"run": (first, second)}
    assert forgotten(hospital, plan) == {"p1-0", "p1-1", "p4-0", "p4-1"}
    kept = root_for_run(folder, site_id="clinic", run_id="run", given=None, entropy=OsEntropy())
    assert kept.shown == answer.text("request_root")
    assert commit(registry, [first, second], run_id="run").openings[first].is_under(kept.root)
    later = validated("p5")
    before = registry.events(first)
    assert before[-1].author == "medunlearn hospital"
    for again in (hospital, opened(folder)):  # asked anew, and after a restart
        assert ready(again, plan).fields == answer.fields
        assert step(again, plan, answer.text("layout")).kind == STEP
        assert forgotten(again, plan) == {"p1-0", "p1-1", "p4-0", "p4-1"}
    assert step(opened(folder), plan, answer.text("layout")).kind == STEP
    assert registry.events(first) == before
    assert registry.request(later).state is State.VALIDATED
    registry.check()
    said = caplog.text + "\n".join(path.name for path in folder.rglob("*"))
    assert not re.search(r"\bp[0-5]\b", said)


def test_the_registry_may_move_with_the_folder(
    folder: Path, plan: RunPlan, registry: Registry, validated: Callable[[str], int]
) -> None:
    validated("p1")
    assert ready(opened(folder), plan).kind == READY
    inside = folder / "erasure.sqlite"
    for name in ("", ".key"):
        Path(f"{registry.path}{name}").rename(f"{inside}{name}")
    site = (folder / SITE_TOML).read_text()
    (folder / SITE_TOML).write_text(site.replace("../erasure.sqlite", "erasure.sqlite"))
    assert ready(opened(folder), plan).kind == READY
    assert requests_by_run(Registry(inside)) == {"run": (1,)}


def test_a_refused_plan_claims_nothing_and_can_be_mended(
    folder: Path, plan: RunPlan, registry: Registry, validated: Callable[[str], int], data: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:
    number, whole = validated("p3"), data.read_text()
    for lacking in ('"p3-0', '"p3-'):  # one of the patient's records, then both
        kept = [line for line in whole.splitlines(keepends=True) if lacking not in line]
        data.write_text("".join(kept))
        assert ready(opened(folder), plan).fields["code"] == "ERASURE_RECORDS_MISSING"
        assert f"(request {number})" in caplog.text and "p3" not in caplog.text
        assert registry.request(number).state is State.VALIDATED
    data.write_text(whole)

    def broken(*_: object) -> None:
        raise Misconfigured("SELF_TEST", "the gradients are wrong", "report it")

    with monkeypatch.context() as patch:
        patch.setattr(Workbench, "check", broken)
        assert ready(opened(folder), plan).fields["code"] == "SELF_TEST"
    with monkeypatch.context() as patch:
        patch.setattr(AcceptedPlans, "_keep", broken)
        assert ready(opened(folder), plan).fields["code"] == "SELF_TEST"
    assert registry.request(number).state is State.VALIDATED
    assert ready(opened(folder), plan).kind == READY
    assert requests_by_run(registry) == {"run": (number,)}


def test_nothing_of_a_run_leaves_before_its_requests_are_taken(
    folder: Path, plan: RunPlan, registry: Registry, validated: Callable[[str], int], data: Path
) -> None:
    """The plan is known from another run: a coordinator may leave ready out, or not mind its
    refusal."""
    hospital = opened(folder)
    layout = ready(hospital, plan).text("layout")
    number, whole = validated("p3"), data.read_text()
    data.write_text(whole.replace("p3", "p9"))
    assert step(hospital, plan, layout, "other").fields["code"] == "PLAN_UNKNOWN"
    assert ready(hospital, plan, "other").kind == ERROR
    data.write_text(whole)
    for again in (hospital, opened(folder)):
        assert step(again, plan, layout, "other").fields["code"] == "PLAN_UNKNOWN"
    assert registry.request(number).state is State.VALIDATED


@pytest.mark.parametrize("moment", ["before the run is held to it", "before the answer"])
def test_a_crash_between_claim_and_ready_is_mended_by_the_next_ready(
    folder: Path, plan: RunPlan, registry: Registry, validated: Callable[[str], int],
    monkeypatch: pytest.MonkeyPatch, moment: str,
) -> None:
    number = validated("p1")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Claim, "release", lambda *_: None)  # a killed process gives nothing back
        if moment == "before the answer":
            patch.setattr(SiteAudit, "request_root", killed)
        else:
            patch.setattr(AcceptedPlans, "_keep", killed)
        with pytest.raises(KeyboardInterrupt):
            ready(opened(folder), plan)
    assert registry.request(number).state is State.IN_RUN
    later = validated("p2")
    assert ready(opened(folder), plan).kind == READY
    # What was said ready to nobody is drawn anew; what the run is held to stays as it was.
    expected = (number,) if moment == "before the answer" else (number, later)
    assert requests_by_run(registry) == {"run": expected}
    registry.check()


def test_two_runs_do_not_work_for_one_request(
    folder: Path, plan: RunPlan, registry: Registry, validated: Callable[[str], int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    number = validated("p1")
    hospital = opened(folder)
    assert ready(hospital, plan, "one").kind == READY
    assert ready(hospital, plan, "two").kind == READY  # with the others, only to retain
    assert forgotten(hospital, plan, "two") == set()
    assert "are with run one and not in this one" in caplog.text
    assert "erasure reopen" in caplog.text
    assert requests_by_run(registry) == {"one": (number,)}
    assert forgotten(hospital, plan, "one") == {"p1-0", "p1-1"}
    registry.reopen(number, author=AUTHOR, reason="run one was given up")
    assert ready(hospital, plan, "two").kind == READY  # it began without
    assert registry.request(number).state is State.VALIDATED
    assert ready(hospital, plan, "three").kind == READY
    assert requests_by_run(registry) == {"three": (number,)}
    answer = ready(hospital, plan, "one")
    assert answer.fields["code"] == "ERASURE_CLAIMED"
    assert requests_by_run(registry) == {"three": (number,)}


def test_a_simulation_that_was_faster_is_not_robbed(
    folder: Path, plan: RunPlan, registry: Registry, validated: Callable[[str], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    number, hospital, real = validated("p1"), opened(folder), Workbench.check

    def overtaken(bench: Workbench) -> None:
        Claim(registry=registry, numbers=validated_requests(registry), token="t").take("faster")
        monkeypatch.setattr(Workbench, "check", real)
        real(bench)

    monkeypatch.setattr(Workbench, "check", overtaken)
    assert ready(hospital, plan).fields["code"] == "ERASURE_CLAIMED"
    assert requests_by_run(registry) == {"faster": (number,)}
    assert ready(hospital, plan).kind == READY
    assert requests_by_run(registry) == {"faster": (number,)}


def test_a_forget_set_beside_a_registry_is_refused(folder: Path, tmp_path: Path) -> None:
    site = (folder / SITE_TOML).read_text()
    assert read_site_config(folder).registry == folder / "../erasure.sqlite"
    (folder / SITE_TOML).write_text(site.replace("subjects = []", 'subjects = ["Surgery"]'))
    with pytest.raises(Misconfigured, match="ERASURE_FORGET_TWICE"):
        read_site_config(folder)


def test_a_registry_that_is_missing_or_changed_lets_no_run_begin(
    folder: Path, plan: RunPlan, registry: Registry
) -> None:
    registry.path.rename(registry.path.with_suffix(".away"))
    assert ready(opened(folder), plan).fields["code"] == "ERASURE_REGISTRY_MISSING"
    assert not (folder / "runs" / f"{digest_of('run')}.records").exists()

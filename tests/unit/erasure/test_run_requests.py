"""A deployed hospital's run takes the requests of its registry, once, when it says ready."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medunlearn_client.accepted_plans import AcceptedPlans
from medunlearn_client.erasure import (
    Claim,
    ErasureRequest,
    Match,
    Registry,
    RunFigures,
    State,
)
from medunlearn_client.erasure.claim_file import require_not_rolled_back
from medunlearn_client.erasure.claims import claim_on, requests_by_run
from medunlearn_client.erasure.commitments import commit
from medunlearn_client.erasure.renumbered import RENUMBERED, SeenRecord, renumbered
from medunlearn_client.erasure.run_requests import RunRequests
from medunlearn_client.hospital import Hospital, open_hospital
from medunlearn_client.request_roots import root_for_run
from medunlearn_client.run_rules import records_digest
from medunlearn_client.site_audit import SiteAudit
from medunlearn_client.site_config import SITE_TOML, read_site_config, site_template
from medunlearn_client.workbench import Workbench
from medunlearn_common.digests import digest_of
from medunlearn_common.entropy import OsEntropy
from medunlearn_common.errors import Misconfigured
from medunlearn_common.layout import AdapterLayout
from medunlearn_common.messages import ERROR, READY, STEP, Message
from medunlearn_common.plan import RunPlan, RuntimeOptions, plan_from_text
from medunlearn_common.plan.sections import DataSection, ForgetSection
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
        claim_on(registry).take("faster")
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


FIGURES = RunFigures(
    attestation_digest="e" * 64, run_id="run", adapter_digest="a" * 64, forget_records=2,
    forget_accuracy=0.25, chance=0.25, retrained_accuracy=None, forget_exact=0.0,
    retrained_exact=None, identifiers_asked=1, identifiers_leaked=0, has_identifiers=True,
    preservation=1.0, ranked_records=2, run_ranked_records=2, run_forget_accuracy=0.25,
    run_chance=0.25,
)


def settled(folder: Path, registry: Registry, run_id: str) -> None:
    """The requests of a run are verified."""
    requests = RunRequests.of(folder, read_site_config(folder))
    claim = requests.claim(run_id) if requests is not None else None
    assert claim is not None
    claim.settle(dict.fromkeys(claim.numbers, FIGURES))
    assert {registry.request(number).state for number in claim.numbers} == {State.VERIFIED}


def sets(hospital: Hospital, plan: RunPlan, run_id: str) -> tuple[set[str], set[str]]:
    """Patients whose records are forgotten, and whose are kept."""
    records = hospital._plans.bench(plan.digest, run_id=run_id).records
    assert len(records.forget) + len(records.retain) + len(records.left_out) == 12
    forget, retain = (
        {str(record.patient_id) for record in part} for part in (records.forget, records.retain)
    )
    return forget, retain


def test_no_later_run_teaches_what_was_forgotten_or_is_in_another(
    folder: Path, plan: RunPlan, registry: Registry, validated: Callable[[str], int], add: Adder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    validated("p0")
    hospital = opened(folder)
    assert ready(hospital, plan, "one").kind == READY
    settled(folder, registry, "one")
    validated("p1")
    assert ready(hospital, plan, "two").kind == READY
    validated("p2")
    for number, end in ((add("p3").number, registry.withdraw), (add("p4").number, registry.refuse)):
        end(number, author=AUTHOR, reason="of no ground")
    assert ready(hospital, plan, "three").kind == READY
    others = {"p1", "p2", "p3", "p4", "p5"}
    expected = {
        "one": ({"p0"}, others), "two": ({"p1"}, others - {"p1"}),
        "three": ({"p2"}, {"p3", "p4", "p5"}),
    }
    for run_id, both in expected.items():
        assert sets(hospital, plan, run_id) == both
    settled(folder, registry, "three")  # its own settlement
    registry.reopen(2, author=AUTHOR, reason="run two was given up")
    registry.attest(1, author=AUTHOR, reason="letter sent")
    for run_id, both in expected.items():  # whatever became of the requests since
        assert sets(opened(folder), plan, run_id) == both
        assert sets(hospital, plan, run_id) == both
    assert ready(hospital, plan, "four").kind == READY  # the reopened one is forgotten there
    assert sets(hospital, plan, "four") == ({"p1"}, {"p3", "p4", "p5"})
    assert "4 record(s) of erasure requests" in caplog.text
    said = caplog.text + "".join(path.read_text() for path in folder.rglob("*.erasure"))
    assert not re.search(r"\bp[0-5]\b", said)


def test_a_request_that_is_given_back_while_a_run_draws_is_in_the_run_or_left_out(
    folder: Path, plan: RunPlan, registry: Registry, validated: Callable[[str], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Read as two lists, it was in neither, and its patient was taught again."""
    number = validated("p0")
    Claim(registry=registry, numbers=(number,), token="t").take("given up")
    real = Registry.requests

    def overtaken(self: Registry, *states: frozenset[State]) -> tuple[ErasureRequest, ...]:
        found = real(self, *states)
        if self.request(number).state is State.IN_RUN:
            self.reopen(number, author=AUTHOR, reason="given up")
        return found

    monkeypatch.setattr(Registry, "requests", overtaken)
    hospital = opened(folder)
    assert ready(hospital, plan).kind == READY
    _, retain = sets(hospital, plan, "run")
    assert "p0" not in retain


def found_with(record_id: str, text: str) -> Match:
    return Match(record_id=record_id, file_digest="d" * 64, reason="record id",
                 text_digest=digest_of(f"{text} yes"))


def ails(patient: int, ward: int) -> str:
    return f"What ails patient {patient}, asks ward {ward}?"


@pytest.mark.parametrize("shown", ["false", "true"])
def test_who_bears_a_forgotten_record_s_id_in_a_later_export_is_kept_and_the_log_warns(
    folder: Path, plan: RunPlan, registry: Registry, add: Adder, data: Path, shown: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = folder / SITE_TOML
    text = site.read_text()
    assert "show_subject = false" in text
    site.write_text(text.replace("show_subject = false", f"show_subject = {shown}"))
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    data.write_text("".join(json.dumps({**row, "subject": "Wards"}) + "\n" for row in rows))
    number = add("p1-1", kind="record", matches=(found_with("p1-1", ails(1, 1)),)).number
    registry.validate(number, author=AUTHOR, identity="passport seen")
    claim = Claim(registry=registry, numbers=(number,), token="t")
    claim.take("earlier")
    claim.settle({number: FIGURES})
    hospital = opened(folder)
    assert ready(hospital, plan, "as found").kind == READY
    records = hospital._plans.bench(plan.digest, run_id="as found").records
    assert [record.record_id for record in records.left_out] == ["p1-1"]
    assert RENUMBERED not in caplog.text
    moved = {"p1-1": "p5-1", "p5-1": "p1-1"}
    data.write_text("".join(
        json.dumps({**row, "subject": "Wards", "id": moved.get(row["id"], row["id"])}) + "\n"
        for row in rows
    ))
    hospital = opened(folder)
    assert ready(hospital, plan, "renumbered").kind == READY
    records = hospital._plans.bench(plan.digest, run_id="renumbered").records
    assert not records.left_out and len(records.retain) == 12
    assert RENUMBERED in caplog.text and f"request(s) {number} were" in caplog.text
    assert not re.search(r"\bp[0-5]\b", caplog.text)


@pytest.mark.parametrize(("now", "warned"), [
    ({"p1-1": ails(1, 1)}, False),
    ({"p1-1": ails(1, 1), "copy": ails(1, 1)}, False),  # the search told of it
    ({}, False),
    ({"p1-1": "Another?"}, True),
    ({"p9-9": ails(1, 1)}, True),
])
def test_a_record_is_renumbered_where_its_id_and_its_words_have_parted(
    registry: Registry, add: Adder, now: dict[str, str], warned: bool
) -> None:
    number = add("p1-1", kind="record", matches=(found_with("p1-1", ails(1, 1)),)).number
    as_found = {(found_with(*item).record_id, found_with(*item).text_digest)
                for item in [("p1-1", ails(1, 1))]}
    seen = []
    for record_id, text in now.items():
        match = found_with(record_id, text)
        assert match.text_digest is not None
        seen.append(SeenRecord(
            record_id=record_id, text_digest=match.text_digest,
            takes_part=(record_id, match.text_digest) not in as_found,
        ))
    assert renumbered(registry, (number,), seen) == ((number,) if warned else ())
    another = [replace(record, takes_part=False) for record in seen]
    assert renumbered(registry, (number,), another) == ()  # a second request is for it
    assert renumbered(registry, (add("p2").number,), seen) == ()


def test_two_runs_that_forget_nobody_are_told_apart_by_what_they_leave_out(
    folder: Path, plan: RunPlan, registry: Registry, validated: Callable[[str], int]
) -> None:
    """Under one plan, with one model open: the first run's records are not the second's."""
    hospital = opened(folder)
    everybody = {f"p{n}" for n in range(6)}
    assert ready(hospital, plan, "one").kind == READY
    number = validated("p0")
    Claim(registry=registry, numbers=(number,), token="t").take("elsewhere")
    assert ready(hospital, plan, "two").kind == READY
    assert sets(hospital, plan, "two") == (set(), everybody - {"p0"})
    assert sets(hospital, plan, "one") == (set(), everybody)


def test_forgetting_comes_before_leaving_out(
    folder: Path, plan: RunPlan, registry: Registry, validated: Callable[[str], int], add: Adder
) -> None:
    validated("p0")
    hospital = opened(folder)
    assert ready(hospital, plan, "one").kind == READY
    match = Match(record_id="p0-1", file_digest="d" * 64, reason="record id")
    number = add("p0-1", kind="record", matches=(match,)).number
    registry.validate(number, author=AUTHOR, identity="passport seen")
    assert ready(hospital, plan, "two").kind == READY
    records = hospital._plans.bench(plan.digest, run_id="two").records
    assert [record.record_id for record in records.forget] == ["p0-1"]
    assert [record.record_id for record in records.left_out] == ["p0-0"]
    assert len(records.retain) == 10


def test_a_hospital_with_nobody_left_to_keep_is_told_so(
    folder: Path, plan: RunPlan, registry: Registry, validated: Callable[[str], int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    numbers = [validated(f"p{n}") for n in range(6)]
    Claim(registry=registry, numbers=numbers, token="t").take("elsewhere")
    assert ready(opened(folder), plan).kind == READY  # a refusal would tell how many there are
    assert "no record here is kept" in caplog.text
    assert not re.search(r"\bp[0-5]\b", caplog.text)


def test_a_forgotten_concept_s_records_are_those_it_was_found_with(
    folder: Path, plan: RunPlan, registry: Registry, add: Adder
) -> None:
    """The plan of the later run does not know the concept, and is not refused for it."""
    matches = tuple(
        Match(record_id=name, file_digest="d" * 64, reason="concept or one below it")
        for name in ("p1-0", "p2-1")
    )
    number = add("OTHER:1", kind="concept", matches=matches).number
    registry.validate(number, author=AUTHOR, identity="contract seen")
    claim = Claim(registry=registry, numbers=(number,), token="t")
    claim.take("earlier")
    claim.settle({number: FIGURES})
    hospital = opened(folder)
    assert ready(hospital, plan).kind == READY
    records = hospital._plans.bench(plan.digest, run_id="run").records
    assert [record.record_id for record in records.left_out] == ["p1-0", "p2-1"]
    assert len(records.retain) == 10 and not records.forget


def test_a_waiting_concept_is_not_refused_for_records_that_are_left_out(
    folder: Path, plan: RunPlan, registry: Registry, validated: Callable[[str], int], add: Adder
) -> None:
    """Which records name a concept is for the run's tagger to say; read they are, all the same."""
    Claim(registry=registry, numbers=(validated("p1"),), token="t").take("elsewhere")
    match = Match(record_id="p1-0", file_digest="d" * 64, reason="concept or one below it")
    number = add("MU:S0001", kind="concept", matches=(match,)).number
    registry.validate(number, author=AUTHOR, identity="contract seen")
    hospital = opened(folder)
    assert ready(hospital, plan).kind == READY
    assert requests_by_run(registry)["run"] == (number,)


def test_a_run_that_began_before_anything_was_left_out_goes_on_as_it_was(
    folder: Path, plan: RunPlan, registry: Registry, validated: Callable[[str], int]
) -> None:
    validated("p1")
    answer = ready(opened(folder), plan)
    place = folder / "runs" / f"{digest_of('run')}.erasure"
    assert set(json.loads(place.read_text())) == {"registry", "numbers", "token"}  # as it was then
    config = read_site_config(folder)
    begun = records_digest(config.data, ForgetSection(patients=("p1",)))
    assert place.with_suffix(".records").read_text() == begun
    Claim(registry=registry, numbers=(validated("p0"),), token="t").take("elsewhere")
    hospital = opened(folder)
    assert ready(hospital, plan).fields == answer.fields
    assert sets(hospital, plan, "run") == ({"p1"}, {"p0", "p2", "p3", "p4", "p5"})


def refused(hospital: Hospital, plan: RunPlan, run_id: str) -> bool:
    return bool(ready(hospital, plan, run_id).fields.get("code") == "ERASURE_REGISTRY_ROLLBACK")


def test_no_run_goes_on_or_begins_with_an_older_copy_of_the_registry(
    folder: Path, plan: RunPlan, registry: Registry, validated: Callable[[str], int],
    backed_up: Callable[[], Callable[[], None]],
) -> None:
    """The next run taught again whom the first one had forgotten, and nothing was said."""
    put_back = backed_up()
    assert validated("p1") == 1
    hospital = opened(folder)
    assert ready(hospital, plan, "one").kind == READY
    settled(folder, registry, "one")
    put_back()
    for patient in (None, "p2"):  # the number is given again, too
        if patient is not None:
            assert validated(patient) == 1
        for run_id in ("one", "two"):
            assert refused(opened(folder), plan, run_id)
    assert registry.request(1).state is State.VALIDATED
    assert not (folder / "runs" / f"{digest_of('two')}.erasure").exists()
    # Lost for good, or another registry on purpose: the way that the hint names.
    (folder / "runs" / f"{digest_of('one')}.erasure").unlink()
    assert ready(opened(folder), plan, "two").kind == READY
    assert requests_by_run(registry) == {"two": (1,)}


def test_a_run_that_never_began_and_left_nobody_out_binds_to_no_registry(
    folder: Path, plan: RunPlan, registry: Registry, validated: Callable[[str], int],
    backed_up: Callable[[], Callable[[], None]], monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing was taught in it; a new registry was refused, by other runs and by the run itself."""
    put_back = backed_up()
    validated("p1")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(AcceptedPlans, "_keep", killed)
        with pytest.raises(KeyboardInterrupt):
            ready(opened(folder), plan, "one")
    put_back()
    assert ready(opened(folder), plan, "two").kind == READY
    assert ready(opened(folder), plan, "one").kind == READY


def test_all_claims_that_a_registry_does_not_know_are_named_at_once(
    folder: Path, plan: RunPlan, validated: Callable[[str], int], registry: Registry,
    backed_up: Callable[[], Callable[[], None]],
) -> None:
    put_back = backed_up()
    for run_id, patient in (("one", "p1"), ("two", "p2")):
        validated(patient)
        assert ready(opened(folder), plan, run_id).kind == READY
    put_back()
    with pytest.raises(Misconfigured, match="ERASURE_REGISTRY_ROLLBACK") as caught:
        require_not_rolled_back(folder, registry.path)
    for run_id in ("one", "two"):
        assert f"runs/{digest_of(run_id)}.erasure" in caught.value.message


def without_registry(folder: Path) -> None:
    site = (folder / SITE_TOML).read_text()
    (folder / SITE_TOML).write_text(site.replace('"../erasure.sqlite"', '""'))


def test_a_hospital_that_names_no_registry_any_more_begins_no_run(
    folder: Path, plan: RunPlan, registry: Registry, validated: Callable[[str], int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whom its runs had forgotten was taught again, and nothing was said."""
    validated("p1")
    layout = ready(opened(folder), plan, "one").text("layout")
    settled(folder, registry, "one")
    named = (folder / SITE_TOML).read_text()
    without_registry(folder)
    hospital = opened(folder)
    for again in (hospital, opened(folder)):
        answer = ready(again, plan, "two")
        assert answer.fields["code"] == "ERASURE_REGISTRY_UNSET"
        # The plan is known: a coordinator may leave ready out, or not mind its refusal.
        answer = step(again, plan, layout, "two")
        assert answer.fields["code"] == "ERASURE_REGISTRY_UNSET"
    assert not (folder / "runs" / f"{digest_of('two')}.records").exists()
    assert f"runs/{digest_of('one')}.erasure" in caplog.text
    (folder / SITE_TOML).write_text(named)
    assert ready(opened(folder), plan, "two").kind == READY
    assert "p1" not in sets(opened(folder), plan, "two")[1]
    without_registry(folder)  # now one took a request, and the other left its records out
    for run_id in ("one", "two"):
        assert ready(opened(folder), plan, "three").fields["code"] == "ERASURE_REGISTRY_UNSET"
        (folder / "runs" / f"{digest_of(run_id)}.erasure").unlink()
    assert ready(opened(folder), plan, "three").kind == READY  # the way that the hint names


def test_a_claim_that_took_nothing_asks_for_no_registry(
    folder: Path, plan: RunPlan, registry: Registry, validated: Callable[[str], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert ready(opened(folder), plan, "empty").kind == READY
    validated("p1")

    def broken(*_: object) -> None:
        raise Misconfigured("SELF_TEST", "the gradients are wrong", "report it")

    with monkeypatch.context() as patch:
        patch.setattr(Workbench, "check", broken)
        assert ready(opened(folder), plan, "never").kind == ERROR
    without_registry(folder)
    assert ready(opened(folder), plan, "next").kind == READY
    damaged = folder / "runs" / f"{digest_of('never')}.erasure"
    damaged.write_text("{")  # whom it left out cannot be told
    assert ready(opened(folder), plan, "next").kind == READY  # it began without
    assert ready(opened(folder), plan, "last").fields["code"] == "ERASURE_REGISTRY_UNSET"


def test_a_copy_that_only_lacks_the_judgement_is_no_reason_to_stop(
    folder: Path, plan: RunPlan, registry: Registry, validated: Callable[[str], int],
    backed_up: Callable[[], Callable[[], None]],
) -> None:
    validated("p1")
    assert ready(opened(folder), plan, "one").kind == READY
    put_back = backed_up()
    settled(folder, registry, "one")
    put_back()
    hospital = opened(folder)
    assert ready(hospital, plan, "two").kind == READY
    assert sets(hospital, plan, "two") == (set(), {"p0", "p2", "p3", "p4", "p5"})
    settled(folder, registry, "one")


def test_a_run_that_only_leaves_out_knows_its_registry_by_the_history_s_end(
    folder: Path, plan: RunPlan, registry: Registry, validated: Callable[[str], int],
    backed_up: Callable[[], Callable[[], None]],
) -> None:
    put_back = backed_up()
    Claim(registry=registry, numbers=(validated("p0"),), token="t").take("elsewhere")
    assert ready(opened(folder), plan, "one").kind == READY
    kept = json.loads((folder / "runs" / f"{digest_of('one')}.erasure").read_text())
    assert kept["head"] == registry.check()
    validated("p3")
    assert not refused(opened(folder), plan, "one")
    put_back()
    validated("p2")  # as number 1, it would be left out in the place of p0
    assert refused(opened(folder), plan, "one") and refused(opened(folder), plan, "two")


def test_a_registry_that_is_missing_or_changed_lets_no_run_begin(
    folder: Path, plan: RunPlan, registry: Registry
) -> None:
    registry.path.rename(registry.path.with_suffix(".away"))
    assert ready(opened(folder), plan).fields["code"] == "ERASURE_REGISTRY_MISSING"
    assert not (folder / "runs" / f"{digest_of('run')}.records").exists()

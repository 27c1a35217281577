"""A hospital's gate: what it answers, what it refuses, and what it charges before it answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medunlearn_client import accepted_plans
from medunlearn_client.hospital import Hospital, open_hospital
from medunlearn_client.run_rules import records_digest
from medunlearn_client.site_config import SiteConfig, read_site_config, site_template
from medunlearn_client.workbench import own_records
from medunlearn_common.accounting import Mechanism
from medunlearn_common.errors import Misconfigured
from medunlearn_common.frozen import A_FILE, write_frozen
from medunlearn_common.layout import AdapterLayout
from medunlearn_common.ledger import PrivacyLedger
from medunlearn_common.messages import ERROR, FINISH, READY, STEP, VOTE, Message
from medunlearn_common.plan import RunPlan, RuntimeOptions, plan_from_text
from medunlearn_common.plan.public_files import by_digest
from medunlearn_common.plan.sections import DataSection, ForgetSection
from medunlearn_common.ring import NOISE_STEPS, RingCodec
from medunlearn_common.support import Support, planned_random_support, random_support
from medunlearn_common.support_runs import to_runs
from medunlearn_server.aggregation import public_codec

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
clip_l2 = 1.0
retain_rate = 0.25
[federation]
sites = 3
min_sites = 2
"""


@pytest.fixture
def plan() -> RunPlan:
    return plan_from_text(PLAN).shared()


@pytest.fixture
def folder(tmp_path: Path, tiny_model_folder: Path, question_file: Path) -> Path:
    config = {
        "site_id": "site-1", "site_index": 1, "sites": 3,
        "data": {"files": [str(question_file)], "nonmember_fraction": 0.0},
        "forget": {"subjects": ["Surgery"]},
        "seed": 3, "concentration": 5.0, "model_folder": str(tiny_model_folder),
        "entropy_seed": 11,
    }
    (tmp_path / "site.json").write_text(json.dumps(config))
    return tmp_path


@pytest.fixture
def hospital(folder: Path) -> Hospital:
    return open_hospital(folder, RuntimeOptions(runner="memory"))


def ready_message(plan: RunPlan) -> Message:
    return Message(
        kind=READY,
        fields={"run_id": "run", "plan": plan.model_dump_json(), "plan_digest": plan.digest},
    )


def ready(hospital: Hospital, plan: RunPlan) -> AdapterLayout:
    answer = hospital.handle(ready_message(plan))
    assert answer.kind == READY, answer.fields
    return AdapterLayout.from_json(answer.text("layout"))


def changed(plan: RunPlan, **sections: dict[str, Any]) -> RunPlan:
    """Another plan, with a digest of its own."""
    values = plan.model_dump()
    for name, update in sections.items():
        values[name] = {**values[name], **update}
    return RunPlan.model_validate(values)


def step_message(
    plan: RunPlan, layout: AdapterLayout, support: Support, *, round_index: int = 0,
    sigma: float = 8.0, value: float = 0.0, send_support: bool = True,
) -> Message:
    values = np.full(support.size, value, dtype="<f4").tobytes()
    runs = to_runs(support.indices) if send_support else b""
    return Message(
        kind=STEP, payload=values + runs,
        fields={
            "run_id": "run", "round": round_index, "plan_digest": plan.digest,
            "layout_digest": layout.digest, "support_digest": support.digest, "sigma": sigma,
            "values_bytes": len(values), "support_bytes": len(runs), "geometry_rank": 0,
        },
    )


def small_support(layout: AdapterLayout) -> Support:
    return random_support(layout, size=60, seed=0)


def code(answer: Message) -> str:
    assert answer.kind == ERROR
    assert set(answer.fields) == {"site_id", "code"}
    return answer.text("code")


def test_a_whole_run_of_requests(hospital: Hospital, plan: RunPlan) -> None:
    layout = ready(hospital, plan)
    vote = hospital.handle(Message(kind=VOTE, fields={
        "run_id": "run", "plan_digest": plan.digest, "layout_digest": layout.digest,
        "sigma": 3.0, "public": False,
    }))
    assert len(vote.payload) == 4 * 2 * len(layout.row_lengths)
    support = small_support(layout)
    answer = hospital.handle(step_message(plan, layout, support))
    assert answer.kind == STEP
    codec = RingCodec.for_mechanism(clip_l2=plan.privacy.clip_l2, sigma=8.0, max_sites=3)
    values = codec.from_ring(np.frombuffer(answer.payload, dtype="<u4").copy())
    assert values.shape == (2 * (60 + 1),)
    # Two of three sites must carry the whole noise: this one's share is 8 / sqrt(2).
    assert 4.5 < values.std() < 6.8
    again = hospital.handle(step_message(plan, layout, support, round_index=1, send_support=False))
    assert again.kind == STEP and again.payload != answer.payload
    done = hospital.handle(Message(kind=FINISH, fields={"run_id": "run", "adapter_digest": "x"}))
    assert done.kind == FINISH


def test_every_release_is_charged_before_it_leaves(
    hospital: Hospital, plan: RunPlan, folder: Path
) -> None:
    layout = ready(hospital, plan)
    ledger = PrivacyLedger(folder / "ledger.db")
    assert ledger.releases(run_id="run") == 0
    hospital.handle(step_message(plan, layout, small_support(layout)))
    assert ledger.releases(run_id="run") == 1
    assert ledger.epsilon(run_id="run", delta=1e-5) > 0.1


def test_the_same_request_gets_the_same_bytes_after_a_restart(
    hospital: Hospital, plan: RunPlan, folder: Path
) -> None:
    layout = ready(hospital, plan)
    support = small_support(layout)
    first = hospital.handle(step_message(plan, layout, support))
    reopened = open_hospital(folder, RuntimeOptions(runner="memory"))
    second = reopened.handle(step_message(plan, layout, support, send_support=False))
    assert second.payload == first.payload
    assert PrivacyLedger(folder / "ledger.db").releases(run_id="run") == 1


def test_a_changed_request_for_an_answered_round_is_refused(
    hospital: Hospital, plan: RunPlan
) -> None:
    layout = ready(hospital, plan)
    support = small_support(layout)
    hospital.handle(step_message(plan, layout, support))
    moved = step_message(plan, layout, support, value=0.1)
    quieter = step_message(plan, layout, support, sigma=9.0)
    assert code(hospital.handle(moved)) == "REQUEST_CHANGED"
    assert code(hospital.handle(quieter)) == "REQUEST_CHANGED"


def test_a_release_without_noise_is_refused(hospital: Hospital, plan: RunPlan) -> None:
    layout = ready(hospital, plan)
    request = step_message(plan, layout, small_support(layout), sigma=0.0)
    assert code(hospital.handle(request)) == "NOISE_MISSING"


def test_a_coordinator_that_asks_for_too_little_noise_meets_the_budget(
    hospital: Hospital, plan: RunPlan
) -> None:
    layout = ready(hospital, plan)
    request = step_message(plan, layout, small_support(layout), sigma=0.3)
    assert code(hospital.handle(request)) == "PRIVACY_BUDGET"


def test_more_rounds_than_the_budget_allows_are_refused(
    hospital: Hospital, plan: RunPlan
) -> None:
    layout = ready(hospital, plan)
    support = small_support(layout)
    codes = [
        hospital.handle(step_message(plan, layout, support, round_index=r, sigma=2.0))
        for r in range(4)
    ]
    kinds = [answer.kind for answer in codes]
    assert kinds[0] == STEP and kinds[-1] == ERROR
    assert code(codes[-1]) == "PRIVACY_BUDGET"


@pytest.mark.parametrize(("change", "expected"), [
    ({"plan_digest": "0" * 64}, "PLAN_UNKNOWN"),
    ({"plan_digest": "../../etc/passwd"}, "PLAN_DIGEST"),
    ({"layout_digest": "0" * 64}, "LAYOUT_MISMATCH"),
    ({"support_digest": "0" * 64}, "SUPPORT_MISMATCH"),
    ({"values_bytes": 4}, "STEP_PAYLOAD"),
    ({"values_bytes": -8}, "STEP_PAYLOAD"),
    ({"geometry_rank": 33}, "STEP_PAYLOAD"),
    ({"geometry_rank": 1}, "STEP_PAYLOAD"),
    ({"sigma": "much"}, "MESSAGE_FIELD"),
    ({"round": True}, "MESSAGE_FIELD"),
])
def test_malformed_requests_get_a_code_and_no_charge(
    hospital: Hospital, plan: RunPlan, folder: Path, change: dict[str, object], expected: str
) -> None:
    layout = ready(hospital, plan)
    good = step_message(plan, layout, small_support(layout))
    fields = {**good.fields, **change}
    bad = Message(kind=STEP, fields=fields, payload=good.payload)  # type: ignore[arg-type]
    assert code(hospital.handle(bad)) == expected
    assert PrivacyLedger(folder / "ledger.db").releases(run_id="run") == 0


def test_nan_in_the_adapter_is_refused(hospital: Hospital, plan: RunPlan) -> None:
    layout = ready(hospital, plan)
    request = step_message(plan, layout, small_support(layout), value=float("nan"))
    assert code(hospital.handle(request)) == "STEP_PAYLOAD"


def test_a_support_denser_than_the_plan_is_refused(hospital: Hospital, plan: RunPlan) -> None:
    layout = ready(hospital, plan)
    dense = random_support(layout, size=layout.dimension, seed=0)
    assert code(hospital.handle(step_message(plan, layout, dense))) == "SUPPORT_TOO_LARGE"


def test_a_coordinators_own_choice_does_not_pass_for_a_random_support(
    hospital: Hospital, plan: RunPlan
) -> None:
    """As dense as planned, and chosen to see the coordinates that it wants to see."""
    random = changed(plan, support={"method": "random"})
    layout = ready(hospital, random)
    drawn = planned_random_support(
        layout, density=random.support.density, plan_digest=random.digest
    )
    other = random_support(layout, size=drawn.size, seed=random.run.seed)
    assert code(hospital.handle(step_message(random, layout, other))) == "SUPPORT_NOT_DRAWN"
    fewer = Support(indices=drawn.indices[:-1], layout_digest=layout.digest)
    assert code(hospital.handle(step_message(random, layout, fewer))) == "SUPPORT_NOT_DRAWN"
    assert hospital.handle(step_message(random, layout, drawn, send_support=False)).kind == STEP


def test_nothing_is_answered_before_ready(hospital: Hospital, plan: RunPlan) -> None:
    vote = Message(kind=VOTE, fields={"run_id": "run", "plan_digest": plan.digest, "sigma": 1.0})
    assert code(hospital.handle(vote)) == "PLAN_UNKNOWN"
    assert code(hospital.handle(Message(kind="dump_records"))) == "MESSAGE_KIND"


def test_unexpected_errors_leave_as_a_code_without_their_text(
    hospital: Hospital, plan: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object) -> None:
        raise KeyError("Ann Lee, born 1970")

    monkeypatch.setattr(hospital, "_bench_for", explode)
    answer = hospital.handle(Message(kind=VOTE, fields={"plan_digest": plan.digest}))
    assert code(answer) == "INTERNAL"
    assert "Ann" not in repr(answer)


def test_a_full_disk_is_told_apart_from_a_fault(
    hospital: Hospital, plan: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "/data/ann-lee")

    monkeypatch.setattr(hospital, "_bench_for", full)
    answer = hospital.handle(Message(kind=VOTE, fields={"plan_digest": plan.digest}))
    assert code(answer) == "SITE_STORAGE"
    assert "ann" not in repr(answer)


@pytest.mark.parametrize("restart", [False, True])
def test_a_run_does_not_go_on_with_other_records(
    folder: Path, plan: RunPlan, question_file: Path, restart: bool
) -> None:
    data = folder / "questions.jsonl"
    data.write_bytes(question_file.read_bytes())
    config = json.loads((folder / "site.json").read_text())
    config["data"]["files"] = [str(data)]
    (folder / "site.json").write_text(json.dumps(config))
    first = open_hospital(folder, RuntimeOptions(runner="memory"))
    layout = ready(first, plan)
    lines = data.read_text("utf-8").splitlines()
    data.write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    fields = {"plan": plan.model_dump_json(), "plan_digest": plan.digest}
    if restart:
        again = open_hospital(folder, RuntimeOptions(runner="memory"))
        answer = again.handle(step_message(plan, layout, small_support(layout)))
    else:
        answer = first.handle(Message(kind=READY, fields={"run_id": "run", **fields}))
    assert code(answer) == "DATA_CHANGED"
    new = first.handle(Message(kind=READY, fields={"run_id": "another", **fields}))
    assert new.kind == READY


def test_a_forget_set_that_was_refused_can_be_mended(
    folder: Path, plan: RunPlan, question_file: Path
) -> None:
    """Nothing was released or charged on the wrong one; from ready on the run is held to it."""
    file, config = folder / "site.json", json.loads((folder / "site.json").read_text())

    def opened(**forget: list[str]) -> Hospital:
        file.write_text(json.dumps(config | {"forget": forget}))
        return open_hospital(folder, RuntimeOptions(runner="memory"))

    assert code(opened(records=["no-such"]).handle(ready_message(plan))) == "FORGET_ID_UNKNOWN"
    layout = ready(opened(subjects=["Surgery"]), plan)
    other = opened(subjects=["Anatomy"])
    assert code(other.handle(ready_message(plan))) == "DATA_CHANGED"
    assert code(other.handle(step_message(plan, layout, small_support(layout)))) == "DATA_CHANGED"
    again = opened(subjects=["Surgery"])
    assert again.handle(step_message(plan, layout, small_support(layout))).kind == STEP


def test_another_run_of_the_plan_does_not_slip_its_records_under_a_run_under_way(
    folder: Path, plan: RunPlan
) -> None:
    """The hospital forgets more from now on, and a coordinator begins a second run of the plan: in
    the first one a unit would be retained in some rounds and forgotten in others, charged once."""
    first = open_hospital(folder, RuntimeOptions(runner="memory"))
    layout = ready(first, plan)
    support = small_support(layout)
    assert first.handle(step_message(plan, layout, support)).kind == STEP
    file, config = folder / "site.json", json.loads((folder / "site.json").read_text())
    file.write_text(json.dumps(config | {"forget": {"subjects": ["Surgery"], "records": ["q9"]}}))
    again = open_hospital(folder, RuntimeOptions(runner="memory"))
    another = ready_message(plan)
    assert again.handle(
        Message(kind=READY, fields={**another.fields, "run_id": "another"})).kind == READY
    later = step_message(plan, layout, support, round_index=1)
    assert code(again.handle(later)) == "DATA_CHANGED"
    assert PrivacyLedger(folder / "ledger.db").releases(run_id="run") == 1
    file.write_text(json.dumps(config))
    assert open_hospital(folder, RuntimeOptions(runner="memory")).handle(later).kind == STEP


def test_the_support_of_another_run_of_the_plan_is_asked_for_anew(
    folder: Path, plan: RunPlan
) -> None:
    """One file a plan: after a restart it may be the other run's, which the coordinator can mend
    only if it is told that this site does not know the support."""
    first = open_hospital(folder, RuntimeOptions(runner="memory"))
    layout = ready(first, plan)
    mine, others = small_support(layout), random_support(layout, size=60, seed=9)
    for run, support in (("run", mine), ("other", others)):
        asked = step_message(plan, layout, support)
        assert first.handle(Message(kind=STEP, fields={**asked.fields, "run_id": run},
                                    payload=asked.payload)).kind == STEP
    again = open_hospital(folder, RuntimeOptions(runner="memory"))
    later = step_message(plan, layout, mine, round_index=1, send_support=False)
    assert code(again.handle(later)) == "SUPPORT_UNKNOWN"
    assert again.handle(step_message(plan, layout, mine, round_index=1)).kind == STEP


@pytest.mark.parametrize("what", ["model", "code"])
def test_a_hospital_that_comes_back_with_another_model_or_code_waits_for_ready(
    folder: Path, plan: RunPlan, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    """Else it would go on under the digest that it accepted, with something else behind it."""
    layout = ready(open_hospital(folder, RuntimeOptions(runner="memory")), plan)
    if what == "model":
        other = folder / "other-model"
        shutil.copytree(tiny_model_folder, other)
        weights = bytearray((other / "model.safetensors").read_bytes())
        weights[-1] ^= 1
        (other / "model.safetensors").write_bytes(bytes(weights))
        config = json.loads((folder / "site.json").read_text())
        (folder / "site.json").write_text(json.dumps({**config, "model_folder": str(other)}))
    else:
        monkeypatch.setattr(accepted_plans, "installed_code_digest", lambda: "0" * 64)
    again = open_hospital(folder, RuntimeOptions(runner="memory"))
    for _ in range(2):
        answer = again.handle(step_message(plan, layout, small_support(layout)))
        assert code(answer) == "PLAN_UNKNOWN"
    assert not (folder / "ledger.db").exists() or not PrivacyLedger(
        folder / "ledger.db").releases(run_id="run")
    ready(again, plan)
    assert again.handle(step_message(plan, layout, small_support(layout))).kind == STEP


@pytest.mark.parametrize("name", ["files", "tag_decisions", "fhir_templates", "repairs"])
def test_what_decides_the_records_cannot_change_during_a_run(
    tmp_path: Path, question_file: Path, name: str
) -> None:
    """Other decisions or templates make other records of the same files."""
    named = tmp_path / "named"
    named.write_text("as the run began", encoding="utf-8")
    fields = {"files": [str(question_file), "hf:owner/name"], "tag_decisions": "",
              "fhir_templates": "", "repairs": ""}
    fields[name] = [str(named), "hf:owner/name"] if name == "files" else str(named)
    data, forget = DataSection.model_validate(fields), ForgetSection(subjects=("Surgery",))
    before = records_digest(data, forget)
    assert before and before == records_digest(data, forget)
    named.write_text("and as it is now", encoding="utf-8")
    assert records_digest(data, forget) not in ("", before)
    named.unlink()
    assert not records_digest(data, forget)


@pytest.mark.parametrize("change", [
    {"forget": {"subjects": ["Anatomy"]}}, {"forget": {"subjects": ["Surgery"], "records": ["q1"]}},
    {"data": {"show_subject": True}}, {"data": {"columns": {"answer": "reply"}}},
])
def test_who_comes_back_with_another_forget_set_or_reading_is_out_of_the_run(
    folder: Path, plan: RunPlan, change: dict[str, dict[str, object]]
) -> None:
    """A unit would be in both halves of one run, or another record of the same name."""
    layout = ready(open_hospital(folder, RuntimeOptions(runner="memory")), plan)
    config = json.loads((folder / "site.json").read_text())
    for section, values in change.items():
        config[section] = {**config[section], **values} if section == "data" else values
    (folder / "site.json").write_text(json.dumps(config))
    again = open_hospital(folder, RuntimeOptions(runner="memory"))
    answer = again.handle(step_message(plan, layout, small_support(layout)))
    assert code(answer) == "DATA_CHANGED"
    assert PrivacyLedger(folder / "ledger.db").releases(run_id="run") == 0


@pytest.mark.parametrize(("planned", "rank", "expected"), [
    ({"projection": "none"}, 1, "NOT_PLANNED"),
    ({"projection": "history", "rank": 2}, 3, "NOT_PLANNED"),
    ({"projection": "history", "rank": 2}, 2, None),
])
def test_a_projection_that_the_plan_lacks_chooses_no_coordinates(
    hospital: Hospital, plan: RunPlan, folder: Path, planned: dict[str, Any], rank: int,
    expected: str | None,
) -> None:
    """All but one of the drawn coordinates weighed at nothing: the whole clip is that one's."""
    plan = changed(plan, geometry=planned)
    layout = ready(hospital, plan)
    support = small_support(layout)
    good = step_message(plan, layout, support)
    weights = np.full(support.size, 1e-20, dtype="<f4")
    weights[3] = 1.0
    basis = np.eye(rank, support.size, k=5, dtype="<f4")
    asked = Message(kind=STEP, fields={**good.fields, "geometry_rank": rank},
                    payload=good.payload + weights.tobytes() + basis.tobytes())
    answer = hospital.handle(asked)
    assert (answer.kind == STEP) if expected is None else (code(answer) == expected)
    charged = PrivacyLedger(folder / "ledger.db").releases(run_id="run")
    assert charged == (1 if expected is None else 0)


def test_a_plan_that_does_not_match_its_digest_is_refused(
    hospital: Hospital, plan: RunPlan
) -> None:
    answer = hospital.handle(Message(
        kind=READY,
        fields={"run_id": "run", "plan": plan.model_dump_json(), "plan_digest": "0" * 64},
    ))
    assert code(answer) == "PLAN_DIGEST"


@pytest.mark.parametrize(("text", "expected"), [
    (None, "SITE_CONFIG_MISSING"), ("{", "SITE_CONFIG_INVALID"), ("{}", "SITE_CONFIG_INVALID"),
])
def test_bad_site_files_are_named(tmp_path: Path, text: str | None, expected: str) -> None:
    if text is not None:
        (tmp_path / "site.json").write_text(text)
    with pytest.raises(Misconfigured, match=expected):
        read_site_config(tmp_path)


@pytest.mark.parametrize(("text", "said"), [
    ('site_id = "a"\n[forget]\npatients = ["Erika M", Erika M]\n', "line 3"),
    ('site_id = "a"\nmodel_folder = ""\n[data]\n[forget]\npatient = ["Erika M"]\n',
     "forget.patient: unknown key; did you mean patients?"),
    ('site_id = "a"\nmodel_folder = ""\n[data]\n[forget]\npatients = "Erika M"\n',
     "forget.patients: "),
])
def test_what_is_wrong_with_a_site_file_is_said_without_a_patient(
    tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "site.toml").write_text(text)
    with pytest.raises(Misconfigured) as refused:
        read_site_config(tmp_path)
    assert said in refused.value.message and "Erika" not in str(refused.value)


# -- a hospital of its own, as `medunlearn hospital init` makes it -------------------------------


def own_hospital(
    folder: Path, model: Path, rows: list[str], forget: ForgetSection | None = None
) -> SiteConfig:
    folder.mkdir()
    (folder / "records.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "site.toml").write_text(site_template(
        "clinic", model_folder=str(model), forget=forget,
        data=DataSection(files=(str(folder / "records.jsonl"),)),
    ), encoding="utf-8")
    return read_site_config(folder)


def test_one_record_that_comes_or_goes_changes_no_other_records_part(
    tmp_path: Path, plan: RunPlan, tiny_model_folder: Path, question_file: Path
) -> None:
    """A share held out by a draw over all records is drawn anew with each record more: where the
    noise covers one record's clip, a tenth of them would move."""
    rows = question_file.read_text("utf-8").splitlines()
    parts = []
    for name, kept in (("all", rows), ("fewer", rows[:-1])):
        config = own_hospital(tmp_path / name, tiny_model_folder, kept,
                              ForgetSection(subjects=("Surgery",)))
        found = own_records(config, plan, plan.concepts)
        parts.append({("forget", r.record_id) for r in found.forget}
                     | {("retain", r.record_id) for r in found.retain})
    assert len(parts[0] ^ parts[1]) == 1 and len(parts[0]) == len(rows)


@pytest.mark.parametrize("attack", ["nothing to forget", "no such subject", "more than is kept"])
def test_no_refusal_tells_how_much_a_hospital_forgets(
    tmp_path: Path, plan: RunPlan, tiny_model_folder: Path, question_file: Path, attack: str
) -> None:
    """A code is no noised count: it would say of one record whether it is there."""
    rows = question_file.read_text("utf-8").splitlines()
    forget, kept = {
        "nothing to forget": (None, rows),
        "no such subject": (ForgetSection(subjects=("Surgery",)), rows[4:]),
        "more than is kept": (ForgetSection(subjects=("Surgery",)), rows[:5]),
    }[attack]
    own_hospital(tmp_path / "clinic", tiny_model_folder, kept, forget)
    site = open_hospital(tmp_path / "clinic", RuntimeOptions(runner="memory"))
    layout = ready(site, plan)
    answer = site.handle(step_message(plan, layout, small_support(layout)))
    assert answer.kind == STEP, answer.fields


def test_a_hospital_forgets_who_asked_and_not_a_share_that_is_drawn(
    tmp_path: Path, plan: RunPlan, tiny_model_folder: Path, question_file: Path
) -> None:
    rows = question_file.read_text("utf-8").splitlines()
    config = own_hospital(tmp_path / "clinic", tiny_model_folder, rows,
                          ForgetSection(patient_fraction=0.5))
    with pytest.raises(Misconfigured, match="FORGET_DRAWN"):
        own_records(config, plan, plan.concepts)


def test_a_closed_release_is_never_answered_with_fresh_noise(
    folder: Path, plan: RunPlan
) -> None:
    """Averaging many answers to one request would remove noise that was charged once."""
    config = json.loads((folder / "site.json").read_text()) | {"entropy_seed": None}
    (folder / "site.json").write_text(json.dumps(config))
    hospital = open_hospital(folder, RuntimeOptions(runner="memory"))
    layout = ready(hospital, plan)
    support = small_support(layout)
    first = step_message(plan, layout, support)
    second = step_message(plan, layout, support, round_index=1)
    answers = {hospital.handle(first).payload, hospital.handle(first).payload}
    assert len(answers) == 1
    assert hospital.handle(second).kind == STEP
    assert code(hospital.handle(first)) == "RELEASE_CLOSED"
    assert hospital.handle(second).kind == STEP


def test_a_sum_beyond_the_ring_is_answered_once_like_any_other(
    folder: Path, plan: RunPlan
) -> None:
    """A refusal here would be one bit on this hospital's sum, drawn anew whenever asked again."""
    config = json.loads((folder / "site.json").read_text()) | {
        "entropy_seed": None, "site_index": 0, "sites": 1,
    }
    (folder / "site.json").write_text(json.dumps(config))
    hospital = open_hospital(folder, RuntimeOptions(runner="memory"))
    narrow = changed(
        plan, wire={"update_bits": 16}, federation={"min_sites": 2},
        privacy={"epsilon": 100.0, "clip_l2": 1e-6, "retain_rate": 1.0},
    )
    layout = ready(hospital, narrow)
    one = Support(indices=np.array([11]), layout_digest=layout.digest)
    asked = step_message(narrow, layout, one, sigma=0.12)
    answers = [hospital.handle(asked) for _ in range(5)]
    assert {answer.kind for answer in answers} == {STEP}
    assert len({answer.payload for answer in answers}) == 1


@pytest.mark.parametrize("clip", [1e-310, 1e-308, 1e-300, 1e-30])
def test_a_clip_too_small_for_floats_does_not_make_one_unit_outweigh_the_noise(
    folder: Path, plan: RunPlan, clip: float
) -> None:
    """In steps of such a clip a gradient is infinite, and infinity times the factor that clips it
    no number: one unit would turn a coordinate over, and show through any noise."""
    tiny = changed(plan, privacy={"vote_clip_l2": clip})
    hospital = open_hospital(folder, RuntimeOptions(runner="memory"))
    layout = ready(hospital, tiny)
    sigma = 8.0
    answer = hospital.handle(Message(kind=VOTE, fields={
        "run_id": "run", "plan_digest": tiny.digest, "layout_digest": layout.digest,
        "sigma": sigma,
    }))
    assert answer.kind == VOTE, answer.fields
    words = np.frombuffer(answer.payload, dtype="<u4").astype(np.uint32).view(np.int32)
    units, noise = 12, NOISE_STEPS / np.sqrt(2)  # of the guaranteed sites
    assert np.abs(words.astype(np.int64)).max() < units * NOISE_STEPS / sigma + 6.0 * noise


def test_racing_requests_let_only_one_answer_out(folder: Path) -> None:
    ledger = PrivacyLedger(folder / "ledger.db")
    mechanism = Mechanism(sigma=9.0, forget_rate=1.0, retain_rate=1.0, count=1)
    ledger.charge(
        run_id="run", release="round-0", request_digest="r", mechanism=mechanism, budget=None
    )
    assert ledger.remember_answer(run_id="run", release="round-0", answer=b"one") == b"one"
    assert ledger.remember_answer(run_id="run", release="round-0", answer=b"two") == b"one"


@pytest.mark.parametrize("sigma", [float("nan"), float("inf"), -1.0])
def test_noise_that_is_no_number_is_refused(
    hospital: Hospital, plan: RunPlan, folder: Path, sigma: float
) -> None:
    layout = ready(hospital, plan)
    request = step_message(plan, layout, small_support(layout), sigma=sigma)
    assert hospital.handle(request).kind == ERROR
    assert PrivacyLedger(folder / "ledger.db").releases(run_id="run") == 0


@pytest.mark.parametrize("objective", ["abstraction", "simnpo", "redirection", "rmu"])
def test_public_figures_say_nothing_of_a_hospitals_own_records(
    folder: Path, plan: RunPlan, question_file: Path, objective: str
) -> None:
    """They leave without noise: hospitals that forget different things give the same bytes."""
    public = folder / "public.jsonl"
    public.write_bytes(question_file.read_bytes() + b"\n")
    evil = changed(plan, support={"method": "public", "public_file": by_digest(str(public))},
                   objective={"name": objective})
    said = []
    for forget in ({"subjects": ["Surgery"]}, {"records": ["q9"], "concepts": ["MU:S0001"]}):
        config = json.loads((folder / "site.json").read_text())
        config |= {"forget": forget, "public_files": [str(public)]}
        (folder / "site.json").write_text(json.dumps(config))
        site = open_hospital(folder, RuntimeOptions(runner="memory"))
        layout = ready(site, evil)
        answer = site.handle(Message(kind=VOTE, fields={
            "run_id": "run", "plan_digest": evil.digest, "layout_digest": layout.digest,
            "sigma": 0.0, "public": True,
        }))
        assert answer.kind == VOTE, answer.fields
        said.append(answer.payload)
        shutil.rmtree(folder / "runs")  # two hospitals: one would not be let change its mind
    assert said[0] == said[1]


def test_public_figures_have_all_the_room_of_the_ring_whatever_the_number_of_sites(
    folder: Path, plan: RunPlan, question_file: Path
) -> None:
    """Nobody sums them; a thousand sites would leave each two clips of room, for all its texts."""
    rows = [json.loads(line) for line in question_file.read_text().splitlines()]
    public = folder / "public.jsonl"
    public.write_text("".join(
        json.dumps(row | {"id": f"{row['id']}-{n}"}) + "\n" for n in range(20) for row in rows))
    config = json.loads((folder / "site.json").read_text())
    (folder / "site.json").write_text(json.dumps(config | {"public_files": [str(public)]}))
    said = []
    for sites in (plan.federation.sites, 1000):
        asked = changed(plan, support={"method": "public", "public_file": by_digest(str(public))},
                        federation={"sites": sites})
        site = open_hospital(folder, RuntimeOptions(runner="memory"))
        layout = ready(site, asked)
        answer = site.handle(Message(kind=VOTE, fields={
            "run_id": "run", "plan_digest": asked.digest, "layout_digest": layout.digest,
            "sigma": 0.0, "public": True,
        }))
        assert answer.kind == VOTE, answer.fields
        energies = public_codec(clip_l2=asked.privacy.vote_clip_l2).from_ring(
            np.frombuffer(answer.payload, dtype="<u4"))
        assert energies.max() > 0.0
        said.append(energies)
        shutil.rmtree(folder / "runs")
    np.testing.assert_array_equal(*said)


@pytest.mark.parametrize("as_copy", [False, True])
def test_records_that_were_declared_public_by_a_slip_are_not_read_as_such(
    folder: Path, plan: RunPlan, question_file: Path, tmp_path: Path, as_copy: bool
) -> None:
    file = question_file
    if as_copy:
        file = tmp_path / "public.jsonl"
        shutil.copy(question_file, file)
    evil = changed(plan, support={"method": "public", "public_file": by_digest(str(file))})
    config = json.loads((folder / "site.json").read_text())
    (folder / "site.json").write_text(json.dumps(config | {"public_files": [str(file)]}))
    site = open_hospital(folder, RuntimeOptions(runner="memory"))
    assert code(site.handle(ready_message(evil))) == "PUBLIC_FILE_PRIVATE"


@pytest.mark.parametrize("count", [10**12, 9, 0, -1])
def test_no_more_directions_of_public_text_than_planned(
    folder: Path, plan: RunPlan, question_file: Path, count: int
) -> None:
    """Each is as long as the support: a million of them are a hospital without memory."""
    public = folder / "public.jsonl"
    public.write_bytes(question_file.read_bytes() + b"\n")
    plan = changed(plan, geometry={"projection": "public", "rank": 8,
                                   "public_file": by_digest(str(public))})
    config = json.loads((folder / "site.json").read_text())
    (folder / "site.json").write_text(json.dumps(config | {"public_files": [str(public)]}))
    site = open_hospital(folder, RuntimeOptions(runner="memory"))
    layout = ready(site, plan)
    support = small_support(layout)
    answer = site.handle(Message(
        kind=VOTE, payload=to_runs(support.indices),
        fields={"run_id": "run", "plan_digest": plan.digest, "layout_digest": layout.digest,
                "sigma": 0.0, "public": True, "support_digest": support.digest,
                "geometry_rank": count}))
    assert code(answer) == "NOT_PLANNED"


def test_a_coordinator_gets_nothing_that_the_plan_has_no_place_for(
    hospital: Hospital, plan: RunPlan
) -> None:
    layout = ready(hospital, plan)
    support = small_support(layout)
    late = step_message(plan, layout, support, round_index=plan.run.rounds)
    assert code(hospital.handle(late)) == "NOT_PLANNED"
    fields = {"run_id": "run", "plan_digest": plan.digest, "layout_digest": layout.digest}
    public = Message(kind=VOTE, fields={**fields, "sigma": 0.0, "public": True})
    assert code(hospital.handle(public)) == "NOT_PLANNED"
    random = changed(plan, support={"method": "random"})
    ready(hospital, random)
    vote = Message(kind=VOTE, fields={
        **fields, "plan_digest": random.digest, "sigma": 8.0, "public": False,
    })
    assert code(hospital.handle(vote)) == "NOT_PLANNED"


@pytest.mark.parametrize("section", ["support", "geometry"])
def test_a_coordinator_cannot_have_records_read_as_public_text(
    hospital: Hospital, plan: RunPlan, question_file: Path, section: str
) -> None:
    """A plan that names a hospital's own file by path or digest gets no noiseless answer."""
    for name in (str(question_file), by_digest(str(question_file))):
        change = {"support": {"method": "public", "public_file": name},
                  "geometry": {"projection": "public", "public_file": name}}[section]
        evil = plan.model_copy(
            update={section: getattr(plan, section).model_copy(update=change)}
        )
        layout = ready(hospital, evil)
        request = {
            "run_id": "run", "plan_digest": evil.digest, "layout_digest": layout.digest,
            "sigma": 0.0, "public": True,
        }
        support = small_support(layout)
        payload = b""
        if section == "geometry":
            request |= {"support_digest": support.digest, "geometry_rank": 2}
            payload = to_runs(support.indices)
        answer = hospital.handle(Message(kind=VOTE, fields=request, payload=payload))
        assert code(answer) == "PUBLIC_FILE_UNKNOWN"


def test_a_coordinators_own_frozen_a_is_refused_unless_the_hospital_declared_that_very_file(
    hospital: Hospital, plan: RunPlan, folder: Path, tmp_path: Path
) -> None:
    """A that only the coordinator knows would be a gradient of its choosing."""
    layout = ready(hospital, plan)
    file = tmp_path / A_FILE
    write_frozen(file, {name: np.ones(shape, dtype=np.float32)
                        for name, shape in layout.frozen_shapes.items()})
    for name in (str(file), by_digest(str(file))):
        evil = changed(plan, model={"a_file": name})
        site = open_hospital(folder, RuntimeOptions(runner="memory"))
        assert code(site.handle(ready_message(evil))) == "PUBLIC_FILE_UNKNOWN"
    config = json.loads((folder / "site.json").read_text())
    (folder / "site.json").write_text(json.dumps(config | {"public_files": [str(file)]}))
    site = open_hospital(folder, RuntimeOptions(runner="memory"))
    told = ready(site, evil)
    assert told.a_file == by_digest(str(file)).removeprefix("sha256:")
    assert told.digest != layout.digest

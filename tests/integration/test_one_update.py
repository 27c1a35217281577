"""One update, step by step through the real code, in the order of docs/one_update.md.

Three things are checked: that the document names exactly these steps in this order and no
name that does not exist, that a real run calls them in this order, and that each step does
its part (``one_update_hospital``, ``one_update_coordinator``).
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from inspect import unwrap
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import one_update_coordinator as coordinator
import one_update_hospital as hospital
import pytest
from one_update_hospital import RUN_ID, RUNTIME, SEED, Journey

from medunlearn_client.hospital import open_hospital
from medunlearn_client.masking.hospital import MaskedHospital
from medunlearn_client.site_config import SiteConfig
from medunlearn_common.flower_records import from_records, to_records
from medunlearn_common.layout import AdapterLayout
from medunlearn_common.messages import READY, Message
from medunlearn_common.plan import Plan, plan_from_text
from medunlearn_simulation.memory_runner import run_in_memory

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "one_update.md"

PLAN = """
[run]
rounds = 3
[model]
lora_rank = 2
target_modules = ["q_proj", "down_proj"]
[objective]
name = "simnpo"
forget_weights = [1.0, 1.0, 1.0, 1.0]
keep_weights = [0.0, 0.0, 0.0, 0.0]
prompt_weight = 0.0
beta = 1.0
margin = 0.0
[concepts]
hierarchies = ["builtin:surgery"]
forget_roots = ["MU:S0631"]
[geometry]
projection = "history"
rank = 2
[support]
method = "random"
density = 0.005
[privacy]
clip_l2 = 0.003
evaluation_share = 0.0
retain_rate = 1.0
[gates]
max_canary_loss = 0.0
[server]
optimizer = "sgd"
schedule = "constant"
learning_rate = 0.5
retain_weight = 2.0
[federation]
sites = 3
min_sites = 3
[data]
nonmember_fraction = 0.0
[forget]
subjects = ["Surgery"]
"""

STEPS: tuple[tuple[str, Callable[[Journey], None]], ...] = (
    ("medunlearn_client.records.select", hospital.step_select),
    ("medunlearn_client.tagging.ConceptTagger.tag_record", hospital.step_tag),
    ("medunlearn_server.requests.step_request", hospital.step_ask),
    ("medunlearn_client.step_message.StepRequest.from_message", hospital.step_parse),
    ("medunlearn_common.ledger.PrivacyLedger.charge", hospital.step_charge),
    ("medunlearn_client.noise.poisson_sample", hospital.step_draw),
    ("medunlearn_client.objectives.token_weighted.TokenWeighted.forget", hospital.step_lose),
    ("medunlearn_client.per_example.PerExampleGradients.backward", hospital.step_differentiate),
    ("medunlearn_client.geometry.Geometry.transform", hospital.step_project),
    ("medunlearn_client.dp_optimizer.RingDPOptimizer.clip_and_accumulate", hospital.step_clip),
    ("medunlearn_client.dp_optimizer.RingDPOptimizer.add_noise", hospital.step_noise),
    ("medunlearn_common.ring.RingCodec.to_ring", hospital.step_encode),
    ("medunlearn_common.ledger.PrivacyLedger.remember_answer", hospital.step_remember),
    ("medunlearn_client.masking.site.MaskingSite.mask", coordinator.step_mask),
    ("medunlearn_common.flower_records.to_records", coordinator.step_carry),
    ("medunlearn_server.intake.verify_step", coordinator.step_verify),
    ("medunlearn_server.masking.opening.open_sum", coordinator.step_open_sum),
    ("medunlearn_server.aggregation.combine_round", coordinator.step_combine),
    ("medunlearn_server.server_step.take_step", coordinator.step_move),
    ("medunlearn_server.round_state.RoundState.accepted", coordinator.step_accept),
    ("medunlearn_server.checkpoints.RunStore.save", coordinator.step_save),
    ("medunlearn_server.adapter_store.commit", coordinator.step_commit),
    ("medunlearn_client.adoption.loading.open_adapter", coordinator.step_open),
)


# -- fixtures ----------------------------------------------------------------------------


@pytest.fixture
def plan(question_file: Path) -> Plan:
    plan = plan_from_text(PLAN)
    data = plan.data.model_copy(update={"files": (str(question_file),)})
    return plan.model_copy(update={"data": data})


@pytest.fixture
def sites(tmp_path: Path, plan: Plan, tiny_model_folder: Path) -> tuple[Path, ...]:
    """Three hospitals' folders; each of them has records to forget."""
    folders = tuple(tmp_path / "sites" / f"site-{index}" for index in range(3))
    for index, folder in enumerate(folders):
        folder.mkdir(parents=True)
        config = SiteConfig(
            site_id=folder.name, site_index=index, sites=3, data=plan.data, forget=plan.forget,
            seed=SEED, concentration=50.0, model_folder=str(tiny_model_folder),
            entropy_seed=SEED,
        )
        (folder / "site.json").write_text(config.model_dump_json(), encoding="utf-8")
    return folders


@pytest.fixture
def journey(
    tmp_path: Path, plan: Plan, sites: tuple[Path, ...], tiny_model_folder: Path
) -> Iterator[Journey]:
    hospitals = {folder.name: open_hospital(folder, RUNTIME) for folder in sites}
    shared = plan.shared()
    layouts = [
        AdapterLayout.from_json(site.handle(Message(kind=READY, fields={
            "run_id": RUN_ID, "plan": shared.model_dump_json(), "plan_digest": shared.digest,
        })).text("layout"))
        for site in hospitals.values()
    ]
    with ExitStack() as opened:
        yield Journey(
            plan=plan, folder=tmp_path, model_folder=tiny_model_folder, sites=sites,
            hospitals=hospitals, layout=layouts[0], opened=opened,
        )


# -- the tests ---------------------------------------------------------------------------


def test_every_step_does_its_part(journey: Journey) -> None:
    for _, step in STEPS:
        step(journey)


def resolve(name: str) -> Any:
    """The module, class, function or constant behind a dotted name."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


def code_names(text: str) -> Iterator[str]:
    """Code-formatted dotted names of ours, fenced blocks left out."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for span in re.findall(r"`([^`\n]+)`", text):
        if re.fullmatch(r"medunlearn_\w+(\.\w+)*", span):
            yield span


def test_every_name_in_the_document_exists() -> None:
    names = set(code_names(DOCUMENT.read_text(encoding="utf-8")))
    assert len(names) > len(STEPS)
    missing = []
    for name in sorted(names):
        try:
            resolve(name)
        except (ModuleNotFoundError, AttributeError):
            missing.append(name)
    assert not missing


def test_the_document_has_these_steps_in_this_order() -> None:
    titles = re.findall(
        r"^### (\d+)\. .*?`([\w.]+)`$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert titles == [(str(n), name) for n, (name, _) in enumerate(STEPS, start=1)]


class OverFlowerRecords:
    """A hospital whose messages take the form in which Flower carries them."""

    def __init__(self, hospital: MaskedHospital) -> None:
        self._hospital = hospital

    @property
    def site_id(self) -> str:
        return self._hospital.site_id

    def handle(self, message: Message) -> Message:
        answer = self._hospital.handle(from_records(to_records(message)))
        return from_records(to_records(answer))


def code_of(name: str) -> CodeType:
    found = resolve(name)
    code: CodeType = unwrap(getattr(found, "__func__", found)).__code__
    return code


def calls_of(action: Callable[[], object]) -> list[str]:
    """Names of the documented steps in the order in which ``action`` calls them."""
    names = {code_of(name): name for name, _ in STEPS}
    called: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code in names:
            called.append(names[frame.f_code])

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(before)
    return called


def test_a_real_run_calls_the_steps_in_this_order(
    tmp_path: Path, plan: Plan, sites: tuple[Path, ...]
) -> None:
    def run() -> None:
        hospitals = {f.name: OverFlowerRecords(open_hospital(f, RUNTIME)) for f in sites}
        run_in_memory(plan.shared(), hospitals, run_folder=tmp_path / "run", run_id=RUN_ID)

    called = calls_of(run)
    names = [name for name, _ in STEPS[:-1]]  # whoever opens the adapter comes after the run
    asked = names.index("medunlearn_server.requests.step_request")
    # Before the first round what READY brings; then the last round, which has a geometry.
    # Every site's request is built before the first is sent: the last one counts.
    first = called.index(names[asked])
    last = len(called) - 1 - called[::-1].index(names[asked])
    order = [n for n in dict.fromkeys(called[:first]) if n in names[:asked]]
    after = dict.fromkeys(called[last:])
    # On the way down, to_records packed the request; the answer is packed after the journal.
    packed = "medunlearn_common.flower_records.to_records"
    kept = called.index("medunlearn_common.ledger.PrivacyLedger.remember_answer", last)
    after.pop(packed)
    position = list(after).index("medunlearn_server.intake.verify_step")
    assert packed in called[kept : called.index("medunlearn_server.intake.verify_step", last)]
    tail = [*list(after)[:position], packed, *list(after)[position:]]
    assert order + tail == names

"""One hospital on two data sets that differ by one privacy unit, and all that leaves it.

Both hospitals are the same site in the same run, so that sampling, dither and noise are the same
draws: what remains of the difference of two answers is what the unit did. Its records are the
last in the file, so that every other unit keeps its place in the keystream and its fate.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medunlearn_client.hospital import Hospital
from medunlearn_client.noise import poisson_sample
from medunlearn_client.site_config import SiteConfig
from medunlearn_client.unit_encoding import privacy_units
from medunlearn_client.workbench import own_records
from medunlearn_common.entropy import KeyStream, SeededEntropy
from medunlearn_common.layout import AdapterLayout
from medunlearn_common.messages import EVALUATE, READY, STEP, VOTE, Message
from medunlearn_common.plan import RunPlan, RuntimeOptions, plan_from_text
from medunlearn_common.ring import NOISE_STEPS
from medunlearn_common.support import Support
from medunlearn_common.support_runs import to_runs
from medunlearn_common.wire import VALUE_DTYPES, UpdateForm, update_codec

Row = dict[str, Any]
Steps = npt.NDArray[np.int64]
SIGMA = 8.0
SITE, RUN = "clinic", "run"
QUESTIONS = tuple((f"Question: {question}?\nAnswer:", answer) for question, answer in (
    ("What drains an abscess of the liver", "percutaneous catheter"),
    ("Which artery supplies the appendix", "appendicular artery"),
    ("Which nerve is at risk in thyroidectomy", "recurrent laryngeal nerve"),
    ("Which suture is absorbed slowest", "polydioxanone"),
    ("What does insulin lower", "blood glucose"),
    ("Which organ makes bile", "the liver"),
    ("Which vitamin prevents scurvy", "vitamin C"),
    ("Which gas do red cells carry", "oxygen"),
))
SEED = 11
PLAN = """
[run]
rounds = 4
[model]
lora_rank = 2
target_modules = ["q_proj", "down_proj"]
[concepts]
forget_roots = ["MU:S0001"]
[support]
density = 0.005
[privacy]
epsilon = 100.0
evaluation_share = 0.05
[federation]
sites = 3
min_sites = 2
"""


def plan_with(**sections: Mapping[str, Any]) -> RunPlan:
    """The small plan with other values in some of its sections."""
    values = plan_from_text(PLAN).shared().model_dump()
    for name, update in sections.items():
        values[name] = {**values[name], **update}
    return RunPlan.model_validate(values)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a coordinator asks of a hospital.

    Attributes:
        values: Scale of the adapter values it sends; they are drawn once for all.
        geometry: Send a projection, where the plan has a place for one.
    """

    values: float = 0.0
    geometry: bool = False


class Site:
    """One hospital on one data set.

    Args:
        folder: Empty; the hospital's own.
        model: Folder of the base model.
        rows: Its records, in the own format.
        plan: The run's.
        forget: Its ``[forget]``.
        data: Further keys of its ``[data]``.
        runtime: How its passes are batched.
        public_files: What it declares public.
    """

    def __init__(
        self, folder: Path, model: Path, rows: Sequence[Row], plan: RunPlan, *,
        forget: Mapping[str, Any], data: Mapping[str, Any] | None = None,
        runtime: RuntimeOptions | None = None, public_files: Sequence[str] = (),
    ) -> None:
        folder.mkdir(parents=True)
        file = folder / "records.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        config = SiteConfig.model_validate({
            "site_id": SITE, "model_folder": str(model), "public_files": tuple(public_files),
            "data": {"files": (str(file),), **(data or {})}, "forget": forget,
        })
        self.config, self.plan = config, plan
        self.hospital = Hospital(
            folder, config, runtime or RuntimeOptions(runner="memory"), SeededEntropy(SEED)
        )
        self.sent: list[Message] = []

    def ask(self, message: Message) -> Message:
        """The hospital's answer, which is also kept."""
        answer = self.hospital.handle(message)
        self.sent.append(answer)
        return answer

    def ready(self) -> AdapterLayout:
        """Opens the plan."""
        answer = self.ask(Message(kind=READY, fields={
            "run_id": RUN, "plan": self.plan.model_dump_json(), "plan_digest": self.plan.digest,
        }))
        assert answer.kind == READY, answer.fields
        return AdapterLayout.from_json(answer.text("layout"))

    def place_of(self, record_ids: set[str]) -> tuple[int, int]:
        """In which set, forget (0) or retain (1), a unit is, and which of its units it is."""
        found = own_records(self.config, self.plan, self.plan.concepts)
        for side, records in enumerate((found.forget, found.retain)):
            units = privacy_units(records, unit=self.plan.privacy.unit)
            for place, unit in enumerate(units):
                if {records[number].record_id for number in unit} <= record_ids:
                    return side, place
        raise AssertionError("the unit was not read")

    def vote(self, layout: AdapterLayout) -> Steps:
        """Its support vote: ring steps, shape ``(2, rows)``."""
        answer = self.ask(Message(kind=VOTE, fields={
            "run_id": RUN, "plan_digest": self.plan.digest, "layout_digest": layout.digest,
            "sigma": SIGMA, "public": False,
        }))
        assert answer.kind == VOTE, answer.fields
        return _signed(answer.payload).reshape(2, -1)

    def step(self, support: Support, asked: Asked, *, round_index: int = 0) -> Steps:
        """An update of its: steps on the wire, shape ``(sums, coordinates)``."""
        message = self._with_values(STEP, support, asked)
        answer = self.ask(replace(message, fields={**message.fields, "round": round_index}))
        assert answer.kind == STEP, answer.fields
        form = UpdateForm.of(self.plan, size=support.size)
        codec = update_codec(self.plan, sigma=SIGMA)
        words = np.frombuffer(answer.payload, dtype="<u4").reshape(form.sums, -1)
        sums = [codec.from_ring(one.astype(np.uint32), form.length) for one in words]
        return np.rint(np.stack(sums) / codec.wire_step).astype(np.int64)

    def counts(self, support: Support, asked: Asked) -> Steps:
        """Its counts: ring steps, shape ``(2, 4)``."""
        answer = self.ask(self._with_values(EVALUATE, support, asked))
        assert answer.kind == EVALUATE, answer.fields
        return _signed(answer.payload).reshape(2, -1)

    def _with_values(self, kind: str, support: Support, asked: Asked) -> Message:
        bits = self.plan.wire.value_bits if kind == STEP else 32
        drawn = np.random.default_rng(1).standard_normal(support.size) * asked.values
        largest = np.finfo(VALUE_DTYPES[bits]).max
        values = np.clip(drawn, -largest, largest).astype(VALUE_DTYPES[bits]).tobytes()
        runs, geometry, rank = to_runs(support.indices), b"", 0
        if asked.geometry and kind == STEP:
            rank = 2
            root = np.random.default_rng(2).uniform(0.5, 2.0, support.size)
            basis = np.linalg.qr(
                np.random.default_rng(3).standard_normal((support.size, rank)))[0].T
            geometry = root.astype("<f4").tobytes() + basis.astype("<f4").tobytes()
        return Message(kind=kind, payload=values + runs + geometry, fields={
            "run_id": RUN, "round": 0, "plan_digest": self.plan.digest,
            "layout_digest": support.layout_digest, "support_digest": support.digest,
            "sigma": SIGMA, "values_bytes": len(values), "support_bytes": len(runs),
            "geometry_rank": rank,
        })


def _signed(payload: bytes) -> Steps:
    return np.frombuffer(payload, dtype="<u4").view("<i4").astype(np.int64)


def times_drawn(release: str, part: str, *, place: int, rate: float, local_steps: int = 0) -> int:
    """How often a site's keystreams draw the unit at ``place`` of its set for a release."""
    entropy = SeededEntropy(SEED)
    purposes = [f"{part}/sample/{step}" for step in range(local_steps)] or [f"{part}/sample"]
    return sum(
        place in poisson_sample(
            KeyStream(entropy.key(SITE, RUN, release, purpose)), population=place + 1, rate=rate)
        for purpose in purposes
    )


def clip_on_the_wire(plan: RunPlan) -> float:
    """One unit's clip of an update, in steps on the wire."""
    return NOISE_STEPS / SIGMA / update_codec(plan, sigma=SIGMA).coarsening

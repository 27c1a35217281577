"""A small hospital for a quadratic problem; speaks the round protocol, needs no model.

Forget loss: 0.5 |phi - FORGET_TARGET|^2. Retain loss: 0.5 |phi|^2 on the second half of the
coordinates. Sums, clip, ring and noise are real; the answers it gave lie on disk, and a changed
request for a round already answered is refused, as the privacy ledger does it.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from medunlearn_client.masking.hospital import MaskedHospital
from medunlearn_client.masking.journal import ShareJournal
from medunlearn_client.masking.rules import MaskingIdentity
from medunlearn_client.site_audit import SiteAudit
from medunlearn_client.witnessing import WitnessingHospital
from medunlearn_common.canaries import CANARY_TEXTS, MICRO_NATS
from medunlearn_common.counting import COUNT_STEPS, cells_of, count_codec
from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.layout import AdapterLayout
from medunlearn_common.messages import ERROR, EVALUATE, READY, STEP, VOTE, Message
from medunlearn_common.plan import RunPlan, RuntimeOptions
from medunlearn_common.ring import RingCodec
from medunlearn_common.support_runs import from_runs
from medunlearn_common.wire import VALUE_DTYPES, UpdateForm

FORGET_TARGET = 1.0
PROGRESS_SHARE = 0.1
LAYOUT = AdapterLayout(
    names=tuple(f"base_model.model.layers.{i}.q_proj.lora_B.weight" for i in range(2)),
    shapes=((6, 2), (4, 2)), a_shapes=((2, 5), (2, 6)), base_parameters=1000, alpha=4.0, seed=3,
)


class Refusal(Exception):
    """Ends a request with a code."""


class QuadraticHospital:
    """Answers from ``folder``; ``site.json`` there may change single answers."""

    layout = LAYOUT

    def __init__(self, folder: Path, runtime: RuntimeOptions) -> None:
        self.folder = folder
        self.config = json.loads((folder / "site.json").read_text())
        self.computed = 0

    @property
    def site_id(self) -> str:
        return str(self.config["site_id"])

    def handle(self, message: Message) -> Message:
        handlers = {READY: self._ready, VOTE: self._vote, STEP: self._step,
                    EVALUATE: self._evaluate}
        try:
            if message.kind not in handlers:
                return Message(kind=message.kind, fields={"site_id": self.config["site_id"]})
            return handlers[message.kind](message)
        except Refusal as refusal:
            return Message(kind=ERROR, fields={"site_id": self.site_id, "code": str(refusal)})

    def _ready(self, message: Message) -> Message:
        if "ready_error" in self.config:
            raise Refusal(self.config["ready_error"])
        (self.folder / "plan.json").write_text(message.text("plan"))
        digests = {"model_digest": "m", "tokenizer_digest": "t", "hierarchy_digest": "h",
                   "package_version": "1", **self.config.get("digests", {})}
        return Message(kind=READY, fields={
            "site_id": self.config["site_id"], "layout": self.layout.to_json(),
            "layout_digest": self.layout.digest, **digests,
        })

    def _plan(self) -> RunPlan:
        path = self.folder / "plan.json"
        if not path.exists():
            raise Refusal("PLAN_UNKNOWN")
        return RunPlan.model_validate_json(path.read_text())

    def _vote(self, message: Message) -> Message:
        plan, rows = self._plan(), len(self.layout.row_lengths)
        if message.fields.get("geometry_rank"):
            size = from_runs(message.payload, most=10**6).size
            lie = size // 2 if self.config.get("public_lie") else 0
            rows_out = np.eye(int(message.integer("geometry_rank")), size, k=lie) * 0.5
            words = self._words(rows_out.ravel(), plan.privacy.clip_l2, 0.0, plan)
        else:
            energies = np.linspace(0.1, 1.0, rows) * (1 + self.config["index"])
            energies /= 2 * np.linalg.norm(energies)
            halves = np.concatenate([energies, energies[::-1]])
            if self.config.get("public_lie") and message.fields["public"]:
                halves = np.roll(halves, rows)
            words = self._words(
                halves, plan.privacy.vote_clip_l2, message.number("sigma"), plan, "vote"
            )
        return Message(kind=VOTE, payload=words.astype("<u4").tobytes(), fields={
            **self._owner(message), "layout_digest": self.layout.digest,
        })

    def _owner(self, message: Message) -> dict[str, str]:
        return {"run_id": message.text("run_id"), "site_id": self.config["site_id"]}

    def _step(self, message: Message) -> Message:
        plan, round_index = self._plan(), message.integer("round")
        support = self._support(plan, message)
        if round_index >= self.config.get("budget_rounds", 10**9):
            raise Refusal("PRIVACY_BUDGET")
        values = np.frombuffer(
            message.payload[: message.integer("values_bytes")],
            dtype=VALUE_DTYPES[plan.wire.value_bits],
        )
        answer = self.folder / f"round-{round_index}.bin"
        asked = self.folder / f"round-{round_index}.digest"
        if asked.exists() and asked.read_text() != message.digest:
            raise Refusal("REQUEST_CHANGED")
        if not answer.exists():
            self.computed += 1
            time.sleep(self.config.get("slow_s", 0.0))
            words = self._update(plan, values.astype(float), message.number("sigma"), round_index)
            answer.write_bytes(words.astype("<u4").tobytes())
            asked.write_text(message.digest)
        payload = answer.read_bytes()[: self.config.get("cut", None)]
        return Message(kind=STEP, payload=payload, fields={
            **self._owner(message),
            "round": self.config.get("round", round_index),
            "layout_digest": self.layout.digest,
            "support_digest": support,
        })

    def _evaluate(self, message: Message) -> Message:
        """Fifty retain units, of which each stands a little more movement than the one before."""
        plan = self._plan()
        support = self._support(plan, message)
        values = np.frombuffer(message.payload[: message.integer("values_bytes")], dtype="<f4")
        if message.fields["public"]:
            known = self.config.get("canary_known", 3.0)
            lost = self.config.get("canary_lie", 0.01 * float(np.mean(values.astype(float) ** 2)))
            nats = np.repeat([known, max(0.0, known - lost)], len(CANARY_TEXTS))
            words = np.round(nats * MICRO_NATS)
        else:
            if self.config.get("broke"):
                raise Refusal("PRIVACY_BUDGET")
            moved = float(np.abs(values[values.size // 2 :]).max())
            before = np.ones(50, dtype=bool)
            cells = [cells_of(before, values[0] < 0.5 + 0 * before),
                     cells_of(before, np.linspace(0.9, 3.0, 50) > moved)]
            share = message.number("sigma") * COUNT_STEPS
            if plan.privacy.noise == "distributed":
                share /= np.sqrt(plan.federation.min_sites)
            noise = self._noise(8, "evaluate") * share
            steps = np.concatenate(cells) * COUNT_STEPS + np.rint(noise).astype(np.int64)
            words = count_codec(max_sites=plan.federation.sites).to_ring(steps)
        return Message(kind=EVALUATE, payload=words.astype("<u4").tobytes(), fields={
            **self._owner(message), "layout_digest": self.layout.digest,
            "support_digest": support,
        })

    def _support(self, plan: RunPlan, message: Message) -> str:
        digest, size = message.text("support_digest"), message.integer("support_bytes")
        kept = self.folder / f"support-{digest}"
        if size:
            start = message.integer("values_bytes")
            kept.write_bytes(message.payload[start : start + size])
        elif not kept.exists() and plan.support.method != "random":
            raise Refusal("SUPPORT_UNKNOWN")
        return digest

    def _update(
        self, plan: RunPlan, values: np.ndarray, sigma: float, round_index: int
    ) -> np.ndarray:
        clip, forget = plan.privacy.clip_l2, values - FORGET_TARGET
        retain = np.where(np.arange(values.size) >= values.size / 2, values, 0.0)
        units = 1 + self.config["index"]
        form = UpdateForm.of(plan, size=values.size)
        parts, together = [], np.zeros(form.length)
        for place, (name, gradient) in enumerate((("forget", forget), ("retain", retain))):
            norm = max(float(np.linalg.norm(gradient)), 1e-12)
            clipped = gradient * min(1.0, 0.9 * clip / norm)
            gap = PROGRESS_SHARE * clip * min(1.0, norm / values.size)
            vector = units * np.append(clipped, gap)
            if self.config.get("poison") == "huge":
                vector = np.full(vector.size, 1e12)
            elif self.config.get("poison") == "drift":
                vector = np.append(np.full(values.size, -1e3 * clip), gap)
            if form.sums == 1:
                share = (form.forget_share, form.retain_share)[place]
                together[: values.size] += share * vector[:-1]
                together[values.size + place] += share * vector[-1]
            else:
                parts.append(self._words(
                    vector, clip, sigma, plan, name, round_index, bits=form.bits))
        if form.sums == 1:
            parts.append(self._words(
                together, clip, sigma, plan, "both", round_index, bits=form.bits))
        return np.concatenate(parts)

    def _words(
        self, vector: np.ndarray, clip: float, sigma: float, plan: RunPlan, *purpose: str | int,
        bits: int = 32,
    ) -> np.ndarray:
        codec = RingCodec.for_mechanism(
            clip_l2=clip, sigma=sigma, max_sites=plan.federation.sites, bits=bits
        )
        share = sigma * clip
        if plan.privacy.noise == "distributed":
            share /= np.sqrt(plan.federation.min_sites)
        steps = (vector + self._noise(vector.size, *purpose) * share) / codec.wire_step
        if self.config.get("poison"):  # an attacker clamps in silence
            steps = np.clip(steps, -codec.clamp_steps, codec.clamp_steps)
        return codec.to_ring(np.rint(steps).astype(np.int64))

    def _noise(self, size: int, *purpose: str | int) -> np.ndarray:
        key = SeededEntropy(7).key(self.config["site_id"], *purpose)
        generator = np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "big")))
        return generator.normal(0.0, 1.0, size)


def open_hospital(folder: Path, runtime: RuntimeOptions) -> QuadraticHospital:
    return QuadraticHospital(folder, runtime)


def open_masked(
    folder: Path, runtime: RuntimeOptions, opened: ExitStack
) -> WitnessingHospital:
    """Masked without envelopes, for tests of the coordinator over a bare transport."""
    from seeded_identities import SeededIdentities  # late: Flower's actors lack its folder

    inner, entropy = QuadraticHospital(folder, runtime), SeededEntropy(7)
    site_id, identities = inner.config["site_id"], SeededIdentities(entropy)
    journal = opened.enter_context(
        closing(ShareJournal(folder / "masking.db", synchronous="OFF")))
    masked = MaskedHospital(inner, journal, MaskingIdentity(
        site_id=site_id, signer=identities.signer(site_id), verifier=identities,
        entropy=entropy,
    ))
    return WitnessingHospital(masked, SiteAudit(folder, site_id=site_id, entropy=entropy))


def write_sites(folder: Path, count: int, **changes: dict[str, object]) -> list[Path]:
    """Site folders; ``site_2={...}`` lays values over the third site's configuration."""
    folders = []
    for index in range(count):
        site = folder / f"site-{index}"
        site.mkdir(parents=True)
        config = {"site_id": f"hospital-{index}", "index": index}
        config.update(changes.get(f"site_{index}", {}))
        (site / "site.json").write_text(json.dumps(config))
        folders.append(site)
    return folders


def small_plan(**sections: dict[str, object]) -> RunPlan:
    """Four sites, six rounds, twenty coordinates, half of them on the support."""
    document: dict[str, dict[str, object]] = {
        "run": {"rounds": 6},
        "model": {"lora_rank": 2, "lora_alpha": 4.0, "target_modules": ("q_proj",)},
        "support": {"density": 0.01},
        "privacy": {"noise": "none", "clip_l2": 1.0},
        "server": {"learning_rate": 0.1},
        "federation": {"sites": 4, "min_sites": 3, "round_deadline_s": 60.0},
    }
    for name, values in sections.items():
        document[name] = {**document.get(name, {}), **values}
    return RunPlan.model_validate(document)

"""One update at the hospital: steps 1 to 13 of docs/one_update.md, each with its checks.

Used by ``test_one_update``. Every check compares with a second computation that shares no
code with the step, or with the step before.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medunlearn_client.encoding import RecordEncoder, collate
from medunlearn_client.hospital import Hospital
from medunlearn_client.noise import discrete_gaussian, poisson_sample
from medunlearn_client.objectives import OBJECTIVES, ModelView
from medunlearn_client.per_example import support_gradients
from medunlearn_client.records import read_records, select
from medunlearn_client.releases import ReleaseSettings, halves, sum_of
from medunlearn_client.site_data import (
    SiteRecords,
    forget_request,
    leveled_hierarchy,
    load_federation_records,
)
from medunlearn_client.step_message import StepRequest
from medunlearn_client.tagging import ConceptTagger
from medunlearn_client.training import UnitSet
from medunlearn_client.workbench import shared_model
from medunlearn_common.accounting import Mechanism, epsilon_of
from medunlearn_common.entropy import KeyStream, SeededEntropy
from medunlearn_common.errors import BudgetExceeded, Rejected
from medunlearn_common.layout import AdapterLayout
from medunlearn_common.ledger import Budget, PrivacyLedger
from medunlearn_common.messages import STEP, Message
from medunlearn_common.plan import Plan, RuntimeOptions
from medunlearn_common.ring import NOISE_STEPS
from medunlearn_common.support import Support, planned_random_support
from medunlearn_common.wire import update_codec
from medunlearn_server.aggregation import PROGRESS_SHARE
from medunlearn_server.geometry import Geometry, orthonormal_rows
from medunlearn_server.requests import step_request

RUNTIME = RuntimeOptions(runner="memory", device="cpu")
RUN_ID, SEED, SIGMA, COARSE_SIGMA = "journey", 1, 6.0, 2000.0


@dataclass(kw_only=True)
class Journey:
    """The update on its way; each step reads what earlier ones left and adds its own."""

    plan: Plan
    folder: Path
    model_folder: Path
    sites: tuple[Path, ...]
    hospitals: dict[str, Hospital]
    layout: AdapterLayout
    opened: ExitStack  # takes what steps open; the test closes it
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def home(self) -> str:
        """The site whose update is followed."""
        return "site-0"

    @property
    def support(self) -> Support:
        plan = self.plan.shared()
        return planned_random_support(
            self.layout, density=plan.support.density, plan_digest=plan.digest
        )

    @property
    def values(self) -> np.ndarray:
        """Adapter values that an earlier round might have left, ``(k,)``."""
        return np.random.default_rng(2).normal(0.0, 0.3, self.support.size).astype(np.float32)

    @property
    def geometry(self) -> Geometry:
        """A metric and two directions to keep free."""
        generator = np.random.default_rng(3)
        root = generator.uniform(0.5, 1.5, self.support.size)
        return Geometry(
            inverse_root=(root / root.mean()).astype(np.float32),
            basis=orthonormal_rows(generator.normal(size=(2, self.support.size))),
        )

    @property
    def records(self) -> SiteRecords:
        """What the followed site holds."""
        plan = self.plan
        return load_federation_records(
            data=plan.data, forget=plan.forget, concepts=plan.concepts, unit="record",
            n_sites=3, seed=SEED, concentration=50.0,
        ).sites[0]

    def key(self, purpose: str) -> bytes:
        """The key that the followed site draws for a purpose within round 0."""
        return SeededEntropy(SEED).key(self.home, RUN_ID, "round-0", f"{purpose}/0")


def step_select(j: Journey) -> None:
    records = read_records([Path(name) for name in j.plan.data.files])
    split = select(records, forget_request(j.plan.forget, seed=SEED, show_subject=False))
    assert {r.record_id for r in split.forget} == {"q0", "q1", "q2", "q3"}
    assert {r.record_id for r in split.retain} == {f"q{n}" for n in range(4, 12)}
    own = j.records
    assert 1 < len(own.forget) < 4 and own.retain
    assert {r.record_id for r in own.forget} <= {r.record_id for r in split.forget}


def step_tag(j: Journey) -> None:
    tagger = ConceptTagger(leveled_hierarchy(j.plan.concepts, j.plan.forget))
    record = next(
        r for r in read_records([Path(n) for n in j.plan.data.files]) if r.record_id == "q2"
    )
    targets = [s for s in tagger.tag_record(record) if s.level == 4]
    assert [record.text[s.start:s.end] for s in targets] == ["thyroidectomy"]
    loaded, _ = shared_model(str(j.model_folder), j.plan.model, j.plan.run.seed, "cpu")
    encoder = RecordEncoder(loaded.tokenizer, max_tokens=128, tagger=tagger)
    encoded = encoder.encode(record)
    marked = loaded.tokenizer.decode(encoded.input_ids[encoded.levels == 4])
    assert str(marked).strip() == "thyroidectomy"
    assert loaded.tokenizer.decode(encoded.input_ids[encoded.is_answer]) == (
        f" {record.answer}{loaded.tokenizer.eos_token}"
    )
    for name in ("forget", "retain"):
        units = tuple(encoder.encode(r) for r in getattr(j.records, name))
        j.found[name] = UnitSet(records=units, units=tuple((i,) for i in range(len(units))))


def step_ask(j: Journey) -> None:
    ask = partial(
        step_request, j.plan.shared(), j.layout, j.support, run_id=RUN_ID, round_index=0,
        sigma=SIGMA, values=j.values, geometry=j.geometry,
    )
    j.found["request"] = ask(with_support=False)
    assert ask(with_support=False) == j.found["request"]  # asked again: the same bytes
    assert ask(with_support=True) == j.found["request"]  # the plan's is random: sites draw it


def step_parse(j: Journey) -> None:
    message: Message = j.found["request"]
    request = StepRequest.from_message(message)
    np.testing.assert_array_equal(request.values, j.values)
    assert request.support_indices is None
    assert request.geometry is not None
    np.testing.assert_array_equal(request.geometry.inverse_root, j.geometry.inverse_root)
    np.testing.assert_array_equal(request.geometry.basis, j.geometry.basis)
    with pytest.raises(Rejected, match="STEP_PAYLOAD"):
        StepRequest.from_message(replace(message, payload=message.payload[:-4]))
    j.found["parsed"] = request


def step_charge(j: Journey) -> None:
    ledger = PrivacyLedger(j.folder / "scratch-ledger.db")
    privacy = j.plan.privacy
    mechanism = Mechanism(
        sigma=SIGMA, forget_rate=privacy.forget_rate, retain_rate=privacy.retain_rate, count=1
    )
    cost = epsilon_of((mechanism,), delta=privacy.delta)
    charge = partial(
        ledger.charge, run_id=RUN_ID, request_digest=j.found["parsed"].release_digest,
        mechanism=mechanism, budget=Budget(epsilon=1.01 * cost, delta=privacy.delta),
    )
    charge(release="round-0")
    charge(release="round-0")  # the same question again is free
    assert ledger.epsilon(run_id=RUN_ID, delta=privacy.delta) == pytest.approx(cost)
    with pytest.raises(BudgetExceeded, match="PRIVACY_BUDGET"):
        charge(release="round-1")
    assert ledger.releases(run_id=RUN_ID) == 1


def step_draw(j: Journey) -> None:
    units = j.found["forget"].units
    drawn = poisson_sample(KeyStream(j.key("forget/sample")), population=len(units), rate=1.0)
    assert drawn.tolist() == list(range(len(units)))
    many = poisson_sample(KeyStream(j.key("forget/sample")), population=40_000, rate=0.25)
    assert abs(many.size - 10_000) < 5 * (40_000 * 0.25 * 0.75) ** 0.5
    j.found["drawn"] = drawn


def step_lose(j: Journey) -> None:
    _, adapter = shared_model(str(j.model_folder), j.plan.model, j.plan.run.seed, "cpu")
    objective = OBJECTIVES[j.plan.objective.name](j.plan.objective)
    view = ModelView(adapter, cache_bytes=RUNTIME.reference_cache_bytes)
    records = list(j.found["forget"].records)
    objective.prepare(view, records)
    adapter.set_on_support(j.support, j.values)
    rows = list(range(len(records)))
    batch = collate(records, pad_id=0, device=view.device)
    losses = objective.forget(view, batch, rows)
    for row, record in enumerate(records):
        assert float(losses.loss[row]) == pytest.approx(
            float(_plain_loss(adapter, record)), rel=1e-4
        )
    j.found.update(adapter=adapter, view=view, objective=objective, batch=batch)


def _plain_loss(adapter: Any, record: Any) -> torch.Tensor:
    """SimNPO at beta = 1: mean over the answer of 2 log(1 + p); one record without padding."""
    ids = torch.from_numpy(record.input_ids).unsqueeze(0)
    log_p = adapter.model(input_ids=ids).logits[0, :-1].log_softmax(dim=-1)
    of_tokens = log_p.gather(1, ids[0, 1:, None])[:, 0]
    answer = torch.from_numpy(record.is_answer[1:].copy())
    return (2.0 * torch.log1p(of_tokens[answer].exp())).mean()


def step_differentiate(j: Journey) -> None:
    adapter, records = j.found["adapter"], j.found["forget"].records
    rows = list(range(len(records)))
    with support_gradients(adapter, j.support) as gradients:
        losses = j.found["objective"].forget(j.found["view"], j.found["batch"], rows)
        found = gradients.backward(losses.loss)
    assert found.shape == (len(records), j.support.size)
    parameters = adapter.b_matrices()
    for row, record in enumerate(records):
        for parameter in parameters:
            parameter.requires_grad_(True)
        plain = torch.autograd.grad(_plain_loss(adapter, record), parameters)
        for parameter in parameters:
            parameter.requires_grad_(False)
        flat = torch.cat([g.reshape(-1) for g in plain])[torch.tensor(j.support.indices)]
        torch.testing.assert_close(found[row], flat, rtol=1e-3, atol=1e-6)
    j.found.update(gradients=found, gaps=losses.gap)


def step_project(j: Journey) -> None:
    geometry = j.found["parsed"].geometry
    found = geometry.transform(j.found["gradients"]).numpy().astype(np.float64)
    q = j.geometry.basis.astype(np.float64).T
    root = j.geometry.inverse_root.astype(np.float64)
    dense = (np.eye(len(q)) - q @ q.T) @ np.diag(root)
    plain = j.found["gradients"].numpy().astype(np.float64)
    np.testing.assert_allclose(found, plain @ dense.T, atol=1e-6)
    # First order: a step M^(-1/2) w leaves every retain direction R = Q^T M^(1/2) alone.
    retain = q.T / root
    size = np.linalg.norm(retain) * np.linalg.norm(plain)
    assert np.abs(retain @ (found * root).T).max() < 1e-5 * size
    assert np.abs(retain @ plain.T).max() > 1e-3 * size
    j.found["projected"] = found


def step_clip(j: Journey) -> None:
    clip, units = j.plan.privacy.clip_l2, j.found["forget"]
    assert np.linalg.norm(j.found["projected"], axis=1).min() > clip  # clipping is tested
    found = _half(j, units, noise_share=0.0)
    assert np.abs(found - _clipped_by_hand(j, SIGMA)).max() <= len(units.units)
    without = _half(j, replace(units, units=units.units[1:]), noise_share=0.0)
    step = update_codec(j.plan.shared(), sigma=SIGMA).step
    assert 0.5 * clip < step * np.linalg.norm(found - without) <= clip
    # Steps so coarse that leaving room for the rounding shows in the sum.
    coarse = _half(j, units, noise_share=0.0, sigma=COARSE_SIGMA)
    assert np.count_nonzero(coarse != _clipped_by_hand(j, COARSE_SIGMA)) <= 1
    j.found["noiseless"] = found


def _clipped_by_hand(j: Journey, sigma: float) -> np.ndarray:
    """The forget units' vectors cut, given their gap, clipped, rounded and added, in steps."""
    clip, size = j.plan.privacy.clip_l2, j.support.size + 1
    step = sigma * clip / 2**16
    limit = clip / step - size**0.5 / 2
    projected, gaps = j.found["projected"], j.found["gaps"].numpy().astype(np.float64)
    norms = np.linalg.norm(projected, axis=1, keepdims=True)
    vectors = np.hstack([
        projected * np.minimum(
            1.0, ((limit * step) ** 2 - (PROGRESS_SHARE * clip) ** 2) ** 0.5 / norms),
        gaps[:, None] * PROGRESS_SHARE * clip,
    ]) / step
    whole = np.linalg.norm(vectors, axis=1, keepdims=True)
    rounded: np.ndarray = np.round(vectors * np.minimum(1.0, limit / whole)).sum(axis=0)
    return rounded


def _half(
    j: Journey, units: UnitSet, *, noise_share: float | None, which: int = 0,
    sigma: float = SIGMA,
) -> np.ndarray:
    """One half of the release through the real ``sum_of``."""
    plan = j.plan.shared()
    settings = ReleaseSettings(
        plan=plan, objective=j.found["objective"], view=j.found["view"],
        pad_id=0,
    )
    geometry, adapter = j.found["parsed"].geometry, j.found["adapter"]
    part = halves(
        settings, units, units, forget_transform=geometry.transform,
        retain_transform=geometry.whiten,
    )[which]
    mechanism = settings.mechanism(
        sigma=sigma, clip_l2=plan.privacy.clip_l2, codec=update_codec(plan, sigma=sigma)
    )
    if noise_share is not None:
        mechanism = replace(mechanism, noise_share=noise_share)
    adapter.set_on_support(j.support, j.values)
    with support_gradients(adapter, j.support) as gradients:
        return sum_of(
            settings, [part], gradients, mechanism=mechanism, dimension=j.support.size,
            release_gap=True, key=j.key,
        )


def step_noise(j: Journey) -> None:
    noised = _half(j, j.found["forget"], noise_share=None)
    share = j.plan.federation.min_sites ** -0.5
    expected = discrete_gaussian(
        KeyStream(j.key("forget/noise")), sigma_steps=NOISE_STEPS * share,
        count=j.support.size + 1,
    )
    np.testing.assert_array_equal(noised - j.found["noiseless"], expected)
    assert 0.7 < expected.std() / (NOISE_STEPS * share) < 1.3
    retain = _half(j, j.found["retain"], noise_share=None, which=1)
    assert not np.array_equal(
        retain - _half(j, j.found["retain"], noise_share=0.0, which=1), expected
    )
    j.found["halves"] = (noised, retain)


def step_encode(j: Journey) -> None:
    codec = update_codec(j.plan.shared(), sigma=SIGMA)
    words = np.concatenate([codec.to_ring(half) for half in j.found["halves"]])
    steps = np.concatenate(j.found["halves"])
    assert words.tolist() == [int(s) % 2**32 for s in steps]
    np.testing.assert_allclose(codec.from_ring(words), steps * codec.step)
    with pytest.raises(Rejected, match="RING_CLAMPED"):
        codec.to_ring(np.full(10, codec.clamp_steps + 1))
    assert 3 * codec.clamp_steps < 2**31  # three sites cannot wrap
    j.found["payload"] = words.astype("<u4").tobytes()


def step_remember(j: Journey) -> None:
    hospital = j.hospitals[j.home]
    ledger = PrivacyLedger(j.folder / "sites" / j.home / "ledger.db")
    answer = hospital.handle(j.found["request"])
    # What was computed by hand, step by step, is what the hospital sends.
    assert answer.kind == STEP and answer.payload == j.found["payload"]
    kept = ledger.answer_given(
        run_id=RUN_ID, release="round-0", request_digest=j.found["parsed"].release_digest
    )
    assert kept == answer.payload
    assert hospital.handle(j.found["request"]) == answer
    assert ledger.releases(run_id=RUN_ID) == 1
    j.found["answer"] = answer

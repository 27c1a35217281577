"""One update at the coordinator: steps 14 to 23 of docs/one_update.md, each with its checks."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from one_update_hospital import RUN_ID, SEED, SIGMA, Journey
from peft import PeftModel
from seeded_identities import SeededIdentities

from medunlearn_client.adoption.loading import open_adapter
from medunlearn_client.masking.hospital import MaskedHospital
from medunlearn_client.masking.journal import ShareJournal
from medunlearn_client.masking.rules import MaskingIdentity
from medunlearn_client.models import load_causal_lm
from medunlearn_common.adapter_facts import AdapterFacts, write_adapter_facts
from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.errors import Misconfigured, Rejected, Transient
from medunlearn_common.flower_records import from_records, to_records
from medunlearn_common.messages import READY, Message
from medunlearn_common.wire import UpdateForm, update_codec
from medunlearn_server import adapter_store
from medunlearn_server.aggregation import (
    PROGRESS_SHARE,
    RoundSums,
    combine_round,
    summed_noise,
)
from medunlearn_server.checkpoints import Checkpoint, RunStore
from medunlearn_server.intake import verify_step
from medunlearn_server.low_rank import truncated, whole_rows
from medunlearn_server.masking.leader import MaskingLeader
from medunlearn_server.round_state import RoundState
from medunlearn_server.server_step import StepState, direction_of, take_step


def step_mask(j: Journey) -> None:
    """Three real masking sites around the journey's hospitals, set up by the real leader."""
    entropy = SeededEntropy(SEED)
    identities = SeededIdentities(entropy)
    sites = {
        name: MaskedHospital(
            hospital,
            j.opened.enter_context(
                closing(ShareJournal(j.folder / "masked" / name / "masking.db"))),
            MaskingIdentity(
                site_id=name, signer=identities.signer(name), verifier=identities,
                entropy=entropy,
            ),
        )
        for name, hospital in j.hospitals.items()
    }
    shared = j.plan.shared()
    for site in sites.values():
        ready = site.handle(Message(kind=READY, fields={
            "run_id": RUN_ID, "plan": shared.model_dump_json(), "plan_digest": shared.digest,
        }))

    def ask(requests: Any, parse: Any) -> Any:
        return {name: parse(name, sites[name].handle(r)) for name, r in requests.items()}

    leader = MaskingLeader(
        run_id=RUN_ID, min_sites=2, sites=shared.federation.sites, verifier=identities)
    fields = {"run_id": RUN_ID, "plan_digest": shared.digest, "round": 0}
    session = leader.session(ask, tuple(sites), fields, fresh=False)
    assert session is not None
    masked = {
        name: site.handle(leader.delivered(session, name, j.found["request"]))
        for name, site in sites.items()
    }
    assert j.home in masked and masked[j.home].payload != j.found["answer"].payload
    assert len(masked[j.home].payload) == len(j.found["answer"].payload)
    again = sites[j.home].handle(leader.delivered(session, j.home, j.found["request"]))
    assert again == masked[j.home]
    assert "MASKING_MISSING" in str(sites[j.home].handle(j.found["request"]).fields)
    j.found.update(
        answer=masked[j.home], masked=masked, leader=leader, session=session, ask=ask,
        fields=fields, model_digest=ready.text("model_digest"),
    )


def step_carry(j: Journey) -> None:
    answer: Message = j.found["answer"]
    assert from_records(to_records(answer)) == answer
    assert set(answer.fields) == {
        "site_id", "run_id", "layout_digest", "support_digest", "round", "mask_session",
    }


def step_verify(j: Journey) -> None:
    answer: Message = j.found["answer"]
    check = partial(verify_step, round_index=0, layout=j.layout, support=j.support,
                    length=UpdateForm.of(j.plan.shared(), size=j.support.size).words)
    assert check(answer).to_bytes() == answer.payload
    for change, code in (
        ({"payload": answer.payload[:-1]}, "UPDATE_LENGTH"),
        ({"fields": {**answer.fields, "round": 1}}, "ROUND_MISMATCH"),
        ({"fields": {**answer.fields, "support_digest": "0" * 64}}, "SUPPORT_MISMATCH"),
    ):
        with pytest.raises(Rejected, match=code):
            check(replace(answer, **change))
    j.found["updates"] = {name: check(masked) for name, masked in j.found["masked"].items()}


def step_open_sum(j: Journey) -> None:
    leader: MaskingLeader = j.found["leader"]
    collecting = leader.collecting(
        j.found["session"], j.found["request"], model_digest=j.found["model_digest"]
    )
    for name, update in j.found["updates"].items():
        collecting.add(name, update.values)
    attempt = leader.agreed(j.found["ask"], collecting.cut(), j.found["fields"], more=True)
    assert attempt is not None
    total = leader.opened(j.found["ask"], attempt)
    plain = [
        np.frombuffer(hospital.handle(j.found["request"]).payload, "<u4")
        for hospital in j.hospitals.values()
    ]
    assert total is not None
    assert total.tolist() == (sum(p.astype(np.int64) for p in plain) % 2**32).tolist()
    j.found["total"] = replace(j.found["updates"][j.home], values=total)
    j.found["plain"] = plain


def step_combine(j: Journey) -> None:
    plan = j.plan.shared()
    codec = update_codec(plan, sigma=SIGMA)
    form = UpdateForm.of(plan, size=j.support.size)
    sums = combine_round(
        j.found["total"], codec, form, sites=3, clip_l2=plan.privacy.clip_l2,
        noise_l2=summed_noise(plan, sigma=SIGMA, sites=3),
    )
    signed = sum(p.view(np.int32).astype(np.int64) for p in j.found["plain"]) * codec.step
    forget, retain = np.split(signed, 2)
    np.testing.assert_allclose(sums.forget, forget[:-1])
    np.testing.assert_allclose(sums.retain, retain[:-1])
    assert sums.forget_progress == pytest.approx(
        forget[-1] / (PROGRESS_SHARE * plan.privacy.clip_l2)
    )
    # Three sites, each of whom carries a third of the whole noise.
    assert sums.noise_l2 == pytest.approx(SIGMA * plan.privacy.clip_l2)
    j.found["sums"] = sums


def step_move(j: Journey) -> None:
    sums: RoundSums = j.found["sums"]
    q, root = j.geometry.basis.astype(np.float64), j.geometry.inverse_root.astype(np.float64)
    forget = root * (sums.forget - q.T @ (q @ sums.forget))
    expected = -0.5 * (forget + 2.0 * root * sums.retain) / 3
    blocks = whole_rows(j.layout, j.support)
    state = take_step(
        StepState.zero(j.support.size),
        direction_of(sums, retain_weight=j.plan.server.retain_weight),
        j.plan.server, round_index=0, rounds=3, geometry=j.geometry,
        constrain=lambda values: truncated(values, blocks, rank=j.plan.server.row_rank),
    )
    # Of the truncation all but what lies in span(R).
    cut = (truncated(expected, blocks, rank=j.plan.server.row_rank) - expected) / root
    np.testing.assert_allclose(
        state.values, expected + root * (cut - q.T @ (q @ cut)), rtol=1e-9, atol=1e-12,
    )
    j.found["step"] = state


def step_accept(j: Journey) -> None:
    names = tuple(j.found["updates"])
    before = RoundState(min_sites=2, rounds=3).agreed(names, layout_digest=j.layout.digest)
    before = before.supported(j.support.digest)
    after = before.accepted(0, names, support_digest=j.support.digest)
    assert (after.next_round, after.informed) == (1, names)
    with pytest.raises(Rejected, match="STATE_ORDER"):
        after.accepted(0, names, support_digest=j.support.digest)
    with pytest.raises(Transient, match="ROUND_TOO_FEW_SITES"):
        before.accepted(0, names[:1], support_digest=j.support.digest)
    j.found["state"] = after


def step_save(j: Journey) -> None:
    store = RunStore(j.folder / "run")
    store.save(Checkpoint(
        values={"state": j.found["state"].to_json()}, arrays={"values": j.found["step"].values}
    ))
    loaded = store.load()
    assert loaded is not None
    assert RoundState.from_json(loaded.values["state"]) == j.found["state"]
    np.testing.assert_array_equal(loaded.arrays["values"], j.found["step"].values)
    path = j.folder / "run" / "checkpoint.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(Misconfigured, match="CHECKPOINT_CORRUPT"):
        store.load()


def step_commit(j: Journey) -> None:
    published = j.found["step"].published
    digest = adapter_store.commit(
        j.folder / "adapter", layout=j.layout, support=j.support, values=published,
        base_model=str(j.model_folder), target_modules=j.plan.model.target_modules,
    )
    fresh = load_causal_lm(str(j.model_folder), dtype="float32", device=torch.device("cpu"))
    ids = torch.from_numpy(j.found["forget"].records[0].input_ids).unsqueeze(0)
    with torch.no_grad():
        before = fresh.model(input_ids=ids).logits.clone()
        after = PeftModel.from_pretrained(fresh.model, str(j.folder / "adapter"))(
            input_ids=ids
        ).logits
        adapter = j.found["adapter"]
        adapter.set_on_support(j.support, published)
        torch.testing.assert_close(after, adapter.model(input_ids=ids).logits)
    assert float((after - before).abs().max()) > 1e-4
    assert np.flatnonzero(adapter.flat()).tolist() == np.asarray(j.support.indices).tolist()
    j.found.update(digest=digest, fresh=fresh)


def step_open(j: Journey) -> None:
    folder, fresh = j.folder / "adapter", j.found["fresh"]
    write_adapter_facts(folder, AdapterFacts(
        base_model=str(j.model_folder), base_model_digest=fresh.model_digest,
        tokenizer_digest=fresh.tokenizer_digest, adapter_digest=j.found["digest"],
        run_id=RUN_ID, unit="record", epsilon=1.0, delta=1e-5,
    ))
    base, _ = open_adapter(folder, model=None, device=torch.device("cpu"))
    assert base.model_digest == fresh.model_digest
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(Misconfigured, match="ADAPTER_CHANGED"):
        open_adapter(folder, model=None, device=torch.device("cpu"))

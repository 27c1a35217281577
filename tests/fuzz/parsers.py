"""The parsers of what parties send each other and keep: a name, what reads, whole bytes.

Where a document has one spelling, reading it must give back its very bytes. Damage to what is
signed or hashed stops at once, so such a document is there a second time as its inside: content
that was damaged *before* it was signed, as a hostile party with a key of its own would do it.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

_TESTS = Path(__file__).resolve().parents[1]
for _folder in ("trust", "unit/audit"):
    if str(_TESTS / _folder) not in sys.path:
        sys.path.append(str(_TESTS / _folder))

import numpy as np  # noqa: E402
from audit_samples import ORIGIN, STATEMENT, add_round  # noqa: E402
from make_vectors import header, sealed  # noqa: E402
from masking_parsers import MASKING  # noqa: E402
from trust_lab import CODE, NOW, key, roster, signed, small_plan  # noqa: E402

from medunlearn_client.bundle_check import STUB_CLIENT, require_stub_bundle  # noqa: E402
from medunlearn_client.policy import SitePolicy, policy_from_bytes, policy_template  # noqa: E402
from medunlearn_client.step_message import EvaluationRequest, StepRequest  # noqa: E402
from medunlearn_common.attestation import dsse  # noqa: E402
from medunlearn_common.attestation.statement import Statement  # noqa: E402
from medunlearn_common.audit import (  # noqa: E402
    AuditLog,
    AuditRecord,
    LogExport,
    SignedCheckpoint,
)
from medunlearn_common.audit.carrying import with_head, without_head  # noqa: E402
from medunlearn_common.digests import canonical_json  # noqa: E402
from medunlearn_common.envelope import Header, open_envelope, parse_signed, sign_bytes  # noqa: E402
from medunlearn_common.envelope.sealing import content_bytes, message_from  # noqa: E402
from medunlearn_common.errors import Rejected  # noqa: E402
from medunlearn_common.evidence import contradictions  # noqa: E402
from medunlearn_common.layout import AdapterLayout  # noqa: E402
from medunlearn_common.messages import Message  # noqa: E402
from medunlearn_common.offer import (  # noqa: E402
    OFFER_TYPE,
    RunOffer,
    open_offer,
    plan_from_canonical,
    plan_text,
)
from medunlearn_common.publication import (  # noqa: E402
    FULL_FILES,
    Decision,
    open_decision,
    pack,
    unpack,
)
from medunlearn_common.publication.decisions import DECISION_TYPE  # noqa: E402
from medunlearn_common.ring import RingCodec  # noqa: E402
from medunlearn_common.roster import Root, Roster  # noqa: E402
from medunlearn_common.roster.document import party_from_bytes, party_to_bytes  # noqa: E402
from medunlearn_common.strict_cbor import decode, encode  # noqa: E402
from medunlearn_common.support import Support  # noqa: E402
from medunlearn_common.support_runs import from_runs, to_runs  # noqa: E402
from medunlearn_common.updates import SparseUpdate  # noqa: E402
from medunlearn_common.wire import VALUE_DTYPES  # noqa: E402
from medunlearn_server.checkpoints import Checkpoint  # noqa: E402

Read = Callable[[bytes], object]


class _Document(Protocol):
    def to_bytes(self) -> bytes: ...


def one_spelling(read: Callable[[bytes], _Document]) -> Read:
    """Reads, and requires that writing gives the same bytes."""

    def read_and_write(data: bytes) -> None:
        assert read(data).to_bytes() == data

    return read_and_write


def respelled(read: Read) -> Read:
    """Reads the canonical spelling of a JSON document: damage must keep to JSON, not to that."""

    def read_canonical(data: bytes) -> None:
        try:
            canonical = canonical_json(json.loads(data))
        except (ValueError, RecursionError):
            raise Rejected("FUZZ_NO_JSON", "the damage left no JSON", "fuzz on") from None
        read(canonical)

    return read_canonical


# -- trust: envelopes, roster, offer, policy -------------------------------------------------

KEYS = roster()
OFFER = RunOffer(run="r", coordinator="coordinator", plan=small_plan(), package_version="1",
                 code_digest=CODE).sign(key("coordinator"))
DECISION = Decision(
    run="r", site="site-0", attestation=bytes(32), adapter=bytes(32), verdict="objected",
    by="Dr. A", reason=bytes(32), number=1, issued=int(NOW)).sign(key("site-0"))

BUNDLE_PROJECT = f"""[tool.flwr.app.components]
serverapp = "medunlearn_server.flower_app:app"
clientapp = "{STUB_CLIENT}"
""".encode()


def _cbor(data: bytes) -> None:
    assert encode(decode(data, max_bytes=1 << 20)) == data


def _plan(data: bytes) -> None:
    text = data.decode("latin-1")
    assert plan_text(plan_from_canonical(text)) == text


def _signed_offer(data: bytes) -> None:
    open_offer(sign_bytes(data, OFFER_TYPE, key("coordinator")).to_bytes(), KEYS, now=NOW)


def _bundle_of(project: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pyproject.toml", project)
    return stream.getvalue()


def _signed_decision(data: bytes) -> None:
    open_decision(sign_bytes(data, DECISION_TYPE, key("site-0")).to_bytes(), KEYS, now=NOW)


TRUST: dict[str, tuple[Read, bytes]] = {
    "cbor": (_cbor, KEYS.to_bytes()),
    "dsse": (one_spelling(parse_signed), OFFER),
    "header": (one_spelling(Header.from_bytes), header().to_bytes()),
    "envelope": (lambda d: open_envelope(d, KEYS, now=NOW, expect=lambda h: None), sealed()),
    "roster": (one_spelling(Roster.from_bytes), KEYS.to_bytes()),
    "signed roster": (lambda d: Roster.from_bytes(parse_signed(d).payload), signed(KEYS)),
    "root": (one_spelling(Root.from_bytes), KEYS.root.to_bytes()),
    "entry": (party_from_bytes, party_to_bytes(KEYS.parties[0])),
    "offer": (lambda d: open_offer(d, KEYS, now=NOW), OFFER),
    "offer, signed": (_signed_offer, parse_signed(OFFER).payload),
    "plan": (_plan, plan_text(small_plan()).encode()),
    "plan, respelled": (respelled(_plan), plan_text(small_plan()).encode()),
    "policy": (policy_from_bytes, policy_template(SitePolicy()).encode()),
    "decision": (lambda d: open_decision(d, KEYS, now=NOW), DECISION),
    "decision, signed": (_signed_decision, parse_signed(DECISION).payload),
    "bundle": (require_stub_bundle, _bundle_of(BUNDLE_PROJECT)),
    "bundle, inside": (lambda d: require_stub_bundle(_bundle_of(d)), BUNDLE_PROJECT),
    "archive": (unpack, pack({name: name.encode() for name in FULL_FILES})),
}

# -- what is shown to third parties: log, attestation, evidence ------------------------------


def _audit_log(number: int = 0) -> LogExport:
    with tempfile.TemporaryDirectory() as folder:
        log = AuditLog(Path(folder) / "audit.db", origin=ORIGIN, signer=key("coordinator"),
                       clock=lambda: NOW)
        log.append("run_begun", run_id="demo-1", plan_digest="a" * 64, version="0.1.0")
        add_round(log, number)
        return log.export()


LOG = _audit_log()
ATTESTATION = dsse.sealed(STATEMENT, key("coordinator"))
EVIDENCE = contradictions.to_bytes([contradictions.Contradiction(
    kind="logs", kept=LOG.head.to_text(), other=_audit_log(1).head.to_text())])


def _attestation(data: bytes) -> None:
    payload = dsse.opened(data, KEYS, signer=dsse.named_signer(data))
    assert Statement.from_bytes(payload).to_bytes() == payload


def _checkpoint_note(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")  # a text out of JSON may hold anything
    assert SignedCheckpoint.from_text(text).to_text() == text


def _export(data: bytes) -> None:
    export = LogExport.from_bytes(data)
    assert export.to_bytes() == data
    export.verify(KEYS, keeper="coordinator")


def _evidence(data: bytes) -> None:
    for one in contradictions.from_bytes(data):
        contradictions.proven(one, KEYS)


SHOWN: dict[str, tuple[Read, bytes]] = {
    "statement": (one_spelling(Statement.from_bytes), STATEMENT),
    "statement, respelled": (respelled(one_spelling(Statement.from_bytes)), STATEMENT),
    "attestation": (_attestation, ATTESTATION),
    "attestation, signed": (
        lambda d: _attestation(dsse.sealed(d, key("coordinator"))), STATEMENT),
    "log record": (one_spelling(AuditRecord.from_bytes), LOG.lines[1]),
    "log record, respelled": (respelled(one_spelling(AuditRecord.from_bytes)), LOG.lines[1]),
    "log export": (_export, LOG.to_bytes()),
    "log checkpoint": (_checkpoint_note, LOG.head.to_text().encode()),
    "evidence": (_evidence, EVIDENCE),
    "evidence, respelled": (respelled(_evidence), EVIDENCE),
}

# -- messages of a run -----------------------------------------------------------------------

LAYOUT = AdapterLayout(
    names=("layer.lora_B.weight",), shapes=((8, 2),), a_shapes=((2, 8),), base_parameters=900,
    alpha=4.0, seed=0,
)


def _step(value_bits: int) -> Message:
    values = np.arange(4).astype(VALUE_DTYPES[value_bits]).tobytes()
    support = to_runs(np.array([0, 1, 2, 9]))
    geometry = np.array([[1, 1, 1, 1], [1, 0, 0, 0]], dtype="<f4").tobytes()  # root, one direction
    fields: dict[str, Any] = {
        "round": 1, "plan_digest": "a" * 64, "support_digest": "b" * 64, "sigma": 0.5,
        "values_bytes": len(values), "support_bytes": len(support), "geometry_rank": 1,
    }
    return Message(kind="step", fields=fields, payload=values + support + geometry)


def _read_step(data: bytes, *, value_bits: int) -> None:
    message = message_from(data)
    request = StepRequest.from_message(message, value_bits=value_bits)
    assert len(request.release_digest) == 64
    if request.support_indices is not None:
        request.check_lengths(
            Support(indices=request.support_indices, layout_digest=LAYOUT.digest))
    if value_bits == 32:
        assert EvaluationRequest.from_message(message).step.release_digest


def _runs(data: bytes) -> None:
    assert to_runs(from_runs(data, most=100)) == data


def _read_update(data: bytes, *, bits: int) -> None:
    """As the coordinator does, who knows how many coordinates there must be."""
    codec = RingCodec(step=1.0, max_sites=3, bits=bits)
    update = SparseUpdate.from_bytes(
        data, length=codec.words(5), layout_digest=LAYOUT.digest, subject_digest=LAYOUT.digest)
    assert update.to_bytes() == data
    sums = codec.from_ring(update.values, 5)
    assert sums.shape == (5,) and np.isfinite(sums).all()
    within = bool(np.all(np.abs(sums) <= codec.clamp_steps * codec.wire_step))
    if within and bits == 32:
        again = codec.to_ring(sums.astype(np.int64), private=True)
        assert np.array_equal(again, update.values)


def _carried(data: bytes) -> None:
    plain, found = without_head(message_from(data))
    if found is not None:
        head, leaves = found
        assert without_head(with_head(plain, head, leaves)) == (plain, found)


def _message(data: bytes) -> None:
    assert content_bytes(message_from(data)) == data


def _layout(data: bytes) -> None:
    layout = AdapterLayout.from_json(data.decode("latin-1"))
    assert layout.dimension >= 1 and len(layout.frozen_shapes) == len(layout.names)


def _checkpoint_inside(data: bytes) -> None:
    Checkpoint.from_bytes(data + hashlib.sha256(data).digest())


CHECKPOINT = Checkpoint(
    values={"round": 1}, arrays={"values": np.ones((2, 3)), "bytes": np.zeros(4, np.uint8)},
).to_bytes()
STEP = {bits: content_bytes(_step(bits)) for bits in (32, 16)}
CARRIED = content_bytes(with_head(Message(kind="finish"), LOG.head, LOG.leaves))

RUN: dict[str, tuple[Read, bytes]] = {
    "message": (_message, content_bytes(Message(kind="a", fields={"b": 1}, payload=b"c"))),
    "message, with head": (_carried, CARRIED),
    "step": (lambda d: _read_step(d, value_bits=32), STEP[32]),
    "step, 16 bits": (lambda d: _read_step(d, value_bits=16), STEP[16]),
    "support": (_runs, to_runs(np.array([0, 1, 2, 9]))),
    "update": (lambda d: _read_update(d, bits=32), np.arange(5, dtype="<u4").tobytes()),
    "update, 16 bits": (lambda d: _read_update(d, bits=16), np.arange(3, dtype="<u4").tobytes()),
    "layout": (_layout, LAYOUT.to_json().encode()),
    "layout, respelled": (respelled(_layout), LAYOUT.to_json().encode()),
    "checkpoint": (one_spelling(Checkpoint.from_bytes), CHECKPOINT),
    "checkpoint, inside": (_checkpoint_inside, CHECKPOINT[:-32]),
}

PARSERS: dict[str, tuple[Read, bytes]] = {**TRUST, **SHOWN, **RUN, **MASKING}
"""Name to what reads, and to whole bytes."""

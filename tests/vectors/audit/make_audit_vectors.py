"""Makes the frozen vectors of the audit log: ``python tests/vectors/audit/make_audit_vectors.py``.

Each file says what is checked, with which bytes, and how it must end: ``"ok"``, or the step that
must fail with its code. Keys and times are fixed, so that the files come out the same again.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from consistency_proofs import consistency_proof

from medunlearn_common.attestation.dsse import sealed
from medunlearn_common.audit import (
    COORDINATOR,
    AuditLog,
    LogExport,
    cosigned_checkpoint,
)
from medunlearn_common.audit.merkle import inclusion_proof, leaf_hash, root_of
from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.identity import SigningIdentity
from medunlearn_common.roster import Root, Roster, enrolment_request

ORIGIN = "coordinator/vectors-1"
PARTIES = (COORDINATOR, "site-0", "site-1", "stranger")
SIGNERS = {p: SigningIdentity.generate(p, SeededEntropy(2026)) for p in (*PARTIES, "root")}
ROSTER = Roster(
    version=1, issued=0, expires=2**32,
    root=Root(threshold=1, keys=(SIGNERS["root"].public_key,)),
    parties=tuple(
        enrolment_request(
            SIGNERS[party], role="coordinator" if party == COORDINATOR else "site",
            entity="Vectors", valid_from=0, valid_until=2**32,
        ) for party in PARTIES[:-1]
    ),
)
LEAVES = [leaf_hash(bytes([number])) for number in range(7)]


def example_log(folder: Path, *, second_round: tuple[str, ...] = ("site-0", "site-1")) -> AuditLog:
    log = AuditLog(folder / f"{len(second_round)}.db", origin=ORIGIN,
                   signer=SIGNERS[COORDINATOR], clock=lambda: 1_790_000_000.0)
    log.append("run_begun", run_id="vectors-1", plan_digest="1" * 64, version="0.1.0")
    for number, sites in enumerate((("site-0", "site-1"), second_round)):
        log.append("round_accepted", round=number, sites=list(sites), sum_digest="2" * 64,
                   failures={}, attempts=1, epsilon=0.25 * (number + 1))
    log.append("run_ended", reason="rounds_done", rounds=2, epsilon=0.5, delta=1e-5,
               adapter_digest="3" * 64)
    return log


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _merkle() -> Iterator[tuple[str, dict[str, Any]]]:
    root, leaves = root_of(LEAVES).hex(), [leaf.hex() for leaf in LEAVES]
    yield "01-roots", {"check": "roots", "outcome": "ok", "leaves": leaves,
                       "roots": [root_of(LEAVES[:size]).hex() for size in range(8)]}
    path = [hash_.hex() for hash_ in inclusion_proof(LEAVES, 4)]
    included = {"check": "inclusion", "leaf": leaves[4], "index": 4, "size": 7, "proof": path,
                "root": root}
    yield "02-inclusion", {**included, "outcome": "ok"}
    failing = {"step": "inclusion", "code": None}
    yield "03-bad-inclusion-of-another-leaf", {**included, "leaf": leaves[5], "outcome": failing}
    yield "04-bad-inclusion-proof-too-long", {
        **included, "proof": [*path, leaves[0]], "outcome": failing,
    }
    grown = {"check": "consistency", "old_size": 3, "old_root": root_of(LEAVES[:3]).hex(),
             "size": 7, "root": root,
             "proof": [hash_.hex() for hash_ in consistency_proof(LEAVES, 3)]}
    yield "05-consistency", {**grown, "outcome": "ok"}
    yield "06-bad-consistency-of-another-history", {
        **grown, "old_root": root_of(LEAVES[1:4]).hex(),
        "outcome": {"step": "consistency", "code": None},
    }


def _logs(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    log, other = example_log(folder), example_log(folder, second_round=("site-1",))
    seen = cosigned_checkpoint(log.head_at(3).checkpoint, SIGNERS["site-0"])
    split = cosigned_checkpoint(other.head_at(3).checkpoint, SIGNERS["site-1"])
    good = replace(log.export(), cosignatures=(seen,))
    lines = good.lines
    cases: tuple[tuple[str, LogExport, Any], ...] = (
        ("07-log", good, "ok"),
        ("08-bad-log-record-dropped", replace(good, lines=(*lines[:1], *lines[2:])),
         {"step": "log", "code": "AUDIT_LOG_DAMAGED", "first_bad": 1}),
        ("09-bad-log-truncated", replace(good, lines=lines[:3]),
         {"step": "log", "code": "AUDIT_LOG_DAMAGED", "first_bad": 3}),
        ("10-bad-log-rewritten", replace(good, lines=other.export().lines),
         {"step": "log", "code": "AUDIT_LOG_DAMAGED", "first_bad": 3}),
        ("11-bad-log-signed-by-a-witness", replace(
            good, head=cosigned_checkpoint(good.head.checkpoint, SIGNERS[COORDINATOR])),
         {"step": "log", "code": "SIGNATURE_INVALID"}),
        ("12-bad-witness-shown-another-log", replace(good, cosignatures=(seen, split)),
         {"step": "witnesses", "code": "AUDIT_SPLIT_VIEW"}),
    )
    for name, export, outcome in cases:
        yield name, {"check": "log", "outcome": outcome, "roster": _text(ROSTER.to_bytes()),
                     "file": _text(export.to_bytes())}


def _envelopes() -> Iterator[tuple[str, dict[str, Any]]]:
    payload = b'{"_type":"https://in-toto.io/Statement/v1"}'
    for name, party, outcome in (
        ("13-envelope", COORDINATOR, "ok"),
        ("14-bad-envelope-signed-by-a-site", "site-0",
         {"step": "signature", "code": "ENVELOPE_SIGNER"}),
    ):
        yield name, {"check": "envelope", "outcome": outcome, "payload": _text(payload),
                     "roster": _text(ROSTER.to_bytes()),
                     "file": _text(sealed(payload, SIGNERS[party]))}
    forged = sealed(payload, SIGNERS["stranger"]).replace(b'"stranger"', b'"coordinator"')
    yield "15-bad-envelope-forged", {
        "check": "envelope", "outcome": {"step": "signature", "code": "SIGNATURE_INVALID"},
        "payload": _text(payload), "roster": _text(ROSTER.to_bytes()), "file": _text(forged),
    }


def vectors() -> dict[str, str]:
    """File name to contents."""
    with TemporaryDirectory() as folder:
        made = {**dict(_merkle()), **dict(_logs(Path(folder))), **dict(_envelopes())}
    return {f"{name}.json": json.dumps(made[name], indent=1) + "\n" for name in made}


if __name__ == "__main__":
    for file, text in vectors().items():
        (Path(__file__).parent / file).write_text(text, encoding="ascii")

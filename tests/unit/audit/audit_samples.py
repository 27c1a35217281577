"""What the tests of the audit log share: names of parties, one kind of record, a statement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medunlearn_common.attestation.predicate import LIMITS, Predicate
from medunlearn_common.attestation.statement import Statement
from medunlearn_common.audit import COORDINATOR, AuditLog
from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.identity import SigningIdentity
from medunlearn_common.roster import Root, Roster, enrolment_request

SITES = ("site-0", "site-1", "site-2")
ORIGIN = "coordinator/demo-1"
PARTIES = (COORDINATOR, *SITES, "stranger")
D = "d" * 64
PREDICATE: dict[str, Any] = {
    "schema_version": 1, "adapter": D,
    "process": {"run_id": "demo-1", "version": "0.1.0", "stage": "published",
                "objective": "abstraction", "support": "vote", "rounds": 1, "rounds_planned": 2,
                "stopped_because": "gap_closed", "simulated": False},
    "materials": dict.fromkeys(("base_model", "tokenizer", "hierarchy", "layout", "support",
                                "plan", "roster", "code", "result"), D),
    "rounds": [{"round": 0, "survivors": ["site-0"], "sum_digest": D, "failures": {}}],
    "sites": {"site-0": {"rounds_joined": 1, "request_root": D, "cosignature": None}},
    "privacy": {"noise": "local", "adjacency": "add or remove one record", "clip_l2": 1.5,
                "sigma": 1.5, "vote_sigma": None, "epsilon": 4.5, "epsilon_budget": 8.0,
                "delta": 1e-05, "cumulative_epsilon": None, "releases": 1, "accountant": "prv",
                "accountant_version": "opacus 1.6.0"},
    "figures": {"forget_accuracy": {"value": 0.25, "low": 0.1, "high": 0.5, "n": 12,
                                    "interval": "wilson"}},
    "federated": {"rate": 0.5, "sites": ["site-0"], "failure": None, "cells": {"forget_kept": {
        "value": 3.0, "low": -1.0, "high": 7.0, "n": None, "interval": "noise"}}},
    "gates": [{"gate": "norm", "passed": True, "figure": 1.5, "limit": 2.5}],
    "incidents": {"refused": {}, "stops": [], "gates_failed": [], "overrides": []},
    "log": {"index": 0, "record": "{}", "proof": [], "checkpoint": "x"},
    "limits": list(LIMITS),
}
STATEMENT = Statement.of({"adapter/a": D}, Predicate.model_validate(PREDICATE)).to_bytes()


def roster_of(
    signers: Mapping[str, SigningIdentity], *, revoked: tuple[str, ...] = ()
) -> Roster:
    """A roster of these parties, the one named coordinator as such; ``revoked`` by name."""
    root = SigningIdentity.generate("root", SeededEntropy(8))
    return Roster(
        version=1, issued=0, expires=2**32, root=Root(threshold=1, keys=(root.public_key,)),
        revoked=tuple(sorted(signers[name].key_id for name in revoked)),
        parties=tuple(
            enrolment_request(
                signers[name], role="coordinator" if name == COORDINATOR else "site",
                entity="Hospital GmbH", valid_from=0, valid_until=2**32,
            ) for name in sorted(signers)
        ),
    )


def add_round(log: AuditLog, number: int, **changed: object) -> None:
    fields: dict[str, object] = {
        "round": number, "sites": list(SITES), "sum_digest": f"{number:064x}", "failures": {},
        "attempts": 1, "epsilon": 0.5 * (number + 1),
    }
    log.append("round_accepted", **{**fields, **changed})

"""A log with a few records, its keys, and a book of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from medunlearn_common.audit import COORDINATOR, AuditLog
from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.identity import SigningIdentity
from medunlearn_common.roster import Roster

sys.path.insert(0, str(Path(__file__).parent))

from audit_samples import ORIGIN, PARTIES, add_round, roster_of


@pytest.fixture
def signers() -> dict[str, SigningIdentity]:
    return {party: SigningIdentity.generate(party, SeededEntropy(7)) for party in PARTIES}


@pytest.fixture
def book(signers: dict[str, SigningIdentity]) -> Roster:
    return roster_of({party: s for party, s in signers.items() if party != "stranger"})


@pytest.fixture
def open_log(tmp_path: Path, signers: dict[str, SigningIdentity]) -> Callable[..., AuditLog]:
    def opened(name: str = "audit.db", *, party: str = COORDINATOR) -> AuditLog:
        return AuditLog(
            tmp_path / name, origin=ORIGIN, signer=signers[party], clock=lambda: 1_790_000_000.0
        )

    return opened


@pytest.fixture
def log(open_log: Callable[..., AuditLog]) -> AuditLog:
    """Eight records."""
    opened = open_log()
    opened.append("run_begun", run_id="demo-1", plan_digest="a" * 64, version="0.1.0")
    for number in range(7):
        add_round(opened, number)
    return opened

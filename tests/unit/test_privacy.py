"""Accounting and the ledger: each guarantee with what would break it."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from medunlearn_common.accounting import (
    Mechanism,
    epsilon_of,
)
from medunlearn_common.errors import BudgetExceeded, Rejected, Transient
from medunlearn_common.ledger import Budget, PrivacyLedger


@pytest.mark.parametrize("sigma", [0.05, 1e-3, 1e-9, 1e-300])
def test_next_to_no_noise_costs_the_accountant_neither_time_nor_memory(sigma: float) -> None:
    """Its grid would: a request, a plan or an attestation may name any noise."""
    begun = time.process_time()
    cost = epsilon_of(
        (Mechanism(sigma=sigma, forget_rate=0.1, retain_rate=0.1, count=20),), delta=1e-5)
    assert cost > 300.0 and time.process_time() - begun < 5.0


def test_where_the_bound_of_the_accountant_ends_the_looser_one_goes_on() -> None:
    costs = [
        epsilon_of((Mechanism(sigma=s, forget_rate=0.1, retain_rate=0.1, count=20),), delta=1e-5)
        for s in (0.13, 0.14, 0.15, 0.2)
    ]
    assert costs == sorted(costs, reverse=True) and costs[-1] < 300.0 < costs[0]
    assert costs[0] < 2.0 * costs[1]


def test_the_dearer_track_counts() -> None:
    cheap = Mechanism(sigma=2.0, forget_rate=0.1, retain_rate=0.1, count=10)
    dear = Mechanism(sigma=2.0, forget_rate=0.1, retain_rate=0.5, count=10)
    assert epsilon_of((dear,), delta=1e-5) > 2.0 * epsilon_of((cheap,), delta=1e-5)


def release(ledger: PrivacyLedger, name: str, *, request: str = "r", sigma: float = 1.0) -> None:
    ledger.charge(
        run_id="run", release=name, request_digest=request,
        mechanism=Mechanism(sigma=sigma, forget_rate=1.0, retain_rate=1.0, count=1),
        budget=Budget(epsilon=8.0, delta=1e-5),
    )


def test_ledger_refuses_the_release_that_would_exceed_the_budget(tmp_path: Path) -> None:
    ledger = PrivacyLedger(tmp_path / "ledger.db")
    with pytest.raises(BudgetExceeded, match="PRIVACY_BUDGET"):
        for number in range(100):
            release(ledger, f"round-{number}")
    spent = ledger.epsilon(run_id="run", delta=1e-5)
    assert 4.0 < spent <= 8.0
    count = ledger.releases(run_id="run")
    with pytest.raises(BudgetExceeded):
        release(ledger, "one-more")
    assert ledger.releases(run_id="run") == count


def test_ledger_charges_a_repeated_request_once_and_refuses_a_changed_one(
    tmp_path: Path,
) -> None:
    ledger = PrivacyLedger(tmp_path / "ledger.db")
    release(ledger, "round-0")
    release(ledger, "round-0")
    assert ledger.releases(run_id="run") == 1
    with pytest.raises(Rejected, match="REQUEST_CHANGED"):
        release(ledger, "round-0", request="another adapter")
    ledger.remember_answer(run_id="run", release="round-0", answer=b"bytes")
    reopened = PrivacyLedger(tmp_path / "ledger.db")
    same = reopened.answer_given(run_id="run", release="round-0", request_digest="r")
    assert same == b"bytes"
    with pytest.raises(Rejected, match="REQUEST_CHANGED"):
        reopened.answer_given(run_id="run", release="round-0", request_digest="other")


def test_a_damaged_ledger_stops_releases(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    release(PrivacyLedger(path), "round-0")
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(Transient, match="LEDGER_UNAVAILABLE"):
        PrivacyLedger(path)


def test_a_ledger_whose_folder_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "site").write_text("a file")
    with pytest.raises(Transient, match="LEDGER_UNAVAILABLE"):
        PrivacyLedger(tmp_path / "site" / "ledger.db")


def test_a_charge_is_on_disk_before_charge_returns(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    release(PrivacyLedger(path), "round-0")
    with closing(sqlite3.connect(path)) as other_process:
        assert other_process.execute("SELECT COUNT(*) FROM releases").fetchone() == (1,)

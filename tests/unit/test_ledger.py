"""The ledger over runs: what adds up, what stops, and what damage cannot do to it."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from math import inf, nan
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medunlearn_common.accounting import (
    Mechanism,
    PlannedReleases,
    calibrate,
    epsilon_of,
    summed_sigma,
)
from medunlearn_common.errors import BudgetExceeded, MedunlearnError, Rejected, Transient
from medunlearn_common.ledger import Budget, PrivacyLedger, SiteBudget
from medunlearn_common.ledger.commands import ledger_app
from medunlearn_common.plan import plan_from_text

KILLS = Path(__file__).resolve().parents[1] / "faults" / "ledger_kills.py"
BUDGET = Budget(epsilon=8.0, delta=1e-5)


def counting(mechanisms: tuple[Mechanism, ...], delta: float) -> float:
    """A stand-in that charges 1 / sigma per release: composition without the accountant's time."""
    return sum(m.count / m.sigma for m in mechanisms)


def mechanism(sigma: float = 1.0) -> Mechanism:
    return Mechanism(sigma=sigma, forget_rate=1.0, retain_rate=1.0, count=1)


def charge(ledger: PrivacyLedger, run: str, release: str, *, sigma: float = 1.0,
           unit: str = "record", budget: Budget | None = BUDGET) -> None:
    ledger.charge(run_id=run, release=release, request_digest="r", mechanism=mechanism(sigma),
                  budget=budget, unit=unit)  # type: ignore[arg-type]


def code_of(error: pytest.ExceptionInfo[MedunlearnError]) -> str:
    return error.value.code


def test_nobody_else_reads_the_ledger_and_what_was_forgotten_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where a library of SQLite was built to leave erased pages as they were."""
    class Careless(sqlite3.Connection):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)  # type: ignore[arg-type]
            self.execute("PRAGMA secure_delete=OFF")

    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: real(*a, factory=Careless, **k))
    path, before = tmp_path / "site" / "ledger.db", os.umask(0o022)
    try:
        ledger = PrivacyLedger(path, accountant=counting)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    first = os.urandom(50_000)
    for release, answer in (("vote", first), ("round-0", b"short")):
        charge(ledger, "run", release, sigma=8.0)
        ledger.remember_answer(run_id="run", release=release, answer=answer)
    kept = path.read_bytes()
    assert not any(first[at : at + 32] in kept for at in range(0, len(first) - 32, 500))


def test_many_small_runs_do_not_add_up_beyond_the_sites_budget(tmp_path: Path) -> None:
    site = SiteBudget(epsilon=5.0, delta=1e-5, unit="record")
    path = tmp_path / "ledger.db"
    for number in range(5):  # reopened each time: the sum is on disk, not in memory
        charge(PrivacyLedger(path, site_budget=site, accountant=counting), f"run-{number}", "vote")
    ledger = PrivacyLedger(path, site_budget=site, accountant=counting)
    with pytest.raises(BudgetExceeded) as caught:
        charge(ledger, "run-5", "vote")
    assert code_of(caught) == "PRIVACY_SITE_BUDGET"
    assert ledger.releases(run_id="run-5") == 0
    assert ledger.cumulative_epsilon(unit="record", delta=1e-5) == 5.0


def test_a_coordinator_cannot_raise_the_budget_of_a_run_half_way(tmp_path: Path) -> None:
    ledger = PrivacyLedger(tmp_path / "ledger.db", accountant=counting)
    charge(ledger, "run", "round-0")
    for changed in ({"budget": Budget(epsilon=99.0, delta=1e-5)}, {"budget": None},
                    {"unit": "patient"}):
        with pytest.raises(Rejected) as caught:
            charge(ledger, "run", "round-1", **changed)  # type: ignore[arg-type]
        assert code_of(caught) == "BUDGET_CHANGED"


def test_record_runs_cannot_be_hidden_in_a_budget_per_patient(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    charge(PrivacyLedger(path, accountant=counting), "run", "vote", unit="record")
    site = SiteBudget(epsilon=1e6, delta=1e-5, unit="patient")
    ledger = PrivacyLedger(path, site_budget=site, accountant=counting)
    assert ledger.cumulative_epsilon(unit="patient", delta=1e-5) == inf
    with pytest.raises(BudgetExceeded) as caught:
        charge(ledger, "other", "vote", unit="patient")
    assert code_of(caught) == "PRIVACY_SITE_BUDGET"


def test_patient_runs_cost_records_at_half_the_noise(tmp_path: Path) -> None:
    ledger = PrivacyLedger(tmp_path / "ledger.db", accountant=counting)
    charge(ledger, "run", "vote", unit="patient", sigma=4.0)
    assert ledger.cumulative_epsilon(unit="patient", delta=1e-5) == 0.25
    assert ledger.cumulative_epsilon(unit="record", delta=1e-5) == 0.5


def test_who_is_kept_in_one_run_and_forgotten_in_the_next_cannot_pay_once_for_both(
    tmp_path: Path
) -> None:
    """A coordinator that asks all retained units in one run and all forgotten ones in the next
    asks twice about whoever withdrew in between, though no set is ever asked twice."""
    ledger = PrivacyLedger(tmp_path / "ledger.db")
    for run, forget, retain in (("first", 0.01, 1.0), ("second", 1.0, 0.01)):
        ledger.charge(
            run_id=run, release="round-0", request_digest="r", budget=BUDGET,
            mechanism=Mechanism(sigma=4.0, forget_rate=forget, retain_rate=retain, count=1),
        )
    both = epsilon_of((replace(mechanism(4.0), count=2),), delta=1e-5)
    assert ledger.cumulative_epsilon(unit="record", delta=1e-5) == both
    assert ledger.epsilon(run_id="first", delta=1e-5) < both  # within a run nobody changes sides


def test_a_run_without_noise_spends_without_bound(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    charge(PrivacyLedger(path, accountant=counting), "run", "vote", budget=None, sigma=9.0)
    ledger = PrivacyLedger(
        path, site_budget=SiteBudget(epsilon=1e6, delta=1e-5, unit="record"), accountant=counting
    )
    assert ledger.cumulative_epsilon(unit="record", delta=1e-5) == inf
    with pytest.raises(BudgetExceeded):
        charge(ledger, "other", "vote")


def test_an_epsilon_that_is_no_number_passes_no_budget(tmp_path: Path) -> None:
    """A coordinator looks for noise and rates at which an accountant breaks."""
    for site in (None, SiteBudget(epsilon=1e6, delta=1e-5, unit="record")):
        ledger = PrivacyLedger(tmp_path / f"{site is None}.db", site_budget=site,
                               accountant=lambda mechanisms, delta: nan)
        with pytest.raises(BudgetExceeded):
            charge(ledger, "run", "vote", budget=BUDGET if site is None else None)


def test_an_answer_to_what_was_never_charged_is_refused(tmp_path: Path) -> None:
    ledger = PrivacyLedger(tmp_path / "ledger.db", accountant=counting)
    with pytest.raises(Rejected) as caught:
        ledger.remember_answer(run_id="run", release="vote", answer=b"x")
    assert code_of(caught) == "RELEASE_UNCHARGED"


@pytest.mark.parametrize("attack", [
    "UPDATE releases SET sigma = 1000.0", "DELETE FROM releases", "DELETE FROM answers",
    "UPDATE runs SET epsilon = 1000.0", "DELETE FROM runs",
])
def test_entries_are_only_added(tmp_path: Path, attack: str) -> None:
    ledger = PrivacyLedger(tmp_path / "ledger.db", accountant=counting)
    charge(ledger, "run", "vote")
    ledger.remember_answer(run_id="run", release="vote", answer=b"x")
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as other, \
            pytest.raises(sqlite3.Error):
        other.execute(attack)


@pytest.mark.parametrize("attack", [
    "UPDATE releases SET sigma = 1000.0 WHERE position = 1",
    "DELETE FROM releases WHERE position = 1",
    "UPDATE releases SET unit = 'patient' WHERE position = 2",
    "UPDATE releases SET run_id = 'else' WHERE position = 2",
])
def test_a_changed_or_dropped_entry_stops_every_release(tmp_path: Path, attack: str) -> None:
    path = tmp_path / "ledger.db"
    ledger = PrivacyLedger(path, accountant=counting)
    for number in range(3):
        charge(ledger, "run", f"round-{number}")
    # Whoever owns the file can drop its triggers.
    with closing(sqlite3.connect(path)) as other, other:
        for trigger in ("releases_stay", "releases_stand"):
            other.execute(f"DROP TRIGGER {trigger}")
        other.execute(attack)
    with pytest.raises(Transient) as caught:
        charge(PrivacyLedger(path, accountant=counting), "run", "round-3")
    assert code_of(caught) == "LEDGER_DAMAGED"


def test_a_damaged_kept_answer_is_not_sent(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = PrivacyLedger(path, accountant=counting)
    charge(ledger, "run", "vote")
    ledger.remember_answer(run_id="run", release="vote", answer=b"noised")
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("UPDATE answers SET answer = ?", (b"noisef",))
    with pytest.raises(Transient) as caught:
        ledger.answer_given(run_id="run", release="vote", request_digest="r")
    assert code_of(caught) == "LEDGER_DAMAGED"


def shown(path: Path, *options: str) -> tuple[int, str, BaseException | None]:
    result = CliRunner().invoke(ledger_app, ["show", str(path), *options])
    return result.exit_code, result.output, result.exception


def test_bytes_flipped_anywhere_end_in_the_same_figures_or_a_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.db"
    monkeypatch.setattr("medunlearn_common.ledger.store._prv.__code__", counting.__code__)
    monkeypatch.setattr("medunlearn_common.ledger.commands._prv", counting)
    ledger = PrivacyLedger(path, accountant=counting)
    for number in range(6):
        charge(ledger, f"run-{number % 2}", f"round-{number}")
    sound, generator = path.read_bytes(), random.Random(3)
    _, expected, _ = shown(path, "--json")
    outcomes = set()
    for _ in range(150):
        data = bytearray(sound)
        for _ in range(generator.randint(1, 8)):
            data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        path.write_bytes(data)
        _, output, error = shown(path, "--json")
        if error is None:
            assert output == expected
        else:
            assert isinstance(error, MedunlearnError), repr(error)
            outcomes.add(error.code)
    assert outcomes <= {"LEDGER_DAMAGED", "LEDGER_UNAVAILABLE", "STORE_NEWER"}
    assert "LEDGER_DAMAGED" in outcomes


def test_show_tells_releases_spending_and_what_is_left(tmp_path: Path) -> None:
    ledger = PrivacyLedger(tmp_path / "ledger.db")
    charge(ledger, "autumn", "vote", sigma=3.0)
    charge(ledger, "autumn", "round-0", sigma=2.0)
    charge(ledger, "open", "vote", budget=None)
    status, output, _ = shown(tmp_path)
    assert status == 0
    for words in ("run autumn: protects each record", "support vote", "sum of round 1",
                  "of 8 at delta 1e-05", "no noise, no guarantee",
                  "all 2 runs together", "any one record: no bound (of a run above"):
        assert words in output
    figures = json.loads(shown(tmp_path, "--json")[1])
    autumn = figures["runs"][0]
    assert autumn["epsilon_spent"] == pytest.approx(ledger.epsilon(run_id="autumn", delta=1e-5))
    assert autumn["epsilon_left"] == pytest.approx(8.0 - autumn["epsilon_spent"])
    steps = [entry["epsilon_added"] for entry in autumn["releases"]]
    assert sum(steps) == pytest.approx(autumn["epsilon_spent"]) and min(steps) > 0.0


def test_show_says_why_runs_for_records_bound_nothing_for_a_patient(tmp_path: Path) -> None:
    ledger = PrivacyLedger(tmp_path / "ledger.db")
    charge(ledger, "autumn", "vote", sigma=3.0)
    _, output, _ = shown(tmp_path)
    assert "any one record: epsilon" in output
    told = " ".join(output.partition("any one patient, all records:")[2].split())
    assert told.startswith("no bound (a run that protects each record says nothing of a patient's")


def test_show_makes_no_ledger_where_there_is_none(tmp_path: Path) -> None:
    *_, error = shown(tmp_path)
    assert isinstance(error, MedunlearnError) and error.code == "LEDGER_MISSING"
    assert not list(tmp_path.iterdir())


def test_a_hundred_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(KILLS), str(tmp_path / "ledger.db"), "100", "1"],
        capture_output=True, text=True, env={"PYTHONPATH": ":".join(sys.path)}, check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] == 100 and found["acknowledged"] > 150


GRID = [
    (Mechanism(sigma=s, forget_rate=q, retain_rate=q, count=n),)
    for s, q, n in ((1.0, 1.0, 1), (8.0, 1.0, 40), (3.0, 0.25, 20), (1.2, 0.05, 100))
] + [(
    Mechanism(sigma=12.0, forget_rate=1.0, retain_rate=1.0, count=1),  # vote
    Mechanism(sigma=20.0, forget_rate=0.5, retain_rate=0.5, count=1),  # counts
    Mechanism(sigma=9.0, forget_rate=1.0, retain_rate=0.5, count=20),  # rounds
)]


@pytest.mark.parametrize("mechanisms", GRID)
@pytest.mark.parametrize("delta", [1e-5, 1e-7])
def test_two_accountants_agree_within_two_percent(
    mechanisms: tuple[Mechanism, ...], delta: float
) -> None:
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    second = PLDAccountant()
    for m in mechanisms:
        gaussian = dp_accounting.GaussianDpEvent(m.sigma)
        event = gaussian if m.forget_rate == 1.0 else dp_accounting.PoissonSampledDpEvent(
            m.forget_rate, gaussian)
        second.compose(event, m.count)
    first = epsilon_of(mechanisms, delta=delta)
    other = float(second.get_epsilon(delta))
    assert abs(first - other) <= 0.02 + 0.02 * other
    halved = tuple(
        Mechanism(sigma=m.sigma / 1.1, forget_rate=m.forget_rate, retain_rate=m.retain_rate,
                  count=m.count) for m in mechanisms
    )
    assert epsilon_of(halved, delta=delta) > other * 1.02 + 0.02  # a tenth less noise shows


def test_vote_rounds_and_counts_together_spend_the_budget_once() -> None:
    releases = PlannedReleases(
        rounds=20, forget_rate=1.0, retain_rate=1.0, vote_share=0.1, evaluation_share=0.05,
        evaluation_rate=0.5,
    )
    schedule = calibrate(releases, epsilon=6.0, delta=1e-5)
    assert releases.mechanisms(releases.scale_of(schedule.round_sigma)) == schedule.mechanisms
    assert 5.9 < schedule.epsilon <= 6.0
    without = schedule.spent(steps=20, evaluated=False)
    assert epsilon_of(without, delta=1e-5) < schedule.epsilon
    assert schedule.spent(steps=20, evaluated=True) == schedule.mechanisms
    assert schedule.evaluation_sigma == schedule.mechanisms[1].sigma
    plain = calibrate(replace(releases, evaluation_share=0.0), epsilon=6.0, delta=1e-5)
    assert plain.round_sigma < schedule.round_sigma < 1.05 * plain.round_sigma
    assert plain.evaluation_sigma == 0.0 and len(plain.mechanisms) == 2


def test_a_plan_whose_shares_leave_nothing_for_the_rounds_is_refused() -> None:
    with pytest.raises(MedunlearnError, match="leave nothing for the rounds"):
        plan_from_text("[privacy]\nevaluation_share = 0.95\n[support]\nvote_share = 0.1\n")


def test_dropouts_never_leave_less_noise_than_was_charged() -> None:
    charged = 4.0
    for survivors in range(3, 11):
        carried = summed_sigma(charged, survivors=survivors, guaranteed=3)
        assert carried >= charged  # each adds sigma / sqrt(3): more survivors, more noise
        assert carried**2 == pytest.approx(survivors * (charged / 3**0.5) ** 2)
    full = (Mechanism(sigma=charged, forget_rate=1.0, retain_rate=1.0, count=10),)
    more = (Mechanism(sigma=summed_sigma(charged, survivors=6, guaranteed=3), forget_rate=1.0,
                      retain_rate=1.0, count=10),)
    assert epsilon_of(more, delta=1e-5) < epsilon_of(full, delta=1e-5)
    with pytest.raises(Transient, match="ROUND_TOO_FEW_SITES"):
        summed_sigma(charged, survivors=2, guaranteed=3)

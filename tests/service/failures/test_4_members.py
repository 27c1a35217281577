"""Nodes that are not, or no more, what the federation agreed on; and how it all is accounted."""

from __future__ import annotations

import json
import re
import shutil
import socket
from pathlib import Path

import pytest
from hosts import other_packages
from under_fire import PATIENCE, RECOVERY_S, Run, doctor, edit, ledger, tell

from medunlearn_client.joining.own_keys import new_node_key
from medunlearn_common.plan import read_plan
from medunlearn_simulation.rehearsal.parties import wait_for
from medunlearn_simulation.rehearsal.rehearse import Federation

# A hospital's start takes as long as eight rounds of three seconds, and two rows need one.
LAST_ROUNDS = 30


def test_a_node_with_a_key_that_nobody_enrolled(run: Run, tmp_path: Path) -> None:
    """It does not get past the gateway; with its own key it is back."""
    hospital = run.federation.hospitals[3]
    own, other = hospital.folder / "node", tmp_path / "node"
    other.mkdir()
    new_node_key(other)
    kept = (own / "node.key").read_bytes()
    (own / "node.key").write_bytes((other / "node.key").read_bytes())
    try:
        hospital.kill("supernode")
        run.next_round(lacking=hospital.name)
        assert "NODE_KEY_OTHER" in doctor(hospital)
    finally:
        (own / "node.key").write_bytes(kept)
    took = run.next_round(having=[hospital.name])
    tell(f"a wrong node key: back in a sum {took:.0f} s after its own was put back")


def test_a_node_with_another_model(run: Run, tmp_path: Path) -> None:
    """It is refused by name of what differs, before it computes anything."""
    hospital = run.federation.hospitals[3]
    other = tmp_path / "model"
    shutil.copytree(run.federation.task.model, other)
    _flip_a_weight(other)
    back = edit(hospital.folder / "site.toml", lambda text: re.sub(
        r'(?m)^model_folder = .*$', f'model_folder = "{other}"', text))
    since = len(run.reports())
    try:
        hospital.kill("worker")
        code = run.code_of(hospital.name, ("MODEL_MISMATCH",), since=since)
        assert "MODEL_DIFFERS" in doctor(hospital)
    finally:
        back()
    hospital.kill("worker")
    # A site that said no is asked again after two minutes.
    took = run.next_round(having=[hospital.name], within_s=2 * RECOVERY_S)
    tell(f"another model is {code}; back in a sum {took:.0f} s after its own was put back")


def test_a_node_with_another_package_version(run: Run, tmp_path: Path) -> None:
    """Restarted with other code in the middle of a run, it refuses to take part in it."""
    hospital = run.federation.hospitals[3]
    since = len(run.reports())
    hospital.end()
    hospital.packages = other_packages(tmp_path, version="0.1.1")
    try:
        hospital.serve()
        code = run.code_of(hospital.name, ("CODE_NOT_INSTALLED", "VERSION_MISMATCH"), since=since)
    finally:
        hospital.end()
        hospital.packages = ()
        hospital.serve()
    took = run.next_round(having=[hospital.name])
    tell(f"another version is {code}; back in a sum {took:.0f} s after the start of its own")


def test_a_run_of_all_this_is_charged_once(run: Run) -> None:
    """Ended by its operator: every release once at every hospital, and the plan's epsilon."""
    made = run.federation
    lead = made.coordinator
    lead.run("coordinator", "stop", run.run_id, "--folder", str(lead.folder))
    wait_for(lambda: made.state(run.run_id) == "stopped", within_s=RECOVERY_S, look_s=2.0,
             what="the stop")
    reports = run.reports()
    assert sorted(reports) == list(range(len(reports)))
    # The stop came in the middle of a round, which some had charged already.
    begun = {f"round-{i}" for i in range(len(reports) + 1)}
    spent: dict[int, set[float]] = {}
    for hospital in made.hospitals:
        figures = ledger(hospital, run.run_id)
        charged = [release["release"] for release in figures["releases"]]
        assert len(charged) == len(set(charged))
        taken = {f"round-{i}" for i, r in reports.items() if hospital.name in r["sites"]}
        # What it charged and did not get into a sum was released to nobody, and stays charged.
        assert taken <= set(charged) <= begun
        assert figures["epsilon_spent"] <= figures["epsilon_budget"]
        spent.setdefault(len(charged), set()).add(round(figures["epsilon_spent"], 9))
        tell(f"{hospital.name}: {len(taken)} of {len(reports)} rounds, {len(charged)} charges, "
             f"epsilon {figures['epsilon_spent']:.4f}")
    assert all(len(epsilons) == 1 for epsilons in spent.values())


def test_an_upgrade_of_one_hospital_between_runs(
    served: Federation, run: Run, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """It sits out a run of the old version, loses nothing, and takes part once it agrees."""
    hospital = served.hospitals[0]
    hospital.end()
    hospital.packages = other_packages(tmp_path, version="0.1.1")
    hospital.serve()
    plan = served.task.plan
    edit(plan, lambda text: re.sub(r"(?m)^rounds = \d+$", f"rounds = {LAST_ROUNDS}", text))
    assert read_plan(plan).run.rounds == LAST_ROUNDS
    last = Run(served)
    request.config.stash[LAST] = last
    before = ledger(hospital, run.run_id)["releases"]
    first = last.until(1)
    tell(f"the first round {first:.0f} s after the launch, a stopped run before it")
    last.code_of(hospital.name, ("CODE_NOT_INSTALLED", "VERSION_MISMATCH"), since=0)
    hospital.end()
    hospital.packages = ()
    hospital.serve()
    took = last.next_round(having=[hospital.name])
    assert ledger(hospital, run.run_id)["releases"] == before
    tell(f"an upgraded hospital: in a sum {took:.0f} s after it had the others' version")


LAST = pytest.StashKey[Run]()


def test_a_node_whose_key_is_revoked(
    served: Federation, run: Run, request: pytest.FixtureRequest
) -> None:
    """Out at once, for good; the run of the others goes on to its end under the next roster."""
    last = request.config.stash[LAST]
    lead, hospital = served.coordinator, served.hospitals[3]
    last.next_round(having=[hospital.name])
    since = len(last.reports())
    lead.run("coordinator", "revoke", hospital.name, "--folder", str(lead.folder))
    took = last.next_round(lacking=hospital.name)
    tell(f"a revoked key: a round of the others after {took:.0f} s")
    served.finish(last.run_id, within_s=1200.0 * PATIENCE)
    reports = last.reports()
    assert sorted(reports) == list(range(LAST_ROUNDS))
    later = [r for i, r in reports.items() if i > since]  # that one was under way
    assert later and not any(hospital.name in report["sites"] for report in later)
    spent = {round(ledger(other, last.run_id)["epsilon_spent"], 9)
             for other in served.hospitals[1:3]}
    outcome = json.loads((last.folder / "outcome.json").read_text("utf-8"))
    # Both took part in all of it, in every round and in the counts at the end.
    assert spent == {round(outcome["epsilon"], 9)}
    assert reports[LAST_ROUNDS - 1]["epsilon"] < outcome["epsilon"]


def test_nothing_is_left_running(served: Federation) -> None:
    """A service that is ended leaves no process behind, not even one that was started anew."""
    hospital = served.hospitals[0]
    pids = [pid for part in hospital.parts for pid in hospital.pids(part)]
    assert pids
    hospital.end()
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", 9494)) != 0


def _flip_a_weight(folder: Path) -> None:
    """One bit of the last number."""
    (weights,) = folder.glob("*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))

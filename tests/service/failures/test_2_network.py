"""Absences and bad lines: a hospital that is away costs the others nothing but its part."""

from __future__ import annotations

import time

from under_fire import RECOVERY_S, Run, tell

from medunlearn_simulation.rehearsal.networks import Namespaces

CUT_S = 90.0


def test_a_hospital_leaves_for_two_rounds_and_comes_back(run: Run) -> None:
    """SIGTERM, as for a maintenance of the machine; the others go on without it."""
    hospital = run.federation.hospitals[3]
    hospital.end()
    run.next_round(lacking=hospital.name)
    run.next_round(lacking=hospital.name)
    hospital.serve()
    took = run.next_round(having=[hospital.name])
    tell(f"a hospital that was away for two rounds: back in a sum {took:.0f} s after its start")


def test_a_run_survives_a_pulled_cable(run: Run) -> None:
    """Packets vanish for 90 s, nobody is told; the run goes on, and takes the site back."""
    network, hospital = run.federation.network, run.federation.hospitals[1]
    network.cut(2)
    began = time.monotonic()
    try:
        run.next_round(lacking=hospital.name)
        time.sleep(max(0.0, CUT_S - (time.monotonic() - began)))
    finally:
        network.mend(2)
    cut_s = time.monotonic() - began
    took = run.next_round(having=[hospital.name])
    tell(f"back in a sum {took:.0f} s after {cut_s:.0f} s without a link")
    assert took <= RECOVERY_S


def test_a_run_survives_a_pulled_cable_of_the_coordinator(run: Run) -> None:
    """Nobody is reached for 90 s: the run waits, and goes on from where it stood."""
    network, hospitals = run.federation.network, run.federation.hospitals
    for hospital in hospitals:
        network.cut(hospital.index)
    before = len(run.reports())
    try:
        time.sleep(CUT_S)
        assert len(run.reports()) <= before + 1  # of the round that was under way
    finally:
        for hospital in hospitals:
            network.mend(hospital.index)
    took = run.next_round()
    tell(f"a round {took:.0f} s after {CUT_S:.0f} s without anybody")
    took += run.next_round(having=[hospital.name for hospital in hospitals])
    tell(f"all of them in a sum after {took:.0f} s")
    assert took <= RECOVERY_S


def test_a_run_goes_on_over_a_bad_line(run: Run) -> None:
    """200 ms each way, and every twentieth packet lost, for one hospital, in two rounds."""
    network, hospital = run.federation.network, run.federation.hospitals[2]
    assert isinstance(network, Namespaces)
    network.degrade(3, delay_ms=200.0, loss=0.05)
    try:
        first = run.next_round(having=[hospital.name], within_s=2 * RECOVERY_S)
        second = run.next_round(having=[hospital.name], within_s=2 * RECOVERY_S)
    finally:
        network.repair(3)
    tell(f"rounds over the bad line: {first:.0f} s, {second:.0f} s")

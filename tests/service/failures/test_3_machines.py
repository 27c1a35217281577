"""What a machine does to its party: a full disk, a wrong clock, a certificate that expires."""

from __future__ import annotations

import time
from pathlib import Path

from hosts import OtherClock, SmallDisk
from under_fire import PATIENCE, RECOVERY_S, Run, doctor, tell

from medunlearn_common.messages import MASK_AGREE, MASK_OPEN
from medunlearn_common.pki import issue_server, read_pair, write_pair
from medunlearn_server.service.config import open_folder
from medunlearn_simulation.rehearsal.parties import wait_for

# As docs/runbook.md names them under STORAGE_FULL.
FULL_SITE = ("LEDGER_UNAVAILABLE", "ENVELOPE_STORE", "SHARE_JOURNAL_UNAVAILABLE",
             "AUDIT_UNAVAILABLE", "SITE_STORAGE")
OFF_S = 600
SHORT_S = 45.0
FULL_S = 20.0


def test_a_hospitals_machine_loses_power(run: Run) -> None:
    """Every process of it is gone at once, in the middle of a sum; started again, it is back."""
    hospital = run.federation.hospitals[2]
    run.phase(MASK_AGREE)
    hospital.end(at_once=True)
    run.next_round(lacking=hospital.name)
    hospital.serve()
    took = run.next_round(having=[hospital.name])
    tell(f"a hospital that lost power: back in a sum {took:.0f} s after its start")
    assert took <= RECOVERY_S


def test_the_coordinators_machine_loses_power(run: Run) -> None:
    """The same for the coordinator: the run goes on from its last round, with every site."""
    lead, before = run.federation.coordinator, run.reports()
    run.phase(MASK_OPEN)
    lead.end(at_once=True)
    lead.serve()
    took = run.next_round(having=[h.name for h in run.federation.hospitals])
    tell(f"a coordinator that lost power: all in a sum {took:.0f} s after its start")
    assert took <= RECOVERY_S
    assert {i: r["sum_digest"] for i, r in run.reports().items() if i in before} == {
        i: r["sum_digest"] for i, r in before.items()}


def test_a_hospitals_disk_fills(run: Run) -> None:
    """It refuses with a code and nothing leaves it; with room again it takes part by itself."""
    hospital = run.federation.hospitals[1]
    disk, since = SmallDisk(folder=hospital.folder), len(run.reports())
    disk.fill()
    try:
        code = run.code_of(hospital.name, FULL_SITE, since=since)
    finally:
        disk.free()
    took = run.next_round(having=[hospital.name])
    tell(f"a hospital's full disk is {code}; back in a sum {took:.0f} s after room was made")


def test_the_coordinators_disk_fills(run: Run) -> None:
    """It says so on its stdout, and the run waits; with room again it goes on where it was."""
    lead = run.federation.coordinator
    disk, before = SmallDisk(folder=lead.folder), run.reports()
    said = len(lead.log_file.read_bytes())
    disk.fill()
    try:
        wait_for(lambda: b"STORAGE_FULL" in lead.log_file.read_bytes()[said:],
                 within_s=RECOVERY_S, look_s=0.5, what="STORAGE_FULL")
        assert "STORAGE_FULL" in doctor(lead)
        for _ in range(int(FULL_S)):  # whatever tidies up makes no room for rounds
            disk.fill()
            time.sleep(1.0)
        full = run.reports()
    finally:
        disk.free()
    assert len(full) <= len(before) + 1
    took = run.next_round()
    tell(f"a coordinator's full disk: a round {took:.0f} s after room was made")
    assert {i: r["sum_digest"] for i, r in run.reports().items() if i in before} == {
        i: r["sum_digest"] for i, r in before.items()}


def test_a_clock_ten_minutes_off(run: Run) -> None:
    """Flower refuses the node, the run goes on, `doctor` names the clock; set right, it is back."""
    hospital = run.federation.hospitals[2]
    clock = OtherClock.of(hospital)
    clock.set_off(OFF_S)
    try:
        run.next_round(lacking=hospital.name)
        assert "CLOCK_OFF" in doctor(hospital)
    finally:
        clock.set_off(0)
    took = run.next_round(having=[hospital.name])
    tell(f"a clock {OFF_S} s ahead: back in a sum {took:.0f} s after it was set right")


def test_the_servers_certificate_expires(run: Run) -> None:
    """Nobody connects through it; a new one is taken up without a restart, and the run goes on."""
    lead, hospitals = run.federation.coordinator, run.federation.hospitals
    life_s = SHORT_S * PATIENCE
    _serve_with_certificate(lead.folder, life_s)
    issued = time.monotonic()
    lead.kill("gateway")  # connections from before would not look at it
    run.next_round()
    time.sleep(max(0.0, life_s + 1.0 - (time.monotonic() - issued)))
    before = len(run.reports())
    lead.kill("gateway")
    wait_for(lambda: "TLS_EXPIRED" in doctor(hospitals[0]), within_s=RECOVERY_S, look_s=1.0,
             what="TLS_EXPIRED")
    assert "TLS_EXPIRED" in doctor(lead)
    assert len(run.reports()) <= before + 1  # of the round that was under way
    lead.run("coordinator", "rotate-certificate", "--folder", str(lead.folder))
    took = run.next_round(having=[h.name for h in hospitals])
    tell(f"an expired certificate: all in a sum {took:.0f} s after it was rotated")
    assert took <= RECOVERY_S


def _serve_with_certificate(folder: Path, life_s: float) -> None:
    """The gateway's certificate made anew by the federation's authority, for seconds."""
    tls = folder / "tls"
    authority = read_pair(certificate=tls / "ca.pem", key=tls / "ca.key")
    names = open_folder(folder).config.tls.names
    pair = issue_server(authority, names, now=time.time() + life_s - 86_400, days=1)
    write_pair(pair, certificate=tls / "server.pem", key=tls / "server.key")

"""kill -9 of every part of every party: the run goes on, within the time that was promised.

By default each part dies in one phase of a round, and all phases are among them;
``MEDUNLEARN_EVERY_PHASE=1`` kills each part in each phase.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from under_fire import RECOVERY_S, Run, tell

from medunlearn_common.messages import MASK_AGREE, MASK_OPEN, STEP
from medunlearn_simulation.rehearsal.networks import COORDINATOR_ADDRESS
from medunlearn_simulation.rehearsal.parties import (
    COORDINATOR_PARTS,
    HOSPITAL_PARTS,
    wait_for,
)
from medunlearn_simulation.rehearsal.rehearse import Federation

PARTS = (
    *(("coordinator", part) for part in COORDINATOR_PARTS),
    *(("hospital", part) for part in HOSPITAL_PARTS),
)
PHASES = (STEP, MASK_AGREE, MASK_OPEN)
SHORT_LIVED = "clientapp"  # one for each message
EVERY = bool(os.environ.get("MEDUNLEARN_EVERY_PHASE"))
KILLS = [
    (role, part, phase)
    for place, (role, part) in enumerate(PARTS)
    for phase in (PHASES if EVERY else (PHASES[place % len(PHASES)],))
]
_CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3).close()
except OSError:
    sys.exit(7)
"""


@pytest.mark.parametrize("port", [9092, 9440, 9480])
def test_an_outsider_finds_one_port_of_the_coordinator(served: Federation, port: int) -> None:
    """SuperLink, control and dashboard are on the coordinator's own loopback."""
    def connects(number: int) -> int:
        command = [sys.executable, "-c", _CONNECT, COORDINATOR_ADDRESS, str(number)]
        return subprocess.run(served.network.inside(1, command), timeout=30).returncode

    assert connects(9443) == 0
    assert connects(port) == 7


def test_hospitals_do_not_reach_each_other(served: Federation) -> None:
    """A hospital listens nowhere but on its own loopback, and no packet goes between two."""
    command = [sys.executable, "-c", _CONNECT, "10.77.2.2", "9494"]
    assert subprocess.run(served.network.inside(1, command), timeout=30).returncode == 7


@pytest.mark.parametrize(("role", "part", "phase"), KILLS)
def test_a_run_survives_a_kill_of(run: Run, role: str, part: str, phase: str) -> None:
    """The next round is done in time; the site whose part died is in a sum of a later one."""
    made = run.federation
    victim = made.coordinator if role == "coordinator" else made.hospitals[0]
    run.phase(phase)
    killed = victim.kill(part)
    took = run.next_round()
    tell(f"recovery after kill -9 of the {role}'s {part} in {phase}: {took:.0f} s")
    assert took <= RECOVERY_S
    if part != SHORT_LIVED:
        wait_for(lambda: bool(set(victim.pids(part)) - {killed}), within_s=RECOVERY_S,
                 what=f"another {part}")
    # The round that the kill fell into may have had all that it needed from this site.
    took += run.next_round(having=[victim.name] if role == "hospital" else ())
    tell(f"the {role}'s {part}: a round from its start to its end after {took:.0f} s")
    assert took <= RECOVERY_S

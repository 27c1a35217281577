"""Kills a process that appends to an audit log, at random moments, again and again.

    python tests/faults/audit_log_kills.py FOLDER KILLS SEED

After each kill the log is opened: every record whose append had returned must be there, in a
log without a flaw. A witness's memory is killed in turn with it.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

from killing import killed_child

from medunlearn_common.audit import COORDINATOR, AuditLog, WitnessStore
from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.identity import SigningIdentity
from medunlearn_common.roster import Root, Roster, enrolment_request

ORIGIN = "coordinator/kills"
MOST_LINES, LONGEST_WAIT_S = 6, 0.004
KILLS_PER_LOG = 20


def opened(folder: Path, number: int) -> tuple[AuditLog, WitnessStore]:
    signer = SigningIdentity.generate(COORDINATOR, SeededEntropy(1))
    book = Roster(
        version=1, issued=0, expires=2**32, root=Root(threshold=1, keys=(signer.public_key,)),
        parties=(enrolment_request(signer, role="coordinator", entity="Kills", valid_from=0,
                                   valid_until=2**32),),
    )
    log = AuditLog(folder / f"{number}.db", origin=ORIGIN, signer=signer)
    return log, WitnessStore(folder / f"{number}-seen.db", verifier=book, signer=signer)


def append_until_killed(folder: Path, number: int, acknowledge: int) -> None:
    log, witness = opened(folder, number)
    while True:
        size = len(log.records)
        log.append("run_resumed", run_id="kills", next_round=size)
        os.write(acknowledge, f"{2 * size + 1}\n".encode())
        witness.witness(log.head, keeper=COORDINATOR, origin=ORIGIN, leaves=log.leaves)
        os.write(acknowledge, f"{2 * size + 2}\n".encode())


def killed_once(folder: Path, number: int, chance: random.Random) -> int:
    """Acknowledgements read; raises AssertionError where one was lost."""
    lines = killed_child(
        lambda acknowledge: append_until_killed(folder, number, acknowledge), chance,
        most_lines=MOST_LINES, longest_wait_s=LONGEST_WAIT_S,
    )
    acknowledged = [int(line) for line in lines]
    log, witness = opened(folder, number)
    assert log.damage is None, log.damage
    rounds = [record.fields["next_round"] for record in log.records]
    assert rounds == list(range(len(rounds)))
    last = acknowledged[-1] if acknowledged else 0
    assert len(rounds) >= (last + 1) // 2, "an acknowledged record is lost"
    seen = witness.seen(ORIGIN)
    witnessed = max((word // 2 for word in acknowledged if word % 2 == 0), default=0)
    assert (seen[-1].checkpoint.size if seen else 0) >= witnessed, "a state seen is lost"
    return len(acknowledged)


def main(folder: Path, kills: int, seed: int) -> int:
    chance, total = random.Random(seed), 0
    for kill in range(kills):
        total += killed_once(folder, kill // KILLS_PER_LOG, chance)
    sys.stdout.write(f"{kills} kills, {total} acknowledged writes, none lost\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))

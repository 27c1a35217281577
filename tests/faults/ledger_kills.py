"""Kill a charging process at random moments and check what it had been told was safe.

``python ledger_kills.py DATABASE KILLS SEED``: one child after the other charges and answers
releases on one database, and reports each success through a pipe; the parent kills it with
SIGKILL a random moment after a random one of them, and then reads the database. No torch is
imported. Prints JSON.
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path

from killing import killed_child

from medunlearn_common.accounting import Mechanism
from medunlearn_common.ledger import Budget, PrivacyLedger

MOST_LINES, LONGEST_WAIT_S = 6, 0.004
MECHANISM = Mechanism(sigma=50.0, forget_rate=1.0, retain_rate=1.0, count=1)
BUDGET = Budget(epsilon=1e9, delta=1e-5)


def cheap_accountant(mechanisms: tuple[Mechanism, ...], delta: float) -> float:
    return float(sum(m.count for m in mechanisms))


def open_ledger(path: Path) -> PrivacyLedger:
    return PrivacyLedger(path, accountant=cheap_accountant)


def answer_of(run: str, release: str) -> bytes:
    return f"{run}/{release}".encode() * 200


def work(path: Path, run: str, acknowledge: int) -> None:
    """Charge and answer release after release; each line says what is durable."""
    ledger = open_ledger(path)
    number = 0
    while True:
        name = f"round-{number}"
        ledger.charge(run_id=run, release=name, request_digest=name, mechanism=MECHANISM,
                      budget=BUDGET)
        os.write(acknowledge, f"charged {name}\n".encode())
        ledger.remember_answer(run_id=run, release=name, answer=answer_of(run, name))
        os.write(acknowledge, f"answered {name}\n".encode())
        number += 1


def kill_one(path: Path, run: str, generator: random.Random) -> list[tuple[str, str]]:
    """Kill a child a random moment after a random line; returns what it was told is durable."""
    lines = killed_child(
        lambda acknowledge: work(path, run, acknowledge), generator,
        most_lines=MOST_LINES, longest_wait_s=LONGEST_WAIT_S,
    )
    return [(kind, name) for kind, name in map(str.split, lines)]


def check(path: Path, run: str, told: list[tuple[str, str]]) -> int:
    """Raise if anything that was acknowledged is gone; returns charges found."""
    ledger = open_ledger(path)
    charges = {c.release for spending in ledger.runs() if spending.run_id == run
               for c in spending.charges}
    for kind, name in told:
        if name not in charges:
            raise SystemExit(f"{run} {name} was acknowledged as {kind} and is gone")
    answered = [name for kind, name in told if kind == "answered"]
    # A release answered but not acknowledged may have replaced the last one's kept answer.
    if answered and len(charges) == len({name for _, name in told}) and told[-1][0] == "answered":
        kept = ledger.answer_given(run_id=run, release=answered[-1],
                                   request_digest=answered[-1])
        if kept != answer_of(run, answered[-1]):
            raise SystemExit(f"the answer to {run} {answered[-1]} was lost")
    return len(charges)


def main(path: Path, kills: int, seed: int) -> None:
    generator, found, acknowledged = random.Random(seed), 0, 0
    for number in range(kills):
        told = kill_one(path, f"run-{number}", generator)
        acknowledged += len(told)
        found += check(path, f"run-{number}", told)
        if number % 10 == 9:  # a fresh file: every charge reads the whole chain before it
            path.unlink()
    print(json.dumps({"kills": kills, "acknowledged": acknowledged, "charges": found}))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

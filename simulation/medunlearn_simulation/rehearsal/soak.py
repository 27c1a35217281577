"""A long run of a deployed federation in which something dies every so many rounds.

What is asked at the end: is the run finished with every round in it, was everything charged for
once, does the published adapter verify, and does the memory of any process grow.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medunlearn_common.errors import Transient
from medunlearn_simulation.rehearsal.accounts import Memory, Slope, look
from medunlearn_simulation.rehearsal.parties import Party, wait_for
from medunlearn_simulation.rehearsal.rehearse import Federation

# What may die, by party; the services themselves are another test's matter.
AT_COORDINATOR = ("serverapp", "superlink", "superexec", "gateway")
AT_HOSPITAL = ("worker", "supernode", "superexec", "starter")
_LOOK_S = 0.25


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One death.

    Attributes:
        after: Rounds that were done.
        party: Whose process it was.
        part: Which one.
        delay_s: After the round's end.
        recovery_s: Until the next round was done.
    """

    after: int
    party: str
    part: str
    delay_s: float
    recovery_s: float


@dataclass(kw_only=True)
class Soak:
    """What came of it."""

    rounds: int = 0
    seconds: list[float] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    starts: int = 0
    repeated: int = 0
    charged_once: bool = False
    epsilon: float = 0.0
    state: str = ""
    verified: str = ""
    memory: Memory = field(default_factory=Memory)

    def slopes(self) -> dict[str, Slope]:
        """Growth of memory by kind of process."""
        return self.memory.slopes()


def soak(
    made: Federation, *, rounds: int, kill_every: int, seed: int, patience_s: float,
    until: Callable[[], bool] = lambda: False,
) -> Soak:
    """Run the federation's plan to its end, or until ``until`` says so, and kill on the way.

    Args:
        made: Connected, with no run yet; its plan has ``rounds`` rounds.
        rounds: Of the plan.
        kill_every: Rounds between two kills.
        seed: Of what dies, and when within a round.
        patience_s: Longest wait for one round, and for a recovery.
        until: Asked after each round; True stops the run, which is then not published.

    Raises:
        Transient: REHEARSAL_WAIT if a round does not come, REHEARSAL_RUN if the run fails.
    """
    draw, found = random.Random(seed), Soak()
    run = made.launch()
    folder = made.coordinator.folder / "runs" / run
    parties = [made.coordinator, *made.hospitals]
    began = time.monotonic()
    for number in range(1, rounds + 1):
        wait_for(lambda n=number: len(rounds_of(folder)) >= n,  # type: ignore[misc]
                 within_s=patience_s, look_s=_LOOK_S, what=f"round {number} of {run}")
        now = time.monotonic()
        found.rounds = number
        found.seconds.append(now - began)
        began = now
        found.memory.note(number, look(parties))
        if until():
            break
        if number % kill_every == 0 and number < rounds:
            found.kills.append(_kill(made, folder, draw, number, patience_s))
    _conclude(made, run, found, complete=found.rounds == rounds, patience_s=patience_s)
    return found


def rounds_of(folder: Path) -> set[int]:
    """Numbers of the rounds that are done."""
    return {line["report"]["round_index"] for line in _lines(folder / "events.jsonl")
            if line["event"] == "round"}


def _kill(
    made: Federation, folder: Path, draw: random.Random, number: int, patience_s: float
) -> Kill:
    at_coordinator = draw.random() < 0.5
    party = made.coordinator if at_coordinator else draw.choice(made.hospitals)
    part = draw.choice(AT_COORDINATOR if at_coordinator else AT_HOSPITAL)
    delay = draw.uniform(0.0, 8.0)  # anywhere in the round
    time.sleep(delay)
    done = len(rounds_of(folder))
    party.kill(part)
    took = wait_for(lambda: len(rounds_of(folder)) > done, within_s=patience_s, look_s=_LOOK_S,
                    what=f"a round after the death of {party.name}'s {part}")
    return Kill(after=number, party=party.name, part=part, delay_s=delay, recovery_s=took)


def _conclude(
    made: Federation, run: str, found: Soak, *, complete: bool, patience_s: float
) -> None:
    if complete:
        made.finish(run, within_s=patience_s)
    else:
        made.coordinator.run("coordinator", "stop", run, "--folder",
                             str(made.coordinator.folder))
        wait_for(lambda: made.state(run) == "stopped", within_s=patience_s, look_s=1.0,
                 what=f"the end of {run}")
    found.state = made.state(run)
    folder = made.coordinator.folder / "runs" / run
    found.starts = int(json.loads((folder / "job.json").read_text("ascii"))["attempt"])
    found.repeated = _asked_again(made.hospitals, len(rounds_of(folder)))
    found.charged_once, found.epsilon = _charges(made.hospitals, found.rounds)
    if complete:
        made.publish(run, within_s=patience_s)
        lead = made.coordinator.folder
        found.verified = made.coordinator.run(
            "verify", str(lead / "published" / run), "--root",
            str(lead / "trust" / "root.cbor")).strip()


def _asked_again(hospitals: Iterable[Party], rounds: int) -> int:
    """How many steps more than rounds the hospital that was asked most often answered."""
    def answered(hospital: Party) -> int:
        lines = _lines(hospital.folder / "state" / "logs" / "worker.jsonl")
        timed = [line for line in lines if line.get("event") == "request_timed"]
        return sum(line.get("kind") == "step" for line in timed)

    return max(answered(hospital) for hospital in hospitals) - rounds


def _charges(hospitals: Iterable[Party], rounds: int) -> tuple[bool, float]:
    """Whether each hospital charged each round once, within its budget; and the largest epsilon.

    A run that was stopped may have one round more in a ledger than it used.
    """
    once, epsilon = True, 0.0
    for hospital in hospitals:
        shown = json.loads(hospital.run("ledger", "show", "--folder", str(hospital.folder),
                                        "--json", quiet=True))
        (figures,) = shown["runs"]
        names = [release["release"] for release in figures["releases"]]
        wanted = [f"round-{index}" for index in range(rounds)]
        once &= len(names) == len(set(names)) and set(wanted) <= set(names)
        once &= figures["epsilon_spent"] <= figures["epsilon_budget"]
        epsilon = max(epsilon, figures["epsilon_spent"])
    return once, epsilon


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines(True)
            if line.endswith("\n")]


def require_sound(found: Soak, *, rounds: int) -> None:
    """Raises Transient SOAK_LOST unless nothing was lost and nothing charged for twice."""
    wrong = [what for what, so in (
        (f"{found.rounds} rounds of {rounds}", found.rounds == rounds),
        (f"the run is {found.state}", found.state == "finished"),
        ("a round was not charged for exactly once", found.charged_once),
        ("the published run does not verify", bool(found.verified)),
    ) if not so]
    if wrong:
        raise Transient("SOAK_LOST", "; ".join(wrong), "keep the folder and look at its logs")

"""What a round of a deployed federation costs beyond the hospitals' computing, and where.

    python benchmarks/round_overhead.py [--rounds 12] [--out DIR]

A coordinator and three hospitals as real processes over TLS (`medunlearn rehearse` without the
adoption), on the embedded records and a random model of two layers. What is printed:

* per exchange (a round has three: the masked step, the agreement, the opening) and per round, the
  median and the range over rounds of
    push        requests handed over to the SuperLink
    to worker   from there until the hospital's worker began: gateway, node, executor, app process
    worker      the hospital's own work
    back        from its answer until the coordinator held it
    rest        the slowest hospital is the one that counts above; what its parts leave of the
                exchange
  and per round the coordinator's own work between exchanges;
* *overhead*: a round's wall seconds less, for each exchange, the slowest hospital's work;
* processor seconds of a round by kind of process, and what an idle federation takes of a core.

The first two rounds are not counted: sites meet, caches fill. The lines are read from the files
that a deployment writes too: `runs/RUN/exchanges.jsonl`, a worker's `state/logs/worker.jsonl`.
Times of different processes are of one clock, as all of them run on this machine. With two cores,
three hospitals and a coordinator stand in each other's way: a hospital of its own is faster. Look
at the line *machine* for what others did meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from medunlearn_simulation.rehearsal.accounts import Look, look, spent
from medunlearn_simulation.rehearsal.parties import Party, wait_for
from medunlearn_simulation.rehearsal.rehearse import Federation, federation
from medunlearn_simulation.rehearsal.tiny import tiny_task

PARTS = ("push", "to worker", "worker", "back", "rest")
EXCHANGES = ("step", "mask_agree", "mask_open")
WARM_UP = 2
IDLE_S = 10.0
_LOOK_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Work:
    """One request as a worker answered it; seconds since 1970."""

    kind: str
    began: float
    ended: float


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One exchange, its parts along the slowest hospital."""

    kind: str
    began: float
    ended: float
    parts: dict[str, float]
    work: float


@dataclass(kw_only=True)
class Round:
    """One round: its exchanges, its wall seconds, and processor seconds by kind."""

    seconds: float
    exchanges: list[Exchange]
    processor: dict[str, float] = field(default_factory=dict)
    machine: float = 0.0

    @property
    def own(self) -> float:
        """What the coordinator did while nobody was asked."""
        return self.seconds - sum(e.ended - e.began for e in self.exchanges)

    @property
    def overhead(self) -> float:
        """All but the slowest hospital's work in each exchange."""
        return self.seconds - sum(e.work for e in self.exchanges)


def lines_of(path: Path) -> Iterable[dict[str, Any]]:
    """Complete lines of a file of JSON lines; none if it is not there."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines(True)
            if line.endswith("\n")]


def works_of(hospital: Path) -> list[Work]:
    """What a hospital's worker answered so far."""
    found = []
    for line in lines_of(hospital / "state" / "logs" / "worker.jsonl"):
        if line["event"] == "request_timed":
            ended = datetime.fromisoformat(line["at"]).timestamp()
            found.append(Work(kind=line.get("kind", ""), began=ended - line["seconds"],
                              ended=ended))
    return found


def exchange_of(line: dict[str, Any], sites: Sequence[Sequence[Work]]) -> Exchange | None:
    """An exchange's parts; None if no worker was asked in it."""
    began, asked, ended = line["began"], line["asked"], line["ended"]
    within = [w for works in sites for w in works if began <= w.began and w.ended <= ended + 0.01]
    if not within:
        return None
    last = max(within, key=lambda w: w.ended)
    parts = {
        "push": asked - began, "to worker": last.began - asked, "worker": last.ended - last.began,
        "back": max(line["answered"], default=ended) - last.ended,
    }
    parts["rest"] = ended - began - sum(parts.values())
    return Exchange(kind=last.kind, began=began, ended=ended, parts=parts,
                    work=max(w.ended - w.began for w in within))


def machine_seconds() -> float:
    """Processor seconds of all processes of this machine."""
    fields = Path("/proc/stat").read_text("ascii").split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, irq, softirq = (int(one) for one in fields[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


@dataclass
class Watcher:
    """Follows a run round by round."""

    made: Federation
    run: str
    looks: list[tuple[Look, float]] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.made.coordinator.folder / "runs" / self.run

    @property
    def parties(self) -> list[Party]:
        return [self.made.coordinator, *self.made.hospitals]

    def rounds(self) -> list[dict[str, Any]]:
        """Reports of the rounds that are done."""
        return [line["report"] for line in lines_of(self.folder / "events.jsonl")
                if line["event"] == "round"]

    def follow(self, rounds: int, *, within_s: float) -> None:
        """Look at all processes at the end of each round."""
        for number in range(rounds):
            wait_for(lambda n=number: len(self.rounds()) > n,  # type: ignore[misc]
                     within_s=within_s, what=f"round {number}", look_s=_LOOK_S)
            self.looks.append((look(self.parties), machine_seconds()))

    def results(self) -> list[Round]:
        """All rounds but the first ones, with their exchanges."""
        works = [works_of(hospital.folder) for hospital in self.made.hospitals]
        found = [e for line in lines_of(self.folder / "exchanges.jsonl")
                 if (e := exchange_of(line, works)) is not None]
        steps = [i for i, e in enumerate(found) if e.kind == EXCHANGES[0]]
        rounds = []
        for number, report in enumerate(self.rounds()):
            own = found[steps[number]:steps[number] + len(EXCHANGES)]
            rounds.append(Round(seconds=report["seconds"], exchanges=own))
        for made, ((before, m0), (after, m1)) in zip(rounds[1:], pairwise(self.looks),
                                                     strict=False):
            made.processor, made.machine = spent(before, after), m1 - m0
        return rounds[WARM_UP:]


def idle(parties: list[Party], seconds: float) -> dict[str, float]:
    """Share of a core that each kind takes while nothing is asked."""
    before = look(parties)
    time.sleep(seconds)
    return {kind: used / seconds for kind, used in spent(before, look(parties)).items()}


def spread(values: Sequence[float]) -> str:
    """Median and range."""
    return f"{median(values):6.2f}  ({min(values):.2f} to {max(values):.2f})"


def table(rounds: list[Round], at_rest: dict[str, float]) -> str:
    """What is printed."""
    lines = [f"{len(rounds)} rounds, wall seconds: median (range)", ""]
    for kind in EXCHANGES:
        own = [e for r in rounds for e in r.exchanges if e.kind == kind]
        lines.append(f"exchange {kind:<12}{spread([e.ended - e.began for e in own])}")
        lines += [f"    {part:<17}{spread([e.parts[part] for e in own])}" for part in PARTS]
    lines += [
        f"coordinator's own    {spread([r.own for r in rounds])}",
        f"round                {spread([r.seconds for r in rounds])}",
        f"round's overhead     {spread([r.overhead for r in rounds])}", "",
        "processor seconds of a round, median, and share of a core at rest",
    ]
    kinds: dict[str, list[float]] = defaultdict(list)
    for made in rounds:
        for kind, used in made.processor.items():
            kinds[kind].append(used)
    for kind in sorted(kinds, key=lambda k: -median(kinds[k])):
        lines.append(f"    {kind:<24}{median(kinds[kind]):6.2f}   {at_rest.get(kind, 0.0):6.1%}")
    total = [sum(r.processor.values()) for r in rounds]
    lines.append(f"    {'all':<24}{median(total):6.2f}   {sum(at_rest.values()):6.1%}")
    lines.append(f"    {'machine':<24}{median([r.machine for r in rounds]):6.2f}   "
                 f"of {median([r.seconds for r in rounds]) * (os.cpu_count() or 1):.2f}")
    return "\n".join(lines)


def measure(root: Path, *, rounds: int, separate: bool | None, within_s: float,
            say: Callable[[str], None]) -> tuple[list[Round], dict[str, float]]:
    """Found a federation, run it, end it."""
    task = tiny_task(root / "task", rounds=rounds + WARM_UP)
    with federation(root, task, say=say, separate=separate) as made:
        made.found()
        made.serve()
        at_rest = idle([made.coordinator, *made.hospitals], IDLE_S)
        watcher = Watcher(made, made.launch())
        watcher.follow(rounds + WARM_UP, within_s=within_s)
        return watcher.results(), at_rest


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12, help="rounds to count (default 12)")
    parser.add_argument("--out", type=Path, help="keep all folders, and rounds.json, here")
    parser.add_argument("--namespaces", action=argparse.BooleanOptionalAction, default=None,
                        help="a network per party; left out: where this machine allows it")
    parser.add_argument("--deadline", type=float, default=300.0, metavar="S",
                        help="longest wait for one round (default 300)")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as stack:
        root = given.out.absolute() if given.out else Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="medunlearn-overhead-")))
        root.mkdir(parents=True, exist_ok=True)
        rounds, at_rest = measure(
            root, rounds=given.rounds, separate=given.namespaces, within_s=given.deadline,
            say=lambda text: print(text, file=sys.stderr))
        if given.out:
            (root / "rounds.json").write_text(json.dumps(
                {"rounds": [asdict(r) for r in rounds], "idle": at_rest}, indent=1))
        print(table(rounds, at_rest))


if __name__ == "__main__":
    main()

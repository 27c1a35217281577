"""A long run of a deployed federation with a random kill -9 every tenth round.

    python benchmarks/soak.py [--rounds 200] [--kill-every 10] [--seed 0] [--out DIR]

A coordinator and three hospitals as real processes over TLS, on the embedded records and a random
model of two layers. What dies is drawn: ServerApp, SuperLink, executor or gateway of the
coordinator; worker, node, executor or starter of a hospital; at a moment drawn within a round. At
the end: rounds, how often the run was started again and a round was asked for again, what was
charged at each hospital (each round once, within the budget), whether what was published verifies,
and the growth of each kind of process: KiB per round, with twice its standard error, over the
processes that lived long enough.

200 rounds take about an hour on two cores. `--minutes` stops earlier; such a run is not published,
and its report says how many rounds it is of.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median

from medunlearn_simulation.rehearsal.rehearse import federation
from medunlearn_simulation.rehearsal.soak import Soak, require_sound, soak
from medunlearn_simulation.rehearsal.tiny import tiny_task


def report(found: Soak) -> str:
    """What is printed."""
    lines = [
        f"{found.rounds} rounds, the run is {found.state}; median round "
        f"{median(found.seconds):.1f} s, longest {max(found.seconds):.1f} s",
        f"{len(found.kills)} kills, {found.starts} Flower runs, "
        f"{found.repeated} rounds asked for again",
        f"each round charged once at every hospital: {'yes' if found.charged_once else 'NO'}; "
        f"epsilon {found.epsilon:.3f}",
        f"verify: {found.verified.splitlines()[-1] if found.verified else 'not published'}", "",
        "killed after round, recovered (next round done)",
    ]
    lines += [f"    {k.after:4}  {k.party:<12} {k.part:<10} {k.recovery_s:6.1f} s"
              for k in found.kills]
    lines += ["", f"{'memory':<24}   KiB/round  (2 s.e.)     MiB   looks  processes"]
    for kind, slope in sorted(found.slopes().items()):
        lines.append(f"    {kind:<22}{slope.kib:9.1f}  ({2 * slope.error:6.1f})  "
                     f"{slope.level_kib / 1024:6.0f}   {slope.points:5}  {slope.processes:5}")
    return "\n".join(lines)


def main() -> None:
    """Read the command line, soak, print; fails if anything was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="of the plan (default 200)")
    parser.add_argument("--kill-every", type=int, default=10, metavar="N",
                        help="rounds between two kills (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the kills (default 0)")
    parser.add_argument("--out", type=Path, help="keep all folders, and soak.json, here")
    parser.add_argument("--minutes", type=float, help="stop after the round that ends then")
    parser.add_argument("--deadline", type=float, default=600.0, metavar="S",
                        help="longest wait for one round or recovery (default 600)")
    parser.add_argument("--namespaces", action=argparse.BooleanOptionalAction, default=None,
                        help="a network per party; left out: where this machine allows it")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as stack:
        root = given.out.absolute() if given.out else Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="medunlearn-soak-")))
        root.mkdir(parents=True, exist_ok=True)
        task = tiny_task(root / "task", rounds=given.rounds)
        made = stack.enter_context(federation(
            root, task, separate=given.namespaces,
            say=lambda text: print(text, file=sys.stderr)))
        made.found()
        made.serve()
        end = time.monotonic() + 60.0 * given.minutes if given.minutes else float("inf")
        found = soak(made, rounds=given.rounds, kill_every=given.kill_every, seed=given.seed,
                     patience_s=given.deadline, until=lambda: time.monotonic() >= end)
        if given.out:
            facts = {k: v for k, v in asdict(found).items() if k != "memory"}
            facts["slopes"] = {kind: asdict(s) for kind, s in found.slopes().items()}
            (root / "soak.json").write_text(json.dumps(facts, indent=1))
        print(report(found))
        if not given.minutes:
            require_sound(found, rounds=given.rounds)


if __name__ == "__main__":
    main()

"""Twenty rounds with a real worker that is killed twice: nothing lost, nothing twice, no growth.

The whole federation of real processes is `make soak`, and twenty rounds of it `make deployed`.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable

import psutil
from hospital_lab import HOME, PLAN, Lab

from medunlearn_common.ledger import PrivacyLedger
from medunlearn_common.messages import STEP, Message
from medunlearn_simulation.rehearsal.accounts import Account, Memory

ROUNDS, KILLED_IN = 20, (6, 13)
# A process that leaks one answer, gradient or journal per round grows by much more.
MOST_KIB_PER_ROUND = 300.0


def test_twenty_rounds_and_two_kills(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(PLAN.replace("rounds = 2", f"rounds = {ROUNDS}"))
    child, draw, memory = lab.worker(), random.Random(20), Memory()
    steps, timers = [], []

    def before(site: str, message: Message) -> None:
        if site != HOME or message.kind != STEP:
            return
        steps.append(len(steps))
        process = psutil.Process(child.pid)
        memory.note(len(steps), {(process.pid, process.create_time()): Account(
            kind="worker", seconds=0.0, children_s=0.0,
            rss_kib=process.memory_info().rss / 1024)})
        if len(steps) in KILLED_IN:
            assert child.pid is not None
            timers.append(threading.Timer(
                draw.uniform(0.0, 0.1), os.kill, (child.pid, signal.SIGKILL)))
            timers[-1].start()

    outcome = lab.run(before=before)
    for timer in timers:
        timer.join()
    assert outcome.rounds == ROUNDS and child.restarts == len(KILLED_IN)
    assert all(len(report.sites) == 3 for report in outcome.curve)
    (run,) = PrivacyLedger.existing(lab.home / "ledger.db").runs()
    names = [charge.release for charge in run.charges]
    assert [n for n in names if n.startswith("round-")] == [f"round-{i}" for i in range(ROUNDS)]
    assert len(names) == len(set(names))
    slope = memory.slopes()["worker"]
    assert slope.kib - 2 * slope.error < MOST_KIB_PER_ROUND, slope

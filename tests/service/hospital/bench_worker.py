"""What a message costs through the worker, and what loading anew would cost.

    python -m pytest -q -s tests/service/hospital/bench_worker.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from hospital_lab import PLAN, Lab, Remote

from medunlearn_common.envelope.sealing import unverified
from medunlearn_common.messages import Message

ROUNDS = 8
GREETINGS = 50


@dataclass
class Timed(Remote):
    """Notes how long each kind of request took, socket and seals included."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def handle(self, message: Message) -> Message:
        began = time.perf_counter()
        answer = super().handle(message)
        self.seconds[unverified(message).kind].append(time.perf_counter() - began)
        return answer


def test_times(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(PLAN.replace("rounds = 2", f"rounds = {ROUNDS}"))
    began = time.perf_counter()
    lab.worker()
    client = lab.client()
    client.look()
    started = time.perf_counter() - began
    hello = Message(kind="hello", payload=(lab.home / "trust" / "roster.dsse").read_bytes())
    timed = Timed(client)
    for _ in range(GREETINGS):
        timed.handle(hello)
    lab.run(home=timed)
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch, transformers, peft"], check=True)
    imports = time.perf_counter() - began
    lines = [f"worker from start to first answer  {started:7.3f} s",
             f"import torch, transformers, peft   {imports:7.3f} s"]
    for kind, seconds in timed.seconds.items():
        later = seconds[1:] or seconds
        lines.append(f"{kind:12} {len(seconds):4} x  first {seconds[0]:6.3f} s, then median "
                     f"{statistics.median(later):6.4f} s, max {max(later):6.3f} s")
    sys.stdout.write("\n" + "\n".join(lines) + "\n")

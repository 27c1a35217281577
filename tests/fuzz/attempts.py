"""One input at a time, judged: what every way of making inputs shares.

An input may be read, or refused with one of our errors. It is a finding if anything else comes
out of the target, if it takes longer than ``SLOWEST_S`` of processor, or if it takes more memory
than the target may. A finding is kept as the input and its traceback.
"""

from __future__ import annotations

import hashlib
import resource
import signal
import sys
import traceback
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # only for its types: guided.py must instrument it as it is imported
    from collections.abc import Iterator

    from targets import Target

SLOWEST_S = 30


class TooSlow(BaseException):
    """One input took too long. Not an Exception: a loader that turns those into errors of its own
    must not turn this into one."""


class TooLarge(Exception):
    """One input took too much memory."""


@dataclass(kw_only=True)
class Tally:
    """What one run of a target came to.

    Attributes:
        attempts: Inputs tried.
        accepted: Inputs that were read.
        cpu_s: Processor seconds.
        covered: Branches and comparisons seen, where they are counted.
        findings: Names of the files kept.
    """

    attempts: int = 0
    accepted: int = 0
    cpu_s: float = 0.0
    covered: int = 0
    findings: list[str] = field(default_factory=list)


class Attempts:
    """Attempts at one target.

    Args:
        name: The target's name.
        target: The target.
        scratch: A folder that each attempt finds empty.
        findings: Where findings are kept.
    """

    def __init__(self, name: str, target: Target, *, scratch: Path, findings: Path) -> None:
        self.name, self.target = name, target
        self._scratch, self._findings = scratch, findings
        self._kinds: set[str] = set()
        self.tally = Tally()
        self._peak = peak_bytes()

    def warm_up(self) -> None:
        """Attempts the whole inputs, which take the memory that is usual."""
        for content in self.target.seeds:
            self.attempt(content)

    def attempt(self, content: bytes) -> bool:
        """One attempt; whether it is a new finding."""
        found = len(self.tally.findings)
        self.tally.attempts += 1
        try:
            with time_limit(SLOWEST_S):
                self.tally.accepted += self.target.run(self._scratch, content)
            self._check_memory()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a panic of a Rust library is no Exception
            where = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{type(error).__name__} {where.filename}:{where.lineno}"
            if kind not in self._kinds:  # one example of each is enough
                self._kinds.add(kind)
                why = traceback.format_exc()
                self.tally.findings.append(keep(self._findings, self.name, content, why))
        return len(self.tally.findings) > found

    def _check_memory(self) -> None:
        """What this one input added to the peak: over millions the fuzzer itself grows too."""
        peak = peak_bytes()
        grown, self._peak = peak - self._peak, peak
        if grown > self.target.most_memory:
            raise TooLarge(f"memory grew by {grown >> 20} MiB")


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Turns an attempt without end into a finding, even where the error gets lost on its way."""
    error, over = TooSlow(f"one input took more than {seconds} s of processor"), False

    def stop(*_: object) -> None:
        nonlocal over
        over = True
        raise error

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    if over:
        raise error


def peak_bytes() -> int:
    """Most memory that this process has had resident so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def keep(findings: Path, name: str, content: bytes, why: str) -> str:
    """Writes a finding; returns its files' name."""
    findings.mkdir(parents=True, exist_ok=True)
    stem = f"{file_name(name)}-{hashlib.sha256(content).hexdigest()[:12]}"
    (findings / f"{stem}.input").write_bytes(content)
    (findings / f"{stem}.txt").write_text(why, encoding="utf-8")
    return stem


def file_name(name: str) -> str:
    """A target's name as that of a file or folder."""
    return name.replace(", ", "-").replace("/", "-").replace(" ", "-")
